// SPDX-License-Identifier: BSD-3-Clause
// The bounds that kernels/cpu/math.h states: every float for exp, and a dense sample for doubles.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/cpu.h"
#include "math_probe.h"

namespace fused_ce::cpu {
namespace isa_default {
extern const testing::MathProbe kMathProbe;
}
#ifdef FUSED_CE_X86
namespace isa_avx2 {
extern const testing::MathProbe kMathProbe;
}
namespace isa_avx512 {
extern const testing::MathProbe kMathProbe;
}
#endif
}  // namespace fused_ce::cpu

namespace fused_ce {
namespace {

using cpu::Capability;
using testing::MathProbe;

constexpr int64_t kChunk = 1 << 16;

struct Named {
  std::string name;
  const MathProbe* probe;
};

std::vector<Named> probes() {
  std::vector<Named> found = {{"default", &cpu::isa_default::kMathProbe}};
#ifdef FUSED_CE_X86
  if (supported(Capability::kAvx2)) found.push_back({"avx2", &cpu::isa_avx2::kMathProbe});
  if (supported(Capability::kAvx512)) found.push_back({"avx512", &cpu::isa_avx512::kMathProbe});
#endif
  return found;
}

float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// |actual - exact| in units in the last place of T at `exact`.
template <class T, class Exact>
double ulps(T actual, Exact exact) {
  int exponent;
  std::frexp(static_cast<double>(exact), &exponent);
  return static_cast<double>(std::fabs(static_cast<Exact>(actual) - exact) /
                             std::ldexp(std::numeric_limits<T>::epsilon(), exponent - 1));
}

double relative_error(double actual, long double exact) {
  return static_cast<double>(std::fabs((static_cast<long double>(actual) - exact) / exact));
}

// How many of n results are further from what is exact than `limit` of it allows: NaN always is.
template <class Limit>
int64_t beyond(const std::vector<float>& out, const std::vector<double>& exact, int64_t n,
               Limit limit) {
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i)
    count += !(std::fabs(static_cast<double>(out[i]) - exact[i]) < limit(i));
  return count;
}

TEST(Math, ExpOfEveryFloat) {
  const std::vector<Named> found = probes();
  std::vector<float> x(kChunk), out(kChunk);
  std::vector<double> exact(kChunk), unit(kChunk);  // in the last place of a float
  for (uint32_t sign : {0u, 1u << 31}) {
    // From 2^-30 (below, e^x rounds to 1) to where the result leaves the normal numbers.
    for (uint32_t first = 97u << 23; first < 134u << 23; first += kChunk) {
      int64_t n = 0;
      for (int64_t i = 0; i < kChunk; ++i) {
        const float value = float_of((first + static_cast<uint32_t>(i)) | sign);
        const double e = std::exp(static_cast<double>(value));
        if (e < std::numeric_limits<float>::min() || e >= 0x1p127) continue;
        const uint64_t power = std::bit_cast<uint64_t>(e) >> 52 << 52;
        x[n] = value, exact[n] = e, unit[n++] = std::bit_cast<double>(power) * 0x1p-23;
      }
      for (const auto& [name, probe] : found) {
        const int64_t whole = (n + probe->multiple - 1) / probe->multiple * probe->multiple;
        probe->exp_float(x.data(), 0, out.data(), whole);
        ASSERT_EQ(beyond(out, exact, n, [&](int64_t i) { return unit[i]; }), 0) << name;
        const bool fused = name != "default";
        probe->exp_float_above(x.data(), 0, out.data(), whole);
        ASSERT_EQ(beyond(out, exact, n,
                         [&](int64_t i) {
                           return unit[i] * (!fused ? 1 : exact[i] < 0x1p-121 ? 1.5 : 0.65);
                         }),
                  0)
            << name;
        probe->exp_float_short(x.data(), 0, out.data(), whole);
        ASSERT_EQ(beyond(out, exact, n,
                         [&](int64_t i) {
                           return exact[i] *
                                  (0x1p-22 + std::fabs(static_cast<double>(x[i])) * 0x1p-23);
                         }),
                  0)
            << name;
      }
    }
  }
}

TEST(Math, ExpOfDoubles) {
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> uniform(-708, 709);
  std::vector<double> x(kChunk), out(kChunk);
  for (const Named& named : probes()) {
    double worst = 0, worst_short = 0;
    for (int round = 0; round < 16; ++round) {
      for (double& v : x) v = round < 8 ? uniform(random) : uniform(random) / 700;
      named.probe->exp_double(x.data(), 0, out.data(), kChunk);
      for (int64_t i = 0; i < kChunk; ++i)
        worst = std::fmax(worst, ulps(out[i], expl(static_cast<long double>(x[i]))));
      named.probe->exp_double_short(x.data(), 0, out.data(), kChunk);
      for (int64_t i = 0; i < kChunk; ++i)
        worst_short = std::fmax(worst_short, relative_error(out[i], expl(x[i])));
    }
    EXPECT_LT(worst, 1.1) << named.name;
    EXPECT_LT(worst_short, 0x1p-34) << named.name;
  }
}

TEST(Math, ExpScalesByPowersOfTwoExactly) {
  std::vector<float> x(64), plain(64), scaled(64);
  for (int i = 0; i < 64; ++i) x[i] = -40 + 1.3f * static_cast<float>(i);
  for (const Named& named : probes()) {
    named.probe->exp_float(x.data(), 0, plain.data(), 64);
    for (float c : {-40.0f, 7.0f, 33.0f}) {
      named.probe->exp_float(x.data(), c, scaled.data(), 64);
      for (int i = 0; i < 64; ++i) EXPECT_EQ(scaled[i], std::ldexp(plain[i], -static_cast<int>(c)));
    }
    named.probe->exp_float_above(x.data(), 0, plain.data(), 64);
    named.probe->exp_float_above(x.data(), -40, scaled.data(), 64);
    for (int i = 0; i < 64; ++i) EXPECT_EQ(scaled[i], std::ldexp(plain[i], 40));
  }
}

TEST(Math, ExpAtTheEnds) {
  const float infinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> x(64, 0), out(64);
  x[0] = -infinity;
  x[2] = nan;
  x[3] = -1e30f;
  x[5] = 0;
  x[6] = -0.0f;
  // A sum with one of these is seen to be out of range.
  for (int i = 8; i < 60; ++i) x[i] = 600 * std::exp2(static_cast<float>(2.3 * (i - 8)));
  x[60] = infinity;
  for (const Named& named : probes()) {
    for (float c : {-40.0f, 0.0f, 40.0f}) {
      named.probe->exp_float_above(x.data(), c, out.data(), 64);
      EXPECT_EQ(out[0], 0) << named.name;
      EXPECT_TRUE(std::isnan(out[2])) << named.name;
      EXPECT_EQ(out[3], 0) << named.name;
      EXPECT_EQ(out[5], std::exp2(-c)) << named.name;
    }
    named.probe->exp_float(x.data(), 0, out.data(), 64);
    EXPECT_EQ(out[0], 0) << named.name;
    EXPECT_TRUE(std::isnan(out[2])) << named.name;
    EXPECT_EQ(out[3], 0) << named.name;
    EXPECT_EQ(out[5], 1) << named.name;
    EXPECT_EQ(out[6], 1) << named.name;
    for (int i = 8; i <= 60; ++i)
      EXPECT_TRUE(out[i] == infinity || std::isnan(out[i])) << named.name << " " << x[i];
  }
}

TEST(Math, Logarithms) {
  std::mt19937_64 random(2);
  std::uniform_real_distribution<double> exponent(-1000, 1000), small(-60, 3);
  std::vector<double> x(kChunk), out(kChunk);
  for (const Named& named : probes()) {
    double worst_log = 0, worst_log1p = 0, worst_short = 0;
    for (int round = 0; round < 16; ++round) {
      for (double& v : x) v = std::exp2(round < 8 ? exponent(random) : small(random));
      named.probe->log(x.data(), out.data(), kChunk);
      for (int64_t i = 0; i < kChunk; ++i)
        worst_log = std::fmax(worst_log, ulps(out[i], logl(static_cast<long double>(x[i]))));
      named.probe->log1p(x.data(), out.data(), kChunk);
      for (int64_t i = 0; i < kChunk; ++i)
        worst_log1p = std::fmax(worst_log1p, ulps(out[i], log1pl(static_cast<long double>(x[i]))));
      named.probe->log1p_short(x.data(), out.data(), kChunk);
      for (int64_t i = 0; i < kChunk; ++i)
        worst_short = std::fmax(worst_short, relative_error(out[i], log1pl(x[i])));
    }
    EXPECT_LT(worst_log, 1.0) << named.name;
    EXPECT_LT(worst_log1p, 1.0) << named.name;
    EXPECT_LT(worst_short, 0x1p-36) << named.name;
  }
}

TEST(Math, LogarithmsAtTheEnds) {
  const double infinity = std::numeric_limits<double>::infinity();
  std::vector<double> x(16, 1), out(16);
  x[0] = 0;
  x[1] = infinity;
  x[2] = std::numeric_limits<double>::quiet_NaN();
  x[4] = 0x1p1000;
  for (const Named& named : probes()) {
    named.probe->log(x.data(), out.data(), 16);
    EXPECT_EQ(out[0], -infinity) << named.name;
    EXPECT_TRUE(std::isnan(out[2])) << named.name;
    EXPECT_EQ(out[3], 0) << named.name;
    for (const auto log1p : {named.probe->log1p, named.probe->log1p_short}) {
      log1p(x.data(), out.data(), 16);
      EXPECT_EQ(out[0], 0) << named.name;
      EXPECT_EQ(out[1], infinity) << named.name;
      EXPECT_TRUE(std::isnan(out[2])) << named.name;
      EXPECT_NEAR(out[4], std::log(0x1p1000), 1e-6) << named.name;
    }
  }
}

}  // namespace
}  // namespace fused_ce
