# SPDX-License-Identifier: BSD-3-Clause
"""What the tests share: where they run, layouts of logits, and targets for them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import fused_ce  # noqa: F401  (its operators have to be there before SIMT's)
import pytest
import torch

# Inductor's compiled graphs outlive the process, and know the shapes of the private operators'
# results: those of another version of the library must not be found.
_COMPILED = tempfile.TemporaryDirectory()
os.environ["TORCHINDUCTOR_CACHE_DIR"] = _COMPILED.name

# The test-only library that puts the CUDA launchers in the place of the CPU kernels (test_simt.py).
SIMT = os.environ.get("FUSED_CE_SIMT")
if SIMT:
    torch.ops.load_library(SIMT)

# Where tensors are made that name no device: on the GPU where test_cuda.py says so.
DEVICE = os.environ.get("FUSED_CE_DEVICE", "cpu")
if DEVICE != "cpu":
    torch.set_default_device(DEVICE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On the CUDA launchers, which are slow, only tests that are marked simt(when=) for them."""
    if SIMT:
        items[:] = [item for item in items if _runs_on_launchers(item)]


def _runs_on_launchers(item: pytest.Item) -> bool:
    mark = item.get_closest_marker("simt")
    if mark is None:
        return False
    return "when" not in mark.kwargs or mark.kwargs["when"](**item.callspec.params)


def run_again(file: str, *options: str, **environment: str) -> None:
    """Run a file of tests once more, in a process with another environment."""
    result = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *(str(Path(__file__).parent / file), *options),
        ],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode == pytest.ExitCode.NO_TESTS_COLLECTED and " skipped" in result.stdout:
        pytest.skip(result.stdout.strip().split("SKIPPED", 1)[-1])
    assert result.returncode == 0 and " passed" in result.stdout, result.stdout[-3000:]


def refusal(error: type[Exception], message: str) -> tuple[type[Exception], str]:
    """What is raised, and a pattern of its words: on CUDA, a bad index trips an assertion."""
    if error is IndexError and DEVICE != "cpu":
        pytest.skip("an assertion ends all use of the GPU: test_cuda.py has it in its own process")
    if error is IndexError and SIMT:
        return RuntimeError, "CUDA error: .*assertion failed"
    return error, message


DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


# Every way logits can lie in memory that the kernels tell apart, and the ones that are copied.
LAYOUTS = {
    "rows": lambda c: torch.randn(37, c),
    "transposed": lambda c: torch.randn(c, 37).t(),
    "sliced_classes": lambda c: torch.randn(37, c + 5)[:, 2 : c + 2],
    "step_two_classes": lambda c: torch.randn(37, 2 * c)[:, ::2],
    "step_two_rows": lambda c: torch.randn(74, c)[::2],
    "expanded_rows": lambda c: torch.randn(1, c).expand(37, c),
    "expanded_classes": lambda c: torch.randn(37, 1).expand(37, c),
    "one_row": lambda c: torch.randn(c),
    "planes": lambda c: torch.randn(3, c, 19),
    "narrow_planes": lambda c: torch.randn(9, c, 3),
    "planes_sliced_classes": lambda c: torch.randn(2, c + 3, 5, 7)[:, 1 : c + 1],
    "channels_last": lambda c: torch.randn(2, c, 5, 7).to(memory_format=torch.channels_last),
    "five_dimensions": lambda c: torch.randn(2, c, 2, 3, 4),
    "not_collapsible": lambda c: torch.randn(2, c, 5, 9)[..., ::2],
    "permuted_inner": lambda c: torch.randn(2, c, 5, 7).transpose(2, 3),
}


def make_logits(layout: str, classes: int, dtype: torch.dtype) -> torch.Tensor:
    """Logits with the layout's own strides: written into a storage, where `.to` may change them."""
    x = LAYOUTS[layout](classes)
    storage = torch.empty(x.untyped_storage().nbytes() // 4, dtype=dtype)
    y = storage.as_strided(x.size(), x.stride(), x.storage_offset())
    storage.copy_(3 * torch.empty(0).set_(x.untyped_storage())[: storage.numel()])
    return y


def index_target(logits: torch.Tensor, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    classes = logits.size(0) if logits.dim() == 1 else logits.size(1)
    shape = logits.shape[:0] if logits.dim() == 1 else (logits.size(0), *logits.shape[2:])
    return torch.randint(0, min(classes, 200), shape).to(dtype)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
