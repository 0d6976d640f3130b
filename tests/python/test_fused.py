# SPDX-License-Identifier: BSD-3-Clause
"""What runs: the operators under every transform, and nothing saved that nobody will read."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import fused_ce
import pytest
import torch
import torch.autograd.forward_ad as fwd
import torch.fx.experimental.proxy_tensor
import torch.nn.functional as F
from torch import Tensor, func
from torch.utils._python_dispatch import TorchDispatchMode

Loss = Callable[..., Tensor]
X, V = torch.randn(6, 5), torch.randn(6, 5)
T = torch.tensor([0, 4, 2, 2, 1, 3])
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all": {"weight": torch.linspace(0.5, 1.5, 5), "label_smoothing": 0.1, "ignore_index": 2},
}
SAMPLES, SAMPLE_TARGETS = torch.randn(3, 6, 5), T.repeat(3, 1)

TRANSFORMS: dict[str, Callable[[Loss], Any]] = {
    "grad": lambda f: func.grad(lambda x: f(x).sum())(X),
    "vjp": lambda f: func.vjp(f, X)[1](torch.ones_like(f(X))),
    "jacrev": lambda f: func.jacrev(f)(X),
    "jvp": lambda f: func.jvp(f, (X,), (V,)),
    "jacfwd": lambda f: func.jacfwd(f)(X),
    "hessian": lambda f: func.hessian(lambda x: f(x).sum())(X),
    "reverse over reverse": lambda f: func.jacrev(func.grad(lambda x: f(x).sum()))(X),
    "forward over forward": lambda f: func.jacfwd(func.jacfwd(lambda x: f(x).sum()))(X),
    "reverse over forward": lambda f: func.jacrev(func.jacfwd(lambda x: f(x).sum()))(X),
    "third derivative": lambda f: func.grad(
        lambda x: func.jvp(func.grad(lambda x: f(x).sum()), (x,), (V,))[1].pow(2).sum()
    )(X),
}

MAPPED: dict[str, Callable[[Loss], Any]] = {
    "vmap": lambda f: func.vmap(f)(SAMPLES, SAMPLE_TARGETS),
    "vmap(grad)": lambda f: func.vmap(func.grad(f))(SAMPLES, SAMPLE_TARGETS),
    "vmap(hessian)": lambda f: func.vmap(func.hessian(f))(SAMPLES, SAMPLE_TARGETS),
    "grad(vmap)": lambda f: func.grad(
        lambda x: func.vmap(f)(x, SAMPLE_TARGETS).pow(2).sum(),
    )(SAMPLES),
    "jvp(vmap)": lambda f: func.jvp(
        lambda x: func.vmap(f)(x, SAMPLE_TARGETS), (SAMPLES,), (SAMPLES.sin(),)
    ),
    "vmap(vmap)": lambda f: func.vmap(func.vmap(f))(SAMPLES, SAMPLE_TARGETS),
    "shared targets": lambda f: func.vmap(f, in_dims=(2, None))(SAMPLES.movedim(0, 2), T),
    "shared logits": lambda f: func.vmap(f, in_dims=(None, 1))(X, SAMPLE_TARGETS.T),
}


class Ran(TorchDispatchMode):
    """The operators that reach the backends."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, op: Any, types: Any, args: Any = (), kwargs: Any | None = None
    ) -> Any:
        self.names.append(str(op))
        return op(*args, **(kwargs or {}))


def run_fused(transform: Callable[[Loss], Any], loss: Loss, torchs: Loss) -> None:
    """The same values as torch's, by our operators alone, without a warning, without a loop."""
    transform(torchs)  # torch's own warnings, of what it imports late
    with warnings.catch_warnings(), Ran() as ran:
        warnings.simplefilter("error")
        ours = transform(loss)
    torch.testing.assert_close(ours, transform(torchs))
    unfused = ("log_softmax", "nll_loss", "aten.cross_entropy")
    assert not [name for name in ran.names if any(part in name for part in unfused)]
    assert 1 <= sum("fused_ce" in name for name in ran.names) <= 3


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms(transform: str, option: str, reduction: str) -> None:
    options = {**OPTIONS[option], "reduction": reduction}
    run_fused(
        TRANSFORMS[transform],
        lambda x: fused_ce.cross_entropy(x, T, **options),
        lambda x: F.cross_entropy(x, T, **options),
    )


@pytest.mark.parametrize("transform", MAPPED)
def test_vmap(transform: str) -> None:
    run_fused(MAPPED[transform], fused_ce.cross_entropy, F.cross_entropy)


@pytest.mark.parametrize("transform", ["grad", "jvp", "hessian"])
def test_probabilities(transform: str) -> None:
    p = X.sin().softmax(1)
    run_fused(
        TRANSFORMS[transform],
        lambda x: fused_ce.cross_entropy(x, p),
        lambda x: F.cross_entropy(x, p),
    )


@pytest.mark.parametrize("wrt", ["target", "weight", "both"])
@pytest.mark.parametrize("transform", ["grad", "jvp", "hessian", "grad of grad", "grad of vjp"])
def test_by_what_the_kernels_take_as_constants(transform: str, wrt: str) -> None:
    """Torch's composition answers at the level that asks, whatever lies inside of it."""
    p, w = X.sin().softmax(1), torch.linspace(0.5, 1.5, 5)
    results = []
    for loss in (fused_ce.cross_entropy, F.cross_entropy):

        def f(x: Tensor, a: Tensor, b: Tensor, loss: Loss = loss) -> Tensor:
            target = a if wrt != "weight" else p
            return loss(x, target, b if wrt != "target" else w, label_smoothing=0.1)

        by_inputs = func.grad(f)
        if transform == "grad":
            results.append(func.grad(f, argnums=(0, 1, 2))(X, p, w))
        elif transform == "jvp":
            results.append(func.jvp(f, (X, p, w), (V, p.sin(), w.cos())))
        elif transform == "hessian":
            results.append(func.hessian(f, argnums=(0, 1, 2))(X, p, w))
        elif transform == "grad of grad":  # outer: by the constants; inner: by the logits
            results.append(
                func.grad(lambda a, b, g=by_inputs: g(X, a, b).pow(2).sum(), argnums=(0, 1))(p, w)
            )
        else:  # the node of the inner level is run again, after its level has ended
            a, b = p.clone().requires_grad_(), w.clone().requires_grad_()
            _, back = func.vjp(lambda x, a=a, b=b, f=f: f(x, a, b), X)
            (gradient,) = back(torch.tensor(2.0))
            wanted = [t for t, name in ((a, "target"), (b, "weight")) if wrt in (name, "both")]
            results.append(torch.autograd.grad(gradient.pow(2).sum(), wanted))
    torch.testing.assert_close(results[0], results[1])


def leaf() -> Tensor:
    return X.clone().requires_grad_()


def test_a_derivative_that_only_the_incoming_gradient_carries() -> None:
    x, v = leaf(), torch.rand(6)
    loss = fused_ce.cross_entropy(x, T, reduction="none")

    def pull(v: Tensor) -> Tensor:
        return torch.autograd.grad(loss, x, v, retain_graph=True, create_graph=True)[0]

    with torch.no_grad():
        expected = torch.autograd.grad(loss, x, v, retain_graph=True)[0]
    torch.testing.assert_close(func.jvp(pull, (v,), (v,))[1].detach(), expected)

    theirs = F.cross_entropy(x, T, reduction="none")
    ours, torchs = (
        func.grad(
            lambda v, loss=loss: torch.autograd.grad(loss, x, v, create_graph=True)[0].pow(2).sum()
        )(v)
        for loss in (loss, theirs)
    )
    torch.testing.assert_close(ours, torchs)


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_dual_sample_weight(create_graph: bool) -> None:
    x = leaf()
    with fwd.dual_level():
        weight = fwd.make_dual(torch.ones(6), torch.arange(6.0))
        loss = (fused_ce.cross_entropy(x, T, reduction="none") * weight).sum()
        (gradient,) = torch.autograd.grad(loss, x, create_graph=create_graph)
        tangent = fwd.unpack_dual(gradient).tangent
    loss = (fused_ce.cross_entropy(x, T, reduction="none") * torch.arange(6.0)).sum()
    torch.testing.assert_close(tangent, torch.autograd.grad(loss, x)[0])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_dual_logits_and_gradients(reduction: str) -> None:
    """Forward over reverse by hand: the tangent of the gradient."""
    results = []
    for f in (fused_ce.cross_entropy, F.cross_entropy):
        x = leaf()
        with fwd.dual_level():
            loss = f(fwd.make_dual(x, V), T, reduction=reduction)
            incoming = torch.linspace(1, 2, 6) if reduction == "none" else torch.tensor(3.0)
            g = fwd.make_dual(incoming, incoming.cos())
            (gradient,) = torch.autograd.grad(loss, x, g, create_graph=True)
            results.append(
                (fwd.unpack_dual(loss).tangent, *fwd.unpack_dual(gradient), gradient.detach())
            )
    torch.testing.assert_close(results[0], results[1])


def test_tangents_switched_off() -> None:
    with fwd.dual_level(), fwd._set_fwd_grad_enabled(False):
        loss = fused_ce.cross_entropy(fwd.make_dual(X, V), T)
    assert torch.equal(loss, fused_ce.cross_entropy(X, T))


@pytest.mark.parametrize("kind", ["no_grad", "inference_mode", "constant logits"])
def test_nothing_is_saved_where_no_gradient_is_wanted(kind: str) -> None:
    x = X if kind == "constant logits" else leaf()
    mode = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}.get(
        kind, torch.enable_grad
    )
    with mode():
        loss = fused_ce.cross_entropy(x, T)
        assert loss.grad_fn is None
        *_, saved, total_weight = torch.ops.fused_ce._forward(x, T)
        assert saved.numel() == total_weight.numel() == 0


def packed_to_half() -> torch.autograd.graph.saved_tensors_hooks:
    def pack(saved: Tensor) -> Tensor:
        return saved.half() if saved.is_floating_point() else saved

    def unpack(saved: Tensor) -> Tensor:
        return saved.float() if saved.is_floating_point() else saved

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


def test_hooks_that_pack_to_half_leave_the_saved_numbers_alone() -> None:
    """A sum of exponentials near 2^40 is infinite in half."""
    x = (1 + torch.randn(64, 1000)).requires_grad_()
    t = torch.randint(1000, (64,))
    expected = torch.autograd.grad(fused_ce.cross_entropy(x, t), x)[0]
    with packed_to_half():
        loss = fused_ce.cross_entropy(x, t)
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], expected, rtol=4e-3, atol=0)


@pytest.mark.parametrize("shape", [(4, 20), (4, 300), (4, 20, 9), (4, 3000)], ids=str)
def test_leading_probabilities_whose_logits_were_packed(shape: tuple[int, ...]) -> None:
    """No logit is the one that forward saw lead: no other class may get its gradient."""
    x = torch.randn(shape)
    x[:, 7] += 12.3456
    x.requires_grad_()
    t = torch.zeros(shape)
    t[:, 7] = 1
    expected = torch.autograd.grad(fused_ce.cross_entropy(x, t, reduction="sum"), x)[0]
    with packed_to_half():
        loss = fused_ce.cross_entropy(x, t, reduction="sum")
    grad = torch.autograd.grad(loss, x)[0]
    # The leading class gets a difference: it is off by what half took of a logit of 12 or so.
    torch.testing.assert_close(grad[:, 7], expected[:, 7], rtol=0, atol=2e-2)
    grad[:, 7] = expected[:, 7] = 0
    torch.testing.assert_close(grad, expected, rtol=2e-2, atol=0)


@pytest.mark.parametrize("classes", [2, 3, 10, 200])
@pytest.mark.parametrize("lead", [88, 90, 92])
def test_bfloat16_losses_below_the_smallest_normal_number(lead: int, classes: int) -> None:
    x = torch.zeros(3, classes, dtype=torch.bfloat16)
    x[:, 1] = lead
    loss = fused_ce.cross_entropy(x, torch.ones(3, dtype=torch.long), reduction="none")
    exact = torch.tensor((classes - 1) * math.exp(-lead))  # log1p of it is the same
    assert torch.equal(loss, exact.bfloat16().expand(3))


def test_one_row_has_one_loss() -> None:
    for target in (torch.tensor([2]), torch.tensor(2), torch.rand(5)):
        for reduction in ("none", "mean", "sum"):
            ours = fused_ce.cross_entropy(X[0], target, reduction=reduction)
            torch.testing.assert_close(ours, F.cross_entropy(X[0], target, reduction=reduction))
            assert ours.shape == ()


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_direct_and_dispatched_calls_are_the_same_bits(reduction: str) -> None:
    x, number = leaf(), {"mean": 1, "none": 0}[reduction]
    losses = [
        fused_ce.cross_entropy(x, T, reduction=reduction),
        torch.ops.fused_ce.cross_entropy(x, T, None, number),
        fused_ce.CrossEntropyLoss(reduction=reduction)(x, T),
    ]
    with torch.profiler.profile() as profiler:  # what is watched is dispatched
        losses.append(fused_ce.cross_entropy(x, T, reduction=reduction))
    assert "fused_ce::_forward" in {event.name for event in profiler.events()}
    gradients = [torch.autograd.grad(loss.sum(), x)[0] for loss in losses]
    for loss, gradient in zip(losses[1:], gradients[1:], strict=True):
        assert torch.equal(loss, losses[0]) and torch.equal(gradient, gradients[0])


def test_half_logits_of_many_rows() -> None:
    """The gradient of a mean over 2^14 rows is nothing in half; what it is multiplied by is not."""
    x = torch.zeros(2**14, 32, dtype=torch.float16)
    x[:, 16:], v = -2, torch.zeros_like(x)
    v[:, 16:] = 1
    t = torch.zeros(len(x), dtype=torch.long)
    exact = func.jvp(lambda a: F.cross_entropy(a, t), (x.double(),), (v.double(),))[1]
    ours = func.jvp(lambda a: fused_ce.cross_entropy(a, t), (x,), (v,))[1]
    torch.testing.assert_close(ours, exact.half())

    a, g = x.clone().requires_grad_(), torch.ones((), dtype=torch.float16, requires_grad=True)
    loss = fused_ce.cross_entropy(a, t)
    (gradient,) = torch.autograd.grad(loss, a, g, create_graph=True)
    torch.testing.assert_close(torch.autograd.grad(gradient, g, v)[0], exact.half())
    scale = torch.tensor([8192.0, 4096.0], dtype=torch.float16)
    scaled = [torch.autograd.grad(loss, a, s, retain_graph=True)[0] for s in scale]
    batched = torch.autograd.grad(loss, a, scale, is_grads_batched=True)[0]
    torch.testing.assert_close(batched, torch.stack(scaled), rtol=2e-3, atol=6e-8)
    assert batched.abs().min() > 0


@pytest.mark.parametrize("ignore_index", [-100, 156, 412, 2])
def test_mapped_bytes(ignore_index: int) -> None:
    """No uint8 is -100, which is 156 in one byte."""
    x = torch.randn(2, 6, 200)
    t = torch.tensor([[156, 2, 3, 100, 5, 199], [1, 156, 156, 2, 2, 0]], dtype=torch.uint8)
    ours = func.vmap(lambda x, t: fused_ce.cross_entropy(x, t, ignore_index=ignore_index))(x, t)
    expected = [F.cross_entropy(*s, ignore_index=ignore_index) for s in zip(x, t, strict=True)]
    torch.testing.assert_close(ours, torch.stack(expected))


@pytest.mark.parametrize("transform", ["grad of grad", "hessian", "jvp of grad", "vmap(hessian)"])
def test_second_derivatives_where_no_row_counts(transform: str) -> None:
    ignored = torch.full((6,), -100)
    results = []
    for f in (fused_ce.cross_entropy, F.cross_entropy):
        loss = lambda x, f=f: f(x, ignored)  # noqa: E731
        if transform == "grad of grad":
            gradient = func.grad(loss)
            results.append(func.grad(lambda x, g=gradient: g(x).pow(2).sum())(X))
        elif transform == "jvp of grad":
            results.append(func.jvp(func.grad(loss), (X,), (V,)))
        elif transform == "hessian":
            results.append(func.hessian(loss)(X))
        else:
            some = torch.stack([ignored, T])
            results.append(func.vmap(func.hessian(f), in_dims=(None, 0))(X, some))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_tangents_of_class_weights(label_smoothing: float, reduction: str) -> None:
    """Of the gradient, beside differences: torch's takes what a mean divides by for a constant."""
    options = {"reduction": reduction, "label_smoothing": label_smoothing, "ignore_index": 2}
    x, w = X.double(), torch.linspace(0.5, 1.5, 5).double()

    def gradient(w: Tensor) -> Tensor:
        return func.grad(lambda x: fused_ce.cross_entropy(x, T, w, **options))(x)

    steps = 1e-6 * torch.eye(5).double()
    differences = [(gradient(w + step) - gradient(w - step)) / 2e-6 for step in steps]
    torch.testing.assert_close(
        func.jacfwd(gradient)(w), torch.stack(differences, -1), rtol=0, atol=1e-9
    )


def test_no_samples() -> None:
    """As torch's own, where that has an answer."""
    x, t = torch.randn(0, 6, 5), torch.zeros(0, 6, dtype=torch.long)
    for f in (fused_ce.cross_entropy, F.cross_entropy):
        assert func.vmap(f)(x, t).shape == (0,)
        assert func.vmap(lambda x, t, f=f: f(x, t, reduction="none"))(x, t).shape == (0, 6)
    assert func.vmap(func.grad(fused_ce.cross_entropy))(x, t).shape == x.shape
    assert func.vmap(fused_ce.cross_entropy)(x, t, torch.rand(0, 5)).shape == (0,)
    rows = func.jacrev(lambda x: fused_ce.cross_entropy(x, t[:, 0], reduction="none"))(x[:, 0])
    assert rows.shape == (0, 0, 5)


@pytest.mark.parametrize("what", ["grad", "vmap", "functionalize", "hessian"])
def test_traced_with_symbolic_sizes(what: str) -> None:
    """A transform's wrappers are tensors without a subclass, and have symbolic sizes in a trace."""
    loss = lambda x, t: fused_ce.cross_entropy(x, t)  # noqa: E731  (make_fx counts the arguments)
    transform = {
        "grad": func.grad,
        "vmap": func.vmap,
        "functionalize": func.functionalize,
        "hessian": func.hessian,
    }[what]
    f = lambda x, t: transform(loss)(x, t)  # noqa: E731
    traced = torch.fx.experimental.proxy_tensor.make_fx(f, tracing_mode="symbolic")(X, T)
    torch.testing.assert_close(traced(X[:4], T[:4]), f(X[:4], T[:4]))


def test_whole_numbers_for_options() -> None:
    assert torch.equal(
        fused_ce.cross_entropy(X, T, label_smoothing=1),
        fused_ce.cross_entropy(X, T, label_smoothing=1.0),
    )
