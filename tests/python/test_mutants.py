# SPDX-License-Identifier: BSD-3-Clause
"""The mutation campaign (tests/mutation/run.py) takes too long for every run. Here: its bugs can be
planted at all, the text that each replaces stands in the kernels exactly once; and its table of
results has a row for each, and no other.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/mutation"))

import table  # noqa: E402
from mutants import CPU, CUDA, Mutant  # noqa: E402


@pytest.mark.parametrize("mutant", CPU + CUDA, ids=[f"{m.file}: {m.name}" for m in CPU + CUDA])
def test_mutant_can_be_planted(mutant: Mutant) -> None:
    assert mutant.before != mutant.after
    assert (ROOT / "kernels" / mutant.file).read_text().count(mutant.before) == 1


def test_every_mutant_has_a_result_and_no_other() -> None:
    assert list(table.read()) == [table.key(mutant) for mutant in CPU + CUDA]
