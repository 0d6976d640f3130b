# SPDX-License-Identifier: BSD-3-Clause
"""The loss of next tokens, as transformers defines it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import fused_ce
import pytest
import torch
import torch.nn.functional as F
from conftest import DTYPES
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

B, T, V, K = 3, 7, 11, 4
LABELS = torch.tensor(
    [[1, 2, 3, 4, 5, 6, 7], [-100, -100, 3, 0, 10, 9, -100], [8, 8, 8, -100, 1, 2, 3]]
)


def formula(
    logits: Tensor, labels: Tensor, num_items: Any = None, ignore_index: int = -100
) -> Tensor:
    """In float64, of logits and labels that are cut, where ours pads the labels."""
    x, y = logits.double()[:, :-1].reshape(-1, logits.size(-1)), labels[:, 1:].reshape(-1)
    total = F.cross_entropy(x, y, ignore_index=ignore_index, reduction="sum")
    return total / float((y != ignore_index).sum() if num_items is None else num_items)


def close(ours: Tensor, exact: Tensor) -> None:
    """A rounding or two of each of some terms, in the type of ours."""
    eps = torch.finfo(ours.dtype).eps
    torch.testing.assert_close(ours.double(), exact.double(), rtol=4 * eps, atol=4 * eps)


NUM_ITEMS: dict[str, Any] = {
    "of the batch": None,
    "a number": 40,
    "a tensor": torch.tensor(40),
    "a tensor of one element": torch.tensor([40.0]),
}


def hidden_and_head(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Small integers: products and sums of them are exact in every dtype."""
    values = [torch.randint(-2, 3, size) for size in ((B, T, K), (V, K), (V,))]
    hidden, head, bias = (v.to(dtype).requires_grad_() for v in values)
    return hidden, head, bias


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_items", NUM_ITEMS.values(), ids=NUM_ITEMS)
def test_of_logits(dtype: torch.dtype, num_items: Any) -> None:
    logits = torch.randn(B, T, V).to(dtype).requires_grad_()
    loss = fused_ce.causal_lm_loss(logits, LABELS, V, num_items)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert loss.shape == ()
    exact = logits.detach().double().requires_grad_()
    reference = formula(exact, LABELS, num_items)
    close(loss, reference)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.dtype == dtype and torch.all(gradient[:, -1] == 0)
    close(gradient, torch.autograd.grad(reference, exact)[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_items", NUM_ITEMS.values(), ids=NUM_ITEMS)
def test_of_hidden_states(dtype: torch.dtype, num_items: Any) -> None:
    hidden, head, bias = hidden_and_head(dtype)
    loss = fused_ce.linear_causal_lm_loss(
        hidden, head, LABELS, num_items, lm_head_bias=bias, logit_scale=0.5, softcap=4.0
    )
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    exact = [t.detach().double().requires_grad_() for t in (hidden, head, bias)]
    capped = 4 * torch.tanh(F.linear(*exact) * 0.5 / 4)
    reference = formula(capped, LABELS, num_items)
    close(loss, reference)
    gradients = torch.autograd.grad(loss, (hidden, head, bias))
    # Those of logits are rounded to the dtype before they are multiplied.
    for ours, expected in zip(gradients, torch.autograd.grad(reference, exact), strict=True):
        eps = torch.finfo(ours.dtype).eps
        torch.testing.assert_close(
            ours.double(), expected, rtol=8 * eps, atol=8 * eps * float(expected.abs().max())
        )


FORMS: dict[str, Callable[..., Tensor]] = {
    "logits": lambda labels, **named: fused_ce.causal_lm_loss(
        torch.linspace(-2, 2, B * T * V).sin().view(B, T, V), labels, **named
    ),
    "hidden states": lambda labels, **named: fused_ce.linear_causal_lm_loss(
        torch.linspace(-2, 2, B * T * K).view(B, T, K),
        torch.linspace(-2, 2, V * K).sin().view(V, K),
        labels,
        **named,
    ),
}
BOTH = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


@BOTH
def test_labels_that_are_shifted_already(form: Callable[..., Tensor]) -> None:
    shifted = torch.cat([LABELS[:, 1:], torch.full((B, 1), -100)], 1)
    assert torch.equal(form(None, shift_labels=shifted), form(LABELS))
    assert torch.equal(form(LABELS, shift_labels=shifted), form(LABELS))


@BOTH
def test_another_ignored_label(form: Callable[..., Tensor]) -> None:
    labels = torch.where(LABELS == -100, 9, LABELS)
    assert torch.equal(form(labels, ignore_index=9), form(torch.where(labels == 9, -100, labels)))


def test_one_sequence_without_a_batch() -> None:
    logits = torch.randn(T, V)
    close(
        fused_ce.causal_lm_loss(logits, LABELS[0]),
        formula(logits.unsqueeze(0), LABELS[:1]),
    )


def test_rows_that_have_lost_their_batch() -> None:
    """As transformers takes them, which flattens all."""
    logits = torch.randn(B, T, V)
    loss = fused_ce.causal_lm_loss(logits, LABELS)
    assert torch.equal(fused_ce.causal_lm_loss(logits.flatten(0, 1), LABELS), loss)
    shifted = F.pad(LABELS, (0, 1), value=-100)[..., 1:].flatten()
    assert torch.equal(fused_ce.causal_lm_loss(logits, None, shift_labels=shifted), loss)


@BOTH
def test_refusals(form: Callable[..., Tensor]) -> None:
    for labels in (LABELS[0], LABELS.flatten(), LABELS.t()):
        with pytest.raises(
            ValueError, match=r"expected labels of shape \(3, 7\), as '\w+' of shape"
        ):
            form(labels)
    with pytest.raises(ValueError, match=r"expected shift_labels of shape \(3, 7\)"):
        form(None, shift_labels=LABELS[:, 1:])
    with pytest.raises(ValueError, match="expected 'labels' or 'shift_labels', got neither"):
        form(None)
    with pytest.raises(TypeError, match="argument 'labels' must be Tensor, not list"):
        form(LABELS.tolist())
    with pytest.raises(TypeError, match="argument 'logits' must be Tensor, not NoneType"):
        fused_ce.causal_lm_loss(None, LABELS, V)  # type: ignore[arg-type]
    with pytest.raises(IndexError, match="Target 11 is out of bounds"):
        form(torch.full((B, T), V))
    for num_items, kind in ((True, "bool"), ("3", "str")):
        with pytest.raises(TypeError, match=f"'num_items_in_batch' must be a number .* not {kind}"):
            form(LABELS, num_items_in_batch=num_items)
    with pytest.raises(ValueError, match=r"'num_items_in_batch' of one element, .* shape \(2,\)"):
        form(LABELS, num_items_in_batch=torch.tensor([3, 4]))


@pytest.mark.parametrize("shape", [(), (V,)])
def test_too_few_dimensions(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="of two dimensions or more, got shape"):
        fused_ce.causal_lm_loss(torch.ones(shape), torch.tensor(1))
    with pytest.raises(ValueError, match="of two dimensions or more, got shape"):
        fused_ce.linear_causal_lm_loss(torch.ones(shape), torch.ones(V, K), torch.tensor(1))


def test_a_vocabulary_of_another_size() -> None:
    with pytest.raises(ValueError, match="do not have vocab_size=12 classes"):
        fused_ce.causal_lm_loss(torch.randn(B, T, V), LABELS, 12)


def test_signature_is_that_of_transformers() -> None:
    parameters = inspect.signature(fused_ce.causal_lm_loss).parameters
    assert list(parameters) == [
        *("logits", "labels", "vocab_size", "num_items_in_batch", "ignore_index"),
        *("shift_labels", "kwargs"),
    ]
    loss = FORMS["logits"](LABELS, pooled=1)  # what a model was called with besides
    assert torch.equal(loss, FORMS["logits"](LABELS))


class Made(TorchDispatchMode):
    """The sizes in bytes of what operators return."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = op(*args, **(kwargs or {}))
        views = {a.untyped_storage().data_ptr() for a in args if isinstance(a, Tensor)}
        for made in result if isinstance(result, tuple) else (result,):
            if isinstance(made, Tensor) and made.untyped_storage().data_ptr() not in views:
                self.largest = max(self.largest, made.nbytes)
        return result


def test_half_precision_logits_are_not_copied() -> None:
    logits = torch.randn(B, T, V, dtype=torch.bfloat16, requires_grad=True)
    with Made() as forward:
        loss = fused_ce.causal_lm_loss(logits, LABELS, V)
    assert forward.largest < logits.nbytes
    with Made() as backward:
        loss.backward()
    assert backward.largest == logits.nbytes  # the gradient


@BOTH
def test_compiled(form: Callable[..., Tensor]) -> None:
    compiled = torch.compile(form, backend="aot_eager", fullgraph=True)
    for num_items in (None, torch.tensor(40)):
        ours = compiled(LABELS, num_items_in_batch=num_items)
        torch.testing.assert_close(ours, form(LABELS, num_items_in_batch=num_items))
