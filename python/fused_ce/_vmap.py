# SPDX-License-Identifier: BSD-3-Clause
"""torch.vmap: the rows of all mapped samples are computed by one call of the operators.

These are the rules of the private operators, which are all that a transformed loss consists of.
The mapped dimension joins the rows: B samples of (N, C, d1, ...) become (B * N, C, d1, ...). The
loss of a sample is the sum of its rows' losses, which the kernels give in float64. Weights of each
sample's own take a call a sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_forward = torch.ops.fused_ce._forward
_backward = torch.ops.fused_ce._backward

Dim = int | None
Dims = tuple[Dim, ...]
NONE, MEAN = 0, 1  # of at::Reduction


def _samples(tensor: Tensor, dim: Dim, size: int) -> Tensor:
    """The tensor with the mapped dimension in front; repeated, where it is not mapped."""
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _each(numbers: Tensor, dims: int) -> Tensor:
    """One number a sample, shaped to broadcast over the sample's dimensions."""
    return numbers.reshape(-1, *[1] * dims)


def _sums(rows: Tensor) -> Tensor:
    """The sum of each sample, of one number a row."""
    return rows.flatten(1).sum(1) if rows.dim() > 1 else rows


def _joined(samples: Tensor, is_row: bool) -> Tensor:
    """The samples' rows as those of one call."""
    return samples if is_row else samples.flatten(0, 1)


def _one_by_one(op: Callable[..., Any], size: int, dims: Dims, arguments: tuple[Any, ...]) -> Any:
    """For weights of each sample's own: a call has one weight a class."""
    constants = arguments[len(dims) :]
    if size == 0:  # one of zeros says what an empty result looks like
        zeros = (
            a if d is None else a.new_zeros(a.shape[:d] + a.shape[d + 1 :])
            for a, d in zip(arguments, dims, strict=False)
        )
        of_zeros = op(*zeros, *constants)
        if isinstance(of_zeros, Tensor):
            return of_zeros.new_empty((0, *of_zeros.shape)), 0
        return tuple(r.new_empty((0, *r.shape)) for r in of_zeros), (0,) * len(of_zeros)
    results = [
        op(
            *(a if d is None else a.select(d, i) for a, d in zip(arguments, dims, strict=False)),
            *constants,
        )
        for i in range(size)
    ]
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    return tuple(map(torch.stack, zip(*results, strict=True))), (0,) * len(results[0])


def _forward_rule(
    info: Any,
    dims: Dims,
    self: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    row_weight: Tensor | None = None,
    normalizer: Tensor | None = None,
    dtype: torch.dtype | None = None,
    save: bool = False,
    reduction: int = MEAN,
    ignore_index: int = -100,
    *options: Any,
) -> Any:
    size = info.batch_size
    dims = (*dims, None, None, None)[:5]  # of the tensors: trailing defaults are not handed over
    if dims[2] is not None:
        tensors = (self, target, weight, row_weight, normalizer)
        rest = (dtype, save, reduction, ignore_index, *options)
        return _one_by_one(_forward, size, dims, (*tensors, *rest))
    x, t = _samples(self, dims[0], size), _samples(target, dims[1], size)
    r = None if row_weight is None else _samples(row_weight, dims[3], size)
    is_row = x.dim() == 2
    rows = x.shape[2:] if is_row else x.shape[1:2] + x.shape[3:]
    probabilities = x.shape == t.shape
    loss_dtype = dtype or _loss_dtype(self, probabilities, target, weight)
    if is_row and not probabilities:
        t = t.reshape(size)
    row_dtype = loss_dtype if reduction == NONE else torch.float64
    class_weight = weight.to(row_dtype) if weight is not None and not probabilities else weight
    *results, saved, total = _forward(
        *(_joined(x, is_row), _joined(t, is_row), class_weight),
        *(None if r is None else _joined(r, is_row), None),
        *(row_dtype, save, NONE, ignore_index, *options),
    )
    total_dim = None
    if reduction == MEAN:
        weights = _total_weights(x, t, weight, r, ignore_index, probabilities)
        if normalizer is not None:
            weights = _samples(normalizer, dims[4], size).to(weights)
        if save:
            total, total_dim = weights, 0

    # Which results there are, as the last four of the options say.
    z_loss, lse, entropy, prediction = (*options[6:], *[False] * 4)[:4]
    given = [True, z_loss, lse, entropy, prediction, prediction]
    divisor = weights if reduction == MEAN else None
    results = _of_samples(results, given, (size, *rows), reduction, divisor, loss_dtype)
    if save:
        saved = saved.unflatten(1, (size, math.prod(rows)))
    result_dims = (0 if is_given else None for is_given in given)
    return (*results, saved, total), (*result_dims, 1 if save else None, total_dim)


def _loss_dtype(
    self: Tensor, probabilities: bool, target: Tensor, weight: Tensor | None
) -> torch.dtype:
    """Of torch's loss."""
    dtype = self.dtype
    if probabilities:
        for other in (target, weight):
            if other is not None:
                dtype = torch.promote_types(dtype, other.dtype)
    return dtype


def _of_samples(
    results: list[Tensor],
    given: list[bool],
    shape: tuple[int, ...],
    reduction: int,
    divisor: Tensor | None,
    loss_dtype: torch.dtype,
) -> list[Tensor]:
    """Each sample's results, from a number a row of all of them; empty stays what is not given."""
    of_samples = []
    for i, of_rows in enumerate(results):
        result = of_rows.reshape(shape) if given[i] else of_rows
        if i < 2:  # the loss and the z-loss
            if given[i] and reduction != NONE:
                result = _sums(result)
            if given[i] and divisor is not None:
                result = result / divisor
            result = result.to(loss_dtype)
        of_samples.append(result)
    return of_samples


def _total_weights(
    x: Tensor,
    t: Tensor,
    weight: Tensor | None,
    row_weight: Tensor | None,
    ignore_index: int,
    probabilities: bool,
) -> Tensor:
    """What the mean of each sample divides by."""
    if probabilities and row_weight is not None:
        return _sums(row_weight.double())
    if probabilities:
        classes = x.size(1 if x.dim() == 2 else 2)
        # As torch counts them, which is no number where there are no classes.
        rows = x[0].numel() / classes if classes else math.nan
        return torch.full((x.size(0),), rows, dtype=torch.float64, device=x.device)
    t = t.long()  # no uint8 is -100, nor 156
    counted = t != ignore_index
    of_rows = counted.double()
    if weight is not None:
        of_rows = of_rows * weight.double().take(t.masked_fill(~counted, 0))
    if row_weight is not None:
        of_rows = of_rows * row_weight.double().reshape(t.shape)
    return _sums(of_rows)


def _backward_rule(
    info: Any,
    dims: Dims,
    grad_loss: Tensor | None,
    grad_z_loss: Tensor | None,
    grad_lse: Tensor | None,
    grad_entropy: Tensor | None,
    self: Tensor,
    target: Tensor,
    weight: Tensor | None,
    row_weight: Tensor | None,
    saved: Tensor,
    total_weight: Tensor,
    reduction: int = MEAN,
    *options: Any,
) -> Any:
    size = info.batch_size
    dims = dims[:10]
    incoming = (grad_loss, grad_z_loss, grad_lse, grad_entropy)
    constants = (self, target, weight, row_weight, saved, total_weight)
    grad_dims, (self_dim, target_dim, weight_dim, row_dim, saved_dim, total_dim) = (
        dims[:4],
        dims[4:],
    )
    if weight_dim is not None:
        return _one_by_one(_backward, size, dims, (*incoming, *constants, reduction, *options))
    grads = [
        None if g is None else _samples(g, d, size)
        for g, d in zip(incoming, grad_dims, strict=True)
    ]
    # Linear in the incoming gradients, so that one of ones serves all. (Not where a mean may divide
    # by nothing.)
    if dims[4:] == (None,) * 6 and reduction != MEAN:
        return _of_ones(grads, constants, reduction, options), 0

    x, t = _samples(self, self_dim, size), _samples(target, target_dim, size)
    r = None if row_weight is None else _samples(row_weight, row_dim, size)
    is_row = x.dim() == 2
    if is_row and x.shape != t.shape:
        t = t.reshape(size)
    rows = x.shape[:1] if is_row else x.shape[:2] + x.shape[3:]

    divisor = _samples(total_weight, total_dim, size) if reduction == MEAN else None
    by_row = _by_row(grads, rows, reduction, divisor)
    gradient = _backward(
        *(None if g is None else _joined(g, is_row) for g in by_row),
        *(_joined(x, is_row), _joined(t, is_row), weight),
        None if r is None else _joined(r, is_row),
        *(_samples(saved, saved_dim, size).movedim(0, 1).flatten(1, 2), total_weight, NONE),
        *options,
    )
    return gradient.reshape(x.shape), 0


def _by_row(
    grads: list[Tensor | None],
    rows: tuple[int, ...],
    reduction: int,
    divisor: Tensor | None,
) -> list[Tensor | None]:
    """Incoming gradients of each row's own results, from those of each sample's."""

    def of_rows(g: Tensor | None) -> Tensor | None:
        if g is None or reduction == NONE:
            return g
        if divisor is not None:
            g = g.double() / divisor
        return _each(g, len(rows) - 1).expand(rows)

    return [of_rows(grads[0]), of_rows(grads[1]), grads[2], grads[3]]


def _of_ones(
    grads: list[Tensor | None],
    constants: tuple[Tensor | None, ...],
    reduction: int,
    options: tuple[Any, ...],
) -> Tensor:
    """The gradients for several incoming ones of the same logits: a call for each result."""
    self = constants[0]
    assert self is not None
    class_dim = 1 if self.dim() > 1 else 0
    accumulate = torch.float64 if self.dtype == torch.float64 else torch.float32
    ones = self.new_ones(self.shape[:class_dim] + self.shape[class_dim + 1 :], dtype=accumulate)
    gradients = []
    for i, g in enumerate(grads):
        if g is None:
            continue
        only = [ones if k == i else None for k in range(len(grads))]
        of_rows = _backward(*only, *constants, NONE, *options)
        is_reduced = i < 2 and reduction != NONE  # the loss and the z-loss
        by_row = _each(g, self.dim()) if is_reduced else g.unsqueeze(1 + class_dim)
        gradients.append(of_rows * by_row.to(accumulate))
    total: Tensor = sum(gradients[1:], gradients[0])
    return total.to(self.dtype)


def register(name: str, rule: Callable[..., Any]) -> None:
    # Not once more, where the package is imported again.
    if not torch._C._dispatch_has_kernel_for_dispatch_key(name, "FuncTorchBatched"):
        torch.library.register_vmap(name, rule)


register("fused_ce::_forward", _forward_rule)
register("fused_ce::_backward", _backward_rule)
