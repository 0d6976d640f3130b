// The sums over a row's classes, from one class up. The mirror of cpu/sums.h.
//
// One class's exponential stays out of them: the target's, or, beside probabilities, the largest,
// so that a confident row cancels nowhere. Which class that is shows only at the end of the row.
// So whoever adds up some of its classes sets the largest of theirs aside, whole: a larger one that
// comes later, here or with another thread's sums, takes its place and lets it into the sums. One
// read of the row is enough, and nothing is computed twice.
#pragma once

#include "math.cuh"

namespace fused_ce::cuda {

// kIndices adds up exponentials alone; smoothing adds a linear sum; probabilities add their mass.
enum class Terms { kIndices, kSmoothed, kProbabilities };
template <Terms kTerms>
inline constexpr bool kHasLinear = kTerms != Terms::kIndices;
template <Terms kTerms>
inline constexpr bool kHasMass = kTerms == Terms::kProbabilities;

// What a class adds to its row's sums.
template <class A>
struct Term {
  A exponential = 0;
  A logit = 0;
  A weight = 0;  // smoothed class indices: w_j; probabilities: q_j
};

// Some terms' sums: plain additions, which cost less than those of Sum.
template <class A, Terms kTerms>
struct Sums {
  // Two chains, each half as long, are rounded less often. -0: nothing is added to the first term.
  A exponentials[2] = {-A(0), -A(0)}, linear = -A(0), mass = -A(0);

  // The k-th term. m: the reference.
  __device__ __forceinline__ void add(int k, const Term<A>& term, A m) {
    exponentials[k % 2] += term.exponential;
    if constexpr (kHasLinear<kTerms>) linear += term.weight * (m - term.logit);
    if constexpr (kHasMass<kTerms>) mass += term.weight;
  }
};

template <class A, Terms kTerms>
struct RowSums {
  Sum<A> exponentials;  // without the target's, or the pivot's
  Sum<A> linear;        // of w_j (m - x_j), or without the pivot's of q_j (m - x_j)
  Sum<A> mass;          // probabilities: of q_j without the pivot's
  Term<A> pivot;        // probabilities: the term with the largest exponential yet

  // What enters the sums for this term: the smaller of it and the pivot; or all but the target's
  // exponential.
  __device__ __forceinline__ Term<A> entering(Term<A> term, bool is_target) {
    if constexpr (!kHasMass<kTerms>) {
      if (is_target) term.exponential = 0;
      return term;
    }
    const bool leads = term.exponential > pivot.exponential;  // NaN and 0 enter the sums
    const Term<A> smaller = leads ? pivot : term;
    pivot = leads ? term : pivot;
    return smaller;
  }

  __device__ __forceinline__ void add(const Sums<A, kTerms>& some) {
    exponentials.add(some.exponentials[0] + some.exponentials[1]);
    if constexpr (kHasLinear<kTerms>) linear.add(some.linear);
    if constexpr (kHasMass<kTerms>) mass.add(some.mass);
  }
  // Other classes of the row, relative to the same reference m. The same exponentials whichever is
  // merged into which.
  __device__ void merge(const RowSums& other, A m) {
    exponentials.add(other.exponentials);
    if constexpr (kHasLinear<kTerms>) linear.add(other.linear);
    if constexpr (kHasMass<kTerms>) {
      mass.add(other.mass);
      Sums<A, kTerms> smaller;
      smaller.add(0, entering(other.pivot, false), m);
      add(smaller);
    }
  }
};

}  // namespace fused_ce::cuda
