"""What nvcc made of the CUDA kernels: registers, spills, and the machine code of their hot loops.

No GPU is needed: nvcc compiles kernels/cuda for each architecture, ptxas tells what it used, and
nvdisasm prints the instructions. `make cuda-report` calls this; tests/python/test_sass.py compares
a selection with expected.json.

A kernel's hot loop is the shortest way round the loop of exponentials that has most of its vector
loads, which is the way of a row's whole vectors where no optional input is there. What it costs is
counted, and compared with what a GPU can issue and read: an estimate, from data sheets, of what
bounds it.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "build" / "sass"
ARCHITECTURES = [75, 80, 86, 89, 90, 100, 120]
QUICK_ARCHITECTURES = [80, 90, 100]
# As kernels.cu is compiled for each: its name in types.cuh, and the namespace of its code.
STORAGE = {
    "float": "of_float",
    "double": "of_double",
    "BFloat16": "of_bfloat16",
    "Half": "of_half",
}
QUICK_STORAGE = ["float", "BFloat16"]
SIZES = {"float": 4, "double": 8, "BFloat16": 2, "Half": 2}
MANGLED_STORAGE = {"f": "float", "d": "double", "13__nv_bfloat16": "BFloat16", "6__half": "Half"}
TERMS = {"0": "indices", "1": "linear"}


# ---- The toolkit ---------------------------------------------------------------------------------


class MissingToolError(RuntimeError):
    """Nothing to compile or to disassemble with."""


def find_nvcc() -> Path:
    """nvcc of PATH, CUDA_HOME or /usr/local/cuda."""
    on_path = shutil.which("nvcc")
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    candidates = [Path(home) / "bin" / "nvcc" for home in homes if home]
    for path in [Path(on_path)] if on_path else candidates:
        if path.exists():
            return path
    raise MissingToolError("no nvcc: put it on PATH, or name its toolkit with CUDA_HOME")


def find_nvdisasm(nvcc: Path) -> Path:
    """nvdisasm of NVDISASM, PATH, the toolkit, or the venv that `make cuda-report` makes."""
    named = os.environ.get("NVDISASM") or shutil.which("nvdisasm")
    candidates = [Path(named)] if named else []
    candidates.append(nvcc.resolve().parent / "nvdisasm")
    venv = ROOT / "build" / "nvdisasm-venv"
    candidates += sorted(venv.glob("lib/python*/site-packages/nvidia/*/bin/nvdisasm"))
    for path in candidates:
        if path.exists():
            return path
    raise MissingToolError("no nvdisasm: `make cuda-report` installs it, or name it with NVDISASM")


def sources_digest() -> str:
    """Of everything that a kernel is compiled from."""
    digest = hashlib.sha256()
    folder = ROOT / "kernels"
    for path in sorted([folder / "problem.h", *(folder / "cuda").iterdir()]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def run(command: Sequence[str | Path]) -> tuple[str, str]:
    """Its stdout and stderr."""
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if result.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{result.stdout}{result.stderr}")
    return result.stdout, result.stderr


def compile_unit(nvcc: Path, storage: str, arch: int, cubin: Path) -> str:
    """kernels.cu for a storage type, or launch.cu for the type `none`; what ptxas said."""
    command: list[str | Path] = [nvcc, "-std=c++20", "-O3", "--expt-relaxed-constexpr", "-I."]
    command += [f"-arch=sm_{arch}", "-cubin", "-Xptxas", "-v", "-o", cubin]
    if storage == "none":
        return run([*command, "kernels/cuda/launch.cu"])[1]
    command += [f"-DFUSED_CE_STORAGE={storage}", f"-DFUSED_CE_STORAGE_NAME={STORAGE[storage]}"]
    return run([*command, "kernels/cuda/kernels.cu"])[1]


def build(nvcc: Path, nvdisasm: Path, storage: str, arch: int) -> tuple[str, str]:
    """What ptxas said and nvdisasm printed; kept in build/sass until a source changes."""
    version = hashlib.sha256(run([nvcc, "--version"])[0].encode()).hexdigest()[:8]
    stem = CACHE / f"{sources_digest()}-{version}" / f"{storage}.sm_{arch}"
    log, sass = stem.with_name(stem.name + ".log"), stem.with_name(stem.name + ".sass")
    if not (log.exists() and sass.exists()):
        stem.parent.mkdir(parents=True, exist_ok=True)
        cubin = stem.with_name(stem.name + ".cubin")
        log.write_text(compile_unit(nvcc, storage, arch, cubin))
        partial = stem.with_name(stem.name + ".partial")
        partial.write_text(run([nvdisasm, "-c", cubin])[0])
        partial.rename(sass)
        cubin.unlink()
    return log.read_text(), sass.read_text()


# ---- Machine code --------------------------------------------------------------------------------


@dataclass
class Code:
    """The instructions of a kernel, and the labels of those that are jumped to."""

    instructions: list[str]
    labels: dict[str, int]


def parse_sass(text: str) -> dict[str, Code]:
    """The kernels that nvdisasm -c printed, by mangled name."""
    kernels: dict[str, Code] = {}
    code = Code([], {})
    for line in text.splitlines():
        if section := re.match(r"\s*\.section\s+(\S+?),", line):
            code = Code([], {})
            if (name := section[1].strip('"')).startswith(".text."):
                kernels[name.removeprefix(".text.")] = code
        elif label := re.match(r"(\.L_x_\d+):", line):
            code.labels[label[1]] = len(code.instructions)
        elif instruction := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", line):
            code.instructions.append(instruction[1].lstrip("{ "))
    return kernels


def opcode(instruction: str) -> str:
    """The name and modifiers, without a predicate."""
    return re.sub(r"^@!?U?P\w+\s+", "", instruction).split(" ", 1)[0]


def successors(code: Code) -> list[list[int]]:
    """Where control may go from each instruction. Calls return."""
    result: list[list[int]] = []
    barriers: dict[str, str] = {}
    targets = set(code.labels.values())
    for i, instruction in enumerate(code.instructions):
        name = opcode(instruction).split(".")[0]
        labels = re.findall(r"\.L_x_\d+", instruction)
        after = [i + 1] if i + 1 < len(code.instructions) else []
        goes_on = instruction.startswith("@")
        if name in ("BRA", "BRX", "JMP"):
            # "BRA P1, L" and "BRA.DIV UR4, L" are conditional as well
            goes_on |= bool(re.search(r"BRA\S*\s+!?U?[PR]", instruction))
            after = [code.labels[t] for t in labels if t in code.labels] + after * goes_on
        elif name in ("EXIT", "RET", "BPT", "KILL"):
            after = after * goes_on
        elif name == "BSSY" and labels:
            barriers[barrier_of(instruction)] = labels[0]
        elif name == "BSYNC" and i + 1 not in targets:
            label = barriers.get(barrier_of(instruction), "")
            after = [code.labels[label]] * (label in code.labels) + after * goes_on
        result.append(after)
    return result


def barrier_of(instruction: str) -> str:
    found = re.search(r"\bB\d+\b", instruction)
    return found[0] if found else ""


def blocks_of(code: Code, edges: list[list[int]]) -> list[range]:
    """The basic blocks."""
    starts = {0, *code.labels.values()}
    for i, after in enumerate(edges):
        if after != [i + 1]:
            starts |= {i + 1, *after}
    cuts = sorted(s for s in starts if s < len(code.instructions))
    ends = [*cuts[1:], len(code.instructions)]
    return [range(a, b) for a, b in zip(cuts, ends, strict=True)]


class Graph:
    """The basic blocks of a kernel."""

    def __init__(self, code: Code) -> None:
        edges = successors(code)
        self.code = code
        self.blocks = blocks_of(code, edges)
        number = {block.start: b for b, block in enumerate(self.blocks)}
        self.after = [[number[t] for t in edges[block.stop - 1]] for block in self.blocks]

    def cycle(self, block: int) -> list[int] | None:
        """The blocks of the shortest way from a block round to itself."""
        queue = [(0, block, [block])]
        seen: set[int] = set()
        while queue:
            length, at, way = heapq.heappop(queue)
            for then in self.after[at]:
                if then == block:
                    return way
                if then not in seen:
                    seen.add(then)
                    cost = length + len(self.blocks[then])
                    heapq.heappush(queue, (cost, then, [*way, then]))
        return None

    def instructions(self, way: Sequence[int]) -> list[str]:
        return [self.code.instructions[i] for block in way for i in self.blocks[block]]


def load_pattern(storage: str, function: str, parameter: str) -> tuple[str, int]:
    """The loads of logits that a kernel of these template arguments is written to make.

    As a pattern of opcodes, and the logits in one. `few` computes from its tile in shared memory.
    """
    size = SIZES[storage]
    if function.startswith("few"):
        return r"LDS\b(?!.*\.128)", 1
    if not function.startswith("planes"):
        return r"LDG\S*\.128\b", 16 // size
    bits = 8 * size * int(parameter)
    widths = {16: r"\.U16\b", 32: r"(?!.*\.(U8|U16|64|128)\b)", 64: r".*\.64\b", 128: r".*\.128\b"}
    return rf"LDG\.E{widths[bits]}", int(parameter)


# What a loop of exponentials has at least one of for each.
EXPONENTIAL = {2: r"MUFU\.EX2", 4: r"FFMA\b", 8: r"DFMA\b"}


def hot_loop(code: Code, pattern: str, each: int, size: int) -> list[str]:
    """The shortest way round a loop of exponentials, from those with the most loads in a block."""
    graph = Graph(code)
    loads = [count(graph.instructions([b]), pattern) for b in range(len(graph.blocks))]
    for most in sorted(set(loads) - {0}, reverse=True):
        ways = [graph.cycle(b) for b, n in enumerate(loads) if n == most]
        loops = [graph.instructions(way) for way in ways if way]
        computing = [
            loop for loop in loops if count(loop, EXPONENTIAL[size]) >= each * count(loop, pattern)
        ]
        if computing:
            return min(computing, key=len)
    return []


def count(instructions: Sequence[str], pattern: str) -> int:
    return sum(bool(re.match(pattern, opcode(i))) for i in instructions)


# ---- What bounds a kernel ------------------------------------------------------------------------


@dataclass(frozen=True)
class Gpu:
    """From NVIDIA's data sheets and the throughput table of the CUDA programming guide."""

    name: str
    sms: int
    ghz: float
    terabytes: float  # a second
    # Lanes an SM and clock; every scheduler issues a warp's 32 lanes a clock.
    fma: int
    fp64: int
    issue: int = 128
    alu: int = 64
    special: int = 16


GPUS = {
    75: Gpu("T4", 40, 1.59, 0.32, fma=64, fp64=2),
    80: Gpu("A100", 108, 1.41, 1.555, fma=64, fp64=32),
    90: Gpu("H100", 132, 1.755, 3.35, fma=128, fp64=64),
    100: Gpu("B200", 148, 1.85, 8.0, fma=128, fp64=64),
}
FMA = r"(FFMA|FMUL|FADD|IMAD|HADD2|HFMA2|HMUL2)\b"
ALU = r"(FSETP|FSEL|FMNMX|ISETP|SEL|LOP3|SHF|PRMT|IADD3|LEA|IMNMX|VIMNMX|F2FP|PLOP3|MOV|SGXT)\b"
FP64 = r"D(ADD|MUL|FMA|SETP|MNMX)\b|F2F\S*F64|I2F\.F64"


@dataclass(frozen=True)
class Roof:
    """Microseconds for a million elements, and what takes the longest."""

    gpu: str
    memory: float
    compute: float
    bound: str

    @property
    def headroom(self) -> float:
        """Below 1 where the memory waits for the instructions."""
        return self.memory / self.compute if self.compute else float("inf")


def roofline(gpu: Gpu, loop: Sequence[str], elements: int, moved: int) -> Roof:
    """Of a loop that moves so many bytes an element."""
    lanes = {
        "issue": (len(loop), gpu.issue),
        "FMA": (count(loop, FMA), gpu.fma),
        "ALU": (count(loop, ALU), gpu.alu),
        "MUFU": (count(loop, r"MUFU"), gpu.special),
        "FP64": (count(loop, FP64), gpu.fp64),
    }
    clock = gpu.sms * gpu.ghz * elements / 1e3
    times = {pipe: n / width / clock for pipe, (n, width) in lanes.items()}
    slowest = max(times, key=lambda pipe: times[pipe])
    memory = moved / gpu.terabytes
    compute = times[slowest]
    return Roof(gpu.name, memory, compute, "memory" if memory >= compute else slowest)


# ---- Kernels -------------------------------------------------------------------------------------


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
    if found:
        return found[1], MANGLED_STORAGE[found[2]], TERMS[found[3]], found[4] or ""
    return ("total", "none", "", "") if "4cuda5totalE" in mangled else None


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
    arguments = ", ".join(p for p in (terms, parameter) if p)
    every = code.instructions
    kernel = Kernel(
        arch,
        f"{function}<{arguments}>" if arguments else function,
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
    if storage != "none":
        add_loop(kernel, code, *load_pattern(storage, function, parameter))
    return kernel


def add_loop(kernel: Kernel, code: Code, pattern: str, each: int) -> None:
    """The facts of the hot loop."""
    size = SIZES[kernel.storage]
    loop = hot_loop(code, pattern, each, size)
    if not loop:
        return
    kernel.loop = len(loop)
    kernel.elements = count(loop, pattern) * each
    kernel.loop_exp2 = count(loop, r"MUFU\.EX2")
    kernel.loop_fp64 = count(loop, FP64)
    kernel.loop_local = count(loop, r"(LDL|STL)\b")
    kernel.loop_wide = sum(
        bool(re.search(r"\.X\b|\.WIDE|\.HI\b|\.64\.HI", opcode(i))) for i in loop
    )
    moved = size * (2 if "backward" in kernel.name else 1)
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


# ---- Reports -------------------------------------------------------------------------------------

HEADER = [
    "type", "kernel", "registers", "spills", "stack", "shared", "LDG.128/64", "STG.128/64", "local",
    "barriers", "shuffles", "FP64", "loop", "instructions/element", "EX2/element", "memory/compute",
    "bound",
]  # fmt: skip


LEGEND = """\
Generated by `tests/cuda/sass.py` (`make cuda-report`); no GPU was used. Spills, stack and shared
memory are bytes; loads, stores, local accesses, barriers, shuffles and FP64 are instructions of
the whole kernel (FP64: in brackets those of the hot loop). The hot loop is the shortest way round
a loop of exponentials: no weights, class indices. `few` computes from a tile in shared memory:
its loop is the one over a row's classes, without the tile's copying. memory/compute is the time
that the loop's global memory takes at the data sheet's bandwidth over that of its instructions at
full issue: above 1, memory bounds it.
"""


def cells(kernel: Kernel) -> list[str]:
    """A line of a report."""
    roof = kernel.roof
    return [
        kernel.storage,
        kernel.name,
        *map(str, (kernel.registers, kernel.spills, kernel.stack, kernel.shared)),
        f"{kernel.ldg128}/{kernel.ldg64}",
        f"{kernel.stg128}/{kernel.stg64}",
        *map(str, (kernel.local, kernel.barriers, kernel.shuffles)),
        f"{kernel.fp64} ({kernel.loop_fp64})",
        f"{kernel.loop}/{kernel.elements}",
        f"{kernel.per_element:.1f}",
        f"{kernel.exp2_per_element:.1f}",
        f"{roof.headroom:.2f}" if roof else "",
        roof.bound if roof else "",
    ]


def table(kernels: Sequence[Kernel]) -> Iterator[str]:
    """Plain text, a section for each architecture."""
    for arch in dict.fromkeys(k.arch for k in kernels):
        rows = [HEADER, *(cells(k) for k in kernels if k.arch == arch)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        yield f"sm_{arch}{' on ' + GPUS[arch].name if arch in GPUS else ''}"
        for row in rows:
            yield "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        yield ""


def markdown(kernels: Sequence[Kernel]) -> Iterator[str]:
    """The same as markdown, with what the columns mean."""
    yield LEGEND
    for arch in dict.fromkeys(k.arch for k in kernels):
        yield f"### sm_{arch}{' (' + GPUS[arch].name + ')' if arch in GPUS else ''}"
        yield ""
        yield f"| {' | '.join(HEADER)} |"
        yield f"| {' | '.join('---' for _ in HEADER)} |"
        for kernel in kernels:
            if kernel.arch == arch:
                storage, name, *numbers = cells(kernel)
                yield f"| {' | '.join([storage, f'`{name}`', *numbers])} |"
        yield ""


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--arch", nargs="+", type=int, help="75, 90, ...; default: all")
    parser.add_argument(
        "--storage", nargs="+", choices=[*STORAGE, "none"], help="none: launch.cu; default: all"
    )
    parser.add_argument("--quick", action="store_true", help="three architectures, two types")
    parser.add_argument("--jobs", type=int, default=1, help="compilers at once; default 1")
    parser.add_argument("--markdown", type=Path, help="write the tables there as well")
    parser.add_argument("--json", type=Path, help="write the facts there as well")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    options = parse_arguments(arguments)
    architectures = options.arch or (QUICK_ARCHITECTURES if options.quick else ARCHITECTURES)
    storage = options.storage or (QUICK_STORAGE if options.quick else [*STORAGE, "none"])
    try:
        kernels = survey(architectures, storage, options.jobs)
    except MissingToolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(table(kernels)))
    if options.markdown:
        options.markdown.write_text("\n".join(markdown(kernels)))
    if options.json:
        options.json.write_text(json.dumps([asdict(k) for k in kernels], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
