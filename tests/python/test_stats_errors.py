# SPDX-License-Identifier: BSD-3-Clause
"""Bad calls of the loss head: torch's kind of exception, and the argument's name."""

from __future__ import annotations

import contextlib
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import fused_ce
import numpy as np
import pytest
import torch
from loss_head import EVERYTHING
from torch.overrides import BaseTorchFunctionMode

X = torch.randn(4, 5)
T = torch.tensor([0, 1, 2, 3])
P = X.softmax(1)
ALL = {"return_z_loss": True, **EVERYTHING}  # of the operator's results
OPTIONS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    **{
        f"{name}_{value}": (
            {name: value},
            RuntimeError,
            f"{name} must be positive and finite, got {value:g}",
        )
        for name in ("logit_scale", "softcap", "temperature")
        for value in (0.0, -1.0, math.inf, math.nan)
    },
    **{
        f"z_loss_weight_{value}": (
            {"z_loss_weight": value},
            RuntimeError,
            f"z_loss_weight must be finite, got {value}",
        )
        for value in (math.inf, -math.inf, math.nan)
    },
    "no_scale_in_float": (
        {"logit_scale": 1e-30, "temperature": 1e30},
        RuntimeError,
        r"logit_scale / temperature must lie between 1\.17549e-38 and 3\.40282e\+38 for .*Float",
    ),
    "no_cap_in_float": (
        {"softcap": 1e30, "temperature": 1e-30},
        RuntimeError,
        "softcap / temperature must lie between",
    ),
    "no_quotient_in_float": (
        {"logit_scale": 1e20, "softcap": 1e-20},
        RuntimeError,
        "logit_scale / softcap must lie between",
    ),
    "scale_with_a_gradient": (
        {"logit_scale": torch.nn.Parameter(torch.tensor(2.0))},
        TypeError,
        "logit_scale.* must be numbers, got a tensor that requires grad",
    ),
    "row_weight_shape": (
        {"row_weight": torch.ones(4, 1)},
        RuntimeError,
        r"row_weight must have one factor a row, of shape \[4\], but got shape \[4, 1\]",
    ),
    "row_weight_of_classes": (
        {"row_weight": torch.ones(5)},
        RuntimeError,
        r"of shape \[4\], but got shape \[5\]",
    ),
    "row_weight_dtype": (
        {"row_weight": T > 0},
        RuntimeError,
        "expected row_weight to be a floating point tensor, but found Bool",
    ),
    "row_weight_device": (
        {"row_weight": torch.ones(4, device="meta")},
        RuntimeError,
        "same device, but row_weight is on meta",
    ),
    "row_weight_sparse": (
        {"row_weight": torch.ones(4).to_sparse()},
        NotImplementedError,
        "[Ss]parse",
    ),
    "row_weight_list": ({"row_weight": [1.0] * 4}, TypeError, "argument 'row_weight'"),
    "normalizer_shape": (
        {"normalizer": torch.ones(1)},
        RuntimeError,
        r"normalizer must be a number or a tensor of no dimension.*\[1\]",
    ),
    "normalizer_dtype": (
        {"normalizer": torch.tensor(1j)},
        RuntimeError,
        "expected normalizer to be a real number, but found ComplexFloat",
    ),
    "normalizer_bool": ({"normalizer": True}, TypeError, "argument 'normalizer'"),
    "normalizer_str": (
        {"normalizer": "4"},
        TypeError,
        "'normalizer' must be a number or Tensor, not str",
    ),
    "normalizer_device": (
        {"normalizer": torch.ones((), device="meta")},
        RuntimeError,
        "same device, but normalizer is on meta",
    ),
    **{
        f"normalizer_{reduction}": (
            {"normalizer": 4, "reduction": reduction},
            RuntimeError,
            f"normalizer is what a mean divides by.*reduction is {reduction}",
        )
        for reduction in ("none", "sum")
    },
    "dtype_integer": ({"dtype": torch.int64}, RuntimeError, "not implemented for a loss of 'Long'"),
    "dtype_str": ({"dtype": "float32"}, TypeError, "'dtype' must be torch.dtype, not str"),
    "weight_dtype": (
        {"weight": torch.ones(5).double()},
        RuntimeError,
        "expected scalar type Float but found Double",
    ),
    "smoothing": ({"label_smoothing": 1.5}, RuntimeError, r"between 0\.0 and 1\.0\. Got: 1\.5"),
    "reduction": ({"reduction": "average"}, ValueError, "average is not a valid value"),
    "softcap_str": ({"softcap": "30"}, TypeError, "argument 'softcap' must be .*float.*, not str"),
    "temperature_none": ({"temperature": None}, TypeError, "argument 'temperature' must be float"),
    "ignore_index_bool": ({"ignore_index": True}, TypeError, "must be int, not bool"),
}


@pytest.mark.parametrize("target", [T, P], ids=["indices", "probabilities"])
@pytest.mark.parametrize("name", OPTIONS)
def test_bad_option(name: str, target: torch.Tensor) -> None:
    options, error, message = OPTIONS[name]
    if name == "weight_dtype" and target is P:
        pytest.skip("beside probabilities, weights of any dtype")
    for mode in (contextlib.nullcontext(), BaseTorchFunctionMode()):  # directly, and by torch.ops
        with mode, pytest.raises(error, match=message) as raised:
            fused_ce.cross_entropy_stats(X, target, **options)
        assert raised.type is error


# Of numbers that Python has.
NUMBERS = (3, 3.0, Fraction(3), np.float32(3), np.float64(3), np.int64(3), np.uint8(3))


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: type(number).__name__)
def test_numbers_of_any_type(number: object) -> None:
    names = ("softcap", "temperature", "logit_scale", "z_loss_weight", "normalizer")
    for name in names:
        loss = fused_ce.cross_entropy_stats(X, T, **{name: number}).loss
        assert torch.equal(loss, fused_ce.cross_entropy_stats(X, T, **{name: 3.0}).loss), name


@pytest.mark.parametrize("number", [Decimal(3), np.bool_(True), 3j], ids=str)
def test_a_normalizer_that_is_no_real_number(number: object) -> None:
    with pytest.raises(TypeError, match="argument 'normalizer'"):
        fused_ce.cross_entropy_stats(X, T, normalizer=number)


def test_numbers_that_fit_into_no_float() -> None:
    for name in ("label_smoothing", "softcap", "temperature", "logit_scale", "z_loss_weight"):
        with pytest.raises(TypeError, match=f"argument '{name}'"):
            fused_ce.cross_entropy_stats(X, T, **{name: 10**400})
    with pytest.raises(TypeError, match="argument 'label_smoothing'"):
        fused_ce.cross_entropy(X, T, label_smoothing=10**400)
    with pytest.raises(OverflowError):
        fused_ce.cross_entropy_stats(X, T, normalizer=10**400)


def test_bad_tensors() -> None:
    with pytest.raises(TypeError, match="argument 'input' must be Tensor, not None"):
        fused_ce.cross_entropy_stats(None, T)
    with pytest.raises(TypeError, match="argument 'target' must be Tensor, not None"):
        fused_ce.cross_entropy_stats(X, None)
    with pytest.raises(IndexError, match="Target 6 is out of bounds"):
        fused_ce.cross_entropy_stats(X, T + 6, return_entropy=True)
    with pytest.raises(ValueError, match="batch_size"):
        fused_ce.cross_entropy_stats(X, T[:3])
    with pytest.raises(TypeError):
        fused_ce.cross_entropy_stats(X, T, None, -100)  # options are named


def test_predict() -> None:
    with pytest.raises(TypeError, match=r"predict\(\): argument 'input' must be Tensor, not None"):
        fused_ce.predict(None)
    with pytest.raises(IndexError, match="at least one dimension"):
        fused_ce.predict(torch.tensor(1.0))
    with pytest.raises(IndexError, match="no classes"):
        fused_ce.predict(X[:, :0])
    with pytest.raises(NotImplementedError, match="fused_ce::predict: not implemented for 'Long'"):
        fused_ce.predict(T)
    with pytest.raises(NotImplementedError, match="fused_ce::predict: input must be a dense"):
        fused_ce.predict(X.to_sparse())
    with pytest.raises(RuntimeError, match="temperature must be positive"):
        fused_ce.predict(X, temperature=0.0)


def test_a_normalizer_of_nothing_divides_as_division_does() -> None:
    assert fused_ce.cross_entropy_stats(X, T, normalizer=0).loss == math.inf
    assert fused_ce.cross_entropy_stats(X[:0], T[:0], normalizer=0).loss.isnan()


@pytest.mark.parametrize("argument", ["grad_z_loss", "grad_lse", "grad_entropy"])
def test_the_private_operator_checks_its_gradients(argument: str) -> None:
    options = {"reduction": 0, **ALL}
    *_, saved, total = torch.ops.fused_ce._forward(X, T, save=True, **options)
    given = dict.fromkeys(["grad_loss", "grad_z_loss", "grad_lse", "grad_entropy"])
    given |= {"self": X, "target": T, "weight": None, "row_weight": None, "saved": saved}
    given |= {"total_weight": total, **options}
    torch.ops.fused_ce._backward(**{**given, argument: torch.ones(4)})
    for misfit in (torch.ones(3), torch.ones(()), torch.ones(4).long(), torch.ones(4).to("meta")):
        with pytest.raises((RuntimeError, NotImplementedError)):
            torch.ops.fused_ce._backward(**{**given, argument: misfit})


def test_no_gradient_of_an_entropy_that_was_not_asked_for() -> None:
    *_, saved, total = torch.ops.fused_ce._forward(X, T, save=True)
    with pytest.raises(RuntimeError, match="grad_entropy: return_entropy was not asked for"):
        torch.ops.fused_ce._backward(
            None, None, None, torch.ones(4), X, T, None, None, saved, total
        )
