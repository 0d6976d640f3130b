# SPDX-License-Identifier: BSD-3-Clause
"""Losses and gradients to within 2.5 units in the last place of the correctly rounded ones."""

from __future__ import annotations

import fused_ce
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import DTYPES
from distributions import DISTRIBUTIONS, draw, loss_and_gradient
from exact import Array, errors, exact, goal, goal_elsewhere

# 64 bits of mantissa, or errors in float64 cannot be seen.
pytestmark = pytest.mark.skipif(
    np.finfo(np.longdouble).nmant < 63, reason="long double is no longer than double"
)


def worst(found: Array) -> float:
    return float(found.max(initial=0))


@pytest.mark.parametrize("transposed", [False, True], ids=["rows", "planes"])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows(dtype: torch.dtype, distribution: str, transposed: bool) -> None:
    for classes in (2, 9, 64, 129, 3000):
        case = draw(distribution, max(16, 8192 // classes), classes, dtype)
        want, most = exact(*case), goal(dtype)
        loss, grad = loss_and_gradient(fused_ce.cross_entropy, case, transposed)
        assert worst(errors(loss, want.loss)) <= most
        if not case.target.is_floating_point():
            assert not (loss < 0).any()
            at = (np.arange(len(grad)), case.target.numpy())
            assert worst(errors(grad[at], want.grad[at], want.terms[at])) <= most
        _, theirs = loss_and_gradient(F.cross_entropy, case, transposed)
        limit = goal_elsewhere(dtype, worst(errors(theirs, want.grad, want.terms)))
        assert worst(errors(grad, want.grad, want.terms)) <= limit


@pytest.mark.parametrize("transposed", [False, True], ids=["rows", "planes"])
def test_many_short_rows(transposed: bool) -> None:
    """Sums of few terms, whose roundings do not average out: the worst of many is far out."""
    for classes in (3, 8, 24):
        case = draw("confident", 65536, classes, torch.float32)
        want = exact(*case)
        loss, _ = loss_and_gradient(fused_ce.cross_entropy, case, transposed)
        assert worst(errors(loss, want.loss)) <= goal(torch.float32)


@pytest.mark.parametrize("distribution", ["confident", "one-hot"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_torch_misses_it(dtype: torch.dtype, distribution: str) -> None:
    """What is held above is no matter of course."""
    case = draw(distribution, 256, 9, dtype)
    loss, _ = loss_and_gradient(F.cross_entropy, case, transposed=False)
    assert worst(errors(loss, exact(*case).loss)) > 100 * goal(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_million_rows(dtype: torch.dtype) -> None:
    case = draw("normal", 1_000_000, 3, dtype)
    rows = exact(*case).loss
    for reduction, want in (("mean", rows.mean()), ("sum", rows.sum())):
        loss = fused_ce.cross_entropy(case.logits, case.target, reduction=reduction)
        assert worst(errors(loss[None], np.array([want]))) <= 1
