# SPDX-License-Identifier: BSD-3-Clause
"""A linear layer and the loss of its outputs, which never exist as a whole."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import _reduction as _Reduction
from torch.overrides import handle_torch_function, has_torch_function_variadic

from fused_ce._onnx import in_torchscript_export, linear_composition
from fused_ce.functional import call
from fused_ce.stats import CrossEntropyStats, _as_tensor, _asked_for, _check_numbers

__all__ = ["linear_cross_entropy", "linear_cross_entropy_stats"]

_linear_cross_entropy = torch.ops.fused_ce.linear_cross_entropy
_linear_cross_entropy_stats = torch.ops.fused_ce.linear_cross_entropy_stats


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: Any = None,
    chunk_rows: int | None = None,
) -> Tensor:
    r"""Cross entropy between the outputs of a linear layer and targets, a chunk of rows at a time.

    The result of ``cross_entropy(linear(input, linear_weight, linear_bias), target, ...)`` without
    its logits: those of ``chunk_rows`` rows are computed, read, and overwritten by their gradient
    at a time. A drop-in for :func:`torch.nn.functional.linear_cross_entropy`, and with its
    ``options`` for what that computes in chunks; all of autograd works on it, which the latter
    does not have. The formula of the loss is in :func:`fused_ce.cross_entropy`.

    Gradients of a mean or a sum are computed in forward, beside the loss, where their logits are,
    and multiplied in backward with what comes in: three matrix products in all. Those of
    ``reduction="none"`` need the logits once more, a fourth product. So do derivatives of higher
    order and :mod:`torch.func`. Gradients are added up over chunks in float32 or float64. Rows of
    ``ignore_index`` take no part in the products (on the CPU, and but for tangents and second
    derivatives; on CUDA that would wait for the GPU).

    The logits are there as a whole for a ``linear_weight`` of more than two dimensions, and where
    class probabilities or their ``weight`` require a gradient.

    Args:
        input: of shape (\*, K): float32, float64, bfloat16 or float16.
        linear_weight: of shape (C, K), and the dtype of ``input``; or (C, d1, ..., dk, K) for
            input (N, K), as in torch: a loss of several dimensions.
        target: class indices in [0, C), int64, int32, int16, int8 or uint8, of shape (\*); or class
            probabilities, floating point, of shape (\*, C). For a loss of several dimensions
            (N, d1, ..., dk) or (N, C, d1, ..., dk).
        linear_bias: of shape (C), or (C, d1, ..., dk).
        weight: one factor for each class, of shape (C).
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        ignore_index: a class index whose rows do not count; None is -100. Refused with class
            probabilities.
        label_smoothing: the part of the target that is spread over all classes, in [0, 1].
        options: a :class:`torch.nn.LinearCrossEntropyOptions`. Its size of chunks is taken where
            ``chunk_rows`` is None; its other fields ask for less than what is done.
        chunk_rows: of how many rows the logits are there at a time. None: as many as 32 MiB hold,
            but at least 128, for fewer make slow products (on CUDA 256 MiB, and 512). All chunks
            have about the same size, and fewer rows than twice the least are one.

    Returns:
        The loss: of shape (\*) for ``"none"``, or (N, d1, ..., dk), else a scalar. It has the dtype
        of ``input`` (float32 for half precision under :class:`torch.autocast`, where the layer is
        multiplied in autocast's own dtype).

    Raises:
        IndexError: a class index lies outside [0, C) and is not ``ignore_index``.
        TypeError: an argument is of another Python type.
        ValueError: ``reduction`` is unknown, ``chunk_rows`` is not positive, or batch sizes differ.
        RuntimeError: shapes, dtypes or devices do not fit together, ``label_smoothing`` lies
            outside [0, 1], or there is an ``ignore_index`` for class probabilities.
        NotImplementedError: the dtype or the layout of ``input`` has no kernel.

    Sources: gradients in forward, in chunks of rows, are those of Hsu et al., 2024, `Liger Kernel
    <https://arxiv.org/abs/2410.10989>`__; a loss without logits is discussed by Wijmans et al.,
    2024, `Cut Your Losses in Large-Vocabulary Language Models
    <https://arxiv.org/abs/2411.09009>`__.

    Example::

        >>> hidden = torch.tensor([[1.0, 2.0]], requires_grad=True)
        >>> vocabulary = torch.tensor([[1.2, 1.0], [0.2, 0.0], [0.9, 0.0]])
        >>> loss = fused_ce.linear_cross_entropy(hidden, vocabulary, torch.tensor([2]))
        >>> loss.backward()
        >>> f"{loss.item():.4f}"
        '2.4398'
    """
    tensors = (input, linear_weight, target, linear_bias, weight)
    if has_torch_function_variadic(*tensors):
        overridden: Tensor = handle_torch_function(
            linear_cross_entropy,
            tensors,
            input,
            linear_weight,
            target,
            linear_bias=linear_bias,
            weight=weight,
            reduction=reduction,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            options=options,
            chunk_rows=chunk_rows,
        )
        return overridden
    ignore_index = _ignore_index(ignore_index, input, linear_weight, target)
    _check_rows(chunk_rows)
    if options is not None:
        of_options = _chunk_rows(options, input, linear_weight)
        chunk_rows = of_options if chunk_rows is None else chunk_rows
    if in_torchscript_export():
        return linear_composition(
            input,
            linear_weight,
            target,
            linear_bias=linear_bias,
            weight=weight,
            reduction=_Reduction.get_enum(reduction),
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
        )
    loss: Tensor = call(
        _linear_cross_entropy,
        ignore_index,
        input,
        linear_weight,
        target,
        linear_bias=linear_bias,
        weight=weight,
        reduction=_Reduction.get_enum(reduction),
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        chunk_rows=chunk_rows,
    )
    return loss


def linear_cross_entropy_stats(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int | None = None,
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
) -> CrossEntropyStats:
    r"""The cross entropy of a linear layer, and what else there is in its outputs.

    :func:`fused_ce.cross_entropy_stats` of ``linear(input, linear_weight, linear_bias)``, whose
    logits are there a chunk of rows at a time, as in :func:`fused_ce.linear_cross_entropy`. The
    formulas, the options and the results are those of the first, the shapes those of the second,
    with a ``row_weight``, an ``lse``, an ``entropy``, a ``prediction`` and a ``confidence`` of
    shape (\*).

    The gradient of a loss that is a mean or a sum is computed in forward. Where the z-loss, the
    log-sum-exp or the entropy take part in backward as well, that is done once more for all
    together: with ``reduction="none"``, it is not done before.

    Args:
        input: of shape (\*, K): float32, float64, bfloat16 or float16.
        linear_weight: of shape (C, K), or (C, d1, ..., dk, K) for input (N, K).
        target: class indices of shape (\*), or class probabilities of shape (\*, C).
        linear_bias: of shape (C), or (C, d1, ..., dk).
        weight: one factor for each class, of shape (C).
        ignore_index: a class index whose rows do not count, which have 0 for all but their
            prediction; None is -100. Refused with class probabilities.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, of the loss and the z-loss.
        label_smoothing: the part of the target that is spread over all classes, in [0, 1].
        logit_scale: what the layer's outputs are multiplied with; positive and finite.
        softcap: the bound that they are bent to stay below then, or None.
        temperature: what they are divided by after that.
        z_loss_weight: what the square of a row's log-sum-exp is added to its loss with.
        row_weight: one factor for each row, floating point, of shape (\*).
        normalizer: what ``"mean"`` divides by, a number or a tensor of no dimension.
        dtype: of the loss and the z-loss.
        return_lse: give ``lse``.
        return_entropy: give ``entropy``.
        return_prediction: give ``prediction`` and ``confidence``. The rows of ``ignore_index`` take
            part in one product then.
        chunk_rows: of how many rows the logits are there at a time.

    Returns:
        A :class:`CrossEntropyStats`. ``z_loss`` is given where ``z_loss_weight`` is not 0.

    Raises:
        IndexError: a class index lies outside [0, C) and is not ``ignore_index``.
        TypeError: an argument is of another Python type.
        ValueError: ``reduction`` is unknown, ``chunk_rows`` is not positive, or batch sizes differ.
        RuntimeError: shapes, dtypes or devices do not fit together, or a number lies outside its
            range.
        NotImplementedError: the dtype or the layout of ``input`` has no kernel.

    Example::

        >>> hidden = torch.tensor([[1.0, 2.0]])
        >>> vocabulary = torch.tensor([[1.2, 1.0], [0.2, 0.0], [0.9, 0.0]])
        >>> stats = fused_ce.linear_cross_entropy_stats(
        ...     hidden, vocabulary, torch.tensor([2]), return_entropy=True
        ... )
        >>> f"{stats.loss.item():.4f} {stats.entropy.item():.4f}"
        '2.4398 0.4702'
    """
    _check_rows(chunk_rows)
    _check_numbers(label_smoothing, logit_scale, softcap, temperature, z_loss_weight)
    ignore_index = _ignore_index(ignore_index, input, linear_weight, target)
    with_z_loss = z_loss_weight != 0
    results = call(
        _linear_cross_entropy_stats,
        ignore_index,
        input,
        linear_weight,
        target,
        linear_bias=linear_bias,
        weight=weight,
        reduction=_Reduction.get_enum(reduction),
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        row_weight=row_weight,
        normalizer=_as_tensor(normalizer, input),
        dtype=dtype,
        logit_scale=logit_scale,
        softcap=softcap,
        temperature=temperature,
        z_loss_weight=z_loss_weight,
        return_z_loss=with_z_loss,
        return_lse=return_lse,
        return_entropy=return_entropy,
        return_prediction=return_prediction,
        chunk_rows=chunk_rows,
    )
    return _asked_for(results, with_z_loss, return_lse, return_entropy, return_prediction)


def _ignore_index(
    ignore_index: int | None, input: Tensor, linear_weight: Tensor, target: Tensor
) -> int:
    """torch's default, which it has for class indices alone."""
    if ignore_index is None:
        return -100
    if all(isinstance(t, Tensor) for t in (input, linear_weight, target)):
        logits = (*input.shape[:-1], *linear_weight.shape[:-1])
        if target.dim() == len(logits) and target.shape == logits:
            raise RuntimeError(
                "ignore_index cannot be specified when target contains probabilities, got "
                f"{ignore_index} and a target of the logits' own shape {logits}"
            )
    return ignore_index


def _check_rows(chunk_rows: int | None) -> None:
    if isinstance(chunk_rows, bool):  # which the schema takes for 0 or 1
        raise TypeError("linear_cross_entropy(): argument 'chunk_rows' must be int, not bool")


def _chunk_rows(options: Any, input: Tensor, linear_weight: Tensor) -> int | None:
    """What a torch.nn.LinearCrossEntropyOptions says of the size of chunks."""
    if not hasattr(options, "batch_chunk_size"):
        raise TypeError(
            "linear_cross_entropy(): argument 'options' must be a "
            f"torch.nn.LinearCrossEntropyOptions, not {type(options).__name__}"
        )
    if options.batch_chunk_size is not None:
        size: int = options.batch_chunk_size
        return size
    name, _, factor = (options.chunking_method or "").partition(":")
    if name != "aspect_ratio" or input.dim() == 0 or linear_weight.dim() == 0:
        return None  # "auto", and torch's without a method is one chunk: as much as is efficient
    features = max(input.shape[-1], 1)
    rows = max(input.numel() // features, 1)
    # As torch documents it: logits as large as the input, in a power of two, less by the factor.
    wanted = -(-rows // max(-(-linear_weight.shape[0] // features), 1))
    power = 1 << (wanted - 1).bit_length()
    return max(min(power // int(factor or 1), rows), 1)
