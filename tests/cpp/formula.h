// One cross entropy problem's answer by the formula in long double: with x87 that has 11 bits more
// than the double kernels that it judges.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "problem_data.h"

namespace fused_ce::testing {

// One row's answer. `terms` is the sum of the absolute terms that the result is a sum of: what a
// relative rounding error of one term is relative to.
struct Expected {
  double loss = 0, loss_terms = 0, weight = 0;
  std::vector<double> grad, grad_terms;
};

// Of a row whose gradient is `g`.
inline Expected expected_row(const ProblemData& data, int64_t row, double g) {
  const Problem& p = data.p;
  const std::vector<int64_t>& target = data.target;
  const std::vector<double>& weight = data.weights;
  const int64_t classes = p.classes;
  Expected e;
  e.grad.assign(classes, 0);
  e.grad_terms.assign(classes, 0);
  std::vector<double> q(classes), q_terms(classes);  // a negative probability may cancel smoothing
  std::vector<long double> log_p(classes);
  const bool indices = p.target_kind != TargetKind::kProbabilities;
  const double s = p.label_smoothing;
  // As torch has it, an empty sum times s / 0.
  if (indices && classes == 0 && s > 0) e.loss = std::numeric_limits<double>::quiet_NaN();
  if (indices && target[row] == p.ignore_index) return e;
  long double mass = 0, all_mass = 0, peak = -std::numeric_limits<long double>::infinity();
  for (int64_t c = 0; c < classes; ++c) {
    const double t = indices ? 0 : data.probabilities.get(at(p, p.target_strides, row, c));
    const double own = (1 - s) * t, spread = s / static_cast<double>(classes);
    q[c] = weight[c] * (own + spread);
    q_terms[c] = std::fabs(weight[c]) * (std::fabs(own) + spread);
    mass += q[c];
    all_mass += q_terms[c];
    log_p[c] = data.logits.get(at(p, p.logits_strides, row, c));
    peak = fmaxl(peak, log_p[c]);
  }
  const double at_target = indices ? (1 - s) * weight[target[row]] : 0;
  mass += at_target;
  all_mass += std::fabs(at_target);
  long double sum = 0;
  for (int64_t c = 0; c < classes; ++c) sum += expl(log_p[c] - peak);
  const long double log_sum = logl(sum);
  long double loss = 0;
  for (int64_t c = 0; c < classes; ++c) {
    log_p[c] = (log_p[c] - peak) - log_sum;  // not one number: a huge peak has no room for it
    const long double softmax = expl(log_p[c]);
    const bool is_target = indices && c == target[row];
    // Each term for itself: torch's, too, is NaN where one is 0 times infinity.
    if (!indices || s > 0) loss -= q[c] * log_p[c];
    if (is_target) loss -= at_target * log_p[c];
    if (is_target) q[c] += at_target, q_terms[c] += std::fabs(at_target);
    if (q_terms[c] != 0) e.loss_terms += static_cast<double>(q_terms[c] * (fabsl(log_p[c]) + 1));
    e.grad[c] = static_cast<double>(g * (mass * softmax - q[c]));
    e.grad_terms[c] = std::fabs(g) * static_cast<double>(all_mass * softmax + q_terms[c]);
  }
  e.loss = static_cast<double>(loss);
  e.weight = indices ? weight[target[row]] : 1;
  return e;
}

// How far from the formula a result may be, as tests/README.md says.
//
// A term may be wrong by 4 units of the type that is computed in (half types: by 2e-6), and by its
// share of the roundings of a sum in double, which walk at random, but all one way where the
// classes share one logit.
inline double term_error(const Problem& p) {
  const double term = size_of(p.dtype) == 2 ? 2e-6 : 4 * epsilon(p.dtype);
  const auto classes = static_cast<double>(p.classes);
  return term + 0x1p-53 * (p.logits_strides.classes == 0 ? classes / 4 : std::sqrt(classes));
}
// A gradient is rounded once more, to its type.
inline double grad_error(const Problem& p, const Expected& e, int64_t c) {
  return epsilon(p.dtype) / 2 * std::fabs(e.grad[c]) + term_error(p) * e.grad_terms[c] +
         smallest(p.dtype);
}

}  // namespace fused_ce::testing
