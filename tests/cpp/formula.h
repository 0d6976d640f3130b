// SPDX-License-Identifier: BSD-3-Clause
// One cross entropy problem's answer by the formula in long double, and how far from it a device's
// may be, as tests/README.md derives it.
#pragma once

#include <algorithm>
#include <vector>

#include "near.h"
#include "softmax.h"

namespace fused_ce::testing {

// What gradients come in for a row.
struct RowGrads {
  double loss = 0, z_loss = 0, lse = 0, entropy = 0;
};

// One row's answer. Where the row does not count, all is 0 but prediction and confidence.
struct Expected {
  Near loss, z_loss, lse, entropy, confidence;
  int64_t prediction = 0;
  double weight = 0;  // what the row adds to that which a mean divides by
  std::vector<Near> grad;
};

// A term may be wrong by 4 units of the type that is computed in (half types: by 2e-6), and by its
// share of the roundings of a sum in double, which walk at random, but all one way where the
// classes share one logit.
inline double term_error(const Problem& p) {
  const double term = size_of(p.dtype) == 2 ? 2e-6 : 4 * epsilon(p.dtype);
  const auto classes = static_cast<double>(p.classes);
  return term + 0x1p-53 * (p.logits_strides.classes == 0 ? classes / 4 : std::sqrt(classes));
}

// How far a logit itself may be off: its rounding to the accumulate type, or a capped one's 4
// units.
inline double logit_error(const Problem& p, long double z) {
  if ((p.scale == 1 && p.cap == 0) || !std::isfinite(z)) return 0;
  const double units = p.cap > 0 ? 5 : 0.5;
  return units * epsilon(accumulate_type(p.dtype)) * static_cast<double>(fabsl(z));
}

// Relative, of the sum of rows' weights: the product of two may be rounded.
inline double weight_error(const Problem& p) {
  return 1e-12 + (p.row_weight && p.weight ? epsilon(accumulate_type(p.dtype)) / 2 : 0);
}

// The half types' exponential is wrong by as many units as its logit lies below the largest.
inline double short_exp_error(const Problem& p, long double below) {
  return size_of(p.dtype) == 2 ? 0x1p-23 * static_cast<double>(below) : 0;
}

// What a row's target makes of its classes, with q the weights of their log-probabilities. `terms`
// are the absolute ones that a sum is made of: a negative probability may cancel smoothing.
struct Targets {
  int64_t target = kMixed;                   // of class indices
  double at_target = 0;                      // what q has there beside what all classes have:
  std::vector<double> linear, linear_terms;  // smoothing's, or of probabilities all of q
  long double mass = 0, mass_terms = 0;      // sums of q

  long double q(int64_t c) const { return linear[c] + (c == target ? at_target : 0); }
  long double q_terms(int64_t c) const {
    return linear_terms[c] + (c == target ? std::fabs(at_target) : 0);
  }
};

inline Targets targets_of(const ProblemData& data, int64_t row) {
  const Problem& p = data.p;
  const double s = p.label_smoothing, spread = s / static_cast<double>(p.classes);
  Targets t;
  if (data.indices()) {
    t.target = data.target[row];
    t.at_target = (1 - s) * data.weights[t.target];
  }
  for (int64_t c = 0; c < p.classes; ++c) {
    const double probability =
        data.indices() ? 0 : data.probabilities.get(at(p, p.target_strides, row, c));
    const double own = (1 - s) * probability, w = data.weights[c];
    t.linear.push_back(w * (own + spread));
    t.linear_terms.push_back(std::fabs(w) * (std::fabs(own) + spread));
    t.mass += t.q(c);
    t.mass_terms += t.q_terms(c);
  }
  return t;
}

// Adds the loss without the z-loss, `weight` times.
inline void add_loss(const Problem& p, const Softmax& s, const Targets& t, double weight,
                     Expected& e) {
  const bool linear = t.target == kMixed || p.label_smoothing > 0;
  long double loss = 0, terms = 0, from_logits = 0;
  for (int64_t c = 0; c < p.classes; ++c) {
    // Each term for itself: torch's, too, is NaN where one is 0 times infinity.
    if (linear) loss -= t.linear[c] * s.log_p[c];
    if (c == t.target) loss -= t.at_target * s.log_p[c];
    if (t.q_terms(c) != 0) terms += t.q_terms(c) * (fabsl(s.log_p[c]) + 1);
    from_logits += (t.mass_terms * s.p[c] + t.q_terms(c)) * logit_error(p, s.z[c]);
  }
  e.loss = {static_cast<double>(weight * loss),
            std::fabs(weight) * static_cast<double>(term_error(p) * terms + from_logits)};
}

// What `weight` times z_loss_weight lse^2 adds.
inline void add_z_loss(const Problem& p, double weight, Expected& e) {
  if (p.z_loss_weight == 0) return;
  const auto [lse, error] = e.lse;
  const double all = p.z_loss_weight * weight;
  e.z_loss.value = all * lse * lse;
  e.z_loss.error =
      std::fabs(all) * ((2 * std::fabs(lse) + error) * error + term_error(p) * lse * lse);
  e.loss.value += e.z_loss.value;
  e.loss.error += e.z_loss.error;
}

inline void add_statistics(const Problem& p, const Softmax& s, bool counts, Expected& e) {
  const double work = term_error(p);
  const long double top = p.classes > 0 ? s.z[s.largest] : 0;
  const double top_error = logit_error(p, top);
  long double exponents = 0, entropy = 0;  // what the errors of exponents make
  for (int64_t c = 0; c < p.classes; ++c) {
    const long double off =
        s.p[c] > 0 ? s.p[c] * (logit_error(p, s.z[c]) + short_exp_error(p, s.below[c])) : 0;
    exponents += off;
    if (off > 0) entropy += off * fabsl(s.below[c] - s.gap);
  }
  e.prediction = s.prediction;
  e.confidence = {static_cast<double>(s.confidence),
                  static_cast<double>(s.confidence * (work + top_error + exponents))};
  if (!counts) return;
  e.lse = {static_cast<double>(s.lse),
           static_cast<double>(work * (fabsl(top) + s.log_others + 1) + exponents)};
  // No term is negative.
  e.entropy = {static_cast<double>(s.entropy), static_cast<double>(work * s.entropy + entropy) +
                                                   smallest(accumulate_type(p.dtype))};
}

inline void add_gradient(const Problem& p, const Softmax& s, const Targets& t, const RowGrads& in,
                         double weight, Expected& e) {
  const double work = term_error(p), g = in.loss * weight;
  const double of_z = (in.loss + in.z_loss) * weight * 2 * p.z_loss_weight;
  const bool has_lse = of_z != 0 || in.lse != 0, has_entropy = in.entropy != 0;
  long double mean = 0, mean_gap = 0;  // what the errors of logits make of a p, and of the gap
  for (int64_t c = 0; c < p.classes; ++c) {
    const double off = logit_error(p, s.z[c]);
    if (s.p[c] > 0) mean += s.p[c] * off;
    if (s.p[c] > 0) mean_gap += s.p[c] * fabsl(s.below[c] - s.gap - 1) * off;
  }
  for (int64_t c = 0; c < p.classes; ++c) {
    const long double share = s.p[c], q = t.q(c);
    const double off = logit_error(p, s.z[c]);
    long double dz = g * ((t.mass - q) * share - q * s.rest[c]);
    long double terms = std::fabs(g) * t.mass_terms, error = 0;
    if (has_lse) {
      const long double lse = e.lse.value;
      dz += share * (of_z * lse + in.lse);
      terms += fabsl(of_z * lse) + std::fabs(in.lse);
      error += std::fabs(of_z) * e.lse.error;
    }
    if (has_entropy && share != 0) {  // a class at -infinity has no part in the entropy
      dz += share * in.entropy * (s.below[c] - s.gap);
      terms += std::fabs(in.entropy) * (s.below[c] + s.gap);
      error += std::fabs(in.entropy) * (off + logit_error(p, s.z[s.largest]) + mean_gap);
    }
    error += (work + off + mean) * terms;
    const long double dx = dz * s.slope[c];
    // The slope of a capped logit, 1 - (z / cap)^2, may cancel.
    const long double slope_error = p.cap > 0 ? 2 * work * p.scale : 0;
    const long double from_z = share * error + work * std::fabs(g) * t.q_terms(c);
    // What is no normal number may be lost: z's gradient, and x's; of an entropy's, what is yet to
    // be multiplied by how far the logit lies below.
    const double least = smallest(accumulate_type(p.dtype)) * static_cast<double>(s.slope[c]);
    double lost = smallest(p.dtype) + (p.scale == 1 && p.cap == 0 ? 0 : least);
    if (has_entropy && share != 0) lost += 2 * least * static_cast<double>(s.below[c]);
    e.grad[c] = {static_cast<double>(dx),
                 static_cast<double>(from_z * s.slope[c] + fabsl(dz) * slope_error +
                                     epsilon(p.dtype) / 2 * fabsl(dx)) +
                     lost};
  }
}

// Whether `actual` is a row's prediction. Capped logits that differ may be the same once they are
// rounded: then it is the first of them.
inline bool is_prediction(const ProblemData& data, int64_t row, int64_t actual, int64_t expected) {
  const Problem& p = data.p;
  if (actual == expected) return true;
  if (p.cap == 0 || actual < 0 || actual >= p.classes) return false;
  const auto logit = [&](int64_t c) {
    return logit_of(p, data.logits.get(at(p, p.logits_strides, row, c)));
  };
  const long double top = logit(expected);
  return top - logit(actual) <= 2 * logit_error(p, top);
}

inline Expected expected_row(const ProblemData& data, int64_t row, const RowGrads& grads) {
  const Problem& p = data.p;
  const bool indices = data.indices();
  const bool counts = !indices || data.target[row] != p.ignore_index;
  const Softmax s = softmax_of(data, row);
  Expected e;
  e.grad.resize(p.classes);
  add_statistics(p, s, counts, e);
  if (counts) {
    const Targets t = targets_of(data, row);
    const double weight = data.row_weight_of(row);
    // The exponentials may be relative to the target, or to what they do not overflow beside.
    if (indices) e.lse.error += short_exp_error(p, fminl(s.below[data.target[row]], 87));
    e.weight = weight * (indices ? data.weights[data.target[row]] : 1);
    add_loss(p, s, t, weight, e);
    add_z_loss(p, weight, e);
    add_gradient(p, s, t, grads, weight, e);
  }
  // As torch has it, an empty sum times s / 0.
  if (indices && p.classes == 0 && p.label_smoothing > 0)
    e.loss.value = std::numeric_limits<double>::quiet_NaN();
  return e;
}

}  // namespace fused_ce::testing
