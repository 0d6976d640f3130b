// SPDX-License-Identifier: BSD-3-Clause
// What the CUDA kernels read of logits: each page of a row that counts, and nothing of one that
// does not.
#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "cuda_fixture.h"
#include "page_reads.h"

namespace fused_ce {
namespace {

using namespace testing;  // fused_ce::testing

using CudaReads = CudaKernel;
INSTANTIATE_TEST_SUITE_P(, CudaReads,
                         ::testing::Combine(::testing::Values(kSchedules[2]),
                                            ::testing::ValuesIn(kDTypes)),
                         cuda_kernel_name);

// Every row begins with a page. A small team a row, a warp, a block, slices.
TEST_P(CudaReads, NothingOfIgnoredRows) {
  const int64_t size = size_of(dtype()), page = sysconf(_SC_PAGESIZE);
  for (int64_t classes :
       {classes_of_small_teams(dtype()), int64_t{300}, int64_t{1030}, int64_t{16384}}) {
    const int64_t rows = classes > 1030 ? 5 : 70;
    const int64_t row_bytes = (classes * size + page - 1) / page * page;
    for (const Options& options : {kPlain, kSmoothed, kEntropy}) {
      for (int64_t counting : {0, 1}) {
        SCOPED_TRACE(::testing::Message() << classes << " classes, " << options << ", " << counting
                                          << " rows that count");
        CudaFixture f(dtype(), Layout::kRows, options, {rows, classes, 1}, 1);
        PageReads memory(rows * row_bytes);
        for (int64_t row = 0; row < rows; ++row) {
          std::memcpy(static_cast<char*>(memory.data()) + row * row_bytes,
                      static_cast<char*>(f.logits.data()) + row * classes * size, classes * size);
          f.target[row] = counting == 1 && row == rows / 2 ? 0 : f.p.ignore_index;
        }
        const Strides dense = f.p.logits_strides;
        f.p.logits = memory.data();
        f.p.logits_strides.outer = row_bytes / size;
        Backward out = f.backward_out();
        out.grad_strides = dense;
        Partial sum{};
        // No more pages than are unlocked at once: each counts once.
        const int64_t expected = counting * (row_bytes / page);
        EXPECT_EQ(memory.of([&] { sum = f.forward(); }), expected);
        EXPECT_EQ(memory.of([&] { f.backward(out); }), expected);
        f.p.logits = f.logits.data();
        f.p.logits_strides = dense;
        f.check({sum});
        if (HasFailure()) return;
      }
    }
  }
}

// As many as share what they read: a warp's rows of few classes.
constexpr int64_t kTogether = 32;

// The pages that the logits of the first rows lie in.
int64_t pages_of_first_rows(const CudaFixture& f) {
  std::set<int64_t> pages;
  for (int64_t row = 0; row < kTogether; ++row) {
    for (int64_t c = 0; c < f.p.classes; ++c) {
      const int64_t byte = at(f.p, f.p.logits_strides, row, c) * size_of(f.p.dtype);
      pages.insert(byte / sysconf(_SC_PAGESIZE));
    }
  }
  return static_cast<int64_t>(pages.size());
}

// The first rows count, and no other. Some thousands of rows: planes of several pages.
TEST_P(CudaReads, NoneOfIgnoredRows) {
  const int64_t inner = 3 * 4096 / size_of(dtype());
  const Shape shapes[] = {{2, 13, inner}, {2, 13, inner + 1}, {2001, 5, 1}, {1001, 31, 1}};
  for (const Shape& s : shapes) {
    for (const Options& options : {kPlain, kWeightedSmoothed, kEntropy}) {
      SCOPED_TRACE(::testing::Message()
                   << s.classes << " classes, inner " << s.inner << ", " << options);
      CudaFixture f(dtype(), s.inner > 1 ? Layout::kPlanes : Layout::kRows, options, s, 1);
      for (int64_t row = 0; row < f.rows(); ++row) f.target[row] = row < kTogether ? 0 : 1;
      PageReads memory(f.logits.size() * size_of(dtype()));
      std::memcpy(memory.data(), f.logits.data(), f.logits.size() * size_of(dtype()));
      f.p.logits = memory.data();
      const int64_t pages = pages_of_first_rows(f);
      ASSERT_LT(pages, memory.pages());
      Partial sum;
      EXPECT_EQ(memory.of([&] { sum = f.forward(); }), pages);
      EXPECT_EQ(memory.of([&] { f.backward(); }), pages);
      f.check({sum});
      if (HasFailure()) return;
    }
  }
}

// But for a prediction.
TEST_P(CudaReads, AllForPredictions) {
  for (const Shape& s : {Shape{2, 5, 2048}, Shape{2001, 5, 1}}) {
    CudaFixture f(dtype(), s.inner > 1 ? Layout::kPlanes : Layout::kRows, kPrediction, s, 1);
    for (int64_t& y : f.target) y = f.p.ignore_index;
    PageReads memory(f.logits.size() * size_of(dtype()));
    std::memcpy(memory.data(), f.logits.data(), f.logits.size() * size_of(dtype()));
    f.p.logits = memory.data();
    Partial sum;
    EXPECT_GE(memory.of([&] { sum = f.forward(); }), memory.pages());
    EXPECT_EQ(memory.of([&] { f.backward(); }), 0);
    f.check({sum});
  }
}

}  // namespace
}  // namespace fused_ce
