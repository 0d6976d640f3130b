// SPDX-License-Identifier: BSD-3-Clause
// CUDA's built-in variables and device functions.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <bit>
#include <concepts>

#include "machine.h"

#define threadIdx (::simt::thread->index)
#define blockIdx (::simt::block.index)
#define blockDim (::simt::block.size)
#define gridDim (::simt::block.grid)
constexpr int warpSize = simt::kWarpSize;

// ---- Barriers --------------------------------------------------------------------------------

inline void __syncthreads(simt::Where where = simt::Where::current()) {
  simt::barrier(false, where);
}
inline int __syncthreads_count(int predicate, simt::Where where = simt::Where::current()) {
  return simt::barrier(predicate != 0, where).set;
}
inline int __syncthreads_or(int predicate, simt::Where where = simt::Where::current()) {
  return simt::barrier(predicate != 0, where).set != 0;
}
inline int __syncthreads_and(int predicate, simt::Where where = simt::Where::current()) {
  const simt::Votes votes = simt::barrier(predicate != 0, where);
  return votes.set == votes.all;
}
inline void __syncwarp(unsigned mask = ~0u, simt::Where where = simt::Where::current()) {
  simt::sync_warp(mask, where);
}

// ---- Memory shared by blocks -------------------------------------------------------------------

// Blocks run one after another, and threads are interrupted only where they wait: there is nothing
// to order. Relaxed, as the device's: no sanitizer takes them for a barrier.
inline void __threadfence() {}
template <std::integral T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}
template <std::integral T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> desired) {
  __atomic_compare_exchange_n(address, &expected, desired, false, __ATOMIC_RELAXED,
                              __ATOMIC_RELAXED);
  return expected;
}

// ---- Votes -----------------------------------------------------------------------------------

inline unsigned __ballot_sync(unsigned mask, int predicate,
                              simt::Where where = simt::Where::current()) {
  return simt::ballot(mask, predicate != 0, where);
}
inline int __any_sync(unsigned mask, int predicate, simt::Where where = simt::Where::current()) {
  return simt::ballot(mask, predicate != 0, where) != 0;
}
inline int __all_sync(unsigned mask, int predicate, simt::Where where = simt::Where::current()) {
  return simt::ballot(mask, predicate != 0, where) == mask;
}

// ---- Shuffles --------------------------------------------------------------------------------

namespace simt {

// What CUDA has overloads for.
template <class T>
concept Shuffled = std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8);

// A source outside of what the lane may read stands for the lane itself.
template <Shuffled T>
T shuffle_from(unsigned mask, T value, int source, bool readable, Where where) {
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  bits = shuffle(mask, bits, readable ? source : thread->lane, where);
  memcpy(&value, &bits, sizeof(T));
  return value;
}

// The segment of `width` lanes, a power of two, that the running lane belongs to.
inline int segment_begin(int width) { return thread->lane & ~(width - 1); }
inline int segment_end(int width) { return segment_begin(width) + width; }

}  // namespace simt

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize,
              simt::Where where = simt::Where::current()) {
  source = simt::segment_begin(width) + (source & (width - 1));
  return simt::shuffle_from(mask, value, source, true, where);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = warpSize,
                  simt::Where where = simt::Where::current()) {
  const int source = simt::thread->lane ^ lanes;  // earlier segments may be read, later ones not
  return simt::shuffle_from(mask, value, source, source < simt::segment_end(width), where);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                   simt::Where where = simt::Where::current()) {
  const int source = simt::thread->lane + static_cast<int>(delta);
  return simt::shuffle_from(mask, value, source, source < simt::segment_end(width), where);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                 simt::Where where = simt::Where::current()) {
  const int source = simt::thread->lane - static_cast<int>(delta);
  return simt::shuffle_from(mask, value, source, source >= simt::segment_begin(width), where);
}

// ---- Loads and stores with a cache hint --------------------------------------------------------

namespace simt {

// The device faults where a vector access is not naturally aligned; sanitizers are not needed to
// see it here.
template <class T>
void check_alignment(const T* address, Where where) {
  if (reinterpret_cast<uintptr_t>(address) % alignof(T) != 0) {
    misaligned(address, alignof(T), where);
  }
}

}  // namespace simt

template <class T>
T __ldg(const T* address, simt::Where where = simt::Where::current()) {
  simt::check_alignment(address, where);
  return *address;
}
template <class T>
T __ldcs(const T* address, simt::Where where = simt::Where::current()) {
  simt::check_alignment(address, where);
  return *address;
}
template <class T>
void __stcs(T* address, std::type_identity_t<T> value, simt::Where where = simt::Where::current()) {
  simt::check_alignment(address, where);
  *address = value;
}

// ---- Bits ------------------------------------------------------------------------------------

inline float __int_as_float(int bits) { return std::bit_cast<float>(bits); }
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline double __longlong_as_double(long long bits) { return std::bit_cast<double>(bits); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }

inline int __popc(unsigned x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return x == 0 ? 0 : std::countr_zero(static_cast<unsigned>(x)) + 1; }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32);
}

// ---- Arithmetic: <math.h> has the rest, overloaded for float as in CUDA -----------------------

inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dmul_rn(double a, double b) { return a * b; }

// Of two different types CUDA picks one; here that does not compile. Not constexpr, as in CUDA.
template <std::integral T>
T min(T a, T b) {
  return b < a ? b : a;
}
template <std::integral T>
T max(T a, T b) {
  return a < b ? b : a;
}
// A number rather than NaN, unlike std::min.
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

// ---- What platform.cuh writes in other words for nvcc -------------------------------------------

namespace fused_ce::cuda {

template <class Word>
Word load_word(const Word* p, simt::Where where = simt::Where::current()) {
  simt::check_alignment(p, where);
  return *p;
}
template <class Word>
void store_word(Word* p, const Word& word, simt::Where where = simt::Where::current()) {
  simt::check_alignment(p, where);
  *p = word;
}

inline float max_or_nan(float a, float b) { return a < b || b != b ? b : a; }
inline float saturate(float x) { return x > 0 ? (x < 1 ? x : 1.0f) : 0.0f; }
inline float2 fma_both(float2 a, float2 b, float2 c) {
  return {fmaf(a.x, b.x, c.x), fmaf(a.y, b.y, c.y)};
}
// ex2.approx.ftz: a subnormal result is 0
inline float fast_exp2(float x) {
  const float y = exp2f(x);
  return y < 0x1p-126f ? 0.0f : y;
}

}  // namespace fused_ce::cuda
