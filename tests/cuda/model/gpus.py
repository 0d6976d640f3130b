# SPDX-License-Identifier: BSD-3-Clause
"""What public figures say of the GPUs.

Multiprocessors, clocks, bandwidths and throughputs: NVIDIA's data sheets (see sass/roofline.py).
Latencies are of the size that Luo et al., arXiv:2402.13499, report for sm_80, sm_89 and sm_90; they
were not compared with its tables. A B200's are not among them: an H100's and a fifth are taken.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sass.roofline import GPUS, Gpu

# Of the bandwidth that a data sheet names, what copies are known to reach.
REACHED = 0.93
# Bytes that a multiprocessor can take from the cache all share, a clock.
PORT = 64


@dataclass(frozen=True)
class Device:
    """A GPU, and how far away its memory is."""

    gpu: Gpu
    arch: int
    memory_latency: int  # cycles, of an idle memory
    cache_latency: int  # of the cache that all multiprocessors share

    @property
    def name(self) -> str:
        return self.gpu.name

    def bytes_a_cycle(self, multiprocessors: int) -> float:
        """What the memory gives each of so many."""
        total = REACHED * self.gpu.terabytes * 1e3 / self.gpu.ghz
        return min(total / multiprocessors, PORT)

    def microseconds(self, cycles: float) -> float:
        return cycles / self.gpu.ghz / 1e3


DEVICES = [
    Device(GPUS[90], 90, 480, 260),
    Device(replace(GPUS[90], name="H200", terabytes=4.8), 90, 480, 260),
    Device(GPUS[100], 100, 580, 310),
    Device(replace(GPUS[80], name="A100 80 GB", terabytes=2.039), 80, 470, 260),
    Device(GPUS[89], 89, 540, 270),
]
