# SPDX-License-Identifier: BSD-3-Clause
"""The loss head: the loss, and what else there is in the logits, in the same read of them."""

import numbers
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import _reduction as _Reduction

from fused_ce import _C
from fused_ce.functional import _is_dynamo_compiling, call

__all__ = ["CrossEntropyStats", "Prediction", "cross_entropy_stats", "predict"]

_direct = _C.cross_entropy_stats

# Tensors that override torch's functions are asked there: what they wrap results in does not know
# our named tuples.
_cross_entropy_stats = torch.ops.fused_ce.cross_entropy_stats
_predict = torch.ops.fused_ce.predict

REAL = (numbers.Real, torch.SymInt, torch.SymFloat)


class CrossEntropyStats(NamedTuple):
    """What :func:`cross_entropy_stats` returns; None is what was not asked for.

    The accumulate dtype is float32, or float64 for float64 logits. Rows of ``ignore_index`` have 0
    for all but the prediction and its confidence.
    """

    loss: Tensor
    """Reduced, or one number a row; the z-loss is in it. Differentiable."""
    z_loss: Tensor | None
    """That part of the loss, where there is a ``z_loss_weight``; as ``loss``. Differentiable."""
    lse: Tensor | None
    """The natural logarithm of the sum of exponentials of each row's logits, in the accumulate
    dtype. Differentiable."""
    entropy: Tensor | None
    """Of each row's softmax, in nats, in the accumulate dtype. Differentiable."""
    prediction: Tensor | None
    """The class of each row's largest logit, int64; the first of several, or the first NaN, as
    :func:`torch.argmax`. With a ``softcap``, that of the capped logits: of two that lie within
    their rounding it may be either."""
    confidence: Tensor | None
    """The softmax at the prediction, in the accumulate dtype. Not differentiable."""


def _check_numbers(*numbers: float | None) -> None:
    """Of options whose gradient would be lost without a word."""
    for number in numbers:
        if isinstance(number, Tensor) and number.requires_grad:
            raise TypeError(
                "label_smoothing, logit_scale, softcap, temperature and z_loss_weight must be "
                "numbers, got a tensor that requires grad: none flows to it. Scale the logits "
                "themselves for one."
            )


def _as_tensor(normalizer: Tensor | float | None, input: Tensor) -> Tensor | float | None:
    """What is no number stays what it is, for the operator to say so."""
    if not isinstance(normalizer, REAL) or isinstance(normalizer, bool):
        return normalizer
    device = input.device if isinstance(input, Tensor) else None
    return torch.full((), torch.sym_float(normalizer), dtype=torch.float64, device=device)


def _asked_for(results: tuple[Tensor, ...], *outputs: bool) -> CrossEntropyStats:
    """The operator's results, of which those that were not asked for are empty."""
    loss, z_loss, lse, entropy, prediction, confidence = results
    with_z_loss, return_lse, return_entropy, return_prediction = outputs
    return CrossEntropyStats(
        loss,
        z_loss if with_z_loss else None,
        lse if return_lse else None,
        entropy if return_entropy else None,
        prediction if return_prediction else None,
        confidence if return_prediction else None,
    )


class Prediction(NamedTuple):
    """What :func:`predict` returns: the same as in :class:`CrossEntropyStats`, of every row."""

    prediction: Tensor
    confidence: Tensor
    lse: Tensor
    entropy: Tensor


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
    in_place: bool = False,
    return_lse: bool = False,
    return_entropy: bool = False,
    return_prediction: bool = False,
) -> CrossEntropyStats:
    r"""The cross entropy and what else there is in the logits, in one read of them.

    The logits of a row are

    .. math::
        z = \mathrm{cap}(\mathrm{logit\_scale} \cdot x) / \mathrm{temperature}, \qquad
        \mathrm{cap}(v) = \mathrm{softcap} \cdot \tanh(v / \mathrm{softcap}),

    with :math:`x` the row of ``input``, and no cap where ``softcap`` is None. With
    :math:`\mathrm{lse} = \log \sum_j e^{z_j}`, :math:`p = e^{z - \mathrm{lse}}`, and
    :math:`\ell` the loss of the logits :math:`z` as in :func:`fused_ce.cross_entropy`, a row's loss
    is

    .. math::
        \mathrm{row\_weight} \cdot (\ell + \mathrm{z\_loss\_weight} \cdot \mathrm{lse}^2),

    its entropy :math:`-\sum_j p_j \log p_j`. The log-probability of the target is minus the loss
    with ``reduction="none"`` and nothing else. ``"mean"`` divides the sum of the rows' losses by
    ``normalizer``; without one by the sum of the rows' weights, times those of their classes for
    class indices. Gradients of the results may be asked for in any combination, and are computed in
    one pass. What is not asked for costs nothing.

    ``torch.jit.script`` knows no named arguments with defaults: there, call
    ``torch.ops.fused_ce.cross_entropy_stats``, which takes ``reduction`` as a number and names the
    results it is asked for, the z-loss by ``return_z_loss``.

    Args:
        input: of shape (C), (N, C) or (N, C, d1, ..., dK), with any strides; float32, float64,
            bfloat16 or float16.
        target: class indices in [0, C), int64, int32, int16, int8 or uint8, of the shape of
            ``input`` without C; or class probabilities, floating point, of the shape of ``input``.
        weight: one factor for each class, of shape (C) and the dtype of ``input`` or of the loss;
            with class probabilities, of any other floating point or integer dtype as well. The
            z-loss is not multiplied with it. With class indices, it must not require a gradient,
            as in torch.
        ignore_index: a class index whose rows count neither in the loss nor in the statistics,
            which are 0 there, as their gradients are; their prediction is given. Any value; class
            probabilities take none of 0 or more.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, of the loss and the z-loss.
        label_smoothing: the part of the target that is spread over all classes, in [0, 1].
        logit_scale: positive and finite.
        softcap: positive and finite, or None.
        temperature: positive and finite; so are logit_scale and softcap divided by it, in float32.
        z_loss_weight: any finite number; 0 for no z-loss.
        row_weight: one factor for each row, floating point, of the shape of ``input`` without C.
        normalizer: what ``"mean"`` divides by, a number or a tensor of no dimension: the number of
            tokens of all the batches whose gradients are added up, say. Division by 0 is infinite
            or NaN, as elsewhere. Refused where there is no mean.
        dtype: of the loss and the z-loss: ``torch.float32`` for half precision logits, which are
            not copied for it. By default that of :func:`fused_ce.cross_entropy`.
        in_place: in backward, the gradient overwrites the memory of ``input``, which saves as much.
            Later uses that autograd knows of raise: a second backward, another loss of the same
            logits, an operation before them that saved its output (``tanh``). It cannot know of
            the logits being read after backward: **what is there then is the gradient**, and so is
            the result of ``torch.autograd.grad`` by them. Refused for leaves that require grad,
            logits that overlap, leave gaps in memory or share it with another argument,
            ``create_graph=True``, ``is_grads_batched`` and :mod:`torch.func`'s gradients. Nothing
            is overwritten where no gradient is computed.
        return_lse: give ``lse``.
        return_entropy: give ``entropy``.
        return_prediction: give ``prediction`` and ``confidence``.

    Returns:
        A :class:`CrossEntropyStats`. ``z_loss`` is given where ``z_loss_weight`` is not 0.

    Raises:
        IndexError: a class index lies outside [0, C) and is not ``ignore_index``, or ``input`` is
            a scalar.
        TypeError: an argument is of another Python type.
        ValueError: ``reduction`` is unknown, or the batch sizes differ.
        RuntimeError: shapes, dtypes or devices do not fit together, or a number lies outside its
            range; ``in_place`` where it is refused, then or in backward.
        NotImplementedError: the dtype or the layout of ``input`` has no kernel, or it has 2^31
            classes or more on the CPU.

    Sources: the z-loss is that of Mesh TensorFlow, described by Chowdhery et al., 2022, `PaLM
    <https://arxiv.org/abs/2204.02311>`__; the cap is that of Gemma Team, 2024, `Gemma 2
    <https://arxiv.org/abs/2408.00118>`__; temperature as in Hinton et al., 2015, `Distilling the
    Knowledge in a Neural Network <https://arxiv.org/abs/1503.02531>`__.

    Example::

        >>> logits = torch.tensor([[3.2, 0.2, 0.9]], requires_grad=True)
        >>> stats = fused_ce.cross_entropy_stats(
        ...     logits, torch.tensor([2]), return_entropy=True, return_prediction=True
        ... )
        >>> f"{stats.loss.item():.4f} {stats.entropy.item():.4f} {stats.prediction.item()}"
        '2.4398 0.4702 0'
    """
    if not _is_dynamo_compiling():
        plain = _direct(
            input,
            target,
            weight,
            ignore_index,
            reduction,
            label_smoothing,
            logit_scale,
            softcap,
            temperature,
            z_loss_weight,
            row_weight,
            normalizer,
            dtype,
            in_place,
            return_lse,
            return_entropy,
            return_prediction,
        )
        if plain is not None:
            return CrossEntropyStats(*plain)
    _check_numbers(label_smoothing, logit_scale, softcap, temperature, z_loss_weight)
    normalizer = _as_tensor(normalizer, input)
    with_z_loss = z_loss_weight != 0
    results = call(
        _cross_entropy_stats,
        ignore_index,
        input,
        target,
        weight,
        _Reduction.get_enum(reduction),
        ignore_index,
        label_smoothing,
        logit_scale=logit_scale,
        softcap=softcap,
        temperature=temperature,
        z_loss_weight=z_loss_weight,
        row_weight=row_weight,
        normalizer=normalizer,
        dtype=dtype,
        in_place=in_place,
        return_z_loss=with_z_loss,
        return_lse=return_lse,
        return_entropy=return_entropy,
        return_prediction=return_prediction,
    )
    return _asked_for(results, with_z_loss, return_lse, return_entropy, return_prediction)


def predict(
    input: Tensor,
    *,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    temperature: float = 1.0,
) -> Prediction:
    r"""The class of each row's largest logit, its probability, the log-sum-exp and the entropy.

    In one read of the logits, which are those of :func:`cross_entropy_stats`.

    Args:
        input: of shape (C), (N, C) or (N, C, d1, ..., dK), with any strides; float32, float64,
            bfloat16 or float16.
        logit_scale: positive and finite.
        softcap: positive and finite, or None.
        temperature: positive and finite; so are logit_scale and softcap divided by it, in float32.

    Returns:
        A :class:`Prediction`, whose tensors have the shape of ``input`` without C. ``prediction``
        is int64, the others float32, or float64 for float64 logits. ``lse`` and ``entropy`` are
        differentiable.

    Raises:
        IndexError: ``input`` has no classes, or is a scalar.
        TypeError: an argument is of another Python type.
        RuntimeError: a number is not positive and finite.
        NotImplementedError: the dtype or the layout of ``input`` has no kernel.

    Example::

        >>> prediction, confidence, _, entropy = fused_ce.predict(torch.tensor([3.2, 0.2, 0.9]))
        >>> f"{prediction.item()} {confidence.item():.4f} {entropy.item():.4f}"
        '0 0.8695 0.4702'
    """
    _check_numbers(logit_scale, softcap, temperature)
    return Prediction(
        *call(
            _predict,
            -100,
            input,
            logit_scale=logit_scale,
            softcap=softcap,
            temperature=temperature,
        )
    )
