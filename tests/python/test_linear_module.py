# SPDX-License-Identifier: BSD-3-Clause
"""The module of the linear layer's loss beside torch's."""

from __future__ import annotations

import copy
import io
import pickle

import fused_ce
import pytest
import torch
from test_linear_transforms import CHUNK, CLASSES, FEATURES, problem
from torch import Tensor, nn


@pytest.fixture(params=[False, True], ids=["no_bias", "bias"])
def modules(request: pytest.FixtureRequest) -> list[nn.Module]:
    """Ours and torch's, of the same parameters."""
    options = {
        "bias": request.param,
        "weight": torch.linspace(0.5, 1.5, CLASSES, dtype=torch.float64),
        "ignore_index": 1,
        "label_smoothing": 0.1,
        "dtype": torch.float64,
    }
    one = fused_ce.LinearCrossEntropyLoss(FEATURES, CLASSES, chunk_rows=CHUNK, **options)
    other = nn.LinearCrossEntropyLoss(FEATURES, CLASSES, **options)
    assert list(one.state_dict()) == list(other.state_dict())
    other.load_state_dict(one.state_dict())
    return [one, other]


def test_module_copied(modules: list[nn.Module]) -> None:
    one, other = modules
    x, _, t, _ = problem()
    file = io.BytesIO()
    torch.save(one, file)
    file.seek(0)
    for module in (
        *(one, copy.deepcopy(one), pickle.loads(pickle.dumps(one))),
        torch.load(file, weights_only=False),
    ):
        module.zero_grad()
        other.zero_grad()
        loss, expected = module(x, t), other(x, t)
        torch.testing.assert_close(loss, expected)
        (loss + expected).backward()
        for p, q in zip(module.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad)


def test_state_of_torchs_module(modules: list[nn.Module]) -> None:
    one, other = modules
    x, _, t, _ = problem()
    with torch.no_grad():
        for a in other.state_dict().values():
            a.mul_(1.5)
    one.load_state_dict(other.state_dict())
    torch.testing.assert_close(one(x, t), other(x, t))
    assert one.float().linear.weight.dtype == one.weight.dtype == torch.float32
    torch.testing.assert_close(one(x.float(), t), other(x, t).float())


def test_module_trained(modules: list[nn.Module]) -> None:
    """With an optimizer that changes what the next graph is of."""
    x, _, t, _ = problem()
    losses = []
    for module in modules:
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, foreach=True)
        for _ in range(5):
            optimizer.zero_grad()
            loss = module(x, t)
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 0.5)
            optimizer.step()
        losses.append(loss.detach())
    torch.testing.assert_close(*losses)


def test_functional_call_of_many_models(modules: list[nn.Module]) -> None:
    """An ensemble, by vmap over what stack_module_state gives."""
    x, _, t, _ = problem()
    results = []
    for module in modules:
        torch.manual_seed(2)
        ensemble = [copy.deepcopy(module) for _ in range(3)]
        for member in ensemble:
            nn.init.normal_(member.linear.weight)
        if module is modules[1]:
            grads = [torch.autograd.grad(m(x, t), m.linear.weight)[0] for m in ensemble]
            results.append(torch.stack(grads))
            continue
        parameters, buffers = torch.func.stack_module_state(ensemble)

        def loss(p: dict[str, Tensor], b: dict[str, Tensor], m: nn.Module = ensemble[0]) -> Tensor:
            return torch.func.functional_call(m, (p, b), (x, t))

        results.append(torch.func.vmap(torch.func.grad(loss))(parameters, buffers)["linear.weight"])
    torch.testing.assert_close(*results)
