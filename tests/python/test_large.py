# SPDX-License-Identifier: BSD-3-Clause
"""More than 2^31 logits. Takes 13 GB: `make largetest`."""

from __future__ import annotations

import math

import fused_ce
import pytest
import torch

pytestmark = pytest.mark.large
BEYOND = 2**31 + 2**17


def test_forward_of_expanded_rows() -> None:
    """Strides of zero: the logits cost nothing, and every row's loss is known."""
    classes = 2**15
    row = torch.randn(classes).to(torch.bfloat16)
    rows = BEYOND // classes
    x = row.expand(rows, classes)
    target = torch.arange(rows) % classes
    loss = fused_ce.cross_entropy(x, target, reduction="none")
    assert torch.equal(loss[classes:], loss[: rows - classes])
    expected = -row.double().log_softmax(0)
    torch.testing.assert_close(loss[:classes].double(), expected, rtol=2**-8, atol=0)


@pytest.mark.parametrize("dense", ["rows", "planes", "few classes"])
def test_gradient(dense: str) -> None:
    """Equal logits: the gradient is 1/C everywhere, and 1/C - 1 at the targets."""
    shapes = {
        "rows": (BEYOND // 2**17, 2**17),
        "planes": (1, 2**6, BEYOND // 2**6),
        "few classes": (BEYOND // 2**6, 2**6),
    }
    shape = shapes[dense]
    classes = shape[1]
    x = torch.zeros(1, dtype=torch.bfloat16).expand(shape).requires_grad_()
    rows = (shape[0], *shape[2:])
    target = torch.arange(math.prod(rows)).remainder_(classes).view(rows)
    loss = fused_ce.cross_entropy(x, target, reduction="none")
    assert (loss == torch.tensor(math.log(classes), dtype=torch.bfloat16)).all()
    (grad,) = torch.autograd.grad(loss, x, torch.ones(1, dtype=loss.dtype).expand(loss.shape))
    at_target = grad.gather(1, target.unsqueeze(1))
    assert (at_target == torch.tensor(1 / classes - 1, dtype=torch.bfloat16)).all()
    grad.scatter_(1, target.unsqueeze(1), 1 / classes)
    lowest, highest = grad.aminmax()
    assert lowest == highest == 1 / classes
