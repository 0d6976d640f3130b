# SPDX-License-Identifier: BSD-3-Clause
"""The bugs that run.py plants."""

from mutants.cpu import CPU
from mutants.cuda import CUDA
from mutants.mutant import Mutant

__all__ = ["CPU", "CUDA", "Mutant"]
