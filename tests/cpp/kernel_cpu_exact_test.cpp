// SPDX-License-Identifier: BSD-3-Clause
// The last digits of the CPU kernels, at each instruction set that this machine has.
#include "cpu_fixture.h"
#include "head_exactness.h"

namespace fused_ce {
namespace {

using namespace testing;  // fused_ce::testing

class ExactKernel : public Kernel {
 protected:
  auto make() const {
    return [this](Layout layout, const Options& options, int64_t classes, double scale) {
      return CpuFixture(capability(), dtype(), layout, options, shape_of(layout, classes), scale);
    };
  }
  bool is_fused() const { return capability() != cpu::Capability::kDefault; }  // multiply and add
};
INSTANTIATE_TEST_SUITE_P(, ExactKernel, kEveryKernel, kernel_name);

TEST_P(ExactKernel, NoClasses) { check_no_classes(make()); }
TEST_P(ExactKernel, ConfidentOneHotGradients) {
  check_confident_one_hot_gradients(dtype(), make());
}
TEST_P(ExactKernel, SmallestLosses) { check_smallest_losses(dtype(), make()); }
TEST_P(ExactKernel, SmallGradients) { check_small_gradients(dtype(), make()); }
TEST_P(ExactKernel, LargeGradientsOfConfidentRows) {
  check_large_gradients_of_confident_rows(dtype(), make());
}

TEST_P(ExactKernel, Statistics) {
  check_exact_statistics(dtype(), 1, kCpuHalfExp, make(), {2, 3, 9, 40, 129, 300, 5003});
}
TEST_P(ExactKernel, StatisticsOfAMillionClasses) {
  const auto make = [this](Layout layout, const Options& options, int64_t classes, double scale) {
    const Shape s = layout == Layout::kRows ? Shape{3, classes, 1} : Shape{1, classes, 3};
    return CpuFixture(capability(), dtype(), layout, options, s, scale);
  };
  check_exact_statistics(dtype(), 1, kCpuHalfExp, make, {1000000});
}
TEST_P(ExactKernel, LseAndZLossGradients) { check_exact_z_loss_gradients(dtype(), make()); }
TEST_P(ExactKernel, EntropyGradients) { check_exact_entropy_gradients(dtype(), make()); }
TEST_P(ExactKernel, EveryCappedNumber) {
  const auto make = [this](const Options& options, int64_t rows) {
    return CpuFixture(capability(), dtype(), Layout::kRows, options, {rows, 1, 1});
  };
  for (auto [scale, cap] : {std::pair{1.0, 30.0}, {1.3, 5.0}, {0.01, 50.0}})
    check_every_capped_number(dtype(), scale, cap, is_fused() ? 4 : 4.5, make);
}
// A temperature costs float no digits where there is a fused multiply-add.
TEST_P(ExactKernel, ScaledLosses) {
  const bool exact = is_fused() && dtype() == DType::kFloat;
  check_exact_scaled_losses(dtype(), make(), kScaled, exact ? 0 : 0.5);
}
TEST_P(ExactKernel, CappedLosses) {
  check_exact_scaled_losses(dtype(), make(), {.scale = 1.3, .cap = 30}, is_fused() ? 4 : 4.5);
}

// A sum of a million doubles: rounded at every addition, it would lose three digits.
TEST_P(ExactKernel, AMillionEqualLogits) {
  const int64_t classes = 1000000;
  const double bound = exact_gradient(dtype()) / (size_of(dtype()) == 2 ? 1 : 2);
  for (const Shape& s : {Shape{1, classes, 1}, Shape{1, classes, 8}}) {
    CpuFixture f(capability(), dtype(), s.inner == 1 ? Layout::kRows : Layout::kPlanes, kPlain, s);
    f.p.ignore_index = -100;
    for (int64_t i = 0; i < f.logits.size(); ++i) f.logits.set(i, 0.7);
    f.forward();
    f.backward();
    const double loss = std::log(static_cast<double>(classes));
    for (int64_t row = 0; row < f.rows(); ++row) {
      const double grad = f.row_grads[row] / static_cast<double>(classes);
      const int64_t other = f.target[row] == 0 ? 1 : 0;
      ASSERT_NEAR(f.loss.get(row), loss, exact_loss(dtype()) / 4 * loss);
      ASSERT_NEAR(grad_of(f, row, other), grad, bound * std::fabs(grad) + smallest(dtype()));
    }
  }
}

}  // namespace
}  // namespace fused_ce
