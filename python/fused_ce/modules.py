# SPDX-License-Identifier: BSD-3-Clause
"""The losses as modules."""

import math
from typing import Any

import torch
from torch import Tensor

from fused_ce import _C
from fused_ce.functional import _is_dynamo_compiling, _is_scripting, cross_entropy
from fused_ce.linear import linear_cross_entropy
from fused_ce.stats import CrossEntropyStats, cross_entropy_stats

__all__ = ["CrossEntropyLoss", "CrossEntropyStatsLoss", "LinearCrossEntropyLoss"]

_direct, _direct_stats = _C.module_cross_entropy, _C.module_cross_entropy_stats


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    r"""Cross entropy between logits and targets, in one fused pass over the logits.

    A swap-in for :class:`torch.nn.CrossEntropyLoss`, and a subclass of it, for code that asks which
    loss it has: the same arguments, attributes, ``state_dict`` (``weight`` is a buffer) and
    ``repr``. The formula, the errors and the sources are those of :func:`fused_ce.cross_entropy`.

    Args:
        weight: one factor for each class, of shape (C).
        size_average: deprecated, as in torch; use ``reduction``.
        ignore_index: a class index whose rows count neither in the loss nor in the gradient.
        reduce: deprecated, as in torch; use ``reduction``.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        label_smoothing: the part of the target that is spread over all classes, in [0, 1].

    Shape:
        - input: (C), (N, C) or (N, C, d1, ..., dK), float32, float64, bfloat16 or float16.
        - target: class indices, int64, int32, int16, int8 or uint8, of the shape of the input
          without C; or class probabilities, floating point, of the shape of the input.
        - output: of the shape of the input without C for ``reduction="none"``, else a scalar.

    Example::

        >>> criterion = fused_ce.CrossEntropyLoss(label_smoothing=0.1)
        >>> loss = criterion(model(images), labels)
        >>> loss.backward()
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        # What most calls are takes no way round: to find the attributes of a module one by one
        # takes as long as a small loss.
        if not _is_scripting() and not _is_dynamo_compiling():
            plain = _direct(input, target, self.__dict__)
            if plain is not None:
                return plain
        return cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )


class CrossEntropyStatsLoss(torch.nn.Module):
    r"""The loss and what else there is in the logits, in the same read of them.

    :func:`fused_ce.cross_entropy_stats` as a module: what belongs to the model is given once, what
    belongs to the batch with each call. The formulas, the errors and the sources are that
    function's.

    Args:
        weight: one factor for each class, of shape (C); a buffer, as in
            :class:`torch.nn.CrossEntropyLoss`.
        ignore_index: a class index whose rows do not count.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        label_smoothing: the part of the target that is spread over all classes, in [0, 1].
        logit_scale: what the input is multiplied with.
        softcap: the bound that the scaled logits are bent to stay below, or None.
        temperature: what they are divided by after that.
        z_loss_weight: what the square of a row's log-sum-exp is added to its loss with.
        dtype: of the loss.
        in_place: the gradient overwrites the logits.
        return_lse: give the log-sum-exp of each row.
        return_entropy: give the entropy of each row.
        return_prediction: give the most probable class of each row, and its probability.

    Shape:
        - input: (C), (N, C) or (N, C, d1, ..., dK), float32, float64, bfloat16 or float16.
        - target: class indices of the shape of the input without C, or class probabilities of the
          shape of the input.
        - row_weight: of the shape of the input without C. normalizer: a number, or a tensor of
          no dimension.
        - output: a :class:`fused_ce.CrossEntropyStats`.

    Example::

        >>> criterion = fused_ce.CrossEntropyStatsLoss(z_loss_weight=1e-4, return_entropy=True)
        >>> stats = criterion(model(tokens), next_tokens, row_weight=mask)
        >>> (stats.loss - 0.01 * stats.entropy.mean()).backward()
    """

    weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        logit_scale: float = 1.0,
        softcap: float | None = None,
        temperature: float = 1.0,
        z_loss_weight: float = 0.0,
        dtype: torch.dtype | None = None,
        in_place: bool = False,
        return_lse: bool = False,
        return_entropy: bool = False,
        return_prediction: bool = False,
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.label_smoothing = label_smoothing
        self.logit_scale = logit_scale
        self.softcap = softcap
        self.temperature = temperature
        self.z_loss_weight = z_loss_weight
        self.dtype = dtype
        self.in_place = in_place
        self.return_lse = return_lse
        self.return_entropy = return_entropy
        self.return_prediction = return_prediction

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        *,
        row_weight: Tensor | None = None,
        normalizer: Tensor | float | None = None,
    ) -> CrossEntropyStats:
        if not _is_dynamo_compiling():  # as above
            plain = _direct_stats(input, target, row_weight, normalizer, self.__dict__)
            if plain is not None:
                return CrossEntropyStats(*plain)
        return cross_entropy_stats(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            logit_scale=self.logit_scale,
            softcap=self.softcap,
            temperature=self.temperature,
            z_loss_weight=self.z_loss_weight,
            row_weight=row_weight,
            normalizer=normalizer,
            dtype=self.dtype,
            in_place=self.in_place,
            return_lse=self.return_lse,
            return_entropy=self.return_entropy,
            return_prediction=self.return_prediction,
        )


class LinearCrossEntropyLoss(torch.nn.Module):
    r"""A linear layer and the cross entropy of its outputs, which never exist as a whole.

    A swap-in for :class:`torch.nn.LinearCrossEntropyLoss`: its arguments, attributes and
    ``state_dict`` (``linear.weight``, ``linear.bias``, and ``weight``, a buffer). What it computes,
    the errors and the sources are those of :func:`fused_ce.linear_cross_entropy`.

    Args:
        in_features: K, the size of each input.
        num_classes: how many there are, C.
        out_features: (d1, ..., dk), the dimensions of a loss of several.
        bias: whether the layer has one.
        device: of the layer.
        dtype: of the layer.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        weight: one factor for each class, of shape (C).
        ignore_index: a class index whose rows do not count; None is -100.
        label_smoothing: the part of the target that is spread over all classes, in [0, 1].
        options: a :class:`torch.nn.LinearCrossEntropyOptions`, for its size of chunks.
        chunk_rows: of how many rows the logits are there at a time.

    Shape:
        - input: (\*, K), or (N, K) for a loss of several dimensions.
        - target: class indices of shape (\*) or (N, d1, ..., dk), or class probabilities of shape
          (\*, C) or (N, C, d1, ..., dk).
        - output: of the shape of class indices for ``reduction="none"``, else a scalar.

    Example::

        >>> criterion = fused_ce.LinearCrossEntropyLoss(512, 32000)
        >>> loss = criterion(model(tokens), next_tokens)  # of shape (batch, length, 512)
        >>> loss.backward()
    """

    weight: Tensor | None
    chunk_rows: int | None = None  # of torch's that became ours (replace_modules)

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        reduction: str = "mean",
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        options: Any = None,
        chunk_rows: int | None = None,
    ) -> None:
        if weight is not None and weight.shape != (num_classes,):
            raise RuntimeError(
                f"expected weight shape to be {(num_classes,)}, got {tuple(weight.shape)}"
            )
        if not 0 <= label_smoothing <= 1:
            raise RuntimeError(
                f"expected label_smoothing to be in range [0, 1], got {label_smoothing}"
            )
        super().__init__()
        self.register_buffer("weight", weight)
        self.reduction = reduction
        self.num_classes = num_classes
        self.out_features = out_features
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        outputs = math.prod(out_features, start=num_classes)
        self.linear = torch.nn.Linear(in_features, outputs, bias=bias, device=device, dtype=dtype)
        self.options = options
        self.chunk_rows = chunk_rows

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        weight: Tensor = self.linear.weight
        bias: Tensor | None = self.linear.bias
        if self.out_features:  # autocast remembers what it made of a parameter, and not of a view
            shape = (self.num_classes, *self.out_features)
            weight = weight.reshape(*shape, self.linear.in_features)
            bias = None if bias is None else bias.reshape(shape)
        return linear_cross_entropy(
            input,
            weight,
            target,
            linear_bias=bias,
            weight=self.weight,
            reduction=self.reduction,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            options=self.options,
            chunk_rows=self.chunk_rows,
        )

    def extra_repr(self) -> str:
        names = ("num_classes", "out_features", "reduction", "ignore_index", "label_smoothing")
        parts = [f"in_features={self.linear.in_features}"]
        parts += [f"{name}={getattr(self, name)}" for name in names]
        parts.insert(3, f"bias={self.linear.bias is not None}")
        return ", ".join([*parts, f"options={self.options}", f"chunk_rows={self.chunk_rows}"])
