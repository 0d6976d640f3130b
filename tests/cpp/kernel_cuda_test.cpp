// SPDX-License-Identifier: BSD-3-Clause
// The CUDA kernels, their unchanged source, executed on the CPU by the SIMT shim: against float64,
// under several schedules.
#include <gtest/gtest.h>
#include <limits>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "cuda_fixture.h"

namespace fused_ce {
namespace {

using namespace testing;  // fused_ce::testing

INSTANTIATE_TEST_SUITE_P(, CudaKernel,
                         ::testing::Combine(::testing::ValuesIn(kSchedules),
                                            ::testing::ValuesIn(kDTypes)),
                         cuda_kernel_name);

TEST_P(CudaKernel, EqualsTheFormula) {
  for (Layout layout : kLayouts) {
    for (const Options& options : kEveryOption) {
      for (int64_t classes : {1, 2, 3, 7, 8, 31, 32, 33, 127, 257, 1000, 1001, 4096, 4097}) {
        if (classes > 300 && small_shape(layout, classes).inner > 1) continue;  // nothing new
        SCOPED_TRACE(::testing::Message() << classes << " classes, " << layout << ", " << options);
        CudaFixture f(dtype(), layout, options, small_shape(layout, classes));
        f.run_and_check();
        if (HasFailure()) return;
      }
    }
  }
}

// Long rows, few and many: slices, and a block a row.
TEST_P(CudaKernel, LongRows) {
  for (const Options& options :
       {kPlain, kWeighted, kSmoothed, kWeightedSmoothed, kWeightedSmoothedProbabilities}) {
    for (int64_t classes : {16383, 50257}) {
      SCOPED_TRACE(::testing::Message() << classes << " classes, " << options);
      CudaFixture f(dtype(), Layout::kRows, options, {2, classes, 1});
      f.run_and_check();
      if (HasFailure()) return;
    }
  }
}

// A thread has one vector more than whole rounds, in all of a team's warps or in some of them: it
// is asked for with the first round. Small teams, of which some have rows that begin elsewhere in a
// vector (of 21 some rows have 20, five a thread, and take them in rounds, as their neighbours have
// six); a warp, which of half types has rows that are so long only where they are many; a block;
// the general backward's warps, of which two share a row. Targets are in that vector, behind it and
// at the ends. (Double takes no vector so.)
TEST_P(CudaKernel, OddVectors) {
  const int64_t vector = 16 / size_of(dtype()), few = 13;
  const auto plus_one = [&](int64_t vectors) { return vectors * vector + 1; };
  for (int64_t classes :
       {plus_one(17), plus_one(19), plus_one(21), plus_one(147), plus_one(1155), int64_t{4340}}) {
    const bool many = size_of(dtype()) == 2 && classes > 1024 && classes <= 4096;
    std::vector<Options> all{kPlain, kSmoothed, kWeightedSmoothed, kStatistics, kHead};
    if (many) all.resize(3);
    for (const Options& options : all) {
      const int64_t rows = many ? 2048 : few;
      SCOPED_TRACE(::testing::Message() << rows << " x " << classes << ", " << options);
      CudaFixture f(dtype(), Layout::kRows, options, {rows, classes, 1});
      f.p.ignore_index = -100;
      for (int64_t row = 0; row < rows; ++row)
        f.target[row] = row < few ? row * (classes - 1) / (few - 1) : f.p.ignore_index;
      f.run_and_check();
      if (HasFailure()) return;
    }
  }
}

// Probabilities of rows whose largest logit leads by 0 (a tie) to as much as leaves the others'
// exponentials normal numbers: all at its class, or a thousandth at another. The loss keeps its
// digits however small it is.
TEST_P(CudaKernel, ConfidentProbabilities) {
  const bool half = size_of(dtype()) == 2;
  const double most = half ? 70 : 85;
  // Two exponentials of 1.5 units each, log1p of 1, and eight roundings. Half types: 2^-18 ln 2, of
  // an exponent near 101 to the base 2, and its third for the base's own rounding.
  const double bound = half ? 4e-6 : 8 * epsilon(dtype());
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (int64_t classes : {2, 9, 40, 300, 5003, 20000}) {
      if (classes > 300 && layout == Layout::kPlanes) continue;
      for (double rest : {0.0, 1e-3}) {
        SCOPED_TRACE(std::to_string(classes) + " classes, " + std::to_string(rest) + " elsewhere");
        CudaFixture f(dtype(), layout, kProbabilities, small_shape(layout, classes), 1);
        const std::vector<long double> losses = f.set_confident_probabilities(most, rest);
        f.forward();
        for (int64_t row = 0; row < f.rows(); ++row) {
          const auto loss = static_cast<double>(losses[row]);
          ASSERT_NEAR(f.loss.get(row), loss, bound * loss) << "row " << row;
        }
      }
    }
  }
}

// Logits, gradients and targets that begin anywhere: 128-bit accesses where they are aligned, and
// the same answer.
TEST_P(CudaKernel, UnalignedStarts) {
  for (int64_t classes : {10, 100, 1000, 5000}) {
    for (int64_t start : {1, 2, 3, 5}) {
      for (int64_t grad_start : {0, 1}) {
        const Shape s = small_shape(Layout::kRows, classes);
        CudaFixture f(dtype(), Layout::kRows, kSmoothed, s);
        const int64_t size = static_cast<int64_t>(size_of(dtype()));
        std::vector<unsigned char> logits((f.logits.size() + start) * size);
        std::memcpy(logits.data() + start * size, f.logits.data(), f.logits.size() * size);
        std::vector<unsigned char> grad((f.grad.size() + grad_start) * size);
        f.p.logits = logits.data() + start * size;
        f.forward();
        Backward out = f.backward_out();
        out.grad_logits = grad.data() + grad_start * size;
        f.backward(out);
        std::memcpy(f.grad.data(), grad.data() + grad_start * size, f.grad.size() * size);
        f.p.logits = f.logits.data();
        f.check({f.forward()});
        if (HasFailure()) return;
      }
    }
  }
}

// Of rows that are cut out of a wider buffer, and dense ones: those of `other`, as those of `f`
// lie.
struct Wider {
  Array values;
  int64_t start;
  Strides strides;

  Wider(const ProblemFixture& f, int64_t start, int64_t more)
      : values(f.p.dtype, start + f.rows() * (f.p.classes + more), 77),
        start(start),
        strides{f.p.classes + more, 1, 0} {}
  void* data() { return static_cast<char*>(values.data()) + start * size_of(values.type()); }
  int64_t place(int64_t row, int64_t c) const { return start + row * strides.outer + c; }
};

// Logits that are cut out of a wider buffer anywhere, and a dense gradient; and the other way
// round. Targets are the classes at the ends of rows, which are in no vector.
TEST_P(CudaKernel, CutOutOfAWiderBuffer) {
  for (int64_t classes : {40, 300, 1030}) {
    for (const Options& options : {kPlain, kProbabilities, kStatistics}) {
      for (int64_t start = 0; start < 8; ++start) {
        SCOPED_TRACE(::testing::Message() << classes << " classes, " << options << ", " << start);
        CudaFixture f(dtype(), Layout::kRows, options, {17, classes, 1});
        f.p.ignore_index = -100;
        for (int64_t row = 0; row < 16; ++row) f.target[row] = row < 8 ? row : classes - 16 + row;
        f.target[16] = f.p.ignore_index;
        const Strides dense = f.p.logits_strides;
        const auto for_all = [&](auto visit) {
          for (int64_t row = 0; row < f.rows(); ++row)
            for (int64_t c = 0; c < classes; ++c) visit(row, c);
        };
        // A multiple of a vector, so that all rows begin alike; or not.
        Wider wide(f, start, start % 2 == 0 ? 8 - classes % 8 : 5);
        for_all([&](int64_t row, int64_t c) {
          wide.values.set(wide.place(row, c), f.logits.get(row * classes + c));
        });
        f.p.logits = wide.data();
        f.p.logits_strides = wide.strides;
        const Partial sum = f.forward();
        Backward out = f.backward_out();
        out.grad_strides = dense;
        f.backward(out);
        f.p.logits = f.logits.data();
        f.p.logits_strides = dense;
        f.check({sum});
        if (HasFailure()) return;

        Wider grad(f, start, wide.strides.outer - classes);
        out.grad_logits = grad.data();
        out.grad_strides = grad.strides;
        f.backward(out);
        for_all([&](int64_t row, int64_t c) {
          ASSERT_EQ(grad.values.get(grad.place(row, c)), f.grad.get(row * classes + c))
              << "row " << row << ", class " << c;
          grad.values.set(grad.place(row, c), 77);
        });
        ASSERT_TRUE(grad.values.same_bits(Array(dtype(), grad.values.size(), 77)));
      }
    }
  }
}

// Planes of any size that begin anywhere, cut out of wider ones or not: neighbouring rows at once
// where all of them are aligned, and the same answer. As many classes as are under way at once, and
// others.
TEST_P(CudaKernel, PlanesThatBeginAnywhere) {
  constexpr std::tuple<int, int, int> kPlaces[] = {{32, 0, 0}, {33, 0, 0}, {33, 0, 3}, {34, 1, 5},
                                                   {35, 1, 0}, {36, 0, 1}, {36, 1, 2}, {36, 4, 4},
                                                   {37, 3, 7}, {300, 0, 6}};
  for (const Options& options :
       {kPlain, kWeightedSmoothed, kWeightedSmoothedProbabilities, kStatistics}) {
    for (int64_t classes : {1, 3, 12, 21, 40, 61}) {
      for (auto [inner, more, start] : kPlaces) {
        SCOPED_TRACE(::testing::Message() << classes << " classes, " << inner << " rows of "
                                          << inner + more << " from " << start << ", " << options);
        CudaFixture f(dtype(), Layout::kPlanes, options, {2, classes, inner});
        const Strides dense = f.p.logits_strides;
        const Strides wide{classes * (inner + more), inner + more, 1};
        const double nan = std::numeric_limits<double>::quiet_NaN();
        Array logits(dtype(), 2 * wide.outer, nan, start),
            grad(dtype(), 2 * wide.outer, nan, start);
        const auto for_places = [&](auto f_of) {
          for (int64_t row = 0; row < f.rows(); ++row)
            for (int64_t c = 0; c < classes; ++c)
              f_of(at(f.p, dense, row, c), at(f.p, wide, row, c));
        };
        for_places([&](int64_t i, int64_t place) { logits.set(place, f.logits.get(i)); });
        f.p.logits = logits.data();
        f.p.logits_strides = wide;
        const Partial sum = f.forward();
        Backward out = f.backward_out();
        out.grad_logits = grad.data();
        f.backward(out);
        int64_t written = 0;
        for (int64_t i = 0; i < grad.size(); ++i) written += !std::isnan(grad.get(i));
        EXPECT_EQ(written, f.grad.size());
        for_places([&](int64_t i, int64_t place) { f.grad.set(i, grad.get(place)); });
        f.p.logits = f.logits.data();
        f.p.logits_strides = dense;
        f.check({sum});
        if (HasFailure()) return;
      }
    }
  }
}

// As many classes as a thread a row has, or one less or more, in whole tiles and a part of one.
TEST_P(CudaKernel, FullTilesOfFewClasses) {
  const int64_t most = 256 / size_of(dtype());
  for (const Options& options : {kPlain, kWeightedSmoothedProbabilities}) {
    for (int64_t classes : {most / 2 + 2, most - 1, most, most + 1}) {
      for (Layout layout : {Layout::kRows, Layout::kPadded}) {
        SCOPED_TRACE(::testing::Message() << classes << " classes, " << layout << ", " << options);
        CudaFixture f(dtype(), layout, options, {150, classes, 1});
        f.run_and_check();
        if (HasFailure()) return;
      }
    }
  }
}

// Probabilities of any type that begin anywhere, neighbours or not: several at once where they are
// aligned, and the same answer.
TEST_P(CudaKernel, ProbabilitiesOfEveryType) {
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (DType type : {DType::kFloat, DType::kDouble, DType::kBFloat16, DType::kHalf}) {
      for (int64_t classes : {8, 9, 100, 333}) {
        for (auto [start, step] : {std::pair{0, 1}, {1, 1}, {2, 1}, {0, 2}}) {
          SCOPED_TRACE(std::to_string(classes) + " classes of " + name_of(type) + " from " +
                       std::to_string(start) + " by " + std::to_string(step));
          CudaFixture f(dtype(), layout, kWeightedSmoothedProbabilities,
                        small_shape(layout, classes));
          Array dense(type, f.probabilities.size());
          Array placed(type, start + (dense.size() - 1) * step + 1);
          for (int64_t i = 0; i < dense.size(); ++i) {
            dense.set(i, f.probabilities.get(i));
            placed.set(start + i * step, dense.get(i));
          }
          f.probabilities = dense;
          const Strides s = f.p.target_strides;
          f.p.target_strides = {s.outer * step, s.classes * step, s.inner * step};
          f.p.target = static_cast<const char*>(placed.data()) + start * size_of(type);
          f.p.target_dtype = type;
          const Partial sum = f.forward();
          f.backward();
          f.p.target_strides = s;
          f.check({sum});
          if (HasFailure()) return;
        }
      }
    }
  }
}

TEST_P(CudaKernel, GradientHasItsOwnStrides) {
  for (Layout layout : {Layout::kPadded, Layout::kPlanes}) {
    for (int64_t classes : {5, 40, 300}) {
      const Shape s = small_shape(layout, classes);
      CudaFixture f(dtype(), layout, kPlain, s);
      f.forward();
      f.backward();
      Backward out = f.backward_out();
      out.grad_strides = {s.inner * (classes + 1), s.inner, 1};
      Array apart(dtype(), s.outer * out.grad_strides.outer, 77);
      out.grad_logits = apart.data();
      f.backward(out);
      f.check_gradient_apart(apart, out.grad_strides);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(CudaKernel, EmptyProblems) {
  for (const Shape& s : {Shape{0, 5, 1}, Shape{2, 5, 0}, Shape{0, 0, 1}}) {
    CudaFixture f(dtype(), Layout::kPlanes, kPlain, s);
    const Partial sum = f.forward();
    f.backward();
    EXPECT_EQ(sum.loss, 0);
    EXPECT_EQ(sum.weight, 0);
  }
  CudaFixture f(dtype(), Layout::kRows, kWeightedSmoothedProbabilities, {3, 0, 1});
  f.forward();
  f.backward();
  for (int64_t row = 0; row < f.rows(); ++row) EXPECT_EQ(f.loss.get(row), 0) << row;
}

// What autograd passes for a reduced loss: one gradient for all rows, and what a mean divided by.
TEST_P(CudaKernel, OneGradientForAllRows) {
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (int64_t classes : {5, 100}) {
      CudaFixture f(dtype(), layout, kWeighted, small_shape(layout, classes));
      f.forward();
      const float grad = 0.75f;
      const double total_weight = 3;
      f.row_grads.assign(f.row_grads.size(), 0.25);
      Backward out = f.backward_out();
      out.grad = &grad;
      out.grad_dtype = DType::kFloat;
      out.grad_stride = 0;
      out.total_weight = &total_weight;
      f.backward(out);
      f.check({f.forward()});
      if (HasFailure()) return;
    }
  }
}

TEST_P(CudaKernel, MeanInEveryTypeOfLoss) {
  for (const Options& options : {kWeighted, kWeightedSmoothedProbabilities}) {
    CudaFixture f(dtype(), Layout::kRows, options, {150, 40, 1});
    const Partial sum = f.forward();
    for (DType type : {DType::kFloat, DType::kDouble, DType::kBFloat16, DType::kHalf}) {
      Array mean(type, 1);
      double weight = 0;
      f.launch(f.p, f.forward_out(), {Reduction::kMean, mean.data(), type, &weight});
      ASSERT_EQ(simt::error(), "");
      EXPECT_EQ(weight, options.targets == TargetKind::kProbabilities ? 150 : sum.weight);
      EXPECT_NEAR(mean.get(0), sum.loss / weight, epsilon(type) / 2 * sum.loss / weight);
    }
  }
}

}  // namespace
}  // namespace fused_ce
