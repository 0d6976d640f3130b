// Rows whose classes are neighbours: a team of threads a row, each with 128 bits of it at a time.
// One read of the logits forward; one read and one write backward. A row need not be held anywhere
// between: its reference is known before its first logit is read (see guess).
#pragma once

#include "team.cuh"

namespace fused_ce::cuda {

// Loads under way at once in a thread. Three sums in double leave no registers for more than two,
// and wait for the FP64 units rather than for memory.
template <class S, Terms kTerms>
inline constexpr int kLoads = kTerms != Terms::kIndices && sizeof(S) == 8 ? 2 : 4;
// The first guess of a row's reference is the largest of so many logits.
inline constexpr int kProbe = 128;
// Blocks a multiprocessor must have room for: at most 80 registers a thread, and 128. Left to
// itself, ptxas takes up to 240 for some architectures, and spills at 48 for others.
template <class S, Terms kTerms>
inline constexpr int kRowBlocks = kTerms == Terms::kIndices && sizeof(S) < 8 ? 3 : 2;

// One row, or one slice of it: classes [begin, end).
template <class S, Terms kTerms>
class RowReader {
  using A = Accumulate<S>;
  static constexpr int kN = kVector<S>;
  static constexpr int kUnroll = kLoads<S, kTerms>;

 public:
  __device__ RowReader(const SmoothedProblem<S>& p, int64_t row, int64_t begin, int64_t end)
      : p_(p),
        logits_(static_cast<const S*>(p.logits) + row_offset(p, p.logits_strides, row)),
        stride_(p.logits_strides.classes),
        probabilities_(probabilities_offset(p, row)),
        begin_(begin),
        end_(end) {}

  // The class where the first vector begins, at or before the first class.
  __device__ int64_t first_vector() const {
    const int64_t misaligned =
        stride_ == 1 ? reinterpret_cast<uintptr_t>(logits_ + begin_) / sizeof(S) % kN : 0;
    return begin_ - misaligned;
  }
  __device__ A logit(int64_t c) const { return get(logits_[c * stride_]); }
  // Calls f(q) with the weights of the logits of classes c + [first, last) in the linear sum.
  template <class F>
  __device__ __forceinline__ void with_weights(int64_t c, int first, int last, F f) const {
    with_weights_of_classes<kTerms, kN>(p_, probabilities_, c, first, last, f);
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
              const bool present = k >= first && k < last;
              values.v[k] = logits_[(present ? start + k : begin_) * stride_];
            }
            f(start, values, first, last);
          }
        }
      }
    }
  }

  // A thread's part of the sums.
  __device__ RowSums<A, kTerms> sums(int thread, int threads, A m, int64_t y) const {
    const Reference<S> ref(Offset<S>::of(m));
    RowSums<A, kTerms> sums;
    for_vectors(thread, threads, [&](int64_t c, const Values<S, kN>& x, int first, int last) {
      const int target = place_of(y, c, kN);
      with_weights(c, first, last, [&](const A(&q)[kN]) {
        PlainSums<A, kTerms> plain;
#pragma unroll
        for (int k = 0; k < kN; ++k) {
          if (k < first || k >= last) continue;
          const A logit = get(x.v[k]);
          plain.add(k, sums.entering({ref.exp(logit), m - logit, q[k]}, k == target));
        }
        sums.add(plain);
      });
    });
    return sums;
  }

  // The largest logit that a thread sees; -inf if all are NaN.
  __device__ A largest(int thread, int threads) const {
    A m = -infinity<A>();
    for_vectors(thread, threads, [&](int64_t, const Values<S, kN>& x, int first, int last) {
#pragma unroll
      for (int k = 0; k < kN; ++k) m = k >= first && k < last ? larger(m, get(x.v[k])) : m;
    });
    return m;
  }

 private:
  const SmoothedProblem<S>& p_;
  const S* const logits_;
  const int64_t stride_, probabilities_, begin_, end_;
};

// The first guess of a row's reference: the target's logit, which is near the row's largest in all
// but the worst predictions. A linear sum would lose digits with one far from the largest, so it
// takes the largest of the row's beginning as well. The team shares the reading, and all of it get
// the same answer; so do the teams that have slices of one row.
template <class S, Terms kTerms, class Team, class A = Accumulate<S>>
__device__ A guess(const SmoothedProblem<S>& p, const RowReader<S, kTerms>& reader, Team& team,
                   int64_t y) {
  A m = y >= 0 ? reader.logit(y) : -infinity<A>();
  if (kTerms == Terms::kIndices) return m;
  const int64_t n = p.classes < kProbe ? p.classes : kProbe;
  A probed = -infinity<A>();
  for (int64_t c = Team::thread(); c < n; c += Team::kSize)
    probed = larger(probed, reader.logit(c));
  return larger(m, team.largest(probed));
}

template <class S, Terms kTerms, class A = Accumulate<S>>
__device__ bool is_in_range(const Row<A>& row, int64_t classes) {
  const A sum = row.sum.total();
  return row.reference > -infinity<A>() && sum >= 0 &&
         sum < largest_sum<S>(kTerms != Terms::kIndices, classes) &&
         // A linear sum without the pivot loses no digits to it; half types' exponential does.
         row.pivot_exp < largest_sum<S>(kIsHalf<S>, classes);
}

// A whole row by one team: guessed, summed, and summed again if the guess was no good.
template <class S, Terms kTerms, class Team, class A = Accumulate<S>>
__device__ Row<A> sum_row(const SmoothedProblem<S>& p, int64_t i, int64_t y, Team& team,
                          bool guessed) {
  const RowReader<S, kTerms> reader(p, i, 0, p.classes);
  const A target_logit = y >= 0 ? reader.logit(y) : A(0);
  const A target_weight = y >= 0 ? weight_of<A>(p, y) : A(0);
  const auto relative_to = [&](A m) {
    return finished_sums(team.sum(reader.sums(Team::thread(), Team::kSize, m, y)), m, y,
                         target_logit, target_weight);
  };
  if (guessed) {
    const Row<A> row = relative_to(guess<S, kTerms>(p, reader, team, y));
    if (is_in_range<S, kTerms>(row, p.classes)) return row;
  }
  return relative_to(team.largest(reader.largest(Team::thread(), Team::kSize)));
}

template <class S, Terms kTerms, int kThreads>
__global__ void __launch_bounds__(kBlock, kRowBlocks<S, kTerms>)
    rows_forward(const SmoothedProblem<S> p, const Forward out, Partial* partials) {
  using A = Accumulate<S>;
  using T = Team<kThreads, A, kTerms>;
  __shared__ typename T::Shared shared;
  T team(shared);
  constexpr bool indices = kTerms != Terms::kProbabilities;
  const int64_t rows = rows_of(p), step = int64_t{gridDim.x} * T::kTeams;
  BlockTotals<A> totals;
  for (int64_t i = int64_t{blockIdx.x} * T::kTeams + T::index(); i < rows; i += step) {
    const int64_t y = target_of(p, i);
    const Row<A> row =
        indices && y < 0 ? ignored_row<A>() : sum_row<S, kTerms>(p, i, y, team, /*guessed=*/true);
    if (T::thread() != 0) continue;
    const A loss = loss_of<S, kTerms>(p, row);
    put_row<kTerms>(out, i, row, loss);
    totals.add(loss, row.target_weight);
  }
  totals.put(partials);
}

// A row's gradient is cut into `slices`, each of which is one team's.
template <class S, Terms kTerms, int kThreads>
__global__ void __launch_bounds__(kBlock, kRowBlocks<S, kTerms>)
    rows_backward(const SmoothedProblem<S> p, const Backward back, const int64_t slices,
                  const int64_t slice_classes) {
  using A = Accumulate<S>;
  using T = Team<kThreads, A, kTerms>;
  constexpr int kN = kVector<S>;
  const int64_t items = rows_of(p) * slices, step = int64_t{gridDim.x} * T::kTeams;
  for (int64_t item = int64_t{blockIdx.x} * T::kTeams + T::index(); item < items; item += step) {
    const int64_t i = item / slices, begin = item % slices * slice_classes;
    const int64_t end = begin + slice_classes < p.classes ? begin + slice_classes : p.classes;
    const RowReader<S, kTerms> reader(p, i, begin, end);
    const Factors<S> factors = factors_of<S, kTerms>(p, back, i);
    const Reference<S> ref(factors.offset);
    S* const grad = static_cast<S*>(back.grad_logits) + row_offset(p, back.grad_strides, i);
    const int64_t stride = back.grad_strides.classes;
    // All vectors of the row are, if its first is.
    const bool aligned = stride == 1 && is_aligned<S, kN>(grad + reader.first_vector());
    const auto write = [&](int64_t c, const Values<S, kN>& x, int first, int last) {
      const int target = place_of(factors.target, c, kN);
      Values<S, kN> values;
      reader.with_weights(c, first, last, [&](const A(&q)[kN]) {
#pragma unroll
        for (int k = 0; k < kN; ++k) {
          put(&values.v[k], gradient<S, kTerms>(ref, factors, k == target, get(x.v[k]), q[k]));
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
