# SPDX-License-Identifier: BSD-3-Clause
"""The loss of a linear layer: values, gradients, statistics, and what is left out or taken."""

from __future__ import annotations

import itertools
from typing import Any

import fused_ce
import pytest
import torch
import torch.nn.functional as F
from conftest import DEVICE, DTYPES, SIMT, run_again
from linear import Layer, check, composed, layer, loss_of
from loss_head import EVERYTHING, OPTIONS, head
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

pytestmark = pytest.mark.simt
ROWS, FEATURES, CLASSES = 13, 5, 7
# One row, a ragged last chunk, all but one, all, more than all, and what is chosen.
CHUNKS = [1, 4, 12, 13, 100, None]
CAPABILITIES = fused_ce.build_info()["cpu_capabilities"]


def target_of(kind: str, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    if kind == "probabilities":
        return torch.rand(ROWS, CLASSES).to(dtype)
    target = torch.randint(CLASSES, (ROWS,))
    if kind == "ignored":
        target[[0, 3, 4, 12]] = -100
    if kind == "all_ignored":
        target.fill_(-100)
    return target


@pytest.mark.parametrize("chunk_rows", CHUNKS, ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("kind", ["indices", "ignored", "all_ignored", "probabilities"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_and_gradients(
    dtype: torch.dtype, kind: str, reduction: str, chunk_rows: int | None
) -> None:
    torch.manual_seed(0)
    for bias, weighted, label_smoothing in itertools.product(
        [False, True], [False, True], [0, 0.2]
    ):
        options: dict[str, Any] = {"label_smoothing": label_smoothing, "chunk_rows": chunk_rows}
        if weighted:
            options["weight"] = (torch.rand(CLASSES) + 0.1).to(dtype)
        given = layer(ROWS, FEATURES, CLASSES, dtype, bias)
        check(given, target_of(kind, dtype), reduction, **options)


@pytest.mark.skipif(bool(SIMT) or DEVICE != "cpu", reason="torch's products are the same there")
@pytest.mark.parametrize("capability", [c for c in CAPABILITIES[:-1] if c != "default"])
def test_products_of_other_processors(capability: str) -> None:
    run_again(
        "test_linear.py", "-k", "test_values or test_blocks", FUSED_CE_CPU_CAPABILITY=capability
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_blocks_of_the_weight(dtype: torch.dtype) -> None:
    """More classes than are converted, or added to, at a time."""
    given, target = layer(5, 4096, 600, dtype), torch.tensor([0, 255, 256, 599, -100])
    check(given, target, chunk_rows=2)
    check(given, target, "none", chunk_rows=2)


@pytest.mark.parametrize("kind", ["indices", "ignored", "probabilities"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("option", OPTIONS)
def test_statistics(option: str, reduction: str, kind: str) -> None:
    given, target = layer(ROWS, FEATURES, CLASSES), target_of(kind)
    options: dict[str, Any] = {**OPTIONS[option], "reduction": reduction}
    options["row_weight"] = torch.rand(ROWS).double()
    options["weight"] = torch.rand(CLASSES).double() + 0.1
    if reduction == "mean":
        options["normalizer"] = 5
    ours = fused_ce.linear_cross_entropy_stats(
        *given[:2], target, linear_bias=given.bias, chunk_rows=4, **options, **EVERYTHING
    )
    theirs = head(F.linear(*given), target, **options)
    assert (ours.z_loss is None) == ("z_loss_weight" not in options)
    for name in ("loss", "z_loss", "lse", "entropy", "confidence"):
        actual, expected = getattr(ours, name), getattr(theirs, name)
        if actual is not None:
            torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(ours.prediction, theirs.prediction)
    # Each alone, the loss and the entropy together, and all.
    for names in (["loss"], ["lse"], ["entropy"], ["loss", "entropy"], ["loss", "z_loss", "lse"]):
        sums = [
            sum(
                o.cos().sum() for n in names if (o := getattr(s, n)) is not None and o.requires_grad
            )
            for s in (ours, theirs)
        ]
        grads = [torch.autograd.grad(s, given.leaves(), retain_graph=True) for s in sums]
        torch.testing.assert_close(*grads, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 3), (2, 1, 3), (2, 0), (0,)], ids=str)
@pytest.mark.parametrize("probabilities", [False, True])
def test_shapes(shape: tuple[int, ...], probabilities: bool) -> None:
    x = torch.randn(*shape, FEATURES).double().requires_grad_()
    w = torch.randn(CLASSES, FEATURES).double().requires_grad_()
    target = (
        torch.rand(*shape, CLASSES).double() if probabilities else torch.randint(CLASSES, shape)
    )
    r = torch.rand(shape).double()
    stats = fused_ce.linear_cross_entropy_stats(
        x, w, target, row_weight=r, reduction="none", z_loss_weight=0.1, **EVERYTHING
    )
    assert all(s.shape == shape for s in stats)
    flat = target.reshape(-1, CLASSES) if probabilities else target.reshape(-1)
    expected = head(
        F.linear(x, w).reshape(-1, CLASSES), flat, row_weight=r.reshape(-1),
        reduction="none", z_loss_weight=0.1,
    )  # fmt: skip
    torch.testing.assert_close(stats.loss, expected.loss.reshape(shape))
    grads = [
        torch.autograd.grad(s.loss.sum(), (x, w), retain_graph=True) for s in (stats, expected)
    ]
    torch.testing.assert_close(*grads)
    for reduction in ("mean", "sum"):
        loss = fused_ce.linear_cross_entropy(x, w, target, reduction=reduction)
        expected_loss = F.cross_entropy(
            F.linear(x, w).reshape(-1, CLASSES), flat, reduction=reduction
        )
        torch.testing.assert_close(loss, expected_loss, equal_nan=True)
        grads = [torch.autograd.grad(s, (x, w)) for s in (loss, expected_loss)]
        torch.testing.assert_close(*grads)


@pytest.mark.parametrize("probabilities", [False, True])
def test_loss_of_several_dimensions(probabilities: bool) -> None:
    x, w = torch.randn(3, 5, requires_grad=True), torch.randn(7, 2, 4, 5, requires_grad=True)
    b = torch.randn(7, 2, 4, requires_grad=True)
    target = torch.rand(3, 7, 2, 4) if probabilities else torch.randint(7, (3, 2, 4))
    options = {"linear_bias": b, "label_smoothing": 0.1, "weight": torch.rand(7)}
    results = [
        (loss := f(x, w, target, **options), *torch.autograd.grad(loss, (x, w, b)))
        for f in (fused_ce.linear_cross_entropy, F.linear_cross_entropy)
    ]
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32], ids=str)
def test_class_indices(dtype: torch.dtype) -> None:
    given, target = layer(ROWS, FEATURES, CLASSES), target_of("indices")
    torch.testing.assert_close(loss_of(given, target.to(dtype)), composed(given, target))


@pytest.mark.skipif(DEVICE != "cpu", reason="to know which they are would wait for the GPU")
def test_ignored_rows_are_left_out() -> None:
    """What is not a number there would be none in every product."""
    given, target = layer(ROWS, FEATURES, CLASSES), target_of("ignored")
    counted = target != -100
    poisoned = Layer(
        torch.where(counted[:, None], given.input, torch.nan).detach().requires_grad_(), *given[1:]
    )
    for options in ({}, {"reduction": "none"}, {"reduction": "sum", "label_smoothing": 0.1}):
        only = Layer(given.input[counted], *given[1:])
        loss, expected = (
            loss_of(poisoned, target, chunk_rows=3, **options),
            composed(only, target[counted], **options),
        )
        by_input, *by_layer = torch.autograd.grad(loss.sum(), poisoned.leaves())
        expected_input, *expected_layer = torch.autograd.grad(
            expected.sum(), [given.input, *given.leaves()[1:]]
        )
        torch.testing.assert_close(loss[counted] if loss.dim() else loss, expected)
        assert not loss.dim() or not loss[~counted].any()
        torch.testing.assert_close(by_input, expected_input)
        torch.testing.assert_close(by_layer, expected_layer)
    # Their predictions are computed, and nothing else.
    loss = fused_ce.linear_cross_entropy_stats(
        *poisoned[:2], target, linear_bias=given.bias, chunk_rows=3, **EVERYTHING
    ).loss
    grads = torch.autograd.grad(loss, poisoned.leaves())
    assert not any(g.isnan().any() for g in grads)


def test_the_prediction_of_ignored_rows_is_given() -> None:
    given, target = layer(ROWS, FEATURES, CLASSES), target_of("ignored")
    stats = fused_ce.linear_cross_entropy_stats(
        *given[:2], target, linear_bias=given.bias, chunk_rows=3, **EVERYTHING
    )
    expected = fused_ce.cross_entropy_stats(F.linear(*given), target, **EVERYTHING)
    torch.testing.assert_close(tuple(stats)[2:], tuple(expected)[2:])
    grads = [torch.autograd.grad(s.loss, given.leaves()) for s in (stats, expected)]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("needed", list(itertools.product([False, True], repeat=3))[1:], ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_only_the_gradients_that_are_wanted(needed: tuple[bool, ...], reduction: str) -> None:
    given, target = layer(ROWS, FEATURES, CLASSES), target_of("ignored")
    for tensor, need in zip(given, needed, strict=True):
        tensor.requires_grad_(need)
    leaves = [t for t in given if t.requires_grad]
    grads = [
        torch.autograd.grad(f(given, target, reduction=reduction).sum(), leaves)
        for f in (loss_of, composed)
    ]
    torch.testing.assert_close(*grads)


def test_strides() -> None:
    """Every tensor as a view of another, and what stands between its numbers is none."""

    def spread(tensor: torch.Tensor) -> torch.Tensor:
        between = torch.full([2 * n for n in tensor.shape], torch.nan).to(tensor)
        between[tuple(slice(None, None, 2) for _ in tensor.shape)] = tensor.detach()
        return between[tuple(slice(None, None, 2) for _ in tensor.shape)].requires_grad_()

    given, target = layer(ROWS, FEATURES, CLASSES), target_of("ignored")
    transposed = given.weight.detach().t().contiguous().t().requires_grad_()
    for odd in (Layer(*map(spread, given)), Layer(given.input, transposed, given.bias)):
        options = {"chunk_rows": 3, "weight": torch.rand(CLASSES * 2).double()[::2]}
        loss, expected = (loss_of(g, target, **options) for g in (odd, given))
        torch.testing.assert_close(loss, expected)
        grads = [
            torch.autograd.grad(*pair)
            for pair in ((loss, odd.leaves()), (expected, given.leaves()))
        ]
        torch.testing.assert_close(*grads)


@pytest.mark.parametrize("lie", ["step_two", "expanded", "a_column"])
def test_class_weights_that_do_not_lie_in_order(lie: str) -> None:
    """Smoothing adds them up, once for all chunks."""
    numbers = torch.rand(2, CLASSES).double() + 0.5
    weight = {
        "step_two": numbers.view(-1)[::2],
        "expanded": numbers[0, :1].expand(CLASSES),
        "a_column": numbers.t().contiguous()[:, 1],
    }[lie]
    given, target = layer(ROWS, FEATURES, CLASSES), target_of("ignored")
    ours = loss_of(given, target, weight=weight, label_smoothing=0.3, chunk_rows=3)
    theirs = composed(given, target, weight=weight.contiguous(), label_smoothing=0.3)
    grads = [torch.autograd.grad(loss, given.leaves()) for loss in (ours, theirs)]
    torch.testing.assert_close((ours, *grads[0]), (theirs, *grads[1]))


def test_infinite_logits() -> None:
    given, target = layer(ROWS, FEATURES, CLASSES), target_of("indices") % (CLASSES - 1)
    masked = Layer(*given[:2], given.bias.detach().index_fill(0, torch.tensor(6), -torch.inf))
    torch.testing.assert_close(loss_of(masked, target), composed(masked, target))
    grads = [
        torch.autograd.grad(f(masked, target), given.leaves()[:2]) for f in (loss_of, composed)
    ]
    torch.testing.assert_close(*grads)


def test_chunks_of_options() -> None:
    """torch's options are taken: the same bits as with as many rows by our own name."""
    given, target = layer(64, FEATURES, 20, torch.float32), torch.randint(20, (64,))
    options = torch.nn.LinearCrossEntropyOptions

    def bits(**chunks: Any) -> torch.Tensor:
        loss = loss_of(given, target, **chunks)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, given.leaves())])

    assert torch.equal(bits(options=options(batch_chunk_size=8)), bits(chunk_rows=8))
    # 64 rows of 20 classes from 5 features: 16 rows have as many logits as the input has numbers.
    ratio = options(chunking_method="aspect_ratio")
    assert torch.equal(bits(options=ratio), bits(chunk_rows=16))
    half = options(chunking_method="aspect_ratio:2")
    assert torch.equal(bits(options=half), bits(chunk_rows=8))
    assert torch.equal(bits(options=options()), bits())
    assert torch.equal(bits(options=ratio, chunk_rows=4), bits(chunk_rows=4))
    assert not torch.equal(bits(chunk_rows=4), bits(chunk_rows=64)), "nothing could tell them apart"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_gradients_are_scaled_in_float(dtype: torch.dtype) -> None:
    """A mean's gradient over many rows is too small for float16 before the loss is scaled.

    On a CPU, float16 is multiplied in float: what scales it on a GPU is at work here for bfloat16,
    where the processor has instructions for it.
    """
    given, target = layer(512, 4, 300, dtype, bias=False), torch.randint(300, (512,))
    exact = given.detached(torch.float64)
    scale = 65536.0
    loss = loss_of(given, target)
    ours = torch.autograd.grad(
        loss, given.leaves(), torch.tensor(scale).to(dtype), retain_graph=True
    )
    theirs = torch.autograd.grad(
        composed(exact, target) * min(scale, torch.finfo(dtype).max), exact.leaves()
    )
    for a, e in zip(ours, theirs, strict=True):
        if dtype == torch.float16:  # which has no 65536
            assert not a.isfinite().any()
        else:
            assert (a.double() - e).norm() / e.norm() < 4e-3
    if dtype == torch.float16:
        half = torch.autograd.grad(loss, given.leaves(), torch.tensor(scale / 2).to(dtype))
        for a, e in zip(half, theirs, strict=True):
            e = e * (scale / 2 / torch.finfo(dtype).max)
            assert (a.double() - e).norm() / e.norm() < 4e-4


def test_sums_over_chunks_are_float() -> None:
    """In bfloat16, 256 chunks of one row would lose a hundredth of the gradient's norm."""
    given, target = layer(256, 8, 16, torch.bfloat16), torch.randint(16, (256,))
    exact = given.detached(torch.float64)
    ours = torch.autograd.grad(loss_of(given, target, chunk_rows=1), given.leaves())
    theirs = torch.autograd.grad(composed(exact, target), exact.leaves())
    for a, e in zip(ours[1:], theirs[1:], strict=True):
        assert (a.double() - e).norm() / e.norm() < 4e-3


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "features", "classes"), [(0, 5, 7), (3, 0, 7), (3, 5, 0)])
def test_nothing(dtype: torch.dtype, rows: int, features: int, classes: int) -> None:
    given = layer(rows, max(features, 1), classes, dtype)
    given = Layer(given.input[:, :features], given.weight[:, :features], given.bias).detached()
    target = torch.rand(rows, classes).to(dtype)
    # What is freed before the gradient is made would be seen in it.
    torch.full((1 << 16,), 7.0)
    ours = torch.autograd.grad(loss_of(given, target, reduction="sum"), given.leaves())
    exact = given.detached(torch.float64)
    theirs = torch.autograd.grad(composed(exact, target.double(), reduction="sum"), exact.leaves())
    few = 4 * torch.finfo(dtype).eps
    for a, e in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.double(), e, rtol=few, atol=few)


@pytest.mark.parametrize(
    ("rows", "classes", "expected"),
    [(392, 32000, 196), (4096, 32000, 256), (512, 128256, 128), (255, 128256, 255), (64, 10, 64)],
)
def test_chosen_rows(rows: int, classes: int, expected: int) -> None:
    """The size of the largest tensor that is there tells of how many rows the logits were."""
    x, w = torch.zeros(rows, 1), torch.zeros(classes, 1)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as events:
        fused_ce.linear_cross_entropy(x, w, torch.zeros(rows).long())
    sizes = [e.nbytes() for e in events.profiler.kineto_results.events() if e.name() == "[memory]"]
    assert max(sizes) == expected * classes * 4


@pytest.mark.parametrize(("reduction", "products"), [("mean", 3), ("none", 4)])
@pytest.mark.parametrize("frozen", [False, True])
def test_operations_are_counted(reduction: str, products: int, frozen: bool) -> None:
    """Of a frozen layer there is no gradient to multiply for."""
    given, target = layer(ROWS, FEATURES, CLASSES), target_of("indices")
    given.weight.requires_grad_(not frozen)
    with FlopCounterMode(display=False) as counter:
        loss_of(given, target, reduction=reduction).sum().backward()
    expected = (products - frozen) * 2 * ROWS * FEATURES * CLASSES
    assert counter.get_total_flops() == expected
