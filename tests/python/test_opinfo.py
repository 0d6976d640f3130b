# SPDX-License-Identifier: BSD-3-Clause
"""PyTorch's own samples and error inputs for cross_entropy, with our operator in its place."""

from __future__ import annotations

import fused_ce
import pytest
import torch
import torch.nn.functional as F
from conftest import DEVICE, DTYPES

pytestmark = pytest.mark.simt

# They need packages that torch itself does not.
op_db = pytest.importorskip("torch.testing._internal.common_methods_invocations").op_db
module_db = pytest.importorskip("torch.testing._internal.common_modules").module_db
(OP,) = [op for op in op_db if op.name == "nn.functional.cross_entropy"]
(MODULE,) = [m for m in module_db if m.module_cls is torch.nn.CrossEntropyLoss]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_samples(dtype: torch.dtype) -> None:
    count = 0
    for sample in OP.sample_inputs(DEVICE, dtype, requires_grad=True):
        count += 1
        results = []
        for f in (fused_ce.cross_entropy, F.cross_entropy):
            loss = f(sample.input, *sample.args, **sample.kwargs)
            inputs = [
                t for t in (sample.input, *sample.args) if torch.is_tensor(t) and t.requires_grad
            ]
            results.append((loss, torch.autograd.grad(loss.sum(), inputs)))
        # torch rounds log-probabilities to the half types before it adds them up: allow for it.
        half = dtype in (torch.bfloat16, torch.float16)
        tolerance = (
            {"rtol": 8 * torch.finfo(dtype).eps, "atol": 8 * torch.finfo(dtype).eps} if half else {}
        )
        torch.testing.assert_close(results[0], results[1], equal_nan=True, **tolerance)
    assert count > 10


def test_error_inputs() -> None:
    inputs = list(OP.error_inputs_func(OP, DEVICE)) if OP.error_inputs_func else []
    for error in inputs:
        sample = error.sample_input
        with pytest.raises(error.error_type, match=error.error_regex):
            fused_ce.cross_entropy(sample.input, *sample.args, **sample.kwargs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_module_samples(dtype: torch.dtype) -> None:
    samples = MODULE.module_inputs_func(
        MODULE, device=DEVICE, dtype=dtype, requires_grad=False, training=True
    )
    assert len(samples) > 5
    for sample in samples:
        build, call = sample.constructor_input, sample.forward_input
        ours, theirs = (
            cls(*build.args, **build.kwargs)(*call.args, **call.kwargs)
            for cls in (fused_ce.CrossEntropyLoss, torch.nn.CrossEntropyLoss)
        )
        torch.testing.assert_close(ours, theirs, equal_nan=True)
