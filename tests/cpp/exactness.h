// SPDX-License-Identifier: BSD-3-Clause
// The last digits: rows of which the plain formula, or a factor on the way, would lose some or all.
// What holds of every device is said once, for a `make(layout, options, classes, scale)` that makes
// a problem of the device's own size.
#pragma once

#include <cmath>

#include "fixture.h"

namespace fused_ce::testing {

// Of a loss, relative to it. It is of the accumulate type; the half types' short exponential of a
// logit d below its reference is off by 2^-22 + d 2^-23, and no row here has a lead above 96.
inline double exact_loss(DType dtype) {
  return size_of(dtype) == 2 ? 0x1p-22 + 96 * 0x1p-23 : 8 * epsilon(dtype);
}
// Of a gradient.
inline double exact_gradient(DType dtype) {
  return exact_loss(dtype) + (size_of(dtype) == 2 ? epsilon(dtype) / 2 : 0);
}

inline double grad_of(const ProblemFixture& f, int64_t row, int64_t c) {
  return f.grad.get(at(f.p, f.p.logits_strides, row, c));
}

// torch multiplies an empty sum by s / 0: NaN even of rows that are ignored. Of probabilities it is
// an empty sum.
template <class Make>
void check_no_classes(Make make) {
  for (const Options& options : {kSmoothed, kPlain, kWeightedSmoothedProbabilities}) {
    SCOPED_TRACE(::testing::PrintToString(options));
    auto f = make(Layout::kRows, options, 0, 1.0);
    f.target.assign(f.rows(), f.p.ignore_index);
    f.forward();
    const bool indices = options.targets != TargetKind::kProbabilities;
    for (int64_t row = 0; row < f.rows(); ++row) {
      if (indices && options.smoothing > 0) {
        ASSERT_TRUE(std::isnan(f.loss.get(row))) << "row " << row;
      } else {
        ASSERT_EQ(f.loss.get(row), 0) << "row " << row;
      }
    }
  }
}

// One-hot probabilities of rows whose class leads by 0 (a tie) to 85: its gradient, minus the other
// classes' share, is as good as that of a class index.
template <class Make>
void check_confident_one_hot_gradients(DType dtype, Make make) {
  for (Layout layout : {Layout::kRows, Layout::kPadded, Layout::kPlanes}) {
    for (int64_t classes : {2, 9, 40, 300, 5003}) {
      SCOPED_TRACE(::testing::PrintToString(layout) + ", " + std::to_string(classes) + " classes");
      auto f = make(layout, kProbabilities, classes, 1.0);
      const std::vector<long double> losses =
          f.set_confident_probabilities(size_of(dtype) == 2 ? 70 : 85, 0);
      f.run_and_check();
      if (::testing::Test::HasFailure()) return;
      for (int64_t row = 0; row < f.rows(); ++row) {
        const auto grad = static_cast<double>(f.row_grads[row] * expm1l(-losses[row]));
        ASSERT_NEAR(grad_of(f, row, row * 7 % classes), grad,
                    exact_gradient(dtype) * std::fabs(grad) + smallest(dtype))
            << "row " << row;
      }
    }
  }
}

// Rows whose class leads by so much that each other exponential is too small for float, though
// their sum, the loss, is not.
template <class Make>
void check_smallest_losses(DType dtype, Make make) {
  const double normal = std::numeric_limits<float>::min();
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (const Options& options : {kPlain, kProbabilities}) {
      for (int64_t classes : {9, 40, 300, 5003}) {
        SCOPED_TRACE(::testing::PrintToString(options) + ", " + std::to_string(classes) +
                     " classes");
        auto f = make(layout, kProbabilities, classes, 0.1);
        // All others are near the largest of them: the last row's loss is about 2^-126.
        const std::vector<long double> losses = f.set_confident_probabilities(
            87.2 + std::log(static_cast<double>(classes) - 1) - 0.4, 0);
        if (options.targets != TargetKind::kProbabilities) {
          f.p.ignore_index = -100;
          f.p.target_kind = options.targets;
          f.p.target = f.target.data();
          for (int64_t row = 0; row < f.rows(); ++row) f.target[row] = row * 7 % classes;
        }
        f.forward();
        for (int64_t row = 0; row < f.rows(); ++row) {
          const auto loss = static_cast<double>(losses[row]);
          ASSERT_NEAR(f.loss.get(row), loss,
                      exact_loss(dtype) * loss + (loss < normal ? normal : 0))
              << "row " << row;
        }
      }
    }
  }
}

// Every row: logit `lead` at class 1 and 0 at the others, target `y`, all of which a class weighs,
// and the gradient g of its loss.
template <class Fixture>
void set_rows(Fixture& f, double lead, int64_t y, double g) {
  f.p.ignore_index = -100;
  for (int64_t row = 0; row < f.rows(); ++row) {
    for (int64_t c = 0; c < f.p.classes; ++c) {
      f.logits.set(at(f.p, f.p.logits_strides, row, c), c == 1 ? lead : 0);
      if (f.p.target_kind == TargetKind::kProbabilities)
        f.probabilities.set(at(f.p, f.p.target_strides, row, c), c == y);
    }
    f.target[row] = y;
    f.row_grads[row] = g;
  }
}

// The first guess of the reference, the target's logit, is so far below another that the sum of
// exponentials is a huge number, and a small gradient over it none.
template <class Make>
void check_small_gradients(DType dtype, Make make) {
  const double lead = dtype == DType::kDouble ? 690 : 55;
  const double slack = dtype == DType::kHalf ? smallest(dtype) : 0;
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (int64_t classes : {3, 40, 300}) {
      for (auto [g, weight] : {std::pair{1e-30, 1.0}, {1e-20, 1.0}, {1.0, 1e-25}}) {
        SCOPED_TRACE(std::to_string(classes) + " classes, g 1e" + std::to_string(std::log10(g)));
        auto f = make(layout, kWeighted, classes, 1.0);
        for (int64_t c = 0; c < classes; ++c) f.weight.set(c, weight);
        set_rows(f, lead, 0, g);
        f.forward();
        f.backward();
        const double grad = g * weight, bound = exact_gradient(dtype) * grad + slack;
        for (int64_t row = 0; row < f.rows(); ++row) {
          ASSERT_NEAR(grad_of(f, row, 0), -grad, bound) << "row " << row;
          ASSERT_NEAR(grad_of(f, row, 1), grad, bound) << "row " << row;
        }
      }
    }
  }
}

// Rows so confident that the others' share is no normal number, though times g it is: the gradient
// at the target, or at the one class that has a probability.
template <class Make>
void check_large_gradients_of_confident_rows(DType dtype, Make make) {
  const double lead = dtype == DType::kDouble ? 700 : 95, g = size_of(dtype) == 2 ? 1e4 : 1e8;
  const double slack = dtype == DType::kHalf ? smallest(dtype) : 0;
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (const Options& options : {kPlain, kProbabilities}) {
      for (int64_t classes : {3, 40, 300}) {
        SCOPED_TRACE(::testing::PrintToString(options) + ", " + std::to_string(classes) +
                     " classes");
        auto f = make(layout, options, classes, 1.0);
        set_rows(f, lead, 1, g);
        f.forward();
        f.backward();
        const double grad = -g * static_cast<double>(classes - 1) * std::exp(-lead);
        for (int64_t row = 0; row < f.rows(); ++row) {
          ASSERT_NEAR(grad_of(f, row, 1), grad, exact_gradient(dtype) * std::fabs(grad) + slack)
              << "row " << row;
        }
      }
    }
  }
}

}  // namespace fused_ce::testing
