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
        "dropped barrier before the first targets",
        "cuda/waiting.cuh",
        """waiting.indices[mine] = index_of(batch);
  __syncthreads();""",
        "waiting.indices[mine] = index_of(batch);",
    ),
    Mutant(
        "dropped barrier before waiting rows are finished",
        "cuda/waiting.cuh",
        """      }
      __syncthreads();
      if (mine < kWarp) {""",
        """      }
      if (mine < kWarp) {""",
    ),
    Mutant(
        "dropped barrier before the next rows wait",
        "cuda/waiting.cuh",
        """waiting.indices[mine] = next_index;
      }
      __syncthreads();""",
        """waiting.indices[mine] = next_index;
      }""",
    ),
    Mutant(
        "dropped barrier in the total",
        "cuda/totals.cuh",
        "    __syncthreads();\n    if (threadIdx.x != 0) return;",
        "    if (threadIdx.x != 0) return;",
    ),
    Mutant(
        "one buffer for two rows' largest logits",
        "cuda/team.cuh",
        """shared_.largest[turn_];
      turn_ ^= 1;""",
        "shared_.largest[turn_];",
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
        """sum_of_lanes(All sums, A m) {
    for (int distance = kLanes / 2;""",
        """sum_of_lanes(All sums, A m) {
    for (int distance = kLanes / 4;""",
    ),
    Mutant(
        "all warps but the first left out",
        "cuda/waiting.cuh",
        "for (int k = 1; k < T::kWarps; ++k)",
        "for (int k = 1; k < 1; ++k)",
    ),
    Mutant(
        "lost tail of a row",
        "cuda/row_reader.cuh",
        "left > 0; left -= kUnroll",
        "left >= kUnroll; left -= kUnroll",
    ),
    Mutant(
        "lost classes behind the last vector",
        "cuda/row_reader.cuh",
        "ends_ = static_cast<int>(classes - vectors_ * kN);",
        "ends_ = head_;",
    ),
    Mutant(
        "first classes of the vectors for those before them",
        "cuda/row_reader.cuh",
        "return begin_ - head_ + e +",
        "return begin_ + e +",
    ),
    Mutant(
        "first class of the vectors for the first behind them",
        "cuda/row_reader.cuh",
        "(e < head_ ? 0 : in_vectors())",
        "(e <= head_ ? 0 : in_vectors())",
    ),
    Mutant(
        "one round again and again",
        "cuda/row_reader.cuh",
        "left -= kUnroll, c += kRound) {",
        "left -= kUnroll) {",
    ),
    Mutant(
        "vector past the end of a row",
        "cuda/row_reader.cuh",
        "(kThreads - 1 - thread)",
        "(kThreads - thread)",
    ),
    Mutant(
        "absent vectors read and written",
        "cuda/row_reader.cuh",
        "if (u < left) f(u);",
        "f(u);",
    ),
    Mutant(
        "target's round for the first",
        "cuda/row_reader.cuh",
        "way -= kRound;",
        "",
    ),
    Mutant(
        "target before the vectors taken for one behind them",
        "cuda/row_reader.cuh",
        "head_ + (place < 0 ? place : behind);",
        "head_ + behind;",
    ),
    Mutant(
        "misaligned load",
        "cuda/row_reader.cuh",
        "packed && stride() == 1 && is_aligned<S, kN>(logits_ + begin_)",
        "packed && stride() == 1",
    ),
    Mutant(
        "misaligned store",
        "cuda/row_gradients.cuh",
        "reader(objective, i, begin, end, grad.first, grad.is_packed())",
        "reader(objective, i, begin, end)",
    ),
    Mutant(
        "target's own gradient not written",
        "cuda/row_gradients.cuh",
        "if (has_target) {",
        "if (false) {",
    ),
    Mutant(
        "target at the ends not found",
        "cuda/row_reader.cuh",
        "return e >= 0 && e < ends_ &&",
        "return false &&",
    ),
    Mutant(
        "target's logit read when it is gone",
        "cuda/row_gradients.cuh",
        "gradient_at_target(factors, target_number)",
        "gradient_at_target(factors, reader.number(y))",
    ),
    Mutant(
        "ends of an ignored row not written",
        "cuda/row_reader.cuh",
        "e < ends_; e += kThreads) end(end_class(e));",
        "e < 0; e += kThreads) end(end_class(e));",
    ),
    Mutant(
        "factors of the next row",
        "cuda/rows.cuh",
        "objective, factors[r], i",
        "objective, factors[(r + 1) % kTogether], i",
    ),
    Mutant(
        "dropped barrier before factors are used",
        "cuda/rows.cuh",
        """    __syncthreads();
#pragma unroll 1""",
        "#pragma unroll 1",
    ),
    Mutant(
        "dropped barrier before the next factors",
        "cuda/rows.cuh",
        """    }
    __syncthreads();
  }
""",
        """    }
  }
""",
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
        "cuda/row_reader.cuh",
        "Chunk::of(c, n, y)",
        "Chunk::of(c, n, kMixed)",
    ),
    Mutant(
        "target's round as any other",
        "cuda/row_reader.cuh",
        "Count way = way_to(y);",
        "Count way = ~Count{0};",
    ),
    Mutant(
        "target's way begins at the odd vector",
        "cuda/row_reader.cuh",
        "c - static_cast<Count>(first_of_rounds() - begin_)",
        "c - thread() * kN",
    ),
    Mutant(
        "odd vector taken twice",
        "cuda/row_reader.cuh",
        "first_class() + (has_odd_ ? kStep : 0)",
        "first_class()",
    ),
    Mutant(
        "odd vector among those of the rounds",
        "cuda/row_reader.cuh",
        "share_of(thread(), vectors_) - has_odd_",
        "share_of(thread(), vectors_)",
    ),
    Mutant(
        "odd vector left out where each is taken alone",
        "cuda/row_reader.cuh",
        "return in_rounds_ + has_odd_;",
        "return in_rounds_;",
    ),
    Mutant(
        "odd vector of threads that have none",
        "cuda/row_reader.cuh",
        "most > 1 && most",
        "most",
    ),
    Mutant(
        "vectors that are not there counted in the last round",
        "cuda/row_reader.cuh",
        "absent.v[k] = no_logit<S>();",
        "put(&absent.v[k], A(0));",
    ),
    Mutant(
        "target's own term left in the sum (ends)",
        "cuda/row_reader.cuh",
        "add(row, ref, m, c, one, y);",
        "add(row, ref, m, c, one, kMixed);",
    ),
    Mutant(
        "target's own term left in the sum (few)",
        "cuda/few.cuh",
        "chunk_of(c, y)",
        "chunk_of(c, kMixed)",
    ),
    Mutant(
        "target's own term left in the tile",
        "cuda/few.cuh",
        "if (kGuesses && is_class(y)) x[y] = no_logit<S>();",
        "",
    ),
    Mutant(
        "overflow not noticed (few)",
        "cuda/few.cuh",
        "if (!guessed || objective_.is_in_range(state)) return state;",
        "return state;",
    ),
    Mutant(
        "target's number read when it is gone",
        "cuda/few.cuh",
        "const S target_number = kIsGeneral<kTerms> && is_class(y) ? x[y] : S();",
        "const S target_number = S();",
    ),
    Mutant(
        "tiles taken for aligned",
        "cuda/few.cuh",
        "is_aligned<S, kN>(memory) ? size / kN * kN : 0",
        "size / kN * kN",
    ),
    Mutant(
        "no gaps between a tile's rows",
        "cuda/few.cuh",
        "return e + divided(e) * (pitch_ - classes_);",
        "return e;",
    ),
    Mutant(
        "target's own term left in the sum (planes)",
        "cuda/planes.cuh",
        "Chunk::of(c, kAtOnce, y[k])",
        "Chunk::of(c, kAtOnce, kMixed)",
    ),
    Mutant(
        "target's own term left in the sum (smoothed planes)",
        "cuda/planes.cuh",
        "Chunk::of(c + u, n, y[k])",
        "Chunk{c + u, -1}",
    ),
    Mutant(
        "target's gradient as another class's (planes)",
        "cuda/planes.cuh",
        "      if (is_class(f.target)) {",
        "      if (false) {",
    ),
    Mutant(
        "target's logit after its gradient (planes)",
        "cuda/planes.cuh",
        "if (is_class(factors[k].target)) target_numbers",
        "if (false) target_numbers",
    ),
    Mutant(
        "ignored row beside one that counts",
        "cuda/planes.cuh",
        "f.counts ? gradient : A(0)",
        "gradient",
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
        "overflow not noticed (rows, slices)",
        "cuda/waiting.cuh",
        "if (guessed && !objective.is_in_range(state)) return true;",
        "",
    ),
    Mutant(
        "rows with a bad guess not summed again",
        "cuda/waiting.cuh",
        "guessed || waiting.again != 0;",
        "guessed;",
    ),
    Mutant(
        "sums beside a bad guess left in",
        "cuda/waiting.cuh",
        "waiting.parts[r][T::warp()] = part.sums;",
        """{
          RowSums<A, kTerms>& kept = waiting.parts[r][T::warp()];
          if (guessed) kept = RowSums<A, kTerms>();
          kept.merge(part.sums, part.head.reference);
        }""",
    ),
    Mutant(
        "totals of earlier rows of a tile lost",
        "cuda/waiting.cuh",
        "(guessed && batch.begins_tile())",
        "guessed",
    ),
    Mutant(
        "totals of a tile lost to rows summed again",
        "cuda/waiting.cuh",
        "(guessed && batch.begins_tile())",
        "batch.begins_tile()",
    ),
    Mutant(
        "totals of a tile kept for the next",
        "cuda/waiting.cuh",
        "(guessed && batch.begins_tile())",
        "(guessed && batch.tile() == blockIdx.x && batch.begins_tile())",
    ),
    Mutant(
        "targets of the same rows again",
        "cuda/waiting.cuh",
        "index_of(batch.next())",
        "index_of(batch)",
    ),
    Mutant(
        "rows of other tiles taken for neighbours",
        "cuda/waiting.cuh",
        "int64_t{r} * gridDim.x : r",
        "int64_t{r} : r",
    ),
    Mutant(
        "ignored rows read",
        "cuda/waiting.cuh",
        "part = is_read(objective, y, out)",
        "part = true",
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
        "far guess kept for linear sums",
        "cuda/reference.cuh",
        "kLargestMean = 16;",
        "kLargestMean = 1e30;",
    ),
    Mutant(
        "only the first slice counts",
        "cuda/slices.cuh",
        "for (int64_t k = T::thread(); k < parts;",
        "for (int64_t k = T::thread(); k < T::kWarps;",
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
        "cuda/row_gradients.cuh",
        "if (!factors.counts) {",
        "if (false) {",
    ),
    Mutant(
        "gradient of ignored rows (few)",
        "cuda/few.cuh",
        "if (!factors.counts) {",
        "if (false) {",
    ),
    Mutant(
        "mean not divided",
        "cuda/targets.cuh",
        "back.total_weight ? divided(g, *back.total_weight) : g",
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
        "sum.add({part});\n          place(k)[tile]",
        "sum.add({part});\n          place(k)[0]",
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
        "an infinite sum's rest",
        "cuda/totals.cuh",
        "is_finite(own.high) ? own.low : A(0)",
        "own.low",
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
        "found == seen || found >> kArrivalBits == number >> kArrivalBits",
        "true",
    ),
    Mutant(
        "one block's arrival lost to another's",
        "cuda/ticket.cuh",
        "found == seen || found >> kArrivalBits == number >> kArrivalBits",
        "found == seen",
    ),
    Mutant(
        "a ticket that is not cleared",
        "cuda/ticket.cuh",
        "    atomicExch(word, Word{0});\n",
        "",
    ),
    Mutant(
        "rounded reference",
        "cuda/reference.cuh",
        "(m * scale.log2e + K::kRound) - K::kRound",
        "m * scale.log2e",
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
        "stride == 1 && last == kN",
        "last == kN",
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
    Mutant(
        "shorter polynomial",
        "cuda/exponential.cuh",
        "V q = all_of<V>(0x1.41fbbcp-13f);",
        "V q = all_of<V>(0);",
    ),
    Mutant(
        "no bound below an exponential",
        "cuda/exponential.cuh",
        """    d = max_or_nan(d, power.low);
""",
        "",
    ),
    Mutant(
        "no bounds of an exponent field",
        "cuda/exponential.cuh",
        "const V share = saturate(fma_of(",
        "const V share = (fma_of(",
    ),
    Mutant(
        "infinite logits of which an infinity is taken",
        "cuda/exponential.cuh",
        "less(log2e) > 0 ? log2e : nextafter(log2e, A(0))",
        "log2e",
    ),
    Mutant(
        "infinite digits lost to a target at -inf",
        "cuda/exponential.cuh",
        "d = d < power.low ? power.low : d;  // as Reduced",
        "// as Reduced",
    ),
    Mutant(
        "last of equal logits predicted at the ends of a row (CUDA)",
        "cuda/objective.cuh",
        " || (ties && chunk.first < row.pivot.index)",
        "",
    ),
    Mutant(
        "far logits taken for near ones",
        "cuda/reference.cuh",
        "if (offset_.shift == 0) {",
        "if (true) {",
    ),
    Mutant(
        "far logits of half types taken for near ones",
        "cuda/reference.cuh",
        "sizeof(S) == 2 ? 1 / 16.0 : 1;",
        "1;",
    ),
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
