# SPDX-License-Identifier: BSD-3-Clause
"""Inputs at the ends of the range, where torch's answer is the contract."""

from __future__ import annotations

import math

import fused_ce
import pytest
import torch
import torch.nn.functional as F
from conftest import DTYPES, SIMT, refusal

pytestmark = pytest.mark.simt

INF = math.inf


def both(logits: torch.Tensor, target: torch.Tensor, **options: object) -> None:
    """Value and gradient are those of torch on the CPU."""
    results = []
    for f, device in ((fused_ce.cross_entropy, logits.device), (F.cross_entropy, "cpu")):
        x = logits.detach().to(device, copy=True).requires_grad_()
        there = {k: v.to(device) if torch.is_tensor(v) else v for k, v in options.items()}
        loss = f(x, target.to(device), **there)
        loss.sum().backward()
        results.append((loss.detach().cpu(), x.grad.cpu()))
    torch.testing.assert_close(results[0], results[1], equal_nan=True)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("shape", [(0, 5), (3, 5, 0), (0, 5, 4), (0, 0)])
def test_empty(shape: tuple[int, ...], reduction: str) -> None:
    logits = torch.randn(shape)
    both(logits, torch.zeros((shape[0], *shape[2:]), dtype=torch.long), reduction=reduction)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}])
def test_one_class_is_exactly_zero(dtype: torch.dtype, options: dict[str, float]) -> None:
    for shape in ((7, 1), (2, 1, 9)):
        x = (100 * torch.randn(shape)).to(dtype).requires_grad_()
        targets = (
            torch.zeros((shape[0], *shape[2:]), dtype=torch.long),
            torch.ones(shape, dtype=dtype),
        )
        for target in targets:
            loss = fused_ce.cross_entropy(x, target, reduction="none", **options)
            (grad,) = torch.autograd.grad(loss.sum(), x)
            assert (loss == 0).all() and (grad == 0).all()


@pytest.mark.parametrize("classes", [5, 40, 3000])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_all_ignored(classes: int, reduction: str) -> None:
    both(torch.randn(4, classes), torch.full((4,), -100), reduction=reduction)


@pytest.mark.parametrize("classes", [4, 40, 3000])
@pytest.mark.parametrize(
    "fill", ["-inf_some", "-inf_all", "-inf_target", "inf", "nan", "far", "min", "negative_zero"]
)
def test_special_values(classes: int, fill: str) -> None:
    for planes in (False, True):
        x = torch.randn(11, classes)
        target = torch.randint(0, classes - 1, (11,))
        if fill == "-inf_some":
            x[:, classes - 1] = -INF
            x[3, : classes // 2] = -INF
            target[3] = classes - 1
            x[3, classes - 1] = 2.0
        elif fill == "-inf_all":
            x[2] = -INF
        elif fill == "-inf_target":
            x[2, target[2]] = -INF
        elif fill == "inf":
            x[1, 1] = INF
        elif fill == "nan":
            x[1, classes - 1] = math.nan
        elif fill == "far":
            x[1, 1], x[2, classes - 1], x[3] = 1e38, -1e38, 1e38
        elif fill == "min":
            x[:, ::2] = torch.finfo(x.dtype).min
        else:
            x[:] = -0.0
        if planes:
            x, target = x.t().contiguous()[None], target[None]
        both(x, target, reduction="none")


@pytest.mark.parametrize("offset", [1e4, 1e7, 1e30, -1e30])
@pytest.mark.parametrize("classes", [4, 40, 3000])
def test_huge_offsets(offset: float, classes: int) -> None:
    x = torch.randn(9, classes) * (abs(offset) * 2**-22) + offset
    both(x, torch.randint(0, classes, (9,)), reduction="none")


def test_a_late_maximum_beyond_the_headroom() -> None:
    x = torch.zeros(2, 3000)
    x[:, 2500] = 500.0
    both(x, torch.tensor([0, 2500]), reduction="none")
    both(x.t().contiguous()[None], torch.tensor([[0, 2500]]), reduction="none")


@pytest.mark.parametrize("shape", [(4, 6), (4, 300), (2, 6, 9)])
def test_ignored_rows_with_nan_get_gradient_zero(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    x[0] = math.nan
    target = torch.zeros((shape[0], *shape[2:]), dtype=torch.long)
    target[0] = -100
    x.requires_grad_()
    loss = fused_ce.cross_entropy(x, target)
    loss.backward()
    assert loss.isfinite() and (x.grad[0] == 0).all() and x.grad.isfinite().all()


@pytest.mark.skipif(bool(SIMT), reason="a million fibers")
def test_a_million_half_precision_rows() -> None:
    x = torch.randn(1_000_000, 3)
    target = torch.randint(0, 3, (1_000_000,))
    for dtype in (torch.bfloat16, torch.float16):
        expected = F.cross_entropy(x.to(dtype).double(), target)
        actual = fused_ce.cross_entropy(x.to(dtype), target)
        assert actual == expected.to(dtype)


def test_zero_weights() -> None:
    both(torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1]), weight=torch.zeros(3))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("shape", [(3, 0), (3, 0, 20)], ids=str)
def test_probabilities_of_no_classes(shape: tuple[int, ...], reduction: str) -> None:
    for smoothing in (0.0, 0.1):
        both(torch.randn(shape), torch.rand(shape), reduction=reduction, label_smoothing=smoothing)


@pytest.mark.parametrize("classes", [3, 9, 13, 100, 129, 131, 141, 515, 1001])
def test_infinite_logit_anywhere(classes: int) -> None:
    """Last vectors overlap the ones before: a class must not enter a sum twice, or as 0 * inf."""
    x = torch.randn(classes, classes)
    x.fill_diagonal_(-INF)
    target = (torch.arange(classes) + 1) % classes
    both(x, target)
    both(x, target, label_smoothing=0.1, reduction="none")
    both(x, F.one_hot(target, classes).float(), reduction="none")
    both(x, torch.rand(classes, classes), reduction="none")


@pytest.mark.parametrize("strides", [(0, 1), (1, 1)])
def test_indices_of_no_classes(strides: tuple[int, int]) -> None:
    x = torch.empty_strided((5, 0), strides)
    loss = fused_ce.cross_entropy(x, torch.full((5,), -100), reduction="none")
    assert torch.equal(loss, torch.zeros(5))
    error, message = refusal(IndexError, "out of bounds")
    with pytest.raises(error, match=message):
        fused_ce.cross_entropy(x, torch.zeros(5, dtype=torch.long))


@pytest.mark.parametrize("classes", [9, 64, 128, 300, 5000])
@pytest.mark.parametrize("inner", [(), (9,)])
def test_late_maximum_of_probabilities(classes: int, inner: tuple[int, ...]) -> None:
    x = torch.full((20, classes, *inner), 0.123)
    x[:, classes - 1] = 40
    target = torch.zeros_like(x)
    target[:, classes - 1] = 1
    # The error of one exponential, which is 1 ulp: the loss is the logarithm of little else.
    loss = fused_ce.cross_entropy(x, target, reduction="none")
    assert (loss.abs() <= torch.finfo(torch.float32).eps).all()


def test_backward_takes_one_number() -> None:
    x, target = torch.randn(3, 4), torch.zeros(3, dtype=torch.long)
    *_, saved, weight = torch.ops.fused_ce._forward(x, target, save=True)
    for grad in (torch.empty(0), torch.ones(3), torch.ones(1)):
        with pytest.raises(RuntimeError, match=r"grad_loss: expected .* of shape \[\]"):
            torch.ops.fused_ce._backward(
                grad, None, None, None, x, target, None, None, saved, weight
            )


@pytest.mark.parametrize("classes", [5, 90, 300])
@pytest.mark.parametrize("inner", [(), (9,)])
def test_references_halfway_between_powers_of_two(classes: int, inner: tuple[int, ...]) -> None:
    """Logits whose quotient by ln 2 rounds one way in float32, and the other way in float64."""
    m = (torch.arange(-360, 360).double() + 0.5) * math.log(2)
    x = (m.view(-1, 1) - torch.cat([torch.zeros(1), torch.rand(classes - 1)])).float()
    x = x.view(-1, classes, *(1 for _ in inner)).repeat(1, 1, *inner)
    target = torch.zeros((len(x), *inner), dtype=torch.long)
    both(x, target, reduction="none")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("lead", [100.0, 800.0, 30000.0, INF])
@pytest.mark.parametrize("classes", [5, 20, 300])
def test_a_late_target_far_above(classes: int, lead: float, dtype: torch.dtype) -> None:
    """A guess from the first logits must not stay, although the target is not in their sum."""
    x = torch.randn(100, classes).to(dtype)
    x[:, classes - 1] = lead
    target = torch.full((100,), classes - 1)
    for smoothing in (0.0, 0.1):
        both(x, target, reduction="none", label_smoothing=smoothing)
        both(x.t().contiguous()[None], target[None], reduction="none", label_smoothing=smoothing)


@pytest.mark.parametrize("shape", [(5, 1), (2, 1, 9)], ids=str)
@pytest.mark.parametrize("value", [INF, math.nan])
def test_ignored_rows_of_one_class(shape: tuple[int, ...], value: float) -> None:
    x = torch.zeros(shape)
    target = torch.zeros((shape[0], *shape[2:]), dtype=torch.long)
    x[0], target[0] = value, -100
    x.requires_grad_()
    loss = fused_ce.cross_entropy(x, target, reduction="none")
    assert torch.equal(loss, torch.zeros_like(loss))
    assert torch.equal(torch.autograd.grad(loss.sum(), x)[0], torch.zeros(shape))
    counted = fused_ce.cross_entropy(x, torch.zeros_like(target), reduction="none")
    gradient = torch.autograd.grad(counted.sum(), x)[0]
    assert counted[0].isnan().all() and gradient[0].isnan().all()
    assert torch.equal(gradient[1:], torch.zeros_like(gradient[1:]))
