# SPDX-License-Identifier: BSD-3-Clause
"""How time and memory are measured: on the CPU, and on a GPU."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import fused_ce
import torch

Call = Callable[[], object]


class Cpu:
    name = "cpu"
    # Seconds: shorter calls are timed several at once, so that the clock costs nothing.
    shortest_sample = 1e-4
    # Bytes of logits: glibc gives larger blocks back to the system, and their peak is seen.
    smallest_peak = 1 << 25

    def describe(self) -> dict[str, Any]:
        return {"device": "cpu", "processor": self._processor(), "cores": os.cpu_count()}

    def sample(self, call: Call, batch: int) -> float:
        """Seconds that one of `batch` calls in a row takes."""
        begin = time.perf_counter()
        for _ in range(batch):
            call()
        return (time.perf_counter() - begin) / batch

    def peak_growth(self, call: Call) -> int:
        """Bytes by which the resident memory of this process peaks above its start in a call."""

        def status(name: str) -> int:
            lines = Path("/proc/self/status").read_text().split("\n")
            return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])

        fused_ce.empty_cache()  # a gradient that lies there would be no growth
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = status("VmRSS")
        call()
        return max(0, status("VmHWM") - before)

    def _processor(self) -> str:
        for line in Path("/proc/cpuinfo").read_text().split("\n"):
            if line.startswith("model name"):
                return line.split(":")[1].strip()
        return platform.machine()


class Cuda:
    name = "cuda"
    shortest_sample = 0.0  # events on the GPU tell half a microsecond
    smallest_peak = 0

    def __init__(self) -> None:
        self._properties: Any = torch.cuda.get_device_properties()
        # Read before each call, so that no logits are found in the cache. Not written: what a call
        # drives out of the cache would go to memory while its clock runs.
        self._other = torch.zeros(int(self._properties.L2_cache_size), device="cuda")

    def describe(self) -> dict[str, Any]:
        gpu = self._properties
        return {
            "device": "cuda",
            "processor": gpu.name,
            "cores": gpu.multi_processor_count,
            "cuda": torch.version.cuda,
            "cache bytes": gpu.L2_cache_size,
            "peak bytes a second": self._peak_bandwidth(),
            "copied bytes a second": self._copy_bandwidth(),
        }

    def sample(self, call: Call, batch: int) -> float:
        """Seconds that the GPU takes for one of `batch` calls in a row.

        It sleeps first, for half a millisecond: by then the calls are queued, and it does not wait
        for Python.
        """
        cuda: Any = torch.cuda  # without types there
        begin, end = (cuda.Event(enable_timing=True) for _ in range(2))
        self._other.sum()
        cuda._sleep(1_000_000)
        begin.record()
        for _ in range(batch):
            call()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3 / batch

    def peak_growth(self, call: Call) -> int:
        """Bytes by which torch's allocator peaks above its start in a call."""
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before

    def _peak_bandwidth(self) -> float | None:
        """Memory moves data at both edges of its clock, which is in kHz."""
        khz = getattr(self._properties, "memory_clock_rate", None)
        bits = getattr(self._properties, "memory_bus_width", None)
        return 2 * 1e3 * khz * bits / 8 if khz and bits else None

    def _copy_bandwidth(self) -> float:
        """Of a copy far larger than the cache, read and written: the fastest, of so many that an
        idle GPU has its clock up.
        """
        x = torch.zeros(8 * len(self._other), device="cuda")
        copy = partial(torch.empty_like(x).copy_, x)
        return 2 * x.nbytes / min(self.sample(copy, 1) for _ in range(100))


Device = Cpu | Cuda


def device_of(name: str) -> Device:
    return Cuda() if name == "cuda" else Cpu()
