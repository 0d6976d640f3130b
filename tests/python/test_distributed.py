# SPDX-License-Identifier: BSD-3-Clause
"""Losses whose classes are shared out to processes, against those of one process and float64."""

from __future__ import annotations

import functools
import itertools
from typing import Any
from unittest import mock

import formula
import fused_ce
import fused_ce.distributed
import linear
import pytest
import torch
import torch.autograd.forward_ad as fwAD
import torch.nn.functional as F
from conftest import DTYPES, LAYOUTS, SIMT, index_target, make_logits
from distributed import Cases, Counts, Rank
from loss_head import EVERYTHING, OPTIONS, differentiable, head, problem, row_shape
from torch import Tensor
from torch.autograd import gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="no torch.distributed")
CASES = Cases()

# How many classes each process has, in a group of 2 and of 4. No process has as many in two of
# them: see test_heads_that_one_process_takes_for_another.
PARTITIONS: dict[str, dict[int, Counts]] = {
    "uneven": {2: (7, 13), 4: (5, 3, 8, 4)},
    "far": {2: (1, 299), 4: (100, 151, 1, 48)},
    "first_empty": {2: (0, 20), 4: (0, 11, 0, 9)},
    "last_empty": {2: (20, 0), 4: (12, 2, 6, 0)},
}
KINDS = ["indices", "probabilities"]
REDUCTIONS = ["none", "mean", "sum"]


def counts_of(me: Rank, partition: str) -> Counts:
    return PARTITIONS[partition][me.size]


def whole_problem(
    kind: str, shape: tuple[int, ...], dtype: torch.dtype, counts: Counts
) -> tuple[Tensor, dict[str, Tensor]]:
    """As loss_head's problem, with the first and last class of each slice among the targets."""
    x, tensors = problem(kind, shape, dtype)
    x = x * 3
    if kind == "indices" and len(shape) > 1:
        ends = list(itertools.accumulate(counts))
        edges = [c for n, end in zip(counts, ends, strict=True) if n for c in (end - n, end - 1)]
        target = tensors["target"].view(-1)
        n = min(len(edges), len(target) - 1)
        target[:n] = torch.tensor(edges[:n])
    elif kind == "indices":
        tensors["target"] = torch.tensor(sum(counts) - 1)
    return x, tensors


def ulps_between(a: Tensor, b: Tensor) -> float:
    """How far apart, in units in the last place of b's type; equal infinities and NaN: not."""
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    limits = torch.finfo(b.dtype)
    wide, other = a.detach().double(), b.detach().double()
    same = (wide == other) | (wide.isnan() & other.isnan())
    unit = limits.eps * torch.exp2(torch.frexp(other.abs()).exponent.double() - 1)
    apart = (wide - other).abs() / unit.clamp_min(limits.smallest_normal * limits.eps)
    return float(apart.nan_to_num(torch.inf).masked_fill(same, 0).max()) if a.numel() else 0.0


def bits(results: Any) -> list[bytes]:
    return [
        r.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        for r in results
        if r is not None
    ]


def check_same_on_all(me: Rank, results: Any) -> None:
    own = torch.frombuffer(bytearray(b"".join(bits(results)) or b"none"), dtype=torch.uint8)
    everyones = [torch.empty_like(own) for _ in range(me.size)]
    torch.distributed.all_gather(everyones, own, group=me.group)
    assert all(torch.equal(other, own) for other in everyones)


@CASES.add(dtype=DTYPES, layout=LAYOUTS, kind=KINDS)
def parity(me: Rank, dtype: torch.dtype, layout: str, kind: str) -> None:
    """The bounds that hold for one process, by the same code: slices make no more roundings.

    What the kernels sum over a slice they sum in the type that they compute in, and that is what
    the bound counts; sums over the slices are float64's.
    """
    for number, partition in enumerate(PARTITIONS):
        counts = counts_of(me, partition)
        x = make_logits(layout, sum(counts), dtype)
        target = torch.rand(x.shape).to(dtype) if kind == "probabilities" else index_target(x)
        ignored = sum(counts) - 1 if number == 1 else -100
        if target.dim() > 0 and kind == "indices":
            target.view(-1)[::5] = sum(counts) - 1
            target.view(-1)[3] = ignored
        options: dict[str, Any] = {"label_smoothing": 0.2} if number % 2 else {}
        if number < 2:
            options["weight"] = (torch.rand(sum(counts)) + 0.1).to(dtype)
        if kind == "indices":
            options["ignore_index"] = ignored
        loss = functools.partial(parallel_loss, me, counts)
        with mock.patch.object(formula.fused_ce, "cross_entropy", loss):
            for reduction in REDUCTIONS:
                formula.check(x, target, reduction, **options)


def parallel_loss(me: Rank, counts: Counts, x: Tensor, target: Tensor, **options: Any) -> Tensor:
    return me.stats(counts, x, target, **options).loss


@CASES.add(dtype=DTYPES, option=OPTIONS, kind=KINDS, partition=["uneven", "far", "first_empty"])
def statistics(me: Rank, dtype: torch.dtype, option: str, kind: str, partition: str) -> None:
    counts = counts_of(me, partition)
    classes = sum(counts)
    shapes = [(11, classes), (classes,), (2, classes, 5)]
    for number, (reduction, extra) in enumerate(itertools.product(REDUCTIONS, range(3))):
        shape = shapes[(number + extra) % 3]
        x, tensors = whole_problem(kind, shape, dtype, counts)
        options: dict[str, Any] = {**OPTIONS[option], "reduction": reduction}
        if extra == 0:
            del tensors["weight"], tensors["row_weight"]
        if extra == 2:
            options["dtype"] = torch.promote_types(dtype, torch.float32)
            options |= {"normalizer": 7.0} if reduction == "mean" else {}
        check_statistics(me, counts, x, tensors, options)


def check_statistics(
    me: Rank, counts: Counts, x: Tensor, tensors: dict[str, Tensor], options: dict[str, Any]
) -> None:
    """All results, and the gradient of all, against float64 within what rounding can do.

    And losses against one process's: both compute in the same type and are rounded once, so that
    they are neighbours in it; float64 computes in its own type, in which there is nothing to hide
    the roundings of sums in another order, about one for each step of the formula. (The CUDA
    kernels finish one process's rows in float32 and are up to 2.9 ulp off, ours in float64.)
    """
    one, many = x.clone().requires_grad_(), x.clone().requires_grad_()
    alone = fused_ce.cross_entropy_stats(one, **tensors, **options, **EVERYTHING)
    ours = me.stats(counts, many, **tensors, **options, **EVERYTHING)
    check_same_on_all(me, ours)
    kinds = [[None if r is None else (r.shape, r.dtype) for r in stats] for stats in (ours, alone)]
    assert kinds[0] == kinds[1]
    limit = 1 if ours.loss.dtype != torch.float64 and not SIMT else 4
    assert ulps_between(ours.loss, alone.loss) <= limit
    assert torch.equal(ours.prediction, alone.prediction)

    exact = x.double().requires_grad_()
    wide = {k: v.double() if v.is_floating_point() else v for k, v in tensors.items()}
    by_head = {k: v for k, v in options.items() if k != "dtype"}
    theirs = head(exact, **wide, **by_head)
    grads = [torch.randn(r.shape).to(r.dtype) for r in differentiable(ours)]
    (gradient,) = torch.autograd.grad(differentiable(ours), many, grads)
    names = [n for n in ("loss", "z_loss", "lse", "entropy") if getattr(ours, n) is not None]
    outputs = [getattr(theirs, n) for n in names]
    (expected,) = torch.autograd.grad(outputs, exact, [g.double() for g in grads])
    errors, of_gradient = roundings(x, wide, by_head, dict(zip(names, grads, strict=True)))
    for name, error in errors.items():
        if getattr(ours, name) is not None:
            near(name, getattr(ours, name), getattr(theirs, name), error)
    near("gradient", gradient, expected, of_gradient)
    check_same_on_all(me, [gradient])


def roundings(
    x: Tensor, tensors: dict[str, Tensor], options: dict[str, Any], grads: dict[str, Tensor]
) -> tuple[dict[str, Tensor], Tensor]:
    """How far results may be from float64's, by name, and the gradient, by formula.compare's rules:
    each term of a sum is wrong by a few units of the type that is computed in.

    A term is also as wrong as what it is made of: probabilities e^d by |d| units, as d is by one;
    scaled and capped logits by a unit of themselves; the cap's slope, 1 - tanh^2, by one of the 1.
    """
    dim, classes = min(1, x.dim() - 1), x.size(min(1, x.dim() - 1))
    half = x.dtype in (torch.bfloat16, torch.float16)
    work = 2e-6 if half else 4 * torch.finfo(x.dtype).eps
    work += torch.finfo(torch.float64).eps * (4 + classes**0.5 / 2)
    scale, cap = options.get("logit_scale", 1.0), options.get("softcap")
    z = x.double() * scale
    z = (z if cap is None else cap * torch.tanh(z / cap)) / options.get("temperature", 1.0)
    slope = scale / options.get("temperature", 1.0)
    log_p, p = z.log_softmax(dim), z.softmax(dim)
    smoothing, weight = options.get("label_smoothing", 0.0), tensors.get("weight")
    target = tensors["target"]
    mass, _ = formula.dense_target(target, classes, dim, weight=weight, label_smoothing=smoothing)
    r = tensors.get("row_weight", torch.ones(row_shape(x)).double())
    reduction, z_weight = options["reduction"], options.get("z_loss_weight", 0.0)
    kept = torch.ones_like(r) if target.is_floating_point() else (target != -100).double()
    divisor: Any = 1.0
    if reduction == "mean":
        divisor = options.get("normalizer")
        if divisor is None and target.is_floating_point():
            divisor = r.sum()
        elif divisor is None:
            plain, _ = formula.dense_target(target, classes, dim, weight=weight)
            divisor = (plain.sum(dim) * r).sum()

    lse = z.logsumexp(dim)
    bent = slope != 1 or cap is not None
    depth = log_p.abs() + 1 + (z.abs().amax(dim, keepdim=True) if bent else 0)
    lse_terms = lse.abs() + z.abs().amax(dim) + 1
    z_terms = r * kept * z_weight * (lse.abs() + lse_terms) * lse.abs()
    loss_terms = r * (mass * depth).sum(dim) + z_terms
    if reduction != "none":
        loss_terms, z_terms = loss_terms.sum() / divisor, z_terms.sum() / divisor
    entropy_terms = (p * log_p.abs() * depth).sum(dim) + 1e-300
    terms = {
        "loss": loss_terms,
        "z_loss": z_terms,
        "lse": lse_terms,
        "entropy": entropy_terms + (p * depth).sum(dim),
        "confidence": (p * depth).amax(dim) + p.amax(dim),
    }

    def of_rows(grad: Tensor) -> Tensor:
        return (grad.double() * r * kept / divisor).abs().unsqueeze(dim)

    pull = p * depth
    gradient = of_rows(grads["loss"]) * (mass.sum(dim, keepdim=True) * pull + mass)
    by_lse = kept * grads["lse"].double().abs()
    if "z_loss" in grads:
        both = of_rows(grads["loss"]) + of_rows(grads["z_loss"])
        gradient = gradient + 2 * z_weight * both * lse_terms.unsqueeze(dim) * pull
    gradient = gradient + by_lse.unsqueeze(dim) * pull
    by_entropy = (kept * grads["entropy"].double().abs()).unsqueeze(dim)
    gradient = gradient + by_entropy * pull * (log_p.abs() + entropy_terms.unsqueeze(dim))
    return {name: work * t for name, t in terms.items()}, work * slope * gradient


def near(name: str, actual: Tensor, expected: Tensor, error: Tensor) -> None:
    """linear.near, with the result's name."""
    try:
        linear.near(actual, expected.detach(), error)
    except AssertionError as e:
        raise AssertionError(f"{name}: {e}") from None


@CASES.add(dtype=DTYPES, kind=KINDS)
def no_rows(me: Rank, dtype: torch.dtype, kind: str) -> None:
    counts = counts_of(me, "uneven")
    for shape, reduction in itertools.product([(0, 20), (0, 20, 3), (2, 20, 0)], REDUCTIONS):
        x = torch.empty(shape, dtype=dtype, requires_grad=True)
        rows = (*shape[:1], *shape[2:])
        target = torch.empty(shape, dtype=dtype) if kind == "probabilities" else torch.empty(rows)
        target = target if kind == "probabilities" else target.long()
        options = {"label_smoothing": 0.1, "reduction": reduction, **EVERYTHING}
        alone = fused_ce.cross_entropy_stats(x, target, **options)
        ours = me.stats(counts, x, target, **options)
        for a, b in zip(ours, alone, strict=True):
            assert a is None or (a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num()))
        (gradient,) = torch.autograd.grad(ours.loss.sum(), x)
        assert gradient.shape == x.shape


@CASES.add(dtype=DTYPES, reduction=REDUCTIONS)
def all_ignored(me: Rank, dtype: torch.dtype, reduction: str) -> None:
    x = torch.randn(6, 20).to(dtype).requires_grad_()
    target = torch.full((6,), -100)
    for options in OPTIONS.values():
        given = {**options, **EVERYTHING, "reduction": reduction}
        alone = fused_ce.cross_entropy_stats(x, target, **given)
        ours = me.stats(counts_of(me, "uneven"), x, target, **given)
        for name, a, b in zip(ours._fields, ours, alone, strict=True):
            if name == "prediction":
                assert torch.equal(a, b)
            elif a is not None:
                assert ulps_between(a, b) <= (4 if name == "confidence" else 0), name
        for loss in (ours.loss, ours.lse, ours.entropy):
            (gradient,) = torch.autograd.grad(loss.sum(), x, retain_graph=True)
            assert not gradient.any()


@CASES.add(dtype=[torch.float32, torch.float64])
def confident_rows(me: Rank, dtype: torch.dtype) -> None:
    """A loss of 1e-12 has all its digits: 1 - p is a sum of the others, never a difference."""
    for partition in PARTITIONS:
        counts = counts_of(me, partition)
        classes = sum(counts)
        x = torch.randn(classes, classes, dtype=dtype) - 31
        target = torch.arange(classes)
        x[target, target] = torch.rand(classes, dtype=dtype)
        others = x.double() - x.double().diagonal().unsqueeze(1)
        rest = others.exp().fill_diagonal_(0)
        expected = rest.sum(1).log1p()
        leaf = x.clone().requires_grad_()
        ours = me.stats(counts, leaf, target, reduction="none", **EVERYTHING)
        # An exponent of 30 that is rounded to a float32 is off by 1e-6, its power by as much.
        work = torch.finfo(dtype).eps * (others.abs().max() / 2 + 8)
        near("loss", ours.loss, expected, work * expected)
        assert torch.equal(ours.prediction, target)
        gradient = torch.autograd.grad(ours.loss.sum(), leaf)[0]
        p = rest / (1 + rest.sum(1, keepdim=True))
        by_target = p - torch.diag(p.sum(1))
        near("gradient", gradient, by_target, 2 * work * by_target.abs())


def hard_logits(name: str, dtype: torch.dtype, counts: Counts) -> Tensor:
    """8 rows, among which some are hard."""
    x = torch.randn(8, sum(counts))
    own = [*torch.arange(sum(counts)).split(list(counts))]
    filled = [classes for classes in own if len(classes)]
    inf = torch.inf
    if name == "large":
        x = x + 1e4 * torch.tensor([1.0, -1.0]).repeat(4)[:, None]
    elif name == "far_apart":
        for i, classes in enumerate(own):
            x[:, classes] += 1e4 * (-1.0) ** i
    elif name == "largest_finite":
        most = min(3e38, torch.finfo(dtype).max)
        x[0] = most
        x[1] = -most
        x[2, ::2], x[2, 1::2] = most, -most
        x[3, filled[-1]] = most
        x[4, filled[0]] = -most
    elif name == "slice_of_minus_inf":
        for row, classes in enumerate(own):
            x[row, classes] = -inf
        for row, classes in enumerate(own):
            x[row + 4] = -inf
            x[row + 4, classes] = torch.randn(len(classes))
    elif name == "all_minus_inf":
        x[::2] = -inf
    elif name == "plus_inf":
        for row, classes in enumerate(filled):
            x[row, classes[-1]] = inf
        x[5, filled[0][0]] = x[5, filled[-1][-1]] = inf
        x[6] = inf
    elif name == "nan":
        for row, classes in enumerate(filled):
            x[row, classes[-1]] = torch.nan
        x[5, filled[0][0]], x[5, filled[-1][-1]] = torch.nan, inf
        x[6, filled[-1][0]], x[6, filled[0][-1]] = torch.nan, -inf
        x[7, filled[0][-1]] = x[7, filled[-1][0]] = torch.nan
    elif name == "ties":
        x[:, filled[0][-1]] = x[:, filled[-1][0]] = 9
        x[1] = 0
        x[2, filled[0]] = -0.0
        x[2, filled[-1]] = 0
        x[2].clamp_(max=0)
        x[3, filled[-1]] = 11
    elif name == "minus_inf_target":
        x[:, 5] = -inf
    return x.to(dtype)


HARD = ["large", "far_apart", "largest_finite", "slice_of_minus_inf", "all_minus_inf"]
HARD += ["plus_inf", "nan", "ties", "minus_inf_target"]


@CASES.add(name=HARD, dtype=DTYPES, kind=KINDS)
def hard(me: Rank, name: str, dtype: torch.dtype, kind: str) -> None:
    """Infinite, NaN, tied and far logits: what one process makes of them, infinite and NaN where it
    is; or what it makes of them in float64, where its own type overflows.
    """
    for partition, option in itertools.product(["uneven", "first_empty"], OPTIONS):
        counts = counts_of(me, partition)
        x = hard_logits(name, dtype, counts)
        classes = sum(counts)
        target = torch.tensor([0, classes - 1, 5, 5, 9, 3, 5, -100])
        if kind == "probabilities":
            target = torch.rand(x.shape).to(dtype)
            target[1] = F.one_hot(torch.tensor(5), classes).to(dtype)
        wide = target.double() if kind == "probabilities" else target
        options = {**OPTIONS[option], **EVERYTHING, "reduction": "none"}
        prediction, mine = values_and_gradients(
            functools.partial(me.stats, counts), x, target, options
        )
        first, theirs = values_and_gradients(fused_ce.cross_entropy_stats, x, target, options)
        _, exact = values_and_gradients(fused_ce.cross_entropy_stats, x.double(), wide, options)
        where = f"{partition}, {option}"
        assert torch.equal(prediction, first), where
        if name not in ("nan", "largest_finite") and "softcap" not in options:
            assert torch.equal(prediction, x.argmax(1)), where
        for result, value in mine.items():
            agree = same(value, theirs[result]) | same(value, exact[result].to(value.dtype))
            if kind == "probabilities":  # of which 0 times infinity is no number, and more infinite
                agree |= ~value.isfinite() & ~theirs[result].isfinite()
            assert agree.all(), (result, where, value[~agree], theirs[result][~agree])
        check_same_on_all(me, [prediction, *mine.values()])


def values_and_gradients(
    f: Any, x: Tensor, target: Tensor, options: dict[str, Any]
) -> tuple[Tensor, dict[str, Tensor]]:
    leaf = x.clone().requires_grad_()
    stats = f(leaf, target, **options)
    found = {name: getattr(stats, name) for name in ("loss", "lse", "entropy")}
    for name, value in list(found.items()):
        found[f"gradient of {name}"] = torch.autograd.grad(value.sum(), leaf, retain_graph=True)[0]
    found["confidence"] = stats.confidence
    return stats.prediction, {name: value.detach() for name, value in found.items()}


def same(a: Tensor, b: Tensor) -> Tensor:
    """Where numbers are, within a few units of the type: those of one row have magnitude 1 or are
    large by themselves.
    """
    eps = max(torch.finfo(a.dtype).eps, 1e-6 if a.dtype != torch.float64 else 1e-14)
    return a.isclose(b, rtol=8 * eps, atol=8 * eps, equal_nan=True)


@CASES.add(dtype=DTYPES, kind=KINDS)
def same_bits_again(me: Rank, dtype: torch.dtype, kind: str) -> None:
    """On all processes (the check of every case above), and each time."""
    counts = counts_of(me, "far")
    runs = []
    for _ in range(2):
        torch.manual_seed(1)
        x, tensors = whole_problem(kind, (33, sum(counts)), dtype, counts)
        x.requires_grad_()
        stats = me.stats(counts, x, **tensors, **OPTIONS["all"], **EVERYTHING)
        total = stats.loss + stats.lse.sum() + stats.entropy.sum()
        runs.append([*stats, *torch.autograd.grad(total, x)])
    assert bits(runs[0]) == bits(runs[1])
    check_same_on_all(me, runs[0])


@CASES.add(dtype=[torch.int64, torch.int32, torch.int16, torch.uint8])
def indices_of_any_width(me: Rank, dtype: torch.dtype) -> None:
    counts = counts_of(me, "uneven")
    x, tensors = whole_problem("indices", (15, 20), torch.float32, counts)
    target = tensors["target"].clamp_min(0)
    expected = me.stats(counts, x, target, ignore_index=3, reduction="none").loss
    ours = me.stats(counts, x, target.to(dtype), ignore_index=3, reduction="none").loss
    assert torch.equal(ours, expected)


@CASES.add()
def slices_in_any_order(me: Rank) -> None:
    """first_class says where a slice lies; without it, the order of the ranks does."""
    counts = tuple(range(3, 3 + me.size))
    x, tensors = whole_problem("indices", (15, sum(counts)), torch.float64, counts)
    expected = me.stats(counts, x, **tensors, **EVERYTHING)
    for order in (range(me.size), reversed(range(me.size))):
        starts, parts = dict[int, int](), dict[int, slice]()
        end = 0
        for rank in order:
            starts[rank] = end
            parts[rank] = slice(end, end + counts[rank])
            end += counts[rank]
        own = parts[me.rank]
        weight = tensors["weight"][own]
        ours = fused_ce.distributed.cross_entropy_stats(
            x[:, own],
            tensors["target"],
            weight,
            row_weight=tensors["row_weight"],
            first_class=starts[me.rank],
            group=me.group,
            **EVERYTHING,
        )
        assert torch.equal(ours.prediction, expected.prediction)
        for a, b in zip(ours, expected, strict=True):
            assert a is b is None or a.dtype == torch.int64 or ulps_between(a, b) <= 4


@CASES.add()
def other_functions_and_the_default_group(me: Rank) -> None:
    counts = counts_of(me, "uneven")
    x, tensors = whole_problem("indices", (15, 20), torch.float64, counts)
    target, weight = tensors["target"].clamp_min(3), tensors["weight"]
    own = slice(sum(counts[: me.rank]), sum(counts[: me.rank + 1]))
    given: dict[str, Any] = {"label_smoothing": 0.1, "ignore_index": 3, "reduction": "sum"}
    ours = fused_ce.distributed.cross_entropy(x[:, own], target, weight[own], **given)
    assert ulps_between(ours, fused_ce.cross_entropy(x, target, weight, **given)) <= 4
    layer, bias = torch.randn(20, 6, dtype=torch.float64), torch.randn(20, dtype=torch.float64)
    h = torch.randn(15, 6, dtype=torch.float64)
    ours = fused_ce.distributed.linear_cross_entropy(
        h, layer[own], target, linear_bias=bias[own], weight=weight[own], chunk_rows=4, **given
    )
    theirs = fused_ce.linear_cross_entropy(
        h, layer, target, linear_bias=bias, weight=weight, **given
    )
    torch.testing.assert_close(ours, theirs)


@CASES.add(option=["plain", "capped", "all"], kind=KINDS, of=["loss", "lse", "entropy", "all"])
def double_backward(me: Rank, option: str, kind: str, of: str) -> None:
    for partition in ("uneven", "first_empty"):
        counts = counts_of(me, partition)
        x, tensors = whole_problem(kind, (6, 20), torch.float64, counts)
        v = torch.randn_like(x)
        names = ["loss", "lse", "entropy"] if of == "all" else [of]
        found = []
        for f in (head, functools.partial(me.stats, counts)):
            leaf, direction = x.clone().requires_grad_(), v.clone().requires_grad_()
            given = {} if f is head else EVERYTHING
            stats = f(leaf, **tensors, **OPTIONS[option], reduction="none", **given)
            total = sum((getattr(stats, name) ** 2).sum() for name in names)
            (gradient,) = torch.autograd.grad(total, leaf, create_graph=True)
            found.append(
                (gradient, *torch.autograd.grad((gradient * direction).sum(), (leaf, direction)))
            )
        torch.testing.assert_close(*found)


@CASES.add(option=["smoothed", "all"])
def gradgradcheck_of_all(me: Rank, option: str) -> None:
    counts = {2: (3, 2), 4: (2, 0, 1, 2)}[me.size]
    x, tensors = whole_problem("indices", (3, 5), torch.float64, counts)

    def f(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            differentiable(me.stats(counts, x, **tensors, **OPTIONS[option], **EVERYTHING))
        )

    assert gradgradcheck(f, (x.requires_grad_(),))


@CASES.add()
def autograd_features(me: Rank) -> None:
    """Graphs that are kept, gradients that add up, some outputs alone, none at all."""
    counts = counts_of(me, "uneven")
    x, tensors = whole_problem("indices", (6, 20), torch.float64, counts)
    x.requires_grad_()
    stats = me.stats(counts, x, **tensors, **EVERYTHING)
    alone = fused_ce.cross_entropy_stats(x, **tensors, **EVERYTHING)
    for name in ("loss", "lse", "entropy"):
        ours, theirs = (
            torch.autograd.grad(getattr(s, name).sum(), x, retain_graph=True)[0]
            for s in (stats, alone)
        )
        torch.testing.assert_close(ours, theirs)
    stats.loss.backward(retain_graph=True)
    once = x.grad.clone()
    stats.loss.backward()
    torch.testing.assert_close(x.grad, 2 * once, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="second time"):
        stats.loss.backward()
    assert not stats.prediction.requires_grad and not stats.confidence.requires_grad
    with torch.no_grad():
        nothing = me.stats(counts, x, **tensors)
    with torch.inference_mode():
        inference = me.stats(counts, x, **tensors)
    for loss in (nothing.loss, inference.loss):
        assert not loss.requires_grad and torch.equal(loss, stats.loss)


@CASES.add(use_reentrant=[False, True])
def checkpoints(me: Rank, use_reentrant: bool) -> None:
    """All processes exchange once more in backward, in the same order."""
    counts = counts_of(me, "uneven")
    x, tensors = whole_problem("indices", (6, 20), torch.float64, counts)
    w = torch.randn(20, 4, dtype=torch.float64)
    h = torch.randn(6, 4, dtype=torch.float64)

    def logits(x: Tensor) -> Tensor:
        return me.stats(counts, x.tanh(), **tensors).loss

    def layer(h: Tensor, w: Tensor) -> Tensor:
        return me.linear_stats(counts, h.tanh(), w, tensors["target"], chunk_rows=4).loss

    for f, inputs in ((logits, (x,)), (layer, (h, w))):
        leaves = [t.clone().requires_grad_() for t in inputs]
        expected = torch.autograd.grad(f(*leaves), leaves)
        found = checkpoint(f, *leaves, use_reentrant=use_reentrant)
        found.backward()
        for leaf, gradient in zip(leaves, expected, strict=True):
            assert torch.equal(leaf.grad, gradient)


LINEAR = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@CASES.add(dtype=LINEAR, partition=PARTITIONS, smoothing=[0.0, 0.2], weighted=[False, True])
def layers(me: Rank, dtype: torch.dtype, partition: str, smoothing: float, weighted: bool) -> None:
    """The loss and all gradients, within linear.py's bounds: a sum over the classes in parts is one
    of the orders in which they hold.
    """
    counts = counts_of(me, partition)

    def loss_of(layer: linear.Layer, target: Tensor, **options: Any) -> Tensor:
        stats = me.linear_stats(
            counts, layer.input, layer.weight, target, linear_bias=layer.bias, **options
        )
        check_same_on_all(me, stats)
        return stats.loss

    options: dict[str, Any] = {"label_smoothing": smoothing}
    if weighted:
        options["weight"] = (torch.rand(sum(counts)) + 0.5).to(dtype)
    with mock.patch.object(linear, "loss_of", loss_of):
        for reduction, chunk_rows in itertools.product(REDUCTIONS, (None, 5)):
            given = linear.layer(13, 12, sum(counts), dtype, bias=chunk_rows is None)
            target = torch.randint(sum(counts), (13,))
            target[2], target[5:8] = sum(counts) - 1, -100
            linear.check(given, target, reduction, chunk_rows=chunk_rows, **options)
        probabilities = torch.rand(13, sum(counts)).to(dtype)
        linear.check(given, probabilities, chunk_rows=5, **options)


@CASES.add(option=OPTIONS, kind=KINDS)
def layer_statistics(me: Rank, option: str, kind: str) -> None:
    """Of any batch, first and second derivatives of all results by all tensors."""
    for partition, batch in (("uneven", (2, 3)), ("first_empty", (6,)), ("last_empty", ())):
        counts = counts_of(me, partition)
        _, tensors = whole_problem(kind, (6, 20), torch.float64, counts)
        layer = [torch.randn(*batch, 4), torch.randn(20, 4), torch.randn(20)]
        if batch == ():
            tensors["target"] = tensors["target"][0]
            tensors["row_weight"] = tensors["row_weight"][0]
        shaped = {
            "target": tensors["target"].reshape([*batch, *([20] if kind != "indices" else [])]),
            "row_weight": tensors["row_weight"].reshape(batch),
            "weight": tensors["weight"],
        }
        given = {**OPTIONS[option], **EVERYTHING, "chunk_rows": 4}
        found = []
        for f in (
            fused_ce.linear_cross_entropy_stats,
            functools.partial(me.linear_stats, counts),
        ):
            torch.manual_seed(2)
            h, w, b = leaves = [t.double().requires_grad_() for t in layer]
            stats = f(h, w, linear_bias=b, **shaped, **given)
            outputs = differentiable(stats)
            grads = [torch.randn_like(o) for o in outputs]
            first = torch.autograd.grad(outputs, leaves, grads, create_graph=True)
            kept = torch.autograd.grad(
                differentiable(f(h, w, linear_bias=b, **shaped, **given)), leaves, grads
            )
            total = sum((g * torch.randn_like(g)).sum() for g in first)
            found.append((*outputs, *first, *kept, *torch.autograd.grad(total, leaves)))
            assert stats.prediction.shape == batch
        torch.testing.assert_close(*found)
        check_same_on_all(me, found[1])


class Traffic(TorchDispatchMode):
    """Names of the collectives that ran, with the bytes that this process gave to each."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[tuple[str, int]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket._qualified_op_name
        if name.startswith(("_c10d_functional::", "c10d::")) and "wait" not in name:
            given = args[0] if isinstance(args[0], Tensor) else None
            self.ran.append((name, given.numel() * given.itemsize if given is not None else -1))
        return func(*args, **(kwargs or {}))


# The bytes of a row: the largest, the others' sum and the target's logit, and what options add.
BYTES: dict[str, tuple[dict[str, Any], int]] = {
    "plain": ({}, 24),
    "lse": ({"return_lse": True, "z_loss_weight": 0.1}, 24),
    "entropy": ({"return_entropy": True}, 32),
    "prediction": ({"return_prediction": True}, 32),
    "entropy_and_prediction": ({"return_entropy": True, "return_prediction": True}, 40),
    "weight": ({"weight": True}, 32),
    "smoothed": ({"label_smoothing": 0.1}, 32),
    "everything": ({"weight": True, "label_smoothing": 0.1, **EVERYTHING}, 56),
}


@CASES.add(option=BYTES, dtype=DTYPES)
def traffic(me: Rank, option: str, dtype: torch.dtype) -> None:
    rows, counts = 40, counts_of(me, "uneven")
    given, row_bytes = BYTES[option]
    options: dict[str, Any] = {**given, "group": me.group}
    x = torch.randn(rows, counts[me.rank]).to(dtype).requires_grad_()
    target = torch.randint(20, (rows,))
    if options.pop("weight", False):
        options["weight"] = torch.rand(counts[me.rank]).to(dtype)
    # That the processes fit together was told already.
    fused_ce.distributed.cross_entropy_stats(x, target, **options)
    with Traffic() as forward:
        stats = fused_ce.distributed.cross_entropy_stats(x, target, **options)
    [(name, sent)] = forward.ran
    assert name == "_c10d_functional::all_gather_into_tensor"
    # What is of each process takes as much as a row.
    assert sent == (rows + 1) * row_bytes
    with Traffic() as backward:
        sum(o.sum() for o in differentiable(stats)).backward()
    assert backward.ran == []


@CASES.add(option=BYTES, dtype=DTYPES)
def traffic_of_layers(me: Rank, option: str, dtype: torch.dtype) -> None:
    rows, counts = 40, counts_of(me, "uneven")
    given, row_bytes = BYTES[option]
    options: dict[str, Any] = {**given, "group": me.group, "chunk_rows": 7}
    h, w = (torch.randn(n, 6).to(dtype).requires_grad_() for n in (rows, counts[me.rank]))
    target = torch.randint(20, (rows,))
    if options.pop("weight", False):
        options["weight"] = torch.rand(counts[me.rank]).to(dtype)
    f = fused_ce.distributed.linear_cross_entropy_stats
    f(h, w, target, **options)
    with Traffic() as forward:
        total = sum(o.sum() for o in differentiable(f(h, w, target, **options)))
        again = f(h.detach(), w, target, **options).loss
    gather = "_c10d_functional::all_gather_into_tensor"
    assert forward.ran == [(gather, (rows + 1) * row_bytes)] * 2
    with Traffic() as backward:
        total.backward()
    # Half types are added in float32.
    itemsize = torch.promote_types(dtype, torch.float32).itemsize
    assert backward.ran == [("_c10d_functional::all_reduce", h.numel() * itemsize)]
    with Traffic() as backward:
        again.backward()
    assert backward.ran == []


# Of more than 8 MB on more than two processes.
REDUCED = {
    "plain": ({}, 16),
    "everything": (EVERYTHING | {"label_smoothing": 0.1, "return_lse": True}, 32),
}


@CASES.add(option=REDUCED, dtype=[torch.float32, torch.bfloat16])
def reduced(me: Rank, option: str, dtype: torch.dtype) -> None:
    """Many rows on many processes are added up, not gathered; with the same results."""
    rows, counts = 90_000, counts_of(me, "last_empty")
    given, row_bytes = REDUCED[option]
    x = torch.randn(rows, sum(counts)).to(dtype)
    target = torch.randint(sum(counts), (rows,))
    target[::7] = -100
    for row, values in enumerate(([0.0] * 20, [-torch.inf] * 19 + [1.0], [-0.0, 0.0] * 10)):
        x[row] = torch.tensor(values)  # ties, a slice of nothing, zeros of both signs
    x[3, 4] = x[4, 15] = torch.nan
    x[5, 2] = torch.inf
    x[6] = -torch.inf
    x = x.requires_grad_()
    few = slice(0, 1000)  # which are gathered
    me.stats(counts, x, target, reduction="none", **given)  # now they know one another's classes
    with Traffic() as forward:
        stats = me.stats(counts, x, target, reduction="none", **given)
    if me.size == 2:
        assert [name for name, _ in forward.ran if "gather" in name]
        return
    assert [name for name, _ in forward.ran] == ["_c10d_functional::all_reduce"] * 2
    assert sum(size for _, size in forward.ran) == rows * (8 + row_bytes) + 16 + row_bytes
    gathered = me.stats(counts, x[few], target[few], reduction="none", **given)
    for a, b in zip(stats, gathered, strict=True):
        if a is None:
            assert b is None
        elif a.is_floating_point():  # added up in another order, in double, and rounded
            assert ulps_between(a[few], b) <= 1
        else:
            assert torch.equal(a[few], b)
    grads = []
    for results, part in ((stats, few), (gathered, slice(None))):
        total = sum(o[part][7:].sum() for o in differentiable(results))
        grads.append(torch.autograd.grad(total, x, retain_graph=True)[0][few][7:])
    torch.testing.assert_close(grads[0], grads[1])
    assert len(set(map(tuple, me.everyones(bits(r for r in stats if r is not None))))) == 1


@CASES.add()
def hooks_of_layers(me: Rank) -> None:
    """A tensor's hook sees its gradient once, also where that is differentiated in turn."""
    counts = counts_of(me, "uneven")
    h, w = (torch.randn(n, 6).requires_grad_() for n in (9, counts[me.rank]))
    target = torch.randint(20, (9,))
    seen: list[str] = []
    w.register_hook(lambda grad: seen.append("weight") or grad * 2)
    grads = []
    for create_graph in (False, True):
        loss = fused_ce.distributed.linear_cross_entropy(h, w, target, group=me.group)
        grads.append(torch.autograd.grad(loss, (h, w), create_graph=create_graph))
    assert seen == ["weight"] * 2
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@CASES.add()
def autocast_of_layers(me: Rank) -> None:
    """What is differentiated is the layer that forward had, whatever its type was."""
    counts = counts_of(me, "uneven")
    h, w = (torch.randn(n, 6).requires_grad_() for n in (9, counts[me.rank]))
    target = torch.randint(20, (9,))
    grads = []
    for outside, create_graph in itertools.product((True, False), repeat=2):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not outside):
            loss = fused_ce.distributed.linear_cross_entropy(h, w, target, group=me.group)
            grads.append(torch.autograd.grad(loss, (h, w), create_graph=create_graph))
    # Outside, in float32; under autocast, of bfloat16's logits, whose gradients are rounded once or
    # as autograd's own rules go.
    rounded = {"rtol": 2**-7, "atol": 2**-9}
    for pair, close in ((grads[:2], {}), (grads[2:], rounded)):
        for x, y in zip(*pair, strict=True):
            torch.testing.assert_close(x, y, **close)


@CASES.add(of=["logits", "layer"])
def forward_mode(me: Rank, of: str) -> None:
    """Refused, and not without a tangent."""
    counts = counts_of(me, "uneven")
    x, h = torch.randn(9, counts[me.rank]), torch.randn(9, 6)
    target = torch.randint(20, (9,))
    f: Any
    given: Any
    with fwAD.dual_level():
        if of == "logits":
            f, given = fused_ce.distributed.cross_entropy, (fwAD.make_dual(x, x), target)
        else:
            w = torch.randn(counts[me.rank], 6)
            f, given = fused_ce.distributed.linear_cross_entropy, (fwAD.make_dual(h, h), w, target)
        with pytest.raises(NotImplementedError, match="forward mode"):
            f(*given, group=me.group)


@CASES.add()
def told_once(me: Rank) -> None:
    """Whether the processes fit together is asked for at the first call with new sizes alone."""
    x, target = torch.randn(3, 2 + me.rank), torch.tensor([0, 1, 4])
    f = functools.partial(fused_ce.distributed.cross_entropy, group=me.group)
    names = []
    for given in ((x, target), (x, target), (x[1:], target[1:]), (x, target)):
        with Traffic() as traffic:
            f(*given)
        names.append([name for name, _ in traffic.ran if name.startswith("c10d::")])
    assert names[0] and names[2]
    assert names[1] == names[3] == []


def in_group(size: int, case: str) -> bool:
    """The long cases once more among 4, of one type: what a number is of is nothing to a slice."""
    long = case.startswith(("parity", "statistics", "hard", "layers"))
    return size == 2 or not (long and "float32" not in case)


RUNS = [run for run in itertools.product((2, 4), CASES) if in_group(*run)]


def on_launchers(size: int, case: str) -> bool:
    return size == 2 and case.startswith(("parity", "statistics", "layers")) and "uneven" in case


@pytest.mark.simt(when=on_launchers)
@pytest.mark.parametrize(("size", "case"), RUNS)
def test_distributed(request: pytest.FixtureRequest, size: int, case: str) -> None:
    CASES.check(request, size, case)
