#include "composite.h"

#include "arguments.h"
#include "autocast.h"
#include "direct.h"

namespace fused_ce::composite {

at::Tensor cross_entropy(const Call& call) {
  if (std::optional<at::Tensor> loss = direct(call)) return *std::move(loss);
  // Below vmap and its kin, autocast's turn comes after the operators have fallen apart.
  return autocast::is_enabled(call) ? autocast::cross_entropy(call)
                                    : dispatched(call, std::nullopt);
}

at::Tensor dispatched(const Call& call, std::optional<at::ScalarType> dtype) {
  check_forward(call, dtype);
  // Whether backward needs anything is asked where the tensors of each level are seen:
  // autograd.cpp.
  return ops::forward(call, dtype, /*save=*/false).loss;
}

}  // namespace fused_ce::composite
