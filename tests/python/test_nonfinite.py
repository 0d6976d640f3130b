# SPDX-License-Identifier: BSD-3-Clause
"""Infinities and NaN among logits, targets and weights, each combination in a row of its own."""

from __future__ import annotations

import itertools
import math

import fused_ce
import pytest
import torch
import torch.nn.functional as F
from conftest import DTYPES

INF, NAN = math.inf, math.nan
LOGITS = list(itertools.product([0.5, -INF, INF, NAN], repeat=2))
# Of the first and the last class.
WEIGHTS = [None, *itertools.product([0.7, 0.0, NAN], repeat=2)]
INFINITE_WEIGHTS = [w for w in itertools.product([0.7, INF, -INF], repeat=2) if w != (0.7, 0.7)]


def with_ends(values: torch.Tensor, ends: list[tuple[float, float]]) -> torch.Tensor:
    """Rows of values with another first and last number, as many as there are pairs."""
    rows = values.repeat(len(ends), 1)
    rows[:, 0], rows[:, -1] = torch.tensor(ends).unbind(1)
    return rows


def index_rows(classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    targets = [0, 1, classes - 1, -100]
    x = with_ends(torch.randn(classes), LOGITS)
    return x.repeat(len(targets), 1), torch.tensor(targets).repeat_interleave(len(x))


def probability_rows(classes: int, ends: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    x = with_ends(torch.randn(classes), LOGITS)
    t = with_ends(torch.rand(classes), list(itertools.product(ends, repeat=2)))
    return x.repeat(len(t), 1), t.repeat_interleave(len(x), 0)


def loss_and_gradient(
    f: object, x: torch.Tensor, t: torch.Tensor, **options: object
) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone().requires_grad_()
    loss = f(x, t, **options)
    return loss.detach(), torch.autograd.grad(loss.sum(), x)[0]


def both(
    x: torch.Tensor, t: torch.Tensor, dtype: torch.dtype, planes: bool, **options: object
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Ours and torch's, of the same logits. torch rounds in between in half precision: not here."""
    if planes:
        x, t = x.t().contiguous()[None], (t.t() if t.dim() == 2 else t).contiguous()[None]
    x = x.to(dtype)
    wide = x if dtype == torch.float64 else x.float()
    weight = options.pop("weight", None)
    ours = loss_and_gradient(
        fused_ce.cross_entropy,
        x,
        t,
        weight=None if weight is None else weight.to(dtype),
        **options,
    )
    theirs = loss_and_gradient(
        F.cross_entropy,
        wide,
        t,
        weight=None if weight is None else weight.to(dtype).to(wide.dtype),
        **options,
    )
    return [tuple(r.to(wide.dtype) for r in ours), theirs]


def _few_classes_or_smoothed(
    kind: str, smoothing: float, dtype: torch.dtype, classes: int, planes: bool
) -> bool:
    return classes == 3 or (kind, smoothing, dtype, classes) == ("indices", 0.2, torch.float32, 300)


@pytest.mark.simt(when=_few_classes_or_smoothed)
@pytest.mark.parametrize("planes", [False, True], ids=["rows", "planes"])
@pytest.mark.parametrize("classes", [3, 40, 300])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
def test_as_torch(
    kind: str, smoothing: float, dtype: torch.dtype, classes: int, planes: bool
) -> None:
    if kind == "indices":
        x, t = index_rows(classes)
    else:
        x, t = probability_rows(classes, [0.3, 0.0, NAN])
    eps = torch.finfo(dtype).eps
    for ends in WEIGHTS:
        weight = None if ends is None else with_ends(torch.rand(classes) + 0.5, [ends])[0]
        ours, theirs = both(
            x, t, dtype, planes, weight=weight, label_smoothing=smoothing, reduction="none"
        )
        ignored = (t == -100).view(1, 1, -1) if planes else (t == -100).view(-1, 1)
        if kind == "indices":  # whose gradient is 0 with us, whatever the row holds
            theirs = theirs[0], theirs[1].masked_fill(ignored, 0)
        tolerance = {"rtol": max(8 * eps, 2e-5), "atol": max(2 * eps, 1e-5)}
        torch.testing.assert_close(ours, theirs, equal_nan=True, **tolerance)


@pytest.mark.simt
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
def test_reduced(kind: str, reduction: str) -> None:
    rows = index_rows(7) if kind == "indices" else probability_rows(7, [0.3, 0.0, NAN])
    for x, t in zip(*(r.split(1) for r in rows), strict=True):
        if kind == "indices" and t == -100:
            continue
        ours, theirs = both(x, t, torch.float32, planes=False, reduction=reduction)
        torch.testing.assert_close(ours, theirs, equal_nan=True)


@pytest.mark.simt(when=lambda classes, **_: classes == 3)
@pytest.mark.parametrize("planes", [False, True], ids=["rows", "planes"])
@pytest.mark.parametrize("classes", [3, 40, 300])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
def test_infinite_weights_and_probabilities(
    kind: str, smoothing: float, classes: int, planes: bool
) -> None:
    """Whether a number is finite is torch's answer; whether it is infinite or NaN is not."""
    if kind == "indices":
        x, t = index_rows(classes)
        x, t = x[t != -100], t[t != -100]
    else:
        x, t = probability_rows(classes, [0.3, 0.0, INF, -INF])
    for ends in [None, *INFINITE_WEIGHTS]:
        weight = None if ends is None else with_ends(torch.rand(classes) + 0.5, [ends])[0]
        ours, theirs = both(
            x, t, torch.float32, planes, weight=weight, label_smoothing=smoothing, reduction="none"
        )
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one.isfinite(), other.isfinite())
            finite = one.isfinite()
            torch.testing.assert_close(one[finite], other[finite], rtol=2e-5, atol=1e-5)
