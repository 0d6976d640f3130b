# SPDX-License-Identifier: BSD-3-Clause
"""How many operations ``torch.utils.flop_counter`` counts: those of the matrix products.

All rows are counted, also those that are left out because they are ignored.
"""

from typing import Any

import torch
from torch.utils.flop_counter import flop_registry, register_flop_formula


def _products(input: torch.Size, weight: torch.Size, gradients: int) -> int:
    # The logits, and of the gradients those by the input and by the weight.
    return 2 * input.numel() * weight[0] * (1 + gradients)


def _forward(input: torch.Size, weight: torch.Size, *rest: Any, **_: Any) -> int:
    needs_input, needs_weight = rest[7:9]
    return _products(input, weight, needs_input + needs_weight)


def _backward(*arguments: Any, **_: Any) -> int:
    input, weight = arguments[4:6]
    needs_input, needs_weight = arguments[12:14]
    return _products(input, weight, needs_input + needs_weight)


def _slice_sums(input: torch.Size, weight: torch.Size, *_: Any, **__: Any) -> int:
    return _products(input, weight, gradients=0)


def _slice_backward(*arguments: Any, **_: Any) -> int:
    input, weight = arguments[3:5]
    needs_input, needs_weight = arguments[11:13]
    return _products(input, weight, needs_input + needs_weight)


for _operator, _formula in (
    (torch.ops.fused_ce._linear_forward, _forward),
    (torch.ops.fused_ce._linear_backward, _backward),
    (torch.ops.fused_ce._slice_linear_sums, _slice_sums),
    (torch.ops.fused_ce._slice_linear_backward, _slice_backward),
):
    flop_registry.pop(_operator, None)  # of an import before this one
    register_flop_formula(_operator)(_formula)
