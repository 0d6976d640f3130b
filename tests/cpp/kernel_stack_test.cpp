// SPDX-License-Identifier: BSD-3-Clause
// How much of its caller's stack a CPU kernel takes: a program's own threads may have 64 KB of it.
#include <gtest/gtest.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/mman.h>

#include <cstring>
#include <functional>
#include <string>
#include <thread>

#include "cpu_fixture.h"
#include "kernels/cpu/scratch.h"

namespace fused_ce {
namespace {

using namespace testing;  // fused_ce::testing

// A thread whose stack is painted before: what has another colour afterwards was in use.
class PaintedThread {
 public:
  PaintedThread()
      : stack_(static_cast<unsigned char*>(
            mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {
    pthread_attr_init(&attributes_);
    pthread_attr_setstack(&attributes_, stack_, kBytes);
  }
  ~PaintedThread() {
    pthread_attr_destroy(&attributes_);
    munmap(stack_, kBytes);
  }
  PaintedThread(const PaintedThread&) = delete;

  // The bytes of stack below its caller that f took.
  size_t depth_of(std::function<void()> f) {
    memset(stack_, kColour, kBytes);
    f_ = std::move(f);
    pthread_t thread;
    if (pthread_create(&thread, &attributes_, start, this) != 0) return kBytes;
    pthread_join(thread, nullptr);
    const unsigned char* lowest = stack_;
    while (lowest < caller_ && *lowest == kColour) ++lowest;
    return caller_ - lowest;
  }

 private:
  static constexpr size_t kBytes = size_t{1} << 20;  // so that too deep a kernel is a failed test
  static constexpr unsigned char kColour = 0xa5;

  static void* start(void* self) {
    auto* const that = static_cast<PaintedThread*>(self);
    that->caller_ = static_cast<const unsigned char*>(__builtin_frame_address(0));
    that->f_();
    return nullptr;
  }

  unsigned char* const stack_;
  pthread_attr_t attributes_;
  std::function<void()> f_;
  const unsigned char* caller_ = nullptr;
};

class KernelStack : public Kernel {};
INSTANTIATE_TEST_SUITE_P(, KernelStack, kEveryKernel, kernel_name);

// Every loop, at its first call on a thread: few and flat, rows in batches and one by one, planes;
// as they lie in memory and gathered.
TEST_P(KernelStack, IsShallow) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's frames are larger";
#endif
  constexpr size_t kMost = 16384;  // a quarter of a small thread
  PaintedThread thread;
  size_t deepest = 0;
  std::string where;
  const auto measure = [&](const std::string& what, std::function<void()> kernel) {
    const size_t depth = thread.depth_of(std::move(kernel));
    if (depth > deepest) deepest = depth, where = what;
  };
  for (Layout layout : {Layout::kRows, Layout::kPadded, Layout::kPlanes, Layout::kStridedPlanes}) {
    for (const Options& options : {kPlain, kWeightedSmoothed, kWeightedSmoothedProbabilities}) {
      for (int64_t classes : {1, 10, 128, 200, 3000}) {
        CpuFixture f(capability(), dtype(), layout, options, shape_of(layout, classes));
        // A maximum for which the sums are done again.
        if (options.targets == TargetKind::kInt64 && options.smoothing > 0 && classes > 1)
          f.set_late_maximum_of_smoothed();
        const Backward out = f.backward_out();
        std::vector<Partial> partials(f.kernels.forward_tasks(f.p));
        const ::testing::Message problem = ::testing::Message()
                                           << classes << " classes, " << layout << ", " << options;
        const std::string what = " of " + problem.GetString();
        measure("forward" + what, [&] {
          f.kernels.forward(f.p, f.forward_out(), 0, static_cast<int64_t>(partials.size()),
                            partials.data());
        });
        measure("backward" + what, [&] {
          f.kernels.backward(f.p, out, 0, f.kernels.backward_tasks(f.p, out), /*streamed=*/false);
        });
      }
    }
  }
  EXPECT_LE(deepest, kMost) << where;
}

TEST(Scratch, IsOneBlockAThread) {
  void* const small = cpu::scratch(1000);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(small) % 64, 0u);
  EXPECT_EQ(cpu::scratch(1000), small);
  EXPECT_EQ(cpu::scratch(10), small);
  constexpr size_t kMore = size_t{1} << 20;
  void* const large = cpu::scratch(kMore);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(large) % 64, 0u);
  memset(large, 0, kMore);
  EXPECT_EQ(cpu::scratch(1000), large);
  std::thread([large] { EXPECT_NE(cpu::scratch(1000), large); }).join();
}

}  // namespace
}  // namespace fused_ce
