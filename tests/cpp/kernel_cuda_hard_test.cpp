// SPDX-License-Identifier: BSD-3-Clause
// The CUDA kernels on rows that are hard to get right: logits far apart, infinite or undefined, and
// targets out of range.
#include <gtest/gtest.h>
#include <limits>
#include <string>

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
        double total = 0;
        f.launch(f.p, f.forward_out(), {Reduction::kNone, nullptr, DType::kFloat, &total});
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

// Logits on both sides of what is near enough to 0 to be no shift's, see Offset: 2048 over the
// scale, of half types 128. What a row's logits have in common must not show.
TEST_P(CudaKernel, LogitsFarFromZero) {
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (int64_t classes : {9, 40, 300, 1030}) {
      if (classes > 300 && layout == Layout::kPlanes) continue;
      for (const Options& options : {kPlain, kScaled, kSmoothed, kProbabilities, kStatistics}) {
        for (double limit : {128.0, -128.0, 2048.0, -2048.0}) {
          SCOPED_TRACE(::testing::Message()
                       << classes << " classes, " << layout << ", " << options << ", " << limit);
          CudaFixture f(dtype(), layout, options, small_shape(layout, classes), 2);
          for (int64_t row = 0; row < f.rows(); ++row) {
            const double middle = limit / options.scale + static_cast<double>(row % 3 - 1);
            for (int64_t c = 0; c < classes; ++c) {
              const int64_t i = at(f.p, f.p.logits_strides, row, c);
              f.logits.set(i, middle + f.logits.get(i));
            }
          }
          f.run_and_check();
          if (HasFailure()) return;
        }
      }
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

// log2(e) times a scale is rounded up or down to a number of A: whichever it is, what is left of it
// must not meet the infinity with another sign.
TEST_P(CudaKernel, InfiniteLseOfEveryScale) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (int64_t classes : {5, 40, 1000}) {
      for (double scale : {0.1, 0.3, 0.6931471805599453, 0.9, 1.0, 1.7}) {
        SCOPED_TRACE(::testing::Message() << classes << " classes, " << layout << ", " << scale);
        if (classes > 300 && layout == Layout::kPlanes) continue;
        CudaFixture f(dtype(), layout, kLse, small_shape(layout, classes));
        f.p.ignore_index = -100;
        f.p.scale = scale;
        for (int64_t row = 0; row < f.rows(); ++row) {
          f.logits.set(at(f.p, f.p.logits_strides, row, row % classes), infinity);
          f.target[row] = (row + 1) % classes;
        }
        f.forward();
        for (int64_t row = 0; row < f.rows(); ++row) ASSERT_EQ(f.lse.get(row), infinity) << row;
      }
    }
  }
}

}  // namespace
}  // namespace fused_ce
