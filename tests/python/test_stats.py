# SPDX-License-Identifier: BSD-3-Clause
"""What the loss head gives and takes: results, shapes, dtypes, targets, and the module."""

from __future__ import annotations

import copy
import math

import fused_ce
import pytest
import torch
import torch.nn.functional as F
from conftest import DTYPES
from loss_head import EVERYTHING, OPTIONS, head, problem, row_shape

X = torch.randn(4, 5)
T = torch.tensor([0, 1, 2, 3])


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 5, 3), (2, 5, 3, 2)], ids=str)
def test_shapes_and_dtypes(shape: tuple[int, ...], dtype: torch.dtype, reduction: str) -> None:
    x, tensors = problem("indices", shape, dtype)
    rows = row_shape(x)
    if shape == (5,):
        tensors["target"] = torch.tensor(3)
    stats = fused_ce.cross_entropy_stats(
        x, tensors["target"], reduction=reduction, z_loss_weight=0.1, **EVERYTHING
    )
    accumulate = torch.float64 if dtype == torch.float64 else torch.float32
    losses = rows if reduction == "none" else ()
    for name, expected in {
        "loss": (losses, dtype),
        "z_loss": (losses, dtype),
        "lse": (rows, accumulate),
        "entropy": (rows, accumulate),
        "prediction": (rows, torch.int64),
        "confidence": (rows, accumulate),
    }.items():
        result = getattr(stats, name)
        assert (result.shape, result.dtype) == expected, name
    assert torch.equal(stats.prediction, x.argmax(min(1, x.dim() - 1)))


def test_only_what_was_asked_for() -> None:
    for option, names in (
        ({}, set()),
        ({"z_loss_weight": 0.1}, {"z_loss"}),
        ({"z_loss_weight": -0.1}, {"z_loss"}),
        ({"return_lse": True}, {"lse"}),
        ({"return_entropy": True}, {"entropy"}),
        ({"return_prediction": True}, {"prediction", "confidence"}),
    ):
        stats = fused_ce.cross_entropy_stats(X, T, **option)
        given = {name for name, value in stats._asdict().items() if value is not None}
        assert given == names | {"loss"}


def test_it_is_the_loss() -> None:
    """Bit for bit, where nothing else is asked for."""
    for options in ({}, {"label_smoothing": 0.1, "ignore_index": 2}, {"reduction": "none"}):
        assert torch.equal(
            fused_ce.cross_entropy_stats(X, T, **options).loss,
            fused_ce.cross_entropy(X, T, **options),
        )


@pytest.mark.parametrize("normalizer", [None, 3, 0.1, 2**60 + 1, torch.tensor(3)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("option", OPTIONS)
def test_direct_and_dispatched_calls_are_the_same_bits(
    option: str, dtype: torch.dtype, normalizer: torch.Tensor | float | None
) -> None:
    x, tensors = problem("indices", (8, 5), dtype)
    x.requires_grad_()
    given = {**OPTIONS[option], **EVERYTHING, "dtype": torch.float64}
    row_weight = tensors.pop("row_weight")
    criterion = fused_ce.CrossEntropyStatsLoss(tensors["weight"], **given)
    module = criterion(x, tensors["target"], row_weight=row_weight, normalizer=normalizer)
    given |= {**tensors, "row_weight": row_weight, "normalizer": normalizer}
    direct = fused_ce.cross_entropy_stats(x, **given)
    with torch.profiler.profile() as profiler:  # what is watched is dispatched
        dispatched = fused_ce.cross_entropy_stats(x, **given)
    assert "fused_ce::_forward" in {event.name for event in profiler.events()}
    gradients = []
    for stats in (direct, module, dispatched):
        for ours, theirs in zip(stats, dispatched, strict=True):
            assert (ours is None) == (theirs is None)
            assert ours is None or torch.equal(ours, theirs)
        total = stats.loss + stats.lse.sum() + stats.entropy.sum()
        gradients.append(torch.autograd.grad(total, x)[0])
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_dtype_of_the_loss(dtype: torch.dtype) -> None:
    x = X.to(dtype).requires_grad_()
    for weight in (None, torch.rand(5), torch.rand(5).to(dtype)):
        loss = fused_ce.cross_entropy_stats(x, T, weight, dtype=torch.float32).loss
        assert loss.dtype == torch.float32
        expected = F.cross_entropy(x.float(), T, None if weight is None else weight.float())
        torch.testing.assert_close(loss, expected)
        assert torch.autograd.grad(loss, x)[0].dtype == dtype


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8], ids=str
)
@pytest.mark.parametrize("shape", [(4, 5), (40, 300), (2, 5, 3), (2, 50, 40)], ids=str)
def test_class_indices_of_any_width(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, tensors = problem("indices", shape, torch.float32)
    target = tensors["target"].clamp(0, 100)
    for options in ({}, {"weight": tensors["weight"], "label_smoothing": 0.1, "ignore_index": 2}):
        losses = []
        for t in (target, target.to(dtype)):
            y = x.clone().requires_grad_()
            loss = fused_ce.cross_entropy(y, t, **options)
            losses.append((loss, torch.autograd.grad(loss, y)[0]))
        torch.testing.assert_close(*losses, rtol=0, atol=0)
        stats = fused_ce.cross_entropy_stats(x, target.to(dtype), **options)
        assert torch.equal(stats.loss, losses[0][0])
    row_weight = tensors["row_weight"].requires_grad_()  # a composition
    ours, theirs = (
        torch.autograd.grad(
            fused_ce.cross_entropy_stats(x, t, row_weight=row_weight).loss, row_weight
        )
        for t in (target.to(dtype), target)
    )
    torch.testing.assert_close(ours, theirs)


def test_normalizer() -> None:
    total = F.cross_entropy(X, T, reduction="sum")
    for normalizer in (7, 7.0, torch.tensor(7), torch.tensor(7, dtype=torch.int32)):
        x = X.clone().requires_grad_()
        loss = fused_ce.cross_entropy_stats(x, T, normalizer=normalizer).loss
        torch.testing.assert_close(loss, total / 7)
        torch.testing.assert_close(
            torch.autograd.grad(loss, x)[0],
            torch.func.grad(lambda x: F.cross_entropy(x, T, reduction="sum"))(X) / 7,
        )


@pytest.mark.parametrize("kind", ["indices", "probabilities"])
@pytest.mark.parametrize("option", OPTIONS)
def test_values(option: str, kind: str) -> None:
    x, tensors = problem(kind, (4, 5))
    for reduction in ("none", "mean", "sum"):
        options = {**OPTIONS[option], "reduction": reduction}
        ours = fused_ce.cross_entropy_stats(x, **tensors, **options, **EVERYTHING)
        theirs = head(x, **tensors, **options)
        for name, value in ours._asdict().items():
            if value is not None:
                torch.testing.assert_close(value, getattr(theirs, name))


def test_predict() -> None:
    x = torch.randn(2, 5, 3)
    result = fused_ce.predict(x, logit_scale=1.7, softcap=2.5, temperature=0.6)
    stats = head(x, torch.zeros(2, 3).long(), logit_scale=1.7, softcap=2.5, temperature=0.6)
    for name, value in result._asdict().items():
        torch.testing.assert_close(value, getattr(stats, name))
    assert fused_ce.predict(torch.randn(0, 5)).prediction.shape == (0,)


def test_a_class_that_is_ignored_is_still_predicted() -> None:
    stats = fused_ce.cross_entropy_stats(X, T, ignore_index=1, reduction="none", **EVERYTHING)
    assert stats.loss[1] == stats.lse[1] == stats.entropy[1] == 0
    assert torch.equal(stats.prediction, X.argmax(1))
    torch.testing.assert_close(stats.confidence, X.softmax(1).amax(1))


def test_module() -> None:
    weight = torch.rand(5)
    options = {"z_loss_weight": 0.1, "softcap": 3.0, "return_entropy": True}
    module = fused_ce.CrossEntropyStatsLoss(weight, **options)
    row_weight = torch.rand(4)
    assert module.state_dict().keys() == {"weight"}
    for m in (module, copy.deepcopy(module)):
        ours = m(X, T, row_weight=row_weight, normalizer=3)
        expected = fused_ce.cross_entropy_stats(
            X, T, weight, row_weight=row_weight, normalizer=3, **options
        )
        torch.testing.assert_close(ours, expected)
    assert module.double()(X.double(), T).loss.dtype == torch.float64


def test_torch_function() -> None:
    class Subclass(torch.Tensor):
        pass

    stats = fused_ce.cross_entropy_stats(X.as_subclass(Subclass), T, return_lse=True)
    assert type(stats.loss) is Subclass
    assert type(fused_ce.predict(X.as_subclass(Subclass)).lse) is Subclass


def test_a_module_whose_options_are_properties() -> None:
    class Annealed(fused_ce.CrossEntropyStatsLoss):
        softcap = property(lambda self: 2.0, lambda self, value: None)

    expected = fused_ce.cross_entropy_stats(X, T, softcap=2.0).loss
    assert torch.equal(Annealed()(X, T).loss, expected)


@pytest.mark.parametrize("name", ["cross_entropy_stats", "predict"])
def test_documented_examples(name: str) -> None:
    import doctest

    runner = doctest.DocTestRunner()
    function = getattr(fused_ce, name)
    for test in doctest.DocTestFinder().find(
        function, globs={"fused_ce": fused_ce, "torch": torch}
    ):
        runner.run(test)
    assert runner.tries > 0 and runner.failures == 0


def test_float_numbers_of_python() -> None:
    assert math.isclose(
        fused_ce.cross_entropy_stats(X, T, logit_scale=2).loss.item(),
        F.cross_entropy(2 * X, T).item(),
        rel_tol=1e-6,
    )


def test_a_smoothed_loss_is_as_exact_with_statistics() -> None:
    """Of scaled logits far from 0, whose rounding in a loop is none of the loss's."""
    x = torch.tensor([[-56.007102966308594]])
    stats = fused_ce.cross_entropy_stats(
        x,
        torch.tensor([0]),
        label_smoothing=1.0,
        logit_scale=3.0,
        temperature=0.7,
        return_prediction=True,
    )
    assert stats.loss.item() == 0
