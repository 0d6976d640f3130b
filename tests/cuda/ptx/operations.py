# SPDX-License-Identifier: BSD-3-Clause
"""What an opcode makes of the values of a lane: those that the kernels have, and no others."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .values import Value, decode, to_zero, width

Operation = Callable[..., Value]


def quotient(a: float, b: float) -> float:
    if b:
        return a / b
    return math.nan if not a or math.isnan(a) else math.copysign(math.inf, a) * math.copysign(1, b)


def whole_quotient(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1) if b else -1


def power_of_two(a: float) -> float:
    return math.inf if a >= 1024 else 2.0**a


def number(choose: Callable[[float, float], float]) -> Operation:
    """Of two, or the one that is no NaN."""
    return lambda a, b: b if a != a else a if b != b else choose(a, b)


def nearest(a: float) -> float:
    return float(round(a)) if math.isfinite(a) else a


COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b and a == a and b == b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "num": lambda a, b: a == a and b == b,
    "nan": lambda a, b: a != a or b != b,
    "equ": lambda a, b: not (a < b or a > b),
    "neu": lambda a, b: a != b,
    "ltu": lambda a, b: not a >= b,
    "leu": lambda a, b: not a > b,
    "gtu": lambda a, b: not a <= b,
    "geu": lambda a, b: not a < b,
}
FLOATS: dict[str, Operation] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "fma": lambda a, b, c: a * b + c,
    "mad": lambda a, b, c: a * b + c,
    "div": quotient,
    "rcp": lambda a: quotient(1.0, a),
    "neg": lambda a: -a,
    "abs": abs,
    "min": number(min),
    "max": number(max),
    "copysign": lambda a, b: math.copysign(b, a),
    "ex2": power_of_two,
    "lg2": lambda a: math.log2(a) if a > 0 else -math.inf if a == 0 else math.nan,
}
INTEGERS: dict[str, Operation] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "mad": lambda a, b, c: a * b + c,
    "div": whole_quotient,
    "rem": lambda a, b: a - whole_quotient(a, b) * b,
    "neg": lambda a: -a,
    "abs": abs,
    "min": min,
    "max": max,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "not": lambda a: ~a,
    "shl": lambda a, b: a << min(b, 64),
    "shr": lambda a, b: a >> min(b, 64),
    "popc": lambda a: a.bit_count(),
}


def conversion(parts: list[str]) -> tuple[str, Operation]:
    """cvt.rzi.s32.f32: to the first type, from the second."""
    to, from_ = parts[-2:]

    def convert(a: Value) -> Value:
        found = decode(a, from_)
        if isinstance(found, float) and to[0] != "f" and to != "bf16":
            if not math.isfinite(found):
                return 0 if found != found else (1 << width(to) - 1) - (found > 0)
            return int(nearest(found) if "rni" in parts else found)
        if "rni" in parts:
            return nearest(float(found))
        return found

    return to, convert


def operation(opcode: str) -> tuple[str, list[str], Operation]:
    """The type of what it leaves, those of what it takes, and what it does."""
    name, *parts = opcode.split(".")
    type_ = parts[-1] if parts else ""
    if name == "cvt":
        to, convert = conversion(parts)
        return to, [""], convert
    if name in ("mov", "cvta"):
        return type_, [type_], lambda a: a
    if name == "selp":
        return type_, [type_, type_, "pred"], lambda a, b, p: a if p else b
    if name == "setp":
        return "pred", [type_] * 2, COMPARISONS[parts[0]]
    if type_[0] != "f":
        return whole(name, parts, type_)
    does = FLOATS[name]
    if "rz" in parts:
        return type_, [type_] * 3, lambda *values: to_zero(does(*values))
    if "sat" in parts:
        return type_, [type_] * 3, lambda *values: min(max(does(*values), 0.0), 1.0)
    return type_, [type_] * 3, does


def whole(name: str, parts: list[str], type_: str) -> tuple[str, list[str], Operation]:
    """Of integers and predicates."""
    does = INTEGERS[name]
    if name in ("shl", "shr"):
        return type_, [type_, "u32"], does
    if "wide" in parts:
        wide = f"{type_[0]}{2 * width(type_)}"
        return wide, [type_, type_, wide], does
    if "hi" in parts:
        return type_, [type_] * 2, lambda a, b: a * b >> width(type_)
    return type_, [type_] * 3, does
