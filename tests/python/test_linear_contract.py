"""torch's own tests of linear_cross_entropy with ours in its place, its wrong answers, errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fused_ce
import pytest
import torch
import torch.nn.functional as F
from conftest import DEVICE, DTYPES
from loss_head import head
from torch.overrides import TorchFunctionMode

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


# ---- Errors --------------------------------------------------------------------------------------

X, W, T = torch.randn(4, 3), torch.randn(5, 3), torch.tensor([0, 1, 2, 4])
ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "scalar_input": (
        {"input": torch.tensor(1.0)},
        RuntimeError,
        "expected input with dimensionality at least 1",
    ),
    "vector_of_weights": (
        {"linear_weight": torch.randn(3)},
        RuntimeError,
        "expected linear_weight with dimensionality at least 2, got 1",
    ),
    "other_features": (
        {"linear_weight": torch.randn(5, 4)},
        RuntimeError,
        r"equal input and linear_weight last dimensions \(in_features\), got 3 and 4",
    ),
    "bias_shape": (
        {"linear_bias": torch.randn(4)},
        RuntimeError,
        r"expected linear_bias shape \(5,\), got \(4,\)",
    ),
    "weight_dtype": (
        {"linear_weight": W.double()},
        RuntimeError,
        "linear_weight and input to have the same dtype, but got Double and Float",
    ),
    "bias_dtype": (
        {"linear_bias": torch.randn(5).bfloat16()},
        RuntimeError,
        "linear_bias and input to have the same dtype, but got BFloat16 and Float",
    ),
    "meta_weight": (
        {"linear_weight": W.to("meta")},
        RuntimeError,
        "same device, but linear_weight is on meta and input is on cpu",
    ),
    "meta_target": ({"target": T.to("meta")}, RuntimeError, "target is on meta"),
    "integers": (
        {"input": torch.ones(4, 3).int()},
        NotImplementedError,
        "linear_cross_entropy: not implemented for 'Int': input must be float32",
    ),
    "sparse": (
        {"linear_weight": W.to_sparse()},
        NotImplementedError,
        "linear_weight must be a dense",
    ),
    "rows": ({"target": T[:3]}, ValueError, r"batch_size \(4\) to match target batch_size \(3\)"),
    "rows_of_a_batch": (
        {"input": torch.randn(2, 2, 3)},
        RuntimeError,
        r"Expected target size \(2, 2\), got \(4,\) \(input has shape \(2, 2, 3\)\)",
    ),
    "row_weight_of_a_batch": (
        {
            "input": torch.randn(2, 2, 3),
            "target": T.view(2, 2),
            "row_weight": torch.ones(4),
        },
        RuntimeError,
        r"Expected row_weight size \(2, 2\), got \(4,\)",
    ),
    "float_indices": ({"target": T.float()}, RuntimeError, "expected target dtype to be Long"),
    "integer_probabilities": (
        {"target": torch.ones(4, 5).long()},
        RuntimeError,
        "floating point type for target with class probabilities",
    ),
    "out_of_range": (
        {"target": torch.tensor([0, 1, 5, 4])},
        IndexError,
        r"Target 5 is out of bounds\. target\[2\] is 5, and must be in \[0, 5\)",
    ),
    "out_of_range_in_a_later_chunk": (
        {"target": torch.tensor([0, 1, 2, 5]), "chunk_rows": 1},
        IndexError,
        r"target\[3\] is 5",
    ),
    "ignored_probabilities": (
        {"target": torch.rand(4, 5), "ignore_index": 0},
        RuntimeError,
        "ignore_index cannot be specified when target contains probabilities",
    ),
    "class_weights": ({"weight": torch.ones(4)}, RuntimeError, "weight tensor should be defined"),
    "smoothing": ({"label_smoothing": 2.0}, RuntimeError, "label_smoothing must be between"),
    "reduction": ({"reduction": "avg"}, ValueError, "avg is not a valid value for reduction"),
    "no_rows": ({"chunk_rows": 0}, ValueError, "chunk_rows must be positive, got 0"),
    "rows_of_text": ({"chunk_rows": "2"}, TypeError, "'chunk_rows' must be Optional"),
    "rows_of_bool": ({"chunk_rows": True}, TypeError, "'chunk_rows' must be int, not bool"),
    "too_many_rows": ({"chunk_rows": 2**63}, ValueError, "'chunk_rows' does not fit into 64 bits"),
    "no_target": ({"target": None}, TypeError, "'target' must be Tensor"),
    "no_weight": ({"linear_weight": None}, TypeError, "'linear_weight' must be Tensor"),
    "no_input": ({"input": None}, TypeError, "'input' must be Tensor"),
    "index_of_bool": ({"ignore_index": True}, TypeError, "'ignore_index' must be int, not bool"),
    "planes_of_a_vector": (
        {"input": torch.randn(3), "linear_weight": torch.randn(5, 2, 3)},
        RuntimeError,
        r"K-dimensional loss defined by linear_weight shape \(5, 2, 3\) requires batched input",
    ),
    "planes_of_a_batch": (
        {"input": torch.randn(2, 4, 3), "linear_weight": torch.randn(5, 2, 3)},
        RuntimeError,
        r"requires input \(N, 3\), got input with shape \(2, 4, 3\)",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    changes, kind, message = ERRORS[name]
    arguments = {"input": X, "linear_weight": W, "target": T, **changes}
    tensors = [arguments.pop(n) for n in ("input", "linear_weight", "target")]
    before = [t.clone() for t in tensors if torch.is_tensor(t)]
    with pytest.raises(kind, match=message):
        fused_ce.linear_cross_entropy_stats(*tensors, **arguments)
    if "row_weight" not in arguments:
        with pytest.raises(kind, match=message):
            fused_ce.linear_cross_entropy(*tensors, **arguments)
    for now, was in zip((t for t in tensors if torch.is_tensor(t)), before, strict=True):
        if not now.is_meta and not now.is_sparse:
            assert torch.equal(now, was)


def test_options_of_another_type() -> None:
    with pytest.raises(TypeError, match="LinearCrossEntropyOptions, not str"):
        fused_ce.linear_cross_entropy(X, W, T, options="auto", chunk_rows=2)


def test_private_operators_trust_nothing() -> None:
    forward, backward = (
        torch.ops.fused_ce._linear_forward,
        torch.ops.fused_ce._linear_backward,
    )
    no = (None, None, None, None)  # class weights, row weights, normalizer, dtype
    needs = (True, True, False)
    *_, saved, total, _, _, _ = forward(X, W, None, T, *no, True, *needs)
    for x, w, t in ((X[None], W, T), (X, W[None], T), (X, W, T[:3]), (X, W[:, :2], T)):
        with pytest.raises((RuntimeError, ValueError)):
            forward(x, w, None, t, *no, True, *needs)
        with pytest.raises((RuntimeError, ValueError)):
            backward(torch.ones(()), *[None] * 3, x, w, None, t, None, None, saved, total, *needs)
    with pytest.raises(RuntimeError, match="gradient of its own"):
        forward(X, W, None, T, *no, True, *needs, 0)
    for bad in (saved[:2], saved[:, :3], saved.double()):
        with pytest.raises(RuntimeError, match="saved: expected"):
            backward(torch.ones(()), *[None] * 3, X, W, None, T, None, None, bad, total, *needs)
    with pytest.raises(RuntimeError, match="total_weight: expected"):
        backward(torch.ones(()), *[None] * 3, X, W, None, T, None, None, saved, saved, *needs)
    with pytest.raises(RuntimeError, match="grad_loss: expected"):
        backward(torch.ones(4), *[None] * 3, X, W, None, T, None, None, saved, total, *needs)
    with pytest.raises(RuntimeError, match="linear_bias"):
        forward(X, W, None, T, *no, True, True, True, True)


@pytest.mark.skipif(
    fused_ce.build_info()["bfloat16_products"] != "bfloat16",
    reason="products of half types are made in float here",
)
def test_gradients_in_forward_are_no_less_than_a_sum_s() -> None:
    """In half precision a mean's, over many rows, would be nothing: float16 ends at 6e-8."""
    x, w, t = X.bfloat16(), W.bfloat16(), torch.tensor([0, 1, -100, 4])  # a mean of 3
    *_, grad, _, _ = torch.ops.fused_ce._linear_forward(
        x, w, None, t, *[None] * 4, True, True, False, False
    )
    x.requires_grad_()
    (expected,) = torch.autograd.grad(fused_ce.linear_cross_entropy(x, w, t), x)
    torch.testing.assert_close(grad.bfloat16(), 4 * expected, rtol=0, atol=0)


def test_torch_function() -> None:
    seen = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    class Subclass(torch.Tensor):
        pass

    with Watch():
        fused_ce.linear_cross_entropy(X, W, T)
    assert fused_ce.linear_cross_entropy in seen
    assert isinstance(fused_ce.linear_cross_entropy(X.as_subclass(Subclass), W, T), Subclass)
