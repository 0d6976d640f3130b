# SPDX-License-Identifier: BSD-3-Clause
"""Derivatives of the loss head, of every order and in every combination."""

from __future__ import annotations

import itertools
import math

import fused_ce
import pytest
import torch
from loss_head import EVERYTHING, OPTIONS, differentiable, head, problem
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck

SHAPES = [(5,), (4, 5), (2, 5, 3)]


def results(x: Tensor, tensors: dict[str, Tensor], **options: object) -> tuple[Tensor, ...]:
    return tuple(differentiable(fused_ce.cross_entropy_stats(x, **tensors, **options)))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradcheck(shape: tuple[int, ...], kind: str, option: str, reduction: str) -> None:
    x, tensors = problem(kind, shape)
    if option == "plain":
        del tensors["weight"], tensors["row_weight"]
    if shape == (5,) and kind == "indices":
        tensors["target"] = torch.tensor(3)

    def f(x: Tensor) -> tuple[Tensor, ...]:
        return results(x, tensors, reduction=reduction, **OPTIONS[option], **EVERYTHING)

    x.requires_grad_()
    assert gradcheck(f, (x,), check_batched_grad=True, check_forward_ad=True)
    assert gradgradcheck(f, (x,), check_batched_grad=True)


@pytest.mark.parametrize("kind", ["indices", "probabilities"])
def test_any_combination_of_incoming_gradients(kind: str) -> None:
    x, tensors = problem(kind, (4, 5))
    options = {**OPTIONS["all"], "reduction": "none"}
    results = []
    for f in (fused_ce.cross_entropy_stats, head):
        y = x.clone().requires_grad_()
        stats = f(y, **tensors, **options, **(EVERYTHING if f is not head else {}))
        results.append((y, differentiable(stats)))
    grads = torch.randn(4, 4, dtype=torch.float64)
    for count in range(1, 5):
        for chosen in itertools.combinations(range(4), count):
            ours, theirs = (
                torch.autograd.grad(
                    [outputs[i] for i in chosen], y, [grads[i] for i in chosen], retain_graph=True
                )
                for y, outputs in results
            )
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
def test_derivatives_by_everything(kind: str, reduction: str) -> None:
    """By weights, probabilities and a normalizer, which the kernels take for constants."""
    x, tensors = problem(kind, (4, 5))
    if reduction == "mean":
        tensors["normalizer"] = torch.tensor(7.5, dtype=torch.float64)
    names = [name for name, t in tensors.items() if t.is_floating_point()]
    if kind == "indices":  # torch has no derivative by their weights
        names.remove("weight")

    def f(x: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        named = {**tensors, **dict(zip(names, given, strict=True))}
        stats = fused_ce.cross_entropy_stats(
            x, **named, reduction=reduction, **OPTIONS["all"], **EVERYTHING
        )
        torch.testing.assert_close(
            differentiable(stats),
            differentiable(head(x, **named, reduction=reduction, **OPTIONS["all"])),
        )
        return tuple(differentiable(stats))

    inputs = (x.requires_grad_(), *(tensors[name].clone().requires_grad_() for name in names))
    assert gradcheck(f, inputs, check_forward_ad=True)
    assert gradgradcheck(f, inputs)


def test_derivative_of_what_a_mean_divides_by() -> None:
    x, tensors = problem("indices", (4, 5))
    row_weight = tensors.pop("row_weight").requires_grad_()

    def f(row_weight: Tensor) -> Tensor:
        return fused_ce.cross_entropy_stats(x, **tensors, row_weight=row_weight).loss

    assert gradcheck(f, (row_weight,), check_forward_ad=True)
    assert gradgradcheck(f, (row_weight,))


@pytest.mark.parametrize("name", ["target", "weight", "row_weight", "normalizer"])
def test_gradient_of_a_gradient_by_another_level(name: str) -> None:
    """torch.func: the inner level sees constants, the outer one differentiates by them."""
    x, tensors = problem("probabilities", (4, 5))
    tensors["normalizer"] = torch.tensor(7.5, dtype=torch.float64)
    options = {**OPTIONS["all"], "reduction": "mean"}

    def squared_norm(f: object) -> object:
        def g(t: Tensor) -> Tensor:
            def total(x: Tensor) -> Tensor:
                more = EVERYTHING if f is not head else {}
                stats = f(x, **{**tensors, name: t}, **options, **more)
                return sum(r.sum() for r in differentiable(stats))

            return torch.func.grad(total)(x).square().sum()

        return g

    ours, theirs = (
        torch.func.grad(squared_norm(f))(tensors[name])
        for f in (fused_ce.cross_entropy_stats, head)
    )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("option", ["capped", "all"])
def test_third_order(option: str) -> None:
    x, tensors = problem("indices", (4, 5))
    thirds = []
    for f in (fused_ce.cross_entropy_stats, head):
        y = x.clone().requires_grad_()
        more = EVERYTHING if f is not head else {}
        stats = f(y, **tensors, **OPTIONS[option], **more)
        total = sum(r.sum() for r in differentiable(stats))
        first = torch.autograd.grad(total, y, create_graph=True)[0]
        second = torch.autograd.grad(first.pow(2).sum(), y, create_graph=True)[0]
        thirds.append(torch.autograd.grad(second.pow(2).sum(), y)[0])
    torch.testing.assert_close(*thirds)


def test_masked_classes_have_no_derivative() -> None:
    """Logits of -inf, as sampling from the top k has them: not NaN, of any order."""
    x, tensors = problem("indices", (4, 5))
    x[:, 0] = -torch.inf
    x.requires_grad_()
    stats = fused_ce.cross_entropy_stats(x, **tensors, z_loss_weight=0.1, **EVERYTHING)
    total = sum(r.sum() for r in differentiable(stats))
    (first,) = torch.autograd.grad(total, x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    assert (first[:, 0] == 0).all() and first.isfinite().all()
    assert (second[:, 0] == 0).all() and second.isfinite().all()


@pytest.mark.parametrize("lead", [3, 10, 20, 60])
def test_a_confident_entropy_keeps_its_digits(lead: int) -> None:
    """Where torch's operations stand for the kernels, in float32, and its derivatives."""
    x, tensors = problem("indices", (8, 5), torch.float32)
    x[:, 2] += lead
    x += 1000
    entropies, firsts, seconds = [], [], []
    for dtype in (torch.float32, torch.float64):
        y = x.to(dtype).requires_grad_()
        row_weight = tensors["row_weight"].to(dtype).requires_grad_()
        entropy = fused_ce.cross_entropy_stats(
            y, tensors["target"], row_weight=row_weight, return_entropy=True
        ).entropy
        assert entropy.grad_fn.name() != "fused_ce::CrossEntropyBackward"
        (first,) = torch.autograd.grad(entropy.sum(), y, create_graph=True)
        (second,) = torch.autograd.grad(first[:, 2].sum(), y)
        entropies.append(entropy), firsts.append(first), seconds.append(second)
    for ours, exact in (entropies, firsts, seconds):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", ["indices", "probabilities"])
def test_no_classes(kind: str) -> None:
    x = torch.randn(4, 0, requires_grad=True)
    target = torch.rand(4, 0) if kind == "probabilities" else torch.full((4,), -100)
    row_weight = torch.rand(4, requires_grad=True)
    stats = fused_ce.cross_entropy_stats(
        x, target, row_weight=row_weight, reduction="sum", return_entropy=True
    )
    assert torch.equal(stats.entropy, torch.zeros(4))
    total = stats.loss + stats.entropy.sum()
    by_logits, by_rows = torch.autograd.grad(total, (x, row_weight), create_graph=True)
    assert by_logits.shape == x.shape and torch.equal(by_rows, torch.zeros(4))


@pytest.mark.simt
@pytest.mark.parametrize("return_entropy", [False, True])
def test_ignored_rows_of_no_classes(return_entropy: bool) -> None:
    stats = fused_ce.cross_entropy_stats(
        torch.randn(3, 0),
        torch.full((3,), -100),
        reduction="none",
        z_loss_weight=0.1,
        return_lse=True,
        return_entropy=return_entropy,
    )
    for result in (stats.loss, stats.z_loss, stats.lse):
        assert torch.equal(result, torch.zeros(3))


def test_predict() -> None:
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)

    def f(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(differentiable(fused_ce.predict(x, softcap=2.5, temperature=0.6)))

    assert len(f(x)) == 2
    assert gradcheck(f, (x,), check_batched_grad=True, check_forward_ad=True)
    assert gradgradcheck(f, (x,), check_batched_grad=True)


def test_only_what_is_differentiable_has_a_gradient() -> None:
    x, tensors = problem("indices", (4, 5))
    stats = fused_ce.cross_entropy_stats(
        x.requires_grad_(), **tensors, z_loss_weight=0.1, **EVERYTHING
    )
    assert all(r.requires_grad for r in differentiable(stats))
    assert not stats.prediction.requires_grad and not stats.confidence.requires_grad
    assert stats.loss.grad_fn is stats.entropy.grad_fn
    plain = fused_ce.cross_entropy_stats(x, **tensors)
    for undefined in torch.ops.fused_ce.cross_entropy_stats(x, tensors["target"])[1:]:
        assert undefined.numel() == 0 and not undefined.requires_grad
    assert plain[1:] == (None,) * 5


def test_tangents_of_primal_only_outputs() -> None:
    """Forward-mode AD: the statistics that have no derivative carry none."""
    x, tensors = problem("indices", (4, 5))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        stats = fused_ce.cross_entropy_stats(dual, **tensors, **EVERYTHING)
        assert forward_ad.unpack_dual(stats.confidence).tangent is None
        # A row's softmax does not change where all of its logits grow alike.
        torch.testing.assert_close(
            forward_ad.unpack_dual(stats.entropy).tangent, torch.zeros_like(stats.entropy)
        )


def test_ignored_rows_without_numbers() -> None:
    """By torch's formula as well, which answers where the weights of rows are differentiated."""
    x = torch.randn(2, 3)
    x[0] = math.nan
    grads = []
    for weights_have_gradients in (False, True):
        leaf = x.clone().requires_grad_()
        stats = fused_ce.cross_entropy_stats(
            leaf,
            torch.tensor([-100, 1]),
            row_weight=torch.ones(2, requires_grad=weights_have_gradients),
            z_loss_weight=0.1,
            return_lse=True,
            return_entropy=True,
        )
        assert stats.lse is not None and stats.entropy is not None
        result = stats.loss + stats.lse.sum() + stats.entropy.sum()
        grads.append(torch.autograd.grad(result, leaf)[0])
        assert not grads[-1][0].any()
    torch.testing.assert_close(*grads)
