"""The mutation campaign (tests/mutation/run.py) takes too long for every run. Here: its bugs can be
planted at all: the text that each replaces stands in the kernels exactly once.
"""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_FOUND = runpy.run_path(str(ROOT / "tests/mutation/mutants.py"))
MUTANTS = _FOUND["CPU"] + _FOUND["CUDA"]


@pytest.mark.parametrize("mutant", MUTANTS, ids=[f"{m.file}: {m.name}" for m in MUTANTS])
def test_mutant_can_be_planted(mutant: tuple[str, str, str, str]) -> None:
    _, file, before, after = mutant
    assert before != after
    assert (ROOT / "kernels" / file).read_text().count(before) == 1
