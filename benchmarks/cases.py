# SPDX-License-Identifier: BSD-3-Clause
"""What is measured: shapes, dtypes, targets and threads, listed or drawn at random."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch

Loss = Callable[..., torch.Tensor]
# All three of small calls. In larger ones the recording of a graph, the second, does not show.
PHASES = ("forward, no grad", "forward", "forward+backward")
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
KINDS = ["indices", "weighted", "probabilities"]
SMALL = ["16x2", "32x10", "128x100", "64x1000", "1024x10"]
QUICK = ["32x10", "64x1000", "65536x10", "4096x64", "8192x1000", "1024x32000"]
FULL = [*SMALL, "65536x10", "4096x64", "8192x1000", "2048x32000"]
FULL += ["1024x50257", "512x128256", "64x1000000", "8x21x512x512"]
# Beyond the caches of a GPU, but for the last. The most wanted first, since time may run out.
CUDA = ["4096x32000", "8192x50257", "16384x131072", "64x1000000", "65536x1000", "8x21x512x512"]
CUDA += ["4194304x10", "64x1000"]
SCALING = [f"{2**24 // c}x{c}" for c in (2, 4, 16, 64, 256, 1024, 4096, 16384, 131072, 1048576)]


class Spec(NamedTuple):
    """Names one case, in the words of the command line."""

    shape: str
    dtype: str
    kind: str
    threads: int

    def sizes(self) -> list[int]:
        return [int(size) for size in self.shape.split("x")]

    def logits(self) -> int:
        return math.prod(self.sizes())

    def small(self) -> bool:
        """Whether the cost of a call shows; more than one thread is no help then."""
        return self.logits() < 2**16

    def phases(self) -> tuple[str, ...]:
        return PHASES if self.small() else (PHASES[0], PHASES[2])


def draw_shape(rng: random.Random, largest: int) -> str:
    """1 to `largest` logits in all; (N, C), or for a third (N, C, L) or (N, C, H, W).

    The size is log-uniform, and so is each dimension in what the others leave of it: C is 1 in one
    case of eight.
    """
    while True:
        size = rng.uniform(0, math.log2(largest))
        dimensions = rng.choice([2, 2, 2, 2, 3, 4])
        cuts = sorted(rng.uniform(0, size) for _ in range(dimensions - 1))
        sizes = [round(2 ** (b - a)) for a, b in pairwise([0, *cuts, size])]
        if math.prod(sizes) <= largest:
            return "x".join(map(str, sizes))


def draw(
    count: int, seed: int, largest: int, dtypes: list[str], kinds: list[str], threads: list[int]
) -> list[Spec]:
    rng = random.Random(seed)
    return [
        Spec(draw_shape(rng, largest), rng.choice(dtypes), rng.choice(kinds), rng.choice(threads))
        for _ in range(count)
    ]


class Case:
    """The tensors of one case, the options of its loss, and what to call on them."""

    def __init__(self, spec: Spec, device: str, seed: int = 0) -> None:
        torch.manual_seed(seed)
        sizes = spec.sizes()
        dtype = DTYPES[spec.dtype]
        self.logits = torch.randn(sizes, device=device).to(dtype).requires_grad_()
        self.options: dict[str, object] = {}
        if spec.kind == "probabilities":
            chances = torch.rand(sizes, device=device)
            self.target = chances.div_(chances.sum(1, keepdim=True)).to(dtype)
        else:
            self.target = torch.randint(sizes[1], sizes[:1] + sizes[2:], device=device)
        if spec.kind == "weighted":
            weight = torch.rand(sizes[1], device=device).to(dtype)
            self.options = {"weight": weight, "label_smoothing": 0.1}

    def call(self, phase: str, loss: Loss) -> Callable[[], torch.Tensor | None]:
        """With as little Python around the loss as can be: it is timed as well."""
        if phase == "forward+backward":
            return partial(self._both, loss)
        return partial(
            loss, self.logits if phase == "forward" else self.logits.detach(), self.target
        )

    def _both(self, loss: Loss) -> None:
        self.logits.grad = None
        torch.autograd.backward(loss(self.logits, self.target))
