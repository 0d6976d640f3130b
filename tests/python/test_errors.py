# SPDX-License-Identifier: BSD-3-Clause
"""Bad calls: torch's exception type, and a message that says what came and what is wanted."""

from __future__ import annotations

import fused_ce
import pytest
import torch
import torch.nn.functional as F
from conftest import DEVICE, SIMT, refusal

pytestmark = pytest.mark.simt

X = torch.randn(4, 5)
T = torch.tensor([0, 1, 2, 3])
# torch's exception on the CPU, the call, and a pattern of our words.
BAD = {
    "target_too_large": (
        IndexError,
        lambda f: f(X, T + 7),
        r"Target 7 is out of bounds\. target\[0\].*\[0, 5\).*-100",
    ),
    "target_negative": (
        IndexError,
        lambda f: f(X, torch.tensor([0, 1, -1, 2])),
        r"Target -1 .*target\[2\]",
    ),
    "target_position": (
        IndexError,
        lambda f: f(torch.randn(2, 5, 3), torch.tensor([[0, 0, 0], [0, 9, 0]])),
        r"Target 9 .*target\[1, 1\]",
    ),
    "no_classes": (IndexError, lambda f: f(X[:, :0], T), "out of bounds"),
    "one_hot": (RuntimeError, lambda f: f(X, F.one_hot(T, 5)), r"got Long.*argmax\(1\)"),
    "target_dtype": (
        RuntimeError,
        lambda f: f(X, T > 0),
        "Long, Int, Short, Char or Byte, but got Bool",
    ),
    "batch": (
        ValueError,
        lambda f: f(X, T[:3]),
        r"input batch_size \(4\) to match target batch_size \(3\)",
    ),
    "spatial": (
        RuntimeError,
        lambda f: f(torch.randn(2, 5, 3), torch.zeros(2, 4).long()),
        r"target size \[2, 3\], got \[2, 4\]",
    ),
    "weight_length": (
        RuntimeError,
        lambda f: f(X, T, weight=torch.ones(4)),
        r"all 5 classes .* shape: \[4\]",
    ),
    "weight_shape": (
        RuntimeError,
        lambda f: f(X, T, weight=torch.ones(5, 1)),
        r"all 5 classes .* shape: \[5, 1\]",
    ),
    "weight_dtype": (
        RuntimeError,
        lambda f: f(X, T, weight=torch.ones(5).double()),
        "expected scalar type Float but found Double",
    ),
    "smoothing_above": (
        RuntimeError,
        lambda f: f(X, T, label_smoothing=1.5),
        r"between 0\.0 and 1\.0\. Got: 1\.5",
    ),
    "reduction": (
        ValueError,
        lambda f: f(X, T, reduction="average"),
        "average is not a valid value for reduction",
    ),
    "ignore_probabilities": (
        RuntimeError,
        lambda f: f(X, X, ignore_index=2),
        "ignore_index is not supported for floating point",
    ),
    "integer_logits": (NotImplementedError, lambda f: f(X.long(), T), "Long"),
    "complex_logits": (NotImplementedError, lambda f: f(X.cfloat(), T), "Complex"),
    "sparse_logits": (NotImplementedError, lambda f: f(X.to_sparse(), T), "[Ss]parse"),
    "quantised_logits": (
        NotImplementedError,
        lambda f: f(torch.quantize_per_tensor(X, 0.1, 0, torch.quint8), T),
        "dense, unquantized",
    ),
    "compressed_logits": (NotImplementedError, lambda f: f(X.to_sparse_csr(), T), "[Ss]parse"),
    "bool_logits": (NotImplementedError, lambda f: f(X > 0, T), "Bool"),
    "float8_logits": (NotImplementedError, lambda f: f(X.to(torch.float8_e4m3fn), T), "Float8"),
    "no_target": (TypeError, lambda f: f(X, None), "argument 'target' must be Tensor"),
    "matrix_of_targets_of_one_row": (
        RuntimeError,
        lambda f: f(X[0], T.view(2, 2)),
        r"0D or 1D target tensor expected, multi-target not supported.*\[2, 2\]",
    ),
    "two_targets_of_one_row": (
        ValueError,
        lambda f: f(X[0], T[:2]),
        r"For 1D input, 1D target must have size 1, but got target size: 2 .*\[5\]",
    ),
    "devices": (RuntimeError, lambda f: f(X.to("meta"), T), "device"),
    "weight_requires_grad": (
        RuntimeError,
        lambda f: f(X, T, weight=torch.ones(5, requires_grad=True)),
        "weight",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_call(name: str) -> None:
    torchs, call, message = BAD[name]
    error, message = refusal(torchs, message)
    if DEVICE == "cpu":  # what is wrong in one call does not depend on the device; torch's type may
        with pytest.raises(torchs) as theirs:
            call(F.cross_entropy)
        assert theirs.type is torchs
    with pytest.raises(error, match=message) as ours:
        call(fused_ce.cross_entropy)
    assert ours.type is error


@pytest.mark.parametrize("classes", [5, 300])
def test_out_of_range_is_found_before_backward_and_changes_nothing(classes: int) -> None:
    x = torch.randn(700, classes, requires_grad=True)
    target = torch.zeros(700, dtype=torch.long)
    target[650] = 2**40
    before = x.detach().clone()
    error, message = refusal(IndexError, r"Target 1099511627776 .*target\[650\]")
    with pytest.raises(error, match=message):
        fused_ce.cross_entropy(x, target, reduction="none")
    assert torch.equal(x.detach(), before) and x.grad is None


@pytest.mark.parametrize("smoothing", [-0.1, float("nan")])
@pytest.mark.parametrize("target", [T, X.softmax(1)], ids=["indices", "probabilities"])
def test_smoothing_that_torch_takes_for_none(target: torch.Tensor, smoothing: float) -> None:
    with pytest.raises(RuntimeError, match=rf"between 0\.0 and 1\.0\. Got: {smoothing}"):
        fused_ce.cross_entropy(X, target, label_smoothing=smoothing)


def test_reduction_number() -> None:
    with pytest.raises(RuntimeError, match="reduction must be 0"):
        torch.ops.fused_ce.cross_entropy(X, T, None, 7)


@pytest.mark.parametrize("value", [-(2**63), -(2**32), -1, 5, 2**31, 2**32 + 1, 2**63 - 1])
@pytest.mark.parametrize("shape", [(9, 5), (5000, 5), (2, 5, 7)], ids=str)
def test_any_number_out_of_range(shape: tuple[int, ...], value: int) -> None:
    x = torch.randn(shape)
    target = torch.zeros((shape[0], *shape[2:]), dtype=torch.long)
    target.view(-1)[-1] = value
    error, message = refusal(IndexError, f"Target {value} is out of bounds")
    with pytest.raises(error, match=message):
        fused_ce.cross_entropy(x, target)
    ignored = fused_ce.cross_entropy(x, target, ignore_index=value, reduction="none")
    assert ignored.view(-1)[-1] == 0


def test_backward_checks_what_it_is_given() -> None:
    """A private operator, but it writes: nothing that it is called with may send it astray."""
    *_, saved, total = torch.ops.fused_ce._forward(X, T, save=True)
    grads = (torch.ones(()), None, None, None)
    for logits, target, weight in (
        (X, T[:2], None),
        (X, T, torch.ones(3)),
        (X.long(), T, None),
        (X, None, None),
    ):
        with pytest.raises((RuntimeError, ValueError, TypeError)):
            torch.ops.fused_ce._backward(*grads, logits, target, weight, None, saved, total)


@pytest.mark.skipif(DEVICE != "cpu" or bool(SIMT), reason="CUDA has indices of 64 bits")
def test_more_classes_than_32_bits_count() -> None:
    x = torch.zeros(1, dtype=torch.bfloat16).expand(1, 2**31)
    for target in (torch.tensor([2**31 - 1]), torch.ones(1, dtype=x.dtype).expand(x.shape)):
        with pytest.raises(NotImplementedError, match=r"2147483648 classes.*2147483647"):
            fused_ce.cross_entropy(x, target)


def test_a_failed_allocation_leaves_everything_usable() -> None:
    x, target = torch.randn(4, 5, requires_grad=True), T.clone()
    expected = fused_ce.cross_entropy(x, target)
    many = torch.zeros(1).expand(2**44, 4).requires_grad_()
    with pytest.raises(RuntimeError, match="allocate"):  # the saved numbers of so many rows
        fused_ce.cross_entropy(many, torch.zeros(1, dtype=torch.long).expand(2**44))
    rows = torch.zeros(2**14, dtype=torch.long)
    wide = torch.zeros(1).expand(len(rows), 2**31 - 1)
    *_, saved, total = torch.ops.fused_ce._forward(wide[:, :5], rows, save=True)
    grads = (torch.ones(()), None, None, None)
    with pytest.raises(RuntimeError, match="allocate"):  # the gradient
        torch.ops.fused_ce._backward(*grads, wide, rows, None, None, saved, total)
    assert torch.equal(fused_ce.cross_entropy(x, target), expected)
    assert torch.autograd.grad(expected, x)[0].isfinite().all()
