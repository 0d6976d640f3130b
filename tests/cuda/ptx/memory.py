# SPDX-License-Identifier: BSD-3-Clause
"""What a kernel finds in memory: logits and targets that are made up, and what it left there."""

from __future__ import annotations

from .values import bits

# As model/recorder has them: what lies in which region, from its first address on.
REGION = 1 << 40
LOGITS, TARGET, ROW_LOSS = 1, 2, 6


class Memory:
    """Bytes by address, 0 where nothing was written."""

    def __init__(self, storage: str, classes: int) -> None:
        self.type = {"float": "f32", "double": "f64", "BFloat16": "bf16", "Half": "f16"}[storage]
        self.classes = classes
        self.read: set[int] = set()  # logits, as many-th
        self.written: dict[int, int] = {}

    def logit(self, i: int) -> int:
        """Of about a normal distribution's spread; never the same from row to row."""
        self.read.add(i)
        return bits((i * 2654435761 % 8191) / 1024 - 4, self.type)

    def load(self, address: int, size: int) -> int:
        region, offset = divmod(address, REGION)
        if address % size or not region:
            raise ValueError(f"a load of {size} bytes from {address:#x}")
        if region == LOGITS:
            each = int(self.type[-2:]) // 8
            return sum(self.logit((offset + k) // each) << 8 * k for k in range(0, size, each))
        if region == TARGET:
            return offset // size * 40503 % self.classes
        return sum(self.written.get(address + k, 0) << 8 * k for k in range(size))

    def store(self, address: int, size: int, value: int) -> None:
        if address % size or address < REGION:
            raise ValueError(f"a store of {size} bytes to {address:#x}")
        for k, byte in enumerate(value.to_bytes(size, "little")):
            self.written[address + k] = byte
