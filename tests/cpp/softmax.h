// SPDX-License-Identifier: BSD-3-Clause
// A row's logits, and what softmax makes of them, in long double: with x87 that has 11 bits more
// than the double kernels that it judges. The largest class stays out of the sums: no term is
// negative, and nothing cancels however far that class leads.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "problem_data.h"

namespace fused_ce::testing {

inline long double logit_of(const Problem& p, long double x) {
  return p.cap > 0 ? p.cap * tanhl(p.scale * x / p.cap) : p.scale * x;
}
// dz/dx. 1 - (z / cap)^2 would cancel.
inline long double slope_of(const Problem& p, long double x) {
  if (p.cap == 0) return p.scale;
  const long double root = coshl(p.scale * x / p.cap);
  return p.scale / root / root;
}

struct Softmax {
  std::vector<long double> z, slope;
  std::vector<long double> below;    // how far z lies below the largest
  std::vector<long double> p, rest;  // e^z / sum of e^z, and 1 - p
  std::vector<long double> log_p;
  int64_t largest = 0;     // the first of several
  int64_t prediction = 0;  // the same, or the first NaN
  long double lse = -std::numeric_limits<long double>::infinity();
  long double log_others = 0;  // lse less the largest logit
  long double gap = 0, entropy = 0, confidence = 0;
};

inline Softmax softmax_of(const ProblemData& data, int64_t row) {
  const Problem& p = data.p;
  const int64_t classes = p.classes;
  const long double nan = std::numeric_limits<long double>::quiet_NaN();
  Softmax s;
  if (classes == 0) return s;
  std::vector<long double> x(classes);
  bool some_nan = false;
  for (int64_t c = 0; c < classes; ++c) {
    x[c] = data.logits.get(at(p, p.logits_strides, row, c));
    s.z.push_back(logit_of(p, x[c]));
    s.slope.push_back(slope_of(p, x[c]));
    if (x[c] > x[s.largest] || std::isnan(x[s.largest])) s.largest = c;
    if (std::isnan(x[c]) && !some_nan) some_nan = true, s.prediction = c;
  }
  if (!some_nan) s.prediction = s.largest;
  const long double top = some_nan ? nan : s.z[s.largest];
  if (!std::isfinite(top)) {  // 0 / 0, or infinity over itself
    s.lse = top;
    s.below = s.p = s.rest = s.log_p = std::vector<long double>(classes, nan);
    s.log_others = s.gap = s.entropy = s.confidence = nan;
    return s;
  }
  long double others = 0, gaps = 0;
  for (int64_t c = 0; c < classes; ++c) {
    s.below.push_back(top - s.z[c]);
    s.p.push_back(expl(-s.below[c]));
    if (c == s.largest) continue;
    others += s.p[c];
    if (s.p[c] > 0) gaps += s.p[c] * s.below[c];
  }
  const long double all = 1 + others;
  s.log_others = log1pl(others);
  s.lse = top + s.log_others;
  s.gap = gaps / all;
  s.entropy = s.log_others + s.gap;
  s.confidence = 1 / all;
  for (int64_t c = 0; c < classes; ++c) {
    s.rest.push_back((c == s.largest ? others : all - s.p[c]) / all);
    s.p[c] /= all;
    s.log_p.push_back(-s.below[c] - s.log_others);  // without top, which may leave it no digits
  }
  return s;
}

}  // namespace fused_ce::testing
