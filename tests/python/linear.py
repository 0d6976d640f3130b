# SPDX-License-Identifier: BSD-3-Clause
"""The loss of a linear layer by the formula in float64, and how near to it a result has to be."""

from __future__ import annotations

from typing import NamedTuple

import fused_ce
import torch
import torch.nn.functional as F
from formula import dense_target
from torch import Tensor


class Layer(NamedTuple):
    input: Tensor
    weight: Tensor
    bias: Tensor | None

    def leaves(self) -> list[Tensor]:
        return [t for t in self if t is not None]

    def detached(self, dtype: torch.dtype | None = None) -> Layer:
        """Of the same numbers, leaves that require grad."""
        return Layer(*(None if t is None else t.detach().to(dtype).requires_grad_() for t in self))


def layer(
    rows: int, features: int, classes: int, dtype: torch.dtype = torch.float64, bias: bool = True
) -> Layer:
    weight = torch.randn(classes, features) / features**0.5
    tensors = torch.randn(rows, features), weight, torch.randn(classes) if bias else None
    return Layer(*tensors).detached(dtype)


def loss_of(layer: Layer, target: Tensor, **options: object) -> Tensor:
    return fused_ce.linear_cross_entropy(
        layer.input, layer.weight, target, linear_bias=layer.bias, **options
    )


def composed(layer: Layer, target: Tensor, **options: object) -> Tensor:
    return F.cross_entropy(F.linear(*layer), target, **options)


def product_type(dtype: torch.dtype) -> torch.dtype:
    """What the logits are, and their gradients, before torch multiplies them."""
    if dtype == torch.bfloat16 and fused_ce.build_info()["bfloat16_products"] == "bfloat16":
        return dtype
    return torch.promote_types(dtype, torch.float32)


def check(given: Layer, target: Tensor, reduction: str = "mean", **options: object) -> None:
    """Compare the loss and all gradients with float64, within what rounding can do.

    With u half an ulp of the type that is computed in, a sum of n products is wrong by n u times
    the sum of their magnitudes at most; logits that are wrong by d make probabilities wrong by 2 d
    of themselves, and the kernels' own error is a few u. Half types, where products have them,
    round the logits, their gradients, and the products of a chunk once more.
    """
    chunk_rows = options.pop("chunk_rows", None)
    loss = loss_of(given, target, reduction=reduction, chunk_rows=chunk_rows, **options)
    g = torch.randn(loss.shape).to(loss.dtype)
    grads = torch.autograd.grad(loss, given.leaves(), g)

    exact = given.detached(torch.float64)
    x, w, b = (None if t is None else t.detach() for t in exact)
    logits = F.linear(*exact).detach()
    wide = {k: v.double() if isinstance(v, Tensor) else v for k, v in options.items()}
    mass, total = dense_target(target, logits.size(1), 1, **wide)
    log_p = logits.log_softmax(1)
    rows = -(mass * log_p.masked_fill(mass == 0, 0)).sum(1)
    upstream = g.double().expand(len(rows)) / (total if reduction == "mean" else 1)
    # Rows that do not count have no gradient, also where a mean of none divides by nothing.
    upstream = upstream.masked_fill(mass.eq(0).all(1), 0)[:, None]
    pull = log_p.exp() * mass.sum(1, keepdim=True) * upstream
    by_logits = pull - mass * upstream

    dtype = given.input.dtype
    kind = product_type(dtype)
    u = torch.finfo(torch.promote_types(kind, torch.float32)).eps / 2
    rounded = torch.finfo(kind).eps / 2 if kind == dtype and kind == torch.bfloat16 else 0.0
    magnitude = F.linear(x.abs(), w.abs(), None if b is None else b.abs())
    d = (x.size(1) + 1) * u * magnitude + rounded * logits.abs()
    d = d.max(1, keepdim=True).values
    by_logits_error = pull.abs() * (2 * d + 8 * u) + (8 * u + rounded) * by_logits.abs()

    # Each class has its own error in a row's loss, and the log-sum-exp one for all.
    row_error = mass.abs().sum(1) * (2 * d.squeeze(1) + 8 * u) + 8 * u * (mass * log_p).nan_to_num(
        0, 0, 0
    ).abs().sum(1)
    expected, error = rows, row_error
    if reduction != "none":
        divisor = total if reduction == "mean" else 1
        expected, error = rows.sum() / divisor, row_error.sum() / divisor
    near(loss, expected, error)

    def product(a: Tensor, a_error: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        terms, size = a.abs() @ c.abs(), a.size(1) + 2
        return a @ c, a_error @ c.abs() + (size * u + rounded) * terms

    ones = torch.ones(len(x), 1).double()
    near(grads[0], *product(by_logits, by_logits_error, w))
    near(grads[1], *product(by_logits.t(), by_logits_error.t(), x))
    if b is not None:
        value, error = product(by_logits.t(), by_logits_error.t(), ones)
        near(grads[2], value.squeeze(1), error.squeeze(1))


def near(actual: Tensor, expected: Tensor, error: Tensor) -> None:
    """Within the error, and the rounding to the result's own type."""
    assert actual.shape == expected.shape
    info = torch.finfo(actual.dtype)
    # Half an ulp of the expected, of what is added to it, and of the smallest numbers.
    allowed = error + (info.eps / 2) * (expected.abs() + error) + info.smallest_normal * info.eps
    wrong = (actual.double() - expected).abs() - allowed
    same = (actual.double() == expected) | (actual.isnan() & expected.isnan())
    bad = ~(same | (wrong <= 0))
    assert not bad.any(), (actual[bad], expected[bad], allowed[bad])
