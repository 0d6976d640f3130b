// SPDX-License-Identifier: BSD-3-Clause
// The CUDA kernels on more memory and more rows than a block, or 31 bits, can count.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <vector>

#include "cuda_fixture.h"

namespace fused_ce {
namespace {

using namespace testing;  // fused_ce::testing

// Memory that costs nothing until it is touched, for offsets beyond 2^31 elements.
class Reserved {
 public:
  explicit Reserved(size_t bytes)
      : bytes_(bytes),
        data_(mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {}
  ~Reserved() { munmap(data_, bytes_); }
  char* data() { return static_cast<char*>(data_); }
  bool valid() const { return data_ != MAP_FAILED; }

 private:
  size_t bytes_;
  void* data_;
};

TEST_P(CudaKernel, OffsetsBeyond31Bits) {
  const int64_t far = (int64_t{1} << 31) + 4096;  // elements between two rows
  for (int64_t classes : {20, 100, 5000}) {
    CudaFixture f(dtype(), Layout::kRows, kPlain, {3, classes, 1});
    const size_t size = size_of(dtype()), row_bytes = classes * size;
    Reserved logits(3 * far * size), grad(3 * far * size);
    ASSERT_TRUE(logits.valid() && grad.valid());
    const auto* near_logits = static_cast<const char*>(f.p.logits);
    for (int64_t row = 0; row < 3; ++row)
      std::memcpy(logits.data() + row * far * size, near_logits + row * row_bytes, row_bytes);
    f.p.logits = logits.data();
    f.p.logits_strides.outer = far;
    const Partial sum = f.forward();
    Backward out = f.backward_out();
    out.grad_logits = grad.data();
    out.grad_strides.outer = far;
    f.backward(out);
    for (int64_t row = 0; row < 3; ++row) {
      std::memcpy(static_cast<char*>(f.grad.data()) + row * row_bytes,
                  grad.data() + row * far * size, row_bytes);
    }
    f.p.logits = near_logits;
    f.p.logits_strides.outer = classes;
    f.check({sum});
    if (HasFailure()) return;
  }
}

// Rows `f` that all share the memory of the one row of `one`, but not its target.
struct SharedRow {
  CudaFixture one, f;

  SharedRow(DType dtype, int64_t classes, int64_t rows)
      : one(dtype, Layout::kRows, kPlain, {1, classes, 1}),
        f(dtype, Layout::kRows, kPlain, {rows, 1, 1}) {
    f.p.classes = classes;
    f.p.ignore_index = one.p.ignore_index = -100;
    f.p.logits = one.p.logits;
    f.p.logits_strides = {0, 1, 0};
  }
};

// More rows than blocks, so that blocks take several: tiles and buffers are used again.
class CudaManyRows : public CudaKernel {};
INSTANTIATE_TEST_SUITE_P(, CudaManyRows,
                         ::testing::Values(std::make_tuple(kSchedules[0], DType::kFloat),
                                           std::make_tuple(kSchedules[1], DType::kFloat),
                                           std::make_tuple(kSchedules[2], DType::kFloat)));

TEST_P(CudaManyRows, TilesOfFewClasses) {
  CudaFixture f(dtype(), Layout::kRows, kPlain, {16384 * 128 + 77, 2, 1});
  f.run_and_check();
}

TEST_P(CudaManyRows, BlocksOfManyClasses) {
  const int64_t classes = 4100, rows = 16384 + 3;
  SharedRow shared(dtype(), classes, rows);
  auto& [one, f] = shared;
  std::vector<double> expected(classes);
  for (int64_t row = 0; row < rows; ++row) f.target[row] = row * 7 % classes;
  for (int64_t c = 0; c < classes; ++c) {
    one.target[0] = c;
    expected[c] = one.forward().loss;
  }
  f.forward();
  for (int64_t row = 0; row < rows; ++row) {
    const double loss = expected[f.target[row]];
    ASSERT_NEAR(f.loss.get(row), loss, 0x1p-23 * loss) << "row " << row;
  }
}

// Slices of which the first threads have nine vectors, of half types five: as OddVectors. Few
// rows count: those whose targets begin a slice, and others, all with exponentials that would be
// missed.
class CudaManySlices : public CudaKernel {};
INSTANTIATE_TEST_SUITE_P(, CudaManySlices,
                         ::testing::Values(std::make_tuple(kSchedules[0], DType::kFloat),
                                           std::make_tuple(kSchedules[1], DType::kHalf),
                                           std::make_tuple(kSchedules[2], DType::kBFloat16)));

TEST_P(CudaManySlices, OddVectors) {
  const int64_t classes = 32800, rows = 1025;
  SharedRow shared(dtype(), classes, rows);
  auto& [one, f] = shared;
  const auto counts = [](int64_t row) { return row % 128 == 0; };
  for (int64_t row = 0; row < rows; ++row) {
    f.target[row] = f.p.ignore_index;
    if (!counts(row)) continue;
    f.target[row] = std::min(row * classes / (rows - 1), classes - 1);
    one.logits.set(f.target[row], 10);
  }
  simt::clear_launches();
  f.forward();
  EXPECT_EQ(simt::launches().size(), 2u);
  for (int64_t row = 0; row < rows; ++row) {
    if (!counts(row)) continue;
    one.target[0] = f.target[row];
    EXPECT_TRUE(is_near(f.loss.get(row), expected_row(one, 0, {}).loss)) << "row " << row;
  }
}

// Under one schedule, for time.
class CudaManyBatches : public CudaKernel {};
INSTANTIATE_TEST_SUITE_P(, CudaManyBatches,
                         ::testing::Values(std::make_tuple(kSchedules[2], DType::kFloat)));

// So many that a tile has several batches of small teams' rows, or several of a block's planes.
TEST_P(CudaManyBatches, TilesOfShortRows) {
  CudaFixture f(dtype(), Layout::kRows, kPlain, {2 * 32 * 4096 + 45, 65, 1});
  f.run_and_check();
}
TEST_P(CudaManyBatches, TilesOfPlanes) {
  CudaFixture f(dtype(), Layout::kPlanes, kPlain, {1, 2, 2 * 512 * 4096 + 516});
  f.run_and_check();
}

// So many rows that a block has several batches of them in a tile. All share one row's memory, and
// few of them count.
TEST_P(CudaManyBatches, TilesOfSeveralBatches) {
  const int64_t classes = 4100, rows = 8 * 16384 + 3;
  SharedRow shared(dtype(), classes, rows);
  auto& [one, f] = shared;
  Partial expected{0, 0, kNoBadRow};
  for (int64_t row = 0; row < rows; ++row) {
    const bool counts = row % 1000 == 7 || row >= rows - 2;
    f.target[row] = counts ? row * 7 % classes : f.p.ignore_index;
    if (!counts) continue;
    one.target[0] = f.target[row];
    const Expected e = expected_row(one, 0, {});
    expected.loss += e.loss.value;
    ++expected.weight;
  }
  const Partial sum = f.forward();
  EXPECT_EQ(sum.weight, expected.weight);
  EXPECT_NEAR(sum.loss, expected.loss, 4 * epsilon(dtype()) * expected.loss);
}

}  // namespace
}  // namespace fused_ce
