# SPDX-License-Identifier: BSD-3-Clause
"""Derivatives of every order."""

from __future__ import annotations

import fused_ce
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

pytestmark = pytest.mark.simt

W = torch.linspace(0.5, 1.5, 5, dtype=torch.float64)
OPTIONS = {
    "plain": {},
    "weight": {"weight": W},
    "smoothing": {"label_smoothing": 0.1},
    "all": {"weight": W, "label_smoothing": 0.2, "ignore_index": 1},
}


def case(kind: str, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    if kind == "probabilities":
        return logits, torch.rand(shape, dtype=torch.float64)
    return logits, torch.randint(0, 5, (shape[0], *shape[2:]))


def _all_or_weight(kind: str, option: str, **_: object) -> bool:
    return (kind, option) in (("indices", "all"), ("probabilities", "weight"))


@pytest.mark.simt(when=_all_or_weight)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
@pytest.mark.parametrize("shape", [(4, 5), (2, 5, 3)], ids=str)
def test_gradcheck(shape: tuple[int, ...], kind: str, option: str, reduction: str) -> None:
    logits, target = case(kind, shape)
    options = {**OPTIONS[option], "reduction": reduction}
    if kind == "probabilities":
        options.pop("ignore_index", None)

    def f(x: torch.Tensor) -> torch.Tensor:
        return fused_ce.cross_entropy(x, target, **options)

    assert gradcheck(f, (logits,), check_batched_grad=True, check_forward_ad=True)
    assert gradgradcheck(f, (logits,), check_batched_grad=True)


def test_gradient_of_probabilities_and_weight_is_torchs() -> None:
    logits, target = case("probabilities", (4, 5))
    results = []
    for f in (fused_ce.cross_entropy, F.cross_entropy):
        t, w = target.clone().requires_grad_(), W.clone().requires_grad_()
        results.append(
            torch.autograd.grad(f(logits, t, weight=w, label_smoothing=0.1), (logits, t, w))
        )
    torch.testing.assert_close(results[0], results[1])


def test_forward_mode_tangent() -> None:
    logits, target = case("indices", (4, 5))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(logits.detach(), torch.ones_like(logits))
        ours, theirs = (
            forward_ad.unpack_dual(f(dual, target)).tangent
            for f in (fused_ce.cross_entropy, F.cross_entropy)
        )
        torch.testing.assert_close(ours, theirs)


def test_backward_twice_and_double_use() -> None:
    x = torch.randn(6, 300, requires_grad=True)
    target = torch.randint(0, 300, (6,))
    loss = fused_ce.cross_entropy(x, target)
    first = torch.autograd.grad(loss, x, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(loss, x)[0])
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, x)
    both = fused_ce.cross_entropy(x, target) + fused_ce.cross_entropy(x, target)
    torch.testing.assert_close(torch.autograd.grad(both, x)[0], 2 * first)


@pytest.mark.parametrize("changed", ["logits", "target", "probabilities", "weight"])
def test_in_place_change_between_forward_and_backward(changed: str) -> None:
    leaf = torch.randn(6, 5, requires_grad=True)
    x, weight = leaf * 1, torch.ones(5)
    target = torch.rand(6, 5) if changed == "probabilities" else torch.zeros(6, dtype=torch.long)
    loss = fused_ce.cross_entropy(x, target, weight)
    {"logits": x, "weight": weight}.get(changed, target).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_without_grad() -> None:
    x, target = torch.randn(6, 5, requires_grad=True), torch.zeros(6, dtype=torch.long)
    expected = fused_ce.cross_entropy(x, target).detach()
    with torch.no_grad():
        assert not fused_ce.cross_entropy(x, target).requires_grad
    with torch.inference_mode():
        assert torch.equal(fused_ce.cross_entropy(x, target), expected)


def test_checkpoint() -> None:
    x, target = torch.randn(6, 5, requires_grad=True), torch.zeros(6, dtype=torch.long)
    loss = checkpoint(fused_ce.cross_entropy, x, target, use_reentrant=False)
    expected = torch.autograd.grad(fused_ce.cross_entropy(x, target), x)[0]
    assert torch.equal(torch.autograd.grad(loss, x)[0], expected)


def test_class_weights_are_added_up_once() -> None:
    """Backward has their sum of forward: what changes unseen is new for its own class alone."""
    x = torch.randn(1, 3, dtype=torch.float64, requires_grad=True)
    w = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    loss = fused_ce.cross_entropy(x, torch.tensor([0]), w, label_smoothing=0.3, reduction="sum")
    sum_of_forward = w.sum()
    w.data[2] = 30.0
    (gradient,) = torch.autograd.grad(loss, x)
    q = 0.1 * w + 0.7 * w * F.one_hot(torch.tensor(0), 3)
    mass = 0.7 * w[0] + 0.1 * sum_of_forward
    torch.testing.assert_close(gradient, mass * x.detach().softmax(1) - q)
