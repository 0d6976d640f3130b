# SPDX-License-Identifier: BSD-3-Clause
"""A stand-in for a GPU, to run what is written for one: the CPU does what CUDA is asked for.

    python tests/cuda/stand_in.py benchmarks/bench.py --device cuda --shapes 64x100

Liger-Kernel, quack, flash-attention and apex have stand-ins too, with the parameters they have, so
that a call which they would refuse is refused; torch.compile gives back what it gets. No time and
no memory that is measured so means anything.
"""

from __future__ import annotations

import runpy
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

PROPERTIES = SimpleNamespace(
    name="Stand-in H100",
    multi_processor_count=132,
    L2_cache_size=1 << 12,
    memory_clock_rate=2619000,
    memory_bus_width=5120,
)


class OnCpu(TorchFunctionMode):
    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        device = {"device": "cpu"} if (kwargs or {}).get("device") == "cuda" else {}
        try:
            return function(*args, **{**(kwargs or {}), **device})
        except RuntimeError as error:
            if "can't allocate memory" in str(error):
                raise torch.OutOfMemoryError("CUDA out of memory") from error
            raise


class Event:
    """On a device that is done with each call before the next is made."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.time = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        return 1e3 * (end.time - self.time)


def liger_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    lse_square_scale: float = 0.0,
    softcap: float | None = None,
) -> Tensor:
    x = input if softcap is None else softcap * torch.tanh(input / softcap)
    loss = F.cross_entropy(x, target, weight, None, ignore_index, None, reduction, label_smoothing)
    return loss + lse_square_scale * x.float().logsumexp(1).square().mean()


def liger_fused_linear_cross_entropy(input: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(input, weight), target)


def quack_cross_entropy(
    x: Tensor, target: Tensor, reduction: str = "mean", inplace_backward: bool = False
) -> Tensor:
    return F.cross_entropy(x, target, reduction=reduction)


def quack_chunked_linear_cross_entropy(
    x: Tensor, weight: Tensor, target: Tensor, tuned: bool = True
) -> Tensor:
    assert x.dtype == torch.bfloat16, "no float32"
    return F.cross_entropy(F.linear(x, weight), target)


class FlashCrossEntropyLoss(torch.nn.Module):
    def __init__(
        self,
        logit_scale: float = 1.0,
        lse_square_scale: float = 0.0,
        inplace_backward: bool = False,
    ) -> None:
        super().__init__()
        self.logit_scale, self.lse_square_scale = logit_scale, lse_square_scale

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        x = input.float() * self.logit_scale
        squares = x.logsumexp(1).square().mean()
        return F.cross_entropy(x, target) + self.lse_square_scale * squares


class ApexCrossEntropyLoss:
    @staticmethod
    def apply(logits: Tensor, labels: Tensor, smoothing: float, padding_idx: int) -> Tensor:
        assert padding_idx == -100
        return F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)


LIBRARIES: dict[str, dict[str, Any]] = {
    "liger_kernel.transformers.functional": {
        "liger_cross_entropy": liger_cross_entropy,
        "liger_fused_linear_cross_entropy": liger_fused_linear_cross_entropy,
    },
    "quack.cross_entropy": {"cross_entropy": quack_cross_entropy},
    "quack.linear_cross_entropy": {
        "chunked_linear_cross_entropy": quack_chunked_linear_cross_entropy
    },
    "flash_attn.losses.cross_entropy": {"CrossEntropyLoss": FlashCrossEntropyLoss},
    "apex.contrib.xentropy": {"SoftmaxCrossEntropyLoss": ApexCrossEntropyLoss},
}
CUDA: dict[str, Any] = {
    "is_available": lambda: True,
    "device_count": lambda: 1,
    "get_device_name": lambda: PROPERTIES.name,
    "get_device_capability": lambda: (9, 0),
    "get_device_properties": lambda: PROPERTIES,
    "Event": Event,
    "_sleep": lambda cycles: None,
    "reset_peak_memory_stats": lambda: None,
    "memory_allocated": lambda: 0,
    "max_memory_allocated": lambda: 1 << 30,
}


def install() -> None:
    for name, value in CUDA.items():
        setattr(torch.cuda, name, value)
    for name, members in LIBRARIES.items():
        parts = name.split(".")
        for i in range(len(parts)):  # the packages that it is in, too
            package = ".".join(parts[: i + 1])
            sys.modules.setdefault(package, ModuleType(package))
        vars(sys.modules[name]).update(members)
    torch.compile = lambda model, **options: model  # type: ignore[assignment]
    torch.compiler.reset = lambda: None  # of nothing, which takes seconds to load


def main() -> None:
    script, *arguments = sys.argv[1:]
    install()
    sys.argv = [script, *arguments]
    sys.path[0] = str(Path(script).resolve().parent)  # as Python has it
    with OnCpu():
        runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
