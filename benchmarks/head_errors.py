# SPDX-License-Identifier: BSD-3-Clause
"""How far off the statistics of a loss head are, and their gradients, in ulp."""

from __future__ import annotations

import numpy as np
import torch
from distributions import Rows, planes
from exact import Array, errors, exact_statistics, wide
from heads import Head
from torch import Tensor
from worst_rows import Errors

Z_LOSS = 1e-4
Case = tuple[Tensor, Tensor]  # logits, class indices


def layouts(case: Rows) -> dict[str, Case]:
    return {
        "rows": (case.logits.detach().requires_grad_(), case.target),
        "planes": (planes(case.logits).requires_grad_(), case.target[None]),
    }


def gradient(result: Tensor | None, x: Tensor) -> Tensor:
    """Of each row's own result, (N, C)."""
    assert result is not None
    (grad,) = torch.autograd.grad(result.sum(), x, retain_graph=True)
    return grad[0].t() if x.dim() == 3 else grad


def errors_of(actual: Tensor | None, want: Array, size: Array | None = None) -> Array:
    assert actual is not None
    return errors(actual.flatten(), want, size)


def errors_of_statistics(head: Head, case: Rows) -> Errors:
    """Of lse near 0 in ulp of the logit that is nearly all of it, and plain as well."""
    want = exact_statistics(wide(case.logits))
    at = (np.arange(len(want.largest)), want.largest)
    weight = want.lse.dtype.type(Z_LOSS)
    slope, slope_terms = 2 * weight * want.lse, 2 * weight * want.lse_terms
    # Products with a probability that underflows are left out, as the probability is.
    normal = want.shares >= torch.finfo(case.logits.dtype).smallest_normal
    found: Errors = {}
    for layout, (x, target) in layouts(case).items():
        stats = head(x, target, Z_LOSS, None)
        elsewhere = errors(gradient(stats.entropy, x), want.entropy_grad, want.entropy_terms)
        leading = elsewhere[at]
        elsewhere[at] = 0
        pulls = errors(
            gradient(stats.z_loss, x),
            slope[:, None] * want.shares,
            slope_terms[:, None] * want.shares,
        )
        found[layout] = {
            "entropy": errors_of(stats.entropy, want.entropy),
            "entropy, gradient at the largest": leading,
            "entropy, gradient elsewhere": np.where(normal, elsewhere, 0).max(1),
            "lse": errors_of(stats.lse, want.lse, want.lse_terms),
            "lse, plain": errors_of(stats.lse, want.lse),
            "z-loss": errors_of(
                stats.z_loss, weight * want.lse**2, weight * np.abs(want.lse) * want.lse_terms
            ),
            "z-loss, gradient": np.where(normal, pulls, 0).max(1),
            "confidence": errors_of(stats.confidence, want.confidence),
        }
    return found


def from_one_up(case: Rows) -> Rows:
    x = case.logits.double()
    x = x - x.amin(1, keepdim=True) + 1
    return case._replace(logits=x.to(case.logits.dtype))


def errors_from_one_up(head: Head, case: Rows) -> Errors:
    return errors_of_statistics(head, from_one_up(case))
