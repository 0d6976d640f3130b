// SPDX-License-Identifier: BSD-3-Clause
// The states of rows: what a loop makes of a row's classes, what is left for backward, and what a
// loss is finished from. A row is a lane.
#pragma once

#include "sums.h"
#include "transpose.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

// A number a row. The numbers of one row are used together, in arrays that would all begin at the
// same offset into a page, and crowd each other out of the first cache, were it not for the odd
// length.
template <class T, int kRows>
struct alignas(64) PerRow {
  T values[kRows + 192 / sizeof(T)];
  operator T*() { return values; }
  operator const T*() const { return values; }
};

// Double lanes [i, i + kLanes<double>) of an array.
inline Vec<double> lanes(const double* p, int i) { return load(p + i); }
inline Vec<double> lanes(const float* p, int i) { return widen_half(load_narrow(p + i)); }
// The same, multiplied in the array's own type.
inline Vec<double> lanes_times(const double* p, int i, double factor) {
  return load(p + i) * factor;
}
inline Vec<double> lanes_times(const float* p, int i, float factor) {
  return widen_half(load_narrow(p + i) * factor);
}

// Which class of each row stays out of the sum of exponentials (see finish.h), or why there is
// none.
template <class A, int kRows>
struct Pivots {
  PerRow<Int<A>, kRows> pivot;          // the target, or beside probabilities the largest logit's
                                        // class: or one of NoClass
  PerRow<double, kRows> target_weight;  // indices: w_y, 0 for rows that do not count

  bool counts(int i) const { return pivot[i] >= kElsewhere; }
  bool has_pivot(int i) const { return pivot[i] >= 0; }
  auto counting_lanes(int i) const {  // as many as double has
    return widen_integers<Int<A>>(load_narrow<Int<A>>(pivot + i)) >= int64_t{kElsewhere};
  }
  void leave_out(int i, NoClass why) {
    pivot[i] = why;
    target_weight[i] = 0;
  }
};

// The gradients that come in for rows, times what z is of x.
template <int kRows>
struct Incoming {
  PerRow<double, kRows> loss;    // g, of the row's loss
  PerRow<double, kRows> z_loss;  // that of lse^2, times 2: what lse is multiplied by
  PerRow<double, kRows> lse;
  PerRow<double, kRows> entropy;
  bool more;  // whether there are any but the loss's: else only that is read
};

// What rows are finished with.
template <int kRows>
struct Finished {
  PerRow<double, kRows> loss;
  PerRow<double, kRows> lse, z_loss;          // where they are asked for
  PerRow<double, kRows> entropy, confidence;  // with statistics
  // With statistics: of the largest logit over the reference, as the loops have rounded that one.
  PerRow<double, kRows> lead;
};

// kRows: the rows finished together, at most. What is said to be "of indices" or "of probabilities"
// is unused for the other kind.
template <class A, Terms kTerms, int kRows>
struct RowStates : Pivots<A, kRows> {
  PerRow<A, kRows> reference;
  PerRow<double, kRows> sum;        // of exponentials, without the pivot's
  PerRow<double, kRows> linear;     // sum of w_j (m - x_j) (indices) or q_j (m - x_j)
  PerRow<double, kRows> mass;       // probabilities: sum of q_j
  PerRow<A, kRows> pivot_logit;     // probabilities: the reference
  PerRow<double, kRows> pivot_exp;  // relative to the reference; forward: its inverse

  // With statistics: of the largest logit, whose exponential stays out of the sum in the place of
  // the pivot's.
  static constexpr int kRanked = kIsRanked<kTerms> ? kRows : 0;
  PerRow<A, kRanked> largest;
  PerRow<Int<A>, kRanked> prediction;  // its class
  // Sum of e^(z_j) (m - x_j) of the others, relative to the reference; backward: see Saved.
  PerRow<double, kRanked> gap;

  // A row that does not count, and is harmless to compute with.
  void blank(int i) {
    reference[i] = 0;
    sum[i] = 1;
    linear[i] = mass[i] = 0;
    pivot_logit[i] = 0;
    if constexpr (kIsRanked<kTerms>) largest[i] = 0, prediction[i] = 0, gap[i] = 0;
  }

  // A row's sums.
  void put(int i, const RowSums<A, kTerms>& sums) {
    sum[i] = sum_of_lanes(sums.exponentials.lanes());
    if constexpr (kHasLinear<kTerms>) linear[i] = sum_of_lanes(sums.linear.lanes());
    if constexpr (kHasMass<kTerms>) mass[i] = sum_of_lanes(sums.mass.lanes());
    if constexpr (kIsRanked<kTerms>) gap[i] = sum_of_lanes(sums.gap.lanes());
  }

  // Those of a vector of rows, each of which has lanes to be added up.
  void put_batch(int i, const RowSums<A, kTerms> (&rows)[kLanes<A>]) {
    put_folded(sum + i, rows, [](const auto& row) { return row.exponentials.lanes(); });
    if constexpr (kHasLinear<kTerms>)
      put_folded(linear + i, rows, [](const auto& row) { return row.linear.lanes(); });
    if constexpr (kHasMass<kTerms>)
      put_folded(mass + i, rows, [](const auto& row) { return row.mass.lanes(); });
    if constexpr (kIsRanked<kTerms>)
      put_folded(gap + i, rows, [](const auto& row) { return row.gap.lanes(); });
  }

  // Those of a vector of rows, a row a lane.
  void put_exponentials(int i, const LaneSums<A, kTerms>& sums) {
    sums.exponentials.put(sum + i);
    if constexpr (kIsRanked<kTerms>) sums.gap.put(gap + i);
  }
  void put_linear(int i, const LaneSums<A, kTerms>& sums) {
    if constexpr (kHasLinear<kTerms>) sums.linear.put(linear + i);
    if constexpr (kHasMass<kTerms>) sums.mass.put(mass + i);
  }

  // Adds some classes' to those of a vector of rows; `fresh`: they are the first. settle_lanes
  // follows after the last.
  FUSED_CE_INLINE void add_lanes(int i, const Sums<Vec<A>, kTerms>& sums, bool fresh,
                                 bool wants_gap) {
    add_to(sum, sum_lost, i, sums.exponentials, fresh);
    if constexpr (kAddsLinear<kTerms>) add_to(linear, linear_lost, i, sums.linear, fresh);
    if constexpr (kHasMass<kTerms>) add_to(mass, mass_lost, i, sums.mass, fresh);
    if constexpr (kIsRanked<kTerms>) {
      if (wants_gap) add_to(gap, gap_lost, i, sums.gap, fresh);
    }
  }
  // The same of the linear sum alone.
  FUSED_CE_INLINE void add_linear_lanes(int i, Vec<A> v, bool fresh) {
    add_to(linear, linear_lost, i, v, fresh);
  }
  void settle_lanes(int i, bool has_linear, bool wants_gap) {
    settle(sum, sum_lost, i);
    if (has_linear) settle(linear, linear_lost, i);
    if constexpr (kHasMass<kTerms>) settle(mass, mass_lost, i);
    if constexpr (kIsRanked<kTerms>) {
      if (wants_gap) return settle(gap, gap_lost, i);
      // A finish computes with it all the same.
      for (int k = i; k < i + kLanes<A>; k += kLanes<double>) store(gap + k, Vec<double>{});
    }
  }

 private:
  template <class F>
  static void put_folded(double* out, const RowSums<A, kTerms> (&rows)[kLanes<A>], F lanes_of) {
    for (int first = 0; first < kLanes<A>; first += kLanes<double>) {
      Vec<double> v[kLanes<double>];
      for (int r = 0; r < kLanes<double>; ++r) v[r] = lanes_of(rows[first + r]);
      store(out + first, fold_each<double>(v, [](auto a, auto b) { return a + b; }));
    }
  }

  // The lanes of sums that are in memory, and what they have lost: nothing of float terms.
  using Lost = PerRow<double, sizeof(A) == sizeof(double) ? kRows : 0>;
  Lost sum_lost, linear_lost, mass_lost, gap_lost;

  static FUSED_CE_INLINE void add_to(double* p, double* lost, int i, Vec<double> v, bool fresh) {
    CompensatedLanes s;
    if (!fresh) s = {load(p + i), load(lost + i)};
    s.add(v);
    store(p + i, s.sum);
    store(lost + i, s.lost);
  }
  static FUSED_CE_INLINE void add_to(double* p, double*, int i, Vec<float> v, bool fresh) {
    const Widened w = widen(v);
    store(p + i, fresh ? w.low : load(p + i) + w.low);
    store(p + i + kLanes<double>, fresh ? w.high : load(p + i + kLanes<double>) + w.high);
  }
  static void settle(double* p, const double* lost, int i) {
    if constexpr (sizeof(A) == sizeof(double))
      store(p + i, CompensatedLanes{load(p + i), load(lost + i)}.total());
  }
};

}  // namespace fused_ce::cpu::FUSED_CE_ISA
