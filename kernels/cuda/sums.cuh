// SPDX-License-Identifier: BSD-3-Clause
// The sums over a row's classes, from one class up. The mirror of cpu/sums.h.
//
// One class's exponential stays out of them, so that a confident row cancels nowhere: the target's,
// or, beside probabilities, that of the pivot, the largest logit. Statistics need both out. Which
// class the pivot is shows only at the end of the row. So whoever adds up some of its classes sets
// the largest of theirs aside; a larger one that comes later, here or with another thread's sums,
// takes its place and lets it into the sums. One read of the row is enough, and nothing is computed
// twice.
#pragma once

#include "exponential.cuh"

namespace fused_ce::cuda {

// What a row's classes add up to. kIndices: exponentials alone; smoothing adds a linear sum;
// probabilities add their mass. The general ones have all that any problem may ask for: statistics,
// and logits that are capped; that of indices serves smoothed ones too.
enum class Terms { kIndices, kSmoothed, kProbabilities, kGeneralIndices, kGeneralProbabilities };
template <Terms kTerms>
inline constexpr bool kIsGeneral = kTerms >= Terms::kGeneralIndices;
template <Terms kTerms>
inline constexpr bool kHasLinear = kTerms != Terms::kIndices;
template <Terms kTerms>
inline constexpr bool kHasMass =
    kTerms == Terms::kProbabilities || kTerms == Terms::kGeneralProbabilities;
template <Terms kTerms>
inline constexpr bool kHasPivot = kHasMass<kTerms> || kIsGeneral<kTerms>;

// No class.
inline constexpr int64_t kNowhere = INT64_MAX;

// The largest logit of a row, or of some of its classes: the first of several.
template <class A>
struct Pivot {
  A logit = -infinity<A>();  // -inf: there is none
  A exponential = 0;         // 0 of the target, which enters no sum
  A weight = 0;              // probabilities: q_j
  int64_t index = kNowhere;  // general

  __device__ __forceinline__ bool leads(const Pivot& other) const {
    return logit > other.logit || (logit == other.logit && index < other.index);
  }
};

// Some classes' sums: plain additions, which cost less than those of Sum.
template <class A, Terms kTerms>
struct Sums {
  // Four chains, each a fourth as long, are rounded less often. -0: nothing is added to the first
  // term.
  A exponentials[4] = {-A(0), -A(0), -A(0), -A(0)}, linear = -A(0), mass = -A(0), gap = -A(0);

  // e^z of kN logits z, relative to ref.
  template <int kN, class Ref>
  __device__ __forceinline__ void add_exponentials(const Ref& ref, const A (&z)[kN]) {
    if constexpr (sizeof(A) == sizeof(float) && kN % 4 == 0) {
      Two chains[2] = {{exponentials[0], exponentials[1]}, {exponentials[2], exponentials[3]}};
#pragma unroll
      for (int k = 0; k < kN; k += 2) {
        Two& chain = chains[k / 2 % 2];
        chain = ref.exponential(Two{z[k], z[k + 1]}).added_to(chain);
      }
#pragma unroll
      for (int k = 0; k < 4; ++k) exponentials[k] = k % 2 == 0 ? chains[k / 2].x : chains[k / 2].y;
    } else {
#pragma unroll
      for (int k = 0; k < kN; ++k) {
        exponentials[k % 4] = ref.exponential(z[k]).added_to(exponentials[k % 4]);
      }
    }
  }
  // What a class adds besides. Its logit and weight (smoothed class indices: w_j; probabilities:
  // q_j); m: the reference.
  __device__ __forceinline__ void add_linear(A logit, A weight, A m) {
    if constexpr (kHasLinear<kTerms>) linear += weight * (m - logit);
    if constexpr (kHasMass<kTerms>) mass += weight;
  }
  // largest: the pivot's logit.
  __device__ __forceinline__ void add_gap(A exponential, A logit, A largest) {
    // -inf, whose exponential is 0, adds 0.
    gap += exponential * smaller(largest - logit, Constants<A>::kLargest);
  }
  __device__ __forceinline__ A total() const {
    return (exponentials[0] + exponentials[1]) + (exponentials[2] + exponentials[3]);
  }
};

template <class A, Terms kTerms>
struct RowSums {
  Sum<A> exponentials;     // without the target's, and the pivot's
  Sum<A> linear;           // of w_j (m - x_j), or without the pivot's of q_j (m - x_j)
  Sum<A> mass;             // probabilities: of q_j without the pivot's
  Sum<A> gap;              // general: of the exponentials times x_p - x_j, x_p the pivot's logit
  Pivot<A> pivot;          // all but kIndices and kSmoothed
  int64_t nan = kNowhere;  // general: the first class that is NaN, but for the target

  // A larger logit takes the pivot's place, which enters the sums.
  __device__ __forceinline__ void set_pivot(const Pivot<A>& larger, A m) {
    if (pivot.logit > -infinity<A>()) {
      exponentials.add(pivot.exponential);
      if constexpr (kHasMass<kTerms>) {
        linear.add(pivot.weight * (m - pivot.logit));
        mass.add(pivot.weight);
      }
      if constexpr (kIsGeneral<kTerms>)
        gap.add(exponentials.total() * (larger.logit - pivot.logit));
    }
    pivot = larger;
  }

  __device__ __forceinline__ void add(const Sums<A, kTerms>& some) {
    exponentials.add(some.total());
    if constexpr (kHasLinear<kTerms>) linear.add(some.linear);
    if constexpr (kHasMass<kTerms>) mass.add(some.mass);
    if constexpr (kIsGeneral<kTerms>) gap.add(some.gap);
  }

  // Other classes of the row, relative to the same reference m. The same sums whichever is merged
  // into which.
  __device__ void merge(RowSums other, A m) {
    if constexpr (kHasPivot<kTerms>) {
      const bool leads =
          kIsGeneral<kTerms> ? other.pivot.leads(pivot) : other.pivot.logit > pivot.logit;
      if (leads) {
        const RowSums leader = other;
        other = *this;
        *this = leader;
      }
      other.set_pivot(pivot, m);
    }
    exponentials.add(other.exponentials);
    if constexpr (kHasLinear<kTerms>) linear.add(other.linear);
    if constexpr (kHasMass<kTerms>) mass.add(other.mass);
    if constexpr (kIsGeneral<kTerms>) {
      gap.add(other.gap);
      nan = other.nan < nan ? other.nan : nan;
    }
  }
};

}  // namespace fused_ce::cuda
