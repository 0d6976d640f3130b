# SPDX-License-Identifier: BSD-3-Clause
"""The loss of a causal language model, as transformers calls it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fused_ce.linear import linear_cross_entropy_stats
from fused_ce.stats import REAL, cross_entropy_stats

__all__ = ["causal_lm_loss", "linear_causal_lm_loss"]


def causal_lm_loss(
    logits: Tensor,
    labels: Tensor | None,
    vocab_size: int | None = None,
    num_items_in_batch: Tensor | float | None = None,
    ignore_index: int = -100,
    shift_labels: Tensor | None = None,
    **kwargs: object,
) -> Tensor:
    r"""The loss of next tokens, with the arguments of transformers' ``ForCausalLMLoss``.

    For a model of transformers, and its ``Trainer``::

        model.loss_function = fused_ce.causal_lm_loss

    Each position's logits are compared with the label of the next. In float32 as there, but
    without its copy of the logits to float32: half precision logits are read as they are, and
    their gradient is made in their own dtype, rounded once.

    Args:
        logits: of shape (\*, T, V), as in (batch, length, vocabulary); float32, float64, bfloat16
            or float16.
        labels: token ids of shape (\*, T), those of the input: they are shifted here. On any
            device. Logits (\* x T, V) may have lost their other dimensions.
        vocab_size: V; None takes it from the logits.
        num_items_in_batch: what the sum of the losses is divided by, a number or a tensor of one
            element: the number of tokens in all the batches whose gradients are added up. None:
            the number of those in this batch.
        ignore_index: a label that does not count.
        shift_labels: the labels of the next tokens, of shape (\*, T) or (\* x T), where the caller
            has shifted them already; ``labels`` are not looked at then.
        **kwargs: ignored, as transformers' own loss does: models hand on what they were called
            with.

    Returns:
        The loss, a scalar: float32, or float64 for float64 logits.

    Raises:
        IndexError: a label lies outside [0, V) and is not ``ignore_index``. Its position is that
            among the labels after the shift, in one row.
        TypeError: an argument is of another Python type.
        ValueError: the labels' shape is not that of the logits without V, the logits' last
            dimension is not ``vocab_size``, there are no labels, or ``num_items_in_batch`` has more
            than one element.

    Example::

        >>> logits = torch.tensor([[[3.2, 0.2, 0.9], [0.0, 0.0, 0.0]]], requires_grad=True)
        >>> loss = fused_ce.causal_lm_loss(logits, torch.tensor([[1, 2]]), vocab_size=3)
        >>> f"{loss.item():.4f}"
        '2.4398'
    """
    del kwargs
    target = _next_tokens("logits", logits, labels, shift_labels, ignore_index)
    if vocab_size is not None and logits.shape[-1] != vocab_size:
        raise ValueError(
            f"causal_lm_loss(): 'logits' of shape {tuple(logits.shape)} do not have "
            f"vocab_size={vocab_size} classes in their last dimension"
        )
    return cross_entropy_stats(
        logits.flatten(0, -2),
        target,
        ignore_index=ignore_index,
        normalizer=_normalizer(num_items_in_batch, logits),
        dtype=torch.promote_types(logits.dtype, torch.float32),
    ).loss


def linear_causal_lm_loss(
    hidden_states: Tensor,
    lm_head_weight: Tensor,
    labels: Tensor | None,
    num_items_in_batch: Tensor | float | None = None,
    ignore_index: int = -100,
    shift_labels: Tensor | None = None,
    *,
    lm_head_bias: Tensor | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    r"""The same of hidden states and the head, whose logits never exist as a whole.

    ``causal_lm_loss(linear(hidden_states, lm_head_weight, lm_head_bias), labels, ...)`` in chunks
    of rows, as in :func:`fused_ce.linear_cross_entropy`.

    Args:
        hidden_states: what the head reads, of shape (\*, T, K); float32, float64, bfloat16 or
            float16.
        lm_head_weight: of shape (V, K), and the dtype of the hidden states.
        labels: token ids of shape (\*, T), as in :func:`causal_lm_loss`.
        num_items_in_batch: what the sum of the losses is divided by, as there.
        ignore_index: a label that does not count.
        shift_labels: the labels of the next tokens, shifted already.
        lm_head_bias: of shape (V).
        logit_scale: what the head's outputs are multiplied with (Granite divides by its
            ``logits_scaling``, Cohere multiplies with its ``logit_scale``).
        softcap: the bound that they are bent to stay below then (``final_logit_softcapping`` of
            Gemma 2), or None.

    Returns:
        The loss, a scalar: float32, or float64 for float64 hidden states.

    Raises:
        IndexError: a label lies outside [0, V) and is not ``ignore_index``. Its position is that
            among the labels after the shift, in one row.
        TypeError: an argument is of another Python type.
        ValueError: the labels' shape is not that of the hidden states without K, there are no
            labels, or ``num_items_in_batch`` has more than one element.

    Example::

        >>> hidden = torch.tensor([[[1.0, 2.0], [0.0, 0.0]]], requires_grad=True)
        >>> head = torch.tensor([[1.2, 1.0], [0.2, 0.0], [0.9, 0.0]])
        >>> loss = fused_ce.linear_causal_lm_loss(hidden, head, torch.tensor([[1, 2]]))
        >>> f"{loss.item():.4f}"
        '2.4398'
    """
    target = _next_tokens("hidden_states", hidden_states, labels, shift_labels, ignore_index)
    return linear_cross_entropy_stats(
        hidden_states.flatten(0, -2),
        lm_head_weight,
        target,
        linear_bias=lm_head_bias,
        ignore_index=ignore_index,
        logit_scale=logit_scale,
        softcap=softcap,
        normalizer=_normalizer(num_items_in_batch, hidden_states),
        dtype=torch.promote_types(hidden_states.dtype, torch.float32),
    ).loss


def _next_tokens(
    name: str,
    input: Tensor,
    labels: Tensor | None,
    shift_labels: Tensor | None,
    ignore_index: int,
) -> Tensor:
    """One class index a row of the input; the last position of each sequence has no next token."""
    if not isinstance(input, Tensor):
        raise TypeError(f"argument '{name}' must be Tensor, not {type(input).__name__}")
    if input.dim() < 2:
        raise ValueError(
            f"expected '{name}' of two dimensions or more, got shape {tuple(input.shape)}"
        )
    given, called = (labels, "labels") if shift_labels is None else (shift_labels, "shift_labels")
    if given is None:
        raise ValueError("expected 'labels' or 'shift_labels', got neither")
    if not isinstance(given, Tensor):
        raise TypeError(f"argument '{called}' must be Tensor, not {type(given).__name__}")
    expected = input.shape[:-1]
    # Where both are one row a token, or the labels are not shifted across the ends of sequences.
    may_be_flat = input.dim() == 2 or (given is shift_labels and given.dim() == 1)
    if given.shape != expected and not (may_be_flat and given.numel() == expected.numel()):
        raise ValueError(
            f"expected {called} of shape {tuple(expected)}, as '{name}' of shape "
            f"{tuple(input.shape)} ask for, got {tuple(given.shape)}"
        )
    if shift_labels is None:
        given = F.pad(given, (0, 1), value=ignore_index)[..., 1:]
    return given.flatten().to(input.device)


def _normalizer(num_items: Tensor | float | None, input: Tensor) -> Tensor | float | None:
    """As a tensor of no dimension, also where the model is replicated and each has its own."""
    if isinstance(num_items, Tensor):
        if num_items.numel() != 1:
            raise ValueError(
                "expected 'num_items_in_batch' of one element, got a tensor of shape "
                f"{tuple(num_items.shape)}"
            )
        return num_items.reshape(()).to(input.device)
    if isinstance(num_items, bool) or not isinstance(num_items, (*REAL, type(None))):
        raise TypeError(
            "argument 'num_items_in_batch' must be a number or a tensor of one element, not "
            f"{type(num_items).__name__}"
        )
    return num_items
