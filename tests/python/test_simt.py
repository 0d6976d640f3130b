"""The tests once more on the CUDA launchers, which a machine without a GPU runs as fibers.

The shim (tests/simt) compiles the CUDA kernels' unchanged source for the CPU; the test-only library
puts them, with the operator's CUDA code, in the place of the CPU kernels. It is slow: a selection.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import run_again

LIBRARY = Path(__file__).parents[2] / "build" / "cmake" / "tests" / "cuda" / "libfused_ce_simt.so"

# Of test_parity.py what has every loop of the kernels, and every kind of target and option.
SELECTION = {
    "parity": [
        "test_parity.py",
        "-k",
        "(test_layouts and (float32-rows or bfloat16-planes or float16-transposed or "
        "float64-narrow_planes or float32-not_collapsible)) or confident or byte or another_dtype "
        "or (tail and (18 or 33 or 129 or 5000))",
    ],
    "edges": ["test_edges.py", "-k", "not million"],
    "nonfinite": ["test_nonfinite.py", "-k", "reduced or -3- or (indices-0.2 and float32-300)"],
    "errors": ["test_errors.py"],
    "autograd": [
        "test_autograd.py",
        "-k",
        "not gradcheck or indices-all- or probabilities-weight-",
    ],
    "opcheck": ["test_transforms.py", "-k", "opcheck or autocast"],
    "opinfo": ["test_opinfo.py"],
    "properties": ["test_properties.py"],
}


@pytest.mark.skipif(
    not LIBRARY.exists(), reason="the C++ tests are not built (make cpptest builds them)"
)
@pytest.mark.skipif("FUSED_CE_SIMT" in os.environ, reason="this is the run on the launchers")
@pytest.mark.parametrize("name", SELECTION)
def test_on_the_cuda_launchers(name: str) -> None:
    run_again(*SELECTION[name], FUSED_CE_SIMT=str(LIBRARY))
