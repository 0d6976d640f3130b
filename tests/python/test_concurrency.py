# SPDX-License-Identifier: BSD-3-Clause
"""Many callers at once: Python threads, data loader workers, forked processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import fused_ce
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

SHAPES = [(3, 5), (20000, 10), (300, 1000), (2, 30, 50, 50)]


def step(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Forward and backward of a problem of its own."""
    random = torch.Generator().manual_seed(number)
    shape = SHAPES[number % len(SHAPES)]
    x = torch.randn(shape, generator=random).requires_grad_()
    target = torch.randint(shape[1], (shape[0], *shape[2:]), generator=random)
    loss = fused_ce.cross_entropy(x, target, label_smoothing=0.1 * (number % 3))
    return loss.detach(), torch.autograd.grad(loss, x)[0]


def test_python_threads() -> None:
    numbers = range(64)
    expected = [step(number) for number in numbers]
    with ThreadPoolExecutor(8) as threads:
        for one, other in zip(expected, threads.map(step, numbers), strict=True):
            assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_threads_share_logits() -> None:
    """One leaf, whose gradients the threads add up: numbers whose sums are exact in any order."""
    x = torch.zeros(2000, 4, requires_grad=True)
    target = torch.zeros(2000, dtype=torch.long)

    def backward(_: int) -> None:
        fused_ce.cross_entropy(x, target, reduction="sum").backward()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(backward, range(32)))
    assert torch.equal(x.grad, torch.tensor([-24.0, 8, 8, 8]).expand(2000, 4))


class Losses(Dataset):
    def __len__(self) -> int:
        return len(SHAPES)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        return step(number)


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux")
def test_data_loader_workers() -> None:
    expected = [step(number) for number in range(len(SHAPES))]  # OpenMP's threads are awake
    loader = DataLoader(
        Losses(), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=120
    )
    for one, other in zip(expected, loader, strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


# As in torch's data loader, the child leaves alone the OpenMP threads of its parent: it has none.
FORK = """
import os, torch, fused_ce
torch.set_num_threads(2)
x = torch.randn(4096, 100, requires_grad=True)
target = torch.randint(100, (4096,))
def step():
    loss = fused_ce.cross_entropy(x, target)
    return loss.detach(), torch.autograd.grad(loss, x)[0]
before = step()
child = os.fork()
if child == 0:
    torch.set_num_threads(1)
    os._exit(0 if all(torch.equal(a, b) for a, b in zip(before, step())) else 1)
assert os.waitpid(child, 0)[1] == 0
assert all(torch.equal(a, b) for a, b in zip(before, step()))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork_after_threads_were_used() -> None:
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=300)


@pytest.mark.parametrize("module", [fused_ce.CrossEntropyLoss, fused_ce.CrossEntropyStatsLoss])
def test_a_weight_that_is_replaced_during_a_call(module: type[torch.nn.Module]) -> None:
    loss = module(torch.ones(1000))
    x, target = torch.randn(64, 1000), torch.randint(1000, (64,))
    expected = loss(x, target)
    is_done = threading.Event()

    def replace() -> None:
        while not is_done.is_set():
            loss.weight = torch.ones(1000)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        results = [loss(x, target) for _ in range(1000)]
    finally:
        is_done.set()
        thread.join()
    for result in results:
        first, expected_first = (
            r if isinstance(r, torch.Tensor) else r.loss for r in (result, expected)
        )
        assert torch.equal(first, expected_first)
