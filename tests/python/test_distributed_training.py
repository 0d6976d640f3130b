# SPDX-License-Identifier: BSD-3-Clause
"""Training with a head whose classes are shared out to processes, beside one process's training."""

from __future__ import annotations

from typing import Any

import fused_ce.distributed
import pytest
import torch
import torch.distributed as dist
from distributed import Cases, Rank
from torch import Tensor

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="no torch.distributed")
CASES = Cases()

COUNTS = (5, 8)
STEPS = 1000


class _Replicated(torch.autograd.Function):
    """What all processes have, used for other classes on each: their gradients add up."""

    group: dist.ProcessGroup

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.clone()
        dist.all_reduce(grad, group=_Replicated.group)
        return grad


class Model(torch.nn.Module):
    def __init__(self, dtype: torch.dtype, own: slice) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body = torch.nn.Linear(6, 10).to(dtype)
        whole = torch.nn.Linear(10, sum(COUNTS)).to(dtype)
        self.weight = torch.nn.Parameter(whole.weight.detach()[own].clone())
        self.bias = torch.nn.Parameter(whole.bias.detach()[own].clone())


def train(model: Model, me: Rank | None, of: str, dtype: torch.dtype) -> Tensor:
    """The losses; of one process, for no rank."""
    options: dict[str, Any] = {
        "label_smoothing": 0.1,
        "z_loss_weight": 1e-3,
        "return_entropy": True,
    }
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    data = torch.Generator().manual_seed(4)
    centers = torch.randn(sum(COUNTS), 6, generator=data, dtype=torch.float64)
    losses = []
    for _ in range(STEPS):
        target = torch.randint(sum(COUNTS), (8,), generator=data)
        noise = torch.randn(8, 6, generator=data, dtype=torch.float64)
        h = model.body((centers[target] + 0.7 * noise).to(dtype)).tanh()
        target[0] = -100
        if of == "layer":
            f: Any = fused_ce.linear_cross_entropy_stats
            if me is not None:
                f = fused_ce.distributed.linear_cross_entropy_stats
            stats = f(h, model.weight, target, linear_bias=model.bias, chunk_rows=3, **options)
        else:
            f = fused_ce.cross_entropy_stats
            if me is not None:
                f = fused_ce.distributed.cross_entropy_stats
                h = _Replicated.apply(h)
            logits = torch.nn.functional.linear(h, model.weight, model.bias)
            stats = f(logits, target, **options)
        optimizer.zero_grad()
        (stats.loss - 0.01 * stats.entropy.mean()).backward()
        optimizer.step()
        losses.append(stats.loss.detach())
    return torch.stack(losses)


@CASES.add(dtype=[torch.float64, torch.float32], of=["logits", "layer"])
def training(me: Rank, dtype: torch.dtype, of: str) -> None:
    """Each step adds its roundings to the weights, a few units of the type, and descent of so small
    a model magnifies them little: after 1,000 steps they are a thousand units at most.
    """
    _Replicated.group = me.group
    start = sum(COUNTS[: me.rank])
    own = slice(start, start + COUNTS[me.rank])
    alone, ours = Model(dtype, slice(None)), Model(dtype, own)
    expected = train(alone, None, of, dtype)
    losses = train(ours, me, of, dtype)
    assert expected[-100:].mean() < 0.6 * expected[:10].mean()  # it learns

    eps = torch.finfo(dtype).eps
    units = 8 + torch.arange(STEPS)
    apart = (losses - expected).abs() / eps / expected.abs().clamp_min(1)
    assert (apart <= units).all(), (apart / units).max()
    close: dict[str, Any] = {"rtol": 1000 * eps, "atol": 1000 * eps}
    torch.testing.assert_close(ours.weight, alone.weight[own], **close)
    torch.testing.assert_close(ours.bias, alone.bias[own], **close)
    for a, b in zip(ours.body.parameters(), alone.body.parameters(), strict=True):
        torch.testing.assert_close(a, b, **close)
    # What all have is the same bits on all, or they would drift apart.
    everyones = me.everyones([losses, *(p.detach() for p in ours.body.parameters())])
    for theirs in everyones:
        assert all(torch.equal(a, b) for a, b in zip(theirs, everyones[0], strict=True))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [2])
def test_training(request: pytest.FixtureRequest, size: int, case: str) -> None:
    CASES.check(request, size, case)
