# SPDX-License-Identifier: BSD-3-Clause
"""The loss head under torch.func, vmap, torch.compile, export, tracing, autocast, and opcheck."""

from __future__ import annotations

from pathlib import Path

import fused_ce
import pytest
import torch
import torch._dynamo.testing
import torch._inductor
from loss_head import EVERYTHING, OPTIONS, differentiable, head, problem
from torch import Tensor, func

X, TENSORS = problem("indices", (8, 5))
T = TENSORS["target"]
STATS = torch.ops.fused_ce.cross_entropy_stats
ALL = {"return_z_loss": True, **EVERYTHING}  # of the operator's results


def total(f: object, x: Tensor, **given: object) -> Tensor:
    """One number that depends on all results."""
    stats = f(x, **given, **(EVERYTHING if f is not head else {}))
    return sum(r.sum() * (i + 1) for i, r in enumerate(differentiable(stats)))


@pytest.mark.parametrize("option", ["z_loss", "all"])
@pytest.mark.parametrize("transform", [func.grad, func.jacrev, func.jacfwd, func.hessian])
def test_func(transform: object, option: str) -> None:
    ours, theirs = (
        transform(lambda x, f=f: total(f, x, **TENSORS, **OPTIONS[option]))(X)
        for f in (fused_ce.cross_entropy_stats, head)
    )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("transform", [func.jacrev, func.jacfwd])
def test_jacobians_of_rows(transform: object) -> None:
    ours, theirs = (
        transform(
            lambda x, f=f: torch.stack(
                differentiable(
                    f(
                        *(x,),
                        **{**TENSORS, **OPTIONS["all"], "reduction": "none"},
                        **(EVERYTHING if f is not head else {}),
                    )
                )
            )
        )(X)
        for f in (fused_ce.cross_entropy_stats, head)
    )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 5, 3)], ids=str)
@pytest.mark.parametrize("mapped", ["all", "without_weight", "logits"])
def test_vmap(mapped: str, shape: tuple[int, ...], kind: str, reduction: str) -> None:
    samples = [problem(kind, shape) for _ in range(3)]
    names = list(samples[0][1])
    if reduction == "mean":
        names.append("normalizer")
        for i, (_, tensors) in enumerate(samples):
            tensors["normalizer"] = torch.tensor(2.5 + i, dtype=torch.float64)
    constant = {"all": [], "without_weight": ["weight"], "logits": names}[mapped]
    for _, tensors in samples[1:]:
        tensors.update({name: samples[0][1][name] for name in constant})
    for _, tensors in samples:
        if shape == (5,) and kind == "indices":
            tensors["target"] = torch.tensor(3)

    def one(f: object, x: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        stats = f(
            x,
            **dict(zip(names, given, strict=True)),
            **{**OPTIONS["all"], "reduction": reduction},
            **(EVERYTHING if f is not head else {}),
        )
        return tuple(stats)

    def gradient(f: object, x: Tensor, *given: Tensor) -> Tensor:
        return func.grad(lambda x: sum(r.sum() for r in one(f, x, *given)[:4]))(x)

    dims = (0, *(None if name in constant else 0 for name in names))
    arguments = [torch.stack([x for x, _ in samples])]
    for name in names:
        given = [tensors[name] for _, tensors in samples]
        arguments.append(given[0] if name in constant else torch.stack(given))
    for f in (one, gradient):
        ours = func.vmap(lambda *a, f=f: f(fused_ce.cross_entropy_stats, *a), in_dims=dims)(
            *arguments
        )
        theirs = [f(head, x, *(tensors[name] for name in names)) for x, tensors in samples]
        if f is gradient:
            torch.testing.assert_close(ours, torch.stack(theirs))
        else:
            for i, result in enumerate(ours):
                torch.testing.assert_close(result, torch.stack([t[i] for t in theirs]))


def test_vmap_of_some_results() -> None:
    x = torch.randn(3, 8, 5)
    for option in ({}, {"return_lse": True}, {"return_prediction": True}):
        mapped = func.vmap(lambda x, o=option: STATS(x, T, **o))(x)
        single = STATS(x[0], T, **option)
        assert [r.shape[1:] for r in mapped] == [r.shape for r in single]


def test_vmap_of_predict() -> None:
    x = torch.randn(3, 8, 5)
    torch.testing.assert_close(
        tuple(func.vmap(lambda x: tuple(fused_ce.predict(x)))(x)),
        tuple(torch.stack(r) for r in zip(*map(fused_ce.predict, x), strict=True)),
    )


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_compile(backend: str, dynamic: bool) -> None:
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend(backend)

    def f(x: Tensor, t: Tensor, r: Tensor) -> tuple[Tensor, ...]:
        stats = fused_ce.cross_entropy_stats(
            *(2 * x, t),
            row_weight=r,
            normalizer=3,
            label_smoothing=0.2,
            z_loss_weight=0.3,
            logit_scale=1.7,
            softcap=2.5,
            temperature=0.6,
            return_lse=True,
            return_entropy=True,
            return_prediction=True,
        )
        return (*stats, *fused_ce.predict(3 * x))

    compiled = torch.compile(f, backend=counter, fullgraph=True, dynamic=dynamic)
    frames = []
    for rows in (8, 6, 7):
        x, t, r = (a[:rows].clone() for a in (X, T, TENSORS["row_weight"]))
        x.requires_grad_()
        results = []
        for function in (compiled, f):
            outputs = function(x, t, r)
            floating = [o for o in outputs if o.requires_grad]
            results.append((outputs, torch.autograd.grad([o.sum() for o in floating], x)))
        torch.testing.assert_close(*results)
        frames.append(counter.frame_count)
    # A first trace starts again where it finds that a default, a float, has to be a constant.
    assert not dynamic or frames[0] == frames[-1]


def test_compiled_autograd() -> None:
    x = X.clone().requires_grad_()
    compiler = torch.compile(backend="eager", fullgraph=True)
    with torch._dynamo.compiled_autograd._enable(compiler):
        total(fused_ce.cross_entropy_stats, x, **TENSORS, **OPTIONS["all"]).backward()
    y = X.clone().requires_grad_()
    total(head, y, **TENSORS, **OPTIONS["all"]).backward()
    torch.testing.assert_close(x.grad, y.grad)


class Head(torch.nn.Module):
    def forward(self, x: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        stats = fused_ce.cross_entropy_stats(2 * x, t, z_loss_weight=0.1, **EVERYTHING)
        return (*stats, *fused_ce.predict(x, softcap=3.0))


def test_export() -> None:
    program = torch.export.export(Head(), (X, T))
    torch.testing.assert_close(program.module()(X, T), Head()(X, T))


@pytest.mark.parametrize("strict", [False, True])
def test_export_of_a_normalizer_that_is_a_size(strict: bool) -> None:
    class Mean(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return fused_ce.cross_entropy_stats(x, t, normalizer=t.numel() / 2).loss

    rows = {0: torch.export.Dim("rows")}
    program = torch.export.export(Mean(), (X, T), dynamic_shapes=(rows, rows), strict=strict)
    assert torch.equal(program.module()(X[:5], T[:5]), Mean()(X[:5], T[:5]))


def test_aot_inductor(tmp_path: Path) -> None:
    program = torch.export.export(Head(), (X, T))
    package = torch._inductor.aoti_compile_and_package(
        program, package_path=str(tmp_path / "head.pt2")
    )
    torch.testing.assert_close(
        tuple(torch._inductor.aoti_load_package(package)(X, T)), Head()(X, T)
    )


def scripted(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As TorchScript has it: always all of the results."""
    loss, _, lse, _, _, _ = torch.ops.fused_ce.cross_entropy_stats(
        2 * x, t, softcap=3.0, return_lse=True
    )
    _, _, _, entropy = torch.ops.fused_ce.predict(x)
    return loss, lse, entropy


def test_script() -> None:
    torch.testing.assert_close(torch.jit.script(scripted)(X, T), scripted(X, T))


def test_trace() -> None:
    traced = torch.jit.trace(Head(), (X, T))
    assert "fused_ce::cross_entropy_stats" in {node.kind() for node in traced.graph.nodes()}
    torch.testing.assert_close(traced(2 * X, T), Head()(2 * X, T))


@pytest.mark.parametrize("reduction", [0, 1, 2])
def test_meta(reduction: int) -> None:
    real = STATS(X, T, None, reduction, **ALL)
    meta = STATS(X.to("meta"), T.to("meta"), None, reduction, **ALL)
    for r, m in zip(real, meta, strict=True):
        assert (r.shape, r.dtype, r.stride()) == (m.shape, m.dtype, m.stride())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_autocast(dtype: torch.dtype) -> None:
    x = X.to(dtype).requires_grad_()
    weight = torch.rand(5).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        stats = fused_ce.cross_entropy_stats(x, T, weight, z_loss_weight=0.1, **EVERYTHING)
        half = fused_ce.cross_entropy_stats(x, T, dtype=torch.bfloat16).loss
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert stats.loss.dtype == stats.z_loss.dtype == stats.lse.dtype == wide
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(
        stats.loss, head(x.to(wide), T, weight.to(wide), z_loss_weight=0.1).loss
    )
    assert torch.autograd.grad(stats.loss, x)[0].dtype == dtype


@pytest.mark.parametrize("reduction", [0, 1, 2])
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
def test_opcheck(kind: str, reduction: int) -> None:
    x, tensors = problem(kind, (8, 5), torch.float32)
    x.requires_grad_()
    target, weight, row_weight = (tensors[n] for n in ("target", "weight", "row_weight"))
    normalizer = torch.tensor(3.0) if reduction == 1 else None
    loss = (reduction, -100, 0.1)
    named = {"logit_scale": 1.5, "softcap": 3.0, "temperature": 0.7, "z_loss_weight": 0.1, **ALL}
    torch.library.opcheck(
        STATS,
        (x, target, weight, *loss),
        {**named, "row_weight": row_weight, "normalizer": normalizer},
    )
    torch.library.opcheck(
        torch.ops.fused_ce.predict,
        (x,),
        {"logit_scale": 1.5, "softcap": 3.0},
        # Not test_aot_dispatch_dynamic, which adds up results in the dtype of the first, int64.
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )
    for save in (False, True):
        arguments = (x, target, weight, row_weight, normalizer, None, save, *loss)
        torch.library.opcheck(torch.ops.fused_ce._forward, arguments, named)
    results = torch.ops.fused_ce._forward(x.detach(), *arguments[1:], **named)
    grads = [torch.ones_like(r) for r in results[:4]]
    rest = (target, weight, row_weight, *results[-2:], *loss)
    torch.library.opcheck(torch.ops.fused_ce._backward, (*grads, x, *rest), named)
    torch.library.opcheck(
        torch.ops.fused_ce._backward, (None, None, None, grads[3], x, *rest), named
    )
    torch.library.opcheck(torch.ops.fused_ce._backward_, (*grads, x.detach().clone(), *rest), named)
