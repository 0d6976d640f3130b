# SPDX-License-Identifier: BSD-3-Clause
"""What bounds a loop: its instructions, or its memory. An estimate, from data sheets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .listing import count


@dataclass(frozen=True)
class Gpu:
    """From NVIDIA's data sheets and the throughput table of the CUDA programming guide."""

    name: str
    sms: int
    ghz: float
    terabytes: float  # a second
    # Lanes an SM and clock; every scheduler issues a warp's 32 lanes a clock.
    fma: int
    fp64: int
    issue: int = 128
    alu: int = 64
    special: int = 16


GPUS = {
    75: Gpu("T4", 40, 1.59, 0.32, fma=64, fp64=2),
    80: Gpu("A100", 108, 1.41, 1.555, fma=64, fp64=32),
    89: Gpu("RTX 4090", 128, 2.52, 1.008, fma=128, fp64=2),
    90: Gpu("H100", 132, 1.755, 3.35, fma=128, fp64=64),
    100: Gpu("B200", 148, 1.85, 8.0, fma=128, fp64=64),
}
FMA = r"(FFMA|FMUL|FADD|IMAD|HADD2|HFMA2|HMUL2)\b"
ALU = r"(FSETP|FSEL|FMNMX|ISETP|SEL|LOP3|SHF|PRMT|IADD3|LEA|IMNMX|VIMNMX|F2FP|PLOP3|MOV|SGXT)\b"
FP64 = r"D(ADD|MUL|FMA|SETP|MNMX)\b|F2F\S*F64|I2F\.F64"


@dataclass(frozen=True)
class Roof:
    """Microseconds for a million elements, and what takes the longest."""

    gpu: str
    memory: float
    compute: float
    bound: str

    @property
    def headroom(self) -> float:
        """Below 1 where the memory waits for the instructions."""
        return self.memory / self.compute if self.compute else float("inf")


def roofline(gpu: Gpu, loop: Sequence[str], elements: int, moved: int) -> Roof:
    """Of a loop that moves so many bytes an element."""
    lanes = {
        "issue": (len(loop), gpu.issue),
        "FMA": (count(loop, FMA), gpu.fma),
        "ALU": (count(loop, ALU), gpu.alu),
        "MUFU": (count(loop, r"MUFU"), gpu.special),
        "FP64": (count(loop, FP64), gpu.fp64),
    }
    clock = gpu.sms * gpu.ghz * elements / 1e3
    times = {pipe: n / width / clock for pipe, (n, width) in lanes.items()}
    slowest = max(times, key=lambda pipe: times[pipe])
    memory = moved / gpu.terabytes
    compute = times[slowest]
    return Roof(gpu.name, memory, compute, "memory" if memory >= compute else slowest)
