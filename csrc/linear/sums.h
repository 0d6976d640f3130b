// SPDX-License-Identifier: BSD-3-Clause
// The sums that a layer's gradients are, over chunks of rows whose logits there are at a time.
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include "../allocate.h"
#include "chunks.h"
#include "part.h"
#include "products.h"

namespace fused_ce::linear {

// torch's products, and nobody who would record them or change their types.
struct PlainProducts {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  const c10::impl::ExcludeDispatchKeyGuard no_autocast{c10::autocast_dispatch_keyset};
};

// In the accumulate type.
class Sums {
 public:
  Sums(const Layer& layer, const Products& products, const Chunks& chunks, Needs needs);

  // `by_logits`: the gradient of a chunk's logits; `rows`: of the input, as products take them.
  void add(const at::Tensor& by_logits, const at::Tensor& rows, const Chunk& chunk);

  Layer take();

 private:
  const Products& products_;
  Needs needs_;
  Layer sums_;
  bool is_first_ = true;
};

// f(chunk, its rows of the input, their logits), which are computed in one and the same memory.
template <class F>
void for_logits(const Layer& layer, const Products& products, const Chunks& chunks, F f) {
  const at::Tensor memory =
      allocate({chunks.most_rows, layer.weight.size(0)}, layer.input, product_type(layer.input));
  for (const Chunk& chunk : chunks.chunks) {
    const at::Tensor rows = products.operand(chunk.of(layer.input));
    at::Tensor logits = part_of(memory, 0, 0, chunk.size);
    products.logits(rows, logits);
    f(chunk, rows, logits);
  }
}

}  // namespace fused_ce::linear
