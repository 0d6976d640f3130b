# SPDX-License-Identifier: BSD-3-Clause
"""Bugs in arithmetic: exponentials, logarithms, conversions, sums that keep their digits."""

from __future__ import annotations

from mutants.mutant import Mutant

NUMBERS = [
    Mutant(
        "lost head of a streamed conversion",
        "cpu/convert.h",
        "    if (j > 0) store(to, load(from));",
        "",
    ),
    Mutant(
        "lost tail of a conversion",
        "cpu/convert.h",
        "if (j < n) store(to + n - kW,",
        "if (j < n - 1) store(to + n - kW,",
    ),
    Mutant(
        "far guess kept for linear sums",
        "cpu/reference.h",
        "kLargestMean = 16;",
        "kLargestMean = 1e30;",
    ),
    Mutant(
        "rounded reference",
        "cpu/reference.h",
        "(integer * kLog2E + K::kRound) - K::kRound",
        "m * A(1.4426950408889634074)",
    ),
    Mutant(
        "another power of two in double",
        "cpu/reference.h",
        "(integer * kLog2E + K::kRound) - K::kRound",
        "(m * A(1.4426950408889634074) + K::kRound) - K::kRound",
    ),
    Mutant(
        "truncated bfloat16",
        "cpu/convert.h",
        "WordBits rounded = u + 0x7fffu + ((u >> 16) & 1u);",
        "WordBits rounded = u;",
    ),
    Mutant(
        "truncated bfloat16 (single values)",
        "cpu/convert.h",
        "uint32_t rounded = u + 0x7fffu + ((u >> 16) & 1u);",
        "uint32_t rounded = u;",
    ),
    Mutant("shorter polynomial", "cpu/math.h", "0x1.6a242cp-10f};", "0};"),
    Mutant(
        "plain 1 + z in log1p",
        "cpu/math.h",
        "f = scaled + from_one;",
        "f = v * scale - 1.0;",
    ),
    Mutant(
        "rest of the lost digits dropped", "cpu/math.h", "(k * K::kLn2Low + rest)", "k * K::kLn2Low"
    ),
    Mutant(
        "sum without its rounding errors",
        "cpu/double_sum.h",
        "return sum - sum == 0 ? sum + lost : sum;",
        "return sum;",
    ),
    Mutant(
        "sums of double without their rounding errors",
        "cpu/double_sum.h",
        "    lost += rounding_error(sum, v, next);\n",
        "",
    ),
    Mutant(
        "rounding error of an infinite sum",
        "cpu/double_sum.h",
        "return sum - sum == 0.0 ? sum + lost : sum;",
        "return sum + lost;",
    ),
    Mutant(
        "no headroom for half types", "cpu/reference.h", "kHeadroomBits = 14;", "kHeadroomBits = 0;"
    ),
    Mutant(
        "one power of two of a table",
        "cpu/exp_table.h",
        "-0x008bb03",
        "-0x008ab03",
    ),
]
