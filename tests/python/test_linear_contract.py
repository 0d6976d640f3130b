# SPDX-License-Identifier: BSD-3-Clause
"""torch's own tests of linear_cross_entropy with ours in its place, and its wrong answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fused_ce
import pytest
import torch
import torch.nn.functional as F
from conftest import DEVICE, DTYPES
from loss_head import head

pytestmark = pytest.mark.simt
Loss = Callable[..., torch.Tensor]

# They need packages that torch itself does not.
op_db = pytest.importorskip("torch.testing._internal.common_methods_invocations").op_db
module_db = pytest.importorskip("torch.testing._internal.common_modules").module_db
OPS = [op for op in op_db if op.name == "nn.functional.linear_cross_entropy"]
MODULES = [
    m for m in module_db if m.module_cls is getattr(torch.nn, "LinearCrossEntropyLoss", None)
]
needs_torchs = pytest.mark.skipif(not OPS, reason="this torch has no linear_cross_entropy")


def reference(*args: Any, options: Any = None, **named: Any) -> torch.Tensor:
    """torch's way without chunks, in float64: its other way rounds more than it needs to."""

    def wide(t: Any) -> Any:
        return t.double() if torch.is_tensor(t) and t.is_floating_point() else t

    return F.linear_cross_entropy(*map(wide, args), **{k: wide(v) for k, v in named.items()})


@needs_torchs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", OPS, ids=lambda op: op.variant_test_name or "plain")
def test_samples(op: Any, dtype: torch.dtype) -> None:
    count = 0
    for sample in op.sample_inputs(DEVICE, dtype, requires_grad=True):
        count += 1
        results = []
        for f in (fused_ce.linear_cross_entropy, reference):
            loss = f(sample.input, *sample.args, **sample.kwargs)
            tensors = (sample.input, *sample.args, *sample.kwargs.values())
            leaves = [t for t in tensors if torch.is_tensor(t) and t.requires_grad]
            grads = torch.autograd.grad(loss.sum(), leaves, allow_unused=True)
            assert loss.dtype == dtype if f is not reference else True
            results.append((loss.to(dtype), grads))
        # The sums of half types are of their rounded numbers, whose size the samples choose.
        half = dtype in (torch.bfloat16, torch.float16)
        eps = torch.finfo(dtype).eps
        tolerance = {"rtol": 8 * eps, "atol": 16 * eps} if half else {}
        torch.testing.assert_close(results[0], results[1], equal_nan=True, **tolerance)
    assert count > 10


@needs_torchs
@pytest.mark.parametrize("op", OPS, ids=lambda op: op.variant_test_name or "plain")
def test_error_inputs(op: Any) -> None:
    refused = 0
    for error in op.error_inputs_func(op, DEVICE):
        sample = error.sample_input
        if sample.input.dim() == 3:  # torch has no batches of more dimensions than one; we do
            continue
        with pytest.raises(error.error_type, match=error.error_regex):
            fused_ce.linear_cross_entropy(sample.input, *sample.args, **sample.kwargs)
        refused += 1
    assert refused > 3


@needs_torchs
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_module_samples(dtype: torch.dtype) -> None:
    (module,) = MODULES
    samples = module.module_inputs_func(
        module, device=DEVICE, dtype=dtype, requires_grad=False, training=True
    )
    assert len(samples) > 5
    for sample in samples:
        build, call = sample.constructor_input, sample.forward_input
        ours, theirs = (
            cls(*build.args, **{**build.kwargs, "dtype": dtype})
            for cls in (fused_ce.LinearCrossEntropyLoss, torch.nn.LinearCrossEntropyLoss)
        )
        ours.load_state_dict(theirs.state_dict())
        results = [m(*call.args, **call.kwargs) for m in (ours, theirs)]
        torch.testing.assert_close(*results, equal_nan=True)


@needs_torchs
def test_module_errors() -> None:
    (module,) = MODULES
    for error in module.module_error_inputs_func(
        module, device=DEVICE, dtype=torch.float32, requires_grad=False, training=True
    ):
        build, call = (
            error.module_error_input.constructor_input,
            error.module_error_input.forward_input,
        )
        with pytest.raises(error.error_type, match=error.error_regex):
            fused_ce.LinearCrossEntropyLoss(*build.args, **build.kwargs)(*call.args, **call.kwargs)


# ---- What torch's chunked path gets wrong --------------------------------------------------------

D = torch.float64


@pytest.fixture
def problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return (torch.randn(16, 8, dtype=D), torch.randn(40, 8, dtype=D), torch.randint(40, (16,)))


def plain(x: torch.Tensor, w: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(F.linear(x, w), t)


def ours(x: torch.Tensor, w: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return fused_ce.linear_cross_entropy(x, w, t, chunk_rows=5)


def test_forward_mode(problem: tuple[torch.Tensor, ...]) -> None:
    x, w, t = problem
    a, e = (
        torch.func.jvp(lambda x, w, f=f: f(x, w, t), (x, w), (torch.ones_like(x), w.cos()))
        for f in (ours, plain)
    )
    assert e[1].abs() > 0.1
    torch.testing.assert_close(a, e, rtol=1e-12, atol=1e-12)


def test_hessian(problem: tuple[torch.Tensor, ...]) -> None:
    x, w, t = problem
    for hessian in (
        lambda f: torch.autograd.functional.hessian(lambda x: f(x, w, t), x),
        lambda f: torch.func.hessian(lambda x: f(x, w, t))(x),
        lambda f: torch.func.jacrev(torch.func.jacrev(lambda w: f(x[:2], w, t[:2])))(w),
    ):
        assert hessian(plain).norm() > 0.1
        torch.testing.assert_close(hessian(ours), hessian(plain), rtol=1e-11, atol=1e-13)


def test_gradient_penalty(problem: tuple[torch.Tensor, ...]) -> None:
    def penalized(f: Loss) -> tuple[torch.Tensor, ...]:
        x, w, t = problem
        leaves = x.clone().requires_grad_(), w.clone().requires_grad_()
        loss = f(*leaves, t)
        grads = torch.autograd.grad(loss, leaves, create_graph=True)
        total = loss + sum(g.square().sum() for g in grads)
        return torch.autograd.grad(total, leaves)

    torch.testing.assert_close(penalized(ours), penalized(plain), rtol=1e-11, atol=1e-13)


def test_second_backward(problem: tuple[torch.Tensor, ...]) -> None:
    x, w, t = problem
    x.requires_grad_()
    loss = ours(x, w, t)
    loss.backward(retain_graph=True)
    (once,), (kept,) = torch.autograd.grad(plain(x, w, t), x), (x.grad.clone(),)
    torch.testing.assert_close(kept, once)
    loss.backward(retain_graph=True)
    torch.testing.assert_close(x.grad, 2 * once)
    loss.backward()
    torch.testing.assert_close(x.grad, 3 * once)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


def test_bfloat16_loss() -> None:
    torch.manual_seed(0)
    x, w = torch.randn(1024, 512).bfloat16(), (torch.randn(2000, 512) / 512**0.5).bfloat16()
    t = torch.randint(2000, (1024,))
    exact = plain(x.double(), w.double(), t)
    loss = fused_ce.linear_cross_entropy(x, w, t)
    assert (loss.double() - exact).abs() <= torch.finfo(torch.bfloat16).eps / 2 * exact
    in_float = fused_ce.linear_cross_entropy_stats(x, w, t, dtype=torch.float32).loss
    assert (in_float.double() - exact).abs() <= 1e-4 * exact


def test_gradient_of_the_class_weights(problem: tuple[torch.Tensor, ...]) -> None:
    """torch's chunked path has none and does not say so; there is one by probabilities alone."""
    x, w, t = problem
    weights = torch.rand(40, dtype=D).requires_grad_()
    with pytest.raises(RuntimeError, match="weight"):
        fused_ce.linear_cross_entropy(x, w, t, weight=weights).backward()
    target = torch.rand(16, 40, dtype=D).requires_grad_()
    leaves = (x.requires_grad_(), w.requires_grad_(), target, weights)
    results = [
        torch.autograd.grad(loss, leaves)
        for loss in (
            fused_ce.linear_cross_entropy(x, w, target, weight=weights),
            F.cross_entropy(F.linear(x, w), target, weights),
        )
    ]
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_gradients_of_row_weights_and_the_normalizer(
    problem: tuple[torch.Tensor, ...], reduction: str
) -> None:
    x, w, t = problem
    t[3] = -100
    leaves = [x.requires_grad_(), w.requires_grad_(), torch.rand(16, dtype=D).requires_grad_()]
    options: dict[str, Any] = {"z_loss_weight": 0.1, "reduction": reduction}
    if reduction == "mean":
        options["normalizer"] = torch.tensor(3.0, dtype=D).requires_grad_()
        leaves.append(options["normalizer"])
    ours = fused_ce.linear_cross_entropy_stats(
        x, w, t, row_weight=leaves[2], chunk_rows=5, return_entropy=True, **options
    )
    theirs = head(F.linear(x, w), t, row_weight=leaves[2], **options)
    grads = []
    for stats in (ours, theirs):
        total = stats.loss.cos().sum() + stats.z_loss.sum() + stats.entropy.sin().sum()
        first = torch.autograd.grad(total, leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
        grads.append((stats.loss, *first, *second))
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-12)
