# SPDX-License-Identifier: BSD-3-Clause
"""The tests once more on the CUDA launchers, which a machine without a GPU runs as fibers.

The shim (tests/simt) compiles the CUDA kernels' unchanged source for the CPU; the test-only library
puts them, with the operator's CUDA code, in the place of the CPU kernels. It is slow: what runs is
marked simt.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import run_again

LIBRARY = Path(__file__).parents[2] / "build" / "cmake" / "tests" / "cuda" / "libfused_ce_simt.so"

# Where tests are marked simt.
FILES = [
    "autograd",
    "distributed",
    "edges",
    "errors",
    "linear",
    "linear_contract",
    "linear_errors",
    "nonfinite",
    "opinfo",
    "parity",
    "properties",
    "transforms",
]


@pytest.mark.skipif(
    not LIBRARY.exists(), reason="the C++ tests are not built (make cpptest builds them)"
)
@pytest.mark.skipif("FUSED_CE_SIMT" in os.environ, reason="this is the run on the launchers")
@pytest.mark.parametrize("name", FILES)
def test_on_the_cuda_launchers(name: str) -> None:
    run_again(f"test_{name}.py", FUSED_CE_SIMT=str(LIBRARY))
