// SPDX-License-Identifier: BSD-3-Clause
// Rows of few classes: a thread a row. A tile of rows goes through shared memory, so that global
// memory is read and written in long runs though each thread walks a row of its own. A warp has a
// share of the tile, its own rows, and waits for no other; where it needs no logit it loads none.
#pragma once

#include "results.cuh"

namespace fused_ce::cuda {

// As kForwardBlocks in rows.cuh: at most 64 registers a thread, beside probabilities 72, and of the
// general loops 96; 168 of double.
template <class S, Terms kTerms>
inline constexpr int kFewBlocks = sizeof(S) == 8       ? 3
                                  : kIsGeneral<kTerms> ? 5
                                  : kHasMass<kTerms>   ? 7
                                                       : 8;

static_assert(kFewRows * (kFewBytes + 2 * sizeof(double)) <= 48 * 1024, "shared memory of a block");

// Elements from row to row of a tile. Rows of whole vectors begin an odd number of vectors apart,
// so that those of neighbouring rows lie in different banks. Other rows lie as in memory, where no
// more than two neighbours' numbers share a bank. Either way vectors stay whole on their way.
inline int few_pitch(int64_t classes, int size) {
  const int c = static_cast<int>(classes), vector = 16 / size;
  return c % (2 * vector) == 0 ? c + vector : c;
}

template <class S, Terms kTerms>
class FewTile {
  using A = Accumulate<S>;
  static constexpr int kN = kVector<S>;
  // Classes that are added up before Sum, which costs more.
  static constexpr int kTogether = sizeof(S) == 8 ? 4 : 8;
  // Whether a row is summed relative to a guess, the target's logit, which spares a look for the
  // largest. As guess in row_reader.cuh has it: not beside a linear sum.
  static constexpr bool kGuesses = kTerms == Terms::kIndices;

 public:
  __device__ FewTile(const Objective<S, kTerms>& objective, S* shared, int pitch)
      : objective_(objective),
        p_(objective.problem),
        tile_(shared),
        classes_(static_cast<int>(p_.classes)),
        pitch_(pitch),
        inverse_(classes_ > 1 ? 0xffffffffu / static_cast<unsigned>(classes_) + 1 : 0) {}

  // The warp's share of rows [first, first + n) into the tile.
  __device__ void load(int64_t first, int n) {
    const auto* logits = static_cast<const S*>(p_.logits);
    for_runs(logits, p_.logits_strides, first, n, [&]<int kRun>(const S* from, int e) {
      const Values<S, kRun> values = load_values<S, kRun>(from);
      if constexpr (kRun == 1) {
        share()[place(e)] = values.v[0];
      } else {
        put_vectors(share() + place(e), values);
      }
    });
  }

  // The warp's share of the tile to where the gradients of those rows belong.
  __device__ void store(const Backward& back, int64_t first, int n) const {
    auto* grad = static_cast<S*>(back.grad_logits);
    for_runs(grad, back.grad_strides, first, n, [&]<int kRun>(S* to, int e) {
      store_values<S, kRun>(to, load_values<S, kRun>(share() + place(e)));
    });
  }

  // The state of this thread's row, which is row i of the problem. y: its target, or a NoClass.
  __device__ RowState<A> sum(int64_t i, int64_t y) {
    S* const x = row();
    const A target_logit = is_class(y) ? objective_.logit(get(x[y])) : A(0);
    // Out of the tile: then nobody has to look for it in every chunk.
    if (kGuesses && is_class(y)) x[y] = no_logit<S>();
    const int64_t t = objective_.probabilities(i);
#pragma unroll 1
    for (bool guessed = kGuesses;; guessed = false) {
      // A bad guess is too small, or no number: then another's logit is the largest.
      const A m = guessed ? target_logit : largest(x);
      const Reference<S> ref = objective_.reference(objective_.finite(m));
      RowSums<A, kTerms> row;
      with_nearness(ref, [&](const auto& near) {
        for_classes([&]<int n>(int c) {
          const Chunk chunk = kGuesses ? Chunk{c, -1} : chunk_of(c, y);
          objective_.template with_weights<n>(t, c, n, [&](const A(&q)[n]) {
            A z[n];
            objective_.logits(get_values<n>(x + c).v, z);
            objective_.add(row, chunk, n, near, m, z, q);
          });
        });
      });
      const RowState<A> state = objective_.state(row, m, y, target_logit);
      if (!guessed || objective_.is_in_range(state)) return state;
    }
  }

  // This thread's row becomes its gradient.
  __device__ void differentiate(int64_t i, const Factors<S>& factors) {
    S* const x = row();
    if (!factors.counts) {
      for (int c = 0; c < classes_; ++c) put(x + c, A(0));
      return;
    }
    // The target's class is written last, when its number is gone: only a cap asks for that.
    const int64_t y = factors.target;
    const S target_number = kIsGeneral<kTerms> && is_class(y) ? x[y] : S();
    const int64_t t = objective_.probabilities(i);
    const Reference<S> ref = objective_.reference(factors.offset);
    with_nearness(ref, [&](const auto& near) {
      for_classes([&]<int n>(int c) {
        objective_.template with_weights<n>(t, c, n, [&](const A(&q)[n]) {
          const Values<S, n> numbers = get_values<n>(x + c);
          Values<S, n> values;
#pragma unroll
          for (int k = 0; k < n; ++k) {
            put(&values.v[k], objective_.gradient(near, factors, numbers.v[k], q[k]));
          }
          put_values(x + c, values);
        });
      });
    });
    if (is_class(y)) put(x + y, objective_.gradient_at_target(factors, target_number));
  }

 private:
  // Calls f<n>(c) for classes c + [0, n): all of a row's.
  template <class F>
  __device__ __forceinline__ void for_classes(F f) const {
    int c = 0;
#pragma unroll 1
    for (; c + kTogether <= classes_; c += kTogether) f.template operator()<kTogether>(c);
    if (c + kTogether / 2 <= classes_) {
      f.template operator()<kTogether / 2>(c);
      c += kTogether / 2;
    }
#pragma unroll 1
    for (; c < classes_; ++c) f.template operator()<1>(c);
  }
  // As Reference has it; but there is one copy of the general loops, of which there is much code.
  template <class F>
  static __device__ __forceinline__ void with_nearness(const Reference<S>& ref, F f) {
    if constexpr (kIsGeneral<kTerms>) {
      f(ref);
    } else {
      ref.with_nearness(f);
    }
  }
  __device__ A largest(const S* x) const {
    A m = -infinity<A>();
    for_classes([&]<int n>(int c) {
      const Values<S, n> numbers = get_values<n>(x + c);
#pragma unroll
      for (int k = 0; k < n; ++k) m = larger(m, get(numbers.v[k]));
    });
    return objective_.logit(m);
  }
  // Neighbouring numbers of a row, by vectors where it has whole ones.
  template <int n>
  __device__ __forceinline__ Values<S, n> get_values(const S* from) const {
    if constexpr (n % kN == 0) {
      if (classes_ % kN == 0) return load_values<S, n>(from);
    }
    Values<S, n> values;
#pragma unroll
    for (int k = 0; k < n; ++k) values.v[k] = from[k];
    return values;
  }
  template <int n>
  __device__ __forceinline__ void put_values(S* to, const Values<S, n>& values) const {
    if constexpr (n % kN == 0) {
      if (classes_ % kN == 0) return put_vectors(to, values);
    }
#pragma unroll
    for (int k = 0; k < n; ++k) to[k] = values.v[k];
  }
  // As store_values, which is for global memory alone.
  template <int n>
  static __device__ __forceinline__ void put_vectors(S* to, const Values<S, n>& values) {
#pragma unroll
    for (int i = 0; i < n; i += kN) {
      Values<S, kN> some;
#pragma unroll
      for (int k = 0; k < kN; ++k) some.v[k] = values.v[i + k];
      *reinterpret_cast<Word<S, kN>*>(to + i) = word_of(some);
    }
  }
  // Places of few classes are small: a comparison of them in 32 bits will do.
  static __device__ __forceinline__ Chunk chunk_of(int c, int64_t y) {
    return {c, static_cast<int>(y) - c};
  }
  __device__ bool is_dense(const Strides& s) const {
    return p_.inner == 1 && s.classes == 1 && s.outer == classes_;
  }
  // The first of the warp's rows in the tile, and where it lies there.
  static __device__ int first_row() { return static_cast<int>(threadIdx.x) / kWarp * kWarp; }
  // This thread's row.
  __device__ S* row() const { return tile_ + static_cast<int>(threadIdx.x) * pitch_; }
  __device__ S* share() const { return tile_ + first_row() * pitch_; }
  // Element e of the share's n * C lies in this row: a division by C, exact for e < 2^32 / C.
  __device__ int row_of(int e) const { return classes_ > 1 ? divided(e) : e; }
  // Where that element lies in memory, if the share begins with row `first`.
  __device__ int64_t offset(const Strides& s, int64_t first, int e) const {
    const int r = row_of(e);
    return row_offset(p_, s, first + r) + (e - r * classes_) * s.classes;
  }
  // Without a branch: the pitch of one class is one, so its quotients are multiplied by 0.
  __device__ int place(int e) const { return e + divided(e) * (pitch_ - classes_); }
  __device__ int divided(int e) const {
    return static_cast<int>(__umulhi(static_cast<unsigned>(e), inverse_));
  }

  // Calls f<kN>(p, e) for the whole vectors of the warp's share of rows [first, first + n), if they
  // are aligned, and f<1>(p, e) for what lies behind, or not beside its neighbours: element e of
  // the share is at p.
  template <class T, class F>
  __device__ __forceinline__ void for_runs(T* memory, const Strides& s, int64_t first, int n,
                                           F f) const {
    first += first_row();
    n -= first_row();
    const int size = (n < kWarp ? n : kWarp) * classes_;
    const int thread = static_cast<int>(threadIdx.x) % kWarp;
    if (!is_dense(s)) {
#pragma unroll 1
      for (int e = thread; e < size; e += kWarp) {
        f.template operator()<1>(memory + offset(s, first, e), e);
      }
      return;
    }
    memory += first * classes_;
    const int whole = is_aligned<S, kN>(memory) ? size / kN * kN : 0;
    T* p = memory + thread * kN;
#pragma unroll 4
    for (int e = thread * kN; e < whole; e += kWarp * kN) {
      f.template operator()<kN>(p, e);
      p += kWarp * kN;
    }
#pragma unroll 4
    for (int e = whole + thread; e < size; e += kWarp) f.template operator()<1>(memory + e, e);
  }

  const Objective<S, kTerms>& objective_;
  const Problem& p_;
  S* const tile_;
  const int classes_, pitch_;
  const unsigned inverse_;
};

template <class S, Terms kTerms>
__global__ void __launch_bounds__(kFewRows, kFewBlocks<S, kTerms>)
    few_forward(const Objective<S, kTerms> objective, const Forward out, const int pitch,
                const Tiles tiles) {
  using A = Accumulate<S>;
  FUSED_CE_DYNAMIC_SHARED(S, shared);
  FewTile<S, kTerms> tile(objective, shared, pitch);
  const int64_t rows = rows_of(objective.problem);
  const Reducer<A, kFewRows> reducer(tiles);
  for (unsigned t = blockIdx.x; t < tiles.count; t += gridDim.x) {
    RowTotals<A> totals;
    for (int64_t first = tiles.begin(t); first < tiles.end(t, rows); first += kFewRows) {
      const int n = rows - first < kFewRows ? static_cast<int>(rows - first) : kFewRows;
      const bool is_there = static_cast<int>(threadIdx.x) < n;
      const int64_t i = first + threadIdx.x;
      const int64_t y = is_there ? objective.target(i) : int64_t{kIgnored};
      const bool reads = is_there && is_read(objective, y, out);
      if (__any_sync(kWholeWarp, reads)) tile.load(first, n);
      __syncwarp();
      if (is_there) {
        put_row(objective, reads ? tile.sum(i, y) : ignored_state<A>(), i, out, totals);
      }
      __syncwarp();
    }
    reducer.template put<kFewRows>(t, totals);
  }
  reducer.finish();
}

template <class S, Terms kTerms>
__global__ void __launch_bounds__(kFewRows, kFewBlocks<S, kTerms>)
    few_backward(const Objective<S, kTerms> objective, const Backward back, const int pitch) {
  FUSED_CE_DYNAMIC_SHARED(S, shared);
  FewTile<S, kTerms> tile(objective, shared, pitch);
  const int64_t rows = rows_of(objective.problem);
  for (int64_t first = int64_t{blockIdx.x} * kFewRows; first < rows;
       first += int64_t{gridDim.x} * kFewRows) {
    const int n = rows - first < kFewRows ? static_cast<int>(rows - first) : kFewRows;
    const bool is_there = static_cast<int>(threadIdx.x) < n;
    const int64_t i = first + threadIdx.x;
    const Factors<S> factors = is_there ? objective.factors(back, i) : Factors<S>{};
    if (__any_sync(kWholeWarp, factors.counts)) tile.load(first, n);
    __syncwarp();
    if (is_there) tile.differentiate(i, factors);
    __syncwarp();
    tile.store(back, first, n);
    __syncwarp();
  }
}

}  // namespace fused_ce::cuda
