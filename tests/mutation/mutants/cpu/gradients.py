# SPDX-License-Identifier: BSD-3-Clause
"""Bugs in gradients."""

from __future__ import annotations

from mutants.mutant import Mutant

GRADIENTS = [
    Mutant(
        "wrong sign of the target's gradient",
        "cpu/factors.h",
        "at_pivot = -g * formula.keep",
        "at_pivot = g * formula.keep",
    ),
    Mutant(
        "lost tail of a gradient",
        "cpu/row_gradients.h",
        "if (tail) store(g + n - kW, last);",
        "if (tail && (n - head) % kW > 1) store(g + n - kW, last);",
    ),
    Mutant(
        "lost head of a streamed gradient",
        "cpu/row_gradients.h",
        "if (head > 0) store_partial(g, head, first);",
        ";",
    ),
    Mutant(
        "gradient at the logits' strides",
        "cpu/plane_gradients.h",
        "row_offset(p_, back.grad_strides, first_)",
        "row_offset(p_, p_.logits_strides, first_)",
    ),
    Mutant(
        "ignored rows of one class",
        "cpu/single.h",
        "g = load(rows_.pivot + i) < 0 ? V{} : g;",
        ";",
    ),
    Mutant(
        "another row's factors",
        "cpu/flat.h",
        "if (c >= classes_) c -= classes_, ++first_row;",
        "if (c >= classes_) c -= classes_;",
    ),
    Mutant(
        "target's gradient from a difference",
        "cpu/factors.h",
        "formula.keep * w * (others * share);",
        "formula.keep * w * (1.0 - pivot_exp * share);",
    ),
    Mutant(
        "leading pivot's gradient from a difference",
        "cpu/factors.h",
        "return (mass - q) * (grad - others) - q * others;",
        "return mass * (grad - others) - grad * q;",
    ),
    Mutant(
        "leading pivot's gradient as any other's (planes, flat)",
        "cpu/objective.h",
        "V v = is_pivot ? pivot.gradient(q) : gradient(row, x, q);",
        "V v = gradient(row, x, q);",
    ),
    Mutant(
        "leading pivot's gradient as any other's (planes)",
        "cpu/plane_gradients.h",
        "const bool some_lead = !kIndices && factors_.some_lead;",
        "const bool some_lead = false;",
    ),
    Mutant(
        "leading pivot's gradient as any other's (flat)",
        "cpu/flat.h",
        "const bool some_lead = !kIndices && factors_.some_lead;",
        "const bool some_lead = false;",
    ),
    Mutant(
        "leading pivot's gradient as any other's (rows)",
        "cpu/row_gradients.h",
        "if (logit != logit) return;",
        "if (logit != logit || p_.classes > 0) return;",
    ),
    Mutant(
        "double factors' product too small on the way",
        "cpu/factors.h",
        "!all_lanes(~product.whole)) product = Split::product(g, mass, share);",
        "false) {}",
    ),
    Mutant(
        "tail of a gradient made of gradients (in place)",
        "cpu/row_gradients.h",
        "if (tail) store(g + n - kW, last);",
        "if (tail) store(g + n - kW, whole(n - kW));",
    ),
]
