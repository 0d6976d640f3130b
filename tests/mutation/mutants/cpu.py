"""The bugs of the CPU kernels."""

from __future__ import annotations

from mutants.mutant import Mutant

CPU = [
    Mutant(
        "wrong sign of the target's gradient",
        "cpu/factors.h",
        "at_pivot = -g * formula.keep",
        "at_pivot = g * formula.keep",
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
        "this->objective_.add_term_except(some, ref, m, logits, is_pivot, q);",
        "this->objective_.add_term(some, ref, m, logits, logits, q);",
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
        "(present ? logits(first) : m)",
        "logits(first)",
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
        "cpu/sums.h",
        "exponentials.add(s.exponentials);",
        "exponentials = {}, exponentials.add(s.exponentials);",
    ),
    Mutant(
        "missing weight of the target",
        "cpu/targets.h",
        "static_cast<double>(weight[rows.pivot[i]])",
        "1.0",
    ),
    Mutant(
        "weights of another class",
        "cpu/objective.h",
        "weight(weight_ ? load(weight_ + c) :",
        "weight(weight_ ? load(weight_) :",
    ),
    Mutant(
        "row of the tile's start",
        "cpu/plane_tile.h",
        "base_ = row_offset(p_, p_.logits_strides, first);",
        "base_ = row_offset(p_, p_.logits_strides, 0);",
    ),
    Mutant(
        "gradient at the logits' strides",
        "cpu/plane_gradients.h",
        "row_offset(p_, back.grad_strides, first_)",
        "row_offset(p_, p_.logits_strides, first_)",
    ),
    Mutant(
        "ignored rows counted",
        "cpu/targets.h",
        "V used = in_range & asked, out_of_range",
        "V used = in_range, out_of_range",
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
        "static_cast<double>(p.classes) : 0)",
        "static_cast<double>(p.classes - 1) : 0)",
    ),
    Mutant(
        "overflow not noticed (long rows)",
        "cpu/rows.h",
        "if (!in_range(i)) sum_row",
        "if (false) sum_row",
    ),
    Mutant(
        "overflow not noticed (few)",
        "cpu/few.h",
        "if (kFromTarget && !all_in_range()) sum(",
        "if (false) sum(",
    ),
    Mutant(
        "overflow not noticed (planes)",
        "cpu/planes.h",
        "        !all_in_range()) {",
        "        false) {",
    ),
    Mutant(
        "far target not noticed",
        "cpu/planes.h",
        "- m < static_cast<A>(kFarTarget)",
        "- m < A(1e9)",
    ),
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
        "overflow not noticed (batches)",
        "cpu/rows.h",
        "} else if (!in_range(r)) {",
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
        "pivot_logit = put_in(pivot_logit, is_pivot, logits);",
        ";",
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
        "sum without its rounding errors",
        "cpu/double_sum.h",
        "return sum - sum == 0 ? sum + lost : sum;",
        "return sum;",
    ),
    Mutant(
        "target's own term left in the sum (last plane)",
        "cpu/planes.h",
        "add_some(rest, k, logits, is_pivot, weights(first + k, i, t[k]));",
        "add_some(rest, k, logits, I{}, weights(first + k, i, t[k]));",
    ),
    Mutant(
        "target's own term left in the sum (sought)", "cpu/few.h", "      *at_pivot = kNone;\n", ""
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
        "sums of double without their rounding errors",
        "cpu/double_sum.h",
        "    lost += rounding_error(sum, v, next);\n",
        "",
    ),
    Mutant(
        "sums of double planes without their rounding errors",
        "cpu/state.h",
        "s = {load(p + i), load(lost + i)};",
        "s = {load(p + i), Vec<double>{}};",
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
        "smoothed rows of no classes give 0",
        "cpu/finish.h",
        'loss[i] = kIsSmoothed<kTerms> ? __builtin_nan("") : 0;',
        "loss[i] = 0;",
    ),
    Mutant("target out of range not reported", "cpu/targets.h", "      bad |= out_of_range;\n", ""),
    Mutant(
        "guess out of range kept (planes)",
        "cpu/planes.h",
        "sum(/*guess=*/false);",
        "sum(/*guess=*/p_.classes > kPlanes);",
    ),
]
