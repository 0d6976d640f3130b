# SPDX-License-Identifier: BSD-3-Clause
"""Losses whose classes are shared out to processes: vocabulary-parallel heads.

Each process has the logits, or the rows of a linear layer's weight, of some of the classes, and all
have the targets. The collectives are torch.distributed's, on whatever backend the group has: one in
forward, and for a linear layer one in backward, of the gradient of its input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import _reduction as _Reduction

from fused_ce import _dtensor
from fused_ce._slices import explained, slices_of
from fused_ce.functional import call
from fused_ce.stats import CrossEntropyStats, _as_tensor, _asked_for, _check_numbers

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = [
    "cross_entropy",
    "cross_entropy_stats",
    "linear_cross_entropy",
    "linear_cross_entropy_stats",
]


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    group: ProcessGroup | None = None,
    first_class: int | None = None,
    classes: int | None = None,
) -> Tensor:
    """:func:`fused_ce.cross_entropy` of logits whose classes are shared out to processes.

    The loss of :func:`cross_entropy_stats`, whose arguments these are.

    Example::

        >>> logits = model(batch)  # (N, classes of this process)
        >>> fused_ce.distributed.cross_entropy(logits, target).backward()
    """
    return cross_entropy_stats(
        input,
        target,
        weight,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
        group=group,
        first_class=first_class,
        classes=classes,
    ).loss


def cross_entropy_stats(
    input: Tensor,
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
    dtype: torch.dtype | None = None,
    return_lse: bool = False,
    return_entropy: bool = False,
    return_prediction: bool = False,
    group: ProcessGroup | None = None,
    first_class: int | None = None,
    classes: int | None = None,
) -> CrossEntropyStats:
    r"""The loss head of logits whose classes are shared out to processes.

    The results are those of :func:`fused_ce.cross_entropy_stats` on the logits of all processes,
    joined along the classes; every process of the group gets the same bits of them. All call it
    with arguments that differ in the slices of the classes alone. They gather 24 bytes a row from
    each: the largest logit, the sum of the others' exponentials relative to it, and the target's
    logit, where it is theirs; 8 more each for the entropy, for the prediction, for class weights
    and for smoothing. Where that comes to more than 8 MB, of float32 or half logits on three
    processes or more, they reduce a maximum and a sum instead, which are fewer bytes.

    In backward, each process computes the gradient of its own logits from the loss's as if that
    were its own: what is done with the loss must be the same on all processes. Nothing is
    exchanged. A second derivative exchanges two or three numbers a row.

    Args:
        input: the logits of this process's classes: of shape (c), (N, c) or (N, c, d1, ..., dK),
            where the processes' c may differ, and may be 0; float32, float64, bfloat16 or float16.
        target: class indices in [0, C), counted over the classes of all processes, of the shape of
            ``input`` without c; or the class probabilities of this process's classes, floating
            point, of the shape of ``input``. Neither they nor ``weight`` have derivatives.
        weight: one factor for each of this process's classes, of shape (c).
        ignore_index: a class index whose rows do not count.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, of the loss and the z-loss.
        label_smoothing: the part of the target that is spread over all C classes, in [0, 1].
        logit_scale: what the logits are multiplied with; positive and finite.
        softcap: the bound that they are bent to stay below then, or None.
        temperature: what they are divided by after that.
        z_loss_weight: what the square of a row's log-sum-exp is added to its loss with.
        row_weight: one factor for each row, floating point, of the shape of ``input`` without c.
        normalizer: what ``"mean"`` divides by, a number or a tensor of no dimension.
        dtype: of the loss and the z-loss.
        return_lse: give ``lse``.
        return_entropy: give ``entropy``.
        return_prediction: give ``prediction``, counted over the classes of all processes, and
            ``confidence``.
        group: the processes; None is all of them.
        first_class: which of all classes is this process's first. None: the processes have theirs
            in the order of their ranks.
        classes: C, how many all processes have. None: they ask one another, once for each new
            shape. Say it where a group has two heads of which a process may have as many classes:
            it would take the one for the other, and the others would not.

    Returns:
        A :class:`fused_ce.CrossEntropyStats`.

    Raises:
        ValueError: the processes' arguments do not fit together, on each of them, with what each
            has. It is looked at once for each new shape, and on the CPU, where nobody has to wait
            to see it, in every exchange; sizes that differ then may end in the backend's own error.
            Or what one process's loss raises it for.
        IndexError, TypeError, RuntimeError, NotImplementedError: as
            :func:`fused_ce.cross_entropy_stats`; where one process alone has a reason to raise, the
            others end in their group's timeout.

    Source: losses of sharded classes are due to Shoeybi et al., 2019, `Megatron-LM
    <https://arxiv.org/abs/1909.08053>`__, which exchanges maxima first.
    """
    _check_numbers(label_smoothing, logit_scale, softcap, temperature, z_loss_weight)
    _check_tensors("cross_entropy_stats", input=input, target=target)
    class_dim = 1 if input.dim() > 1 else 0
    own_classes = input.shape[class_dim] if input.dim() > 0 else 0
    probabilities = target.dim() == input.dim() and target.shape == input.shape
    slices = _Slicing(group, own_classes, first_class, classes)
    return _stats(
        torch.ops.fused_ce.parallel_cross_entropy_stats,
        {"input": (input, class_dim), "target": (target, class_dim if probabilities else None)},
        slices,
        weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
        logit_scale=logit_scale,
        softcap=softcap,
        temperature=temperature,
        z_loss_weight=z_loss_weight,
        row_weight=row_weight,
        normalizer=normalizer,
        dtype=dtype,
        return_lse=return_lse,
        return_entropy=return_entropy,
        return_prediction=return_prediction,
    )


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    chunk_rows: int | None = None,
    group: ProcessGroup | None = None,
    first_class: int | None = None,
    classes: int | None = None,
) -> Tensor:
    """:func:`fused_ce.linear_cross_entropy` of a layer whose classes are shared out to processes.

    The loss of :func:`linear_cross_entropy_stats`, whose arguments these are.
    """
    return linear_cross_entropy_stats(
        input,
        linear_weight,
        target,
        linear_bias=linear_bias,
        weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
        chunk_rows=chunk_rows,
        group=group,
        first_class=first_class,
        classes=classes,
    ).loss


def linear_cross_entropy_stats(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    z_loss_weight: float = 0.0,
    row_weight: Tensor | None = None,
    normalizer: Tensor | float | None = None,
    dtype: torch.dtype | None = None,
    return_lse: bool = False,
    return_entropy: bool = False,
    return_prediction: bool = False,
    chunk_rows: int | None = None,
    group: ProcessGroup | None = None,
    first_class: int | None = None,
    classes: int | None = None,
) -> CrossEntropyStats:
    r"""The loss head of a linear layer whose classes are shared out to processes.

    :func:`cross_entropy_stats` of ``linear(input, linear_weight, linear_bias)``, whose logits are
    there a chunk of rows at a time, in forward and once more in backward. All processes have the
    same ``input``, and its gradient is the same on all of them: the sum of what each slice of the
    classes gives, exchanged in float32 for half types.

    Args:
        input: of shape (\*, K), the same on all processes.
        linear_weight: the layer's weight for this process's classes, (c, K).
        target: class indices of shape (\*), counted over the classes of all processes, or the class
            probabilities of this process's, (\*, c).
        linear_bias: of this process's classes, (c).
        weight: one factor for each of this process's classes, (c).
        ignore_index: a class index whose rows do not count.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, of the loss and the z-loss.
        label_smoothing: the part of the target that is spread over all C classes, in [0, 1].
        logit_scale: what the layer's outputs are multiplied with; positive and finite.
        softcap: the bound that they are bent to stay below then, or None.
        temperature: what they are divided by after that.
        z_loss_weight: what the square of a row's log-sum-exp is added to its loss with.
        row_weight: one factor for each row, floating point, of shape (\*).
        normalizer: what ``"mean"`` divides by, a number or a tensor of no dimension.
        dtype: of the loss and the z-loss.
        return_lse: give ``lse``.
        return_entropy: give ``entropy``.
        return_prediction: give ``prediction`` and ``confidence``.
        chunk_rows: of how many rows the logits are there at a time; None: chosen.
        group: the processes; None is all of them.
        first_class: which of all classes is this process's first. None: the processes have theirs
            in the order of their ranks.
        classes: C, how many all processes have. None: they ask one another, once for each new
            shape. Say it where a group has two heads of which a process may have as many classes:
            it would take the one for the other, and the others would not.

    Returns:
        A :class:`fused_ce.CrossEntropyStats`, with statistics of shape (\*).

    Raises:
        ValueError: the processes' arguments do not fit together, as in :func:`cross_entropy_stats`,
            or ``chunk_rows`` is not positive.
        IndexError, TypeError, RuntimeError, NotImplementedError: as
            :func:`fused_ce.linear_cross_entropy_stats`.
    """
    _check_numbers(label_smoothing, logit_scale, softcap, temperature, z_loss_weight)
    _check_tensors(
        "linear_cross_entropy_stats", input=input, linear_weight=linear_weight, target=target
    )
    own_classes = linear_weight.shape[0] if linear_weight.dim() > 0 else 0
    probabilities = target.dim() == input.dim() and target.is_floating_point()
    slices = _Slicing(group, own_classes, first_class, classes)
    return _stats(
        torch.ops.fused_ce.parallel_linear_cross_entropy_stats,
        {
            "input": (input, None),
            "linear_weight": (linear_weight, 0),
            "target": (target, -1 if probabilities else None),
        },
        slices,
        linear_bias=linear_bias,
        weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
        logit_scale=logit_scale,
        softcap=softcap,
        temperature=temperature,
        z_loss_weight=z_loss_weight,
        row_weight=row_weight,
        normalizer=normalizer,
        dtype=dtype,
        return_lse=return_lse,
        return_entropy=return_entropy,
        return_prediction=return_prediction,
        chunk_rows=chunk_rows,
    )


class _Slicing(NamedTuple):
    """What a process says of its classes."""

    group: ProcessGroup | None
    own_classes: int
    first_class: int | None
    classes: int | None


_OUTPUTS = ("return_lse", "return_entropy", "return_prediction")
# What the processes may differ in, or what nobody compares.
_NOT_COMPARED = ("row_weight", "normalizer", "chunk_rows")


def _stats(
    operator: Any,
    tensors: dict[str, tuple[Tensor, int | None]],
    slicing: _Slicing,
    **options: Any,
) -> CrossEntropyStats:
    """The operator of `tensors`, each with the dimension that has the classes, and of options."""
    group, own_classes, first_class, classes = slicing
    outputs = tuple(options[name] for name in _OUTPUTS)
    compared = {k: v for k, v in options.items() if k not in (*_NOT_COMPARED, *_OUTPUTS)}
    described = _same(tensors, {**compared, "outputs": outputs})
    slices = slices_of(group, own_classes, first_class, classes, described)
    given = [tensor for tensor, _ in tensors.values()]
    options["reduction"] = _Reduction.get_enum(options["reduction"])
    options["normalizer"] = _as_tensor(options["normalizer"], given[0])
    options["return_z_loss"] = options["z_loss_weight"] != 0
    with explained(group, own_classes, described):
        results = call(operator, options["ignore_index"], *given, **options, **slices._asdict())
    return _asked_for(results, options["return_z_loss"], *outputs)


def _check_tensors(function: str, **arguments: object) -> None:
    """Of what is looked at before the operator does."""
    for name, value in arguments.items():
        if not isinstance(value, Tensor):
            found = type(value).__name__
            raise TypeError(f"{function}(): argument '{name}' must be Tensor, not {found}")
    if _dtensor.is_any(arguments.values()):
        raise TypeError(
            f"{function}(): DTensors know who has what: give them to fused_ce.{function}, or their "
            "local parts to this one"
        )


def _same(tensors: dict[str, tuple[Tensor, int | None]], options: dict[str, Any]) -> str:
    """What has to be the same on all processes: dtypes and shapes, less the dimension that has the
    classes, and options; of other tensors, that they are there. While dynamo traces, when sizes may
    be anything, only that it does.
    """
    if torch.compiler.is_compiling():
        return "a traced call"
    described = [f"{name} {_described(*tensor)}" for name, tensor in tensors.items()]
    for name, value in options.items():
        described.append(f"{name}={'given' if isinstance(value, Tensor) else value}")
    return ", ".join(described)


def _described(tensor: Tensor, class_dim: int | None) -> str:
    of_classes = (class_dim, None if class_dim is None else class_dim % max(tensor.dim(), 1))
    shape = ["classes" if d in of_classes else str(n) for d, n in enumerate(tensor.shape)]
    return f"{tensor.dtype} ({', '.join(shape)})"
