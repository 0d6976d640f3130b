# SPDX-License-Identifier: BSD-3-Clause
"""torch.vmap of the linear operators, as ``_vmap`` has those of the loss.

Samples of one layer are one batch for it. Layers of each sample's own, and the gradient by a layer
that is one for all, of which each sample has its own, take a call a sample.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fused_ce._vmap import (
    MEAN,
    NONE,
    Dims,
    _by_row,
    _loss_dtype,
    _of_samples,
    _one_by_one,
    _samples,
    _total_weights,
    register,
)

_forward = torch.ops.fused_ce._linear_forward
_backward = torch.ops.fused_ce._linear_backward


def _forward_rule(
    info: Any,
    dims: Dims,
    self: Tensor,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    row_weight: Tensor | None,
    normalizer: Tensor | None,
    dtype: torch.dtype | None,
    save: bool,
    needs_input: bool,
    needs_weight: bool,
    needs_bias: bool,
    reduction: int = MEAN,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    z_loss_weight: float = 0.0,
    return_z_loss: bool = False,
    return_lse: bool = False,
    return_entropy: bool = False,
    return_prediction: bool = False,
    chunk_rows: int = 0,
) -> Any:
    size, dims = info.batch_size, dims[:7]
    outputs = (return_z_loss, return_lse, return_entropy, return_prediction)
    options = (
        *(ignore_index, label_smoothing, logit_scale, softcap, temperature, z_loss_weight),
        *(*outputs, chunk_rows),
    )
    needs = (needs_input, needs_weight, needs_bias)
    if any(needs):  # no operator of ours asks for that inside a transform
        raise RuntimeError("fused_ce::_linear_forward: vmap of gradients in forward")
    if any(dims[i] is not None for i in (1, 2, 4)):
        tensors = (self, linear_weight, linear_bias, target, weight, row_weight, normalizer)
        rest = (dtype, save, *needs, reduction, *options)
        return _one_by_one(_forward, size, dims, (*tensors, *rest))
    x, t = _samples(self, dims[0], size), _samples(target, dims[3], size)
    r = None if row_weight is None else _samples(row_weight, dims[5], size)
    probabilities = target.is_floating_point()
    loss_dtype = dtype or _loss_dtype(self, probabilities, target, weight)
    row_dtype = loss_dtype if reduction == NONE else torch.float64
    class_weight = weight.to(row_dtype) if weight is not None and not probabilities else weight
    *results, saved, total, by_input, by_weight, by_bias = _forward(
        *(x.flatten(0, 1), linear_weight, linear_bias, t.flatten(0, 1), class_weight),
        *(None if r is None else r.flatten(0, 1), None, row_dtype, save, *needs, NONE, *options),
    )
    weights, total_dim = None, None
    if reduction == MEAN:
        rows = (*x.shape[:2], linear_weight.size(0))  # of logits
        weights = _total_weights(
            x.new_empty(1).expand(rows), t, weight, r, ignore_index, probabilities
        )
        if normalizer is not None:
            weights = _samples(normalizer, dims[6], size).to(weights)
        if save:
            total, total_dim = weights, 0
    given = [True, *outputs, return_prediction]
    results = _of_samples(results, given, tuple(x.shape[:2]), reduction, weights, loss_dtype)
    if save:
        saved = saved.unflatten(1, x.shape[:2])
    result_dims = (0 if is_given else None for is_given in given)
    return (*results, saved, total, by_input, by_weight, by_bias), (
        *(*result_dims, 1 if save else None, total_dim),
        *(None, None, None),
    )


def _backward_rule(
    info: Any,
    dims: Dims,
    grad_loss: Tensor | None,
    grad_z_loss: Tensor | None,
    grad_lse: Tensor | None,
    grad_entropy: Tensor | None,
    self: Tensor,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    row_weight: Tensor | None,
    saved: Tensor,
    total_weight: Tensor,
    needs_input: bool,
    needs_weight: bool,
    needs_bias: bool,
    reduction: int = MEAN,
    *options: Any,
) -> Any:
    size, dims = info.batch_size, dims[:12]
    incoming = (grad_loss, grad_z_loss, grad_lse, grad_entropy)
    needs = (needs_input, needs_weight, needs_bias)
    if needs != (True, False, False) or any(dims[i] is not None for i in (5, 6, 8)):
        tensors = (
            *(*incoming, self, linear_weight, linear_bias, target, weight, row_weight),
            *(saved, total_weight),
        )
        return _one_by_one(_backward, size, dims, (*tensors, *needs, reduction, *options))
    grads = [
        None if g is None else _samples(g, d, size) for g, d in zip(incoming, dims[:4], strict=True)
    ]
    x, t = _samples(self, dims[4], size), _samples(target, dims[7], size)
    r = None if row_weight is None else _samples(row_weight, dims[9], size)
    divisor = _samples(total_weight, dims[11], size) if reduction == MEAN else None
    by_row = _by_row(grads, tuple(x.shape[:2]), reduction, divisor)
    by_input, by_weight, by_bias = _backward(
        *(None if g is None else g.flatten(0, 1) for g in by_row),
        *(x.flatten(0, 1), linear_weight, linear_bias, t.flatten(0, 1), weight),
        None if r is None else r.flatten(0, 1),
        *(_samples(saved, dims[10], size).movedim(0, 1).flatten(1, 2), total_weight),
        *(*needs, NONE, *options),
    )
    return (by_input.reshape(x.shape), by_weight, by_bias), (0, None, None)


register("fused_ce::_linear_forward", _forward_rule)
register("fused_ce::_linear_backward", _backward_rule)
