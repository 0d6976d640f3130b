# SPDX-License-Identifier: BSD-3-Clause
"""Shapes, strides, offsets and options that nobody thought of, by hypothesis."""

from __future__ import annotations

import math

import fused_ce
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import DEVICE, DTYPES
from formula import check
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.simt


def seeded(seed: int) -> torch.Generator:
    return torch.Generator(DEVICE).manual_seed(seed)


@st.composite
def tensors(draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Normal numbers of that shape: dimensions in any order in memory, with gaps, or expanded.

    A few have strides that fit nothing, so that elements lie over one another.
    """
    if draw(st.integers(0, 7)) == 0:
        strides = [draw(st.integers(0, 5)) for _ in shape]
        offset = draw(st.integers(0, 5))
        elements = sum(n * step for n, step in zip(shape, strides, strict=True)) + 1
        values = torch.randn(elements + offset, generator=seeded(elements)).to(dtype)
        return values.as_strided(shape, strides, offset)
    order = draw(st.permutations(range(len(shape))))
    steps = [draw(st.integers(1, 3)) for _ in shape]
    expanded = [draw(st.integers(0, 9)) == 0 for _ in shape]
    storage = [1 if expanded[d] else shape[d] * steps[d] for d in order]
    offset = draw(st.integers(0, 5))
    elements = torch.Size(storage).numel()
    values = torch.randn(elements + offset, generator=seeded(elements)).to(dtype)
    x = values[offset:].view(storage).permute([order.index(d) for d in range(len(shape))])
    x = x[tuple(slice(None, None, 1 if e else s) for e, s in zip(expanded, steps, strict=True))]
    return x.expand(shape)


@st.composite
def problems(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, str, dict[str, object]]:
    classes = draw(st.one_of(st.integers(2, 40), st.integers(100, 1100)))
    spatial = draw(st.lists(st.integers(1, 12), max_size=2))
    shape = (draw(st.integers(1, 20)), classes, *spatial)
    if not spatial and draw(st.booleans()):
        shape = (classes,)
    dtype = draw(st.sampled_from(DTYPES))
    logits = draw(tensors(shape, dtype))
    options: dict[str, object] = {"label_smoothing": draw(st.sampled_from([0.0, 0.1, 1.0]))}
    if draw(st.booleans()):
        options["weight"] = draw(tensors((classes,), dtype)).abs() + 0.1
    if draw(st.booleans()):
        target = draw(tensors(shape, draw(st.sampled_from(DTYPES)))).abs()
    else:
        rows = shape[:1] + shape[2:] if len(shape) > 1 else ()
        scores = draw(tensors(rows, torch.float64))
        target = (scores.abs() * 1e6).long() % classes
        options["ignore_index"] = draw(st.sampled_from([-100, 0, 1]))
    return logits, target, draw(st.sampled_from(["none", "mean", "sum"])), options


some = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@settings(some, max_examples=300)
@given(problems())
def test_any_problem(problem: tuple[torch.Tensor, torch.Tensor, str, dict[str, object]]) -> None:
    logits, target, reduction, options = problem
    check(logits, target, reduction, **options)


# 1e34: the CUDA kernels add up a thousand of them in float, as torch does.
EXTREMES = [-math.inf, math.inf, math.nan, -1e34, 1e34, 1e-45, 0.0, -0.0]


@settings(some, max_examples=200)
@given(problems(), st.lists(st.tuples(st.integers(0), st.sampled_from(EXTREMES)), max_size=9))
def test_any_logits(
    problem: tuple[torch.Tensor, torch.Tensor, str, dict[str, object]],
    extremes: list[tuple[int, float]],
) -> None:
    """Infinite, undefined, very large and very small numbers, where torch's are in float64."""
    logits, target, _, options = problem
    x = logits.clone()
    for place, value in extremes:
        x[np.unravel_index(place % x.numel(), x.shape)] = value
    results = []
    for loss, dtype in ((fused_ce.cross_entropy, x.dtype), (F.cross_entropy, torch.float64)):
        to = {k: v.to(dtype) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
        goal = target.to(dtype) if target.is_floating_point() else target
        results.append(loss(x.to(dtype), goal, reduction="none", **to).double())
    ours, theirs = results
    limits = torch.finfo(x.dtype)
    fits = theirs.abs() < limits.max / 2
    # Only float64 is added up in its own precision, whose roundings grow with the classes.
    classes = x.shape[1] if x.dim() > 1 else x.numel()
    rtol = (4 + (classes**0.5 / 4 if x.dtype == torch.float64 else 0)) * limits.eps
    torch.testing.assert_close(
        ours[fits], theirs[fits], rtol=rtol, atol=200 * limits.eps, equal_nan=True
    )
    far = theirs.abs() >= limits.max * 2
    assert (ours[far].isinf() & (ours[far].sign() == theirs[far].sign())).all()
    assert torch.equal(ours.isnan(), theirs.isnan())
