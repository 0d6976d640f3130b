# SPDX-License-Identifier: BSD-3-Clause
"""A library that is loaded more than once, as an installed package beside a build tree makes it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import fused_ce
import pytest

LIBRARY = Path(fused_ce.__file__).parent / "lib" / "libfused_ce.so"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copy(LIBRARY, tmp_path / LIBRARY.name))


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_a_second_copy_registers_nothing_and_says_so(copy: Path) -> None:
    result = run(
        f"import fused_ce, torch\n"
        f"torch.ops.load_library({str(copy)!r})\n"
        "x = torch.randn(4, 5, requires_grad=True)\n"
        "fused_ce.cross_entropy(x, torch.zeros(4, dtype=torch.long)).backward()\n"
        "print(x.grad.shape)"
    )
    assert result.returncode == 0, result.stderr
    assert "torch.Size([4, 5])" in result.stdout
    assert f"the operators are those of {LIBRARY}" in result.stderr
    assert f"{copy} registers nothing" in result.stderr


def test_the_package_refuses_another_copys_operators(copy: Path) -> None:
    result = run(f"import torch\ntorch.ops.load_library({str(copy)!r})\nimport fused_ce")
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert (
        last.startswith("ImportError") and f"are those of {copy}, which was loaded before" in last
    )


def test_the_package_does_not_load_the_compiler() -> None:
    """Which takes as long to import as torch."""
    result = run("import sys, fused_ce\nassert 'torch._dynamo' not in sys.modules")
    assert result.returncode == 0, result.stderr
