// SPDX-License-Identifier: BSD-3-Clause
#include "gradient_allocator.h"

#include <c10/core/CPUAllocator.h>

#include "kept_memory.h"

namespace fused_ce {
namespace {

// The storages know it, and come back to be resized, so it serves any size. Reports to torch's
// profiler as torch's own allocator does.
class GradientAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    void* start = bytes < kSmallestKept ? nullptr : take_block(bytes);
    if (start == nullptr) return c10::GetCPUAllocator()->allocate(bytes);  // or its exception
    c10::profiledCPUMemoryReporter().New(start, bytes);
    return {start, start, &free, c10::Device(c10::DeviceType::CPU)};
  }

  void copy_data(void* destination, const void* source, size_t bytes) const override {
    default_copy_data(destination, source, bytes);
  }

 private:
  static void free(void* start) {
    c10::profiledCPUMemoryReporter().Delete(start);
    give_block(start);
  }
};

}  // namespace

c10::Allocator* gradient_allocator(size_t bytes) {
  static auto* const kAllocator = new GradientAllocator;  // storages outlive static destructors
  return bytes >= kSmallestKept && keeps_memory() ? kAllocator : c10::GetCPUAllocator();
}

}  // namespace fused_ce
