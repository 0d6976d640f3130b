// SPDX-License-Identifier: BSD-3-Clause
#include "collectives.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/util/Exception.h>

#include <string>
#include <utility>

namespace fused_ce::parallel {
namespace {

// Boxed: torch has changed the C++ types of these operators' arguments, but not their schemas'.
template <class... Arguments>
at::Tensor call(const char* name, Arguments&&... arguments) {
  const auto op = c10::Dispatcher::singleton().findSchema({name, ""});
  TORCH_CHECK_NOT_IMPLEMENTED(op,
                              "fused_ce: this torch was built without torch.distributed: it has "
                              "no ",
                              name);
  torch::jit::Stack stack;
  (stack.emplace_back(std::forward<Arguments>(arguments)), ...);
  op->callBoxed(stack);
  return stack.front().toTensor();
}

at::Tensor wait(const at::Tensor& result) { return call("_c10d_functional::wait_tensor", result); }

}  // namespace

at::Tensor all_gather(const at::Tensor& own, int64_t size, const std::string& group) {
  return wait(
      call("_c10d_functional::all_gather_into_tensor", own.unsqueeze(0).contiguous(), size, group));
}

at::Tensor all_sum(const at::Tensor& own, const std::string& group) {
  return wait(call("_c10d_functional::all_reduce", own, std::string("sum"), group));
}

at::Tensor all_max(const at::Tensor& own, const std::string& group) {
  return wait(call("_c10d_functional::all_reduce", own, std::string("max"), group));
}

}  // namespace fused_ce::parallel
