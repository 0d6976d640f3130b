# SPDX-License-Identifier: BSD-3-Clause
"""The loss as a function."""

import re
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn import _reduction as _Reduction
from torch.overrides import handle_torch_function, has_torch_function_variadic

from fused_ce import _C, _dtensor
from fused_ce._onnx import composition, in_torchscript_export

__all__ = ["cross_entropy"]

# Bound once: look-ups are dear beside a small batch. TorchScript and dynamo know these functions
# under any name, and see neither `_direct` nor what follows it.
_direct = _C.cross_entropy
_is_scripting = torch.jit.is_scripting  # type: ignore[attr-defined]
_is_dynamo_compiling = torch.compiler.is_dynamo_compiling
_operator = torch.ops.fused_ce.cross_entropy


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    r"""Cross entropy between logits and targets, in one fused pass over the logits.

    A drop-in for :func:`torch.nn.functional.cross_entropy`: the same arguments, results, errors and
    dtype of the loss. Calls ``torch.ops.fused_ce.cross_entropy``, or where nothing traces,
    transforms or intercepts the call, what that does in the end.

    For one row of logits :math:`x`, with :math:`\log p_c = x_c - \log \sum_j e^{x_j}`,

    .. math::
        \ell = -\sum_c w_c \, q_c \log p_c, \qquad
        q_c = (1 - \varepsilon)\, y_c + \varepsilon / C,

    where :math:`w` is ``weight`` (ones if not given), :math:`\varepsilon` is ``label_smoothing``,
    and :math:`y` is the row of class probabilities, or one at the class index and zero elsewhere.
    ``"mean"`` divides the sum of the rows' losses by the number of rows for probabilities, and by
    the sum of :math:`w` at the targets, ignored rows left out, for class indices.

    Args:
        input: logits, not probabilities: of shape (C), (N, C) or (N, C, d1, ..., dK), with any
            strides; float32, float64, bfloat16 or float16.
        target: class indices in [0, C), int64, int32, int16, int8 or uint8, of the shape of
            ``input`` without C; or class probabilities, floating point, of the shape of ``input``.
        weight: one factor for each class, of shape (C) and the dtype of ``input``; with class
            probabilities, of any other floating point or integer dtype as well.
        size_average: deprecated, as in torch; use ``reduction``.
        ignore_index: a class index whose rows count neither in the loss nor in the gradient, which
            is 0 there. Any value; class probabilities take none of 0 or more.
        reduce: deprecated, as in torch; use ``reduction``.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        label_smoothing: the part of the target that is spread over all classes, in [0, 1].

    Returns:
        The loss: of the shape of ``input`` without C for ``"none"``, else a scalar. It has the
        dtype of ``input`` (promoted with that of class probabilities; float32 for half precision
        under :class:`torch.autocast`).

    Raises:
        IndexError: a class index lies outside [0, C) and is not ``ignore_index``, or ``input`` is
            a scalar.
        TypeError: an argument is of another Python type.
        ValueError: ``reduction`` is unknown, or the batch sizes differ.
        RuntimeError: shapes, dtypes or devices do not fit together, ``weight`` does not have C
            elements, or ``label_smoothing`` lies outside [0, 1].
        NotImplementedError: the dtype or the layout of ``input`` has no kernel (integers, complex
            numbers, sparse tensors), or it has 2^31 classes or more on the CPU.

    Sources: :class:`torch.nn.CrossEntropyLoss` defines the function; label smoothing is due to
    Szegedy et al., 2016, `Rethinking the Inception Architecture for Computer Vision
    <https://arxiv.org/abs/1512.00567>`__.

    Example::

        >>> logits = torch.tensor([[3.2, 0.2, 0.9]], requires_grad=True)
        >>> loss = fused_ce.cross_entropy(logits, torch.tensor([2]))
        >>> loss.backward()
        >>> f"{loss.item():.4f}"
        '2.4398'
    """
    if not _is_scripting() and not _is_dynamo_compiling() and size_average is reduce is None:
        plain = _direct(input, target, weight, ignore_index, reduction, label_smoothing)
        if plain is not None:
            return plain
    if has_torch_function_variadic(input, target, weight):
        overridden: Tensor = handle_torch_function(
            cross_entropy,
            (input, target, weight),
            input,
            target,
            weight=weight,
            size_average=size_average,
            ignore_index=ignore_index,
            reduce=reduce,
            reduction=reduction,
            label_smoothing=label_smoothing,
        )
        return overridden
    if size_average is not None or reduce is not None:
        reduction = _legacy_reduction(size_average, reduce)
    number = _Reduction.get_enum(reduction)
    if _is_scripting():  # which checks types before, and knows no `try`
        loss: Tensor = torch.ops.fused_ce.cross_entropy(
            input, target, weight, number, ignore_index, label_smoothing
        )
        return loss
    if in_torchscript_export():
        return composition(input, target, weight, number, ignore_index, label_smoothing)
    result: Tensor = call(
        _operator, ignore_index, input, target, weight, number, ignore_index, label_smoothing
    )
    return result


def _legacy_reduction(size_average: bool | None, reduce: bool | None) -> str:
    """torch.nn._reduction.legacy_get_string, in a form that torch.compile can trace."""
    if reduce is not None and not reduce:
        reduction = "none"
    elif size_average is not None and not size_average:
        reduction = "sum"
    else:
        reduction = "mean"
    if not torch.compiler.is_compiling():
        warnings.warn(
            "size_average and reduce args will be deprecated, "
            f"please use reduction='{reduction}' instead.",
            stacklevel=3,
        )
    return reduction


# What torch.ops says, in a RuntimeError, of an argument that does not fit the operator's schema.
_MISFIT = re.compile(
    r"fused_ce::(\w+)\(\) Expected a value of type '(.+)' for argument '(.+)' "
    r"but instead found type '(.+)'"
)

# Arguments of which the schema knows less than the functions take.
_TAKEN = {"dtype": "torch.dtype", "normalizer": "a number or Tensor"}


def call(operator: Any, ignore_index: int, /, *arguments: Any, **named: Any) -> Any:
    """The operator, with torch's exceptions for arguments of another type."""
    if isinstance(ignore_index, bool):  # which the schema takes for 0 or 1
        name = operator.__name__
        raise TypeError(f"{name}(): argument 'ignore_index' must be int, not bool")
    try:
        if _dtensor.is_any(arguments) or _dtensor.is_any(named.values()):
            return _dtensor.call(operator, *arguments, **named)
        return operator(*arguments, **named)
    except RuntimeError as error:
        misfit = _MISFIT.match(str(error))
        if misfit is None:
            raise
        function, expected, name, found = misfit.groups()
        argument = f"{function}(): argument '{name.replace('self', 'input')}'"
        if found in (expected, expected.removeprefix("Optional[").removesuffix("]")):
            raise ValueError(f"{argument} does not fit into 64 bits") from None
        raise TypeError(f"{argument} must be {_TAKEN.get(name, expected)}, not {found}") from None
