# SPDX-License-Identifier: BSD-3-Clause
"""A block, warp after warp. Lanes of a warp go together, those that are behind before others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from sass.occupancy import WARP

from .code import Code, Instruction
from .memory import Memory
from .operations import operation
from .values import Value, bits, decode, encode, literal, width

# Where parameters and shared memory lie: below all global addresses.
PARAMETERS, SHARED = 1 << 20, 1 << 30
# An instruction that is not there: the lane has returned.
GONE = 1 << 30


@dataclass
class Lane:
    registers: dict[str, Value]
    at: int = 0  # the next instruction


@dataclass
class Warp:
    lanes: list[Lane]
    waits: bool = False  # at a barrier
    executed: int = 0  # instructions
    fp64: int = 0  # those of double


@dataclass
class Block:
    """Of a kernel in a grid, with its shared memory."""

    code: Code
    parameters: Sequence[bytes]
    threads: int
    dynamic: int  # bytes of shared memory
    grid: int
    number: int
    memory: Memory
    warps: list[Warp] = field(default_factory=list)
    symbols: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        every = enumerate(self.code.instructions)
        self.barriers = {at for at, i in every if is_barrier(i.opcode)}
        image = bytearray()
        for name, value in zip(self.code.parameters, self.parameters, strict=True):
            image += bytes(-len(image) % 8)
            self.symbols[name] = PARAMETERS + len(image)
            image += value
        self.image = bytes(image)
        end = SHARED
        for name, size in sorted(self.code.shared.items(), key=lambda item: -item[1]):
            self.symbols[name] = end
            end += -(-size // 16) * 16
        self.shared = bytearray(end - SHARED + self.dynamic)

    @property
    def executed(self) -> int:
        """Instructions of all warps."""
        return sum(warp.executed for warp in self.warps)

    def run(self) -> None:
        special = {"%ctaid.x": self.number, "%nctaid.x": self.grid, "%ntid.x": self.threads}
        self.warps = [
            Warp([Lane({**special, "%tid.x": t, "%laneid": t % WARP}) for t in range(w, w + WARP)])
            for w in range(0, self.threads, WARP)
        ]
        while running := [w for w in self.warps if any(lane.at != GONE for lane in w.lanes)]:
            for warp in running:
                warp.waits = False
                while not warp.waits and self.step(warp):
                    pass

    def step(self, warp: Warp) -> bool:
        """One instruction; False where no lane has any."""
        places = {lane.at for lane in warp.lanes} - {GONE}
        if not places:
            return False
        # Who has come to a barrier waits there for the warp's other lanes.
        at = min(places - self.barriers or places)
        instruction = self.code.instructions[at]
        lanes = [lane for lane in warp.lanes if lane.at == at]
        for lane in lanes:
            lane.at += 1
        warp.executed += 1
        warp.fp64 += is_double(instruction.opcode)
        if instruction.guard:
            wanted = not instruction.negated
            lanes = [lane for lane in lanes if bool(lane.registers[instruction.guard]) == wanted]
        name = instruction.opcode.split(".")[0]
        if is_barrier(instruction.opcode):
            if len(lanes) < sum(lane.at != GONE for lane in warp.lanes):
                raise ValueError("a barrier that only a part of a warp has come to")
            warp.waits = True
        elif name == "bra":
            for lane in lanes:
                lane.at = self.code.labels[instruction.operands[-1]]
        elif name in ("ret", "exit"):
            for lane in lanes:
                lane.at = GONE
        elif name == "shfl":
            self.shuffle(instruction, warp, lanes)
        elif name == "vote":
            self.vote(instruction, lanes)
        elif name in MOVES:
            move = getattr(self, MOVES[name])
            for lane in lanes:
                move(instruction, lane)
        elif name not in WITHOUT_RESULT:
            for lane in lanes:
                self.compute(instruction, lane)
        return True

    def value(self, lane: Lane, operand: str) -> Value:
        if operand in lane.registers:
            return lane.registers[operand]
        found = constant(operand)
        return self.symbols[operand] if found is None else found

    def compute(self, instruction: Instruction, lane: Lane) -> None:
        result, *operands = instruction.operands
        if instruction.opcode.startswith("selp"):
            # What is not chosen may never have been written: a vector that a row does not have.
            operands[int(bool(self.value(lane, operands[2])))] = "0"
        to, from_, does = known(instruction.opcode)
        values = [
            decode(v, t) if t else v
            for v, t in zip((self.value(lane, o) for o in operands), from_, strict=False)
        ]
        lane.registers[result] = encode(does(*values), to)

    def shuffle(self, instruction: Instruction, warp: Warp, lanes: Sequence[Lane]) -> None:
        """shfl.sync.bfly.b32 result|valid, value, lane, clamp, members."""
        valid = [o for o in instruction.operands[1:2] if o.startswith("%p")]
        result, value, by, *_ = [o for o in instruction.operands if o not in valid]
        mode = instruction.opcode.split(".")[2]
        source = SHUFFLES[mode]
        before = [bits(self.value(lane, value), "b32") for lane in warp.lanes]
        for lane in lanes:
            own = int(lane.registers["%laneid"])
            other = source(own, int(self.value(lane, by)))
            inside = 0 <= other < WARP
            lane.registers[result] = before[other if inside else own]
            for name in valid:
                lane.registers[name] = int(inside)

    def vote(self, instruction: Instruction, lanes: Sequence[Lane]) -> None:
        """vote.sync.ballot.b32 result, predicate, members; or any."""
        result, predicate, _ = instruction.operands
        name = predicate.removeprefix("!")
        asked = [bool(self.value(lane, name)) == (name == predicate) for lane in lanes]
        mask = sum(
            1 << int(lane.registers["%laneid"]) for lane, a in zip(lanes, asked, strict=True) if a
        )
        for lane in lanes:
            lane.registers[result] = mask if "ballot" in instruction.opcode else int(mask != 0)

    def exchange(self, instruction: Instruction, lane: Lane) -> None:
        """atom.global.add.u64 before, [address], value; or cas with what is expected first."""
        before, operand, *values = instruction.operands
        type_ = instruction.opcode.rsplit(".", 1)[1]
        size, address = width(type_) // 8, self.address(lane, operand)
        found = self.memory.load(address, size)
        first, *then = (bits(self.value(lane, v), type_) for v in values)
        if "cas" in instruction.opcode:
            after = then[0] if found == first else found
        else:
            after = (found + first) % (1 << 8 * size)
        self.memory.store(address, size, after)
        lane.registers[before] = found

    def unpack(self, instruction: Instruction, lane: Lane) -> None:
        *results, operand = instruction.operands
        type_ = instruction.opcode.split(".")[1]
        whole, each = bits(self.value(lane, operand), type_), width(type_) // len(results)
        for k, result in enumerate(results):
            lane.registers[result] = whole >> each * k & ((1 << each) - 1)

    def pack(self, instruction: Instruction, lane: Lane) -> None:
        result, *operands = instruction.operands
        each = width(instruction.opcode.split(".")[1]) // len(operands)
        parts = (bits(self.value(lane, o), f"b{each}") << each * k for k, o in enumerate(operands))
        lane.registers[result] = sum(parts)

    def address(self, lane: Lane, operand: str) -> int:
        base, _, offset = operand.strip("[]").partition("+")
        return int(self.value(lane, base)) + int(offset or 0)

    def load(self, instruction: Instruction, lane: Lane) -> None:
        *results, operand = instruction.operands
        type_ = instruction.opcode.rsplit(".", 1)[1]
        size, address = width(type_) // 8, self.address(lane, operand)
        whole = self.bytes_at(address, size * len(results))
        for k, result in enumerate(results):
            part = whole >> 8 * size * k & ((1 << 8 * size) - 1)
            value = decode(part, type_)
            # A register may be wider than what is loaded, and keeps the sign.
            wide = isinstance(value, int) and value < 0
            lane.registers[result] = int(value) & ((1 << 64) - 1) if wide else value

    def bytes_at(self, address: int, size: int) -> int:
        if address >= SHARED + len(self.shared):
            return self.memory.load(address, size)
        image, base = (self.shared, SHARED) if address >= SHARED else (self.image, PARAMETERS)
        first = address - base
        if address % size or first < 0 or first + size > len(image):
            raise ValueError(f"a load of {size} bytes from {address:#x}")
        return int.from_bytes(image[first : first + size], "little")

    def store(self, instruction: Instruction, lane: Lane) -> None:
        operand, *sources = instruction.operands
        type_ = instruction.opcode.rsplit(".", 1)[1]
        size, address = width(type_) // 8, self.address(lane, operand)
        whole = 0
        for k, source in enumerate(sources):
            whole |= bits(self.value(lane, source), type_) << 8 * size * k
        total = size * len(sources)
        if address >= SHARED + len(self.shared):
            self.memory.store(address, total, whole)
            return
        first = address - SHARED
        if address % total or first < 0:
            raise ValueError(f"a store of {total} bytes to {address:#x}")
        self.shared[first : first + total] = whole.to_bytes(total, "little")


# What a lane does alone, by the method that does it.
MOVES = {"ld": "load", "st": "store", "pack": "pack", "unpack": "unpack", "atom": "exchange"}
# Warps go one after another, and each sees at once what others wrote.
WITHOUT_RESULT = ("bar", "fence", "membar")
SHUFFLES: dict[str, Callable[[int, int], int]] = {
    "bfly": lambda own, by: own ^ by,
    "down": lambda own, by: own + by,
    "up": lambda own, by: own - by,
    "idx": lambda _, by: by % WARP,
}


@lru_cache(None)
def is_barrier(opcode: str) -> bool:
    """Whether all of a block meet there."""
    return opcode.startswith("bar") and "warp" not in opcode


@lru_cache(None)
def is_double(opcode: str) -> bool:
    """Whether the units of double do it."""
    return ".f64" in opcode and not opcode.startswith(("ld", "st", "mov", "pack", "unpack", "selp"))


known = lru_cache(None)(operation)
constant = lru_cache(None)(literal)
