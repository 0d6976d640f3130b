"""The bugs of the CPU kernels."""

from __future__ import annotations

from mutants.mutant import Mutant

CPU = [
    Mutant(
        "wrong sign of the target's gradient", "cpu/group.h", "at_target = -g *", "at_target = g *"
    ),
    Mutant(
        "target's own term left in the sum (rows)",
        "cpu/rows.h",
        "limits_[kBlock] = kNone;",
        "limits_[kBlock] = -kNone;",
    ),
    Mutant(
        "target's own term left in the sum (few)",
        "cpu/few.h",
        "kept[c + k] = is_pivot ? splat(kNone) : square[k];",
        ";",
    ),
    Mutant(
        "target's logit not found (few)",
        "cpu/few.h",
        "pivot_logit = is_pivot ? square[k] : pivot_logit;",
        ";",
    ),
    Mutant(
        "target's own term left in the sum (planes)",
        "cpu/planes.h",
        "kept = is_pivot ? splat(kNone) : logits;",
        "kept = logits;",
    ),
    Mutant(
        "lost tail of a row",
        "cpu/rows.h",
        "    if (j < n) {\n      // The last",
        "    if (j < n - 1) {\n      // The last",
    ),
    Mutant(
        "tail of a row counted twice",
        "cpu/rows.h",
        "(lane >= static_cast<Int<A>>(j)) & (lane <",
        "(lane < static_cast<Int<A>>(n)) & (lane <",
    ),
    Mutant(
        "infinite logit twice in the tail",
        "cpu/rows.h",
        "(present ? load(x + first) : m)",
        "load(x + first)",
    ),
    Mutant(
        "lost tail of a gradient",
        "cpu/row_gradients.h",
        "if (j < n) store(g + n - kW, whole(n - kW));",
        "if (j < n - 1) store(g + n - kW, whole(n - kW));",
    ),
    Mutant(
        "lost head of a streamed gradient",
        "cpu/row_gradients.h",
        "if (head > 0) store(g, whole(0));",
        ";",
    ),
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
        "only the last block counts",
        "cpu/terms.h",
        "exponentials.add(s.exponentials);",
        "exponentials = {}, exponentials.add(s.exponentials);",
    ),
    Mutant(
        "missing weight of the target",
        "cpu/layout.h",
        "static_cast<double>(weight[group.pivot[i]])",
        "1.0",
    ),
    Mutant(
        "weights of another class",
        "cpu/blocks.h",
        "weight = w ? load(w + j) :",
        "weight = w ? load(w) :",
    ),
    Mutant(
        "row of the tile's start",
        "cpu/planes.h",
        "base_ = row_offset(p_, p_.logits_strides, first);",
        "base_ = row_offset(p_, p_.logits_strides, 0);",
    ),
    Mutant(
        "gradient at the logits' strides",
        "cpu/planes.h",
        "row_offset(p_, out.grad_strides, first_)",
        "row_offset(p_, p_.logits_strides, first_)",
    ),
    Mutant(
        "ignored rows counted", "cpu/layout.h", "V used = in_range & counted;", "V used = in_range;"
    ),
    Mutant(
        "range check off by one",
        "cpu/layout.h",
        "(c >= 0) & (c < p.classes)",
        "(c >= 0) & (c <= p.classes)",
    ),
    Mutant(
        "smoothing spread over C - 1",
        "cpu/group.h",
        "static_cast<double>(p.classes) : 0)",
        "static_cast<double>(p.classes - 1) : 0)",
    ),
    Mutant(
        "overflow not noticed (long rows)",
        "cpu/rows.h",
        "if (!in_range<kTerms>(i)) sum_row",
        "if (false) sum_row",
    ),
    Mutant(
        "overflow not noticed (few)",
        "cpu/few.h",
        "kIndices && !all_in_range()) sum<",
        "kIndices && false) sum<",
    ),
    Mutant(
        "overflow not noticed (planes)",
        "cpu/planes.h",
        "p_.classes > kProbedPlanes && !all_in_range<kTerms>()",
        "false",
    ),
    Mutant("far target not noticed", "cpu/planes.h", "- m < kFarTarget", "- m < 1e9"),
    Mutant(
        "another class than the largest left out (rows)",
        "cpu/blocks.h",
        "return static_cast<int>(b) + j + lane;",
        "return static_cast<int>(b) + j;",
    ),
    Mutant(
        "another class than the largest left out (few)",
        "cpu/few.h",
        "pivot = square[k] > m ?",
        "pivot = square[k] >= splat(A(0)) ?",
    ),
    Mutant(
        "another class than the largest left out (planes)",
        "cpu/planes.h",
        "pivot = x > m ?",
        "pivot = first == 0 && x > m ?",
    ),
    Mutant(
        "far guess kept for linear sums",
        "cpu/reference.h",
        "kLargestMean = 16;",
        "kLargestMean = 1e30;",
    ),
    Mutant(
        "another class's limit", "cpu/rows.h", "limits_ + kBlock - y;", "limits_ + kBlock - y + 1;"
    ),
    Mutant("overlap's weights counted twice", "cpu/rows.h", "present ? q : V{}", "q"),
    Mutant("half of a row left out", "cpu/rows.h", "add_pair(second_half, j + 2 * kW);", ""),
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
    Mutant("truncated bfloat16", "cpu/convert.h", "u + 0x7fffu + ((u >> 16) & 1u)", "u"),
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
        "overflow not noticed (batches)",
        "cpu/rows.h",
        "} else if (!in_range<kTerms>(r)) {",
        "} else if (false) {",
    ),
    Mutant(
        "folded rows swapped",
        "cpu/transpose.h",
        "combine(interleave<0, kN>(a, b, All{})",
        "combine(interleave<0, kN>(b, a, All{})",
    ),
    Mutant(
        "transposed classes swapped",
        "cpu/transpose.h",
        "next[2 * i] = interleave<0, kN>(v[i], v[i + kN / 2], All{});",
        "next[2 * i] = interleave<0, kN>(v[i + kN / 2], v[i], All{});",
    ),
    Mutant(
        "target's logit not found (planes)",
        "cpu/planes.h",
        "pivot_logit = is_pivot ? logits : pivot_logit;",
        ";",
    ),
    Mutant(
        "ignored rows of one class",
        "cpu/single.h",
        "g = load(targets_.pivot + i) < 0 ? V{} : g;",
        ";",
    ),
    Mutant(
        "another row's factors",
        "cpu/flat.h",
        "if (c >= classes_) c -= classes_, ++first_row;",
        "if (c >= classes_) c -= classes_;",
    ),
    Mutant("sum without its rounding errors", "cpu/sum.h", "sum + lost : sum", "sum : sum"),
]
