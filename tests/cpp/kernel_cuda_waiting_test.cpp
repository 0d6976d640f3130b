// SPDX-License-Identifier: BSD-3-Clause
// Rows that wait together for their finish: batches that are just full, and those in which some
// rows have to be summed again.
#include <gtest/gtest.h>

#include <vector>

#include "cuda_fixture.h"

namespace fused_ce {
namespace {

using namespace testing;  // fused_ce::testing

using CudaWaiting = CudaKernel;
INSTANTIATE_TEST_SUITE_P(, CudaWaiting,
                         ::testing::Combine(::testing::ValuesIn(kSchedules),
                                            ::testing::ValuesIn(kDTypes)),
                         cuda_kernel_name);

// Two of three rows end in logits that no guess is near: too far above the target for an
// exponential, or above what a linear sum makes a guess of for its digits.
void spoil_guesses(ProblemFixture& f) {
  const bool linear = !f.indices() || f.p.label_smoothing > 0;
  f.p.ignore_index = -100;
  for (int64_t row = 0; row < f.rows(); ++row) {
    if (row % 3 == 1) continue;
    const double peak = (linear ? 40 : 800) + static_cast<double>(row % 7);  // no two alike
    f.logits.set(at(f.p, f.p.logits_strides, row, f.p.classes - 1), peak);
    f.logits.set(at(f.p, f.p.logits_strides, row, f.p.classes - 2), peak - 0.7);
    f.target[row] = 0;
  }
}

// A small team a row, a warp, a block, and slices; as many rows as one batch has, or two, or one
// row less or more. A block's last warp is who sees the last classes, where the largest logit is
// sought: from last to first, it is the first to come to the next row.
struct Teams {
  int64_t classes;
  std::vector<int64_t> rows;
};
std::vector<Teams> teams(DType dtype) {
  return {{classes_of_small_teams(dtype), {31, 32, 33, 65}},
          {300, {7, 8, 9, 31, 32, 33}},
          {1270, {7, 8, 9, 17}},
          {16634, {7, 8, 9}}};
}

TEST_P(CudaWaiting, BatchesThatAreJustFull) {
  for (const auto& [classes, counts] : teams(dtype())) {
    for (int64_t rows : counts) {
      for (int multiprocessors : {1, 2, 3}) {
        SCOPED_TRACE(::testing::Message() << rows << " x " << classes << ", " << multiprocessors);
        simt::set_multiprocessors(multiprocessors);
        CudaFixture f(dtype(), Layout::kRows, kPlain, {rows, classes, 1}, 1);
        const Partial sum = f.forward();
        f.backward();
        f.check({sum});
        if (HasFailure()) return;
      }
      if (classes > 16384) break;  // for time: what is above is the same of slices
    }
  }
}

TEST_P(CudaWaiting, SomeRowsAreSummedAgain) {
  for (const auto& [classes, counts] : teams(dtype())) {
    for (const Options& options :
         {kPlain, kWeightedSmoothed, kProbabilities, kStatistics, kHeadOfProbabilities}) {
      const int64_t rows = counts.back();
      SCOPED_TRACE(::testing::Message() << rows << " x " << classes << ", " << options);
      simt::set_multiprocessors(1);
      CudaFixture f(dtype(), Layout::kRows, options, {rows, classes, 1}, 1);
      spoil_guesses(f);
      f.run_and_check();
      if (HasFailure()) return;
    }
  }
}

}  // namespace
}  // namespace fused_ce
