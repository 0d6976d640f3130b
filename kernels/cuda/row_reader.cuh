// SPDX-License-Identifier: BSD-3-Clause
// The classes of a row that are neighbours in memory, by a team of threads: whole vectors of 128
// bits, some of which a thread asks for at once, a round; and what is left at either end, one class
// at a time. A row need not be held anywhere: its reference is known before it is summed (see
// guess). A row's first round is asked for before that.
#pragma once

#include <type_traits>

#include "results.cuh"
#include "team.cuh"

namespace fused_ce::cuda {

// Vectors under way at once in a thread. Double leaves no registers for more than two, and waits
// for the FP64 units rather than for memory.
template <class S>
inline constexpr int kLoads = sizeof(S) == 8 ? 2 : 4;
// The first guess of a row's reference is the largest of so many logits.
inline constexpr int kProbe = 128;

// What a team counts the classes and vectors of a row, or of its piece, in: within a warp it has
// few (see plan.cpp).
template <int kThreads>
using Count = std::conditional_t<kThreads <= kWarp, uint32_t, uint64_t>;

// Classes [begin, end) of one row, which a team of kThreads reads.
template <class S, Terms kTerms, int kThreads>
class RowReader {
  using A = Accumulate<S>;
  using Count = cuda::Count<kThreads>;
  static constexpr int kN = kVector<S>;
  // Classes from one of a thread's vectors to its next, and from round to round.
  static constexpr int kStep = kThreads * kN, kRound = kLoads<S> * kStep;

 public:
  static constexpr int kUnroll = kLoads<S>;  // a thread's vectors in a round
  // A thread's odd vector: it has one more than whole rounds. Alone in the last one it would wait
  // for memory with little under way, so it is asked for with the first. Double has no registers
  // for it, and probabilities would be waited for all the same.
  static constexpr bool kTakesOdd = sizeof(S) < 8 && !kHasMass<kTerms>;
  using Vectors = Word<S, kN>[kUnroll];
  struct Round {
    Vectors vectors;
    // Of the first round: a vector that comes before it, and one of the classes at the ends.
    Word<S, kN> odd;
    S end;
  };

  // `aligned`: whose address decides where vectors begin, the logits or what is written for them;
  // `packed`: whether classes are neighbours there.
  __device__ RowReader(const Objective<S, kTerms>& objective, int64_t row, int64_t begin,
                       int64_t end, const S* aligned, bool packed)
      : objective_(objective),
        logits_(row_of(objective, row)),
        probabilities_(objective.probabilities(row)) {
    const Count classes = static_cast<Count>(end - begin);
    const int past =
        static_cast<int>(reinterpret_cast<uintptr_t>(aligned + begin) / sizeof(S) % kN);
    const int before = packed && past > 0 ? kN - past : 0;
    head_ = classes < static_cast<Count>(before) ? static_cast<int>(classes) : before;
    begin_ = begin + head_;
    vectors_ = (classes - head_) / kN;
    ends_ = static_cast<int>(classes - vectors_ * kN);
    packed_ = packed && stride() == 1 && is_aligned<S, kN>(logits_ + begin_);
    // What the first thread of a warp has, by which all decide. The rows of small teams may differ
    // by a vector, as they begin elsewhere in one: they decide by classes / kN, which is the same
    // for all. If there is an odd vector, this is at least kUnroll + 1, and every thread has
    // kUnroll: the odd one, and some in rounds.
    const int most = share_of(thread() / kWarp * kWarp, kThreads < kWarp ? classes / kN : vectors_);
    has_odd_ = kTakesOdd && most > 1 && most % kUnroll == 1;
    in_rounds_ = share_of(thread(), vectors_) - has_odd_;
  }
  // Vectors as the logits have them.
  __device__ RowReader(const Objective<S, kTerms>& objective, int64_t row, int64_t begin,
                       int64_t end)
      : RowReader(objective, row, begin, end, row_of(objective, row),
                  objective.problem.logits_strides.classes == 1) {}

  // The number in memory for a class of the row, and its logit.
  __device__ S number(int64_t c) const { return logits_[c * stride()]; }
  __device__ A logit(int64_t c) const { return objective_.logit(get(number(c))); }

  // Asks for what a thread begins with.
  __device__ __forceinline__ Round first() const {
    Round round;
    if (packed_) {
      if (has_odd_) round.odd = load(first_class());
      load(in_rounds_, first_of_rounds(), round.vectors);
    }
    round.end = thread() < ends_ ? number(end_class(thread())) : S();
    return round;
  }

  // Calls end(c, x) for what the thread has of the classes at the ends; then vector(c, x) for a
  // vector that is in no round, and round(left, c, x) for rounds of vectors x, the first of which
  // has class c; all are vector(c, x) where a vector is no one load. What a last round lacks is
  // -inf, whose exponential is 0: a warp's lanes, which may have several rows, stay together.
  // `choose` calls what it is given, a loop, with the `round` of its choice.
  template <class Choose, class OfVector, class OfEnd>
  __device__ __forceinline__ void for_all(Round now, Choose choose, OfVector vector,
                                          OfEnd end) const {
    for_ends(now, end);
    if (!packed_) return for_unpacked(vector);
    if (has_odd_) vector(first_class(), values_of<S, kN>(now.odd).v);
    if (in_rounds_ > 0) choose([&](auto round) { for_rounds(now, round); });
  }
  // Calls vector(c) and end(c) for the classes of the thread, without a look at them.
  template <class OfVector, class OfEnd>
  __device__ __forceinline__ void for_classes(OfVector vector, OfEnd end) const {
#pragma unroll 1
    for (int e = thread(); e < ends_; e += kThreads) end(end_class(e));
#pragma unroll 1
    for (int v = 0; v < mine(); ++v) vector(begin_ + (thread() + int64_t{v} * kThreads) * kN);
  }

  // A thread's part of the sums, relative to m. y: the target, or a NoClass.
  __device__ RowSums<A, kTerms> sum(Round first, A m, int64_t y) const {
    RowSums<A, kTerms> row;
    const Reference<S> ref = objective_.reference(objective_.finite(m));
    const auto add_vector = [&](int64_t c, const S(&x)[kN]) { add(row, ref, m, c, x, y); };
    const auto add_end = [&](int64_t c, S x) {
      const S one[1] = {x};
      add(row, ref, m, c, one, y);
    };
    Count way = way_to(y);
    for_all(
        first,
        [&](auto loop) {
          if (!objective_.all_weigh_the_same())
            return loop([&](int left, int64_t c, const Vectors& x) {
              for_vectors(left, c, x, add_vector);
            });
          ref.with_nearness([&](const auto& near) {
            loop([&](int left, int64_t c, Vectors& x) {
              const Count place = way;
              way -= kRound;
              if constexpr (kTerms == Terms::kIndices) {
                if (place < kRound) silence(static_cast<int>(place), x);
              } else if (place < kRound || left < kUnroll) {
                return for_vectors(left, c, x, add_vector);
              }
              add_round(row, near, m, x);
            });
          });
        },
        add_vector, add_end);
    return row;
  }

  // The largest logit that a thread sees; -inf if all are NaN. The largest number has it.
  __device__ A largest() const {
    A m = -infinity<A>();
    const int64_t begin = begin_ - head_, end = begin + ends_ + in_vectors();
#pragma unroll 4
    for (int64_t c = begin + thread(); c < end; c += kThreads) m = larger(m, get(number(c)));
    return objective_.logit(m);
  }

  // Calls f(q) with the weights of the logits of classes c + [0, n) in the linear sum.
  template <int n, class F>
  __device__ __forceinline__ void with_weights(int64_t c, F f) const {
    objective_.template with_weights<n>(probabilities_, c, n, f);
  }

  // How many classes there are from the first of the thread's rounds to one that is in them. A huge
  // number for others: ~0, or for the odd vector's a negative one that has wrapped around, as it
  // does once the class's round is over and the way goes on becoming shorter.
  __device__ __forceinline__ Count way_to(int64_t y) const {
    const auto place = static_cast<uint64_t>(y - begin_);
    const auto c = static_cast<Count>(place);
    const bool is_mine = place < static_cast<uint64_t>(in_vectors()) && is_of_thread(c / kN);
    return is_mine ? c - static_cast<Count>(first_of_rounds() - begin_) : ~Count{0};
  }
  // Whether the thread has a class, in a vector or at the ends; a NoClass is none.
  __device__ __forceinline__ bool has(int64_t y) const {
    const int64_t place = y - begin_, behind = place - in_vectors();
    if (place >= 0 && behind < 0) return is_of_thread(static_cast<Count>(place) / kN);
    const int64_t e = head_ + (place < 0 ? place : behind);
    return e >= 0 && e < ends_ && is_of_thread(static_cast<Count>(e));
  }
  // Calls f(u) for the vectors of a round where the thread has so many left.
  template <class F>
  static __device__ __forceinline__ void for_present(int left, F f) {
    if (left >= kUnroll) {
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) f(u);
    } else {
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        if (u < left) f(u);
      }
    }
  }
  // Calls vector(c, x) for them: x are those of the round, the first of which has class c.
  template <class F>
  static __device__ __forceinline__ void for_vectors(int left, int64_t c, const Vectors& x,
                                                     F vector) {
    for_present(left, [&](int u) { vector(class_at(c, u), values_of<S, kN>(x[u]).v); });
  }
  // The class where the u-th vector of a round begins whose first begins with class c.
  static __device__ __forceinline__ int64_t class_at(int64_t c, int u) { return c + u * kStep; }
  template <class T>
  static __device__ __forceinline__ T* vector_at(T* first, int u) {
    return first + u * kStep;
  }

 private:
  __device__ int64_t stride() const { return objective_.problem.logits_strides.classes; }
  static __device__ int thread() { return static_cast<int>(threadIdx.x) % kThreads; }
  static __device__ const S* row_of(const Objective<S, kTerms>& objective, int64_t row) {
    const Problem& p = objective.problem;
    return static_cast<const S*>(p.logits) + row_offset(p, p.logits_strides, row);
  }
  // How many of a row's vectors one of the team's threads has, and this one of its own.
  static __device__ int share_of(int thread, Count vectors) {
    return static_cast<int>((vectors + (kThreads - 1 - thread)) / kThreads);
  }
  __device__ int mine() const { return in_rounds_ + has_odd_; }
  // Classes in vectors.
  __device__ int64_t in_vectors() const { return static_cast<int64_t>(vectors_ * kN); }
  // Whether the thread has the n-th of what the team takes by turns.
  static __device__ __forceinline__ bool is_of_thread(Count n) {
    return static_cast<int>(n % kThreads) == thread();
  }
  // The class where the thread's first vector begins.
  __device__ __forceinline__ int64_t first_class() const { return begin_ + thread() * kN; }
  // Where its rounds begin.
  __device__ __forceinline__ int64_t first_of_rounds() const {
    return first_class() + (has_odd_ ? kStep : 0);
  }
  // The e-th of the classes that are in no vector.
  __device__ __forceinline__ int64_t end_class(int e) const {
    return begin_ - head_ + e + (e < head_ ? 0 : in_vectors());
  }

  template <class F>
  __device__ __forceinline__ void for_ends(const Round& now, F end) const {
#pragma unroll 1
    for (int e = thread(); e < ends_; e += kThreads) {
      const int64_t c = end_class(e);
      end(c, e == thread() ? now.end : number(c));
    }
  }
  template <class F>
  __device__ __forceinline__ void for_unpacked(F vector) const {
#pragma unroll 1
    for (int v = 0; v < mine(); ++v) {
      const int64_t c = begin_ + (thread() + int64_t{v} * kThreads) * kN;
      S x[kN];
#pragma unroll
      for (int k = 0; k < kN; ++k) x[k] = number(c + k);
      vector(c, x);
    }
  }
  // All rounds, at least one.
  template <class F>
  __device__ __forceinline__ void for_rounds(Round& now, F round) const {
    int64_t c = first_of_rounds();
#pragma unroll 1
    for (int left = in_rounds_; left > 0; left -= kUnroll, c += kRound) {
      if (left < in_rounds_) load(left, c, now.vectors);
      round(left, c, now.vectors);
    }
  }
  // A round of packed vectors, the first of which is of class c; in the place of those that are not
  // there -inf.
  __device__ __forceinline__ void load(int left, int64_t c, Vectors& x) const {
    if (left < kUnroll) {
      Values<S, kN> absent;
#pragma unroll
      for (int k = 0; k < kN; ++k) absent.v[k] = no_logit<S>();
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) x[u] = word_of(absent);
    }
    for_present(left, [&](int u) { x[u] = load(c + u * kStep); });
  }
  // The packed vector that begins with class c.
  __device__ __forceinline__ Word<S, kN> load(int64_t c) const {
    return load_word(reinterpret_cast<const Word<S, kN>*>(logits_ + c));
  }

  // -inf in one place of a round.
  static __device__ __forceinline__ void silence(int place, Vectors& x) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int k = place - u * kStep;
      if (k < 0 || k >= kN) continue;
      Values<S, kN> values = values_of<S, kN>(x[u]);
#pragma unroll
      for (int j = 0; j < kN; ++j) {
        values.v[j] = j == k ? no_logit<S>() : values.v[j];
      }
      x[u] = word_of(values);
    }
  }
  // All of a round, of which nothing is special.
  template <class Ref>
  __device__ __forceinline__ void add_round(RowSums<A, kTerms>& row, const Ref& ref, A m,
                                            const Vectors& x) const {
    S numbers[kUnroll * kN];
    A z[kUnroll * kN], q[kUnroll * kN];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const Values<S, kN> values = values_of<S, kN>(x[u]);
#pragma unroll
      for (int k = 0; k < kN; ++k) {
        numbers[u * kN + k] = values.v[k];
        q[u * kN + k] = 1;
      }
    }
    objective_.logits(numbers, z);
    objective_.add(row, Chunk{0, -1}, kUnroll * kN, ref, m, z, q);
  }
  // n neighbouring classes from c on.
  template <class Ref, int n>
  __device__ __forceinline__ void add(RowSums<A, kTerms>& row, const Ref& ref, A m, int64_t c,
                                      const S (&x)[n], int64_t y) const {
    with_weights<n>(c, [&](const A(&q)[n]) {
      A z[n];
      objective_.logits(x, z);
      objective_.add(row, Chunk::of(c, n, y), n, ref, m, z, q);
    });
  }

  const Objective<S, kTerms>& objective_;
  const S* const logits_;
  const int64_t probabilities_;
  int64_t begin_;    // the class where the first vector begins
  int head_, ends_;  // classes before the first vector; those at both ends
  Count vectors_;
  bool packed_;    // whether a vector is one load
  bool has_odd_;   // whether the thread's first vector is taken before its rounds
  int in_rounds_;  // how many of its vectors are in them
};

// The first guess of a row's reference: the target's logit, which is near the row's largest in all
// but the worst predictions. A linear sum would lose digits with one far from the largest, so it
// takes the largest of the row's beginning as well. All warps of a team, and all teams that have
// slices of one row, get the same answer without asking each other.
template <class Team, class S, Terms kTerms, int kThreads, class A = Accumulate<S>>
__device__ A guess(const RowReader<S, kTerms, kThreads>& reader, int64_t classes, int64_t y,
                   A target_logit) {
  const A m = is_class(y) ? target_logit : -infinity<A>();
  if (!kHasLinear<kTerms>) return m;
  const int64_t n = classes < kProbe ? classes : kProbe;
  A probed = -infinity<A>();
#pragma unroll 4
  for (int64_t c = Team::lane(); c < n; c += Team::kLanes) probed = larger(probed, reader.logit(c));
  return larger(m, Team::largest_of_lanes(probed));
}

}  // namespace fused_ce::cuda
