# SPDX-License-Identifier: BSD-3-Clause
"""Bad calls of the linear layer's loss: torch's kind of exception, and the argument's name."""

from __future__ import annotations

from typing import Any

import fused_ce
import pytest
import torch
from torch.overrides import TorchFunctionMode

pytestmark = pytest.mark.simt

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
