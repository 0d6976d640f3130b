// SPDX-License-Identifier: BSD-3-Clause
// Slices of the classes by the CPU kernels, at each instruction set.
#include "cpu_fixture.h"
#include "slices.h"

namespace fused_ce {
namespace {

using namespace testing;  // fused_ce::testing

class SliceKernel : public Kernel {
 protected:
  auto make() const {
    return [this](Layout layout, const Options& options, const Shape& shape, const Sizes& sizes,
                  double scale) {
      return Sliced<CpuFixture>(layout, sizes, capability(), dtype(), layout, options, shape,
                                scale);
    };
  }
};
INSTANTIATE_TEST_SUITE_P(, SliceKernel, kEveryKernel, kernel_name);

// Each takes as long as all the others together: the sanitizers, which look for "Kernel", go
// without.
class HardSlices : public SliceKernel {};
INSTANTIATE_TEST_SUITE_P(, HardSlices, kEveryKernel, kernel_name);

TEST_P(SliceKernel, EqualsTheFormula) { check_slices(make()); }
TEST_P(HardSlices, HardRows) { check_hard_rows(cut(make()), kWithNumbers); }
TEST_P(HardSlices, HardRowsThatAreCapped) { check_hard_rows(cut(make()), kSlicedHead); }
TEST_P(HardSlices, HardRowsOfProbabilities) {
  check_hard_rows(cut(make()), kSlicedHeadOfProbabilities);
}
TEST_P(SliceKernel, FarLogits) { check_far_logits(make()); }
TEST_P(SliceKernel, SlicesOfNothing) { check_slices_of_nothing(make()); }
TEST_P(SliceKernel, ConfidentRows) { check_confident_slices(make(), dtype()); }
TEST_P(SliceKernel, SomeGradients) { check_some_gradients_of_slices(make()); }

// Out of range is what no slice has: each says so, and which row it is.
TEST_P(SliceKernel, ABadTargetIsFound) {
  for (Layout layout : kLayouts) {
    for (int64_t classes : {6, 99, 1000}) {
      for (int64_t bad : {int64_t{-1}, int64_t{-3}, classes, INT64_MAX, INT64_MIN}) {
        auto f = cut(make())(layout, kPlain, classes, 3);
        f.forward();
        f.target[f.rows() - 1] = bad;
        for (const auto& part : f.parts) {
          std::vector<double> numbers(part.numbers.size());
          int64_t found = kNoBadRow;
          for (const Partial& partial :
               f.solve(part.p, Forward{{}, nullptr, DType::kFloat, {}, {numbers.data()}}))
            found = std::max(found, partial.bad_row);
          EXPECT_EQ(found, f.rows() - 1) << layout << ", " << classes << " classes, " << bad;
        }
      }
    }
  }
}

}  // namespace
}  // namespace fused_ce
