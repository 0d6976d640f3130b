// SPDX-License-Identifier: BSD-3-Clause
// Rows whose classes are neighbours: a team of threads a row, each with 128 bits of it at a time.
// One read of the logits forward; one read and one write backward. A row need not be held anywhere
// between: its reference is known before its first logit is read (see guess).
#pragma once

#include "results.cuh"
#include "team.cuh"

namespace fused_ce::cuda {

// Loads under way at once in a thread. Double leaves no registers for more than two, and waits for
// the FP64 units rather than for memory. The general loops have less code with two.
template <class S, Terms kTerms>
inline constexpr int kLoads = kIsGeneral<kTerms> || sizeof(S) == 8 ? 2 : 4;
// The first guess of a row's reference is the largest of so many logits.
inline constexpr int kProbe = 128;
// Blocks a multiprocessor must have room for: at most 80 registers a thread, and 128; of double
// beside probabilities 255. Left to itself, ptxas takes up to 240 for some architectures, and
// spills at 48 for others.
template <class S, Terms kTerms>
inline constexpr int kRowBlocks = sizeof(S) == 8       ? (kHasMass<kTerms> ? 1 : 2)
                                  : kHasLinear<kTerms> ? 2
                                                       : 3;

// One row, or one slice of it: classes [begin, end).
template <class S, Terms kTerms>
class RowReader {
  using A = Accumulate<S>;
  static constexpr int kN = kVector<S>;
  static constexpr int kUnroll = kLoads<S, kTerms>;

 public:
  __device__ RowReader(const Objective<S, kTerms>& objective, int64_t row, int64_t begin,
                       int64_t end)
      : objective_(objective),
        logits_(static_cast<const S*>(objective.problem.logits) +
                row_offset(objective.problem, objective.problem.logits_strides, row)),
        stride_(objective.problem.logits_strides.classes),
        probabilities_(objective.probabilities(row)),
        begin_(begin),
        end_(end) {}

  // The class where the first vector begins, at or before the first class.
  __device__ int64_t first_vector() const {
    const int64_t misaligned =
        stride_ == 1 ? reinterpret_cast<uintptr_t>(logits_ + begin_) / sizeof(S) % kN : 0;
    return begin_ - misaligned;
  }
  __device__ A logit(int64_t c) const { return objective_.logit(get(logits_[c * stride_])); }
  // Calls f(q) with the weights of the logits of classes c + [first, last) in the linear sum.
  template <class F>
  __device__ __forceinline__ void with_weights(int64_t c, int first, int last, F f) const {
    objective_.template with_weights<kN>(probabilities_, c, first, last, f);
  }

  // Calls f(c, x, first, last) for vectors of kN logits x of classes c, c + 1, ...; x[k] is there
  // for first <= k < last. The vectors are those that are aligned in memory, so that the first and
  // the last of a row may reach past its ends. Threads take turns.
  template <class F>
  __device__ __forceinline__ void for_vectors(int thread, int threads, F f) const {
    const int64_t step = int64_t{threads} * kN;
    int64_t c = first_vector() + int64_t{thread} * kN;
    for (; c < end_; c += kUnroll * step) {
      if (stride_ == 1 && c >= begin_ && c + (kUnroll - 1) * step + kN <= end_) {
        Values<S, kN> values[kUnroll];
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) values[u] = load_values<S, kN>(logits_ + c + u * step);
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) f(c + u * step, values[u], 0, kN);
      } else {
#pragma unroll 1
        for (int u = 0; u < kUnroll; ++u) {
          const int64_t start = c + u * step;
          if (start >= end_) break;
          if (stride_ == 1 && start >= begin_ && start + kN <= end_) {
            f(start, load_values<S, kN>(logits_ + start), 0, kN);
          } else {
            const int first = start < begin_ ? static_cast<int>(begin_ - start) : 0;
            const int last = end_ - start < kN ? static_cast<int>(end_ - start) : kN;
            Values<S, kN> values;
#pragma unroll
            for (int k = 0; k < kN; ++k) {
              // An absent one is read where this thread has another: nobody else writes there.
              const int present = k < first ? first : k < last ? k : last - 1;
              values.v[k] = logits_[(start + present) * stride_];
            }
            f(start, values, first, last);
          }
        }
      }
    }
  }

  // A thread's part of the sums, relative to m. y: the target, or a NoClass.
  __device__ RowSums<A, kTerms> sum(int thread, int threads, A m, int64_t y) const {
    const Reference<S> ref = objective_.reference(objective_.finite(m));
    RowSums<A, kTerms> row;
    for_vectors(thread, threads, [&](int64_t c, const Values<S, kN>& x, int first, int last) {
      const Chunk chunk = Chunk::of(c, kN, y);
      with_weights(c, first, last, [&](const A(&q)[kN]) {
        A z[kN];
        objective_.logits(x.v, z);
        objective_.add(row, chunk, first, last, ref, m, z, q);
      });
    });
    return row;
  }

  // The largest logit that a thread sees; -inf if all are NaN. The largest number has it.
  __device__ A largest(int thread, int threads) const {
    A m = -infinity<A>();
    for_vectors(thread, threads, [&](int64_t, const Values<S, kN>& x, int first, int last) {
#pragma unroll
      for (int k = 0; k < kN; ++k) {
        m = k >= first && k < last ? larger(m, get(x.v[k])) : m;
      }
    });
    return objective_.logit(m);
  }

 private:
  const Objective<S, kTerms>& objective_;
  const S* const logits_;
  const int64_t stride_, probabilities_, begin_, end_;
};

// The first guess of a row's reference: the target's logit, which is near the row's largest in all
// but the worst predictions. A linear sum would lose digits with one far from the largest, so it
// takes the largest of the row's beginning as well. The team shares the reading, and all of it get
// the same answer; so do the teams that have slices of one row.
template <class S, Terms kTerms, class Team, class A = Accumulate<S>>
__device__ A guess(const RowReader<S, kTerms>& reader, int64_t classes, Team& team, int64_t y) {
  A m = is_class(y) ? reader.logit(y) : -infinity<A>();
  if (!kHasLinear<kTerms>) return m;
  const int64_t n = classes < kProbe ? classes : kProbe;
  A probed = -infinity<A>();
  for (int64_t c = Team::thread(); c < n; c += Team::kSize)
    probed = larger(probed, reader.logit(c));
  return larger(m, team.largest(probed));
}

// A whole row by one team: guessed, summed, and summed again if the guess was no good.
template <class S, Terms kTerms, class Team, class A = Accumulate<S>>
__device__ RowState<A> sum_row(const Objective<S, kTerms>& objective, int64_t i, int64_t y,
                               Team& team, bool guessed) {
  const int64_t classes = objective.problem.classes;
  const RowReader<S, kTerms> reader(objective, i, 0, classes);
  const A target_logit = is_class(y) ? reader.logit(y) : A(0);
  const auto largest = [&] { return team.largest(reader.largest(Team::thread(), Team::kSize)); };
  A m = guessed ? guess<S, kTerms>(reader, classes, team, y) : largest();
#pragma unroll 1
  for (;; guessed = false) {
    const RowState<A> row = objective.state(
        team.sum(reader.sum(Team::thread(), Team::kSize, m, y), m), m, y, target_logit);
    if (!guessed || objective.is_in_range(row)) return row;
    m = largest();
  }
}

template <class S, Terms kTerms, int kThreads>
__global__ void __launch_bounds__(kBlock, kRowBlocks<S, kTerms>)
    rows_forward(const Objective<S, kTerms> objective, const Forward out, const Tiles tiles) {
  using A = Accumulate<S>;
  using T = Team<kThreads, A, kTerms>;
  __shared__ typename T::Shared shared;
  T team(shared);
  const int64_t rows = rows_of(objective.problem);
  const Reducer<A, kBlock> reducer(tiles);
  for (unsigned t = blockIdx.x; t < tiles.count; t += gridDim.x) {
    RowTotals<A> totals;
    for (int64_t i = tiles.begin(t) + T::index(); i < tiles.end(t, rows); i += T::kTeams) {
      const int64_t y = objective.target(i);
      const RowState<A> row = is_read(objective, y, out)
                                  ? sum_row<S, kTerms>(objective, i, y, team, /*guessed=*/true)
                                  : ignored_state<A>();
      if (T::thread() == 0) put_row(objective, row, i, out, totals);
    }
    if constexpr (T::kTeams > 1) {
      reducer.template put<kBlock>(t, totals);
    } else if (T::thread() == 0) {
      reducer.template put<1>(t, totals);
    }
  }
  reducer.finish();
}

// A row's gradient is cut into `slices`, each of which is one team's.
template <class S, Terms kTerms, int kThreads>
__global__ void __launch_bounds__(kBlock, kRowBlocks<S, kTerms>)
    rows_backward(const Objective<S, kTerms> objective, const Backward back, const int64_t slices,
                  const int64_t slice_classes) {
  using A = Accumulate<S>;
  using T = Team<kThreads, A, kTerms>;
  constexpr int kN = kVector<S>;
  const Problem& p = objective.problem;
  const int64_t items = rows_of(p) * slices, step = int64_t{gridDim.x} * T::kTeams;
  for (int64_t item = int64_t{blockIdx.x} * T::kTeams + T::index(); item < items; item += step) {
    const int64_t i = item / slices, begin = item % slices * slice_classes;
    const int64_t end = begin + slice_classes < p.classes ? begin + slice_classes : p.classes;
    const RowReader<S, kTerms> reader(objective, i, begin, end);
    const Factors<S> factors = objective.factors(back, i);
    const Reference<S> ref = objective.reference(factors.offset);
    S* const grad = static_cast<S*>(back.grad_logits) + row_offset(p, back.grad_strides, i);
    const int64_t stride = back.grad_strides.classes;
    // All vectors of the row are, if its first is.
    const bool aligned = stride == 1 && is_aligned<S, kN>(grad + reader.first_vector());
    const auto write = [&](int64_t c, const Values<S, kN>& x, int first, int last) {
      const Chunk chunk = Chunk::of(c, kN, factors.target);
      Values<S, kN> values;
      reader.with_weights(c, first, last, [&](const A(&q)[kN]) {
#pragma unroll
        for (int k = 0; k < kN; ++k) {
          put(&values.v[k], objective.gradient(ref, factors, chunk, k, x.v[k], q[k]));
        }
      });
      if (aligned && first == 0 && last == kN) {
        store_values<S, kN>(grad + c, values);
      } else {
#pragma unroll
        for (int k = 0; k < kN; ++k) {
          if (k >= first && k < last) grad[(c + k) * stride] = values.v[k];
        }
      }
    };
    reader.for_vectors(T::thread(), T::kSize, write);
  }
}

}  // namespace fused_ce::cuda
