// The CPU kernels with raw pointers, at each instruction set that this machine has, against
// float64.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <tuple>

#include "kernels/cpu/cpu.h"
#include "reference.h"

namespace fused_ce {
namespace {

using namespace testing;  // fused_ce::testing
using cpu::Capability;

enum class Layout { kRows, kPadded, kTransposed, kPlanes, kStridedPlanes };
enum class Option { kPlain, kWeights, kSmoothed, kUInt8, kProbabilities };

struct Shape {
  int64_t outer, classes, inner;
};

// Strides of a layout, and the elements they span.
std::pair<Strides, int64_t> strides_of(Layout layout, const Shape& s) {
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

Shape shape_of(Layout layout, int64_t classes) {
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
struct Fixture {
  Problem p{};
  Array logits, probabilities, weight, grad;
  std::vector<int64_t> target;
  std::vector<uint8_t> bytes;
  std::vector<double> weights, row_grads;
  double weight_sum = 0;
  Array reference, sum, mass, loss;

  Fixture(DType dtype, Layout layout, Option option, const Shape& s, double scale = 3)
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
        mass(accumulate_type(dtype), rows(s)),
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
    return {{reference.data(), sum.data(), mass.data()}, loss.data(), loss.type()};
  }
  Backward backward_out() {
    return {{reference.data(), sum.data(), mass.data()},
            row_grads.data(),
            DType::kDouble,
            1,
            nullptr,
            grad.data(),
            p.logits_strides};
  }

  std::vector<Partial> forward(Capability capability) {
    const cpu::Kernels& kernels = cpu::kernels(capability);
    std::vector<Partial> partials(kernels.forward_tasks(p));
    kernels.forward(p, forward_out(), 0, static_cast<int64_t>(partials.size()), partials.data());
    return partials;
  }
  void backward(Capability capability) {
    const cpu::Kernels& kernels = cpu::kernels(capability);
    const Backward out = backward_out();
    kernels.backward(p, out, 0, kernels.backward_tasks(p, out));
  }

  // A term may be wrong by 4 units of the type that is computed in (half types: by 2e-6), and by
  // its share of the roundings of a sum in double, which walk at random; the result is rounded once
  // more.
  void check(const std::vector<Partial>& partials) {
    const double term = size_of(p.dtype) == 2 ? 2e-6 : 4 * epsilon(p.dtype);
    const double work = term + 0x1p-53 * std::sqrt(static_cast<double>(p.classes));
    double total = 0, total_terms = 0, total_weight = 0;
    std::vector<bool> written(grad.size());
    for (int64_t row = 0; row < rows(); ++row) {
      const Expected e =
          expected_row(p, logits, target, probabilities, weights, row, row_grads[row]);
      ASSERT_NEAR(loss.get(row), e.loss, work * e.loss_terms) << "row " << row;
      for (int64_t c = 0; c < p.classes; ++c) {
        const int64_t i = at(p, p.logits_strides, row, c);
        written[i] = true;
        const double bound = epsilon(p.dtype) / 2 * std::fabs(e.grad[c]) + work * e.grad_terms[c] +
                             smallest(p.dtype);
        ASSERT_NEAR(grad.get(i), e.grad[c], bound) << "row " << row << ", class " << c;
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
    ASSERT_NEAR(sum_of_losses, total, work * total_terms);
    if (p.target_kind != TargetKind::kProbabilities) {
      ASSERT_NEAR(sum_of_weights, total_weight, 1e-12 * total_weight);
    }
  }
};

std::string name_of(DType type) {
  return type == DType::kFloat      ? "float"
         : type == DType::kDouble   ? "double"
         : type == DType::kBFloat16 ? "bfloat16"
                                    : "half";
}

class Kernel : public ::testing::TestWithParam<std::tuple<Capability, DType>> {
 protected:
  Capability capability() const { return std::get<0>(GetParam()); }
  DType dtype() const { return std::get<1>(GetParam()); }
  void SetUp() override {
    if (!cpu::supported(capability())) GTEST_SKIP() << "this machine lacks the instruction set";
  }
};

INSTANTIATE_TEST_SUITE_P(, Kernel,
                         ::testing::Combine(::testing::ValuesIn(cpu::kCapabilities),
                                            ::testing::Values(DType::kFloat, DType::kDouble,
                                                              DType::kBFloat16, DType::kHalf)),
                         [](const ::testing::TestParamInfo<Kernel::ParamType>& info) {
                           return std::string(cpu::capability_name(std::get<0>(info.param))) + "_" +
                                  name_of(std::get<1>(info.param));
                         });

TEST_P(Kernel, EqualsTheFormula) {
  for (Layout layout : {Layout::kRows, Layout::kPadded, Layout::kTransposed, Layout::kPlanes,
                        Layout::kStridedPlanes}) {
    for (Option option : {Option::kPlain, Option::kWeights, Option::kSmoothed, Option::kUInt8,
                          Option::kProbabilities}) {
      for (int64_t classes :
           {2, 3, 7, 8, 16, 17, 33, 63, 64, 65, 127, 129, 255, 257, 1023, 1025, 5003}) {
        if (classes > 300 && shape_of(layout, classes).inner > 100) continue;  // slow, nothing new
        SCOPED_TRACE(std::to_string(classes) + " classes, layout " +
                     std::to_string(static_cast<int>(layout)) + ", option " +
                     std::to_string(static_cast<int>(option)));
        Fixture f(dtype(), layout, option, shape_of(layout, classes));
        const std::vector<Partial> partials = f.forward(capability());
        f.backward(capability());
        f.check(partials);
        if (HasFatalFailure()) return;
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
        Fixture f(dtype(), layout, Option::kPlain, shape_of(layout, classes), 1);
        for (int64_t row = 0; row < f.rows(); ++row) {
          f.logits.set(at(f.p, f.p.logits_strides, row, classes - 1), peak);
          f.target[row] = 0;
        }
        const std::vector<Partial> partials = f.forward(capability());
        f.backward(capability());
        f.check(partials);
        if (HasFatalFailure()) return;
      }
    }
  }
}

// The same where the target is the late maximum: the linear sum of a far guess would lose digits.
TEST_P(Kernel, FindsALateMaximumOfProbabilities) {
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (int64_t classes : {9, 40, 300, 5003}) {
      SCOPED_TRACE(std::to_string(classes) + " classes");
      Fixture f(dtype(), layout, Option::kProbabilities, shape_of(layout, classes), 1);
      f.p.weight = nullptr;
      f.p.label_smoothing = 0;
      f.weights.assign(classes, 1.0);
      for (int64_t row = 0; row < f.rows(); ++row) {
        f.logits.set(at(f.p, f.p.logits_strides, row, classes - 1), 40);
        for (int64_t c = 0; c < classes; ++c)
          f.probabilities.set(at(f.p, f.p.target_strides, row, c), c == classes - 1);
      }
      const std::vector<Partial> partials = f.forward(capability());
      f.backward(capability());
      f.check(partials);
      if (HasFatalFailure()) return;
    }
  }
}

// Last vectors overlap the ones before: no class may enter a sum twice, or as 0 * infinity.
TEST_P(Kernel, InfiniteLogitAnywhere) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (Option option : {Option::kPlain, Option::kSmoothed}) {
    for (int64_t classes : {3, 9, 13, 129, 131, 515, 1001}) {
      SCOPED_TRACE(std::to_string(classes) + " classes");
      Fixture f(dtype(), Layout::kRows, option, {classes, classes, 1});
      f.p.ignore_index = -100;
      for (int64_t row = 0; row < f.rows(); ++row) {
        f.logits.set(row * classes + row, -infinity);
        f.target[row] = (row + 1) % classes;
      }
      const std::vector<Partial> partials = f.forward(capability());
      f.backward(capability());
      if (option == Option::kPlain) f.check(partials);
      if (HasFatalFailure()) return;
      if (option == Option::kPlain) continue;
      for (int64_t row = 0; row < f.rows(); ++row) ASSERT_EQ(f.loss.get(row), infinity) << row;
    }
  }
}

TEST_P(Kernel, ReportsTheFirstBadTargetAndReadsNothingOutside) {
  for (Layout layout : {Layout::kRows, Layout::kPlanes, Layout::kTransposed}) {
    for (int64_t classes : {5, 100}) {
      for (int64_t bad : {int64_t{-1}, classes, INT64_MAX, INT64_MIN, int64_t{1} << 32}) {
        Fixture f(dtype(), layout, Option::kPlain, shape_of(layout, classes));
        f.target[7] = f.target[11] = bad;
        int64_t first = kNoBadRow;
        for (const Partial& partial : f.forward(capability()))
          if (first < 0) first = partial.bad_row;
        EXPECT_EQ(first, 7);
      }
    }
  }
}

// Tasks may run in any order, alone or together, and give the same bits.
TEST_P(Kernel, TasksAreIndependent) {
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    const int64_t classes = 3000;
    Fixture together(dtype(), layout, Option::kSmoothed,
                     {40, classes, layout == Layout::kRows ? 1 : 30});
    Fixture apart = together;
    apart.p.logits = apart.logits.data();
    apart.p.target = apart.target.data();
    const std::vector<Partial> partials = together.forward(capability());
    together.backward(capability());

    const cpu::Kernels& kernels = cpu::kernels(capability());
    std::vector<Partial> others(partials.size());
    ASSERT_GT(others.size(), 1u);
    for (int64_t task = static_cast<int64_t>(others.size()); task-- > 0;)
      kernels.forward(apart.p, apart.forward_out(), task, task + 1, others.data());
    const Backward out = apart.backward_out();
    for (int64_t task = kernels.backward_tasks(apart.p, out); task-- > 0;)
      kernels.backward(apart.p, out, task, task + 1);

    for (size_t i = 0; i < others.size(); ++i) {
      EXPECT_EQ(partials[i].loss, others[i].loss);
      EXPECT_EQ(partials[i].weight, others[i].weight);
    }
    EXPECT_EQ(std::memcmp(together.grad.data(), apart.grad.data(),
                          together.grad.size() * size_of(dtype())),
              0);
  }
}

// Equal rows, where the roundings of a plain sum all go the same way.
TEST_P(Kernel, AddsUpRowsAsIfExactly) {
  for (int64_t classes : {4, 40}) {
    Fixture f(dtype(), Layout::kRows, Option::kWeights, {8000, classes, 1});
    for (int64_t row = 0; row < f.rows(); ++row) {
      for (int64_t c = 0; c < classes; ++c)
        f.logits.set(row * classes + c, 0.1 * static_cast<double>(c));
      f.target[row] = 2;
    }
    std::vector<Partial> partials = f.forward(capability());
    // One task's sum, and the same rows one task at a time: the loss of a row in double.
    Fixture one(dtype(), Layout::kRows, Option::kWeights, {1, classes, 1});
    for (int64_t c = 0; c < classes; ++c) one.logits.set(c, 0.1 * static_cast<double>(c));
    one.target[0] = 2;
    one.weight = f.weight;
    one.p.weight = one.weight.data();
    const Partial row = one.forward(capability())[0];
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
    Fixture f(dtype(), Layout::kPlanes, Option::kPlain, s);
    EXPECT_EQ(cpu::kernels(capability()).forward_tasks(f.p), 0);
    EXPECT_EQ(cpu::kernels(capability()).backward_tasks(f.p, f.backward_out()), 0);
  }
}

TEST_P(Kernel, RowsWithoutClasses) {
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    Fixture f(dtype(), layout, Option::kProbabilities, {3, 0, layout == Layout::kRows ? 1 : 20});
    f.forward(capability());
    f.backward(capability());
    for (int64_t row = 0; row < f.rows(); ++row) EXPECT_EQ(f.loss.get(row), 0) << row;
  }
}

}  // namespace
}  // namespace fused_ce
