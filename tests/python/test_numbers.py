# SPDX-License-Identifier: BSD-3-Clause
"""Known numbers: what a newcomer would check by hand."""

from __future__ import annotations

import fused_ce
import pytest
import torch


def softmax(logits: list[float]) -> list[float]:
    """From the operator: the loss of class j is -log p_j."""
    x = torch.tensor(logits).expand(len(logits), -1)
    return torch.exp(
        -fused_ce.cross_entropy(x, torch.arange(len(logits)), reduction="none")
    ).tolist()


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        ([0.1, 0.9, 4.0], [0.0190, 0.0423, 0.9387]),
        ([0.1, 0.9, 3.0], [0.0467, 0.1040, 0.8493]),
        ([3, 5.1, 2, 0.5, 0.1], [0.1034, 0.8444, 0.0380, 0.0085, 0.0057]),
        ([1000.0, 1000.0, 1000.0 - 1000.0], [0.5, 0.5, 0.0]),
    ],
)
def test_softmax(logits: list[float], expected: list[float]) -> None:
    assert softmax(logits) == pytest.approx(expected, abs=6e-5)


@pytest.mark.parametrize(
    ("logits", "target", "expected"),
    [
        ([1.0, 1.1, 2.5], 2, 0.38508),
        ([3.2, 0.2, 0.9], 2, 2.4398),
        ([7.0, 0.2, 0.1], 0, 0.0021),
        ([1.0, 3.0, 6.0], 0, 5.0550),
    ],
)
def test_class_indices(logits: list[float], target: int, expected: float) -> None:
    loss = fused_ce.cross_entropy(torch.tensor([logits]), torch.tensor([target]))
    assert loss.item() == pytest.approx(expected, abs=5.1e-5)


@pytest.mark.parametrize(
    ("target", "p", "divide", "expected"),
    [
        (2, (0.1, 0.1, 0.8), 3, 0.0743812),
        (2, (0.8, 0.1, 0.1), 3, 0.7675284),
        (0, (0.7, 0.2, 0.1), 1, 0.3567),
        (0, (0.1, 0.3, 0.6), 1, 2.3026),
    ],
)
def test_one_hot(target: int, p: tuple[float, ...], divide: int, expected: float) -> None:
    one_hot = torch.nn.functional.one_hot(torch.tensor([target]), 3).double()
    loss = fused_ce.cross_entropy(torch.tensor([p]).double().log(), one_hot) / divide
    assert loss.item() == pytest.approx(expected, abs=5.1e-5 if divide == 1 else 5.1e-8)
