#include "gradient_storage.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ExpandUtils.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/CPUAllocator.h>

#include "huge_pages.h"
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

// Never destroyed: storages outlive static destructors.
c10::Allocator* allocator() {
  static auto* const kAllocator = new GradientAllocator;
  return kAllocator;
}

}  // namespace

at::Tensor gradient_like(const at::Tensor& self, at::MemoryFormat memory_format) {
  if (!self.is_cpu()) return at::empty_like(self, memory_format);
  if (self.nbytes() < kSmallestKept || !keeps_memory()) {
    const at::Tensor result = at::empty_like(self, memory_format);
    advise_huge_pages(result.data_ptr(), result.nbytes());
    return result;
  }
  constexpr c10::DispatchKeySet kKeys(c10::DispatchKey::CPU);
  const at::ScalarType dtype = self.scalar_type();
  if (memory_format != at::MemoryFormat::Preserve)
    return at::detail::empty_generic(self.sizes(), allocator(), kKeys, dtype, memory_format);
  if (self.is_non_overlapping_and_dense())
    return at::detail::empty_strided_generic(self.sizes(), self.strides(), allocator(), kKeys,
                                             dtype);
  const auto strides = at::infer_dense_strides(self.sizes(), self.strides());
  return at::detail::empty_strided_generic(self.sizes(), strides, allocator(), kKeys, dtype);
}

}  // namespace fused_ce
