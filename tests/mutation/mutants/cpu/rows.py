# SPDX-License-Identifier: BSD-3-Clause
"""Bugs in targets, weights, smoothing: what a row's sums become."""

from __future__ import annotations

from mutants.mutant import Mutant

ROWS = [
    Mutant(
        "missing weight of the target",
        "cpu/targets.h",
        "static_cast<double>(weight[rows.pivot[i]])",
        "1.0",
    ),
    Mutant(
        "ignored rows counted",
        "cpu/targets.h",
        "V used = in_range & asked & (c >= 0)",
        "V used = in_range & (c >= 0)",
    ),
    Mutant(
        "range check off by one",
        "cpu/targets.h",
        "(c >= 0) & (c < p.classes)",
        "(c >= 0) & (c <= p.classes)",
    ),
    Mutant(
        "smoothing spread over C - 1",
        "cpu/finish.h",
        "static_cast<double>(all_classes(p)) : 0)",
        "static_cast<double>(all_classes(p) - 1) : 0)",
    ),
    Mutant(
        "smoothed rows of no classes give 0",
        "cpu/finish.h",
        'loss[i] = kIsSmoothed<kTerms> ? __builtin_nan("") : 0;',
        "loss[i] = 0;",
    ),
    Mutant("target out of range not reported", "cpu/targets.h", "      bad |= out_of_range;\n", ""),
]
