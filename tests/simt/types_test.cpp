// SPDX-License-Identifier: BSD-3-Clause
// Vector types, half types and device functions.
#include <math.h>
#include <limits>

#include "simt_test.h"

namespace {

static_assert(sizeof(uint4) == 16 && alignof(uint4) == 16);
static_assert(sizeof(float4) == 16 && alignof(float4) == 16);
static_assert(sizeof(double2) == 16 && alignof(double2) == 16);
static_assert(sizeof(ulonglong2) == 16 && alignof(ulonglong2) == 16);
static_assert(sizeof(uint2) == 8 && alignof(uint2) == 8 && alignof(float2) == 8);
static_assert(sizeof(uint3) == 12 && sizeof(dim3) == 12);
static_assert(sizeof(__half) == 2 && sizeof(__nv_bfloat16) == 2);

// The value of a half type from its definition: so many bits of exponent, the rest of fraction.
float decode(unsigned bits, int exponent_bits) {
  const int fraction_bits = 15 - exponent_bits, bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = static_cast<int>(bits >> fraction_bits & ((1u << exponent_bits) - 1));
  const auto fraction = static_cast<float>(bits & ((1u << fraction_bits) - 1));
  const float sign = bits >> 15 ? -1.0f : 1.0f;
  if (exponent == (1 << exponent_bits) - 1) return fraction != 0 ? NAN : sign * INFINITY;
  const float one = exponent == 0 ? 0.0f : ldexpf(1.0f, fraction_bits);
  return sign * ldexpf(one + fraction, (exponent == 0 ? 1 : exponent) - bias - fraction_bits);
}

// Every value, every midpoint between neighbours, and the floats on either side of it.
template <class Decode, class Encode>
void expect_conversions(int exponent_bits, Decode to_float, Encode from_float) {
  const unsigned infinity = ((1u << exponent_bits) - 1) << (15 - exponent_bits);
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const float value = to_float(static_cast<unsigned short>(bits));
    const unsigned magnitude = bits & 0x7FFF, sign = bits & 0x8000;
    if (magnitude > infinity) {
      ASSERT_TRUE(isnan(value)) << bits;
      ASSERT_EQ(from_float(value), 0x7FFF);
      continue;
    }
    ASSERT_EQ(__float_as_uint(value), __float_as_uint(decode(bits, exponent_bits))) << bits;
    ASSERT_EQ(from_float(value), bits);
    if (magnitude == infinity) continue;
    // Past the largest finite value lies what would be the next one, which rounds to infinity.
    const double next = magnitude + 1 == infinity
                            ? ldexp(sign ? -1.0 : 1.0, 1 << (exponent_bits - 1))
                            : decode(bits + 1, exponent_bits);
    const auto middle = static_cast<float>((double{value} + next) / 2);
    ASSERT_EQ(from_float(middle), bits + (bits & 1)) << bits;
    ASSERT_EQ(from_float(nextafterf(middle, 0)), bits) << bits;
    ASSERT_EQ(from_float(nextafterf(middle, sign ? -INFINITY : INFINITY)), bits + 1) << bits;
  }
}

TEST_F(Simt, Bfloat16) {
  expect_conversions(
      8, [](unsigned short bits) { return __bfloat162float(__ushort_as_bfloat16(bits)); },
      [](float x) { return __bfloat16_as_ushort(__float2bfloat16_rn(x)); });
}

TEST_F(Simt, Half) {
  expect_conversions(
      5, [](unsigned short bits) { return __half2float(__ushort_as_half(bits)); },
      [](float x) { return __half_as_ushort(__float2half_rn(x)); });
}

TEST_F(Simt, Functions) {
  EXPECT_EQ(__umulhi(0xFFFFFFFF, 0x10), 0xFu);
  EXPECT_EQ(__popc(0xF0F0), 8);
  EXPECT_EQ(__clz(0), 32);
  EXPECT_EQ(__clz(-1), 0);
  EXPECT_EQ(__ffs(0), 0);
  EXPECT_EQ(__ffs(8), 4);
  EXPECT_EQ(__int_as_float(0x3F800000), 1.0f);
  EXPECT_EQ(__float_as_int(-0.0f), std::numeric_limits<int>::min());
  EXPECT_EQ(__longlong_as_double(__double_as_longlong(2.5)), 2.5);
  EXPECT_EQ(min(2, 3), 2);
  EXPECT_EQ(max(2.0f, NAN), 2.0f);
  EXPECT_EQ(__fmaf_rn(2, 3, 4), 10.0f);

  using fused_ce::cuda::fast_exp2;
  EXPECT_EQ(fast_exp2(3.0f), 8.0f);
  EXPECT_EQ(fast_exp2(-126.0f), 0x1p-126f);
  EXPECT_EQ(fast_exp2(-127.0f), 0.0f);
  EXPECT_EQ(fast_exp2(-INFINITY), 0.0f);
  EXPECT_EQ(fast_exp2(INFINITY), INFINITY);
  EXPECT_TRUE(isnan(fast_exp2(NAN)));
}

__global__ void halve_through_vectors(float* values, float* out) {
  values[0] = 8;
  uint4* const words = reinterpret_cast<uint4*>(values);
  uint4 word = *words;
  word.x = __float_as_uint(__uint_as_float(word.x) / 2);
  *words = word;
  *out = values[0];
}

TEST_F(Simt, VectorsMayAliasAnything) {
  alignas(16) float values[4] = {};
  float out;
  FUSED_CE_LAUNCH(halve_through_vectors, 1, 1, 0, nullptr, values, &out);
  EXPECT_EQ(out, 4);
}

}  // namespace
