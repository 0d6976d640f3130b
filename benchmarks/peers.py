# SPDX-License-Identifier: BSD-3-Clause
"""What fused_ce is timed beside, each made once for a case, as nn.CrossEntropyLoss is, then called.

The libraries named here are for CUDA and language models: (N, C) logits, class indices, and some of
the options. What they cannot do, their adapter refuses. Called as Liger-Kernel 0.8.5, quack 0.6.5,
flash-attention 2.8 and apex of July 2026 are.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import fused_ce
import torch
from cases import Loss
from torch import nn

Make = Callable[..., Loss]  # takes the options of the loss


def compiled(**options: object) -> Loss:
    module: Loss = torch.compile(nn.CrossEntropyLoss(**options), dynamic=False)  # type: ignore[arg-type]
    return module


class Computed(torch.autograd.Function):
    """Logits as an operation leaves them, no leaf, which a gradient may overwrite; for no time: in
    the same memory, and what becomes of the gradient is nobody's concern.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor) -> torch.Tensor:
        same = logits.new_empty(0)  # a view would have a leaf for its base
        return same.set_(logits.untyped_storage(), 0, logits.shape, logits.stride())

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> None:
        pass


def overwriting(function: Loss) -> Loss:
    def loss(logits: torch.Tensor, target: torch.Tensor, **options: object) -> torch.Tensor:
        computed: torch.Tensor = Computed.apply(logits)  # type: ignore[no-untyped-call]
        return function(computed, target, **options)

    return loss


def in_place() -> Loss:
    def loss(logits: torch.Tensor, target: torch.Tensor, **options: object) -> torch.Tensor:
        return fused_ce.cross_entropy_stats(logits, target, in_place=True, **options).loss  # type: ignore[arg-type]

    return overwriting(loss)


def liger() -> Loss:
    function: Loss = importlib.import_module(
        "liger_kernel.transformers.functional"
    ).liger_cross_entropy

    def loss(logits: torch.Tensor, target: torch.Tensor, **options: object) -> torch.Tensor:
        return function(matrix(logits), target, **options)

    return loss


def quack(**how: object) -> Loss:
    function: Loss = importlib.import_module("quack.cross_entropy").cross_entropy

    def loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return function(matrix(logits), target, reduction="mean", **how)

    return loss


def flash_attn(**how: object) -> Loss:
    module = importlib.import_module("flash_attn.losses.cross_entropy").CrossEntropyLoss(**how)

    def loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = module(matrix(logits), target)
        return result

    return loss


def apex() -> Loss:
    function = importlib.import_module("apex.contrib.xentropy").SoftmaxCrossEntropyLoss

    def loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        # No smoothing; the index to ignore is 0 unless another is given.
        losses: torch.Tensor = function.apply(matrix(logits), target, 0.0, -100)
        return losses.mean()

    return loss


LIBRARIES: dict[str, Callable[[], Loss]] = {
    "liger": liger,
    "quack": quack,
    "flash-attn": flash_attn,
    "apex": apex,
    "quack in place": lambda: overwriting(quack(inplace_backward=True)),
    "flash-attn in place": lambda: overwriting(flash_attn(inplace_backward=True)),
}
# They leave the gradient where the logits were.
OVERWRITES = {"in place", "liger", "quack in place", "flash-attn in place"}


def matrix(logits: torch.Tensor) -> torch.Tensor:
    if logits.dim() != 2:
        raise NotImplementedError("(N, C) logits only")
    return logits


def find(name: str) -> Make:
    """A name with a colon is module:function, anything with F.cross_entropy's signature."""
    if name == "eager":
        return nn.CrossEntropyLoss
    if name == "compile":
        return compiled
    if name == "in place":
        return partial(partial, in_place())
    if name in LIBRARIES:
        return partial(partial, LIBRARIES[name]())  # a function takes its options now, too
    module, function = name.split(":")
    return partial(partial, getattr(importlib.import_module(module), function))


def candidates(names: list[str]) -> dict[str, Make]:
    return {"fused_ce": fused_ce.CrossEntropyLoss} | {name: find(name) for name in names}


def installed() -> list[str]:
    """The libraries that can be imported here."""
    found = []
    for name, load in LIBRARIES.items():
        try:
            load()
        except Exception as error:
            print(f"{name} is left out: {type(error).__name__}: {error}")
        else:
            found.append(name)
    return found
