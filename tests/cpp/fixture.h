// Problems of every layout and option with random contents, and the bounds that a device's answer
// has to keep.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "formula.h"
#include "layouts.h"
#include "options.h"

namespace fused_ce::testing {

// A problem with random contents and all that it points into.
struct ProblemFixture : ProblemData {
  std::vector<uint8_t> bytes;  // targets of kUInt8
  std::vector<double> row_grads;
  Array grad, reference, sum, target_or_mass, loss;

  ProblemFixture(DType dtype, Layout layout, const Options& options, const Shape& s,
                 double scale = 3)
      : row_grads(s.outer * s.inner),
        grad(dtype, strides_of(layout, s).second, kUntouched),
        reference(accumulate_type(dtype), s.outer * s.inner),
        sum(reference),
        target_or_mass(reference),
        loss(reference) {
    p.outer = s.outer;
    p.classes = s.classes;
    p.inner = s.inner;
    p.dtype = dtype;
    p.target_kind = options.targets;
    p.label_smoothing = options.smoothing;
    std::mt19937 random(static_cast<unsigned>(s.classes));
    fill_logits(random, strides_of(layout, s), scale);
    fill_targets(random);
    if (options.targets == TargetKind::kProbabilities) fill_probabilities(random, layout);
    fill_weights(random, options.weights);
    fill_row_grads(random);
  }

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
    p.ignore_index = -100;
    set_weights([&](int64_t c) { return c == p.classes - 1 ? 1 : 1e-6; });
    for (int64_t row = 0; row < rows(); ++row) {
      logits.set(at(p, p.logits_strides, row, p.classes - 1), 40);
      logits.set(at(p, p.logits_strides, row, p.classes - 2), 39.3);
      target[row] = 0;
    }
  }

  // One class of each row leads by 0 in the first up to `most` in the last. Its probability is
  // 1 - rest; the next class has the rest. Returns the losses.
  std::vector<long double> set_confident_probabilities(double most, double rest) {
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
      ASSERT_EQ(apart.get(at(p, strides, row, p.classes)), untouched());
    }
  }

  void check(const std::vector<Partial>& partials) {
    const double work = term_error(p);
    long double total = 0;  // equal losses would all be rounded the same way
    double total_terms = 0, total_weight = 0;
    std::vector<bool> written(grad.size());
    for (int64_t row = 0; row < rows(); ++row) {
      const Expected e = expected_row(*this, row, row_grads[row]);
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
        ASSERT_EQ(grad.get(i), untouched()) << "element " << i;
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

 private:
  static constexpr double kUntouched = 77;

  double untouched() const { return Array(p.dtype, 1, kUntouched).get(0); }

  // What lies between the logits must never matter: it is NaN.
  void fill_logits(std::mt19937& random, const std::pair<Strides, int64_t>& strides, double scale) {
    std::normal_distribution<double> normal;
    p.logits_strides = strides.first;
    logits = Array(p.dtype, strides.second, std::numeric_limits<double>::quiet_NaN());
    p.logits = logits.data();
    for (int64_t row = 0; row < rows(); ++row) {
      for (int64_t c = 0; c < p.classes; ++c)
        logits.set(at(p, p.logits_strides, row, c), scale * normal(random));
    }
  }

  void fill_targets(std::mt19937& random) {
    const bool small = p.target_kind == TargetKind::kUInt8;
    const auto limit = static_cast<uint64_t>(small ? std::min<int64_t>(p.classes, 256) : p.classes);
    target.resize(rows());
    if (limit > 0) {
      for (int64_t& y : target) y = static_cast<int64_t>(random() % limit);
    }
    p.ignore_index = p.classes > 1 ? 1 : -100;
    p.target = target.data();
    if (!small) return;
    bytes.assign(target.begin(), target.end());
    p.target = bytes.data();
  }

  void fill_probabilities(std::mt19937& random, Layout layout) {
    std::uniform_real_distribution<double> uniform;
    probabilities = Array(p.dtype, rows() * p.classes);
    for (int64_t i = 0; i < probabilities.size(); ++i) probabilities.set(i, uniform(random));
    p.target = probabilities.data();
    p.target_dtype = p.dtype;
    p.target_strides = {p.classes * p.inner, p.inner, 1};
    if (layout == Layout::kTransposed) p.target_strides.outer = 0;
  }

  void fill_weights(std::mt19937& random, bool weighted) {
    std::uniform_real_distribution<double> uniform;
    weights.assign(p.classes, 1.0);
    if (weighted) set_weights([&](int64_t) { return 0.5 + uniform(random); });
  }

  void fill_row_grads(std::mt19937& random) {
    std::normal_distribution<double> normal;
    for (double& g : row_grads) g = normal(random);
  }
};

}  // namespace fused_ce::testing
