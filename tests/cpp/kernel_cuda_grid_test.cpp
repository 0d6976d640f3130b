// SPDX-License-Identifier: BSD-3-Clause
// A forward is one launch of any grid: the same bits whichever block has which tile, and no more
// memory than it needs.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "cuda_fixture.h"

namespace fused_ce {
namespace {

using namespace testing;  // fused_ce::testing

using CudaGrid = CudaKernel;
INSTANTIATE_TEST_SUITE_P(, CudaGrid,
                         ::testing::Combine(::testing::ValuesIn(kSchedules),
                                            ::testing::ValuesIn(kDTypes)),
                         cuda_kernel_name);

// Several tiles, the last of them not full: a thread a row; neighbouring rows, by four and alone;
// a small team a row, a warp, a block; slices.
struct Case {
  Layout layout;
  Shape shape;
};
std::vector<Case> cases(DType dtype) {
  return {{Layout::kRows, {4 * 128 + 7, 3, 1}},
          {Layout::kPlanes, {3, 2, 700}},
          {Layout::kPlanes, {3, 2, 177}},
          {Layout::kRows, {4 * 32 + 5, classes_of_small_teams(dtype), 1}},
          {Layout::kRows, {4 * 8 + 5, 300, 1}},
          {Layout::kRows, {7, 1030, 1}},
          {Layout::kRows, {5, 16390, 1}}};
}
bool is_sliced(const Case& c) { return c.shape.classes > 16384; }

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.layout << " of " << c.shape.outer << " x " << c.shape.classes << " x "
             << c.shape.inner;
}

// Of one forward, in a grid of so many blocks.
struct Call {
  CudaFixture f;
  double loss = 0, z_loss = 0, weight = 0;

  Call(DType dtype, const Case& c, const Options& options, int multiprocessors, bool reduced)
      : f(dtype, c.layout, options, c.shape) {
    simt::set_multiprocessors(multiprocessors);
    simt::clear_launches();
    cuda::Totals totals{Reduction::kNone, nullptr, DType::kDouble, nullptr};
    if (reduced) totals = {Reduction::kMean, &loss, DType::kDouble, &weight, &z_loss};
    f.launch(f.p, f.forward_out(), totals);
    EXPECT_EQ(simt::error(), "");
  }

  // All that a forward leaves.
  std::vector<Array> results() const {
    Array sums(DType::kDouble, 3);
    sums.set(0, loss);
    sums.set(1, z_loss);
    sums.set(2, weight);
    return {f.loss, f.z_loss,         f.lse, f.entropy, f.confidence, f.reference,
            f.sum,  f.target_or_mass, sums};
  }
};

TEST_P(CudaGrid, TheSameBitsOfAnyGrid) {
  for (const Case& c : cases(dtype())) {
    for (const Options& options : {kZLoss, kHead, kWeightedSmoothedProbabilities}) {
      for (const bool reduced : {true, false}) {
        SCOPED_TRACE(::testing::Message() << c << ", " << options << ", reduced: " << reduced);
        const std::vector<Array> expected = Call(dtype(), c, options, 1, reduced).results();
        EXPECT_EQ(simt::launches().back().grid.x, 1u);
        unsigned grid = 1;
        for (int multiprocessors : {3, 16384}) {
          const std::vector<Array> results =
              Call(dtype(), c, options, multiprocessors, reduced).results();
          for (size_t i = 0; i < results.size(); ++i)
            ASSERT_TRUE(results[i].same_bits(expected[i])) << "result " << i;
          EXPECT_GT(simt::launches().back().grid.x, grid);
          grid = simt::launches().back().grid.x;
        }
        EXPECT_GT(grid, 3u);  // one a tile
      }
    }
  }
}

TEST_P(CudaGrid, LaunchesAndMemory) {
  for (const Case& c : cases(dtype())) {
    SCOPED_TRACE(::testing::Message() << c);
    for (const bool reduced : {true, false}) {
      const Call call(dtype(), c, kPlain, 3, reduced);
      EXPECT_EQ(simt::launches().size(), is_sliced(c) ? 2u : 1u);
      EXPECT_EQ(call.f.workspace.empty(), !reduced && !is_sliced(c));
    }
    Case few = c;
    few.shape.outer = 1;
    if (c.layout == Layout::kPlanes) few.shape.inner = 100;
    const Call call(dtype(), few, kPlain, 3, /*reduced=*/true);
    EXPECT_EQ(simt::launches().size(), is_sliced(c) ? 2u : 1u);
    EXPECT_EQ(call.f.workspace.empty(), !is_sliced(c));
  }
}

// What there is to write is written all the same.
TEST_P(CudaGrid, ProblemsOfNothing) {
  for (const Case& c : cases(dtype())) {
    SCOPED_TRACE(::testing::Message() << c);
    Case empty = c;
    empty.shape.outer = 0;
    Call call(dtype(), empty, kZLoss, 3, /*reduced=*/true);
    EXPECT_EQ(simt::launches().size(), 1u);
    EXPECT_TRUE(call.f.workspace.empty());
    EXPECT_TRUE(std::isnan(call.loss) && std::isnan(call.z_loss));
    Call(dtype(), empty, kZLoss, 3, /*reduced=*/false);
    EXPECT_TRUE(simt::launches().empty());
  }
}

// The total weight is there where it needs no sum: what a caller gave, or the number of rows.
TEST_P(CudaGrid, ATotalWeightThatIsNoSum) {
  for (const int multiprocessors : {1, 3, 16384}) {
    simt::set_multiprocessors(multiprocessors);
    const Shape shape{4 * 128 + 7, 3, 1};
    CudaFixture f(dtype(), Layout::kRows, kProbabilities, shape);
    double weight = 0;
    f.launch(f.p, f.forward_out(), {Reduction::kNone, nullptr, DType::kDouble, &weight});
    EXPECT_EQ(weight, static_cast<double>(shape.outer));
    const double normalizer = 2.5;
    double loss = 0, sum = 0;
    f.launch(f.p, f.forward_out(),
             {Reduction::kMean, &loss, DType::kDouble, &weight, nullptr, &normalizer});
    f.launch(f.p, f.forward_out(), {Reduction::kSum, &sum, DType::kDouble, nullptr});
    EXPECT_EQ(simt::error(), "");
    EXPECT_EQ(weight, normalizer);
    EXPECT_EQ(loss, sum / normalizer);
  }
}

// Rows whose sum is beyond float's largest number, though none of them is.
TEST_P(CudaGrid, ASumBeyondFloat) {
  const double most = size_of(dtype()) == 8 ? 1e300 : 1e38;
  for (const Case& c : cases(dtype())) {
    SCOPED_TRACE(::testing::Message() << c);
    CudaFixture f(dtype(), c.layout, kPlain, c.shape, 0.1);
    f.p.ignore_index = -100;
    f.set_row_weights([&](int64_t row) { return row < 100 ? most / 8 : 1; });
    const Partial sum = f.forward();
    long double expected = 0;
    for (int64_t row = 0; row < f.rows(); ++row) expected += f.loss.get(row);
    const auto loss = static_cast<double>(expected);
    ASSERT_NEAR(sum.loss, loss, 1e-12 * loss);
  }
}

// Such a sum's rest is NaN, and is left out.
TEST_P(CudaGrid, AnInfiniteRow) {
  for (const Case& c : cases(dtype())) {
    SCOPED_TRACE(::testing::Message() << c);
    CudaFixture f(dtype(), c.layout, kPlain, c.shape);
    f.p.ignore_index = -100;
    f.set_row_weights([&](int64_t row) { return row == 2 ? INFINITY : 1; });
    const double loss = f.forward().loss;
    ASSERT_TRUE(std::isinf(loss) && loss > 0) << loss;
  }
}

}  // namespace
}  // namespace fused_ce
