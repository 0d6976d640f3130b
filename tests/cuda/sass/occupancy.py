# SPDX-License-Identifier: BSD-3-Clause
"""How many blocks a multiprocessor has room for.

What it holds: the CUDA programming guide's table of compute capabilities; in which pieces it gives
that away: the toolkit's cuda_occupancy.h.
"""

from __future__ import annotations

from dataclasses import dataclass

WARP = 32
# Of every multiprocessor: schedulers, each with registers of its own, which warps get in pieces.
SCHEDULERS, REGISTERS, REGISTERS_PIECE = 4, 16384, 256


@dataclass(frozen=True)
class Limits:
    """What a multiprocessor holds at once."""

    threads: int
    blocks: int
    shared: int  # KB
    piece: int = 128  # bytes of shared memory
    reserved: int = 1024  # bytes of it that a block takes besides its own


LIMITS = {
    75: Limits(1024, 16, 64, piece=256, reserved=0),
    80: Limits(2048, 32, 164),
    86: Limits(1536, 16, 100),
    89: Limits(1536, 24, 100),
    90: Limits(2048, 32, 228),
    100: Limits(2048, 32, 228),
    120: Limits(1536, 24, 100),
}


def up(number: int, piece: int) -> int:
    return -(-number // piece) * piece


def resident(arch: int, threads: int, registers: int, shared: int) -> int:
    """Blocks of so many threads, registers a thread and bytes of shared memory a block."""
    limits = LIMITS[arch]
    warps = up(threads, WARP) // WARP
    with_registers = SCHEDULERS * (REGISTERS // up(registers * WARP, REGISTERS_PIECE))
    most = min(limits.blocks, limits.threads // (warps * WARP), with_registers // warps)
    taken = up(shared + limits.reserved, limits.piece)
    return min(most, limits.shared * 1024 // taken) if taken else most
