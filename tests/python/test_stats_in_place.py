# SPDX-License-Identifier: BSD-3-Clause
"""The gradient in the logits' memory: right, or refused."""

from __future__ import annotations

from collections.abc import Callable

import fused_ce
import pytest
import torch
import torch.nn.functional as F
from loss_head import EVERYTHING
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CLASSES = 300
LEAF = torch.randn(40, CLASSES)
T = torch.randint(CLASSES, (40,))
STALE = "modified by an inplace operation"


def loss(logits: Tensor, target: Tensor = T, **options: object) -> Tensor:
    return fused_ce.cross_entropy_stats(logits, target, in_place=True, **options).loss


def leaf() -> Tensor:
    return LEAF.clone().requires_grad_()


def gradient(f: Callable[[Tensor], Tensor]) -> Tensor:
    x = leaf()
    f(x).backward()
    return x.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(40, 7), (40, CLASSES), (2, 21, 50), (7,)], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
def test_the_gradient_lies_in_the_logits(
    layout: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    if layout == "transposed":
        x = torch.randn(shape[::-1]).to(dtype).permute(*reversed(range(len(shape))))
    else:
        x = torch.randn(shape).to(dtype)
    x.requires_grad_()
    rows = shape[:0] if len(shape) == 1 else shape[:1] + shape[2:]
    target = torch.randint(7, rows)
    options = {"z_loss_weight": 0.1, **EVERYTHING}
    grads = []
    for in_place in (True, False):
        y = x * 1
        stats = fused_ce.cross_entropy_stats(y, target, in_place=in_place, **options)
        grad = torch.autograd.grad(stats.loss + stats.entropy.sum(), y)[0]
        assert (grad.data_ptr() == y.data_ptr()) == in_place
        assert y._version == in_place
        grads.append(grad)
    torch.testing.assert_close(*grads, rtol=0, atol=0)


def test_dimensions_that_the_kernels_copy() -> None:
    x = torch.randn(2, 5, 7, 5, requires_grad=True)
    y = (x * 1).transpose(2, 3)
    target = torch.randint(5, (2, 5, 7))
    (grad,) = torch.autograd.grad(loss(y, target), y)
    assert grad.data_ptr() == y.data_ptr()
    expected = torch.autograd.grad(F.cross_entropy(x.transpose(2, 3), target), x)[0]
    torch.testing.assert_close(grad, expected.transpose(2, 3))


# ---- What is right -------------------------------------------------------------------------------

RIGHT: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "plain": (lambda x: loss(x * 1), lambda x: F.cross_entropy(x, T)),
    "a_part_of_the_logits": (
        lambda x: loss((x * 1)[:-1], T[:-1]),
        lambda x: F.cross_entropy(x[:-1], T[:-1]),
    ),
    "beside_a_sum": (
        lambda x: loss(y := x * 1) + y.mean(),
        lambda x: F.cross_entropy(x, T) + x.mean(),
    ),
    "before_another_use": (  # whose backward comes first
        lambda x: loss(y := x * 1) + 0.1 * y.logsumexp(1).sum(),
        lambda x: F.cross_entropy(x, T) + 0.1 * x.logsumexp(1).sum(),
    ),
    "after_a_loss_that_saves_its_output": (
        lambda x: F.cross_entropy(y := x * 1, T) + loss(y),
        lambda x: 2 * F.cross_entropy(x, T),
    ),
    "checkpoint": (
        lambda x: checkpoint(lambda y: loss(y * 1), x, use_reentrant=False),
        lambda x: F.cross_entropy(x, T),
    ),
    "autocast": (
        lambda x: _autocast(x),
        lambda x: F.cross_entropy(x, T),
    ),
}


def _autocast(x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return loss(x * 1)


@pytest.mark.parametrize("name", RIGHT)
def test_right(name: str) -> None:
    ours, theirs = map(gradient, RIGHT[name])
    torch.testing.assert_close(ours, theirs)


def test_hooks_see_the_gradient() -> None:
    x = leaf()
    y = x * 1
    y.retain_grad()
    y.register_hook(lambda grad: grad * 2)
    loss(y).backward()
    torch.testing.assert_close(x.grad, 2 * gradient(lambda x: F.cross_entropy(x, T)))


def test_nothing_is_overwritten_where_no_gradient_is_wanted() -> None:
    y = LEAF.clone()
    loss(y)
    with torch.no_grad():
        loss(y.requires_grad_())
    assert torch.equal(y, LEAF) and y._version == 0


# ---- What is refused -----------------------------------------------------------------------------


def twice(x: Tensor) -> Tensor:
    once = loss(x * 1)
    once.backward(retain_graph=True)
    return once


def with_graph(x: Tensor) -> Tensor:
    y = x * 1
    return torch.autograd.grad(loss(y), y, create_graph=True)[0].sum()


def batched(x: Tensor) -> Tensor:
    y = x * 1
    rows = loss(y, reduction="none")
    return torch.autograd.grad(rows, y, torch.eye(len(rows)), is_grads_batched=True)[0].sum()


def mapped(x: Tensor) -> Tensor:
    y = x * 1
    rows = loss(y, reduction="none")
    return torch.func.vmap(lambda v: torch.autograd.grad(rows, y, v)[0])(torch.eye(len(rows)))


def another_level(x: Tensor) -> Tensor:
    return torch.func.grad(lambda y: loss(y * 1))(x).sum()


def with_weights(x: Tensor) -> Tensor:
    return loss(x * 1, weight=torch.ones(CLASSES, requires_grad=True))


def of_itself(x: Tensor) -> Tensor:
    y = x * 1
    return loss(y, y.detach())


def of_own_gradient(x: Tensor) -> Tensor:
    y = x * 1
    rows = loss(y, reduction="none")
    return torch.autograd.grad(rows, x, y.detach().flatten()[: len(rows)])[0].sum()


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "leaf": (loss, "input is a leaf that requires grad"),
    "view_of_a_leaf": (lambda x: loss(x[:]), "input is a view of a leaf that requires grad"),
    "leaf_that_is_a_view": (
        lambda x: loss(x.detach().view(-1).view_as(x).requires_grad_()),
        "input is a leaf that requires grad",
    ),
    "overlapping": (lambda x: loss((x[:1] * 1).expand(40, -1)), "a place in memory for each"),
    "gaps": (lambda x: loss((x * 1)[:, :200], T.clamp(max=199)), "input must be dense"),
    "own_probabilities": (of_itself, "target shares the memory of input"),
    "own_weight": (
        lambda x: loss(y := x * 1, weight=y.detach()[0]),
        "weight shares the memory of input",
    ),
    "own_incoming_gradient": (of_own_gradient, "gradient shares the memory of input"),
    "create_graph": (with_graph, "in_place: the gradient overwrites .*create_graph"),
    "batched": (batched, "in_place: .* place for one gradient.*is_grads_batched"),
    "mapped": (mapped, "in_place: .* place for one gradient"),
    "func": (another_level, "in_place: the gradient overwrites .*torch.func"),
    "constants_with_gradients": (with_weights, "in_place: derivatives by target, weight"),
    "second_backward": (twice, STALE),
    "two_losses": (lambda x: loss(y := x * 1) + loss(y), STALE),
    "beside_an_earlier_use": (lambda x: (y := x * 1).logsumexp(1).sum() + loss(y), STALE),
    "output_that_was_saved": (lambda x: loss(torch.tanh(x)), STALE),
    "changed_before_backward": (lambda x: _changed(x), STALE),
}


def _changed(x: Tensor) -> Tensor:
    y = x * 1
    result = loss(y)
    y.add_(1)
    return result


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    f, message = REFUSED[name]
    with pytest.raises(RuntimeError, match=message):
        gradient(f)


def test_the_operator_trusts_nothing() -> None:
    """A private operator, but it writes."""
    x = torch.randn(4, 5)
    target = torch.zeros(4, dtype=torch.long)
    *_, saved, total = torch.ops.fused_ce._forward(x, target, save=True)
    grads = (torch.ones(()), None, None, None)
    rest = (target, None, None, saved, total)
    with pytest.raises(RuntimeError, match="a place in memory"):
        torch.ops.fused_ce._backward_(*grads, x[:1].expand(4, 5), *rest)
    with pytest.raises(RuntimeError, match="saved: expected"):
        torch.ops.fused_ce._backward_(*grads, x, target, None, None, saved[:2], total)
    with pytest.raises(RuntimeError, match="no derivative of a gradient"):
        torch.ops.fused_ce._backward_(*grads, (x.requires_grad_() * 1), *rest)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled(backend: str) -> None:
    torch._dynamo.reset()
    f = torch.compile(lambda x: loss(2 * x), backend=backend, fullgraph=True)
    torch.testing.assert_close(gradient(f), gradient(lambda x: F.cross_entropy(2 * x, T)))


def test_compiled_autograd() -> None:
    compiler = torch.compile(backend="eager", fullgraph=True)
    with torch._dynamo.compiled_autograd._enable(compiler):
        ours = gradient(lambda x: loss(2 * x))
    torch.testing.assert_close(ours, gradient(lambda x: F.cross_entropy(2 * x, T)))
