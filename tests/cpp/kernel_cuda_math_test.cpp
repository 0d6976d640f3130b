// SPDX-License-Identifier: BSD-3-Clause
// The bounds that kernels/cuda/math.cuh states. Its exponential of float is made of IEEE operations
// alone: what is measured here holds on a GPU. That of double calls the platform's exp2, so that
// here the reduction is tested and on a GPU NVIDIA's bound for exp2 (1 ulp) comes on top.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <type_traits>
#include <utility>

#include "kernels/cuda/cap.cuh"

namespace fused_ce::cuda {
namespace {

template <class A>
const Scale<A> kOne(1);

// |actual - exact| in units in the last place of T, where T is normal. NaN is infinitely far away.
template <class T, class Exact>
double ulps(T actual, Exact exact) {
  const uint64_t power_of_two =
      std::bit_cast<uint64_t>(static_cast<double>(exact)) & 0x7FF0000000000000u;
  const double ulp = std::bit_cast<double>(power_of_two) * std::numeric_limits<T>::epsilon();
  const auto error = static_cast<double>(std::fabs(static_cast<Exact>(actual) - exact) / ulp);
  return std::isnan(error) ? std::numeric_limits<double>::infinity() : error;
}

// Every kStride-th float between 2^-30 (below, e^x rounds to 1) and where e^x leaves the normal
// numbers. Odd, so that all last bits come by.
TEST(CudaMath, ExpOfFloats) {
  constexpr uint32_t kStride = 7;
  const Power<float> one = Power<float>::of(0, kOne<float>);
  double worst = 0;
  for (uint32_t sign : {0u, 1u << 31}) {
    for (uint32_t bits = 97u << 23; bits < 134u << 23; bits += kStride) {
      const float x = std::bit_cast<float>(bits | sign);
      const double exact = std::exp(static_cast<double>(x));
      if (exact < std::numeric_limits<float>::min() || exact >= 0x1p127) break;
      worst = std::fmax(worst, ulps(exp_scaled(x, kOne<float>, one, 1.0f), exact));
    }
  }
  RecordProperty("ulps", std::to_string(worst));
  EXPECT_LT(worst, 1.5);
}

// Relative to references as far away as logits may be before they are subtracted.
TEST(CudaMath, ExpOfFloatsRelativeToAPowerOfTwo) {
  std::mt19937 random(1);
  std::uniform_real_distribution<double> above(-87, 87);
  double worst = 0;
  for (int c : {-2954, -1000, -41, 1, 40, 333, 2954}) {
    const Power<float> power = Power<float>::of(static_cast<float>(c), kOne<float>);
    for (int i = 0; i < 200000; ++i) {
      const auto x = static_cast<float>(c * std::log(2.0) + above(random));
      const long double exact = std::ldexp(std::exp(static_cast<long double>(x)), -c);
      worst = std::fmax(worst, ulps(exp_scaled(x, kOne<float>, power, 1.0f), exact));
    }
  }
  RecordProperty("ulps", std::to_string(worst));
  EXPECT_LT(worst, 1.5);
}

TEST(CudaMath, ExpOfDoubles) {
  std::mt19937_64 random(2);
  std::uniform_real_distribution<double> above(-708, 708);
  double worst = 0;
  for (int c : {-2954, -41, 0, 7, 2954}) {
    const Power<double> power = Power<double>::of(c, kOne<double>);
    for (int i = 0; i < 200000; ++i) {
      const double offset = i % 2 == 0 ? above(random) : above(random) / 700;
      const double x = c * std::log(2.0) + offset;
      const long double exact = std::ldexp(std::exp(static_cast<long double>(x)), -c);
      worst = std::fmax(worst, ulps(exp_scaled(x, kOne<double>, power, 1.0), exact));
    }
  }
  RecordProperty("ulps", std::to_string(worst));
  EXPECT_LT(worst, 1.0);
}

// A factor and a power of two change the exponent alone.
TEST(CudaMath, ExpScalesExactly) {
  const Power<float> one = Power<float>::of(0, kOne<float>);
  for (int i = 0; i < 64; ++i) {
    const float x = -40 + 1.3f * static_cast<float>(i),
                plain = exp_scaled(x, kOne<float>, one, 1.0f);
    for (int c : {-40, 7, 33}) {
      const Power<float> power = Power<float>::of(static_cast<float>(c), kOne<float>);
      EXPECT_EQ(exp_scaled(x, kOne<float>, power, 1.0f), std::ldexp(plain, -c)) << x;
      EXPECT_EQ(exp_scaled(x, kOne<float>, power, 0.5f), std::ldexp(plain, -c - 1)) << x;
    }
  }
}

template <class A>
void expect_ends() {
  const A infinity = std::numeric_limits<A>::infinity();
  for (A c : {A(-2000), A(0), A(40), A(2000)}) {
    const Power<A> power = Power<A>::of(c, kOne<A>);
    for (A x : {-infinity, std::numeric_limits<A>::lowest(), A(-1e5)})
      EXPECT_EQ(exp_scaled(x, kOne<A>, power, A(1)), 0) << x << " " << c;
    for (A x : {infinity, std::numeric_limits<A>::max(), A(1e5)})
      EXPECT_EQ(exp_scaled(x, kOne<A>, power, A(1)), infinity) << x << " " << c;
    EXPECT_TRUE(std::isnan(exp_scaled(std::numeric_limits<A>::quiet_NaN(), kOne<A>, power, A(1))))
        << c;
  }
  EXPECT_EQ(exp_scaled(A(0), kOne<A>, Power<A>::of(0, kOne<A>), A(1)), 1);
  EXPECT_EQ(exp_scaled(-A(0), kOne<A>, Power<A>::of(0, kOne<A>), A(1)), 1);
}
TEST(CudaMath, ExpAtTheEnds) {
  expect_ends<float>();
  expect_ends<double>();
}

// A scale is in the constants: e^(s x) is as good as e^x, for any s.
template <class A>
double worst_of_scaled(double scale) {
  const Scale<A> s(scale);
  const Power<A> one = Power<A>::of(0, s);
  std::mt19937_64 random(3);
  std::uniform_real_distribution<double> exponent(-87, 87);
  double worst = 0;
  for (int i = 0; i < 200000; ++i) {
    const auto x = static_cast<A>(exponent(random) / scale);
    const long double exact = std::exp(static_cast<long double>(scale) * x);
    worst = std::fmax(worst, ulps(exp_scaled(x, s, one, A(1)), exact));
  }
  return worst;
}
TEST(CudaMath, ExpOfScaledNumbers) {
  for (double scale : {1.0, 0.3, 1 / 1.7, 30.1, 1e-6, 1e6}) {
    EXPECT_LT(worst_of_scaled<float>(scale), 1.5) << scale;
    EXPECT_LT(worst_of_scaled<double>(scale), 1.0) << scale;
  }
}

template <class A>
Cap<A> cap_of(double cap, double scale) {
  Problem p{};
  p.cap = cap;
  p.scale = scale;
  return Cap<A>(p);
}

// The soft cap of x and its slope, against the formula: how wrong they are, in units. (The slope
// beyond what a double's rounded scale / cap does to it: |v| units.)
template <class A>
std::pair<double, double> wrong_by(const Cap<A>& cap, double c, double scale, A x) {
  using Exact = std::conditional_t<sizeof(A) == 4, double, long double>;
  const Exact v = static_cast<Exact>(scale) * x / static_cast<Exact>(c);
  const Exact e = std::exp(-2 * std::fabs(v)), slope = 4 * e / ((1 + e) * (1 + e));
  const Capped<A> found = cap.of(x);
  return {ulps(found.logit, static_cast<Exact>(c) * std::tanh(v)),
          ulps(found.slope, static_cast<Exact>(scale) * slope) -
              (sizeof(A) == 8 ? static_cast<double>(std::fabs(v)) : 0)};
}

// All floats from where tanh(x) rounds to x up to where it has long been 1.
TEST(CudaMath, CapOfFloats) {
  constexpr uint32_t kStride = 31;
  double logit = 0, slope = 0;
  for (const auto& [c, scale] : {std::pair(1.0, 1.0), std::pair(30.0, 0.7)}) {
    const Cap<float> cap = cap_of<float>(c, scale);
    for (uint32_t bits = 97u << 23; bits < 138u << 23; bits += kStride) {
      const float x = std::bit_cast<float>(bits | (bits & 1) << 31);
      const auto [z, dz] = wrong_by(cap, c, scale, x);
      logit = std::fmax(logit, z);
      if (std::fabs(scale * x / c) < 40) slope = std::fmax(slope, dz);  // e^-2v is a normal number
    }
  }
  RecordProperty("ulps", std::to_string(logit));
  RecordProperty("ulps_of_slope", std::to_string(slope));
  EXPECT_LT(logit, 4);
  EXPECT_LT(slope, 4);
}

TEST(CudaMath, CapOfDoubles) {
  std::mt19937_64 random(4);
  std::uniform_real_distribution<double> exponent(-30, 5);
  const Cap<double> cap = cap_of<double>(50, 1.3);
  double logit = 0, slope = 0;
  for (int i = 0; i < 400000; ++i) {
    const auto [z, dz] = wrong_by(cap, 50, 1.3, 50 * std::exp2(exponent(random)));
    logit = std::fmax(logit, z);
    slope = std::fmax(slope, dz);
  }
  EXPECT_LT(logit, 4);
  EXPECT_LT(slope, 4);
}

template <class A>
void expect_ends_of_cap() {
  constexpr A infinity = std::numeric_limits<A>::infinity();
  const Cap<A> cap = cap_of<A>(20, 2);
  for (A x : {infinity, std::numeric_limits<A>::max(), A(1e5)}) {
    EXPECT_EQ(cap.of(x).logit, 20);
    EXPECT_EQ(cap.of(-x).logit, -20);
    EXPECT_LT(cap.of(x).slope, 1e-36);
  }
  EXPECT_EQ(cap.of(A(0)).logit, 0);
  EXPECT_EQ(cap.of(A(0)).slope, 2);
  EXPECT_TRUE(std::isnan(cap.of(std::numeric_limits<A>::quiet_NaN()).logit));
}
TEST(CudaMath, CapAtTheEnds) {
  expect_ends_of_cap<float>();
  expect_ends_of_cap<double>();
}

}  // namespace
}  // namespace fused_ce::cuda
