// SPDX-License-Identifier: BSD-3-Clause
#include "shapes.h"

#include <c10/core/SymBool.h>

#include <utility>

namespace fused_ce {
namespace {

using Order = c10::SmallVector<int64_t, 8>;  // of dimensions, outermost first

c10::SymDimVector dense_strides(c10::SymIntArrayRef sizes, const Order& order) {
  c10::SymDimVector strides(sizes.size(), 1);
  c10::SymInt step = 1;
  for (size_t i = order.size(); i-- > 0;) {
    strides[order[i]] = step;
    step *= sizes[order[i]].max(1);
  }
  return strides;
}

// Whether the tensor has these strides, where a stride tells anything. What a trace does not know
// of a size is no: the answer for another layout is as good.
bool has_strides(const at::Tensor& self, const c10::SymDimVector& strides) {
  const c10::SymIntArrayRef sizes = self.sym_sizes(), own = self.sym_strides();
  for (size_t d = 0; d < sizes.size(); ++d) {
    if (TORCH_GUARD_OR_FALSE(own[d].sym_eq(strides[d]))) continue;
    if (!TORCH_GUARD_OR_FALSE(sizes[d].sym_eq(1))) return false;
  }
  return true;
}

}  // namespace

c10::SymDimVector row_shape(const at::Tensor& self) {
  c10::SymDimVector shape(self.sym_sizes().begin(), self.sym_sizes().end());
  shape.erase(shape.begin() + class_dim(self));
  return shape;
}

c10::SymDimVector loss_shape(const Call& call) {
  return call.options.by_row() ? row_shape(call.self) : c10::SymDimVector{};
}

c10::SymInt row_count(const at::Tensor& self) {
  c10::SymInt count = 1;
  for (const c10::SymInt& size : row_shape(self)) count *= size;
  return count;
}

std::optional<c10::SymDimVector> gradient_strides(const at::Tensor& self) {
  if (self.dim() < 2 || TORCH_GUARD_OR_FALSE(self.sym_is_contiguous())) return std::nullopt;
  Order first(self.dim());
  for (size_t d = 0; d < first.size(); ++d) first[d] = static_cast<int64_t>(d);
  Order last = first;
  std::swap(first[0], first[1]);
  last.erase(last.begin() + 1);
  last.push_back(1);
  for (const Order& order : {last, first}) {
    c10::SymDimVector strides = dense_strides(self.sym_sizes(), order);
    if (has_strides(self, strides)) return strides;
  }
  return std::nullopt;
}

}  // namespace fused_ce
