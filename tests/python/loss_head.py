# SPDX-License-Identifier: BSD-3-Clause
"""The loss head as a composition of torch's operations, and what its tests share."""

from __future__ import annotations

import fused_ce
import torch
import torch.nn.functional as F
from torch import Tensor

# Options of every kind, one by one and together; what has a shape is made by `tensors`.
OPTIONS: dict[str, dict[str, object]] = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.2},
    "scaled": {"logit_scale": 1.7, "temperature": 0.6},
    "capped": {"logit_scale": 1.7, "softcap": 2.5, "temperature": 0.6},
    "z_loss": {"z_loss_weight": 0.3},
    "all": {
        "label_smoothing": 0.2,
        "logit_scale": 1.7,
        "softcap": 2.5,
        "temperature": 0.6,
        "z_loss_weight": 0.3,
    },
}
EVERYTHING = {"return_lse": True, "return_entropy": True, "return_prediction": True}


def row_shape(x: Tensor) -> torch.Size:
    return x.shape[:0] if x.dim() == 1 else x.shape[:1] + x.shape[2:]


def head(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    z_loss_weight: float = 0.0,
    row_weight: Tensor | None = None,
    normalizer: Tensor | float | None = None,
) -> fused_ce.CrossEntropyStats:
    """All of cross_entropy_stats, in the logits' own dtype."""
    dim = min(1, x.dim() - 1)
    v = logit_scale * x
    z = (v if softcap is None else softcap * torch.tanh(v / softcap)) / temperature
    log_p = z.log_softmax(dim)
    p = log_p.exp()
    classes = x.size(dim)
    w = torch.ones(classes).to(z) if weight is None else weight
    by_class = w.view(-1, *[1] * (x.dim() - dim - 1))
    r = torch.ones(row_shape(x)).to(z) if row_weight is None else row_weight
    if target.is_floating_point():
        q = by_class * (target * (1 - label_smoothing) + label_smoothing / classes)
        counts = torch.ones_like(r)
        total = r.sum()
    else:
        target = target.long().reshape(row_shape(x))
        kept = target != ignore_index
        one_hot = F.one_hot(target.where(kept, 0), classes).movedim(-1, dim).to(z)
        q = by_class * (one_hot * (1 - label_smoothing) + label_smoothing / classes)
        counts = kept.to(z)
        total = (counts * r * w[target.where(kept, 0)]).sum()
    lse = z.logsumexp(dim) * counts
    z_loss = r * z_loss_weight * lse.square()
    loss = r * counts * -(q * log_p).sum(dim) + z_loss
    if reduction != "none":
        loss, z_loss = loss.sum(), z_loss.sum()
    if reduction == "mean":
        divisor = total if normalizer is None else normalizer
        loss, z_loss = loss / divisor, z_loss / divisor
    entropy = -(p * log_p).sum(dim) * counts
    confidence, prediction = p.detach().max(dim)
    return fused_ce.CrossEntropyStats(loss, z_loss, lse, entropy, prediction, confidence)


def differentiable(stats: fused_ce.CrossEntropyStats | fused_ce.Prediction) -> list[Tensor]:
    names = ("loss", "z_loss", "lse", "entropy")
    results = (getattr(stats, name, None) for name in names)
    return [r for r in results if r is not None]


def problem(
    kind: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float64
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and the tensors that may come with them: of class indices, one row is ignored."""
    classes = shape[min(1, len(shape) - 1)]
    x = torch.randn(shape, dtype=dtype)
    if kind == "probabilities":
        target = torch.rand(shape, dtype=dtype)
    else:
        target = torch.randint(1, classes, row_shape(x))
        target.view(-1)[-1] = -100
    return x, {
        "target": target,
        "weight": torch.rand(classes, dtype=dtype) + 0.5,
        "row_weight": torch.rand(row_shape(x), dtype=dtype) + 0.5,
    }
