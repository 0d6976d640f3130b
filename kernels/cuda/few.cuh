// SPDX-License-Identifier: BSD-3-Clause
// Rows of few classes: a thread a row. A tile of rows goes through shared memory, so that global
// memory is read and written in long runs though each thread walks a row of its own. A warp has a
// share of the tile, its own rows, and waits for no other; where it needs no logit it loads none.
#pragma once

#include "results.cuh"

namespace fused_ce::cuda {

// As kForwardBlocks in rows.cuh: at most 64 registers a thread, and 72; 168 of double.
template <class S, Terms kTerms>
inline constexpr int kFewBlocks = sizeof(S) == 8       ? 3
                                  : kIsGeneral<kTerms> ? 7
                                                       : 8;

static_assert(kFewRows * (kFewBytes + 2 * sizeof(double)) <= 48 * 1024, "shared memory of a block");

// Elements from row to row of a tile: such that the rows' same classes lie in different banks.
inline int few_pitch(int64_t classes, int size) {
  const int c = static_cast<int>(classes);
  if (size != 2) return c | 1;
  return c % 4 == 0 ? c + 2 : c;
}

inline constexpr unsigned kWholeWarp = 0xffffffffu;

template <class S, Terms kTerms>
class FewTile {
  using A = Accumulate<S>;
  static constexpr int kN = kVector<S>;
  static constexpr int kTogether = 4;  // classes: added up before Sum, which costs more

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
#pragma unroll
      for (int k = 0; k < kRun; ++k) share()[place(e + k)] = values.v[k];
    });
  }

  // The warp's share of the tile to where the gradients of those rows belong.
  __device__ void store(const Backward& back, int64_t first, int n) const {
    auto* grad = static_cast<S*>(back.grad_logits);
    for_runs(grad, back.grad_strides, first, n, [&]<int kRun>(S* to, int e) {
      Values<S, kRun> values;
#pragma unroll
      for (int k = 0; k < kRun; ++k) values.v[k] = share()[place(e + k)];
      store_values<S, kRun>(to, values);
    });
  }

  // The state of this thread's row, which is row i of the problem. y: its target, or a NoClass.
  __device__ RowState<A> sum(int64_t i, int64_t y) const {
    const S* x = tile_ + static_cast<int>(threadIdx.x) * pitch_;
    const int64_t t = objective_.probabilities(i);
    A m = -infinity<A>();
#pragma unroll 4
    for (int c = 0; c < classes_; ++c) m = larger(m, get(x[c]));
    m = objective_.logit(m);
    const Reference<S> ref = objective_.reference(objective_.finite(m));
    RowSums<A, kTerms> row;
    for_classes([&]<int n>(int c) {
      const Chunk chunk = chunk_of(c, y);
      objective_.template with_weights<n>(t, c, 0, n, [&](const A(&q)[n]) {
        A z[n];
        objective_.logits(x + c, z);
        objective_.add(row, chunk, 0, n, ref, m, z, q);
      });
    });
    return objective_.state(row, m, y, is_class(y) ? objective_.logit(get(x[y])) : A(0));
  }

  // This thread's row becomes its gradient.
  __device__ void differentiate(int64_t i, const Factors<S>& factors) {
    S* x = tile_ + static_cast<int>(threadIdx.x) * pitch_;
    if (!factors.counts) {
      for (int c = 0; c < classes_; ++c) put(x + c, A(0));
      return;
    }
    const int64_t t = objective_.probabilities(i);
    const Reference<S> ref = objective_.reference(factors.offset);
    for_classes([&]<int n>(int c) {
      const Chunk chunk = chunk_of(c, factors.target);
      objective_.template with_weights<n>(t, c, 0, n, [&](const A(&q)[n]) {
#pragma unroll
        for (int k = 0; k < n; ++k) {
          put(x + c + k, objective_.gradient(ref, factors, chunk, k, x[c + k], q[k]));
        }
      });
    });
  }

 private:
  // Calls f<n>(c) for classes c + [0, n): all of a row's.
  template <class F>
  __device__ __forceinline__ void for_classes(F f) const {
    int c = 0;
    for (; c + kTogether <= classes_; c += kTogether) f.template operator()<kTogether>(c);
    for (; c < classes_; ++c) f.template operator()<1>(c);
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

  // Calls f<kN>(p, e) for the whole aligned vectors of the warp's share of rows [first, first + n),
  // and f<1>(p, e) for what lies before, after, or not beside its neighbours: element e of the
  // share is at p.
  template <class T, class F>
  __device__ void for_runs(T* memory, const Strides& s, int64_t first, int n, F f) const {
    first += first_row();
    n -= first_row();
    const int size = (n < kWarp ? n : kWarp) * classes_;
    const int thread = static_cast<int>(threadIdx.x) % kWarp;
    if (!is_dense(s)) {
      for (int e = thread; e < size; e += kWarp) {
        f.template operator()<1>(memory + offset(s, first, e), e);
      }
      return;
    }
    memory += first * classes_;
    const int misaligned = static_cast<int>(reinterpret_cast<uintptr_t>(memory) / sizeof(S) % kN);
    int head = misaligned > 0 ? kN - misaligned : 0;
    if (head > size) head = size;
    const int tail = head + (size - head) / kN * kN;
    if (thread < head) f.template operator()<1>(memory + thread, thread);
#pragma unroll 4
    for (int e = head + thread * kN; e < tail; e += kWarp * kN) {
      f.template operator()<kN>(memory + e, e);
    }
    if (thread < size - tail) f.template operator()<1>(memory + tail + thread, tail + thread);
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
    const bool reads = is_there && objective.counts(objective.target(i));
    if (__any_sync(kWholeWarp, reads)) tile.load(first, n);
    __syncwarp();
    if (is_there) tile.differentiate(i, objective.factors(back, i));
    __syncwarp();
    tile.store(back, first, n);
    __syncwarp();
  }
}

}  // namespace fused_ce::cuda
