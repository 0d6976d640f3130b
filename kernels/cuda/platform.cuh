// SPDX-License-Identifier: BSD-3-Clause
// The one switch between nvcc and the SIMT shim (tests/simt/simt.h), which runs this folder's
// sources on the CPU. Nothing else here knows which of them compiles it.
#pragma once

#ifdef FUSED_CE_SIMT

#include "simt.h"

#else

#undef NDEBUG  // assert() is how a bad class index is reported, in release builds too
#include <assert.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#define FUSED_CE_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__)

// T* name: the block's dynamic shared memory
#define FUSED_CE_DYNAMIC_SHARED(T, name)                        \
  extern __shared__ __align__(16) unsigned char name##_bytes[]; \
  T* const name = reinterpret_cast<T*>(name##_bytes)

namespace fused_ce::cuda {

// 2^x, relative error 2^-22
__device__ __forceinline__ float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// NaN if one of them is.
__device__ __forceinline__ float max_or_nan(float a, float b) {
#if __CUDA_ARCH__ >= 800
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
#else
  return a < b ? b : a;
#endif
}
// Within [0, 1], and 0 of NaN: part of the instruction that computes x.
__device__ __forceinline__ float saturate(float x) { return __saturatef(x); }
// Of both numbers, in one instruction where there is one.
__device__ __forceinline__ float2 fma_both(float2 a, float2 b, float2 c) {
#if __CUDA_ARCH__ >= 1000
  return __ffma2_rn(a, b, c);
#else
  return {fmaf(a.x, b.x, c.x), fmaf(a.y, b.y, c.y)};
#endif
}

// Of a built-in vector type, whose alignment p must have.
template <class Word>
__device__ __forceinline__ Word load_word(const Word* p) {
  return *p;
}
// One access: an assignment of sixteen bytes may become four of four.
template <class Word>
__device__ __forceinline__ void store_word(Word* p, const Word& word) {
  __stwb(p, word);
}

}  // namespace fused_ce::cuda

#endif

namespace fused_ce::cuda {

// Whether this is device code for sm_75; false in the host's. For launch bounds alone: what is
// computed, and in which order, is the same on every GPU.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
inline constexpr bool kIsTuring = true;
#else
inline constexpr bool kIsTuring = false;
#endif

}  // namespace fused_ce::cuda
