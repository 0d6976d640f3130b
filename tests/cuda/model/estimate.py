# SPDX-License-Identifier: BSD-3-Clause
"""From a call's launches to its time, and what stands between it and the memory's speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sass.facts import Kernel

from .gpus import Device
from .multiprocessor import (
    BUSY,
    DEPENDENT,
    SCHEDULERS,
    WARP,
    Cached,
    Limits,
    Load,
    Multiprocessor,
    Straight,
)
from .programs import BESIDE, Launch, Shape, Work

# Microseconds from one kernel's end to the next one's first block; before the first as well.
LAUNCH = 1.5
# Cycles from a block's place becoming free to the next block's first instruction.
START = 700
# Registers of a multiprocessor, given to warps in pieces; pieces of shared memory, and what a block
# takes of it besides.
REGISTERS, REGISTERS_PIECE = 65536, 256
SHARED_PIECE, SHARED_BESIDE = 128, 1024


def up(number: int, piece: int) -> int:
    return -(-number // piece) * piece


def occupancy(device: Device, kernel: Kernel, launch: Launch) -> int:
    """Blocks that a multiprocessor has room for."""
    registers = up(kernel.registers * WARP, REGISTERS_PIECE) * launch.warps
    shared = up(kernel.shared + launch.shared, SHARED_PIECE) + SHARED_BESIDE
    return min(
        device.blocks,
        device.threads // launch.threads,
        REGISTERS // registers,
        device.shared // shared,
    )


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
    for step in work.program()(0):
        match step:
            case Load(size, latency):
                cycles += 0 if streams and size == work.round else latency * BUSY
                streams |= size == work.round
            case Cached(latency):
                cycles += latency
            case Straight(instructions, _):
                cycles += DEPENDENT * instructions
    return work.device.microseconds(cycles)


def time(work: Work, resident: int) -> float:
    """Microseconds of a launch."""
    launch, sms = work.launch, work.device.gpu.sms
    share = work.device.bytes_a_cycle(min(launch.blocks, sms))
    limits = Limits(share, work.device.gpu.fp64, resident, START)

    def cycles(blocks: int) -> float:
        return Multiprocessor(limits).run(work.program(), launch.warps, blocks)

    # Some multiprocessors have a block more than others, which leave their bandwidth to them.
    least, more = divmod(launch.blocks, sms)
    longest = cycles(least + (more > 0))
    if least and more:
        shortest = cycles(least)
        longest = shortest + (longest - shortest) * more / sms
    return LAUNCH + work.device.microseconds(longest)


def estimate(device: Device, shape: Shape, launches: Sequence[tuple[Launch, Kernel]]) -> Estimate:
    """Of what a call launches; the first of it reads the logits."""
    works: list[Work] = []
    for launch, kernel in launches:
        # The rows of the kernel that adds up what blocks left are those blocks.
        its = Shape(works[-1].launch.blocks, 1) if launch.function == "total" else shape
        works.append(Work(launch, its, kernel, device))
    resident = [occupancy(device, work.kernel, work.launch) for work in works]
    microseconds = sum(time(work, blocks) for work, blocks in zip(works, resident, strict=True))

    first, blocks = works[0], resident[0]
    passes = 1 + first.launch.writes
    peak = device.gpu.terabytes * 1e3 / device.gpu.ghz / device.gpu.sms  # bytes a cycle
    in_flight = blocks * first.launch.warps * first.round
    moved = shape.rows * (shape.classes * first.size * passes + BESIDE)
    return Estimate(
        blocks,
        first.launch.blocks / (blocks * device.gpu.sms),
        in_flight / 1024,
        SCHEDULERS * first.round * passes / first.slots / peak,
        passes * in_flight / (device.memory_latency * BUSY) / peak,
        serial(first),
        len(works),
        microseconds,
        moved / (device.gpu.terabytes * 1e6) / microseconds,
    )
