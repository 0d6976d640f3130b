# SPDX-License-Identifier: BSD-3-Clause
"""What the launchers of kernels/cuda launch for a problem: asked of themselves (see recorder/)."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sass.facts import full_name, readable
from sass.toolkit import ROOT, STORAGE, made, run, sources_digest

from .work import Launch, Shape

HERE = Path(__file__).resolve().parent / "recorder"
FOLDER = ROOT / "build" / "model"
KERNELS = ROOT / "kernels" / "cuda"
SOURCES = [KERNELS / "grid.cu", KERNELS / "launch.cu", KERNELS / "plan.cpp", HERE / "recorder.cpp"]

# The launches of a call, by its name: forward, forward_none (without a reduction), backward.
Calls = dict[str, list[Launch]]


def build(storage: Sequence[str], jobs: int = 1) -> Path:
    """The recorder, in seconds a type. It has no code of types that nobody asks it for."""
    command: list[str | Path] = ["c++", "-std=c++20", "-O0", "-w", "-DFUSED_CE_SIMT"]
    command += [f"-I{HERE}", "-I.", "-x", "c++"]

    def make(program: Path) -> None:
        def unit(storage: str) -> Path:
            file = program.with_name(f"{storage}.o")
            macros = [
                f"-DFUSED_CE_STORAGE={storage}",
                f"-DFUSED_CE_STORAGE_NAME={STORAGE[storage]}",
            ]
            run([*command, *macros, "-o", file, "-c", KERNELS / "kernels.cu"])
            return file

        with ThreadPoolExecutor(jobs) as pool:
            units = list(pool.map(unit, storage))
        link = ["-no-pie", "-rdynamic", "-Wl,--unresolved-symbols=ignore-all"]
        run([*command, *link, "-o", program, *SOURCES, "-x", "none", *units])

    others = [Path(__file__), *HERE.iterdir(), *(ROOT / "tests" / "simt").glob("*.h")]
    return made(FOLDER / sources_digest(*others) / "-".join(storage), make)


def parse(line: str) -> tuple[str, Launch]:
    """A line of the recorder's: the call, and what it launched."""
    call, mangled, blocks, at_most, threads, shared, *arguments = line.split()
    parts = readable(mangled)
    if parts is None:
        raise ValueError(f"no kernel of ours: {mangled}")
    function, storage, terms, parameter = parts
    kernel = full_name(function, terms, parameter)
    return call, Launch(
        kernel,
        storage,
        int(parameter or 0),
        int(blocks),
        int(threads),
        int(shared),
        tuple(map(bytes.fromhex, arguments)),
        at_most == "1",
    )


def calls_of(recorder: Path, storage: str, terms: str, shapes: Sequence[Shape]) -> list[Calls]:
    """For each shape."""
    numbers = [str(n) for s in shapes for n in (s.outer, s.classes, s.inner)]
    stdout, _ = run([recorder, storage, terms, *numbers])
    result: list[Calls] = []
    for problem in stdout.strip().split("\n\n"):
        calls: Calls = {}
        for line in problem.splitlines():
            call, launch = parse(line)
            calls.setdefault(call, []).append(launch)
        result.append(calls)
    return result
