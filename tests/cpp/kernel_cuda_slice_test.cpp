// SPDX-License-Identifier: BSD-3-Clause
// Slices of the classes by the CUDA kernels, executed on the CPU.
#include "cuda_fixture.h"
#include "slices.h"

namespace fused_ce {
namespace {

using namespace testing;  // fused_ce::testing

class CudaSliceKernel : public CudaKernel {
 protected:
  auto make() const {
    return [this](Layout layout, const Options& options, const Shape& shape, const Sizes& sizes,
                  double scale) {
      return Sliced<CudaFixture>(layout, sizes, dtype(), layout, options, shape, scale);
    };
  }
};
INSTANTIATE_TEST_SUITE_P(, CudaSliceKernel,
                         ::testing::Combine(::testing::ValuesIn(kSchedules),
                                            ::testing::ValuesIn(kDTypes)),
                         cuda_kernel_name);

// Under one schedule: each takes as long as all the others together. As HardSlices.
class CudaHardSlices : public CudaSliceKernel {};
INSTANTIATE_TEST_SUITE_P(, CudaHardSlices,
                         ::testing::Combine(::testing::Values(kSchedules[2]),
                                            ::testing::ValuesIn(kDTypes)),
                         cuda_kernel_name);

TEST_P(CudaSliceKernel, EqualsTheFormula) { check_slices(make()); }
TEST_P(CudaHardSlices, HardRows) { check_hard_rows(cut(make()), kWithNumbers); }
TEST_P(CudaHardSlices, HardRowsThatAreCapped) { check_hard_rows(cut(make()), kSlicedHead); }
TEST_P(CudaHardSlices, HardRowsOfProbabilities) {
  check_hard_rows(cut(make()), kSlicedHeadOfProbabilities);
}
TEST_P(CudaSliceKernel, FarLogits) { check_far_logits(make()); }
TEST_P(CudaSliceKernel, SlicesOfNothing) { check_slices_of_nothing(make()); }
TEST_P(CudaSliceKernel, ConfidentRows) { check_confident_slices(make(), dtype()); }
TEST_P(CudaSliceKernel, SomeGradients) { check_some_gradients_of_slices(make()); }

// Slices so long that blocks share a row.
TEST_P(CudaSliceKernel, LongRows) {
  for (const Options& options :
       {kPlain, kWeightedSmoothed, kWithNumbers, kSlicedHead, kSlicedHeadOfProbabilities}) {
    for (const Sizes& sizes : {Sizes{3, 16384}, Sizes{24581, 16400}}) {
      SCOPED_TRACE(::testing::Message()
                   << ::testing::PrintToString(sizes) << " classes, " << options);
      auto f = make()(Layout::kRows, options, {2, total(sizes), 1}, sizes, 3);
      f.run_and_check();
      if (HasFailure()) return;
    }
  }
}

// Out of range is what no slice has.
TEST_P(CudaSliceKernel, ABadTargetTripsAnAssertion) {
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (int64_t classes : {6, 99, 60000}) {
      if (is_slow(layout, classes)) continue;
      for (int64_t bad : {int64_t{-1}, int64_t{-3}, classes, INT64_MAX, INT64_MIN}) {
        auto f = cut(make())(layout, kPlain, classes, 3);
        f.forward();
        f.target[f.rows() - 1] = bad;
        for (const decltype(f)::Part& part : f.parts) {
          std::vector<double> numbers(part.numbers.size());
          f.solve(part.p, Forward{{}, nullptr, DType::kFloat, {}, {numbers.data()}});
          EXPECT_NE(simt::error().find("Target is out of bounds"), std::string::npos)
              << simt::error();
          simt::clear_error();
        }
      }
    }
  }
}

}  // namespace
}  // namespace fused_ce
