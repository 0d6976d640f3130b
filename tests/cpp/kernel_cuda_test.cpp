// The CUDA kernels, their unchanged source, executed on the CPU by the SIMT shim: against float64,
// under several schedules.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <string>
#include <tuple>
#include <utility>

#include "fixture.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/plan.h"
#include "tests/simt/machine.h"

namespace fused_ce {
namespace {

using namespace testing;  // fused_ce::testing

struct Fixture : ProblemFixture {
  using ProblemFixture::ProblemFixture;

  // Exactly as much as it asks for, and nothing of use in it.
  std::vector<unsigned char> workspace;

  Partial forward() {
    Partial sum{0, 0, kNoBadRow};
    workspace.assign(cuda::workspace_bytes(p), 0xAB);
    cuda::forward(p, forward_out(), {Reduction::kSum, &sum.loss, DType::kDouble, &sum.weight},
                  workspace.data(), nullptr);
    EXPECT_EQ(simt::error(), "");
    return sum;
  }
  void backward() {
    cuda::backward(p, backward_out(), nullptr);
    EXPECT_EQ(simt::error(), "");
  }
  void run_and_check() {
    const Partial sum = forward();
    backward();
    if (!::testing::Test::HasFailure()) check({sum});
  }
};

struct Schedule {
  const char* name;
  simt::Order order;
  uint64_t seed;
  uint8_t poison;
};
constexpr Schedule kSchedules[] = {{"fifo", simt::Order::kFifo, 0, 0xFF},
                                   {"lifo", simt::Order::kLifo, 0, 0x7F},
                                   {"random", simt::Order::kRandom, 7, 0xFF}};

class CudaKernel : public ::testing::TestWithParam<std::tuple<Schedule, DType>> {
 protected:
  DType dtype() const { return std::get<1>(GetParam()); }
  void SetUp() override {
    const Schedule& s = std::get<0>(GetParam());
    simt::set_schedule(s.order, s.seed);
    simt::set_poison(s.poison);
    simt::clear_error();
  }
  void TearDown() override {
    simt::reset_schedule();
    simt::clear_error();
  }
};

INSTANTIATE_TEST_SUITE_P(, CudaKernel,
                         ::testing::Combine(::testing::ValuesIn(kSchedules),
                                            ::testing::Values(DType::kFloat, DType::kDouble,
                                                              DType::kBFloat16, DType::kHalf)),
                         [](const ::testing::TestParamInfo<CudaKernel::ParamType>& info) {
                           return std::string(std::get<0>(info.param).name) + "_" +
                                  name_of(std::get<1>(info.param));
                         });

// As shape_of, with fewer rows: a thread switch costs what a hundred logits cost.
Shape small_shape(Layout layout, int64_t classes) {
  switch (layout) {
    case Layout::kTransposed:
      return {1, classes, 300};
    case Layout::kPlanes:
      return {2, classes, 36};  // a multiple of what a thread reads at once
    case Layout::kStridedPlanes:
      return {3, classes, 37};
    default:
      return {classes > 40 ? 3 : 150, classes, 1};
  }
}

TEST_P(CudaKernel, EqualsTheFormula) {
  for (Layout layout : {Layout::kRows, Layout::kPadded, Layout::kTransposed, Layout::kPlanes,
                        Layout::kStridedPlanes}) {
    for (Option option : {Option::kPlain, Option::kWeights, Option::kSmoothed, Option::kUInt8,
                          Option::kProbabilities}) {
      for (int64_t classes : {1, 2, 3, 7, 8, 31, 32, 33, 127, 257, 1000, 1001, 4096, 4097}) {
        if (classes > 300 && small_shape(layout, classes).inner > 1) continue;  // nothing new
        SCOPED_TRACE(std::to_string(classes) + " classes, layout " +
                     std::to_string(static_cast<int>(layout)) + ", option " +
                     std::to_string(static_cast<int>(option)));
        Fixture f(dtype(), layout, option, small_shape(layout, classes));
        f.run_and_check();
        if (HasFailure()) return;
      }
    }
  }
}

// Long rows, few and many: slices, and a block a row.
TEST_P(CudaKernel, LongRows) {
  for (Option option :
       {Option::kPlain, Option::kWeights, Option::kSmoothed, Option::kProbabilities}) {
    for (int64_t classes : {16383, 50257}) {
      SCOPED_TRACE(std::to_string(classes) + " classes");
      Fixture f(dtype(), Layout::kRows, option, {2, classes, 1});
      f.run_and_check();
      if (HasFailure()) return;
    }
  }
}

// Rows whose first logits say nothing of the largest: the first guess of the reference must not
// stay.
TEST_P(CudaKernel, FindsALateMaximum) {
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (int64_t classes : {2, 8, 11, 40, 300, 5003, 20000}) {
      if (classes > 300 && layout == Layout::kPlanes) continue;
      for (double peak : {95.0, 500.0, 3e4}) {
        SCOPED_TRACE(std::to_string(classes) + " classes, peak " + std::to_string(peak));
        Fixture f(dtype(), layout, Option::kPlain, small_shape(layout, classes), 1);
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
    for (Option option : {Option::kPlain, Option::kSmoothed}) {
      for (double lead : {70.0, 95.0, 800.0}) {
        SCOPED_TRACE("lead " + std::to_string(lead));
        Fixture f(dtype(), layout, option, small_shape(layout, 40), 1);
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
      Fixture f(dtype(), layout, Option::kProbabilities, small_shape(layout, classes), 1);
      f.set_late_maximum_of_probabilities();
      f.run_and_check();
      if (HasFailure()) return;
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
        Fixture f(dtype(), Layout::kRows, Option::kSmoothed, s);
        const int64_t size = static_cast<int64_t>(size_of(dtype()));
        std::vector<unsigned char> logits((f.logits.size() + start) * size);
        std::memcpy(logits.data() + start * size, f.logits.data(), f.logits.size() * size);
        std::vector<unsigned char> grad((f.grad.size() + grad_start) * size);
        f.p.logits = logits.data() + start * size;
        f.forward();
        Backward out = f.backward_out();
        out.grad_logits = grad.data() + grad_start * size;
        cuda::backward(f.p, out, nullptr);
        ASSERT_EQ(simt::error(), "");
        std::memcpy(f.grad.data(), grad.data() + grad_start * size, f.grad.size() * size);
        f.p.logits = f.logits.data();
        f.check({f.forward()});
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
          Fixture f(dtype(), layout, Option::kProbabilities, small_shape(layout, classes));
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

TEST_P(CudaKernel, ABadTargetTripsAnAssertion) {
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (int64_t classes : {5, 100, 20000}) {
      if (classes > 300 && layout == Layout::kPlanes) continue;
      for (int64_t bad : {int64_t{-1}, classes, INT64_MAX, INT64_MIN, int64_t{1} << 32}) {
        Fixture f(dtype(), layout, Option::kPlain, small_shape(layout, classes));
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
  for (Option option : {Option::kPlain, Option::kSmoothed}) {
    for (int64_t classes : {3, 9, 33, 131}) {
      SCOPED_TRACE(std::to_string(classes) + " classes");
      Fixture f(dtype(), Layout::kRows, option, {classes, classes, 1});
      f.set_infinite_logits();
      if (option == Option::kPlain) {
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
      for (double value : {nan, infinity}) {
        Fixture f(dtype(), layout, Option::kPlain, small_shape(layout, classes));
        f.p.ignore_index = -100;
        const int64_t last = f.rows() - 1;
        f.logits.set(at(f.p, f.p.logits_strides, last, classes - 1), value);
        for (int64_t c = 0; c < classes; ++c)
          f.logits.set(at(f.p, f.p.logits_strides, 0, c), -infinity);
        f.forward();
        EXPECT_TRUE(std::isnan(f.loss.get(last))) << classes << " " << value;
        EXPECT_TRUE(std::isnan(f.loss.get(0))) << classes;
        EXPECT_FALSE(std::isnan(f.loss.get(1))) << classes;
      }
    }
  }
}

TEST_P(CudaKernel, GradientHasItsOwnStrides) {
  for (Layout layout : {Layout::kPadded, Layout::kPlanes}) {
    for (int64_t classes : {5, 40, 300}) {
      const Shape s = small_shape(layout, classes);
      Fixture f(dtype(), layout, Option::kPlain, s);
      f.forward();
      f.backward();
      Backward out = f.backward_out();
      out.grad_strides = {s.inner * (classes + 1), s.inner, 1};
      Array apart(dtype(), s.outer * out.grad_strides.outer, 77);
      out.grad_logits = apart.data();
      cuda::backward(f.p, out, nullptr);
      ASSERT_EQ(simt::error(), "");
      f.check_gradient_apart(apart, out.grad_strides);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(CudaKernel, EmptyProblems) {
  for (const Shape& s : {Shape{0, 5, 1}, Shape{2, 5, 0}, Shape{0, 0, 1}}) {
    Fixture f(dtype(), Layout::kPlanes, Option::kPlain, s);
    const Partial sum = f.forward();
    f.backward();
    EXPECT_EQ(sum.loss, 0);
    EXPECT_EQ(sum.weight, 0);
  }
  Fixture f(dtype(), Layout::kRows, Option::kProbabilities, {3, 0, 1});
  f.forward();
  f.backward();
  for (int64_t row = 0; row < f.rows(); ++row) EXPECT_EQ(f.loss.get(row), 0) << row;
}

// What autograd passes for a reduced loss: one gradient for all rows, and what a mean divided by.
TEST_P(CudaKernel, OneGradientForAllRows) {
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (int64_t classes : {5, 100}) {
      Fixture f(dtype(), layout, Option::kWeights, small_shape(layout, classes));
      f.forward();
      const float grad = 0.75f;
      const double total_weight = 3;
      f.row_grads.assign(f.row_grads.size(), 0.25);
      Backward out = f.backward_out();
      out.grad = &grad;
      out.grad_dtype = DType::kFloat;
      out.grad_stride = 0;
      out.total_weight = &total_weight;
      cuda::backward(f.p, out, nullptr);
      ASSERT_EQ(simt::error(), "");
      f.check({f.forward()});
      if (HasFailure()) return;
    }
  }
}

TEST_P(CudaKernel, MeanInEveryTypeOfLoss) {
  for (Option option : {Option::kWeights, Option::kProbabilities}) {
    Fixture f(dtype(), Layout::kRows, option, {150, 40, 1});
    const Partial sum = f.forward();
    for (DType type : {DType::kFloat, DType::kDouble, DType::kBFloat16, DType::kHalf}) {
      Array mean(type, 1);
      double weight = 0;
      cuda::forward(f.p, f.forward_out(), {Reduction::kMean, mean.data(), type, &weight},
                    f.workspace.data(), nullptr);
      ASSERT_EQ(simt::error(), "");
      EXPECT_EQ(weight, option == Option::kProbabilities ? 150 : sum.weight);
      EXPECT_NEAR(mean.get(0), sum.loss / weight, epsilon(type) / 2 * sum.loss / weight);
    }
  }
}

// Memory that costs nothing until it is touched, for offsets beyond 2^31 elements.
class Reserved {
 public:
  explicit Reserved(size_t bytes)
      : bytes_(bytes),
        data_(mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {}
  ~Reserved() { munmap(data_, bytes_); }
  char* data() { return static_cast<char*>(data_); }
  bool valid() const { return data_ != MAP_FAILED; }

 private:
  size_t bytes_;
  void* data_;
};

TEST_P(CudaKernel, OffsetsBeyond31Bits) {
  const int64_t far = (int64_t{1} << 31) + 4096;  // elements between two rows
  for (int64_t classes : {20, 100, 5000}) {
    Fixture f(dtype(), Layout::kRows, Option::kPlain, {3, classes, 1});
    const size_t size = size_of(dtype()), row_bytes = classes * size;
    Reserved logits(3 * far * size), grad(3 * far * size);
    ASSERT_TRUE(logits.valid() && grad.valid());
    const auto* near_logits = static_cast<const char*>(f.p.logits);
    for (int64_t row = 0; row < 3; ++row)
      std::memcpy(logits.data() + row * far * size, near_logits + row * row_bytes, row_bytes);
    f.p.logits = logits.data();
    f.p.logits_strides.outer = far;
    const Partial sum = f.forward();
    Backward out = f.backward_out();
    out.grad_logits = grad.data();
    out.grad_strides.outer = far;
    cuda::backward(f.p, out, nullptr);
    ASSERT_EQ(simt::error(), "");
    for (int64_t row = 0; row < 3; ++row) {
      std::memcpy(static_cast<char*>(f.grad.data()) + row * row_bytes,
                  grad.data() + row * far * size, row_bytes);
    }
    f.p.logits = near_logits;
    f.p.logits_strides.outer = classes;
    f.check({sum});
    if (HasFailure()) return;
  }
}

// More rows than blocks, so that blocks take several: tiles and buffers are used again.
class CudaManyRows : public CudaKernel {};
INSTANTIATE_TEST_SUITE_P(, CudaManyRows,
                         ::testing::Values(std::make_tuple(kSchedules[0], DType::kFloat),
                                           std::make_tuple(kSchedules[1], DType::kFloat),
                                           std::make_tuple(kSchedules[2], DType::kFloat)));

TEST_P(CudaManyRows, TilesOfFewClasses) {
  Fixture f(dtype(), Layout::kRows, Option::kPlain, {16384 * 128 + 77, 2, 1});
  f.run_and_check();
}

// All rows share one row's memory, but not its target.
TEST_P(CudaManyRows, BlocksOfManyClasses) {
  const int64_t classes = 4100, rows = 16384 + 3;
  Fixture one(dtype(), Layout::kRows, Option::kPlain, {1, classes, 1});
  Fixture f(dtype(), Layout::kRows, Option::kPlain, {rows, 1, 1});
  f.p.classes = classes;
  f.p.ignore_index = -100;
  f.p.logits = one.p.logits;
  f.p.logits_strides = {0, 1, 0};
  std::vector<double> expected(classes);
  for (int64_t row = 0; row < rows; ++row) f.target[row] = row * 7 % classes;
  for (int64_t c = 0; c < classes; ++c) {
    one.target[0] = c;
    one.p.ignore_index = -100;
    expected[c] = one.forward().loss;
  }
  f.forward();
  for (int64_t row = 0; row < rows; ++row) {
    const double loss = expected[f.target[row]];
    ASSERT_NEAR(f.loss.get(row), loss, 0x1p-23 * loss) << "row " << row;
  }
}

}  // namespace
}  // namespace fused_ce
