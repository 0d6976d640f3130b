"""How many operations ``torch.utils.flop_counter`` counts: those of the matrix products.

All rows are counted, also those that are left out because they are ignored.
"""

from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula


def _products(input: torch.Size, weight: torch.Size, gradients: int) -> int:
    # The logits, and of the gradients those by the input and by the weight.
    return 2 * input.numel() * weight[0] * (1 + gradients)


@register_flop_formula(torch.ops.fused_ce._linear_forward)
def _forward(input: torch.Size, weight: torch.Size, *rest: Any, **_: Any) -> int:
    needs_input, needs_weight = rest[7:9]
    return _products(input, weight, needs_input + needs_weight)


@register_flop_formula(torch.ops.fused_ce._linear_backward)
def _backward(*arguments: Any, **_: Any) -> int:
    input, weight = arguments[4:6]
    needs_input, needs_weight = arguments[12:14]
    return _products(input, weight, needs_input + needs_weight)
