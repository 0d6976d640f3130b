"""The loss as a module."""

import torch
from torch import Tensor

from fused_ce import _C
from fused_ce.functional import _is_dynamo_compiling, _is_scripting, cross_entropy

__all__ = ["CrossEntropyLoss"]

_direct = _C.module_cross_entropy


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
        - target: class indices, int64 or uint8, of the shape of the input without C; or class
          probabilities, floating point, of the shape of the input.
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
