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
        return tuple(r.new_empty((0, *r.shape)) for r in of_zeros), (0, 0, 0)
    results = [
        op(
            *(a if d is None else a.select(d, i) for a, d in zip(arguments, dims, strict=False)),
            *constants,
        )
        for i in range(size)
    ]
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    return tuple(map(torch.stack, zip(*results, strict=True))), (0, 0, 0)


def _forward_rule(
    info: Any,
    dims: Dims,
    self: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    dtype: torch.dtype | None = None,
    save: bool = False,
    reduction: int = MEAN,
    ignore_index: int = -100,
    *options: Any,
) -> Any:
    size = info.batch_size
    dims = (*dims, None)[:3]  # of the tensors: trailing defaults are not handed over
    if dims[2] is not None:
        rest = (dtype, save, reduction, ignore_index, *options)
        return _one_by_one(_forward, size, dims, (self, target, weight, *rest))
    x, t = _samples(self, dims[0], size), _samples(target, dims[1], size)
    is_row = x.dim() == 2
    rows = x.shape[2:] if is_row else x.shape[1:2] + x.shape[3:]
    probabilities = x.shape == t.shape
    loss_dtype = dtype or self.dtype
    if probabilities and dtype is None:
        for other in (target, weight):
            if other is not None:
                loss_dtype = torch.promote_types(loss_dtype, other.dtype)
    if is_row and not probabilities:
        t = t.reshape(size)
    row_dtype = loss_dtype if reduction == NONE else torch.float64
    row_weight = weight.to(row_dtype) if weight is not None and not probabilities else weight
    loss, saved, total = _forward(
        *(_joined(x, is_row), _joined(t, is_row), row_weight),
        *(row_dtype, save, NONE, ignore_index, *options),
    )
    if save:
        saved = saved.unflatten(1, (size, rows.numel()))
    saved_dim = 1 if save else None
    if reduction == NONE:
        return (loss.reshape(size, *rows), saved, total), (0, saved_dim, None)

    loss = _sums(loss.reshape(size, *rows))
    if reduction == MEAN:
        weights = _total_weights(x, t, weight, ignore_index, probabilities)
        loss = loss / weights
        if save:
            return (loss.to(loss_dtype), saved, weights), (0, saved_dim, 0)
    return (loss.to(loss_dtype), saved, total), (0, saved_dim, None)


def _total_weights(
    x: Tensor, t: Tensor, weight: Tensor | None, ignore_index: int, probabilities: bool
) -> Tensor:
    """What the mean of each sample divides by."""
    if probabilities:
        classes = x.size(1 if x.dim() == 2 else 2)
        # As torch counts them, which is no number where there are no classes.
        rows = x[0].numel() / classes if classes else math.nan
        return torch.full((x.size(0),), rows, dtype=torch.float64, device=x.device)
    t = t.long()  # no uint8 is -100, nor 156
    counted = t != ignore_index
    if weight is None:
        return _sums(counted.double())
    of_rows = weight.to(torch.float64).take(t.masked_fill(~counted, 0))
    return _sums(of_rows * counted)


def _backward_rule(
    info: Any,
    dims: Dims,
    grad_output: Tensor,
    self: Tensor,
    target: Tensor,
    weight: Tensor | None,
    saved: Tensor,
    total_weight: Tensor,
    reduction: int = MEAN,
    *options: Any,
) -> Any:
    size = info.batch_size
    dims = dims[:6]
    if dims[3] is not None:
        tensors = (grad_output, self, target, weight, saved, total_weight)
        return _one_by_one(_backward, size, dims, (*tensors, reduction, *options))
    g = _samples(grad_output, dims[0], size)
    # Linear in the incoming gradient, so that one of ones serves all. (Not where a mean may divide
    # by nothing.)
    if dims[1:] == (None,) * 5 and reduction != MEAN:
        class_dim = 1 if self.dim() > 1 else 0
        rows = self.shape[:class_dim] + self.shape[class_dim + 1 :]
        ones = self.new_ones(rows, dtype=torch.float32)
        of_rows = _backward(ones, self, target, weight, saved, total_weight, NONE, *options)
        g = g.to(torch.float64 if self.dtype == torch.float64 else torch.float32)
        by_row = g.unsqueeze(1 + class_dim) if reduction == NONE else _each(g, self.dim())
        return (of_rows * by_row).to(self.dtype), 0

    x, t = _samples(self, dims[1], size), _samples(target, dims[2], size)
    is_row = x.dim() == 2
    if is_row and x.shape != t.shape:
        t = t.reshape(size)
    rows = x.shape[:1] if is_row else x.shape[:2] + x.shape[3:]
    if reduction == MEAN:
        g = g.double() / _samples(total_weight, dims[5], size)
    by_row = g if reduction == NONE else _each(g, len(rows) - 1).expand(rows)
    gradient = _backward(
        *(_joined(by_row, is_row), _joined(x, is_row), _joined(t, is_row), weight),
        *(_samples(saved, dims[4], size).movedim(0, 1).flatten(1, 2), total_weight, NONE),
        *options,
    )
    return gradient.reshape(x.shape), 0


_RULES: dict[str, Callable[..., Any]] = {
    "fused_ce::_forward": _forward_rule,
    "fused_ce::_backward": _backward_rule,
}
for _name, _rule in _RULES.items():
    # Not once more, where the package is imported again.
    if not torch._C._dispatch_has_kernel_for_dispatch_key(_name, "FuncTorchBatched"):
        torch.library.register_vmap(_name, _rule)
