"""The bugs that run.py plants: in `file`, under kernels/, the text `before` becomes `after`."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    name: str
    file: str
    before: str
    after: str


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
        "another row's factors",
        "cpu/flat.h",
        "static_cast<Int<A>>(i / classes_)",
        "static_cast<Int<A>>((i + 1) / classes_ % kW)",
    ),
    Mutant("sum without its rounding errors", "cpu/sum.h", "sum + lost : sum", "sum : sum"),
]

CUDA = [
    Mutant(
        "dropped barrier after the tile is read",
        "cuda/few.cuh",
        """    __syncthreads();
    if (static_cast<int>(threadIdx.x) < n) {
      const int64_t i = first + threadIdx.x;
      const int64_t y""",
        """    if (static_cast<int>(threadIdx.x) < n) {
      const int64_t i = first + threadIdx.x;
      const int64_t y""",
    ),
    Mutant(
        "dropped barrier before the next tile",
        "cuda/few.cuh",
        """    __syncthreads();
  }
  totals.put(partials);""",
        """  }
  totals.put(partials);""",
    ),
    Mutant(
        "dropped barrier before gradients are stored",
        "cuda/few.cuh",
        """    __syncthreads();
    tile.store(""",
        """    tile.store(""",
    ),
    Mutant(
        "dropped barrier between warps' sums",
        "cuda/team.cuh",
        "parts[threadIdx.x / kWarp] = sums;\n      __syncthreads();",
        "parts[threadIdx.x / kWarp] = sums;",
    ),
    Mutant(
        "dropped barrier in the total",
        "cuda/total.cuh",
        "    __syncthreads();\n    if (thread < half)",
        "    if (thread < half)",
    ),
    Mutant(
        "one buffer for two rows' sums",
        "cuda/team.cuh",
        "shared_.sums[turn_];\n      turn_ ^= 1;",
        "shared_.sums[turn_];",
    ),
    Mutant(
        "wrong shuffle mask",
        "cuda/team.cuh",
        "return kFirst << (threadIdx.x % kWarp / kLanes * kLanes);",
        "return kFirst;",
    ),
    Mutant(
        "half the lanes left out",
        "cuda/team.cuh",
        "  __device__ RowSums<A> sum(RowSums<A> sums) {\n    for (int distance = kLanes / 2;",
        "  __device__ RowSums<A> sum(RowSums<A> sums) {\n    for (int distance = kLanes / 4;",
    ),
    Mutant(
        "lost tail of a row",
        "cuda/rows.cuh",
        "if (start >= end_) break;",
        "if (start + kN > end_) break;",
    ),
    Mutant(
        "vector past the end of a row",
        "cuda/rows.cuh",
        "start >= begin_ && start + kN <= end_",
        "start >= begin_",
    ),
    Mutant(
        "vector before the beginning of a row",
        "cuda/rows.cuh",
        "start >= begin_ && start + kN <= end_",
        "start + kN <= end_",
    ),
    Mutant(
        "misaligned load",
        "cuda/rows.cuh",
        "return begin_ - misaligned;",
        "return begin_;",
    ),
    Mutant(
        "misaligned store",
        "cuda/rows.cuh",
        "const bool aligned = stride == 1 && is_aligned<S, kN>(grad + reader.first_vector());",
        "const bool aligned = stride == 1;",
    ),
    Mutant(
        "missing guard",
        "cuda/few.cuh",
        """    if (static_cast<int>(threadIdx.x) < n) {
      const int64_t i = first + threadIdx.x;
      const int64_t y""",
        """    {
      const int64_t i = first + threadIdx.x;
      const int64_t y""",
    ),
    Mutant(
        "32-bit offset of a row",
        "cuda/layout.cuh",
        "if (p.inner == 1) return row * s.outer;",
        "if (p.inner == 1) return static_cast<int>(row * s.outer);",
    ),
    Mutant(
        "swapped strides",
        "cuda/layout.cuh",
        "row / p.inner * s.outer + row % p.inner * s.inner",
        "row / p.inner * s.inner + row % p.inner * s.outer",
    ),
    Mutant(
        "target's own term left in the sum (rows)",
        "cuda/rows.cuh",
        "present && k != target ? e : A(0)",
        "present ? e : A(0)",
    ),
    Mutant(
        "target's own term left in the sum (few)",
        "cuda/few.cuh",
        "begin + k == target ? A(0) : e",
        "e",
    ),
    Mutant(
        "target's own term left in the sum (planes)",
        "cuda/planes.cuh",
        "u == target ? A(0) : e",
        "e",
    ),
    Mutant(
        "lost maximum",
        "cuda/planes.cuh",
        "m[k] = larger(m[k], get(x[u].v[k]));",
        "m[k] = get(x[u].v[k]);",
    ),
    Mutant(
        "overflow not noticed (rows)",
        "cuda/rows.cuh",
        "if (!is_in_range<S>(m, sums.exponentials.total(),",
        "if (!guessed && !is_in_range<S>(m, sums.exponentials.total(),",
    ),
    Mutant("overflow not noticed (planes)", "cuda/planes.cuh", "if (!in_range) {", "if (false) {"),
    Mutant("far target not noticed", "cuda/planes.cuh", "(!far && is_in_range", "(is_in_range"),
    Mutant(
        "overflow not noticed (slices)",
        "cuda/slices.cuh",
        "if (!is_in_range<S>(m, row.sum,",
        "if (false && !is_in_range<S>(m, row.sum,",
    ),
    Mutant(
        "far guess kept for linear sums",
        "cuda/reference.cuh",
        "kLargestMean = 16;",
        "kLargestMean = 1e30;",
    ),
    Mutant(
        "only the first slice counts",
        "cuda/slices.cuh",
        "for (int64_t k = T::thread(); k < slices;",
        "for (int64_t k = T::thread(); k < 1;",
    ),
    Mutant(
        "slices overlap",
        "cuda/slices.cuh",
        "begin = item % slices * slice_classes;\n    const int64_t end",
        "begin = item % slices * (slice_classes - 1);\n    const int64_t end",
    ),
    Mutant(
        "wrong sign of the target's gradient",
        "cuda/finish.cuh",
        "f.at_target = -g *",
        "f.at_target = g *",
    ),
    Mutant(
        "lost exponent of the factor",
        "cuda/finish.cuh",
        "f.offset.c += by_total - by_factor;",
        "f.offset.c += by_total;",
    ),
    Mutant(
        "gradient of ignored rows",
        "cuda/finish.cuh",
        "return f.counts ? v : A(0);",
        "return v;",
    ),
    Mutant(
        "mean not divided",
        "cuda/layout.cuh",
        "from.total_weight ? static_cast<A>(g / *from.total_weight) : g",
        "g",
    ),
    Mutant(
        "weights of another class",
        "cuda/layout.cuh",
        "static_cast<const A*>(p.weight)[c]",
        "static_cast<const A*>(p.weight)[0]",
    ),
    Mutant(
        "all blocks leave their sums in one place",
        "cuda/team.cuh",
        "partials[blockIdx.x] =",
        "partials[0] =",
    ),
    Mutant(
        "warps' losses left out",
        "cuda/team.cuh",
        "i < blockDim.x / kWarp;",
        "i < 1;",
    ),
    Mutant(
        "rounded reference",
        "cuda/reference.cuh",
        "(m * K::kLog2EHigh + K::kRound) - K::kRound",
        "m * K::kLog2EHigh",
    ),
    Mutant(
        "probabilities taken for neighbours",
        "cuda/numbers.cuh",
        "stride == 1 && first == 0",
        "first == 0",
    ),
    Mutant(
        "first 128 bits of a wider vector again",
        "cuda/types.cuh",
        "reinterpret_cast<const Word<S, kN>*>(p)[i]",
        "reinterpret_cast<const Word<S, kN>*>(p)[0]",
    ),
    Mutant(
        "smoothing left out of probabilities",
        "cuda/smoothing.cuh",
        "return probability * keep + spread;",
        "return probability * keep;",
    ),
    Mutant(
        "weights left out beside probabilities",
        "cuda/smoothing.cuh",
        "q[k] *= p.smoothed(",
        "q[k] = p.smoothed(",
    ),
    Mutant("shorter polynomial", "cuda/math.cuh", "float q = 0x1.41fbbcp-13f;", "float q = 0;"),
    Mutant(
        "sum without its rounding errors",
        "cuda/math.cuh",
        "is_finite(high) ? high + low : high",
        "high",
    ),
]
