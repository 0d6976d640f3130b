# SPDX-License-Identifier: BSD-3-Clause
"""From a call's launches to its time, and what stands between it and the memory's speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sass.facts import Kernel
from sass.occupancy import SCHEDULERS

from .gpus import Device
from .multiprocessor import BUSY, DEPENDENT, Cached, Limits, Load, Multiprocessor, Straight
from .programs import BESIDE, program
from .work import Launch, Shape, Work

# Microseconds from one kernel's end to the next one's first block; before the first as well.
LAUNCH = 1.5
# Cycles from a block's place becoming free to the next block's first instruction.
START = 700


@dataclass(frozen=True)
class Estimate:
    """Of one call. `issue` and `latency` are bounds, as parts of the data sheet's bandwidth."""

    blocks: int  # a multiprocessor has at once
    waves: float
    in_flight: float  # KB of a multiprocessor, when all of its threads wait for logits
    issue: float  # what the schedulers, or the slowest pipe, allow
    latency: float  # what so much in flight allows
    serial: float  # microseconds of a block in which it reads no more than a vector at a time
    launches: int
    microseconds: float
    reached: float


def serial(work: Work) -> float:
    """Microseconds that a block's first warp spends one thing after another.

    Of the rounds of whole vectors the first one's latency: the others hide behind each other.
    """
    cycles, streams = float(START), False
    for step in program(work)(0, 0):
        match step:
            case Load(size, latency):
                cycles += 0 if streams and size == work.round else latency * BUSY
                streams |= size == work.round
            case Cached(latency):
                cycles += latency
            case Straight(instructions, _):
                cycles += DEPENDENT * instructions
    return work.device.microseconds(cycles)


def time(work: Work) -> float:
    """Microseconds of a launch."""
    launch, sms = work.launch, work.device.gpu.sms
    share = work.device.bytes_a_cycle(min(launch.blocks, sms))
    limits = Limits(share, work.device.gpu.fp64, work.resident, START)

    def cycles(multiprocessor: int) -> float:
        blocks = range(multiprocessor, launch.blocks, sms)
        return Multiprocessor(limits).run(program(work), launch.warps, blocks)

    # The first multiprocessors have a block more than others, which leave their bandwidth to them.
    least, more = divmod(launch.blocks, sms)
    longest = cycles(0)
    if least and more:
        shortest = cycles(sms - 1)
        longest = shortest + (longest - shortest) * more / sms
    return LAUNCH + work.device.microseconds(longest)


def estimate(device: Device, shape: Shape, launches: Sequence[tuple[Launch, Kernel]]) -> Estimate:
    """Of what a call launches; the first of it reads the logits."""
    works: list[Work] = []
    for launch, kernel in launches:
        # The rows of the kernel that adds up what blocks left are those blocks.
        its = Shape(works[-1].launch.blocks, 1) if launch.function == "total" else shape
        works.append(Work(launch, its, kernel, device))
    microseconds = sum(time(work) for work in works)

    first = works[0]
    passes = 1 + first.launch.writes
    peak = device.gpu.terabytes * 1e3 / device.gpu.ghz / device.gpu.sms  # bytes a cycle
    moved = shape.rows * (shape.classes * first.size * passes + BESIDE)
    return Estimate(
        first.resident,
        first.launch.blocks / (first.resident * device.gpu.sms),
        first.in_flight / 1024,
        SCHEDULERS * first.round * passes / first.slots / peak,
        passes * first.in_flight / (device.memory_latency * BUSY) / peak,
        serial(first),
        len(works),
        microseconds,
        moved / (device.gpu.terabytes * 1e6) / microseconds,
    )
