# SPDX-License-Identifier: BSD-3-Clause
"""results.md: what became of each bug when it was last planted."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from mutants import CPU, CUDA, Mutant

FILE = Path(__file__).with_name("results.md")
HEAD = """# Bugs planted, and what caught them

Written by `run.py`; [README.md](README.md) tells how to read it.

| Bug | File in `kernels/` | Result | Commit |
|---|---|---|---|
"""


class Result(NamedTuple):
    verdict: str
    commit: str


NEVER = Result("not run yet", "")
Results = dict[tuple[str, str], Result]  # of (name, file)


def key(mutant: Mutant) -> tuple[str, str]:
    return mutant.name, mutant.file


def read() -> Results:
    rows = [line[2:-2].split(" | ") for line in FILE.read_text().splitlines() if line[:2] == "| "]
    return {(name, file): Result(*rest) for name, file, *rest in rows[1:]}


def write(results: Results) -> None:
    """A row for every bug there is, in their order, and for no other."""
    rows = [(*key(mutant), *results.get(key(mutant), NEVER)) for mutant in CPU + CUDA]
    FILE.write_text(HEAD + "".join(f"| {' | '.join(row)} |\n" for row in rows))
