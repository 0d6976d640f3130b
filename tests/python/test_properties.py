"""Shapes, strides, offsets and options that nobody thought of, by hypothesis."""

from __future__ import annotations

import torch
from conftest import DEVICE, DTYPES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import check


def seeded(seed: int) -> torch.Generator:
    return torch.Generator(DEVICE).manual_seed(seed)


@st.composite
def tensors(draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Normal numbers of that shape: dimensions in any order in memory, with gaps, or expanded."""
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


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(problems())
def test_any_problem(problem: tuple[torch.Tensor, torch.Tensor, str, dict[str, object]]) -> None:
    logits, target, reduction, options = problem
    check(logits, target, reduction, **options)
