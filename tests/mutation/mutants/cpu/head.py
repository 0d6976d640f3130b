# SPDX-License-Identifier: BSD-3-Clause
"""Bugs in what a loss head asks for beside the loss: statistics, z-loss, softcap, row weights."""

from __future__ import annotations

from mutants.mutant import Mutant

HEAD = [
    Mutant(
        "largest logit's own term in the sums (rows)",
        "cpu/rows.h",
        "if constexpr (kFindsLargest<kTerms>) return objective_.entering(v, lead.largest);",
        "if constexpr (kFindsLargest<kTerms>) return (objective_.entering(v, lead.largest), v);",
    ),
    Mutant(
        "largest logit's own term in the sums (few)",
        "cpu/few.h",
        "kept[c + k] = linear ? square[k] : enters;",
        "kept[c + k] = square[k];",
    ),
    Mutant(
        "largest logit's own term in the sums (planes)",
        "cpu/planes.h",
        "this->objective_.add_term(some, from, logits, enters, q);",
        "this->objective_.add_term(some, from, logits, logits, q);",
    ),
    Mutant(
        "two leaders left out",
        "cpu/rows.h",
        "if (count != -1) v = others_of_a_tie(leader);",
        ";",
    ),
    Mutant(
        "last of equal logits predicted (rows)",
        "cpu/rows.h",
        "run = largest > before ?",
        "run = largest >= before ?",
    ),
    Mutant(
        "last of equal logits predicted (few)",
        "cpu/few.h",
        "at = square[k] > m ?",
        "at = square[k] >= m ?",
    ),
    Mutant(
        "last of equal logits predicted (planes)",
        "cpu/planes.h",
        "prediction = logits > largest ?",
        "prediction = logits >= largest ?",
    ),
    Mutant(
        "prediction beside a NaN",
        "cpu/results.h",
        "if (c >= 0) predictions[i] = c;",
        ";",
    ),
    Mutant(
        "statistics kept beside a far guess",
        "cpu/statistics.h",
        "if (!all_lanes(near | ~there)) return false;",
        ";",
    ),
    Mutant(
        "far guess of a prediction alone",
        "cpu/statistics.h",
        "near &= (lead <= kNear) | (unshifted & (lead <= kNearUnshifted<S>));",
        ";",
    ),
    Mutant(
        "linear sum beside statistics left out (rows)",
        "cpu/rows.h",
        "if (objective_.has_linear()) add_linear(x, b, n, from.m, total);",
        ";",
    ),
    Mutant(
        "linear sum beside statistics left out (planes)",
        "cpu/planes.h",
        "if (!objective_.has_linear()) return;",
        "return;",
    ),
    Mutant(
        "class not looked for beside few logits",
        "cpu/few.h",
        "const bool finds_class = linear || predicts_;",
        "const bool finds_class = linear;",
    ),
    Mutant(
        "gap relative to the guess",
        "cpu/statistics.h",
        "(gap * inverse + lead * others) * share",
        "gap * inverse * share",
    ),
    Mutant(
        "target's exponential not taken out for backward",
        "cpu/statistics.h",
        "at_least<double>(others - target, Vec<double>{}) + 1.0",
        "others + 1.0",
    ),
    Mutant(
        "row weights without the z-loss",
        "cpu/results.h",
        "times_row_weights<A>(p, first, n, z_loss);",
        ";",
    ),
    Mutant(
        "half of the z-loss's gradient",
        "cpu/targets.h",
        "2 * p.z_loss_weight;",
        "p.z_loss_weight;",
    ),
    Mutant(
        "gradient of a capped logit without its slope",
        "cpu/staged.h",
        "gradient == A(0) ? gradient : gradient * load(slopes_ + i)",
        "gradient",
    ),
    Mutant(
        "linear sum without the scale",
        "cpu/finish.h",
        "rows.linear[i] *= scale;",
        ";",
    ),
    Mutant(
        "entropy's gradient of a target at -inf",
        "cpu/factors.h",
        "splat(1e6)",
        "splat(__builtin_inf())",
    ),
]
