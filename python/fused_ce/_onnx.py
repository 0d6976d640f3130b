# SPDX-License-Identifier: BSD-3-Clause
"""ONNX does not have these operators: torch.onnx.export gets torch's compositions in their place.

Its two exporters are met at different places. ``dynamo=True`` takes a graph of torch.export apart,
operator by operator: the operator falls apart into torch's, whoever called it. ``dynamo=False``
translates what torch.jit.trace recorded, and no operator falls apart there: our function has to
call the composition.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C import DispatchKey

_COMPOSITE = DispatchKey.CompositeImplicitAutograd


def composition(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *options: object,
    **named: object,
) -> Tensor:
    """torch's log_softmax, nll_loss and so on, which the exporters translate.

    They translate torch's loss as a whole, too, but forget its label smoothing (``dynamo=True``) or
    refuse it, and take probabilities for class indices.
    """
    # Autocast knows the loss as a whole, not its parts.
    if torch.is_autocast_enabled(input.device.type):
        input, target = _full(input), _full(target)
        weight = None if weight is None else _full(weight)
    if not target.is_floating_point():
        target = target.long()  # torch's takes no class indices of 32 bits
    loss: Tensor = torch.ops.aten.cross_entropy_loss.default._op_dk(
        _COMPOSITE, input, target, weight, *options, **named
    )
    return loss


def linear_composition(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: int = 1,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    chunk_rows: int | None = None,
) -> Tensor:
    """The layer, and the composition of its logits, which are there all at once."""
    del chunk_rows
    batch, classes = input.shape[:-1], linear_weight.shape[:-1]
    bias = None if linear_bias is None else linear_bias.flatten()
    logits = F.linear(input, linear_weight.flatten(0, -2), bias)
    options = (weight, reduction, ignore_index, label_smoothing)
    if len(classes) > 1:
        return composition(logits.reshape(*batch, *classes), target, *options)
    if len(batch) < 2:
        return composition(logits, target, *options)
    flat = target.flatten(0, len(batch) - 1)
    loss = composition(logits.flatten(0, -2), flat, *options)
    return loss.reshape(batch) if reduction == 0 else loss


def _full(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def in_torchscript_export() -> bool:
    # torch.onnx is imported by a trace, not by us; torch.compile takes is_tracing for a constant.
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return tracing and torch.onnx.is_in_onnx_export()


def _kernel(
    operator: Any, composed: Callable[..., Tensor], key: DispatchKey, *args: Any, **kwargs: Any
) -> Tensor:
    if torch.onnx.is_in_onnx_export():
        return composed(*args, **kwargs)
    loss: Tensor = operator._op_dk(key, *args, **kwargs)
    return loss


# Python kernels are for tracers of graphs alone, and no other call comes here. They stand for the
# C++ kernels that take the operators apart.
for _operator, _composed in (
    (torch.ops.fused_ce.cross_entropy.default, composition),
    (torch.ops.fused_ce.linear_cross_entropy.default, linear_composition),
):
    for _key in (_COMPOSITE, DispatchKey.AutocastCPU, DispatchKey.AutocastCUDA):
        _operator.py_kernels.pop(_key, None)  # of an import before this one
        _operator.py_impl(_key)(functools.partial(_kernel, _operator, _composed, _key))
