// SPDX-License-Identifier: BSD-3-Clause
// The loss head of the CPU kernels, at each instruction set that this machine has.
#include "cpu_fixture.h"
#include "head.h"

namespace fused_ce {
namespace {

using namespace testing;  // fused_ce::testing

class HeadKernel : public Kernel {
 protected:
  auto make() const {
    return [this](Layout layout, const Options& options, int64_t classes, double scale) {
      return CpuFixture(capability(), dtype(), layout, options, shape_of(layout, classes), scale);
    };
  }
};
INSTANTIATE_TEST_SUITE_P(, HeadKernel, kEveryKernel, kernel_name);

TEST_P(HeadKernel, EqualsTheFormula) { check_every_head(make()); }
TEST_P(HeadKernel, LseOfFarTargets) { check_lse_of_far_targets(make()); }
TEST_P(HeadKernel, SomeGradients) { check_some_gradients(make()); }
TEST_P(HeadKernel, GradientsOfAMean) { check_gradients_of_a_mean(make()); }
TEST_P(HeadKernel, HardRows) { check_hard_rows(make(), kStatistics); }
TEST_P(HeadKernel, HardRowsOfLse) { check_hard_rows(make(), kLse); }
TEST_P(HeadKernel, HardRowsOfProbabilities) { check_hard_rows(make(), kHeadOfProbabilities); }
TEST_P(HeadKernel, HardRowsOfAnEvaluation) { check_hard_rows(make(), kEvaluation, /*again=*/true); }
TEST_P(HeadKernel, HardRowsThatAreCapped) { check_hard_rows(make(), kHead); }
TEST_P(HeadKernel, GradientsInPlace) { check_in_place(make()); }
TEST_P(HeadKernel, StatisticsAlone) { check_statistics_alone(make()); }

// One instruction set leaves some problems to another, whose tasks have to be its own.
TEST_P(HeadKernel, CutsRowsAsTheOthersDo) {
  for (int64_t inner : {1, 5000}) {
    for (int64_t classes : {1, 2, 47, 48, 49, 100, 127, 128, 129, 1000, 40000}) {
      Problem p{};
      p.outer = 100000 / inner, p.classes = classes, p.inner = inner;
      p.dtype = dtype();
      p.logits_strides = {classes * inner, inner, 1};
      EXPECT_EQ(cpu::kernels(capability()).forward_tasks(p),
                cpu::kernels(cpu::Capability::kDefault).forward_tasks(p))
          << classes << " classes, " << inner;
    }
  }
}

}  // namespace
}  // namespace fused_ce
