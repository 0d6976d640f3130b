// SPDX-License-Identifier: BSD-3-Clause
// The gradient of a row whose classes are neighbours, or of a slice of it. Vectors begin where
// those of the gradient are aligned: nothing merges what is stored one class at a time, whereas
// caches do that for what is read so.
#pragma once

#include "row_reader.cuh"

namespace fused_ce::cuda {

// Where a row's gradient goes: to the distance of `stride` from class to class.
template <class S>
struct RowOfGradients {
  static constexpr int kN = kVector<S>;
  S* const first;
  const int64_t stride;

  __device__ __forceinline__ bool is_packed() const { return stride == 1; }
  __device__ __forceinline__ void put(int64_t c, S value) const { first[c * stride] = value; }
  // Of classes c, c + 1, ...; c is where a vector begins.
  __device__ __forceinline__ void put(int64_t c, const Values<S, kN>& values) const {
    if (is_packed()) return store_values<S, kN>(first + c, values);
#pragma unroll
    for (int k = 0; k < kN; ++k) put(c + k, values.v[k]);
  }
};

// A thread's part of classes [begin, end) of row i.
template <class S, Terms kTerms, int kThreads>
__device__ void write_gradients(const Objective<S, kTerms>& objective, const Factors<S>& factors,
                                int64_t i, int64_t begin, int64_t end,
                                const RowOfGradients<S>& grad) {
  using A = Accumulate<S>;
  constexpr int kN = kVector<S>;
  using Reader = RowReader<S, kTerms, kThreads>;
  const Reader reader(objective, i, begin, end, grad.first, grad.is_packed());
  if (!factors.counts) {
    Values<S, kN> zeros;
#pragma unroll
    for (int k = 0; k < kN; ++k) put(&zeros.v[k], A(0));
    reader.for_classes([&](int64_t c) { grad.put(c, zeros); },
                       [&](int64_t c) { grad.put(c, zeros.v[0]); });
    return;
  }
  // The thread that has the target's class writes it last, when its logit may be gone.
  const int64_t y = factors.target;
  const bool has_target = reader.has(y);
  const S target_number = kIsGeneral<kTerms> && has_target ? reader.number(y) : S();
  const Reference<S> ref = objective.reference(factors.offset);
  const auto differentiated = [&]<int n, class Ref>(const Ref& near, int64_t c, const S(&x)[n]) {
    Values<S, n> values;
    reader.template with_weights<n>(c, [&](const A(&q)[n]) {
#pragma unroll
      for (int k = 0; k < n; ++k) put(&values.v[k], objective.gradient(near, factors, x[k], q[k]));
    });
    return values;
  };
  reader.for_all(
      reader.first(),
      [&](auto loop) {
        ref.with_nearness([&](const auto& near) {
          loop([&](int left, int64_t first, const typename Reader::Vectors& vectors) {
            const auto at = [&](int u) {
              return differentiated(near, Reader::class_at(first, u),
                                    values_of<S, kN>(vectors[u]).v);
            };
            S* const to = grad.first + first;
            if constexpr (kTerms == Terms::kIndices && kThreads < kWarp) {
              // A warp's lanes, which have several rows, stay together.
              Values<S, kN> values[Reader::kUnroll];
#pragma unroll
              for (int u = 0; u < Reader::kUnroll; ++u) values[u] = at(u);
              Reader::for_present(
                  left, [&](int u) { store_values<S, kN>(Reader::vector_at(to, u), values[u]); });
            } else {
              Reader::for_present(
                  left, [&](int u) { store_values<S, kN>(Reader::vector_at(to, u), at(u)); });
            }
          });
        });
      },
      [&](int64_t c, const S(&x)[kN]) { grad.put(c, differentiated(ref, c, x)); },
      [&](int64_t c, S x) {
        const S one[1] = {x};
        grad.put(c, differentiated(ref, c, one).v[0]);
      });
  if (has_target) {
    S value;
    put(&value, objective.gradient_at_target(factors, target_number));
    grad.put(y, value);
  }
}

}  // namespace fused_ce::cuda
