// SPDX-License-Identifier: BSD-3-Clause
// Problems of every layout and option with random contents, and the bounds that a device's answer
// has to keep.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <iomanip>
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
  Asked asked;
  Array grad, reference, sum, target_or_mass, gap;
  Array loss, z_loss, lse, entropy, confidence;
  std::vector<int64_t> prediction;
  std::vector<double> row_grads, z_loss_grads;
  Array lse_grads, entropy_grads;

  ProblemFixture(DType dtype, Layout layout, const Options& options, const Shape& s,
                 double scale = 3)
      : asked(options.asked),
        grad(dtype, strides_of(layout, s).second, kUntouched),
        reference(accumulate_type(dtype), s.outer * s.inner, kUntouched),
        sum(reference),
        target_or_mass(reference),
        gap(reference),
        loss(reference),
        z_loss(reference),
        lse(reference),
        entropy(reference),
        confidence(reference),
        prediction(s.outer * s.inner, -1),
        row_grads(s.outer * s.inner),
        z_loss_grads(row_grads),
        lse_grads(reference),
        entropy_grads(reference) {
    p.outer = s.outer;
    p.classes = s.classes;
    p.inner = s.inner;
    p.dtype = dtype;
    p.target_kind = options.targets;
    p.label_smoothing = options.smoothing;
    p.scale = options.scale;
    p.cap = options.cap;
    p.z_loss_weight = options.z_loss_weight;
    std::mt19937 random(static_cast<unsigned>(s.classes));
    fill_logits(random, strides_of(layout, s), scale);
    fill_targets(random);
    if (options.targets == TargetKind::kProbabilities) fill_probabilities(random, layout);
    fill_weights(random, options.weights);
    fill_row_grads(random);
    if (options.row_weights) fill_row_weights(random);
  }

  Saved saved() {
    return {reference.data(), sum.data(), target_or_mass.data(), asked.gap(gap.data()),
            asked.statistics()};
  }
  Forward forward_out() {
    return {saved(), loss.data(), loss.type(),
            asked.of(
                {z_loss.data(), lse.data(), entropy.data(), prediction.data(), confidence.data()})};
  }
  // The same where there will be no backward, and nothing is left of an earlier forward.
  Forward forward_out_alone() {
    for (Array* result : {&loss, &z_loss, &lse, &entropy, &confidence})
      *result = Array(result->type(), result->size(), kUntouched);
    std::fill(prediction.begin(), prediction.end(), int64_t{-1});
    Forward out = forward_out();
    out.saved = {};
    return out;
  }
  Backward backward_out() {
    Backward out{saved(), row_grads.data(), DType::kDouble,  1,
                 nullptr, grad.data(),      p.logits_strides};
    if (asked.z_loss) out.grad_z_loss = z_loss_grads.data();
    if (asked.lse) out.grad_lse = lse_grads.data();
    if (asked.entropy) out.grad_entropy = entropy_grads.data();
    return out;
  }
  RowGrads grads_of(int64_t row) const {
    return {row_grads[row], asked.z_loss ? z_loss_grads[row] : 0,
            asked.lse ? lse_grads.get(row) : 0, asked.entropy ? entropy_grads.get(row) : 0};
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
    check(partials, [this](int64_t row) { return grads_of(row); });
  }
  // `grads_of`: the RowGrads that came in for a row.
  template <class GradsOf>
  void check(const std::vector<Partial>& partials, GradsOf grads_of) {
    // Long double: equal losses would all be rounded the same way.
    long double all_losses = 0, all_z_losses = 0;
    double loss_error = 0, z_loss_error = 0, all_weights = 0;
    std::vector<bool> written(grad.size());
    for (int64_t row = 0; row < rows(); ++row) {
      SCOPED_TRACE("row " + std::to_string(row));
      const Expected e = expected_row(*this, row, grads_of(row));
      ASSERT_TRUE(near(loss.get(row), e.loss));
      check_statistics(row, e);
      for (int64_t c = 0; c < p.classes; ++c) {
        const int64_t i = at(p, p.logits_strides, row, c);
        written[i] = true;
        ASSERT_TRUE(near(grad.get(i), e.grad[c])) << "class " << c;
      }
      if (::testing::Test::HasFatalFailure()) return;
      all_losses += e.loss.value;
      loss_error += e.loss.error;
      all_z_losses += e.z_loss.value;
      z_loss_error += e.z_loss.error;
      all_weights += e.weight;
    }
    for (int64_t i = 0; i < grad.size(); ++i) {
      if (!written[i]) {
        ASSERT_EQ(grad.get(i), untouched()) << "element " << i;
      }
    }
    double sum_of_losses = 0, sum_of_z_losses = 0, sum_of_weights = 0;
    for (const Partial& partial : partials) {
      ASSERT_EQ(partial.bad_row, kNoBadRow);
      sum_of_losses += partial.loss;
      sum_of_z_losses += partial.z_loss;
      sum_of_weights += partial.weight;
    }
    ASSERT_TRUE(near(sum_of_losses, {static_cast<double>(all_losses), loss_error}));
    ASSERT_TRUE(near(sum_of_z_losses, {static_cast<double>(all_z_losses), z_loss_error}));
    if (indices() || p.row_weight) {
      ASSERT_NEAR(sum_of_weights, all_weights, weight_error(p) * all_weights);
    }
  }

  // Those that were asked for.
  void check_statistics(int64_t row, const Expected& e) const {
    if (asked.z_loss) {
      ASSERT_TRUE(near(z_loss.get(row), e.z_loss)) << "z-loss";
    }
    if (asked.lse) {
      ASSERT_TRUE(near(lse.get(row), e.lse)) << "lse";
    }
    if (asked.entropy) {
      ASSERT_TRUE(near(entropy.get(row), e.entropy)) << "entropy";
    }
    if (asked.confidence) {
      ASSERT_TRUE(near(confidence.get(row), e.confidence)) << "confidence";
    }
    if (asked.prediction) {
      ASSERT_TRUE(is_prediction(*this, row, prediction[row], e.prediction))
          << "prediction " << prediction[row] << ", not " << e.prediction;
    }
  }

 private:
  static constexpr double kUntouched = 77;

  static ::testing::AssertionResult near(double actual, const Near& expected) {
    if (is_near(actual, expected)) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << std::setprecision(17) << actual << " is not "
                                         << expected.value << " +- " << expected.error;
  }

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
    const auto limit = static_cast<uint64_t>(std::min(p.classes, classes_of(p.target_kind)));
    target.resize(rows());
    if (limit > 0) {
      for (int64_t& y : target) y = static_cast<int64_t>(random() % limit);
    }
    p.ignore_index = p.classes > 1 ? 1 : -100;
    put_targets();
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
    for (double& g : z_loss_grads) g = normal(random);
    for (int64_t row = 0; row < rows(); ++row) {
      lse_grads.set(row, normal(random));
      entropy_grads.set(row, normal(random));
    }
  }

  void fill_row_weights(std::mt19937& random) {
    std::uniform_real_distribution<double> uniform;
    set_row_weights([&](int64_t row) { return row % 5 == 4 ? 0 : 0.5 + uniform(random); });
  }
};

}  // namespace fused_ce::testing
