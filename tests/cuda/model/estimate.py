# SPDX-License-Identifier: BSD-3-Clause
"""From a call's launches to its time, and what stands between it and the memory's speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sass.occupancy import SCHEDULERS

from .multiprocessor import BUSY, DEPENDENT, Cached, Limits, Load, Multiprocessor, Straight
from .programs import BESIDE, program
from .work import Work

# Microseconds from one kernel's end to the next one's first block; before the first as well.
LAUNCH = 1.5
# What the last block adds up for a mean, the losses and the weights: so many sums of tiles are read
# at once by its threads, and added to one after another, those of a warp in so many steps.
MEAN_SUMS, TILES_AT_ONCE, SHUFFLED, DEPENDENT_FP64 = 2, 1024, 5, 8
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
    best: float  # reached if there were launches, a block's serial time and the memory's alone


def serial(work: Work) -> float:
    """Microseconds that a block's first warp spends one thing after another, in its first turn.

    Of the rounds of whole vectors the first one's latency: the others hide behind each other.
    """
    cycles, streams = float(START), False
    one_turn = replace(work, launch=replace(work.launch, persistent=False))
    for step in program(one_turn)(0, 0):
        match step:
            case Load(size, latency):
                is_whole = size >= work.first * work.round
                cycles += 0 if streams and is_whole else latency * BUSY
                streams |= is_whole
            case Cached(latency):
                cycles += latency
            case Straight(instructions, _):
                cycles += DEPENDENT * instructions
    return work.device.microseconds(cycles)


def time(work: Work) -> float:
    """Microseconds of a launch."""
    launch, sms = work.launch, work.device.gpu.sms
    share = work.device.bytes_a_cycle(min(work.blocks, sms))
    limits = Limits(share, work.device.gpu.fp64, work.resident, START)

    def cycles(multiprocessor: int) -> float:
        blocks = range(multiprocessor, work.blocks, sms)
        return Multiprocessor(limits).run(program(work), launch.warps, blocks)

    # The first multiprocessors have a turn more than others, which leave their bandwidth to them.
    least, more = divmod(launch.blocks, sms)
    longest = cycles(0)
    if least and more:
        shortest = cycles(sms - 1)
        longest = shortest + (longest - shortest) * more / sms
    return LAUNCH + work.device.microseconds(longest + totals(work))


def totals(work: Work) -> float:
    """Cycles in which the last block adds up the sums of all tiles (totals.cuh)."""
    launch = work.launch
    if launch.writes or launch.function == "slices_forward":
        return 0
    reads = -(-launch.blocks // TILES_AT_ONCE)
    additions = -(-launch.blocks // launch.threads) + SHUFFLED + launch.warps
    return MEAN_SUMS * (reads * work.device.cache_latency + DEPENDENT_FP64 * additions)


def estimate(works: Sequence[Work]) -> Estimate:
    """Of what a call launches; the first of it reads the logits."""
    microseconds = sum(time(work) for work in works)

    first = works[0]
    device, shape = first.device, first.shape
    passes = 1 + first.launch.writes
    peak = device.gpu.terabytes * 1e3 / device.gpu.ghz / device.gpu.sms  # bytes a cycle
    moved = shape.rows * (shape.classes * first.size * passes + BESIDE)
    alone = serial(first)
    memory = moved / (device.bytes_a_cycle(device.gpu.sms) * device.gpu.sms)
    least = device.microseconds(memory) + len(works) * LAUNCH + alone

    def part(microseconds: float) -> float:
        return moved / (device.gpu.terabytes * 1e6) / microseconds

    return Estimate(
        first.resident,
        first.launch.blocks / (first.resident * device.gpu.sms),
        first.in_flight / 1024,
        SCHEDULERS * first.round * passes / first.slots / peak,
        passes * first.in_flight / (device.memory_latency * BUSY) / peak,
        alone,
        len(works),
        microseconds,
        part(microseconds),
        part(least),
    )
