// SPDX-License-Identifier: BSD-3-Clause
// The classes of a row that are neighbours in memory, by a team of threads: whole vectors of 128
// bits, some of which a thread asks for at once, a round; and what is left at either end, one class
// at a time. A row need not be held anywhere: its reference is known before it is summed (see
// guess). A row's first round is asked for before that.
#pragma once

#include "results.cuh"
#include "team.cuh"

namespace fused_ce::cuda {

// Vectors under way at once in a thread. Double leaves no registers for more than two, and waits
// for the FP64 units rather than for memory.
template <class S>
inline constexpr int kLoads = sizeof(S) == 8 ? 2 : 4;
// The first guess of a row's reference is the largest of so many logits.
inline constexpr int kProbe = 128;

// Classes [begin, end) of one row, which a team of kThreads reads.
template <class S, Terms kTerms, int kThreads>
class RowReader {
  using A = Accumulate<S>;
  static constexpr int kN = kVector<S>;
  static constexpr int kUnroll = kLoads<S>;
  // Vectors of all the team's in a round.
  static constexpr int kVectors = kUnroll * kThreads;
  // Classes from one of a thread's vectors to its next, and from round to round.
  static constexpr int kStep = kThreads * kN, kRound = kUnroll * kStep;

 public:
  using Vectors = Word<S, kN>[kUnroll];
  struct Round {
    Vectors vectors;
    S end;  // of the first round: one of the classes at the ends
  };

  // `aligned`: whose address decides where vectors begin, the logits or what is written for them;
  // `packed`: whether classes are neighbours there.
  __device__ RowReader(const Objective<S, kTerms>& objective, int64_t row, int64_t begin,
                       int64_t end, const S* aligned, bool packed)
      : objective_(objective),
        logits_(row_of(objective, row)),
        probabilities_(objective.probabilities(row)) {
    const int64_t classes = end - begin;
    const int past =
        static_cast<int>(reinterpret_cast<uintptr_t>(aligned + begin) / sizeof(S) % kN);
    const int before = packed && past > 0 ? kN - past : 0;
    head_ = classes < before ? static_cast<int>(classes) : before;
    begin_ = begin + head_;
    vectors_ = (classes - head_) / kN;
    ends_ = head_ + static_cast<int>((classes - head_) % kN);
    packed_ = packed && stride() == 1 && is_aligned<S, kN>(logits_ + begin_);
    full_ = packed_ ? rounds_of(vectors_ - thread() - (kUnroll - 1) * kThreads) : 0;
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
    if (packed_) load(0, first_class(0), round.vectors);
    round.end = thread() < ends_ ? number(end_class(thread())) : S();
    return round;
  }

  // Calls end(c, x) for what the thread has of the classes at the ends; then round(r, c, x) for its
  // full rounds of vectors x, the first of which has class c, and vector(c, x) for other vectors.
  // `choose` calls what it is given, a loop, with the `round` of its choice.
  template <class Choose, class OfVector, class OfEnd>
  __device__ __forceinline__ void for_all(Round now, Choose choose, OfVector vector,
                                          OfEnd end) const {
    for_ends(now, end);
    if (!packed_) return for_unpacked(vector);
    if (full_ > 0) {
      choose([&](auto round) { for_rounds</*kFull=*/true>(full_, now, round); });
      load(full_, first_class(full_), now.vectors);
    }
    const int vectors = vectors_in(full_);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (u < vectors) vector(class_at(first_class(full_), u), values_of<S, kN>(now.vectors[u]).v);
    }
  }
  // Calls vector(c) and end(c) for the classes of the thread, without a look at them.
  template <class OfVector, class OfEnd>
  __device__ __forceinline__ void for_classes(OfVector vector, OfEnd end) const {
#pragma unroll 1
    for (int e = thread(); e < ends_; e += kThreads) end(end_class(e));
#pragma unroll 1
    for (int64_t v = thread(); v < vectors_; v += kThreads) vector(begin_ + v * kN);
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
    const int of_target = round_of(y);
    if constexpr (kTerms == Terms::kIndices) {
      // The last round as well, and that of the target: a warp's lanes, which may have several
      // rows, stay together.
      for_ends(first, add_end);
      if (!packed_) {
        for_unpacked(add_vector);
      } else if (const int rounds = rounds_of(vectors_ - thread()); rounds > 0) {
        int special = of_target >= 0 && of_target < full_ ? of_target : full_;
        ref.with_nearness([&](const auto& near) {
          for_rounds</*kFull=*/false>(rounds, first, [&](int r, int64_t c, Vectors& x) {
            if (r == special) {
              if (r == full_) silence_behind(vectors_in(r), x);
              if (r == of_target) silence(static_cast<int>(y - c), x);
              special = full_;
            }
            add_round(row, near, m, x);
          });
        });
      }
    } else {
      for_all(
          first,
          [&](auto loop) {
            if (objective_.all_weigh_the_same()) {
              ref.with_nearness([&](const auto& near) {
                loop([&](int r, int64_t c, const Vectors& x) {
                  if (r != of_target) {
                    add_round(row, near, m, x);
                  } else {
                    for_vectors(c, x, add_vector);
                  }
                });
              });
            } else {
              loop([&](int, int64_t c, const Vectors& x) { for_vectors(c, x, add_vector); });
            }
          },
          add_vector, add_end);
    }
    return row;
  }

  // The largest logit that a thread sees; -inf if all are NaN. The largest number has it.
  __device__ A largest() const {
    A m = -infinity<A>();
    const int64_t begin = begin_ - head_, end = begin + ends_ + vectors_ * kN;
#pragma unroll 4
    for (int64_t c = begin + thread(); c < end; c += kThreads) m = larger(m, get(number(c)));
    return objective_.logit(m);
  }

  // Calls f(q) with the weights of the logits of classes c + [0, n) in the linear sum.
  template <int n, class F>
  __device__ __forceinline__ void with_weights(int64_t c, F f) const {
    objective_.template with_weights<n>(probabilities_, c, 0, n, f);
  }

  // The round that has a class in one of the thread's vectors, or -1.
  __device__ __forceinline__ int round_of(int64_t y) const {
    const int64_t place = y - first_class(0);
    const bool is_mine = place >= 0 && place % kStep < kN && y < begin_ + vectors_ * kN;
    return is_mine ? static_cast<int>(place / kRound) : -1;
  }
  // Whether the thread has a class, in a vector or at the ends; -1 or less: none.
  __device__ __forceinline__ bool has(int64_t y) const {
    if (round_of(y) >= 0) return true;
#pragma unroll 1
    for (int e = thread(); e < ends_; e += kThreads) {
      if (end_class(e) == y) return true;
    }
    return false;
  }
  // Calls vector(c, x) for the vectors of a full round.
  template <class F>
  static __device__ __forceinline__ void for_vectors(int64_t c, const Vectors& x, F vector) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) vector(class_at(c, u), values_of<S, kN>(x[u]).v);
  }

 private:
  __device__ int64_t stride() const { return objective_.problem.logits_strides.classes; }
  static __device__ int thread() { return static_cast<int>(threadIdx.x) % kThreads; }
  static __device__ const S* row_of(const Objective<S, kTerms>& objective, int64_t row) {
    const Problem& p = objective.problem;
    return static_cast<const S*>(p.logits) + row_offset(p, p.logits_strides, row);
  }
  // Rounds that so many vectors of the team's begin.
  static __device__ __forceinline__ int rounds_of(int64_t vectors) {
    return vectors <= 0 ? 0 : static_cast<int>((vectors + kVectors - 1) / kVectors);
  }
  // The class where the u-th vector of a round begins whose first begins with class c.
  static __device__ __forceinline__ int64_t class_at(int64_t c, int u) { return c + u * kStep; }
  // The class where the thread's round r begins, and how many vectors it has.
  __device__ __forceinline__ int64_t first_class(int r) const {
    return begin_ + int64_t{thread()} * kN + int64_t{r} * kRound;
  }
  __device__ __forceinline__ int vectors_in(int r) const {
    const int64_t left = vectors_ - thread() - int64_t{r} * kVectors;
    if (left <= 0) return 0;
    return left >= kVectors ? kUnroll : (static_cast<int>(left) + kThreads - 1) / kThreads;
  }
  // The e-th of the classes that are in no vector.
  __device__ __forceinline__ int64_t end_class(int e) const {
    return begin_ - head_ + e + (e < head_ ? 0 : vectors_ * kN);
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
    for (int64_t v = thread(); v < vectors_; v += kThreads) {
      const int64_t c = begin_ + v * kN;
      S x[kN];
#pragma unroll
      for (int k = 0; k < kN; ++k) x[k] = number(c + k);
      vector(c, x);
    }
  }
  // The first rounds, at least one. kFull: whether all of them are known to be full.
  template <bool kFull, class F>
  __device__ __forceinline__ void for_rounds(int rounds, Round& now, F round) const {
    int64_t c = first_class(0);
#pragma unroll 1
    for (int r = 0;;) {
      round(r, c, now.vectors);
      if (++r == rounds) break;
      c += kRound;
      if constexpr (kFull) {
        load_full(c, now.vectors);
      } else {
        load(r, c, now.vectors);
      }
    }
  }
  // What is there of round r of packed vectors, the first of which is of class c.
  __device__ __forceinline__ void load(int r, int64_t c, Vectors& x) const {
    if (r < full_) return load_full(c, x);
    const int vectors = vectors_in(r);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (u < vectors) x[u] = vector_at(class_at(c, u));
    }
  }
  __device__ __forceinline__ void load_full(int64_t c, Vectors& x) const {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) x[u] = vector_at(class_at(c, u));
  }
  __device__ __forceinline__ Word<S, kN> vector_at(int64_t c) const {
    return load_word(reinterpret_cast<const Word<S, kN>*>(logits_ + c));
  }

  // -inf, whose exponential is 0, in the place of vectors that are not there, and in one place of a
  // round.
  static __device__ __forceinline__ void silence_behind(int vectors, Vectors& x) {
    Values<S, kN> absent;
#pragma unroll
    for (int k = 0; k < kN; ++k) put(&absent.v[k], -infinity<A>());
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) x[u] = u < vectors ? x[u] : word_of(absent);
  }
  static __device__ __forceinline__ void silence(int place, Vectors& x) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int k = place - u * kStep;
      if (k < 0 || k >= kN) continue;
      Values<S, kN> values = values_of<S, kN>(x[u]);
#pragma unroll
      for (int j = 0; j < kN; ++j) {
        if (j == k) put(&values.v[j], -infinity<A>());
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
    objective_.add(row, Chunk{0, -1}, 0, kUnroll * kN, ref, m, z, q);
  }
  // n neighbouring classes from c on.
  template <class Ref, int n>
  __device__ __forceinline__ void add(RowSums<A, kTerms>& row, const Ref& ref, A m, int64_t c,
                                      const S (&x)[n], int64_t y) const {
    with_weights<n>(c, [&](const A(&q)[n]) {
      A z[n];
      objective_.logits(x, z);
      objective_.add(row, Chunk::of(c, n, y), 0, n, ref, m, z, q);
    });
  }

  const Objective<S, kTerms>& objective_;
  const S* const logits_;
  const int64_t probabilities_;
  int64_t begin_;    // the class where the first vector begins
  int head_, ends_;  // classes before the first vector; those at both ends
  int64_t vectors_;
  bool packed_;  // whether a vector is one load
  int full_;     // rounds of which the thread has all vectors, each of them one load
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
