# SPDX-License-Identifier: BSD-3-Clause
"""Results of a trace lie in memory as the real ones do: compiled code relies on the strides."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable

import fused_ce
import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

Tensors = tuple[torch.Tensor, ...]


# ---- Layouts that nobody thought of --------------------------------------------------------------


def permuted(rng: random.Random, x: torch.Tensor) -> torch.Tensor:
    return x.permute(rng.sample(range(x.dim()), x.dim()))


def sliced(rng: random.Random, x: torch.Tensor) -> torch.Tensor:
    dim = rng.randrange(x.dim())
    begin = rng.randint(0, max(0, x.size(dim) - 1))
    return x.narrow(dim, begin, x.size(dim) - begin)


def stepped(rng: random.Random, x: torch.Tensor) -> torch.Tensor:
    dim, step = rng.randrange(x.dim()), rng.choice([2, 3])
    return x[(slice(None),) * dim + (slice(None, None, step),)]


def expanded(rng: random.Random, x: torch.Tensor) -> torch.Tensor:
    dim = rng.randrange(x.dim())
    sizes = list(x.shape)
    sizes[dim] = rng.randint(1, 3)
    return x if x.size(dim) == 0 else x.narrow(dim, 0, 1).expand(sizes)


def unsqueezed(rng: random.Random, x: torch.Tensor) -> torch.Tensor:
    """One dimension more, of size 1, whose stride tells nothing."""
    return x if x.dim() == 6 else x.unsqueeze(rng.randint(0, x.dim()))


def other_stride_of_one(rng: random.Random, x: torch.Tensor) -> torch.Tensor:
    strides = [s if n > 1 else rng.randint(0, 9) for n, s in zip(x.shape, x.stride(), strict=True)]
    return x.as_strided(x.size(), strides)


def flipped(rng: random.Random, x: torch.Tensor) -> torch.Tensor:
    """A copy, whose layout is up to torch."""
    return x.flip(rng.randrange(x.dim()))


def rotated(rng: random.Random, x: torch.Tensor) -> torch.Tensor:
    return x if x.dim() < 2 else x.rot90(1, rng.sample(range(x.dim()), 2))


def channels_last(rng: random.Random, x: torch.Tensor) -> torch.Tensor:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x if x.dim() not in formats else x.contiguous(memory_format=formats[x.dim()])


def permuted_copy(rng: random.Random, x: torch.Tensor) -> torch.Tensor:
    """Dense, with its dimensions in any order in memory."""
    order = rng.sample(range(x.dim()), x.dim())
    return x.permute(order).contiguous().permute([order.index(d) for d in range(x.dim())])


STEPS = [
    *(permuted, permuted, permuted_copy, permuted_copy, sliced, stepped, expanded, unsqueezed),
    *(other_stride_of_one, flipped, rotated, channels_last),
]


def relaid(rng: random.Random, x: torch.Tensor) -> torch.Tensor:
    for _ in range(rng.randint(0, 4)):
        x = rng.choice(STEPS)(rng, x)
    return x


def like(rng: random.Random, x: torch.Tensor) -> torch.Tensor:
    """The tensor's numbers in another layout."""
    if rng.random() < 0.5:
        return x
    order = rng.sample(range(x.dim()), x.dim())
    gaps = [2 * n if rng.random() < 0.3 else n for n in x.shape]
    storage = x.new_empty([gaps[d] for d in order])
    result = storage.permute([order.index(d) for d in range(x.dim())])
    return result[tuple(slice(n) for n in x.shape)].copy_(x)


def draw_logits(rng: random.Random) -> torch.Tensor:
    dims = rng.choice([1, 2, 2, 3, 3, 4, 4, 5, 6])
    sizes = [rng.choice([1, 2, 2, 3, 3, 4, 5]) for _ in range(dims)]
    if rng.random() < 0.05:
        sizes[rng.randrange(dims)] = 0
    dtype = rng.choice([torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16])
    return relaid(rng, torch.randn(sizes, dtype=dtype))


def draw(rng: random.Random) -> tuple[Tensors, float]:
    """Logits, a target and perhaps a weight; and the smoothing."""
    x = draw_logits(rng)
    classes = x.size(1) if x.dim() > 1 else x.size(0)
    if rng.random() < 0.3 or classes == 0:
        target = torch.rand(x.shape).to(x.dtype)
    else:
        target = torch.randint(classes, (*x.shape[:1], *x.shape[2:]) if x.dim() > 1 else ())
    weight = (like(rng, torch.rand(classes, dtype=x.dtype)),) if rng.random() < 0.3 else ()
    return (x, like(rng, target), *weight), rng.choice([0.0, 0.1])


# ---- What a trace says of them -------------------------------------------------------------------


class Meta:
    def __init__(self) -> None:
        self.mode = contextlib.nullcontext()

    def of(self, t: torch.Tensor) -> torch.Tensor:
        return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta")


class Fake(Meta):
    def __init__(self) -> None:
        self.mode = FakeTensorMode()

    def of(self, t: torch.Tensor) -> torch.Tensor:
        return self.mode.from_tensor(t)


class Symbolic(Fake):
    """Sizes and strides are symbols, as `dynamic=True` traces them."""

    def __init__(self) -> None:
        self.mode = FakeTensorMode(shape_env=ShapeEnv())


def layout(t: torch.Tensor) -> tuple[torch.dtype, list[int], list[int | None]]:
    """All that is visible of a tensor beside its numbers: a stride only where it counts."""
    sizes, strides = ([int(n) for n in numbers] for numbers in (t.shape, t.stride()))
    counts = [n > 1 and 0 not in sizes for n in sizes]
    return t.dtype, sizes, [s if c else None for s, c in zip(strides, counts, strict=True)]


def forward(tensors: Tensors, save: bool, reduction: int, smoothing: float) -> Tensors:
    x, target, *weight = tensors
    weight_or_none = weight[0] if weight else None
    return torch.ops.fused_ce._forward(
        *(x, target, weight_or_none, None, None, None, save, reduction),
        label_smoothing=smoothing,
    )


def backward(
    grad: torch.Tensor, tensors: Tensors, saved: Tensors, reduction: int, smoothing: float
) -> torch.Tensor:
    x, target, *weight = tensors
    weight_or_none = weight[0] if weight else None
    return torch.ops.fused_ce._backward(
        *(grad, None, None, None, x, target, weight_or_none, None, *saved, reduction),
        label_smoothing=smoothing,
    )


def assert_torchs_gradient(
    gradient: torch.Tensor, grad: torch.Tensor, tensors: Tensors, reduction: int, smoothing: float
) -> None:
    x, target, *weight = (t.double() if t.is_floating_point() else t for t in tensors)
    x = x.detach().clone().requires_grad_()
    loss = F.cross_entropy(
        x, target, *weight, reduction=("none", "mean", "sum")[reduction], label_smoothing=smoothing
    )
    (expected,) = torch.autograd.grad(loss, x, grad.double())
    tolerance = {"rtol": 2e-2, "atol": 2e-3} if gradient.element_size() == 2 else {}
    torch.testing.assert_close(
        gradient, expected.to(gradient.dtype), equal_nan=True, check_stride=False, **tolerance
    )


def check(rng: random.Random, kind: type[Meta]) -> None:
    real, smoothing = draw(rng)
    case = f"logits of shape {list(real[0].shape)} and strides {list(real[0].stride())}"
    trace = kind()
    traced = tuple(map(trace.of, real))
    for reduction in (0, 1, 2):
        for save in (False, True):
            results = forward(real, save, reduction, smoothing)
            with trace.mode:
                traces = forward(traced, save, reduction, smoothing)
            assert list(map(layout, traces)) == list(map(layout, results)), (case, save, reduction)
        loss, *_, saved, total_weight = results
        grad = like(rng, torch.randn(loss.shape).to(loss.dtype))
        gradient = backward(grad, real, (saved, total_weight), reduction, smoothing)
        traced_grad = trace.of(grad)
        with trace.mode:
            told = backward(traced_grad, traced, traces[-2:], reduction, smoothing)
        assert layout(told) == layout(gradient), (case, reduction)
        if kind is Meta:  # once is enough for the numbers
            assert_torchs_gradient(gradient, grad, real, reduction, smoothing)


# In parts: one that fails is quick to run again.
@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize(("kind", "draws"), [(Meta, 250), (Fake, 80), (Symbolic, 8)])
def test_a_trace_tells_the_layout_of_the_results(kind: type[Meta], draws: int, part: int) -> None:
    rng = random.Random(f"{kind.__name__} {part}")
    for _ in range(draws):
        check(rng, kind)


# ---- Compiled ------------------------------------------------------------------------------------

HEAD = torch.randn(4, 4, generator=torch.Generator("cpu").manual_seed(0))
PRODUCERS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "transposed": lambda a: a.mul(2).transpose(2, 3),
    "rot90": lambda a: a.mul(2).rot90(1, (2, 3)),
    "head": lambda a: (a.permute(0, 3, 2, 1) @ HEAD.to(a.device)).permute(0, 3, 1, 2),
}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", PRODUCERS)
def test_compiled_logits_that_are_not_contiguous(name: str, dynamic: bool) -> None:
    """Inductor asserts the strides that the trace told, before it reads the gradient by them."""
    torch._dynamo.reset()
    produce = PRODUCERS[name]
    compiled = torch.compile(
        lambda a, t: fused_ce.cross_entropy(produce(a), t), fullgraph=True, dynamic=dynamic
    )
    for shape in [(2, 3, 5, 4), (3, 3, 4, 6)] if dynamic else [(2, 3, 5, 4)]:
        x = torch.randn(shape) if name != "head" else torch.randn(shape[0], 4, *shape[2:])
        eager = produce(x)
        target = torch.randint(eager.size(1), (eager.size(0), *eager.shape[2:]))
        losses, gradients = [], []
        for f in (compiled, lambda a, t: F.cross_entropy(produce(a), t)):
            leaf = x.clone().requires_grad_()
            losses.append(f(leaf, target))
            losses[-1].backward()
            gradients.append(leaf.grad)
        torch.testing.assert_close(*losses)
        torch.testing.assert_close(*gradients)
