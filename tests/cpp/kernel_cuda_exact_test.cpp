// SPDX-License-Identifier: BSD-3-Clause
// The last digits of the CUDA kernels, executed on the CPU.
#include "cuda_fixture.h"
#include "head_exactness.h"

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

TEST_P(ExactCudaKernel, Statistics) {
  check_exact_statistics(dtype(), 2, kCudaHalfExp, make(), {2, 3, 9, 40, 129, 300});
}
TEST_P(ExactCudaKernel, StatisticsOfLongRows) {
  const auto make = [this](Layout, const Options& options, int64_t classes, double scale) {
    return CudaFixture(dtype(), Layout::kRows, options, {5, classes, 1}, scale);
  };
  check_exact_statistics(dtype(), 2, kCudaHalfExp, make, {5003, 1000000});
}
TEST_P(ExactCudaKernel, LseAndZLossGradients) { check_exact_z_loss_gradients(dtype(), make()); }
TEST_P(ExactCudaKernel, EntropyGradients) { check_exact_entropy_gradients(dtype(), make()); }
TEST_P(ExactCudaKernel, EveryCappedNumber) {
  const auto make = [this](const Options& options, int64_t rows) {
    return CudaFixture(dtype(), Layout::kRows, options, {rows, 1, 1});
  };
  for (auto [scale, cap] : {std::pair{1.0, 30.0}, {1.3, 5.0}, {0.01, 50.0}})
    check_every_capped_number(dtype(), scale, cap, 4, make);
}
TEST_P(ExactCudaKernel, ScaledLosses) { check_exact_scaled_losses(dtype(), make(), kScaled, 0); }
TEST_P(ExactCudaKernel, CappedLosses) {
  check_exact_scaled_losses(dtype(), make(), {.scale = 1.3, .cap = 30}, 4);
}

}  // namespace
}  // namespace fused_ce
