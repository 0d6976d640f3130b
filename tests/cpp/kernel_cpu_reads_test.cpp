// SPDX-License-Identifier: BSD-3-Clause
// How often the CPU kernels read the logits, at each instruction set that this machine has.
#include <cstring>

#include "cpu_fixture.h"
#include "page_reads.h"

namespace fused_ce {
namespace {

using namespace testing;  // fused_ce::testing

using CpuReads = Kernel;
INSTANTIATE_TEST_SUITE_P(, CpuReads, kEveryKernel, kernel_name);

struct Reads {
  double forward, backward;  // of the logits
};

Reads reads_of(CpuFixture& f) {
  const int64_t bytes = f.logits.size() * size_of(f.p.dtype);
  PageReads memory(bytes);
  std::memcpy(memory.data(), f.logits.data(), bytes);
  f.p.logits = memory.data();
  const auto pages = static_cast<double>(memory.pages());
  Reads reads{};
  reads.forward = static_cast<double>(memory.of([&] { f.forward(); })) / pages;
  reads.backward = static_cast<double>(memory.of([&] { f.backward(); })) / pages;
  f.p.logits = f.logits.data();
  return reads;
}

// Some hundreds of pages: rows, and planes of a tile's length, so that a page is read by one tile.
Shape many_pages(Layout layout, int64_t classes) {
  constexpr int64_t kElements = 1 << 20;
  if (layout == Layout::kRows) return {kElements / classes, classes, 1};
  return {kElements / classes / 512, classes, 512};
}

// What else is read: the targets' logits, and pages that two tasks or tiles share.
constexpr double kMore = 1.5;

// Logits that are made before a loop reads them come by tiles that caches hold. Backward reads them
// again while they are there; and of planes a strip at a time, of which pages tell nothing.
bool is_staged(const Options& options, DType dtype) {
  return options.cap > 0 || (options.asked.entropy && size_of(dtype) == 2);
}

TEST_P(CpuReads, OnceForwardAndBackward) {
  for (auto [layout, classes] : {std::pair{Layout::kRows, 10},
                                 {Layout::kRows, 100},
                                 {Layout::kRows, 1000},
                                 {Layout::kRows, 32768},
                                 {Layout::kPlanes, 64},
                                 {Layout::kPlanes, 500}}) {
    for (const Options& options :
         {kPlain, kSmoothed, kScaled, kCapped, kLse, kEntropy, kStatistics, kHead}) {
      const bool staged = is_staged(options, dtype());
      if (staged && layout == Layout::kPlanes) continue;
      SCOPED_TRACE(::testing::Message() << classes << " classes, " << layout << ", " << options);
      CpuFixture f(capability(), dtype(), layout, options, many_pages(layout, classes), 1);
      const auto [forward, backward] = reads_of(f);
      EXPECT_GE(forward, 1);
      EXPECT_LE(forward, kMore);
      EXPECT_GE(backward, 1);
      EXPECT_LE(backward, staged ? 1 + kMore : kMore);
    }
  }
}

// Rows whose largest logit is the last class's, and too far above the others for any guess: at most
// added up, looked through for the largest, and added up again.
TEST_P(CpuReads, AgainWhereTheGuessWasBad) {
  for (auto [layout, classes] : {std::pair{Layout::kRows, 32768}, {Layout::kPlanes, 500}}) {
    for (const Options& options : {kPlain, kSmoothed, kStatistics}) {
      if (is_staged(options, dtype())) continue;
      SCOPED_TRACE(::testing::Message() << classes << " classes, " << layout << ", " << options);
      CpuFixture f(capability(), dtype(), layout, options, many_pages(layout, classes), 1);
      for (int64_t row = 0; row < f.rows(); ++row) {
        f.logits.set(at(f.p, f.p.logits_strides, row, classes - 1), 1000);
        f.target[row] = 0;
      }
      const auto [forward, backward] = reads_of(f);
      EXPECT_LE(forward, 2 + kMore);
      EXPECT_LE(backward, kMore);
    }
  }
}

}  // namespace
}  // namespace fused_ce
