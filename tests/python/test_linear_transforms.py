# SPDX-License-Identifier: BSD-3-Clause
"""The linear layer's loss under torch.func and vmap."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import fused_ce
import pytest
import torch
import torch.nn.functional as F
from loss_head import EVERYTHING, differentiable, head
from torch import Tensor, func

Loss = Callable[..., Tensor]

ROWS, FEATURES, CLASSES = 7, 4, 5
CHUNK = 3  # rows: two whole chunks and a rest, or less where rows are ignored
OPTIONS: dict[str, dict[str, object]] = {
    "plain": {},
    "all": {
        "weight": torch.linspace(0.5, 1.5, CLASSES, dtype=torch.float64, device="cpu"),
        "label_smoothing": 0.2,
        "ignore_index": 1,
    },
}


def problem(dtype: torch.dtype = torch.float64, rows: int = ROWS) -> tuple[Tensor, ...]:
    """Rows, of which one is ignored, a layer, and the layer's bias."""
    target = torch.randint(CLASSES, (rows,))
    target[:1] = 1
    return (
        torch.randn(rows, FEATURES, dtype=dtype),
        torch.randn(CLASSES, FEATURES, dtype=dtype),
        target,
        torch.randn(CLASSES, dtype=dtype),
    )


def ours(x: Tensor, w: Tensor, t: Tensor, b: Tensor | None = None, **options: object) -> Tensor:
    return fused_ce.linear_cross_entropy(x, w, t, linear_bias=b, **{"chunk_rows": CHUNK, **options})


def plain(x: Tensor, w: Tensor, t: Tensor, b: Tensor | None = None, **options: object) -> Tensor:
    return F.cross_entropy(F.linear(x, w, b), t, **options)


def both(run: Callable[[Loss], object]) -> None:
    torch.testing.assert_close(run(ours), run(plain), rtol=1e-9, atol=1e-11)


# ---- Derivatives of functions --------------------------------------------------------------------


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("transform", [func.grad, func.jacrev, func.jacfwd, func.hessian])
def test_func(transform: Callable[..., Loss], reduction: str, option: str) -> None:
    x, w, t, b = problem()
    options = {**OPTIONS[option], "reduction": reduction}
    both(lambda f: transform(lambda x, w, b: f(x, w, t, b, **options), argnums=(0, 1, 2))(x, w, b))


@pytest.mark.parametrize("argument", [0, 1, 2])
@pytest.mark.parametrize("transform", [func.jacrev, func.jacfwd, func.hessian])
def test_func_of_rows(transform: Callable[..., Loss], argument: int) -> None:
    x, w, t, b = problem()
    options = {**OPTIONS["all"], "reduction": "none"}
    both(lambda f: transform(lambda x, w, b: f(x, w, t, b, **options), argument)(x, w, b))


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_vjp_jvp(reduction: str) -> None:
    x, w, t, b = problem()
    change = tuple(torch.randn_like(a) for a in (x, w, b))
    for_grad = torch.randn(ROWS if reduction == "none" else (), dtype=torch.float64)

    def run(f: Loss) -> object:
        of_layer = lambda x, w, b: f(x, w, t, b, reduction=reduction)  # noqa: E731
        value, pullback = func.vjp(of_layer, x, w, b)
        first = lambda *a: func.vjp(of_layer, *a)[1](for_grad)  # noqa: E731
        return (
            *(value, pullback(for_grad), func.jvp(of_layer, (x, w, b), change)),
            *(func.jvp(first, (x, w, b), change), func.linearize(of_layer, x, w, b)[1](*change)),
        )

    both(run)


def test_third_derivative() -> None:
    x, w, t, b = problem()
    both(
        lambda f: func.grad(
            lambda w: sum(g.square().sum() for g in func.hessian(lambda v: f(x, v, t, b))(w))
        )(w)
    )


def test_hessian_of_the_stats() -> None:
    x, w, t, b = problem()
    options = {"label_smoothing": 0.1, "softcap": 2.0, "z_loss_weight": 0.3, "temperature": 0.7}

    def total(stats: fused_ce.CrossEntropyStats) -> Tensor:
        return sum(r.sum() * (i + 1) for i, r in enumerate(differentiable(stats)))

    def one(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return total(
            fused_ce.linear_cross_entropy_stats(
                *(x, w, t), linear_bias=b, chunk_rows=CHUNK, **options, **EVERYTHING
            )
        )

    def other(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return total(head(F.linear(x, w, b), t, **options))

    for transform in (func.grad, func.hessian):
        torch.testing.assert_close(
            transform(one, (0, 1, 2))(x, w, b), transform(other, (0, 1, 2))(x, w, b)
        )


def test_grad_of_what_else_wants_a_gradient() -> None:
    """func.grad by one tensor, and autograd by another, outside."""
    x, w, t, b = problem()

    def run(f: Loss) -> tuple[Tensor, ...]:
        leaf = w.clone().requires_grad_()
        return torch.autograd.grad(func.grad(lambda x: f(x, leaf, t, b))(x).square().sum(), leaf)

    both(run)


@pytest.mark.parametrize("kind", ["grad", "jvp", "penalty", "hessian", "row_weight"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_ignored_rows_hold_anything(reduction: str, kind: str) -> None:
    """Derivatives by the layer are those of the other rows, of whatever order."""
    x, w, t, b = problem()
    t[1] = 2
    x[t == 1] = float("nan")
    change = (torch.randn_like(w), torch.randn_like(b))

    def run(x: Tensor, t: Tensor) -> object:
        def f(w: Tensor, b: Tensor) -> Tensor:
            row_weight = torch.ones(len(t), dtype=w.dtype)
            if kind == "row_weight":  # that requires a gradient
                row_weight = row_weight * (1 + 0 * b.sum())
            return fused_ce.linear_cross_entropy_stats(
                *(x, w, t),
                linear_bias=b,
                row_weight=row_weight,
                ignore_index=1,
                reduction=reduction,
                chunk_rows=CHUNK,
            ).loss

        if kind == "jvp":
            return func.jvp(f, (w, b), change)
        if kind == "penalty":
            of_grad = lambda w, b: sum(g.square().sum() for g in func.grad(f, (0, 1))(w, b))  # noqa: E731
            return func.grad(of_grad, (0, 1))(w, b)
        return (func.hessian if kind == "hessian" else func.grad)(f, (0, 1))(w, b)

    torch.testing.assert_close(run(x, t), run(x[t != 1], t[t != 1]))


# ---- vmap ----------------------------------------------------------------------------------------

NAMES = ("x", "w", "t", "b")
MAPPED = ["x", "t", "w", "b", "xt", "wb", "xb", "xwtb"]


def samples(mapped: str) -> tuple[list[tuple[Tensor, ...]], tuple[int | None, ...], list[Tensor]]:
    """Three problems, which have what is not mapped in common; the dims, and what is given."""
    all_of = [problem() for _ in range(3)]
    one = [
        tuple(s[i] if n in mapped else all_of[0][i] for i, n in enumerate(NAMES)) for s in all_of
    ]
    dims = tuple(0 if n in mapped else None for n in NAMES)
    given = [
        torch.stack(a) if d == 0 else a[0]
        for a, d in zip(zip(*one, strict=True), dims, strict=True)
    ]
    return one, dims, given


def stacked(results: list[object]) -> object:
    if isinstance(results[0], Tensor):
        return torch.stack(results)
    return tuple(stacked(list(r)) for r in zip(*results, strict=True))


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("mapped", MAPPED)
def test_vmap(mapped: str, reduction: str, option: str) -> None:
    options = {**OPTIONS[option], "reduction": reduction}
    each, dims, given = samples(mapped)

    def gradients(f: Loss, *arguments: Tensor) -> object:
        x, w, t, b = arguments
        return func.grad(lambda x, w, b: f(x, w, t, b, **options).sum(), (0, 1, 2))(x, w, b)

    def loss(f: Loss, *arguments: Tensor) -> Tensor:
        return f(*arguments, **options)

    for of in (loss, gradients):
        result = func.vmap(lambda *a, of=of: of(ours, *a), in_dims=dims)(*given)
        torch.testing.assert_close(result, stacked([of(plain, *a) for a in each]))


@pytest.mark.parametrize("mapped", MAPPED)
def test_backward_through_vmap(mapped: str) -> None:
    each, dims, given = samples(mapped)
    results = []
    for f in (func.vmap(ours, in_dims=dims), None):
        leaves = [a.clone().requires_grad_() if a.is_floating_point() else a for a in given]
        if f is not None:
            losses = f(*leaves)
        else:
            parts = [
                [a[i] if d == 0 else a for a, d in zip(leaves, dims, strict=True)]
                for i in range(len(each))
            ]
            losses = torch.stack([plain(*a) for a in parts])
        floating = [a for a in leaves if a.requires_grad]
        grad = torch.tensor([0.7, -1.0, 2.0], dtype=torch.float64)
        results.append(torch.autograd.grad(losses, floating, grad))
    torch.testing.assert_close(*results)


def test_vmap_of_everything_else() -> None:
    """The weights of classes and rows, the normalizer, and the layer along another dimension."""
    each = [(*problem(), torch.rand(CLASSES) + 0.5, torch.rand(ROWS), 2.5 + i) for i in range(3)]

    def one(x: Tensor, w: Tensor, t: Tensor, b: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        weight, row_weight, normalizer = rest
        stats = fused_ce.linear_cross_entropy_stats(
            *(x, w.t(), t),
            linear_bias=b,
            weight=weight,
            row_weight=row_weight,
            normalizer=normalizer,
            z_loss_weight=0.1,
            chunk_rows=CHUNK,
            **EVERYTHING,
        )
        return tuple(stats)

    given = [torch.stack([torch.as_tensor(a) for a in c]).double() for c in zip(*each, strict=True)]
    given[1], given[2] = given[1].movedim(0, 1).mT, given[2].long()
    mapped = func.vmap(one, in_dims=(0, 2, *[0] * 5))(
        given[0], given[1].transpose(1, 2).movedim(1, 2).transpose(0, 1), *given[2:]
    )
    for i, (x, w, t, b, *rest) in enumerate(each):
        names = ("weight", "row_weight", "normalizer")
        options = dict(zip(names, (torch.as_tensor(r).double() for r in rest), strict=True))
        expected = head(F.linear(x, w, b), t, z_loss_weight=0.1, **options)
        torch.testing.assert_close(tuple(r[i] for r in mapped), tuple(expected))


@pytest.mark.parametrize("inner", ["x", "t", "w"])
@pytest.mark.parametrize("outer", ["x", "t", "w", "xw"])
def test_nested_vmap(outer: str, inner: str) -> None:
    options = {"label_smoothing": 0.1}
    x, w, t, b = problem()
    at = dict(zip("xwt", (x, w, t), strict=True))
    for name, size in ((inner, 2), *((name, 3) for name in outer)):
        a = at[name]
        more = (
            torch.randint(CLASSES, (size, *a.shape)) if name == "t" else torch.randn(size, *a.shape)
        )
        at[name] = more.to(a.dtype)
    dims = [tuple(0 if n in names else None for n in "xwt") for names in (inner, outer)]
    gradient = lambda *a: func.grad(lambda x, w: ours(x, w, a[2], b, **options), (0, 1))(*a[:2])  # noqa: E731
    result = func.vmap(func.vmap(gradient, in_dims=dims[0]), in_dims=dims[1])(*at.values())
    for i, j in product(range(3), range(2)):
        one = {n: a[i] if n in outer else a for n, a in at.items()}
        one = {n: a[j] if n in inner else a for n, a in one.items()}
        expected = func.grad(lambda x, w, t=one["t"]: plain(x, w, t, b, **options), (0, 1))(
            one["x"], one["w"]
        )
        torch.testing.assert_close(tuple(r[i, j] for r in result), expected)


def test_per_sample_jacobians_of_a_row() -> None:
    x, w, t, b = problem()
    for transform in (func.jacrev, func.jacfwd):
        both(lambda f, d=transform: func.vmap(d(lambda x, t: f(x, w, t, b)))(x, t))
