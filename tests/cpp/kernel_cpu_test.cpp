// SPDX-License-Identifier: BSD-3-Clause
// The CPU kernels with raw pointers, at each instruction set that this machine has, against
// float64.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <thread>
#include <utility>

#include "cpu_fixture.h"

namespace fused_ce {
namespace {

using namespace testing;  // fused_ce::testing

INSTANTIATE_TEST_SUITE_P(, Kernel, kEveryKernel, kernel_name);

TEST_P(Kernel, EqualsTheFormula) {
  for (Layout layout : kLayouts) {
    for (const Options& options : kEveryOption) {
      for (int64_t classes :
           {2, 3, 7, 8, 16, 17, 33, 63, 64, 65, 127, 129, 255, 257, 1023, 1025, 5003}) {
        if (classes > 300 && shape_of(layout, classes).inner > 100) continue;  // slow, nothing new
        SCOPED_TRACE(::testing::Message() << classes << " classes, " << layout << ", " << options);
        CpuFixture f(capability(), dtype(), layout, options, shape_of(layout, classes));
        f.run_and_check();
        if (HasFailure()) return;
      }
    }
  }
}

// Rows whose first logits say nothing of the largest: the first guess of the reference must not
// stay.
TEST_P(Kernel, FindsALateMaximum) {
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (int64_t classes : {2, 5, 8, 11, 40, 300, 5003}) {
      for (double peak : {95.0, 500.0, 3e4}) {
        SCOPED_TRACE(std::to_string(classes) + " classes, peak " + std::to_string(peak));
        CpuFixture f(capability(), dtype(), layout, kPlain, shape_of(layout, classes), 1);
        for (int64_t row = 0; row < f.rows(); ++row) {
          f.logits.set(at(f.p, f.p.logits_strides, row, classes - 1), peak);
          f.target[row] = 0;
        }
        f.run_and_check();
        if (HasFailure()) return;
      }
    }
  }
}

// References as near as can be to halfway between two powers of two: sums in float and their finish
// in double must take the same one of them.
TEST_P(Kernel, ReferencesHalfwayBetweenPowersOfTwo) {
  for (Layout layout : {Layout::kRows, Layout::kTransposed}) {
    for (int64_t classes : {5, 90}) {
      SCOPED_TRACE(std::to_string(classes) + " classes");
      CpuFixture f(capability(), dtype(), layout, kPlain, shape_of(layout, classes));
      f.p.ignore_index = -100;
      for (int64_t row = 0; row < f.rows(); ++row) {
        const double m = (static_cast<double>(row - f.rows() / 2) + 0.5) * 0.6931471805599453;
        for (int64_t c = 0; c < classes; ++c)
          f.logits.set(at(f.p, f.p.logits_strides, row, c), c == 0 ? m : m - 1);
        f.target[row] = 0;
      }
      f.run_and_check();
      if (HasFailure()) return;
    }
  }
}

// A late maximum that is the target: the linear sum of a far guess would lose digits.
TEST_P(Kernel, FindsALateMaximumOfProbabilities) {
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (int64_t classes : {9, 40, 300, 5003}) {
      SCOPED_TRACE(std::to_string(classes) + " classes");
      CpuFixture f(capability(), dtype(), layout, kProbabilities, shape_of(layout, classes), 1);
      f.set_late_maximum_of_probabilities();
      f.run_and_check();
      if (HasFailure()) return;
    }
  }
}

TEST_P(Kernel, FindsALateMaximumOfSmoothed) {
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (int64_t classes : {9, 40, 300, 5003}) {
      SCOPED_TRACE(std::to_string(classes) + " classes");
      CpuFixture f(capability(), dtype(), layout, kWeightedSmoothed, shape_of(layout, classes), 1);
      f.set_late_maximum_of_smoothed();
      f.run_and_check();
      if (HasFailure()) return;
    }
  }
}

// The target's own exponential is in no sum, and must fit beside it.
TEST_P(Kernel, FindsAFarTarget) {
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (const Options& options : {kPlain, kSmoothed}) {
      for (int64_t classes : {9, 40, 300}) {
        for (double lead : {70.0, 800.0}) {
          SCOPED_TRACE(std::to_string(classes) + " classes, lead " + std::to_string(lead));
          CpuFixture f(capability(), dtype(), layout, options, shape_of(layout, classes), 1);
          f.set_far_target(lead);
          f.run_and_check();
          if (HasFailure()) return;
        }
      }
    }
  }
}

// Last vectors overlap the ones before: no class may enter a sum twice, or as 0 * infinity.
TEST_P(Kernel, InfiniteLogitAnywhere) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (const Options& options : {kPlain, kSmoothed}) {
    for (int64_t classes : {3, 9, 13, 129, 131, 515, 1001}) {
      SCOPED_TRACE(::testing::Message() << classes << " classes, " << options);
      CpuFixture f(capability(), dtype(), Layout::kRows, options, {classes, classes, 1});
      f.set_infinite_logits();
      if (options.smoothing == 0) {
        f.run_and_check();
      } else {
        f.forward();
        f.backward();
        for (int64_t row = 0; row < f.rows(); ++row) ASSERT_EQ(f.loss.get(row), infinity) << row;
      }
      if (HasFailure()) return;
    }
  }
}

TEST_P(Kernel, ReportsTheFirstBadTargetAndReadsNothingOutside) {
  for (Layout layout : {Layout::kRows, Layout::kPlanes, Layout::kTransposed}) {
    for (int64_t classes : {5, 100}) {
      for (int64_t bad : {int64_t{-1}, classes, INT64_MAX, INT64_MIN, int64_t{1} << 32}) {
        CpuFixture f(capability(), dtype(), layout, kPlain, shape_of(layout, classes));
        f.target[7] = f.target[11] = bad;
        int64_t first = kNoBadRow;
        for (const Partial& partial : f.forward())
          if (first < 0) first = partial.bad_row;
        EXPECT_EQ(first, 7);
      }
    }
  }
}

// The gradient lies at strides of its own, which need not be the logits'.
TEST_P(Kernel, GradientHasItsOwnStrides) {
  for (Layout layout : {Layout::kPadded, Layout::kPlanes}) {
    for (int64_t classes : {5, 40, 200}) {
      const Shape s = shape_of(layout, classes);
      CpuFixture f(capability(), dtype(), layout, kPlain, s);
      f.forward();
      f.backward();
      // As if each outer index had one class more.
      Backward out = f.backward_out();
      out.grad_strides = {s.inner * (classes + 1), s.inner, 1};
      Array apart(dtype(), s.outer * out.grad_strides.outer, 77);
      out.grad_logits = apart.data();
      f.backward(out, /*streamed=*/false);
      f.check_gradient_apart(apart, out.grad_strides);
      if (HasFatalFailure()) return;
    }
  }
}

// Streaming changes how gradients are stored, and no bit of them, wherever they begin.
TEST_P(Kernel, StreamedGradientsAreTheSame) {
  for (auto [layout, classes] : {std::pair{Layout::kRows, 8197}, {Layout::kPlanes, 40}}) {
    CpuFixture f(capability(), dtype(), layout, kSmoothed, shape_of(layout, classes));
    f.target[1] = f.p.ignore_index;
    f.forward();
    f.backward();
    for (int64_t start : {0, 1, 7}) {
      SCOPED_TRACE(std::to_string(classes) + " classes, start " + std::to_string(start));
      Array streamed(dtype(), f.grad.size(), 77, start);
      Backward out = f.backward_out();
      out.grad_logits = streamed.data();
      f.backward(out, /*streamed=*/true);
      ASSERT_EQ(std::memcmp(streamed.data(), f.grad.data(), f.grad.size() * size_of(dtype())), 0);
    }
  }
}

// What AVX-512 BF16 has no code of its own for.
TEST(KernelsOfBFloat16, OtherTypesHaveTheBitsOfAvx512) {
  using cpu::Capability;
  if (!cpu::supported(Capability::kAvx512BFloat16))
    GTEST_SKIP() << "this machine lacks the instruction set";
  for (const DType dtype : {DType::kFloat, DType::kDouble, DType::kHalf}) {
    for (const Layout layout : {Layout::kRows, Layout::kPlanes}) {
      const Shape s = shape_of(layout, 300);
      CpuFixture f(Capability::kAvx512BFloat16, dtype, layout, kWeightedSmoothed, s);
      CpuFixture g(Capability::kAvx512, dtype, layout, kWeightedSmoothed, s);
      EXPECT_EQ(f.forward()[0].loss, g.forward()[0].loss);
      f.backward(), g.backward();
      EXPECT_TRUE(f.grad.same_bits(g.grad));
    }
  }
}

// Tasks may run in any order, alone or together, and give the same bits.
TEST_P(Kernel, TasksAreIndependent) {
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    const int64_t classes = 3000;
    const Shape s{40, classes, layout == Layout::kRows ? 1 : 30};
    CpuFixture together(capability(), dtype(), layout, kSmoothed, s);
    CpuFixture apart(capability(), dtype(), layout, kSmoothed, s);
    const std::vector<Partial> partials = together.forward();
    together.backward();

    std::vector<Partial> others(partials.size());
    ASSERT_GT(others.size(), 1u);
    for (int64_t task = static_cast<int64_t>(others.size()); task-- > 0;)
      apart.kernels.forward(apart.p, apart.forward_out(), task, task + 1, others.data());
    const Backward out = apart.backward_out();
    for (int64_t task = apart.kernels.backward_tasks(apart.p, out); task-- > 0;)
      apart.kernels.backward(apart.p, out, task, task + 1, /*streamed=*/false);

    for (size_t i = 0; i < others.size(); ++i) {
      EXPECT_EQ(partials[i].loss, others[i].loss);
      EXPECT_EQ(partials[i].weight, others[i].weight);
    }
    EXPECT_EQ(std::memcmp(together.grad.data(), apart.grad.data(),
                          together.grad.size() * size_of(dtype())),
              0);
  }
}

// As a caller's threads do it: each takes every fourth task of one problem.
TEST_P(Kernel, ThreadsShareAProblem) {
  static constexpr int64_t kThreads = 4;
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (int64_t classes : {7, 100, 3000}) {
      const int64_t inner = layout == Layout::kRows ? 1 : 30;
      CpuFixture f(capability(), dtype(), layout, kWeighted,
                   {150000 / classes / inner + 4, classes, inner});
      const std::vector<Partial> partials = f.forward();
      f.backward();
      const Array loss = f.loss, grad = f.grad;

      const auto share = [](int64_t tasks, auto run) {
        ASSERT_GE(tasks, kThreads);
        std::vector<std::thread> threads;
        for (int64_t first = 0; first < kThreads; ++first) {
          threads.emplace_back([=] {
            for (int64_t task = first; task < tasks; task += kThreads) run(task);
          });
        }
        for (std::thread& thread : threads) thread.join();
      };
      const Forward forward = f.forward_out();
      std::vector<Partial> shared(partials.size());
      share(f.kernels.forward_tasks(f.p),
            [&](int64_t task) { f.kernels.forward(f.p, forward, task, task + 1, shared.data()); });
      const Backward backward = f.backward_out();
      share(f.kernels.backward_tasks(f.p, backward), [&](int64_t task) {
        f.kernels.backward(f.p, backward, task, task + 1, /*streamed=*/false);
      });
      for (size_t i = 0; i < partials.size(); ++i) EXPECT_EQ(shared[i].loss, partials[i].loss);
      EXPECT_TRUE(f.loss.same_bits(loss) && f.grad.same_bits(grad)) << classes << " classes";
    }
  }
}

// Equal rows, where the roundings of a plain sum all go the same way.
TEST_P(Kernel, AddsUpRowsAsIfExactly) {
  for (int64_t classes : {4, 40}) {
    CpuFixture f(capability(), dtype(), Layout::kRows, kWeighted, {8000, classes, 1});
    for (int64_t row = 0; row < f.rows(); ++row) {
      for (int64_t c = 0; c < classes; ++c)
        f.logits.set(row * classes + c, 0.1 * static_cast<double>(c));
      f.target[row] = 2;
    }
    std::vector<Partial> partials = f.forward();
    // One task's sum, and the same rows one task at a time: the loss of a row in double.
    CpuFixture one(capability(), dtype(), Layout::kRows, kWeighted, {1, classes, 1});
    for (int64_t c = 0; c < classes; ++c) one.logits.set(c, 0.1 * static_cast<double>(c));
    one.target[0] = 2;
    one.weight = f.weight;
    one.p.weight = one.weight.data();
    const Partial row = one.forward()[0];
    long double loss = 0, weight = 0;
    for (const Partial& partial : partials) {
      loss += partial.loss;
      weight += partial.weight;
    }
    EXPECT_NEAR(static_cast<double>(loss / (8000 * static_cast<long double>(row.loss))), 1,
                0x1p-52);
    EXPECT_NEAR(static_cast<double>(weight / (8000 * static_cast<long double>(row.weight))), 1,
                0x1p-52);
  }
}

TEST_P(Kernel, EmptyProblemsHaveNoTasks) {
  for (const Shape& s : {Shape{0, 5, 1}, Shape{2, 5, 0}, Shape{0, 0, 1}}) {
    CpuFixture f(capability(), dtype(), Layout::kPlanes, kPlain, s);
    EXPECT_EQ(f.kernels.forward_tasks(f.p), 0);
    EXPECT_EQ(f.kernels.backward_tasks(f.p, f.backward_out()), 0);
  }
}

TEST_P(Kernel, RowsWithoutClasses) {
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    CpuFixture f(capability(), dtype(), layout, kWeightedSmoothedProbabilities,
                 {3, 0, layout == Layout::kRows ? 1 : 20});
    f.forward();
    f.backward();
    for (int64_t row = 0; row < f.rows(); ++row) EXPECT_EQ(f.loss.get(row), 0) << row;
  }
}

// Loss and gradient are 0 times a finite number, but for rows that are ignored whatever it is.
TEST_P(Kernel, RowsOfOneClass) {
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    CpuFixture f(capability(), dtype(), layout, kPlain, shape_of(layout, 1));
    for (int64_t row = 0; row < f.rows(); ++row) {
      if (row % 3 > 0) f.logits.set(row, std::numeric_limits<double>::infinity());
      if (row % 3 > 1) f.target[row] = f.p.ignore_index;
    }
    f.forward();
    f.backward();
    for (int64_t row = 0; row < f.rows(); ++row) {
      if (row % 3 == 1) {
        ASSERT_TRUE(std::isnan(f.loss.get(row)) && std::isnan(f.grad.get(row))) << "row " << row;
      } else {
        ASSERT_EQ(f.loss.get(row), 0) << "row " << row;
        ASSERT_EQ(f.grad.get(row), 0) << "row " << row;
      }
    }
  }
}

}  // namespace
}  // namespace fused_ce
