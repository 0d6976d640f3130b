# SPDX-License-Identifier: BSD-3-Clause
"""A linear layer with cross entropy, of fused_ce and in other ways: what linear.py measures."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import fused_ce
import torch
import torch.nn.functional as F
from cases import DTYPES
from devices import Call
from torch import Tensor

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # of input, weight and class indices
Case = tuple[str, str]  # rows x features x classes, and the dtype

PHASE = "forward+backward"  # with all gradients
LARGE: list[Case] = [
    ("1024x512x32000", "float32"),
    ("2048x1024x32000", "float32"),
    ("512x1024x128256", "float32"),
    ("4096x1024x32000", "float32"),
    ("1024x512x32000", "bfloat16"),
]
SMALL: list[Case] = [("64x512x1000", "float32"), ("64x128x10", "float32")]
CUDA: list[Case] = [
    ("8192x4096x32000", "bfloat16"),
    ("4096x4096x128256", "bfloat16"),
    ("2048x1024x32000", "float32"),
]
QUICK: list[Case] = [("512x512x32000", "float32"), ("256x512x32000", "bfloat16"), *SMALL]


def eager(x: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(x, weight), target)


def with_statistics(x: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """Entropy and prediction are given, and the loss alone goes backward."""
    return fused_ce.linear_cross_entropy_stats(
        x, weight, target, return_entropy=True, return_prediction=True
    ).loss


def each_row(x: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    return fused_ce.linear_cross_entropy(x, weight, target, reduction="none").mean()


class LigerChunks(torch.autograd.Function):
    """Gradients in forward, in as many rows as have about as many logits as the input has numbers.

    So does Liger-Kernel, whose own kernels are for GPUs; here torch's operators do the work.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, target: Tensor) -> Tensor:
        (rows, features), classes = x.shape, weight.shape[0]
        size = 1 << (math.ceil(rows / math.ceil(classes / features)) - 1).bit_length()
        of_x, of_weight = torch.empty_like(x), torch.zeros_like(weight)
        loss = torch.zeros((), dtype=torch.promote_types(x.dtype, torch.float32))
        for begin in range(0, rows, size):
            some = slice(begin, begin + size)
            logits = F.linear(x[some], weight).requires_grad_()
            with torch.enable_grad():
                share = F.cross_entropy(logits, target[some], reduction="sum") / rows
            (gradient,) = torch.autograd.grad(share, logits)
            torch.mm(gradient, weight, out=of_x[some])
            of_weight.addmm_(gradient.t(), x[some])
            loss += share.detach()
        ctx.save_for_backward(of_x, of_weight)
        return loss.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        of_x, of_weight = ctx.saved_tensors
        if gradient.item() != 1:
            of_x, of_weight = gradient * of_x, gradient * of_weight
        return of_x, of_weight, None


OURS: dict[str, Loss] = {
    "fused_ce": fused_ce.linear_cross_entropy,
    "with statistics": with_statistics,
    "each row": each_row,
}


def of_libraries() -> dict[str, Loss]:
    """On a GPU: those that can be imported, as Liger-Kernel 0.8.5 and quack 0.6.5 are called."""
    found: dict[str, Any] = {}
    for name, module, function in (
        ("liger", "liger_kernel.transformers.functional", "liger_fused_linear_cross_entropy"),
        ("quack", "quack.linear_cross_entropy", "chunked_linear_cross_entropy"),
    ):
        try:
            found[name] = getattr(importlib.import_module(module), function)
        except Exception as error:
            print(f"{name} is left out: {type(error).__name__}: {error}")
    if "quack" in found:  # to try each of its kernels takes minutes
        found["quack"] = partial(found["quack"], tuned=False)
    return found


def losses(compiles: bool, device: str) -> dict[str, Loss]:
    found: dict[str, Loss] = {**OURS, "eager": eager}
    if compiles:
        found["compile"] = torch.compile(eager, dynamic=False)
    name = "linear_cross_entropy"
    if theirs := getattr(F, name, None):  # torch 2.13 and later
        found["torch chunked"] = partial(theirs, options=torch.nn.LinearCrossEntropyOptions())
        found["torch whole"] = theirs
    return found | (of_libraries() if device == "cuda" else {"Liger's chunks": LigerChunks.apply})


class Layer:
    """The tensors of one case."""

    def __init__(self, shape: str, dtype: str, device: str) -> None:
        torch.manual_seed(0)
        rows, features, classes = map(int, shape.split("x"))
        of_type = DTYPES[dtype]
        self.x = torch.randn(rows, features, device=device).to(of_type).requires_grad_()
        # Logits of variance 1, as a layer has them at first.
        weight = torch.randn(classes, features, device=device).div_(features**0.5)
        self.weight = weight.to(of_type).requires_grad_()
        self.target = torch.randint(classes, (rows,), device=device)

    def both(self, loss: Loss) -> Tensor:
        self.x.grad = self.weight.grad = None
        result = loss(self.x, self.weight, self.target)
        torch.autograd.backward(result)
        return result.detach()

    def products(self) -> Call:
        """The least there is to do, into memory that is there already."""
        x, weight = self.x.detach(), self.weight.detach()
        logits = x.new_empty(len(x), len(weight))
        of_x, of_weight = torch.empty_like(x), torch.empty_like(weight)

        def call() -> None:
            torch.mm(x, weight.t(), out=logits)
            torch.mm(logits, weight, out=of_x)
            torch.mm(logits.t(), x, out=of_weight)

        return call


def results(layer: Layer, loss: Loss) -> tuple[float, Tensor]:
    """The loss, and the weight's gradient."""
    result = float(layer.both(loss))
    assert layer.weight.grad is not None
    return result, layer.weight.grad


def check(found: tuple[float, Tensor], want: tuple[float, Tensor]) -> None:
    """torch's chunks add up bfloat16 losses in bfloat16: they are off by some percent."""
    loss, right = found[0], want[0]
    assert math.isclose(loss, right, rel_tol=0.05), f"a loss of {loss}, not {right}"
    off = float((found[1] - want[1]).norm() / want[1].norm())
    assert off < 0.1, f"the weight's gradient is off by {off:.0%}"


def answering(layer: Layer, found: dict[str, Loss]) -> dict[str, str]:
    """Calls each once, which warms it up, but for what is compiled for one shape. What does not run
    here, or does not say what plain torch says, is taken out, but for our own; and why.
    """
    want = results(layer, eager)
    left_out = {}
    for name in [name for name in found if name != "compile"]:
        try:
            check(results(layer, found[name]), want)
        except Exception as error:
            if name in OURS:
                raise
            del found[name]
            left_out[name] = f"{type(error).__name__}: {error}"[:200]
            print(f"{name} is left out: {left_out[name]}")
    return left_out
