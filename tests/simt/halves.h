// SPDX-License-Identifier: BSD-3-Clause
// __nv_bfloat16 and __half as storage, and the conversions of cuda_bf16.h and cuda_fp16.h: to
// nearest, ties to even, every NaN to 0x7FFF.
#pragma once

#include <stdint.h>

#include <bit>

// gcc 12 knows it by one name on x86, and by another on ARM.
#if defined(__aarch64__)
using SimtHalf = __fp16;
#else
using SimtHalf = _Float16;
#endif

struct __nv_bfloat16 {
  unsigned short bits;
};
struct __half {
  unsigned short bits;
};

inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 h) { return h.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { return {bits}; }
inline unsigned short __half_as_ushort(__half h) { return h.bits; }
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }

inline float __bfloat162float(__nv_bfloat16 h) {
  return std::bit_cast<float>(static_cast<uint32_t>(h.bits) << 16);
}

inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  if (x != x) return {0x7FFF};
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  // Adding just under half a unit, and one more where the kept part is odd, carries exactly where
  // nearest-even rounds up.
  return {static_cast<unsigned short>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)};
}

inline float __half2float(__half h) { return static_cast<float>(std::bit_cast<SimtHalf>(h.bits)); }

inline __half __float2half_rn(float x) {
  if (x != x) return {0x7FFF};
  return {std::bit_cast<unsigned short>(static_cast<SimtHalf>(x))};
}
