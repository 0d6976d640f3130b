// The last digits of the CUDA kernels, executed on the CPU.
#include "cuda_fixture.h"
#include "exactness.h"

namespace fused_ce {
namespace {

using namespace testing;  // fused_ce::testing

class ExactCudaKernel : public CudaKernel {
 protected:
  auto make() const {
    return [this](Layout layout, const Options& options, int64_t classes, double scale) {
      return CudaFixture(dtype(), layout, options, small_shape(layout, classes), scale);
    };
  }
};
INSTANTIATE_TEST_SUITE_P(, ExactCudaKernel,
                         ::testing::Combine(::testing::Values(kSchedules[2]),
                                            ::testing::ValuesIn(kDTypes)),
                         cuda_kernel_name);

TEST_P(ExactCudaKernel, NoClasses) {
  check_no_classes(make());
  CudaFixture none(dtype(), Layout::kRows, kSmoothed, {0, 0, 1});
  EXPECT_TRUE(std::isnan(none.forward().loss));  // of no rows, too
}
TEST_P(ExactCudaKernel, ConfidentOneHotGradients) {
  check_confident_one_hot_gradients(dtype(), make());
}
TEST_P(ExactCudaKernel, SmallestLosses) { check_smallest_losses(dtype(), make()); }
TEST_P(ExactCudaKernel, SmallGradients) { check_small_gradients(dtype(), make()); }
TEST_P(ExactCudaKernel, LargeGradientsOfConfidentRows) {
  check_large_gradients_of_confident_rows(dtype(), make());
}

}  // namespace
}  // namespace fused_ce
