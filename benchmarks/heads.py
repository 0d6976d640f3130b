# SPDX-License-Identifier: BSD-3-Clause
"""A loss head in one call of fused_ce, and as a composition of torch's operators."""

from __future__ import annotations

from collections.abc import Callable

import fused_ce
import torch
import torch.nn.functional as F
from exact import accumulated
from torch import Tensor

# Of logits, class indices, the z-loss's weight and the cap.
Head = Callable[[Tensor, Tensor, float, float | None], fused_ce.CrossEntropyStats]


def ours(x: Tensor, target: Tensor, z_loss: float, cap: float | None) -> fused_ce.CrossEntropyStats:
    return fused_ce.cross_entropy_stats(
        x,
        target,
        reduction="none",
        z_loss_weight=z_loss,
        softcap=cap,
        dtype=accumulated(x.dtype),
        return_lse=True,
        return_entropy=True,
        return_prediction=True,
    )


def composed(
    x: Tensor, target: Tensor, z_loss: float, cap: float | None
) -> fused_ce.CrossEntropyStats:
    """The same of torch's operators, in the type that the statistics are given in."""
    v = x.to(accumulated(x.dtype))
    z = v if cap is None else cap * torch.tanh(v / cap)
    lse, log_p = z.logsumexp(1), z.log_softmax(1)
    confidence, prediction = z.detach().softmax(1).max(1)
    return fused_ce.CrossEntropyStats(
        F.cross_entropy(z, target, reduction="none"),
        z_loss * lse.square(),
        lse,
        -(log_p.exp() * log_p).sum(1),
        prediction,
        confidence,
    )


HEADS: dict[str, Head] = {"fused_ce": ours, "torch": composed}
