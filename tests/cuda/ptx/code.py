# SPDX-License-Identifier: BSD-3-Clause
"""What nvcc -ptx prints, as instructions."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Around statements and operands; braces are of scopes and of vectors.
BLANK = " \n\t{}"


@dataclass(frozen=True)
class Instruction:
    """`@!%p1 setp.lt.s32 %p2, %r1, 7` is guarded by %p1 being false.

    A move is called unpack where its result is a vector, and pack where that is what it takes.
    """

    guard: str
    negated: bool
    opcode: str
    operands: tuple[str, ...]


@dataclass
class Code:
    """A kernel."""

    parameters: list[str]
    shared: dict[str, int]  # bytes of each array
    instructions: list[Instruction]
    labels: dict[str, int]


def operands_of(text: str) -> tuple[str, ...]:
    """Those of vectors one by one: `{%r1, %r2}, [%rd1+8]`."""
    parts = (part.strip(BLANK) for part in re.split(r"[,|]", text))
    return tuple(part for part in parts if part)


def parse_body(body: str) -> tuple[list[Instruction], dict[str, int]]:
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for statement in body.split(";"):
        text = statement.strip(BLANK)
        while label := re.match(r"(\$\w+):", text):
            labels[label[1]] = len(instructions)
            text = text[label.end() :].strip(BLANK)
        if not text or text.startswith("."):
            continue
        found = re.match(r"(?:@(!?)(%p\d+)\s+)?([\w.:]+)\s*(.*)", text, re.DOTALL)
        if found is None:
            raise ValueError(f"not an instruction: {text}")
        negated, guard, opcode, rest = found.groups()
        if opcode.startswith("mov") and "{" in rest:
            opcode = opcode.replace("mov", "unpack" if rest.startswith("{") else "pack")
        instructions.append(Instruction(guard or "", negated == "!", opcode, operands_of(rest)))
    return instructions, labels


def parse_ptx(text: str) -> dict[str, Code]:
    """Its kernels, by mangled name."""
    text = re.sub(r"//.*", "", text)
    sizes = re.compile(r"\.shared \.align \d+ \.b8 (\w+)\[(\d*)\]")
    before = text.split(".visible .entry", 1)[0]
    everyone = {name: int(size or 0) for name, size in sizes.findall(before)}
    kernels: dict[str, Code] = {}
    for entry in text.split(".visible .entry ")[1:]:
        head, _, body = entry.partition("\n{")
        name = re.match(r"\w+", head)
        assert name
        own = {array: int(size or 0) for array, size in sizes.findall(body)}
        parameters = re.findall(r"\.param .*?(\w+)(?:\[\d+\])?(?=,|\s*\))", head)
        kernels[name[0]] = Code(parameters, everyone | own, *parse_body(body))
    return kernels
