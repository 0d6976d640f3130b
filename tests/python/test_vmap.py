# SPDX-License-Identifier: BSD-3-Clause
"""torch.vmap: each sample has a loss of its own."""

from __future__ import annotations

from collections.abc import Callable

import fused_ce
import pytest
import torch
import torch.nn.functional as F
from torch import func

Loss = Callable[..., torch.Tensor]
OPTIONS = {
    "plain": {},
    "weight": {"weight": torch.linspace(0.5, 1.5, 5)},
    "all": {"weight": torch.linspace(0.5, 1.5, 5), "label_smoothing": 0.1, "ignore_index": 1},
}


def samples(kind: str, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and targets of three samples of a shape, along a leading dimension."""
    x = torch.randn(3, *shape)
    if kind == "probabilities":
        return x, torch.rand(x.shape)
    rows = shape[:1] + shape[2:] if len(shape) > 1 else ()
    return x, torch.randint(0, 5, (3, *rows))


def one_by_one(x: torch.Tensor, t: torch.Tensor, **options: object) -> torch.Tensor:
    """torch's loss of each sample: under vmap, torch has none with weights and smoothing."""
    return torch.stack([F.cross_entropy(*pair, **options) for pair in zip(x, t, strict=True)])


def mapped(x: torch.Tensor, t: torch.Tensor, **options: object) -> torch.Tensor:
    return func.vmap(lambda x, t: fused_ce.cross_entropy(x, t, **options))(x, t)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 5, 3)], ids=str)
def test_values_and_gradients(
    shape: tuple[int, ...], kind: str, option: str, reduction: str
) -> None:
    options = {**OPTIONS[option], "reduction": reduction}
    if kind == "probabilities":
        options.pop("ignore_index", None)
    x, t = samples(kind, shape)
    results = []
    for f in (mapped, one_by_one):
        logits = x.clone().requires_grad_()
        loss = f(logits, t, **options)
        results.append((loss, torch.autograd.grad(loss, logits, torch.full_like(loss, 0.7))))
    torch.testing.assert_close(results[0], results[1], equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_dtype(dtype: torch.dtype) -> None:
    x, t = samples("indices", (40, 5))
    expected = one_by_one(x.to(dtype).double(), t).to(dtype)
    torch.testing.assert_close(mapped(x.to(dtype), t), expected)


@pytest.mark.parametrize("dims", [(1, 0), (0, 1), (2, 1), (0, None), (None, 0)], ids=str)
def test_mapped_dimensions(dims: tuple[int | None, int | None]) -> None:
    x, t = samples("indices", (4, 5))
    if None in dims:
        x, t = (x[:1].expand(3, 4, 5), t) if dims[0] is None else (x, t[:1].expand(3, 4))
    options = {"weight": torch.rand(5), "label_smoothing": 0.1}
    loss = func.vmap(lambda x, t: fused_ce.cross_entropy(x, t, **options), in_dims=dims)(
        x[0] if dims[0] is None else x.movedim(0, dims[0]),
        t[0] if dims[1] is None else t.movedim(0, dims[1]),
    )
    torch.testing.assert_close(loss, one_by_one(x, t, **options))


def test_mapped_weight() -> None:
    (x, t), weight = samples("indices", (4, 5)), torch.rand(3, 5)
    loss = func.vmap(lambda *tensors: fused_ce.cross_entropy(*tensors, label_smoothing=0.1))
    expected = [F.cross_entropy(*s, label_smoothing=0.1) for s in zip(x, t, weight, strict=True)]
    torch.testing.assert_close(loss(x, t, weight), torch.stack(expected))


def test_nested() -> None:
    x, t = samples("indices", (4, 5))
    loss = func.vmap(func.vmap(fused_ce.cross_entropy))(x, t)
    torch.testing.assert_close(loss, F.cross_entropy(x.mT, t, reduction="none"))


@pytest.mark.parametrize("transform", [func.grad, func.jacfwd], ids=["grad", "jacfwd"])
def test_inner_vmap_that_maps_no_argument(transform: Callable[..., Loss]) -> None:
    (x, t), shifts = samples("indices", (4, 5)), torch.randn(2)
    results = []
    for f in (fused_ce.cross_entropy, F.cross_entropy):
        shifted = lambda x, t, f=f: func.vmap(lambda shift: f(x, t) + shift)(shifts).sum()  # noqa: E731
        results.append(func.vmap(transform(shifted))(x, t))
    torch.testing.assert_close(results[0], results[1])


def test_overflow_of_half_sums() -> None:
    x, t = torch.zeros(3, 4, 5, dtype=torch.float16), torch.ones(3, 4, dtype=torch.long)
    x[:, 0, 0], x[:, 0, 1] = 6e4, -6e4
    torch.testing.assert_close(mapped(x, t), one_by_one(x.double(), t).half())


def test_nested_with_shared_logits() -> None:
    """The inner vmap maps targets alone, and the outer one maps both."""
    (x, _), t = samples("indices", (4, 5)), torch.randint(0, 5, (3, 2, 4))
    loss = func.vmap(func.vmap(fused_ce.cross_entropy, in_dims=(None, 0)))(x, t)
    expected = [one_by_one(a.expand(2, 4, 5), b) for a, b in zip(x, t, strict=True)]
    torch.testing.assert_close(loss, torch.stack(expected))


@pytest.mark.parametrize("transform", ["vmap of grad", "grad of vmap", "jvp of vmap"])
def test_within_other_transforms(transform: str) -> None:
    x, t = samples("indices", (4, 5))
    results = []
    for f in (fused_ce.cross_entropy, F.cross_entropy):
        losses = func.vmap(f)
        if transform == "vmap of grad":
            results.append(func.vmap(func.grad(f))(x, t))
        elif transform == "grad of vmap":
            results.append(func.grad(lambda x, losses=losses: losses(x, t).sum())(x))
        else:
            results.append(func.jvp(lambda x, losses=losses: losses(x, t), (x,), (x,)))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("kind", ["indices", "probabilities"])
@pytest.mark.parametrize("shape", [(0, 5), (3, 0)], ids=str)
def test_no_logits(shape: tuple[int, int], kind: str) -> None:
    x = torch.randn(2, *shape)
    t = torch.rand(x.shape) if kind == "probabilities" else torch.full((2, shape[0]), -100)
    loss = mapped(x, t)
    assert loss.shape == (2,) and loss.isnan().all()


def test_ignored_samples() -> None:
    x, t = samples("indices", (4, 5))
    t[0], t[1, :2] = -100, -100
    loss = mapped(x, t)
    assert loss[0].isnan()
    torch.testing.assert_close(loss, one_by_one(x, t), equal_nan=True)


def test_autocast() -> None:
    x, t = samples("indices", (4, 5))
    with torch.autocast("cpu", torch.bfloat16):
        loss = mapped(x.bfloat16(), t)
    torch.testing.assert_close(loss, one_by_one(x.bfloat16().float(), t))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic: bool) -> None:
    x, t = samples("indices", (4, 5))
    torch._dynamo.reset()
    compiled = torch.compile(mapped, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    torch.testing.assert_close(compiled(x, t), one_by_one(x, t))


def test_refusals() -> None:
    x, t = samples("indices", (4, 5))
    with pytest.raises(ValueError, match=r"batch_size \(4\) to match target batch_size \(3\)"):
        mapped(x, t[:, :3])
    with pytest.raises(IndexError, match="Target 9 is out of bounds"):
        mapped(x, t * 0 + 9)
