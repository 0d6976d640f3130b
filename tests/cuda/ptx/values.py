# SPDX-License-Identifier: BSD-3-Clause
"""What registers hold: floating point as float, everything else as the bits, an int."""

from __future__ import annotations

import math
import struct
from ctypes import c_float

Value = int | float


def width(type_: str) -> int:
    """Bits of s32, b64, ..."""
    return 1 if type_ == "pred" else 16 if type_ == "bf16" else int(type_[1:])


def bits(value: Value, type_: str) -> int:
    """Of a value of this type."""
    if isinstance(value, int):
        return value & ((1 << width(type_)) - 1)
    if type_ == "bf16":
        exact: int = struct.unpack("<I", struct.pack("<f", value))[0]
        return (exact + 0x7FFF + (exact >> 16 & 1)) >> 16 if math.isfinite(value) else exact >> 16
    packed: bytes = struct.pack({16: "<e", 32: "<f", 64: "<d"}[width(type_)], value)
    return int.from_bytes(packed, "little")


def decode(value: Value, type_: str) -> Value:
    """What an operation of this type finds in a register."""
    kind = type_[0]
    if type_ == "bf16":
        return decode(bits(value, "b16") << 16, "f32")
    if kind == "f":
        if isinstance(value, float):
            return value
        size = width(type_) // 8
        found: float = struct.unpack(
            {2: "<e", 4: "<f", 8: "<d"}[size], value.to_bytes(size, "little")
        )[0]
        return found
    whole = bits(value, type_) if isinstance(value, int) else bits(value, f"f{width(type_)}")
    negative = kind == "s" and whole >> (width(type_) - 1)
    return whole - (1 << width(type_)) if negative else whole


def rounded(value: float, type_: str) -> float:
    return c_float(value).value if type_ == "f32" else value


def to_zero(value: float) -> float:
    """As a float, no further from zero."""
    near = c_float(value).value
    if abs(near) <= abs(value):
        return near
    return float(decode(bits(near, "f32") - 1, "f32"))


def encode(value: Value, type_: str) -> Value:
    """What an operation of this type leaves in a register."""
    if type_ in ("bf16", "f16"):
        return bits(float(value), type_)
    if type_[0] == "f":
        return rounded(float(value), type_)
    return int(value) & ((1 << width(type_)) - 1)


def literal(text: str) -> Value | None:
    """0f3F800000, 0d3FF0000000000000, -7, 0x1F."""
    if text[:2] in ("0f", "0F") and len(text) == 10:
        return decode(int(text[2:], 16), "f32")
    if text[:2] in ("0d", "0D") and len(text) == 18:
        return decode(int(text[2:], 16), "f64")
    return int(text, 0) if text.lstrip("-")[:1].isdigit() else None
