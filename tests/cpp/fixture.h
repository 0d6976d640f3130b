// Problems of every layout and option with random contents, and the bounds that a device's answer
// has to keep.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>

#include "formula.h"

namespace fused_ce::testing {

enum class Layout { kRows, kPadded, kTransposed, kPlanes, kStridedPlanes };
enum class Option { kPlain, kWeights, kSmoothed, kUInt8, kProbabilities };

struct Shape {
  int64_t outer, classes, inner;
};

// Strides of a layout, and the elements they span.
inline std::pair<Strides, int64_t> strides_of(Layout layout, const Shape& s) {
  switch (layout) {
    case Layout::kPadded:  // every second class of a longer row
      return {{2 * s.classes + 3, 2, 1}, s.outer * (2 * s.classes + 3)};
    case Layout::kTransposed:
      return {{0, s.inner, 1}, s.classes * s.inner};
    case Layout::kPlanes:
      return {{s.classes * s.inner, s.inner, 1}, s.outer * s.classes * s.inner};
    case Layout::kStridedPlanes:
      return {{s.classes * s.inner * 2, s.inner * 2, 2}, s.outer * s.classes * s.inner * 2};
    default:
      return {{s.classes, 1, 0}, s.outer * s.classes};
  }
}

inline Shape shape_of(Layout layout, int64_t classes) {
  switch (layout) {
    case Layout::kTransposed:
      return {1, classes, 300};
    case Layout::kPlanes:
    case Layout::kStridedPlanes:
      return {3, classes, 37};
    default:
      return {classes > 100 ? 5 : 261, classes, 1};
  }
}

// A problem with random contents and all that it points into.
struct ProblemFixture {
  Problem p{};
  Array logits, probabilities, weight, grad;
  std::vector<int64_t> target;
  std::vector<uint8_t> bytes;
  std::vector<double> weights, row_grads;
  double weight_sum = 0;
  Array reference, sum, target_or_mass, loss;

  ProblemFixture(DType dtype, Layout layout, Option option, const Shape& s, double scale = 3)
      : logits(dtype, strides_of(layout, s).second),
        probabilities(dtype, s.outer * s.classes * s.inner),
        weight(accumulate_type(dtype), s.classes),
        grad(dtype, logits.size(), 77),
        target(s.outer * s.inner),
        bytes(target.size()),
        weights(s.classes, 1.0),
        row_grads(target.size()),
        reference(accumulate_type(dtype), rows(s)),
        sum(accumulate_type(dtype), rows(s)),
        target_or_mass(accumulate_type(dtype), rows(s)),
        loss(accumulate_type(dtype), rows(s)) {
    std::mt19937 random(static_cast<unsigned>(s.classes));
    std::normal_distribution<double> normal;
    std::uniform_real_distribution<double> uniform;
    const double nan = std::numeric_limits<double>::quiet_NaN();
    p.outer = s.outer;
    p.classes = s.classes;
    p.inner = s.inner;
    p.dtype = dtype;
    p.logits_strides = strides_of(layout, s).first;
    // What lies between the logits must never matter.
    for (int64_t i = 0; i < logits.size(); ++i) logits.set(i, nan);
    for (int64_t row = 0; row < rows(s); ++row) {
      for (int64_t c = 0; c < s.classes; ++c)
        logits.set(at(p, p.logits_strides, row, c), scale * normal(random));
      const int64_t limit =
          option == Option::kUInt8 ? std::min<int64_t>(s.classes, 256) : s.classes;
      if (limit > 0) target[row] = static_cast<int64_t>(random() % static_cast<uint64_t>(limit));
      bytes[row] = static_cast<uint8_t>(target[row]);
      row_grads[row] = normal(random);
    }
    p.logits = logits.data();
    p.target_kind = TargetKind::kInt64;
    p.target = target.data();
    p.ignore_index = s.classes > 1 ? 1 : -100;
    if (option == Option::kWeights || option == Option::kProbabilities) {
      p.weight_sum = &weight_sum;
      for (int64_t c = 0; c < s.classes; ++c) {
        weight.set(c, 0.5 + uniform(random));
        weights[c] = weight.get(c);
        weight_sum += weights[c];
      }
      p.weight = weight.data();
    }
    if (option != Option::kPlain && option != Option::kUInt8) p.label_smoothing = 0.2;
    if (option == Option::kWeights) p.label_smoothing = 0;
    if (option == Option::kUInt8) {
      p.target_kind = TargetKind::kUInt8;
      p.target = bytes.data();
    }
    if (option == Option::kProbabilities) {
      for (int64_t i = 0; i < probabilities.size(); ++i) probabilities.set(i, uniform(random));
      p.target_kind = TargetKind::kProbabilities;
      p.target = probabilities.data();
      p.target_dtype = dtype;
      p.target_strides = {s.classes * s.inner, s.inner, 1};
      if (layout == Layout::kTransposed) p.target_strides.outer = 0;
    }
  }

  static int64_t rows(const Shape& s) { return s.outer * s.inner; }
  int64_t rows() const { return static_cast<int64_t>(target.size()); }

  Forward forward_out() {
    return {{reference.data(), sum.data(), target_or_mass.data()}, loss.data(), loss.type()};
  }
  Backward backward_out() {
    return {{reference.data(), sum.data(), target_or_mass.data()},
            row_grads.data(),
            DType::kDouble,
            1,
            nullptr,
            grad.data(),
            p.logits_strides};
  }

  // Each row's target is its last class, whose logit is far above those that a first guess sees.
  // One near it keeps the roundings of a far guess from cancelling.
  void set_late_maximum_of_probabilities() {
    p.weight = nullptr;
    p.label_smoothing = 0;
    weights.assign(p.classes, 1.0);
    for (int64_t row = 0; row < rows(); ++row) {
      logits.set(at(p, p.logits_strides, row, p.classes - 1), 40);
      logits.set(at(p, p.logits_strides, row, p.classes - 2), 39.3);
      for (int64_t c = 0; c < p.classes; ++c)
        probabilities.set(at(p, p.target_strides, row, c), c == p.classes - 1);
    }
  }

  // The same of smoothed class indices, with weights that leave little but that class's linear
  // term.
  void set_late_maximum_of_smoothed() {
    p.label_smoothing = 0.2;
    p.ignore_index = -100;
    p.weight = weight.data();
    p.weight_sum = &weight_sum;
    weight_sum = 0;
    for (int64_t c = 0; c < p.classes; ++c) {
      weight.set(c, c == p.classes - 1 ? 1 : 1e-6);
      weights[c] = weight.get(c);
      weight_sum += weights[c];
    }
    for (int64_t row = 0; row < rows(); ++row) {
      logits.set(at(p, p.logits_strides, row, p.classes - 1), 40);
      logits.set(at(p, p.logits_strides, row, p.classes - 2), 39.3);
      target[row] = 0;
    }
  }

  // One class of each row leads by 0 in the first up to `most` in the last. Its probability is
  // 1 - rest; the next class has the rest. Returns the losses.
  std::vector<long double> set_confident_probabilities(double most, double rest) {
    p.weight = nullptr;
    p.label_smoothing = 0;
    std::vector<long double> losses(rows());
    for (int64_t row = 0; row < rows(); ++row) {
      const int64_t pivot = row * 7 % p.classes, next = (pivot + 1) % p.classes;
      const auto logit = [&](int64_t c) { return at(p, p.logits_strides, row, c); };
      const auto probability = [&](int64_t c) { return at(p, p.target_strides, row, c); };
      double largest = -std::numeric_limits<double>::infinity();
      for (int64_t c = 0; c < p.classes; ++c) {
        if (c != pivot) largest = std::max(largest, logits.get(logit(c)));
        probabilities.set(probability(c), 0);
      }
      logits.set(logit(pivot),
                 largest + most * static_cast<double>(row) / static_cast<double>(rows() - 1));
      probabilities.set(probability(pivot), 1 - rest);
      probabilities.set(probability(next), rest);
      const long double peak = logits.get(logit(pivot));
      long double others = 0;
      for (int64_t c = 0; c < p.classes; ++c)
        if (c != pivot) others += expl(logits.get(logit(c)) - peak);
      const long double nll = log1pl(others);
      losses[row] = probabilities.get(probability(pivot)) * nll +
                    probabilities.get(probability(next)) * (nll + peak - logits.get(logit(next)));
    }
    return losses;
  }

  // Each row's target is its last class, whose logit is so far above those that a first guess sees.
  void set_far_target(double lead) {
    p.ignore_index = -100;
    for (int64_t row = 0; row < rows(); ++row) {
      logits.set(at(p, p.logits_strides, row, p.classes - 1), lead);
      target[row] = p.classes - 1;
    }
  }

  // As many rows as classes: each has -inf at another class, and its target beside it.
  void set_infinite_logits() {
    p.ignore_index = -100;
    for (int64_t row = 0; row < rows(); ++row) {
      logits.set(at(p, p.logits_strides, row, row), -std::numeric_limits<double>::infinity());
      target[row] = (row + 1) % p.classes;
    }
  }

  // `apart` has the same gradients at strides of its own, with one class more that is not written.
  void check_gradient_apart(const Array& apart, const Strides& strides) const {
    for (int64_t row = 0; row < rows(); ++row) {
      for (int64_t c = 0; c < p.classes; ++c) {
        ASSERT_EQ(apart.get(at(p, strides, row, c)), grad.get(at(p, p.logits_strides, row, c)))
            << "row " << row << ", class " << c;
      }
      ASSERT_EQ(apart.get(at(p, strides, row, p.classes)), Array(p.dtype, 1, 77).get(0));
    }
  }

  void check(const std::vector<Partial>& partials) {
    const double work = term_error(p);
    long double total = 0;  // equal losses would all be rounded the same way
    double total_terms = 0, total_weight = 0;
    std::vector<bool> written(grad.size());
    for (int64_t row = 0; row < rows(); ++row) {
      const Expected e =
          expected_row(p, logits, target, probabilities, weights, row, row_grads[row]);
      ASSERT_NEAR(loss.get(row), e.loss, work * e.loss_terms) << "row " << row;
      for (int64_t c = 0; c < p.classes; ++c) {
        const int64_t i = at(p, p.logits_strides, row, c);
        written[i] = true;
        ASSERT_NEAR(grad.get(i), e.grad[c], grad_error(p, e, c))
            << "row " << row << ", class " << c;
      }
      total += e.loss;
      total_terms += e.loss_terms;
      total_weight += e.weight;
    }
    for (int64_t i = 0; i < grad.size(); ++i) {
      if (!written[i]) {
        ASSERT_EQ(grad.get(i), Array(p.dtype, 1, 77).get(0)) << "element " << i;
      }
    }
    double sum_of_losses = 0, sum_of_weights = 0;
    for (const Partial& partial : partials) {
      ASSERT_EQ(partial.bad_row, kNoBadRow);
      sum_of_losses += partial.loss;
      sum_of_weights += partial.weight;
    }
    ASSERT_NEAR(sum_of_losses, static_cast<double>(total), work * total_terms);
    if (p.target_kind != TargetKind::kProbabilities) {
      ASSERT_NEAR(sum_of_weights, total_weight, 1e-12 * total_weight);
    }
  }
};

inline std::string name_of(DType type) {
  return type == DType::kFloat      ? "float"
         : type == DType::kDouble   ? "double"
         : type == DType::kBFloat16 ? "bfloat16"
                                    : "half";
}

}  // namespace fused_ce::testing
