// The last digits of the CPU kernels, at each instruction set that this machine has.
#include "cpu_fixture.h"
#include "exactness.h"

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
