# SPDX-License-Identifier: BSD-3-Clause
"""Threads with a small stack: torch's own cross entropy runs in 64 KB."""

from __future__ import annotations

import os
import subprocess
import sys

import fused_ce
import pytest

# One loop of the kernels after the other, forward and backward, each on a new thread; the last one
# is shared out to more threads. Too deep a call ends the process.
SMALL_STACK = """
import threading
import fused_ce, torch

def targets(x):
    rows = (x.size(0), *x.shape[2:])
    yield torch.randint(x.size(1), rows), {}
    yield torch.randint(x.size(1), rows), {"weight": torch.rand(x.size(1)), "label_smoothing": 0.1}
    yield torch.rand(x.shape), {"weight": torch.rand(x.size(1)), "label_smoothing": 0.1}

logits = [
    torch.randn(32, 10),
    torch.randn(64, 20)[:, ::2],
    torch.randn(20, 200),
    torch.randn(20, 400)[:, ::2],
    torch.randn(3, 5000),
    torch.randn(2, 21, 30, 30),
    torch.randn(2, 21, 30, 60)[..., ::2],
    torch.randn(200, 1000),
]
calls = 0

def both(x, target, options):
    global calls
    loss = fused_ce.cross_entropy(x, target, **options)
    assert torch.autograd.grad(loss, x)[0].isfinite().all()
    calls += 1

threading.stack_size(65536)
expected = 0
for x in logits:
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        y = x.to(dtype).requires_grad_()
        for target, options in targets(x):
            if "weight" in options: options["weight"] = options["weight"].to(dtype)
            if target.is_floating_point(): target = target.to(dtype)
            thread = threading.Thread(target=both, args=(y, target, options))
            thread.start()
            thread.join()
            expected += 1
print(calls, expected)
"""


@pytest.mark.parametrize("capability", fused_ce.build_info()["cpu_capabilities"])
def test_a_small_stack_is_enough(capability: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", SMALL_STACK],
        env={**os.environ, "FUSED_CE_CPU_CAPABILITY": capability},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, (result.returncode, result.stderr[-2000:])
    assert result.stdout.split() == ["96", "96"], result.stderr[-2000:]
