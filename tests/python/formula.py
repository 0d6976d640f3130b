# SPDX-License-Identifier: BSD-3-Clause
"""The loss and its gradient by the formula in float64, and how near to it a result has to be."""

from __future__ import annotations

import fused_ce
import torch
import torch.nn.functional as F


def dense_target(
    target: torch.Tensor,
    classes: int,
    dim: int,
    *,
    weight: torch.Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mass that each class has in the loss, in float64, and what a mean divides by.

    loss = -sum_c mass[c] * log_softmax(logits)[c], so d loss / d logits = mass.sum() * p - mass.
    """
    shape = [1] * (target.dim() if target.is_floating_point() else target.dim() + 1)
    shape[dim] = classes
    w = torch.ones(shape).double() if weight is None else weight.double().view(shape)
    if target.is_floating_point():
        q = target.double()
        rows = q.numel() // classes
        smooth = w * (q * (1 - label_smoothing) + label_smoothing / classes)
        return smooth, torch.tensor(float(rows), dtype=torch.float64)
    target = target.long()
    kept = target != ignore_index
    one_hot = F.one_hot(torch.where(kept, target, 0), classes).movedim(-1, dim).double()
    smooth = w * (one_hot * (1 - label_smoothing) + label_smoothing / classes)
    return smooth * kept.unsqueeze(dim), (w * one_hot * kept.unsqueeze(dim)).sum()


def check(logits: torch.Tensor, target: torch.Tensor, reduction: str = "mean", **options) -> None:
    """Compare value and gradient with float64 on the CPU, from the same, already rounded inputs.

    A result is a sum of terms. Each term may be wrong by a few units in the last place of the type
    that the kernels work in (a product or two, an exp of 1 ulp, its share of the sum's roundings;
    2e-6 for half types, far below what they resolve), and by as much in the float64 reference,
    where exp(log p) magnifies the rounding of log p, and where the roundings of a sum over the
    classes walk at random. The sum is then rounded once, to the type of the result: half a unit.
    """
    x = logits.detach().requires_grad_()
    loss = fused_ce.cross_entropy(x, target, reduction=reduction, **options)
    g = torch.randn(loss.shape).to(loss.dtype)
    (grad,) = torch.autograd.grad(loss, x, g)
    assert grad.dtype == logits.dtype
    assert grad.shape == logits.shape
    loss, grad, g, logits, target = (t.detach().cpu() for t in (loss, grad, g, logits, target))
    if "weight" in options:
        options["weight"] = options["weight"].cpu()
    with torch.device("cpu"):
        compare(loss, grad, g, logits, target, reduction, **options)


def compare(
    loss: torch.Tensor,
    grad: torch.Tensor,
    g: torch.Tensor,
    logits: torch.Tensor,
    target: torch.Tensor,
    reduction: str,
    **options,
) -> None:
    """The comparison that `check` makes, of the loss and of its gradient for g."""
    dim = min(1, logits.dim() - 1)
    mass, total = dense_target(target, logits.size(dim), dim, **options)
    log_p = logits.double().log_softmax(dim)
    theirs = F.cross_entropy(logits, target, reduction=reduction, **options)
    assert loss.dtype == theirs.dtype
    assert loss.shape == theirs.shape
    if reduction == "mean" and total == 0:
        assert torch.isnan(loss)
        assert torch.isnan(theirs)
        return

    half = logits.dtype in (torch.bfloat16, torch.float16)
    work = 2e-6 if half else 4 * torch.finfo(logits.dtype).eps
    reference = torch.finfo(torch.float64).eps * (4 + logits.size(dim) ** 0.5 / 2)
    factor = 1 / total if reduction == "mean" else torch.ones_like(total)

    def close(actual: torch.Tensor, want: torch.Tensor, terms: torch.Tensor, ulps: float) -> None:
        limits = torch.finfo(actual.dtype)
        fits = want.abs() < limits.max
        bound = limits.eps / 2 * want.abs() + ulps * terms + limits.smallest_normal * limits.eps
        assert (((actual.double() - want).abs() <= bound) | ~fits).all()
        assert torch.isinf(actual[~fits]).all()

    rows, terms = -(mass * log_p).sum(dim), (mass * (log_p.abs() + 1)).sum(dim)
    if reduction != "none":
        rows, terms = rows.sum(), terms.sum()
    close(loss, rows * factor, terms * factor, work + reference)

    scale = factor * (g.double().unsqueeze(dim) if reduction == "none" else g.double())
    pull = mass.sum(dim, keepdim=True) * log_p.exp()
    terms = scale.abs() * (pull + mass)
    close(grad, scale * (pull - mass), terms, work + reference * log_p.abs().max().item())
