// SPDX-License-Identifier: BSD-3-Clause
#include "allocate.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <c10/core/CPUAllocator.h>

#include "gradient_allocator.h"
#include "huge_pages.h"
#include "shapes.h"

namespace fused_ce {

at::Tensor allocate(at::IntArrayRef sizes, const at::Tensor& self, at::ScalarType dtype) {
  if (!self.is_cpu()) return at::empty(sizes, self.options().dtype(dtype));
  at::Tensor result(at::detail::empty_cpu(sizes, dtype));
  advise_huge_pages(result.mutable_data_ptr(), result.nbytes());
  return result;
}

SavedNumbers allocate_saved(at::IntArrayRef sizes, const at::Tensor& self, at::ScalarType dtype) {
  if (!self.is_cpu()) return {allocate(sizes, self, dtype), allocate({}, self, at::kDouble)};
  constexpr size_t kUnit = sizeof(double);
  const size_t bytes = static_cast<size_t>(sizes[0] * sizes[1]) * c10::elementSize(dtype);
  const size_t total_at = (bytes + kUnit - 1) / kUnit;
  c10::Storage storage(c10::Storage::use_byte_size_t(), (total_at + 1) * kUnit,
                       c10::GetCPUAllocator(), /*resizable=*/true);
  advise_huge_pages(storage.mutable_data(), bytes);
  const auto tensor = [&](at::ScalarType type, at::IntArrayRef shape) {
    at::Tensor result = at::detail::make_tensor<c10::TensorImpl>(
        c10::Storage(storage), c10::DispatchKeySet(c10::DispatchKey::CPU),
        c10::scalarTypeToTypeMeta(type));
    result.unsafeGetTensorImpl()->set_sizes_contiguous(shape);
    return result;
  };
  SavedNumbers numbers{tensor(dtype, sizes), tensor(at::kDouble, {})};
  numbers.total_weight.unsafeGetTensorImpl()->set_storage_offset(static_cast<int64_t>(total_at));
  return numbers;
}

at::Tensor allocate_gradient_like(const at::Tensor& self) {
  const auto strides = gradient_strides(self);
  const at::ScalarType dtype = self.scalar_type();
  if (!self.is_cpu()) {
    return strides
               ? at::empty_strided(self.sizes(), C10_AS_INTARRAYREF_SLOW(*strides), self.options())
               : at::empty(self.sizes(), self.options());
  }
  constexpr c10::DispatchKeySet kKeys(c10::DispatchKey::CPU);
  c10::Allocator* const allocator = gradient_allocator(self.nbytes());
  at::Tensor result(
      strides ? at::detail::empty_strided_generic(self.sizes(), C10_AS_INTARRAYREF_SLOW(*strides),
                                                  allocator, kKeys, dtype)
              : at::detail::empty_generic(self.sizes(), allocator, kKeys, dtype, std::nullopt));
  // What is kept was advised on when it was mapped.
  if (allocator == c10::GetCPUAllocator())
    advise_huge_pages(result.mutable_data_ptr(), result.nbytes());
  return result;
}

}  // namespace fused_ce
