# SPDX-License-Identifier: BSD-3-Clause
"""torch.func, torch.compile, export, tracing, autocast, and opcheck."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import fused_ce
import pytest
import torch
import torch._dynamo.testing
import torch._inductor
import torch.nn.functional as F
from conftest import DEVICE
from torch import func

X = torch.linspace(-2, 2, 40).view(8, 5)
T = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])
OP = torch.ops.fused_ce.cross_entropy


@pytest.mark.parametrize("transform", [func.grad, func.jacrev, func.jacfwd, func.hessian])
def test_func(transform: object) -> None:
    ours = transform(lambda x: fused_ce.cross_entropy(x, T, label_smoothing=0.1))(X)
    theirs = transform(lambda x: F.cross_entropy(x, T, label_smoothing=0.1))(X)
    torch.testing.assert_close(ours, theirs)


def test_vjp_jvp() -> None:
    (_, ours), (_, theirs) = (
        func.vjp(lambda x, g=g: g(x, T), X) for g in (fused_ce.cross_entropy, F.cross_entropy)
    )
    torch.testing.assert_close(ours(torch.tensor(2.0)), theirs(torch.tensor(2.0)))
    ours_jvp, theirs_jvp = (
        func.jvp(lambda x, g=g: g(x, T), (X,), (X,))
        for g in (fused_ce.cross_entropy, F.cross_entropy)
    )
    torch.testing.assert_close(ours_jvp, theirs_jvp)


@pytest.mark.parametrize("dims", [(0, 0), (0, None), (None, 0)], ids=str)
def test_vmap(dims: tuple[int | None, int | None]) -> None:
    x = torch.randn(3, 8, 5) if dims[0] == 0 else X
    t = torch.randint(0, 5, (3, 8)) if dims[1] == 0 else T
    ours, theirs = (
        func.vmap(f, in_dims=dims)(x, t) for f in (fused_ce.cross_entropy, F.cross_entropy)
    )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_compile(backend: str, dynamic: bool) -> None:
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend(backend)

    @torch.compile(backend=counter, fullgraph=True, dynamic=dynamic)
    def f(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return fused_ce.cross_entropy(2 * x, t, label_smoothing=0.1)

    for rows in (8, 6, 7):
        x, t = X[:rows].clone().requires_grad_(), T[:rows].clone()
        expected = fused_ce.cross_entropy(2 * x, t, label_smoothing=0.1)
        actual = f(x, t)
        torch.testing.assert_close(actual, expected)
        torch.testing.assert_close(torch.autograd.grad(actual, x), torch.autograd.grad(expected, x))
    if dynamic:
        assert counter.frame_count == 1


def test_export() -> None:
    class Loss(torch.nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return OP(x, t)

    program = torch.export.export(Loss(), (X, T))
    torch.testing.assert_close(program.module()(X, T), OP(X, T))


def test_aot_inductor(tmp_path: Path) -> None:
    """A model and its loss, compiled to a shared library, as a C++ program would load it."""

    class Loss(torch.nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return fused_ce.cross_entropy(2 * x, t, label_smoothing=0.1)

    program = torch.export.export(Loss(), (X, T))
    package = torch._inductor.aoti_compile_and_package(
        program, package_path=str(tmp_path / "loss.pt2")
    )
    torch.testing.assert_close(
        torch._inductor.aoti_load_package(package)(X, T), Loss()(X, T), rtol=0, atol=0
    )


def test_per_sample_jacobians() -> None:
    """vmap over jacrev: the gradient of each sample's own loss."""
    ours, theirs = (
        func.vmap(func.jacrev(lambda x, t, g=g: g(x, t)))(X, T)
        for g in (fused_ce.cross_entropy, F.cross_entropy)
    )
    torch.testing.assert_close(ours, theirs)


def test_trace() -> None:
    traced = torch.jit.trace(lambda x, t: fused_ce.cross_entropy(x, t), (X, T))
    assert torch.equal(traced(2 * X, T), OP(2 * X, T))


def test_meta() -> None:
    for reduction, shape in ((0, (8,)), (1, ()), (2, ())):
        loss = OP(X.to("meta"), T.to("meta"), None, reduction)
        assert loss.shape == shape and loss.device.type == "meta"


@pytest.mark.simt
@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str
)
@pytest.mark.parametrize("kind", ["indices", "weight", "probabilities"])
def test_autocast(dtype: torch.dtype, kind: str) -> None:
    x = X.to(dtype).requires_grad_()
    target = X.softmax(1).to(dtype) if kind == "probabilities" else T
    weight = torch.linspace(0.5, 1.5, 5).to(dtype) if kind == "weight" else None
    with torch.autocast(DEVICE, torch.bfloat16):
        ours = fused_ce.cross_entropy(x, target, weight)
    # On the CPU, where torch has the precision of ours: on CUDA it rounds the logarithms.
    on_cpu = [None if t is None else t.detach().cpu() for t in (x, target, weight)]
    with torch.autocast("cpu", torch.bfloat16):
        theirs = F.cross_entropy(*on_cpu)
    torch.testing.assert_close(ours.cpu(), theirs)
    (grad,) = torch.autograd.grad(ours, x)
    assert grad.dtype == dtype


@pytest.mark.simt
@pytest.mark.parametrize("reduction", [0, 1, 2])
@pytest.mark.parametrize("kind", ["indices", "probabilities", "weight"])
def test_opcheck(kind: str, reduction: int) -> None:
    x = X.clone().requires_grad_()
    target = X.softmax(1) if kind == "probabilities" else T
    weight = torch.linspace(0.5, 1.5, 5) if kind == "weight" else None
    options = (reduction, -100, 0.1)
    torch.library.opcheck(OP, (x, target, weight, *options))
    for save in (False, True):
        arguments = (x, target, weight, None, None, None, save, *options)
        torch.library.opcheck(torch.ops.fused_ce._forward, arguments)
    loss, *_, saved, total = torch.ops.fused_ce._forward(x.detach(), *arguments[1:])
    grads = (torch.ones_like(loss), None, None, None)
    torch.library.opcheck(
        torch.ops.fused_ce._backward,
        (*grads, x, target, weight, None, saved, total, *options),
    )


def test_module() -> None:
    weight = torch.rand(5)
    ours = fused_ce.CrossEntropyLoss(weight, ignore_index=2, label_smoothing=0.1)
    theirs = torch.nn.CrossEntropyLoss(weight, ignore_index=2, label_smoothing=0.1)
    assert ours.state_dict().keys() == theirs.state_dict().keys() == {"weight"}
    theirs.load_state_dict(ours.state_dict())
    for module in (ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        torch.testing.assert_close(module(X, T), theirs(X, T))
    assert ours.double().weight.dtype == torch.float64
    with pytest.warns(UserWarning, match="deprecated"):
        assert fused_ce.CrossEntropyLoss(size_average=False).reduction == "sum"
