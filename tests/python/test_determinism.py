# SPDX-License-Identifier: BSD-3-Clause
"""The same bits in every run, under torch.use_deterministic_algorithms, for every option."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import fused_ce
import pytest
import torch
from conftest import DTYPES


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("shape", [(700, 10), (60, 1000), (2, 9, 40, 40), (5,)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_option_gives_the_same_bits(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    classes = shape[0] if len(shape) == 1 else shape[1]
    x = torch.randn(shape).to(dtype).requires_grad_()
    rows = () if len(shape) == 1 else (shape[0], *shape[2:])
    targets = (torch.randint(classes, rows), torch.rand(shape).to(dtype))
    weights = (None, torch.rand(classes).to(dtype))
    reductions = ("none", "mean", "sum")
    for target, weight, smoothing, reduction in itertools.product(
        targets, weights, (0.0, 0.1), reductions
    ):
        results = []
        for _ in range(3):
            loss = fused_ce.cross_entropy(
                x, target, weight, label_smoothing=smoothing, reduction=reduction
            )
            results.append((loss.detach(), torch.autograd.grad(loss.sum(), x)[0]))
        for loss, grad in results[1:]:
            assert torch.equal(loss, results[0][0]) and torch.equal(grad, results[0][1])


@pytest.mark.parametrize("seed", range(8))
def test_many_weights_and_any_number_of_threads(seed: int) -> None:
    """at::sum of so many is cut by the number of threads."""
    random = torch.Generator().manual_seed(seed)
    weight = torch.rand(200_003, generator=random, dtype=torch.float64)
    x = torch.randn(1, len(weight), generator=random, dtype=torch.float64)
    threads = torch.get_num_threads()
    losses = []
    for n in range(1, 5):
        torch.set_num_threads(n)
        losses.append(
            fused_ce.cross_entropy(x, torch.tensor([7]), weight, label_smoothing=0.5).item()
        )
    torch.set_num_threads(threads)
    assert len(set(losses)) == 1


@pytest.fixture
def _as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(threads)


# Float and double: the half types are rounded to zero far above what is flushed.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(20_000, 10), (500, 300), (2, 10, 100, 100)], ids=str)
@pytest.mark.usefixtures("_as_before")
def test_flushed_denormals_and_any_number_of_threads(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    """Each thread has a flag of its own for them: all compute with the caller's."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    bits = torch.int32 if dtype == torch.float32 else torch.int64
    x = torch.randn(shape, dtype=dtype).requires_grad_()
    target = torch.randint(10, (shape[0], *shape[2:]))
    # Denormal where a class is unlikely.
    scale = torch.tensor(torch.finfo(dtype).tiny * 16, dtype=dtype)
    flushed = {}
    for flush in (True, False):
        torch.set_flush_denormal(flush)
        grads = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            loss = fused_ce.cross_entropy(x, target, reduction="sum")
            grads.append(torch.autograd.grad(loss, x, scale)[0].view(bits))
        assert torch.equal(*grads)
        flushed[flush] = (grads[0] == 0).sum()
    assert flushed[True] > flushed[False]  # or this test tests nothing
