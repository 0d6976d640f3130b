// SPDX-License-Identifier: BSD-3-Clause
// The sums of rows of few classes: the lanes of a vector are rows, which are transposed in
// registers on the way from memory. Vectors along the classes would be partly empty, and their
// lanes would have to be added up for every row; here a lane is a row's sum.
#pragma once

#include "results.h"
#include "targets.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

// Rows of at most so many classes: beyond, a transposition costs more than adding up lanes.
inline constexpr int64_t kFewClasses = 128;
// Rows finished together.
inline constexpr int kFewTile = 128;

// Rows of as many classes find their targets' logits one by one: fewer instructions than to compare
// every class with the target.
inline constexpr int kSoughtClasses = 2 * kLanes<float>;

template <class S, Terms kTerms>
class Few {
  using A = Accumulate<S>;
  using V = Vec<A>;
  using I = Vec<Int<A>>;
  static constexpr bool kIndices = Objective<S, kTerms>::kIndices;
  static constexpr int kW = kLanes<A>;
  static constexpr int kSide = kSquare<A>;  // classes that are transposed together
  static constexpr A kNone = -static_cast<A>(__builtin_inf());  // its exponential is 0
  // Vectors of transposed logits: half of a first cache at most.
  static constexpr int kKept = 256;
  static_assert(kKept >= kFewClasses);

 public:
  explicit Few(const Problem& problem)
      : p_(problem), classes_(static_cast<int>(problem.classes)), objective_(problem) {}

  // rows [first, first + n) of one tile
  void forward(const Forward& out, int64_t first, int n, TaskSums& sums) {
    sums.note(open(first, n));
    predicts_ = wants_prediction(out);
    wants_gap_ = wants_gap(out);
    constexpr bool kFromTarget = !kHasLinear<kTerms> && !kIsRanked<kTerms>;
    sum(kFromTarget);
    if (kFromTarget && !all_in_range()) sum(/*from_target=*/false);
    put_rows(p_, objective_, rows_, first, n, out, finished_, sums);
  }

 private:
  // Finds the tile's logits and targets. Returns the first bad row.
  int64_t open(int64_t first, int n) {
    first_ = first;
    n_ = n;
    logits_ = flat_rows(p_, first, n, gathered_);
    // A square may reach so many logits past the end of its last row.
    readable_ = logits_ == gathered_
                    ? n * classes_
                    : static_cast<int>(smaller((rows_of(p_) - first) * classes_,
                                               int64_t{2} * kFewTile * kFewClasses));
    if constexpr (!kIndices) return kNoBadRow;
    const int padded = (n + kW - 1) / kW * kW;
    return read_targets(p_, first, n, padded, rows_);
  }

  // kW rows from row i of the tile on, as the accumulate type, readable to the end of their last
  // square.
  const A* rows_at(int i) {
    const S* x = logits_ + i * classes_;
    const int size = kW * classes_, left = readable_ - i * classes_;
    if constexpr (sizeof(S) == sizeof(A)) {
      if (size + kSide <= left) return reinterpret_cast<const A*>(x);
    }
    int k = 0;
    for (; k + kW <= smaller(size, left); k += kW) store(converted_ + k, load(x + k));
    if (k < smaller(size, left)) {
      store(converted_ + k, load_partial(x + k, smaller(size, left) - k, A(0)));
      k += kW;
    }
    for (; k < size + kSide; ++k) converted_[k] = 0;  // computed with
    return converted_;
  }

  // The target probabilities of the same rows.
  const A* probabilities(int i) {
    const Strides& s = p_.target_strides;
    const int rows = smaller(kW, n_ - i);
    for (int r = 0; r < kW; ++r) {
      A* out = probabilities_ + r * classes_;
      if (r >= rows) {
        __builtin_memset(out, 0, static_cast<size_t>(classes_) * sizeof(A));
        continue;
      }
      const A* row = gather<A>(p_.target, p_.target_dtype, row_offset(p_, s, first_ + i + r),
                               s.classes, classes_, out);
      if (row != out) __builtin_memcpy(out, row, static_cast<size_t>(classes_) * sizeof(A));
    }
    return probabilities_;
  }

  // Finds the tile's sums; a row's reference is the target's logit or the largest. The sum of
  // exponentials has headroom enough for any reference that is near the row's logits, as the
  // target's is in all but the worst predictions; the linear sum would lose digits with one far
  // from the largest.
  //
  // Transposition and exponentials are loops of their own: with a transposition before each
  // exponential, the processor's window holds too few of them to hide what they wait for.
  void sum(bool from_target) {
    const int step =
        larger((classes_ + kSide - 1) / kSide * kSide, kSide);  // of no classes as well
    const int rows = larger(kKept / step, 1) * kW;
    for (int first = 0; first < n_; first += rows) {
      const int end = smaller(n_, first + rows);
      V* kept = kept_;
      for (int i = first; i < end; i += kW, kept += step) {
        const A* x = rows_at(i);
        if constexpr (kFindsLargest<kTerms>) {
          transpose_and_rank(x, i, kept);
          continue;
        }
        V m = from_target ? V{} : largest(x, i);
        const V pivot_logit = !kHasLinear<kTerms> && classes_ >= kSoughtClasses
                                  ? transpose_and_seek(x, i, kept)
                                  : transpose(x, i, m, kept);
        if (from_target) m = pivot_logit;
        if constexpr (kIsRanked<kTerms>) {
          store(rows_.largest + i, m);
          store(rows_.prediction + i, load(rows_.pivot + i));
          m = objective_.above_infinity(m);
        }
        store(rows_.reference + i, m);
        store(rows_.pivot_logit + i, pivot_logit);
      }
      kept = kept_;
      for (int i = first; i < end; i += kW, kept += step) add_up(i, kept);
    }
  }

  // The largest logit of each row from row i on; beside probabilities its class is the pivot.
  V largest(const A* x, int i) {
    V m = splat(kNone);
    I pivot{};
    for (int c = 0; c < classes_; c += kSide) {
      V square[kSide];
      objective_.transposed_logits(x + c, classes_, square);
#pragma GCC unroll 4
      for (int k = 0; k < kSide; ++k) {
        if (c + k >= classes_) break;
        if constexpr (!kIndices) pivot = square[k] > m ? I{} + static_cast<Int<A>>(c + k) : pivot;
        m = larger(m, square[k]);
      }
    }
    if constexpr (!kIndices) store(rows_.pivot + i, pivot);
    return m;
  }

  // Puts into `kept`, class by class, the logits whose exponentials enter the rows' sums, and
  // returns the pivots' (0 for ignored rows). The linear sums are done on the way.
  V transpose(const A* x, int i, V m, V* kept) {
    const A* t = kIndices ? nullptr : probabilities(i);
    const I pivot = load(rows_.pivot + i);
    V pivot_logit{};
    LaneSums<A, kTerms> sums;
    for (int c = 0; c < classes_; c += kSide) {
      V square[kSide], q[kSide] = {};
      objective_.transposed_logits(x + c, classes_, square);
      if constexpr (!kIndices) load_transposed(t + c, classes_, q);
      const I to_pivot = pivot - static_cast<Int<A>>(c);
      Sums<V, kTerms> of_square;
#pragma GCC unroll 4
      for (int k = 0; k < kSide; ++k) {
        if constexpr (kHasLinear<kTerms>) {
          if (c + k >= classes_) break;
          objective_.add_linear(of_square, m, square[k], objective_.weight_of(c + k, q[k]));
        }
        const auto is_pivot = to_pivot == static_cast<Int<A>>(k);
        pivot_logit = is_pivot ? square[k] : pivot_logit;
        kept[c + k] = is_pivot ? splat(kNone) : square[k];
      }
      sums.add_linear(of_square);
    }
    rows_.put_linear(i, sums);
    return pivot_logit;
  }

  // The same for class indices. Nothing reads a vector with such a hole before it has left the
  // processor's store queue: other rows' lie between.
  V transpose_and_seek(const A* x, int i, V* kept) {
    for (int c = 0; c < classes_; c += kSide) {
      V square[kSide];
      objective_.transposed_logits(x + c, classes_, square);
#pragma GCC unroll 4
      for (int k = 0; k < kSide; ++k) kept[c + k] = square[k];
    }
    alignas(64) A pivot_logit[kW] = {};
    for (int r = 0; r < kW; ++r) {
      if (!rows_.has_pivot(i + r)) continue;
      A* const at_pivot = reinterpret_cast<A*>(kept + rows_.pivot[i + r]) + r;
      pivot_logit[r] = *at_pivot;
      *at_pivot = kNone;
    }
    return load(pivot_logit);
  }

  // The same where statistics are asked for: the largest logit is the reference, and its
  // exponential does not enter.
  void transpose_and_rank(const A* x, int i, V* kept) {
    const bool linear = objective_.has_linear(), seeks = classes_ >= kSoughtClasses;
    const bool finds_class = linear || predicts_;
    const I pivot = load(rows_.pivot + i);
    V m = splat(kNone), pivot_logit{};
    I at{};
    for (int c = 0; c < classes_; c += kSide) {
      V square[kSide];
      objective_.transposed_logits(x + c, classes_, square);
#pragma GCC unroll 4
      for (int k = 0; k < kSide; ++k) {
        if (c + k >= classes_) break;
        const I here = I{} + static_cast<Int<A>>(c + k);
        if (!seeks) pivot_logit = pivot == here ? square[k] : pivot_logit;
        if (finds_class) at = square[k] > m ? here : at;
        const V enters = objective_.entering(square[k], m);
        kept[c + k] = linear ? square[k] : enters;
      }
    }
    for (int r = 0; seeks && r < kW; ++r)
      pivot_logit[r] = rows_.has_pivot(i + r) ? x[r * classes_ + rows_.pivot[i + r]] : A(0);
    store(rows_.largest + i, m);
    store(rows_.prediction + i, at);
    store(rows_.pivot_logit + i, pivot_logit);
    m = objective_.above_infinity(m);
    store(rows_.reference + i, m);
    if (linear) add_linear(i, m, at, kept);
  }

  // The linear sums of logits that are kept as they are, and then the largest taken out of those.
  // (A NaN belongs into the sum.)
  void add_linear(int i, V m, I at, V* kept) {
    LaneSums<A, kTerms> sums;
    for (int c = 0; c < classes_; c += kSide) {
      Sums<V, kTerms> some;
      for (int k = c; k < smaller(c + kSide, classes_); ++k) {
        objective_.add_linear(some, m, kept[k], objective_.weight_of(k, V{}));
        const auto leads = (at == static_cast<Int<A>>(k)) & (kept[k] == kept[k]);
        kept[k] = leads ? splat(kNone) : kept[k];
      }
      sums.add_linear(some);
    }
    rows_.put_linear(i, sums);
  }

  // Sums of float are rounded every time, which a row of few terms does not average out: two of
  // them are added before they go into double, four where a row has more, or eight, as a tree. Half
  // types do not notice, and double has digits to spare.
  void add_up(int i, const V* kept) {
    const V m = load(rows_.reference + i);
    const Exponentials exponentials{objective_.reference(m), m, wants_gap_, kept,
                                    logits_ + (n_ + i) * classes_};
    constexpr bool kOften = sizeof(S) == sizeof(float);
    LaneSums<A, kTerms> total;
    int c = 0;
    const auto add = [&]<int kPairs>(int trees) __attribute__((always_inline)) {
      while (c + 2 * kPairs <= classes_) {
        auto sums = exponentials.template tree<kPairs>(c);
        c += 2 * kPairs;
        for (int t = 1; t < trees && c + 2 * kPairs <= classes_; ++t, c += 2 * kPairs)
          sums = sums + exponentials.template tree<kPairs>(c);
        total.add_exponentials(folded(sums));
      }
    };
    if (classes_ >= 64) {
      add.template operator()<4>(kOften ? 1 : 4);
    } else if (classes_ >= 32) {
      add.template operator()<2>(kOften ? 1 : 4);
    }
    add.template operator()<1>(kOften ? 1 : 4);
    if (c < classes_) total.add_exponentials(objective_.exponential(exponentials.from(), kept[c]));
    rows_.put_exponentials(i, total);
  }

  // Of a vector of rows, whose logits are kept.
  struct Exponentials {
    const Reference<S> ref;
    const V m;
    const bool wants_gap;
    const V* kept;
    const S* next;  // the logits of the next tile's rows

    FUSED_CE_INLINE auto from() const { return Objective<S, kTerms>::origin(ref, m, wants_gap); }
    // The sum of kPairs pairs of classes from class c on.
    template <int kPairs>
    FUSED_CE_INLINE Sums<Pair<V>, kTerms> tree(int c) const {
      if constexpr (kPairs == 1) {
        prefetch(c);
        return Objective<S, kTerms>::exponential(from(), Pair<V>{kept[c], kept[c + 1]});
      } else {
        return tree<kPairs / 2>(c) + tree<kPairs / 2>(c + kPairs);
      }
    }
    // The next tile's logits are fetched meanwhile, a line now and then: all at once, they would
    // keep the processor waiting.
    FUSED_CE_INLINE void prefetch(int c) const {
      constexpr int kLine = 64 / static_cast<int>(sizeof(S));
      if (c * kW % kLine == 0) __builtin_prefetch(next + c * kW, 0, 2);
      if (kW >= kLine) __builtin_prefetch(next + (c + 1) * kW, 0, 2);
    }
  };

  // Of class indices.
  bool all_in_range() const {
    Vec<int64_t> all = ~Vec<int64_t>{};
    for (int i = 0; i < n_; i += kLanes<double>) {
      const Vec<double> sum = lanes(rows_.sum, i);
      all &= ((sum >= 0.0) & (sum < ReferenceConstants<S>::kLargestSum) &
              (lanes(rows_.reference, i) != static_cast<double>(kNone))) |
             ~rows_.counting_lanes(i);
    }
    return all_lanes(all);
  }

  const Problem& p_;
  const int classes_;
  const Objective<S, kTerms> objective_;
  const S* logits_ = nullptr;
  int64_t first_ = 0;
  int n_ = 0, readable_ = 0;
  bool predicts_ = false;  // whether predictions are asked for
  bool wants_gap_ = false;
  RowStates<A, kTerms, kFewTile> rows_;
  Finished<kFewTile> finished_;
  alignas(64) S gathered_[kFewClasses * kFewTile];
  alignas(64) A converted_[kFewClasses * kW + kSide + kW];
  alignas(64) A probabilities_[kFewClasses * kW + kSide];
  V kept_[kKept];
};

}  // namespace fused_ce::cpu::FUSED_CE_ISA
