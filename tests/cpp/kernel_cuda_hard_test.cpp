// The CUDA kernels on rows that are hard to get right: logits far apart, infinite or undefined, and
// targets out of range.
#include <gtest/gtest.h>
#include <limits>
#include <string>
#include <utility>

#include "cuda_fixture.h"

namespace fused_ce {
namespace {

using namespace testing;  // fused_ce::testing

// Rows whose first logits say nothing of the largest: the first guess of the reference must not
// stay.
TEST_P(CudaKernel, FindsALateMaximum) {
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (int64_t classes : {2, 8, 11, 40, 300, 5003, 20000}) {
      if (classes > 300 && layout == Layout::kPlanes) continue;
      for (double peak : {95.0, 500.0, 3e4}) {
        SCOPED_TRACE(std::to_string(classes) + " classes, peak " + std::to_string(peak));
        CudaFixture f(dtype(), layout, kPlain, small_shape(layout, classes), 1);
        for (int64_t row = 0; row < f.rows(); ++row) {
          // The last class, or one amid the others.
          const int64_t largest = row % 2 == 0 ? classes - 1 : classes - classes / 3 - 1;
          f.logits.set(at(f.p, f.p.logits_strides, row, largest), peak);
          f.target[row] = 0;
        }
        f.run_and_check();
        if (HasFailure()) return;
      }
    }
  }
}

TEST_P(CudaKernel, FindsAFarTarget) {
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (const Options& options : {kPlain, kSmoothed}) {
      for (double lead : {70.0, 95.0, 800.0}) {
        SCOPED_TRACE("lead " + std::to_string(lead));
        CudaFixture f(dtype(), layout, options, small_shape(layout, 40), 1);
        f.set_far_target(lead);
        f.run_and_check();
        if (HasFailure()) return;
      }
    }
  }
}

TEST_P(CudaKernel, FindsALateMaximumOfProbabilities) {
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (int64_t classes : {9, 40, 300, 5003, 20000}) {
      if (classes > 300 && layout == Layout::kPlanes) continue;
      SCOPED_TRACE(std::to_string(classes) + " classes");
      CudaFixture f(dtype(), layout, kProbabilities, small_shape(layout, classes), 1);
      f.set_late_maximum_of_probabilities();
      f.run_and_check();
      if (HasFailure()) return;
    }
  }
}

TEST_P(CudaKernel, FindsALateMaximumOfSmoothed) {
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (int64_t classes : {9, 40, 300, 5003, 20000}) {
      if (classes > 300 && layout == Layout::kPlanes) continue;
      SCOPED_TRACE(std::to_string(classes) + " classes");
      CudaFixture f(dtype(), layout, kWeightedSmoothed, small_shape(layout, classes), 1);
      f.set_late_maximum_of_smoothed();
      f.run_and_check();
      if (HasFailure()) return;
    }
  }
}

TEST_P(CudaKernel, ABadTargetTripsAnAssertion) {
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (int64_t classes : {5, 100, 20000}) {
      if (classes > 300 && layout == Layout::kPlanes) continue;
      for (int64_t bad : {int64_t{-1}, classes, INT64_MAX, INT64_MIN, int64_t{1} << 32}) {
        CudaFixture f(dtype(), layout, kPlain, small_shape(layout, classes));
        f.target[f.rows() - 1] = bad;
        f.workspace.resize(cuda::workspace_bytes(f.p));
        double total = 0;
        cuda::forward(f.p, f.forward_out(), {Reduction::kNone, nullptr, DType::kFloat, &total},
                      f.workspace.data(), nullptr);
        EXPECT_NE(simt::error().find("Target is out of bounds"), std::string::npos)
            << simt::error();
        simt::clear_error();
      }
    }
  }
}

TEST_P(CudaKernel, InfiniteLogitAnywhere) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (const Options& options : {kPlain, kSmoothed, kWeightedSmoothedProbabilities}) {
    for (int64_t classes : {3, 9, 33, 131}) {
      SCOPED_TRACE(::testing::Message() << classes << " classes, " << options);
      CudaFixture f(dtype(), Layout::kRows, options, {classes, classes, 1});
      f.set_infinite_logits();
      if (options.smoothing == 0) {
        f.run_and_check();
      } else {
        f.forward();
        for (int64_t row = 0; row < f.rows(); ++row) ASSERT_EQ(f.loss.get(row), infinity) << row;
      }
      if (HasFailure()) return;
    }
  }
}

// NaN wherever there is one, and infinities as torch has them.
TEST_P(CudaKernel, NotANumber) {
  const double infinity = std::numeric_limits<double>::infinity();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (int64_t classes : {5, 40, 1000, 20000}) {
      if (classes > 300 && layout == Layout::kPlanes) continue;
      for (const Options& options : {kPlain, kWeightedSmoothedProbabilities}) {
        for (double value : {nan, infinity}) {
          CudaFixture f(dtype(), layout, options, small_shape(layout, classes));
          f.p.ignore_index = -100;
          const int64_t last = f.rows() - 1;
          f.logits.set(at(f.p, f.p.logits_strides, last, classes - 1), value);
          for (int64_t c = 0; c < classes; ++c)
            f.logits.set(at(f.p, f.p.logits_strides, 0, c), -infinity);
          f.forward();
          EXPECT_TRUE(std::isnan(f.loss.get(last))) << classes << " " << value;
          EXPECT_TRUE(std::isnan(f.loss.get(0))) << classes;
          EXPECT_FALSE(std::isnan(f.loss.get(1))) << classes;
          f.backward();
          EXPECT_TRUE(std::isnan(f.grad.get(at(f.p, f.p.logits_strides, last, 0)))) << classes;
        }
      }
    }
  }
}

// torch multiplies an empty sum by s / 0: NaN even of rows that are ignored, and of no rows.
// Probabilities are not: their loss is an empty sum.
TEST_P(CudaKernel, NoClassesSmoothed) {
  for (int64_t rows : {0, 3}) {
    CudaFixture f(dtype(), Layout::kRows, Option::kSmoothed, {rows, 0, 1});
    f.target.assign(rows, f.p.ignore_index);
    EXPECT_TRUE(std::isnan(f.forward().loss)) << rows;
    for (int64_t row = 0; row < rows; ++row) EXPECT_TRUE(std::isnan(f.loss.get(row))) << row;

    CudaFixture mixed(dtype(), Layout::kRows, Option::kProbabilities, {rows, 0, 1});
    EXPECT_EQ(mixed.forward().loss, 0) << rows;
    for (int64_t row = 0; row < rows; ++row) EXPECT_EQ(mixed.loss.get(row), 0) << row;
  }
}

// One-hot probabilities of rows whose class leads by 0 (a tie) to 85: its gradient, minus the other
// classes' share, is as good as that of a class index.
TEST_P(CudaKernel, ConfidentOneHotProbabilitiesHaveGradientsOfClassIndices) {
  const bool half = size_of(dtype()) == 2;
  const double bound = half ? epsilon(dtype()) / 2 + 4e-6 : 8 * epsilon(dtype());
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (int64_t classes : {2, 9, 40, 300, 5003, 20000}) {
      if (classes > 300 && layout == Layout::kPlanes) continue;
      SCOPED_TRACE(std::to_string(classes) + " classes");
      CudaFixture f(dtype(), layout, Option::kProbabilities, small_shape(layout, classes), 1);
      const std::vector<long double> losses = f.set_confident_probabilities(half ? 70 : 85, 0);
      f.weights.assign(classes, 1);
      f.run_and_check();
      if (HasFailure()) return;
      for (int64_t row = 0; row < f.rows(); ++row) {
        const int64_t pivot = row * 7 % classes;
        const auto grad = static_cast<double>(f.row_grads[row] * expm1l(-losses[row]));
        ASSERT_NEAR(f.grad.get(at(f.p, f.p.logits_strides, row, pivot)), grad,
                    bound * std::fabs(grad) + smallest(dtype()))
            << "row " << row;
      }
    }
  }
}

// Rows whose class leads by so much that each other exponential is too small for float, though
// their sum, the loss, is not.
TEST_P(CudaKernel, SmallestLosses) {
  const double bound = size_of(dtype()) == 2 ? 4e-6 : 8 * epsilon(dtype());
  const double normal = std::numeric_limits<float>::min();
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (bool indices : {true, false}) {
      for (int64_t classes : {9, 40, 300, 5003, 20000}) {
        if (classes > 300 && layout == Layout::kPlanes) continue;
        SCOPED_TRACE(std::to_string(classes) + " classes, indices: " + std::to_string(indices));
        CudaFixture f(dtype(), layout, Option::kProbabilities, small_shape(layout, classes), 0.1);
        f.p.ignore_index = -100;
        // All others are near the largest of them: the last row's loss is about 2^-126.
        const std::vector<long double> losses = f.set_confident_probabilities(
            87.2 + std::log(static_cast<double>(classes) - 1) - 0.4, 0);
        if (indices) {
          f.p.target_kind = TargetKind::kInt64;
          f.p.target = f.target.data();
          for (int64_t row = 0; row < f.rows(); ++row) f.target[row] = row * 7 % classes;
        }
        f.forward();
        for (int64_t row = 0; row < f.rows(); ++row) {
          const auto loss = static_cast<double>(losses[row]);
          ASSERT_NEAR(f.loss.get(row), loss, bound * loss + (loss < normal ? normal : 0))
              << "row " << row;
        }
      }
    }
  }
}

// The first guess of the reference, the target's logit, is so far below another that the sum of
// exponentials is a huge number, and a small gradient over it none.
TEST_P(CudaKernel, SmallGradientsKeepTheirDigits) {
  const double lead = dtype() == DType::kDouble ? 690 : 55;
  const double bound = size_of(dtype()) == 2 ? epsilon(dtype()) / 2 + 4e-6 : 4 * epsilon(dtype());
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (int64_t classes : {3, 40, 300}) {
      for (auto [g, weight] : {std::pair{1e-30, 1.0}, {1e-20, 1.0}, {1.0, 1e-25}}) {
        SCOPED_TRACE(std::to_string(classes) + " classes, " + std::to_string(std::log10(g)));
        CudaFixture f(dtype(), layout, Option::kWeights, small_shape(layout, classes));
        f.p.ignore_index = -100;
        for (int64_t c = 0; c < classes; ++c) f.weight.set(c, weight);
        for (int64_t row = 0; row < f.rows(); ++row) {
          for (int64_t c = 0; c < classes; ++c)
            f.logits.set(at(f.p, f.p.logits_strides, row, c), c == 1 ? lead : 0);
          f.target[row] = 0;
          f.row_grads[row] = g;
        }
        f.forward();
        f.backward();
        const double slack = dtype() == DType::kHalf ? smallest(dtype()) : 0;
        for (int64_t row = 0; row < f.rows(); ++row) {
          const auto grad = [&](int64_t c) {
            return f.grad.get(at(f.p, f.p.logits_strides, row, c));
          };
          ASSERT_NEAR(grad(0), -g * weight, bound * g * weight + slack) << "row " << row;
          ASSERT_NEAR(grad(1), g * weight, bound * g * weight + slack) << "row " << row;
        }
      }
    }
  }
}

// Of rows so confident that the others' share is no normal number, though times g it is: the
// gradient at the target, or at the one class that has a probability.
TEST_P(CudaKernel, LargeGradientsOfConfidentRowsKeepTheirDigits) {
  const bool half = size_of(dtype()) == 2;
  const double bound = half ? epsilon(dtype()) / 2 + 4e-6 : 8 * epsilon(dtype());
  const double lead = dtype() == DType::kDouble ? 700 : 95, g = half ? 1e4 : 1e8;
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (Option option : {Option::kPlain, Option::kProbabilities}) {
      for (int64_t classes : {3, 40, 300}) {
        SCOPED_TRACE(std::to_string(classes) + " classes");
        CudaFixture f(dtype(), layout, option, small_shape(layout, classes));
        f.p.ignore_index = -100;
        f.p.weight = nullptr;
        f.p.label_smoothing = 0;
        for (int64_t row = 0; row < f.rows(); ++row) {
          for (int64_t c = 0; c < classes; ++c) {
            f.logits.set(at(f.p, f.p.logits_strides, row, c), c == 1 ? lead : 0);
            if (option == Option::kProbabilities)
              f.probabilities.set(at(f.p, f.p.target_strides, row, c), c == 1);
          }
          f.target[row] = 1;
          f.row_grads[row] = g;
        }
        f.forward();
        f.backward();
        const double grad = -g * static_cast<double>(classes - 1) * std::exp(-lead);
        const double slack = dtype() == DType::kHalf ? smallest(dtype()) : 0;
        for (int64_t row = 0; row < f.rows(); ++row) {
          ASSERT_NEAR(f.grad.get(at(f.p, f.p.logits_strides, row, 1)), grad,
                      bound * std::fabs(grad) + slack)
              << "row " << row;
        }
      }
    }
  }
}

}  // namespace
}  // namespace fused_ce
