# SPDX-License-Identifier: BSD-3-Clause
"""The logits of a linear layer never exist: peaks of memory, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc/self tells the peak")

ROWS, FEATURES, CLASSES, CHUNK = 2048, 64, 8192, 64
LOGITS = ROWS * CLASSES * 4  # bytes: 64 MB
GRADIENTS = (ROWS + CLASSES) * FEATURES * 4  # 2.5 MB
# Logits of a chunk take 2 MB. The rest is what torch's products, and its allocator, keep around.
FEW = 16 << 20

START = f"""
import json, torch, fused_ce, torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from test_memory import memory
torch.set_num_threads(2)
torch.manual_seed(0)
x = torch.randn({ROWS}, {FEATURES}, requires_grad=True)
w = torch.randn({CLASSES}, {FEATURES}, requires_grad=True)
t = torch.randint({CLASSES}, ({ROWS},))
r = torch.rand({ROWS}, requires_grad=True)
wide_x = torch.randn(64, 2048, requires_grad=True)
wide_w = torch.randn({CLASSES}, 2048, requires_grad=True)
f = fused_ce.linear_cross_entropy
stats = fused_ce.linear_cross_entropy_stats
rows = {{"chunk_rows": {CHUNK}}}
def plain(x, w, t):
    return F.cross_entropy(F.linear(x, w), t)
def grads(loss, **options):
    return torch.autograd.grad(loss, (x, w), **options)
def ours(x, w, t):
    return f(x, w, t, **rows)
def peak_of(step):
    fused_ce.empty_cache()
    before = memory("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")
    step()
    return memory("VmHWM") - before
def small(step):  # for libraries and threads, which stay
    global x, w, t, r
    kept = x, w, t, r
    x, w, r = (a[:n].detach().requires_grad_() for a, n in ((x, 8), (w, 16), (r, 8)))
    t = t[:8] % 16
    step()
    x, w, t, r = kept
"""

FIRST_ORDER = {
    "mean": "grads(ours(x, w, t))",
    "sum": "grads(f(x, w, t, reduction='sum', **rows))",
    "none": "grads(f(x, w, t, reduction='none', **rows).sum())",
    "smoothed": "grads(f(x, w, t, label_smoothing=0.1, weight=torch.rand(len(w)), **rows))",
    "half ignored": "grads(f(x, w, t.masked_fill(t % 2 == 0, -100), **rows))",
    "retained": "grads(ours(x, w, t), retain_graph=True)",
    "scaled": "grads(ours(x, w, t) * 0.5)",
    "statistics": "grads(sum(o.sum() for o in stats(x, w, t, z_loss_weight=0.1, return_lse=True, "
    "return_entropy=True, return_prediction=True, **rows)[:4]))",
    "checkpoint": "grads(checkpoint(ours, x, w, t, use_reentrant=False))",
    "transform": "torch.func.grad(ours, argnums=(0, 1))(x.detach(), w.detach(), t)",
    "weights of rows": "torch.autograd.grad(stats(x, w, t, row_weight=r, **rows)[0], (x, w, r))",
    "no gradient": "torch.no_grad()(ours)(x, w, t)",
}
# Some tensors of a chunk's size at a time.
COMPOSED = {
    "forward mode": "torch.func.jvp(lambda a: ours(a, w.detach(), t), (x.data,), (x.data,))",
    "second order": "grads(sum(g.square().sum() for g in grads(ours(x, w, t), create_graph=True)))",
}
CHOSEN = {"chosen rows": "grads(f(x, w, t))"}
LOGITS_THERE = {"plain": "grads(plain(x, w, t))"}
WIDE = {
    "by all": "torch.autograd.grad(f(wide_x, wide_w, t[:64]), wide_x)",
    "of a frozen layer": "torch.autograd.grad(f(wide_x, wide_w.detach(), t[:64]), wide_x)",
    "none": "torch.no_grad()(f)(wide_x, wide_w, t[:64])",
}


@pytest.fixture(scope="module")
def peaks() -> dict[str, int]:
    """In bytes, of each step of these, in one process that keeps no freed memory."""
    steps = {**FIRST_ORDER, **COMPOSED, **CHOSEN, **LOGITS_THERE}
    code = [START, "peaks = {}"]
    code += [f"small(lambda: {step})" for step in steps.values()]
    steps |= {f"wide {name}": step for name, step in WIDE.items()}
    code += [f"peaks[{name!r}] = peak_of(lambda: {step})" for name, step in steps.items()]
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, "-c", "\n".join([*code, "print(json.dumps(peaks))"])],
        env={**os.environ, "PYTHONPATH": paths, "MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    numbers: dict[str, int] = json.loads(result.stdout)
    return numbers


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_first_order(peaks: dict[str, int], name: str) -> None:
    assert peaks[name] < 2 * GRADIENTS + FEW < LOGITS // 2, peaks


def test_chosen_rows(peaks: dict[str, int]) -> None:
    assert peaks["chosen rows"] < 2 * GRADIENTS + FEW + (32 << 20) < LOGITS, peaks


@pytest.mark.parametrize("name", COMPOSED)
def test_composed(peaks: dict[str, int], name: str) -> None:
    assert peaks[name] < LOGITS * 3 // 4, peaks


def test_the_measure_sees_logits(peaks: dict[str, int]) -> None:
    assert peaks["plain"] > 2 * LOGITS, peaks


def test_gradients_that_nobody_wants(peaks: dict[str, int]) -> None:
    weight = CLASSES * 2048 * 4  # bytes: 64 MB
    assert peaks["wide by all"] > weight, peaks
    assert peaks["wide of a frozen layer"] < weight // 2, peaks
    assert peaks["wide none"] < weight // 2, peaks
