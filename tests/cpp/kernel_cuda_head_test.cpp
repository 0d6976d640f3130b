// SPDX-License-Identifier: BSD-3-Clause
// The loss head of the CUDA kernels, executed on the CPU.
#include "cuda_fixture.h"
#include "head.h"

namespace fused_ce {
namespace {

using namespace testing;  // fused_ce::testing

class CudaHeadKernel : public CudaKernel {
 protected:
  auto make() const {
    return [this](Layout layout, const Options& options, int64_t classes, double scale) {
      return CudaFixture(dtype(), layout, options, small_shape(layout, classes), scale);
    };
  }
};
INSTANTIATE_TEST_SUITE_P(, CudaHeadKernel,
                         ::testing::Combine(::testing::ValuesIn(kSchedules),
                                            ::testing::ValuesIn(kDTypes)),
                         cuda_kernel_name);

// Under one schedule, for time: what is hard of a row is in its numbers. As CudaHardSlices.
class CudaHardHeads : public CudaHeadKernel {};
INSTANTIATE_TEST_SUITE_P(, CudaHardHeads,
                         ::testing::Combine(::testing::Values(kSchedules[2]),
                                            ::testing::ValuesIn(kDTypes)),
                         cuda_kernel_name);

TEST_P(CudaHeadKernel, EqualsTheFormula) { check_every_head(make()); }
TEST_P(CudaHeadKernel, LseOfFarTargets) { check_lse_of_far_targets(make()); }
TEST_P(CudaHeadKernel, SomeGradients) { check_some_gradients(make()); }
TEST_P(CudaHeadKernel, GradientsOfAMean) { check_gradients_of_a_mean(make()); }
TEST_P(CudaHardHeads, HardRows) { check_hard_rows(make(), kStatistics); }
TEST_P(CudaHardHeads, HardRowsOfLse) { check_hard_rows(make(), kLse); }
TEST_P(CudaHardHeads, HardRowsOfProbabilities) { check_hard_rows(make(), kHeadOfProbabilities); }
TEST_P(CudaHardHeads, HardRowsOfAnEvaluation) {
  check_hard_rows(make(), kEvaluation, /*again=*/true);
}
TEST_P(CudaHardHeads, HardRowsThatAreCapped) { check_hard_rows(make(), kHead); }
TEST_P(CudaHeadKernel, GradientsInPlace) { check_in_place(make()); }
TEST_P(CudaHeadKernel, StatisticsAlone) { check_statistics_alone(make()); }

// Long rows, few and many: slices, and a block a row.
TEST_P(CudaHeadKernel, LongRows) {
  for (const Options& options : {kStatistics, kHead, kHeadOfProbabilities}) {
    for (int64_t classes : {16383, 50257}) {
      SCOPED_TRACE(::testing::Message() << classes << " classes, " << options);
      CudaFixture f(dtype(), Layout::kRows, options, {2, classes, 1});
      f.run_and_check();
      if (HasFailure()) return;
    }
  }
}

}  // namespace
}  // namespace fused_ce
