// SPDX-License-Identifier: BSD-3-Clause
// What the CUDA kernels read of logits: each page of a row that counts, and nothing of one that
// does not.
#include <gtest/gtest.h>

#include <cstring>

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
  for (int64_t classes : {200, 300, 1030, 16384}) {
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

}  // namespace
}  // namespace fused_ce
