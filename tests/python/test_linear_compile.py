# SPDX-License-Identifier: BSD-3-Clause
"""The linear layer's loss under torch.compile, export, AOTInductor, tracing, and opcheck."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import fused_ce
import pytest
import torch
import torch._dynamo.testing
import torch._inductor
from loss_head import EVERYTHING
from test_linear_transforms import (
    CHUNK,
    CLASSES,
    OPTIONS,
    ROWS,
    Loss,
    both,
    ours,
    plain,
    problem,
    samples,
    stacked,
)
from torch import Tensor, func
from torch.utils.flop_counter import FlopCounterMode


class Model(torch.nn.Module):
    """A layer of a model before the one of the loss, whose results have another type."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        _, w, _, b = problem(dtype)
        self.weight, self.bias = torch.nn.Parameter(w), torch.nn.Parameter(b)

    def forward(self, x: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        loss = ours(2 * x, self.weight, t, self.bias, label_smoothing=0.1)
        stats = fused_ce.linear_cross_entropy_stats(
            *(x.sin(), self.weight, t),
            z_loss_weight=0.1,
            chunk_rows=CHUNK,
            **EVERYTHING,
        )
        return loss, *stats


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile(backend: str, dynamic: bool, dtype: torch.dtype) -> None:
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend(backend)
    model = Model(dtype)
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=dynamic)
    frames = []
    for rows in (8, 6, 11) if dynamic else (8,):
        x, _, t, _ = problem(dtype, rows)
        results = []
        for f in (compiled, model):
            leaf = x.clone().requires_grad_()
            outputs = f(leaf, t)
            floating = [r.sum() for r in outputs if r.requires_grad]
            grads = torch.autograd.grad(floating, (leaf, *model.parameters()))
            results.append((tuple(r.detach() for r in outputs), grads))
        # Inductor does not round between the operations that it fuses.
        torch.testing.assert_close(
            *results, **({"rtol": 0.016, "atol": 4e-3} if dtype == torch.bfloat16 else {})
        )
        frames.append(counter.frame_count)
    assert frames[0] == frames[-1]  # none for another size


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_compile_of_some_gradients(reduction: str, wanted: tuple[int, ...]) -> None:
    torch._dynamo.reset()
    x, w, t, b = problem()

    def run(f: Loss) -> tuple[Tensor, ...]:
        layer = [a.clone().requires_grad_(i in wanted) for i, a in enumerate((x, w, b))]
        loss = f(layer[0], layer[1], t, layer[2], reduction=reduction)
        return loss.detach(), *torch.autograd.grad(
            loss.square().sum(), [a for a in layer if a.requires_grad]
        )

    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(run(compiled), run(plain))


def test_compile_of_transforms() -> None:
    torch._dynamo.reset()
    x, w, t, b = problem()
    each, _, given = samples("xt")

    def f(x: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        of_layer = lambda x, w: ours(x, w, t, b)  # noqa: E731
        return func.grad(of_layer, (0, 1))(x, w)

    compiled = torch.compile(f, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, t), func.grad(plain, (0, 1))(x, w, t, b))
    mapped = torch.compile(func.vmap(f), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(mapped(given[0], given[2]), stacked([f(a[0], a[2]) for a in each]))


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_autograd(backend: str, reduction: str) -> None:
    torch._dynamo.reset()
    x, w, t, b = problem()
    compiler = torch.compile(backend=backend, fullgraph=True)

    def run(f: Loss) -> list[Tensor]:
        layer = [a.clone().requires_grad_() for a in (x, w, b)]
        loss = f(layer[0], layer[1], t, layer[2], reduction=reduction, **OPTIONS["all"])
        loss = loss.square().sum()
        if f is ours:
            with torch._dynamo.compiled_autograd._enable(compiler):
                loss.backward()
        else:
            loss.backward()
        return [a.grad for a in layer]

    both(run)


@pytest.mark.parametrize("is_dynamic", [False, True])
@pytest.mark.parametrize("strict", [False, True])
def test_export(strict: bool, is_dynamic: bool) -> None:
    model = Model()
    x, _, t, _ = problem(torch.float32)
    rows = {0: torch.export.Dim("rows")}
    shapes = (rows, rows) if is_dynamic else None
    program = torch.export.export(model, (x, t), dynamic_shapes=shapes, strict=strict)
    for n in (ROWS, 4, 13) if is_dynamic else (ROWS,):
        x, _, t, _ = problem(torch.float32, n)
        torch.testing.assert_close(program.module()(x, t), model(x, t))


def test_aot_inductor(tmp_path: Path) -> None:
    model = Model()
    x, _, t, _ = problem(torch.float32)
    rows = {0: torch.export.Dim("rows")}
    program = torch.export.export(model, (x, t), dynamic_shapes=(rows, rows))
    package = torch._inductor.aoti_compile_and_package(
        program, package_path=str(tmp_path / "model.pt2")
    )
    loaded = torch._inductor.aoti_load_package(package)
    for n in (ROWS, 4, 13):
        x, _, t, _ = problem(torch.float32, n)
        torch.testing.assert_close(tuple(loaded(x, t)), model(x, t))


def test_trace() -> None:
    x, w, t, b = problem()
    op = torch.ops.fused_ce.linear_cross_entropy
    traced = torch.jit.trace(
        lambda *a: op(*a[:3], linear_bias=a[3], chunk_rows=CHUNK), (x, w, t, b)
    )
    assert "fused_ce::linear_cross_entropy" in {node.kind() for node in traced.graph.nodes()}
    x, w, t, b = problem(rows=11)
    torch.testing.assert_close(traced(x, w, t, b), plain(x, w, t, b))


def kept(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    return x[t != 1], t[t != 1]


def counted(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    rows = (t != 1).sum().item()
    torch._check(rows <= x.size(0))
    return x[:rows], t[:rows]


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("some", [kept, counted])
@pytest.mark.parametrize("how", ["export", "aot_eager"])
def test_rows_whose_number_is_known_at_run_time(
    how: str, some: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], reduction: str
) -> None:
    torch._dynamo.reset()
    _, w, _, b = problem()

    class Some(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor, f: Loss = ours) -> Tensor:
            x, t = some(x, t)
            return f(x, w, t, b, reduction=reduction)

    x, _, t, _ = problem()
    with torch._dynamo.config.patch(
        capture_dynamic_output_shape_ops=True, capture_scalar_outputs=True
    ):
        if how == "export":
            program = torch.export.export(Some(), (x, t)).module()
        else:
            program = torch.compile(Some(), backend=how, fullgraph=True)
        for ignored in (1, 4, 0, ROWS):
            t[:] = 2
            t[:ignored] = 1
            leaf = x.clone().requires_grad_()
            loss, expected = program(leaf, t), Some()(leaf, t, plain)
            torch.testing.assert_close(loss, expected, equal_nan=True)
            if how == "aot_eager":
                torch.testing.assert_close(
                    *(torch.autograd.grad(a.sum(), leaf) for a in (loss, expected))
                )


# ---- What the operators say of themselves --------------------------------------------------------

ALL = {"return_z_loss": True, **EVERYTHING}  # of the operators' results


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("reduction", [0, 1, 2])
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
def test_opcheck(kind: str, reduction: int, dtype: torch.dtype) -> None:
    x, w, t, b = (a.requires_grad_(a.is_floating_point()) for a in problem(dtype))
    if kind == "probabilities":
        t = torch.rand(ROWS, CLASSES)
    weight, row_weight = (
        torch.rand(CLASSES).to(t if kind == "probabilities" else x),
        torch.rand(ROWS),
    )
    normalizer = torch.tensor(3.0) if reduction == 1 else None
    loss = (reduction, -100, 0.1)
    named = {"logit_scale": 1.5, "softcap": 3.0, "temperature": 0.7, "z_loss_weight": 0.1, **ALL}
    named["chunk_rows"] = CHUNK
    # opcheck's tolerances are of the results' type, and its sums of all results are of that, too.
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    if dtype == torch.float32:
        tests += ("test_aot_dispatch_dynamic",)
    op = torch.ops.fused_ce
    for save, needs in product((False, True), ((False,) * 3, (True, False, True), (True,) * 3)):
        if reduction == 0 and any(needs):
            continue  # the loss of each row has a gradient of its own
        given = (w, b, t, weight, row_weight, normalizer, None, save, *needs, *loss)
        torch.library.opcheck(op._linear_forward, (x, *given), named, test_utils=tests)
    results = op._linear_forward(
        x, w, b, t, weight, row_weight, normalizer, None, True, False, False, False, *loss, **named
    )
    grads = [torch.ones_like(r) for r in results[:4]]
    saved, total = (r.detach() for r in results[6:8])
    for needs in ((True, True, True), (False, True, False)):
        rest = (x, w, b, t, weight, row_weight, saved, total, *needs, *loss)
        torch.library.opcheck(op._linear_backward, (*grads, *rest), named, test_utils=tests)
        one = (None, None, None, grads[3])
        torch.library.opcheck(op._linear_backward, (*one, *rest), named, test_utils=tests)


def test_products_are_counted() -> None:
    """By the mode that people measure the use of their hardware with."""
    x, w, t, b = problem()
    counts = []
    for f in (ours, plain):
        x.requires_grad_()
        w.requires_grad_()
        with FlopCounterMode(display=False) as counter:
            f(x, w, t, b).backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0
