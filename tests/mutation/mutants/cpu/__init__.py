# SPDX-License-Identifier: BSD-3-Clause
"""The bugs of the CPU kernels."""

from __future__ import annotations

from mutants.cpu.gradients import GRADIENTS
from mutants.cpu.head import HEAD
from mutants.cpu.numbers import NUMBERS
from mutants.cpu.rows import ROWS
from mutants.cpu.sums import SUMS

CPU = [*SUMS, *NUMBERS, *ROWS, *GRADIENTS, *HEAD]
