# SPDX-License-Identifier: BSD-3-Clause
"""The linear layer's loss as models are trained with it: graphs, precision, heads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import fused_ce
import pytest
import torch
import torch.autograd.forward_ad as fwAD
from test_linear_transforms import (
    CHUNK,
    CLASSES,
    FEATURES,
    OPTIONS,
    ROWS,
    both,
    ours,
    plain,
    problem,
)
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

Loss = Callable[..., Tensor]
REDUCTIONS = ["none", "mean", "sum"]


def leaves(wanted: tuple[int, ...] = (0, 1, 2)) -> tuple[list[Tensor], Tensor]:
    """The same for ours and theirs: input, weight, bias, and the target."""
    torch.manual_seed(1)
    x, w, t, b = problem()
    return [a.requires_grad_(i in wanted) for i, a in enumerate((x, w, b))], t


def of(f: Loss, layer: list[Tensor], t: Tensor, **options: object) -> Tensor:
    return f(layer[0], layer[1], t, layer[2], **options)


# ---- Graphs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradient_penalty(reduction: str, option: str) -> None:
    def run(f: Loss) -> list[Tensor]:
        layer, t = leaves()
        loss = of(f, layer, t, reduction=reduction, **OPTIONS[option]).sum()
        grads = torch.autograd.grad(loss, layer, create_graph=True)
        (loss + sum(g.square().sum() for g in grads)).backward()
        return [loss.detach(), *grads, *(a.grad for a in layer)]

    both(run)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_functional_hessian(reduction: str) -> None:
    def run(f: Loss, vectorize: bool) -> object:
        (x, w, b), t = leaves(())
        return torch.autograd.functional.hessian(
            lambda *a: f(a[0], a[1], t, a[2], reduction=reduction), (x, w, b), vectorize=vectorize
        )

    for vectorize in (False, True):
        both(partial(run, vectorize=vectorize))


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_dual_tensors(reduction: str, wanted: tuple[int, ...]) -> None:
    """Forward-mode AD, of the loss and of its gradient, where tensors require a gradient, too."""

    def run(f: Loss) -> list[Tensor]:
        layer, t = leaves()
        changes = [torch.randn_like(a) for a in layer]
        with fwAD.dual_level():
            dual = [
                fwAD.make_dual(a, v) if i in wanted else a
                for i, (a, v) in enumerate(zip(layer, changes, strict=True))
            ]
            loss = of(f, dual, t, reduction=reduction)
            grads = torch.autograd.grad(loss.square().sum(), layer, create_graph=True)
            duals = [fwAD.unpack_dual(a) for a in (loss, *grads)]
            return [part for dual in duals for part in (dual.primal, dual.tangent)]

    both(run)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_backward_again(reduction: str) -> None:
    """Each time from what is kept, which nobody who changes an earlier gradient can change."""

    def run(f: Loss) -> list[Tensor]:
        layer, t = leaves()
        loss = of(f, layer, t, reduction=reduction)
        results = []
        for factor in (1.0, 2.0):
            grads = torch.autograd.grad((loss * factor).sum(), layer, retain_graph=True)
            results += [g.clone() for g in grads]
            for g in grads:
                g.zero_()
        results += torch.autograd.grad(loss.sum(), layer[:1], create_graph=True)
        return [*results, *torch.autograd.grad(loss.sum(), layer)]

    both(run)


def test_backward_after_the_last() -> None:
    layer, t = leaves()
    loss = of(ours, layer, t)
    loss.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_batched_gradients(reduction: str) -> None:
    def run(f: Loss) -> tuple[Tensor, ...]:
        layer, t = leaves()
        loss = of(f, layer, t, reduction=reduction)
        grads = torch.linspace(-1, 2, 3 * loss.numel(), dtype=loss.dtype).view(3, *loss.shape)
        return torch.autograd.grad(loss, layer, grads, is_grads_batched=True)

    both(run)


@pytest.mark.parametrize("subset", [(0,), (1,), (2,), (2, 0)], ids=str)
@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_some_gradients(reduction: str, wanted: tuple[int, ...], subset: tuple[int, ...]) -> None:
    """Frozen inputs, heads, and biases; and no more than is asked for."""

    def run(f: Loss) -> list[Tensor]:
        layer, t = leaves(wanted)
        loss = of(f, layer, t, reduction=reduction).sum()
        asked = [layer[i] for i in subset if i in wanted] or [layer[wanted[0]]]
        results = [*torch.autograd.grad(loss, asked, retain_graph=True)]
        loss.backward()
        assert [a.grad is not None for a in layer] == [i in wanted for i in range(3)]
        return results + [layer[i].grad for i in wanted]

    both(run)


def test_nothing_requires_a_gradient() -> None:
    layer, t = leaves(())
    assert not of(ours, layer, t).requires_grad
    layer, t = leaves()
    with torch.no_grad():
        assert not of(ours, layer, t).requires_grad


def test_one_loss_used_twice() -> None:
    def run(f: Loss) -> tuple[Tensor, ...]:
        layer, t = leaves()
        loss = of(f, layer, t)
        return torch.autograd.grad(loss.exp() + 3 * loss + of(f, layer, t).square(), layer)

    both(run)


@pytest.mark.parametrize("changed", ["x", "w", "b", "t"])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_change_before_backward(reduction: str, changed: str) -> None:
    layer, t = leaves()
    tensors = dict(zip("xwb", layer, strict=True)) | {"t": t}
    loss = of(ours, layer, t, reduction=reduction)
    with torch.no_grad():
        tensors[changed].zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.sum().backward()


@pytest.mark.parametrize("how", ["on_cpu", "numpy", "anomaly"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_what_is_saved(reduction: str, how: str) -> None:
    def run(f: Loss) -> list[Tensor]:
        context: AbstractContextManager[object] = nullcontext()
        if how == "on_cpu":
            context = save_on_cpu()
        elif how == "numpy":
            context = saved_tensors_hooks(lambda a: a.detach().numpy().copy(), torch.from_numpy)
        elif f is ours:
            context = torch.autograd.detect_anomaly(check_nan=True)
        layer, t = leaves()
        with context:
            loss = of(f, [a.sin() for a in layer], t, reduction=reduction).sum()
            loss.backward()
        return [a.grad for a in layer]

    both(run)


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_checkpoint(reduction: str, use_reentrant: bool) -> None:
    def run(f: Loss) -> list[Tensor]:
        layer, t = leaves()

        def block(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
            return f(x.sin(), w, t, b, reduction=reduction)

        block = partial(checkpoint, block, use_reentrant=use_reentrant) if f is ours else block
        block(*layer).square().sum().backward()
        return [a.grad for a in layer]

    both(run)


def test_checkpoint_keeps_no_gradients() -> None:
    """Forward, forward once more, and three products in backward: none for nothing."""
    layer, t = leaves()
    with FlopCounterMode(display=False) as counter:
        checkpoint(lambda x, w: ours(x.sin(), w, t), *layer[:2], use_reentrant=False).backward()
    assert counter.get_total_flops() == (1 + 1 + 3) * 2 * ROWS * FEATURES * CLASSES


# ---- Precision -----------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_autocast(dtype: torch.dtype, reduction: str) -> None:
    results = []
    for f in (ours, plain):
        layer, t = leaves()
        layer = [a.detach().to(dtype).requires_grad_() for a in layer]
        with torch.autocast("cpu", torch.bfloat16):
            loss = of(f, layer, t, reduction=reduction)
        grads = torch.autograd.grad(loss.sum(), layer)
        assert [g.dtype for g in grads] == [dtype] * 3
        results.append((loss, grads))
    (loss, grads), (expected, expected_grads) = results
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    # Logits in bfloat16 are off by 2^-9 of their size.
    torch.testing.assert_close(loss, expected.to(loss.dtype), rtol=0.02, atol=0.02)
    torch.testing.assert_close(grads, expected_grads, rtol=0.03, atol=0.02)


def test_autocast_of_transforms() -> None:
    x, w, t, b = (a.float() if a.is_floating_point() else a for a in problem())
    with torch.autocast("cpu", torch.bfloat16):
        grads = torch.func.grad(ours, (0, 1, 3))(x, w, t, b)
        mapped = torch.func.vmap(ours, in_dims=(0, None, 0, None))(x, w, t, b)
    assert mapped.dtype == torch.float32 and [g.dtype for g in grads] == [torch.float32] * 3
    expected = torch.func.grad(plain, (0, 1, 3))(x, w, t, b)
    torch.testing.assert_close(grads, expected, rtol=0.03, atol=0.02)
    torch.testing.assert_close(mapped, plain(x, w, t, b, reduction="none"), rtol=0.02, atol=0.03)


def test_second_derivatives_in_autocast() -> None:
    """Of a forward outside: the same numbers as outside."""

    def run(context: AbstractContextManager[object]) -> tuple[Tensor, ...]:
        torch.manual_seed(1)
        x, w, t, b = (a.float() if a.is_floating_point() else a for a in problem())
        layer = [a.requires_grad_() for a in (x, w, b)]
        loss = of(ours, layer, t)
        grads = torch.autograd.grad(loss, layer, create_graph=True)
        with context:
            return torch.autograd.grad(sum(g.square().sum() for g in grads), layer)

    torch.testing.assert_close(
        run(torch.autocast("cpu", torch.bfloat16)), run(nullcontext()), rtol=0, atol=0
    )


def test_infinite_gradients_leave_ignored_rows_alone() -> None:
    for reduction in REDUCTIONS:
        layer, t = leaves()
        t[2:4] = -100
        loss = of(ours, layer, t, reduction=reduction)
        (grad,) = torch.autograd.grad(loss, layer[:1], torch.full_like(loss, torch.inf))
        assert not grad[2:4].any() and not grad[4:].isfinite().all()


# ---- Heads, and what they are made of ------------------------------------------------------------


def test_tied_embeddings() -> None:
    def run(f: Loss) -> list[Tensor]:
        torch.manual_seed(1)
        embedding = nn.Embedding(CLASSES, FEATURES, dtype=torch.float64)
        body = nn.Linear(FEATURES, FEATURES, dtype=torch.float64)
        tokens, t = torch.randint(CLASSES, (ROWS,)), torch.randint(CLASSES, (ROWS,))
        f(body(embedding(tokens)).tanh(), embedding.weight, t).backward()
        return [p.grad for p in (*embedding.parameters(), *body.parameters())]

    both(run)


@pytest.mark.parametrize("is_frozen", [False, True])
def test_low_rank_head(is_frozen: bool) -> None:
    def run(f: Loss) -> list[Tensor]:
        (x, base, bias), t = leaves((0,) if is_frozen else (0, 1, 2))
        down = torch.randn(2, FEATURES, dtype=torch.float64, requires_grad=True)
        up = torch.randn(CLASSES, 2, dtype=torch.float64, requires_grad=True)
        f(x, base + up @ down, t, bias).backward()
        assert (base.grad is None) == is_frozen
        return [a.grad for a in (x, base, bias, down, up) if a.grad is not None]

    both(run)


def test_micro_batches() -> None:
    """Means over all tokens, a part at a time, add up to that of the batch."""
    x, w, t, b = problem(rows=24)
    parts = [slice(0, 5), slice(5, 16), slice(16, 24)]
    kept = (t != 1).sum()
    results = []
    for is_whole in (False, True):
        layer = [a.clone().requires_grad_() for a in (w, b)]
        total = torch.zeros((), dtype=torch.float64)
        for part in [slice(None)] if is_whole else parts:
            loss = fused_ce.linear_cross_entropy_stats(
                *(x[part], layer[0], t[part]),
                linear_bias=layer[1],
                ignore_index=1,
                normalizer=None if is_whole else kept,
                chunk_rows=CHUNK,
            ).loss
            loss.backward()
            total += loss.detach()
        results.append((total, [a.grad for a in layer]))
    torch.testing.assert_close(*results)
    torch.testing.assert_close(results[0][0], plain(x, w, t, b, ignore_index=1))


def test_threads() -> None:
    def step(number: int) -> list[Tensor]:
        random = torch.Generator().manual_seed(number)
        x, w = (torch.randn(n, 32, generator=random).requires_grad_() for n in (500, 300))
        t = torch.randint(300, (500,), generator=random)
        loss = ours(x, w, t, reduction="sum", chunk_rows=100)
        loss.backward()
        return [loss.detach(), x.grad, w.grad]

    expected = [step(number) for number in range(8)]
    with ThreadPoolExecutor(2) as threads:
        for one, other in zip(expected, threads.map(step, range(8)), strict=True):
            torch.testing.assert_close(one, other)


def test_threads_share_a_head() -> None:
    """Backward of two losses at once, whose gradients are added up in one weight."""
    _, w, _, _ = problem()
    w.requires_grad_()
    batches = [problem(rows=40) for _ in range(8)]

    def backward(i: int) -> None:
        ours(batches[i][0], w, batches[i][2]).backward()

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(backward, range(8)))
    total = sum(plain(x, w, t) for x, _, t, _ in batches)
    torch.testing.assert_close(w.grad, torch.autograd.grad(total, w)[0])
