# SPDX-License-Identifier: BSD-3-Clause
"""The facts of each kernel on each architecture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .flow import Graph
from .hot_loop import SIZES, hot_loop, load_pattern
from .in_flight import asked
from .listing import Code, count, opcode, parse_sass
from .roofline import FP64, GPUS, Roof, roofline
from .toolkit import build, find_nvcc, find_nvdisasm

MANGLED_STORAGE = {"f": "float", "d": "double", "13__nv_bfloat16": "BFloat16", "6__half": "Half"}
# Loads of logits that a thread of `rows` makes at once, or fewer: kLoads. One of `planes` makes a
# multiple of it, of double itself: kPlanesTogether.
UNDER_WAY = 4
# The loads that bring a tile of `few`, and their bytes.
TILE = (r"LDG\S*\.128\b", 16)
TERMS = {
    "0": "indices",
    "1": "smoothed",
    "2": "probabilities",
    "3": "general indices",
    "4": "general probabilities",
}


@dataclass
class Kernel:
    """The facts of one kernel on one architecture."""

    arch: int
    name: str
    storage: str
    registers: int = 0
    spills: int = 0  # bytes, stores and loads
    stack: int = 0
    shared: int = 0
    instructions: int = 0
    ldg128: int = 0
    ldg64: int = 0
    stg128: int = 0
    stg64: int = 0
    local: int = 0
    barriers: int = 0
    shuffles: int = 0
    fp64: int = 0
    loop: int = 0  # instructions of the hot loop
    elements: int = 0  # that it takes in one round
    loop_exp2: int = 0
    loop_fp64: int = 0
    loop_local: int = 0
    loop_wide: int = 0  # instructions of 64-bit index arithmetic
    asked: int = 0  # bytes that a thread asks the memory for before it waits
    roof: Roof | None = None

    @property
    def per_element(self) -> float:
        return self.loop / self.elements if self.elements else 0.0

    @property
    def exp2_per_element(self) -> float:
        return self.loop_exp2 / self.elements if self.elements else 0.0


def readable(mangled: str) -> tuple[str, str, str, str] | None:
    """A kernel's function, storage type, terms and last template argument."""
    found = re.match(
        r"_ZN8fused_ce4cuda\d+([a-z_]+)I(f|d|13__nv_bfloat16|6__half)LNS0_5TermsE(\d)E(?:Li(\d+)E)?E",
        mangled,
    )
    if found is None:
        return None
    return found[1], MANGLED_STORAGE[found[2]], TERMS[found[3]], found[4] or ""


def full_name(function: str, *arguments: str) -> str:
    given = ", ".join(a for a in arguments if a)
    return f"{function}<{given}>" if given else function


def parse_ptxas(log: str) -> dict[str, dict[str, int]]:
    """Registers, spills, stack and shared memory, by mangled name."""
    facts: dict[str, dict[str, int]] = {}
    current: dict[str, int] = {}
    patterns = {
        "stack": r"(\d+) bytes stack frame",
        "stores": r"(\d+) bytes spill stores",
        "loads": r"(\d+) bytes spill loads",
        "registers": r"Used (\d+) registers",
        "shared": r"(\d+) bytes smem",
    }
    for line in log.splitlines():
        if entry := re.search(r"Compiling entry function '(\S+)'", line):
            current = facts.setdefault(entry[1], {})
        for key, pattern in patterns.items():
            if found := re.search(pattern, line):
                current.setdefault(key, int(found[1]))
    return facts


def facts_of(arch: int, mangled: str, code: Code, ptxas: dict[str, int]) -> Kernel | None:
    """Everything that is reported of a kernel."""
    parts = readable(mangled)
    if parts is None:
        return None
    function, storage, terms, parameter = parts
    every = code.instructions
    kernel = Kernel(
        arch,
        full_name(function, terms, parameter),
        storage,
        registers=ptxas.get("registers", 0),
        spills=ptxas.get("stores", 0) + ptxas.get("loads", 0),
        stack=ptxas.get("stack", 0),
        shared=ptxas.get("shared", 0),
        instructions=sum(opcode(i) != "NOP" for i in every),
        ldg128=count(every, r"LDG\S*\.128\b"),
        ldg64=count(every, r"LDG\S*\.64\b"),
        stg128=count(every, r"STG\S*\.128\b"),
        stg64=count(every, r"STG\S*\.64\b"),
        local=count(every, r"(LDL|STL)\b"),
        barriers=count(every, r"BAR\.SYNC"),
        shuffles=count(every, r"SHFL"),
        fp64=count(every, FP64),
    )
    add_loop(kernel, code, *load_pattern(storage, function, parameter))
    return kernel


def add_loop(kernel: Kernel, code: Code, pattern: str, each: int) -> None:
    """The facts of the hot loop."""
    size = SIZES[kernel.storage]
    is_planes = kernel.name.startswith("planes")
    probabilities = "probabilities" in kernel.name
    # Loads of probabilities look like those of logits, which `few` has in shared memory.
    alike = probabilities and not kernel.name.startswith("few")

    def of_logits(loads: int) -> int:
        if is_planes:
            rounds = loads // UNDER_WAY
            return UNDER_WAY * (min(rounds, 1) if size == SIZES["double"] else rounds)
        return min(loads, UNDER_WAY) if alike else loads

    loop, loads = hot_loop(code, pattern, each, size, of_logits)
    if not loop:
        return
    # Planes' weights are loaded one by one; where there are none, loads may be in several blocks.
    counted = (
        loads if alike or (is_planes and "indices" not in kernel.name) else count(loop, pattern)
    )
    kernel.elements = of_logits(counted) * each
    if not kernel.elements:
        return
    kernel.loop = len(loop)
    kernel.loop_exp2 = count(loop, r"MUFU\.EX2")
    kernel.loop_fp64 = count(loop, FP64)
    kernel.loop_local = count(loop, r"(LDL|STL)\b")
    kernel.loop_wide = sum(
        bool(re.search(r"\.X\b|\.WIDE|\.HI\b|\.64\.HI", opcode(i))) for i in loop
    )
    kernel.asked = asked([*loop, *loop], pattern, each * size)
    if kernel.name.startswith("few"):  # it is a tile's copying that asks
        graph = Graph(code)
        blocks = [graph.instructions([block]) for block in range(len(graph.blocks))]
        kernel.asked = max(asked(block, *TILE) for block in blocks)
    moved = size * (1 + ("backward" in kernel.name) + probabilities)
    if kernel.arch in GPUS:
        kernel.roof = roofline(GPUS[kernel.arch], loop, kernel.elements, moved)


def kernels_of(nvcc: Path, nvdisasm: Path, storage: str, arch: int) -> list[Kernel]:
    """Those of one compiled unit."""
    log, sass = build(nvcc, nvdisasm, storage, arch)
    ptxas = parse_ptxas(log)
    found = (
        facts_of(arch, name, code, ptxas.get(name, {})) for name, code in parse_sass(sass).items()
    )
    return sorted((k for k in found if k), key=lambda k: k.name)


def survey(architectures: Sequence[int], storage: Sequence[str], jobs: int = 1) -> list[Kernel]:
    """All kernels of these types for these architectures."""
    nvcc = find_nvcc()
    nvdisasm = find_nvdisasm(nvcc)
    units = [(s, arch) for arch in architectures for s in storage]
    with ThreadPoolExecutor(jobs) as pool:
        parts = pool.map(lambda unit: kernels_of(nvcc, nvdisasm, *unit), units)
        return [kernel for part in parts for kernel in part]
