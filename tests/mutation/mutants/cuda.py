# SPDX-License-Identifier: BSD-3-Clause
"""The bugs of the CUDA kernels."""

from __future__ import annotations

from mutants.mutant import Mutant

CUDA = [
    Mutant(
        "dropped barrier after the tile is read",
        "cuda/few.cuh",
        """      __syncwarp();
      if (is_there) {""",
        """      if (is_there) {""",
    ),
    Mutant(
        "dropped barrier before the next tile",
        "cuda/few.cuh",
        """      __syncwarp();
    }
    reducer.template put""",
        """    }
    reducer.template put""",
    ),
    Mutant(
        "dropped barrier before gradients are stored",
        "cuda/few.cuh",
        """    __syncwarp();
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
        "cuda/totals.cuh",
        "    __syncthreads();\n    if (threadIdx.x != 0) return;",
        "    if (threadIdx.x != 0) return;",
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
        "  __device__ All sum(All sums, A m) {\n    for (int distance = kLanes / 2;",
        "  __device__ All sum(All sums, A m) {\n    for (int distance = kLanes / 4;",
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
        """      const bool is_there = static_cast<int>(threadIdx.x) < n;
      const int64_t i = first + threadIdx.x;
      const int64_t y""",
        """      const bool is_there = true;
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
        "Chunk::of(c, kN, y)",
        "Chunk::of(c, kN, kMixed)",
    ),
    Mutant(
        "target's own term left in the sum (few)",
        "cuda/few.cuh",
        "chunk_of(c, y)",
        "chunk_of(c, kMixed)",
    ),
    Mutant(
        "target's own term left in the sum (planes)",
        "cuda/planes.cuh",
        "Chunk::of(c, kAtOnce, y[k])",
        "Chunk::of(c, kAtOnce, kMixed)",
    ),
    Mutant(
        "first class left out, not the largest",
        "cuda/sums.cuh",
        "kIsGeneral<kTerms> ? other.pivot.leads(pivot) : other.pivot.logit > pivot.logit;",
        "pivot.logit == -infinity<A>();",
    ),
    Mutant(
        "former pivot lost",
        "cuda/sums.cuh",
        "      exponentials.add(pivot.exponential);\n      if constexpr (kHasMass<kTerms>) {",
        "      if constexpr (kHasMass<kTerms>) {",
    ),
    Mutant(
        "another thread's larger pivot added",
        "cuda/sums.cuh",
        "        *this = leader;\n",
        "",
    ),
    Mutant(
        "saved sum relative to the first reference",
        "cuda/finish.cuh",
        "others * (exp_relative_to(x) / exp_relative_to(m))",
        "others",
    ),
    Mutant(
        "linear sum relative to the reference",
        "cuda/state.cuh",
        "    row.linear -= mass * (m - pivot.logit);",
        "    (void)m;",
    ),
    Mutant(
        "pivot's gradient as any other's",
        "cuda/factors.cuh",
        "x == f.pivot_logit ?",
        "false ?",
    ),
    Mutant(
        "pivot's own share from a difference",
        "cuda/factors.cuh",
        "f.grad_others = (grad * others).value();",
        "f.grad_others = g * (1 - own);",
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
        "if (!guessed || objective.is_in_range(row)) return row;",
        "return row;",
    ),
    Mutant(
        "overflow not noticed (planes)",
        "cuda/planes.cuh",
        "if (in_range || !guessed) break;",
        "break;",
    ),
    Mutant(
        "far target not noticed",
        "cuda/planes.cuh",
        "(!far && objective.is_in_range",
        "(objective.is_in_range",
    ),
    Mutant(
        "overflow not noticed (slices)",
        "cuda/slices.cuh",
        "if (!objective.is_in_range(row))",
        "if (false)",
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
        "cuda/factors.cuh",
        "f.at_target = -(grad",
        "f.at_target = (grad",
    ),
    Mutant(
        "others' share a number too small",
        "cuda/factors.cuh",
        "-(grad * Scaled<A>::of(k.keep * w) * others).value();",
        "-g * k.keep * w * others.value();",
    ),
    Mutant(
        "lost exponent of the factor",
        "cuda/factors.cuh",
        "f.offset.c -= factor.exponent;",
        "f.offset.c += factor.exponent;",
    ),
    Mutant(
        "gradient of ignored rows",
        "cuda/objective.cuh",
        "return f.counts ? v : A(0);",
        "return v;",
    ),
    Mutant(
        "mean not divided",
        "cuda/targets.cuh",
        "back.total_weight ? static_cast<A>(g / *back.total_weight) : g",
        "g",
    ),
    Mutant(
        "weights of another class",
        "cuda/objective.cuh",
        "static_cast<const A*>(problem.weight)[c]",
        "static_cast<const A*>(problem.weight)[0]",
    ),
    Mutant(
        "all tiles leave their sums in one place",
        "cuda/totals.cuh",
        "place(k)[tile] = sum.total();",
        "place(k)[0] = sum.total();",
    ),
    Mutant(
        "warps' losses left out",
        "cuda/totals.cuh",
        "for (const double part : parts[k]) sum.add({part});",
        "sum.add({parts[k][0]});",
    ),
    Mutant(
        "dropped barrier before a tile is added up",
        "cuda/totals.cuh",
        "if (tiles_.wanted) __syncthreads();",
        "",
    ),
    Mutant(
        "one buffer for two tiles' sums",
        "cuda/totals.cuh",
        "parts[tile / gridDim.x % 2]",
        "parts[0]",
    ),
    Mutant(
        "a tile's sum beyond float",
        "cuda/totals.cuh",
        "if (is_finite(sum.high)) return wide(sum);",
        "return wide(sum);",
    ),
    Mutant(
        "last row of each tile left out",
        "cuda/tiles.h",
        "const int64_t end = begin(tile + 1);",
        "const int64_t end = begin(tile + 1) - 1;",
    ),
    Mutant(
        "the last block before it has written",
        "cuda/ticket.cuh",
        "    __shared__ bool last;\n    __syncthreads();",
        "    __shared__ bool last;",
    ),
    Mutant(
        "another call's arrivals",
        "cuda/ticket.cuh",
        "while (seen >> kArrivalBits != number >> kArrivalBits)",
        "while (seen == 0)",
    ),
    Mutant(
        "a ticket that is not cleared",
        "cuda/ticket.cuh",
        "    *word = 0;\n",
        "",
    ),
    Mutant(
        "rounded reference",
        "cuda/reference.cuh",
        "(m * scale.log2e_high + K::kRound) - K::kRound",
        "m * scale.log2e_high",
    ),
    Mutant(
        "no headroom for half types",
        "cuda/reference.cuh",
        "sizeof(S) == 2 ? 28 : 0",
        "0",
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
        "reinterpret_cast<const Word<S, kN>*>(p) + i)",
        "reinterpret_cast<const Word<S, kN>*>(p))",
    ),
    Mutant(
        "smoothing left out of probabilities",
        "cuda/coefficients.cuh",
        "return probability * keep + spread;",
        "return probability * keep;",
    ),
    Mutant(
        "weights left out beside probabilities",
        "cuda/objective.cuh",
        "q[k] *= coefficients_.smoothed(",
        "q[k] = coefficients_.smoothed(",
    ),
    Mutant(
        "smoothed rows of no classes give 0",
        "cuda/finish.cuh",
        "if (k.classes == 0) result.loss = k.nothing;",
        "",
    ),
    Mutant(
        "no smoothed rows of no classes give 0",
        "problem.h",
        'smoothed && p.classes == 0 ? __builtin_nan("") : 0;',
        "smoothed && p.classes == 0 ? 0.0 : 0;",
    ),
    Mutant("shorter polynomial", "cuda/math.cuh", "float q = 0x1.41fbbcp-13f;", "float q = 0;"),
    Mutant(
        "sum without its rounding errors",
        "cuda/math.cuh",
        "is_finite(high) ? high + low : high",
        "high",
    ),
    Mutant(
        "largest logit that is led twice",
        "cuda/sums.cuh",
        "exponentials.add(pivot.exponential);\n      if constexpr (kHasMass",
        ";\n      if constexpr (kHasMass",
    ),
    Mutant(
        "gap of a former largest logit",
        "cuda/sums.cuh",
        "gap.add(exponentials.total() * (larger.logit - pivot.logit));",
        ";",
    ),
    Mutant(
        "target left out of the statistics",
        "cuda/statistics.cuh",
        "others.add(target_exp);",
        ";",
    ),
    Mutant(
        "gradient of the entropy without the scale",
        "cuda/factors.cuh",
        ".value() * k.scale.s;",
        ".value();",
    ),
    Mutant(
        "row weights without the z-loss (CUDA)",
        "cuda/results.cuh",
        "found[k].z_loss *= own;",
        ";",
    ),
    Mutant(
        "last of two equal logits predicted (CUDA)",
        "cuda/sums.cuh",
        "kIsGeneral<kTerms> ? other.pivot.leads(pivot) : other.pivot.logit > pivot.logit",
        "other.pivot.logit >= pivot.logit",
    ),
]
