# SPDX-License-Identifier: BSD-3-Clause
"""Logits and targets whose losses are hard to get right, drawn at random."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from exact import Options


class Rows(NamedTuple):
    """N rows of C logits, and the rest of a call's arguments."""

    logits: torch.Tensor
    target: torch.Tensor
    options: Options


DISTRIBUTIONS = {
    "normal": "standard normal logits",
    "confident": "the target leads by 0 to 100 (half types: 80)",
    "unlikely": "the target is 0 to 100 behind (half types: 80)",
    "offset": "normal, all logits moved by up to 10^7 either way",
    "huge offset": "normal times 2^-20 of an offset that the type just holds",
    "ascending": "from -40 up to 40",
    "descending": "from 40 down to -40",
    "weighted": "normal, with class weights",
    "smoothed": "normal, with class weights and label smoothing 0.1",
    "probabilities": "normal, with class probabilities",
    "one-hot": "confident, with the target as a probability of 1",
}


def draw(name: str, rows: int, classes: int, dtype: torch.dtype, seed: int = 0) -> Rows:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, classes, generator=random, dtype=torch.float64)
    target = torch.randint(classes, (rows,), generator=random)
    at_target = target.unsqueeze(1)
    weight = torch.rand(classes, generator=random).add(0.5).to(dtype)
    largest = torch.finfo(dtype).max
    options: Options = {}
    if name in ("confident", "unlikely", "one-hot"):
        # Half types: without AVX-512, exponentials below float's smallest normal, e^-87, are 0.
        most = 80 if dtype in (torch.bfloat16, torch.float16) else 100
        gap = torch.linspace(0, most, rows, dtype=torch.float64).unsqueeze(1)
        others = x.scatter(1, at_target, -torch.inf).amax(1, keepdim=True)
        x.scatter_(1, at_target, others + (-gap if name == "unlikely" else gap))
        if name == "one-hot":
            target = F.one_hot(target, classes).to(dtype)
    elif name == "offset":
        exponents = torch.linspace(0, min(7.0, torch.tensor(largest / 4).log10().item()), rows)
        signs = 1 - 2 * (torch.arange(rows) % 2)
        x += (signs * 10 ** exponents.double()).unsqueeze(1)
    elif name == "huge offset":
        x = (x * 2**-20 + 1) * (largest / 4)
    elif name in ("ascending", "descending"):
        x = torch.linspace(-40, 40, classes, dtype=torch.float64).expand(rows, -1) + x / 10
        x = x.sort(1, descending=name == "descending").values
    elif name == "weighted":
        options = {"weight": weight}
    elif name == "smoothed":
        options = {"weight": weight, "label_smoothing": 0.1}
    elif name == "probabilities":
        scores = torch.randn(rows, classes, generator=random, dtype=torch.float64)
        target = scores.softmax(1).to(dtype)
    return Rows(x.to(dtype), target, options)


def planes(tensor: torch.Tensor) -> torch.Tensor:
    """(N, C) rows as (1, C, N), classes far apart."""
    return tensor.t().contiguous()[None]


def loss_and_gradient(
    loss: Callable[..., torch.Tensor], case: Rows, transposed: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The losses of all rows, and the gradient of their sum."""
    x = (planes(case.logits) if transposed else case.logits).detach().requires_grad_()
    target = case.target
    if transposed:
        target = planes(target) if target.is_floating_point() else target[None]
    losses = loss(x, target, reduction="none", **case.options)
    (grad,) = torch.autograd.grad(losses.sum(), x)
    return losses.detach().flatten(), grad[0].t() if transposed else grad
