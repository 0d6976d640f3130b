# SPDX-License-Identifier: BSD-3-Clause
"""Cross entropy in a type wider than the kernels', and the distance of a result from it in ulp."""

from __future__ import annotations

from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]


class Options(TypedDict, total=False):
    """Of a call of the loss."""

    weight: torch.Tensor
    label_smoothing: float


class Exact(NamedTuple):
    """Of N rows of C logits, each summed by itself."""

    loss: Array  # (N)
    grad: Array  # (N, C), a difference
    terms: Array  # (N, C), the larger of the two numbers of which it is the difference


def wide(tensor: torch.Tensor) -> Array:
    """Its values in float64, or those of float64 in long double.

    That has 64 bits of mantissa on x86, so that its own roundings are a hundredth of float64's. For
    the narrower types float64 is as good, and ten times as fast.
    """
    values: Array = tensor.detach().double().numpy()
    return values.astype(np.longdouble) if tensor.dtype == torch.float64 else values


def exact(logits: torch.Tensor, target: torch.Tensor, options: Options | None = None) -> Exact:
    """Loss q . (lse - x) and gradient mass p - q of rows, for a target of either kind.

    One class a row is the pivot, the target or the likeliest. Its own exponential stays out of the
    sum, so that nll, its lse - x, is log(1 + others) and cancels nowhere.
    """
    x = wide(logits)
    rows, classes = np.arange(len(x)), x.shape[1]
    if target.is_floating_point():
        pivot, hard = x.argmax(1), wide(target)
    else:
        pivot, hard = target.numpy(), np.zeros_like(x)
        hard[rows, pivot] = 1
    options = options or {}
    smoothing = x.dtype.type(options.get("label_smoothing", 0.0))
    q = (1 - smoothing) * hard + smoothing / classes
    if "weight" in options:
        q *= wide(options["weight"])

    below = x - x[rows, pivot][:, None]
    others = below.copy()
    others[rows, pivot] = -np.inf
    largest = others.max(1, keepdims=True)
    odds = largest[:, 0] + np.log(np.exp(others - largest).sum(1))
    nll = np.logaddexp(0, odds)[:, None]
    loss = (q * (nll - below)).sum(1)

    e = np.exp(x - x.max(1, keepdims=True))
    total = e.sum(1, keepdims=True)
    pulls, pushes = q.sum(1, keepdims=True) * e / total, q.copy()
    if not target.is_floating_point():
        # At the target mass p - q is (mass - q) p - q (1 - p), and 1 - p the others' share.
        q[rows, pivot] = 0
        pulls[rows, pivot] = q.sum(1) * e[rows, pivot] / total[:, 0]
        e[rows, pivot] = 0
        pushes[rows, pivot] *= e.sum(1) / total[:, 0]
    return Exact(loss, pulls - pushes, np.maximum(pulls, pushes))


class Statistics(NamedTuple):
    """Of N rows of C logits; gradients are those of a row's own statistic."""

    largest: NDArray[np.intp]  # (N), the class
    confidence: Array  # (N)
    lse: Array  # (N)
    lse_terms: Array  # (N), what it is exact to an ulp of: itself, or a term of it that is larger
    entropy: Array  # (N)
    shares: Array  # (N, C), the softmax, which is the gradient of lse
    entropy_grad: Array  # (N, C), a difference
    entropy_terms: Array  # (N, C), the larger of the two numbers of which it is the difference


def capped(logits: torch.Tensor, cap: float | None) -> Array:
    x = wide(logits)
    return x if cap is None else cap * np.tanh(x / cap)


def exact_statistics(z: Array) -> Statistics:
    """Of logits z in a wider type.

    With k the largest class, S the sum of the others' e^(z_j - z_k), and L the sum of those times
    z_k - z_j, the entropy is log(1 + S) + L / (1 + S): no term is negative, and a confident row
    cancels nowhere. The gradient of the entropy is p_j (z_k - z_j - G), with G = L / (1 + S), the
    mean of all z_k - z_j, and at k it has one term. lse is z_k + log(1 + S), which cancels where
    it is near 0.
    """
    rows, largest = np.arange(len(z)), z.argmax(1)
    z_k = z[rows, largest]
    gaps = z_k[:, None] - z
    e = np.exp(-gaps)
    shares = e.copy()
    e[rows, largest] = 0
    total = 1 + e.sum(1)
    mean_gap = (e * gaps).sum(1) / total
    log_total = np.log1p(e.sum(1))
    shares /= total[:, None]
    return Statistics(
        largest,
        1 / total,
        z_k + log_total,
        # Of the logarithm: an ulp of what it is taken of is an ulp of 1.
        np.maximum.reduce([np.abs(z_k + log_total), np.abs(z_k), np.full_like(z_k, 1.5)]),
        log_total + mean_gap,
        shares,
        shares * (gaps - mean_gap[:, None]),
        shares * np.maximum(gaps, mean_gap[:, None]),
    )


def accumulated(dtype: torch.dtype) -> torch.dtype:
    """What statistics of such logits are given in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def ulp(size: Array, dtype: torch.dtype) -> Array:
    """The distance between neighbouring numbers of the type below that size.

    Below, for what lies just under a power of two may have been rounded to it.
    """
    limits = torch.finfo(dtype)
    size = np.maximum(np.abs(size), limits.smallest_normal).astype(np.float64)
    power: Array = ((size.view(np.int64) - 1) & (0x7FF << 52)).view(np.float64)
    return np.maximum(power, limits.smallest_normal) * limits.eps


def errors(actual: torch.Tensor, want: Array, size: Array | None = None) -> Array:
    """In ulp of the result's type; 0.5 is the best there is. Subnormal results count as right."""
    size = want if size is None else size
    found: Array = np.abs(wide(actual) - want) / ulp(size, actual.dtype)
    found[np.isnan(found)] = np.inf
    found[np.abs(size) < torch.finfo(actual.dtype).smallest_normal] = 0
    return found


def goal(dtype: torch.dtype) -> float:
    """The most ulp that a row's loss, and the gradient at its target, may be off.

    float32: 2.5 from the correctly rounded result, which is half of one off itself: an exponential
    and up to three additions of float32. Half types are computed in float32, to a relative error
    of 3e-6 (of an exponential 80 below the largest), and rounded once. float64: sums are
    compensated, so that the number of classes makes no difference.
    """
    if dtype in (torch.bfloat16, torch.float16):
        return 0.5 + 3e-6 * 2 / torch.finfo(dtype).eps
    return 3.0 if dtype == torch.float32 else 5.0


def goal_elsewhere(dtype: torch.dtype, theirs: float) -> float:
    """The same of the gradients at other classes: of float32 the roundings of the saved sum, the
    factor and another exponential besides; of the other types torch's own error.
    """
    return 5.0 if dtype == torch.float32 else max(goal(dtype), theirs)
