// SPDX-License-Identifier: BSD-3-Clause
// A number, and how far from it a device's may be.
#pragma once

#include <cmath>
#include <limits>

namespace fused_ce::testing {

struct Near {
  double value = 0, error = 0;
};

// What is too large for the type that it is computed in, `limit` at most, may be infinite.
inline bool is_near(double actual, const Near& expected,
                    double limit = std::numeric_limits<double>::max()) {
  const auto [value, error] = expected;
  if (std::isnan(value)) return std::isnan(actual);
  if (std::isinf(value)) return actual == value;
  if (std::isinf(actual) && std::fabs(value) + error >= limit)
    return std::signbit(actual) == std::signbit(value);
  return std::fabs(actual - value) <= error;
}

}  // namespace fused_ce::testing
