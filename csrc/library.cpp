// The operators' schemas, and the table of what answers for which dispatch key.
#include <torch/library.h>

#include <string>
#include <vector>

#include "autocast.h"
#include "autograd.h"
#include "composite.h"
#include "device.h"
#include "loaded_twice.h"
#include "meta.h"
#include "unboxed.h"

namespace fused_ce {
namespace {

using c10::DispatchKey;

// cross_entropy is the public operator, with exactly the arguments of aten::cross_entropy_loss; the
// two private ones are what a graph of it consists of (ops.h says what they take and return).
void define(torch::Library& m) {
  const auto def = [&](const std::string& schema) {
    m.def(torch::schema(schema.c_str()), {at::Tag::pt2_compliant_tag});
  };
  const std::string options = kOptionsSchema;
  def("cross_entropy(Tensor self, Tensor target, Tensor? weight=None, " + options + ") -> Tensor");
  def("_forward(Tensor self, Tensor target, Tensor? weight=None, ScalarType? dtype=None, bool "
      "save=False, " +
      options + ") -> (Tensor loss, Tensor saved, Tensor total_weight)");
  def("_backward(Tensor grad_output, Tensor self, Tensor target, Tensor? weight, Tensor saved, "
      "Tensor total_weight, " +
      options + ") -> Tensor");
}

template <ops::ForwardFunction* forward, ops::BackwardFunction* backward>
void implement(torch::Library& m) {
  m.impl("_forward", Unboxed::forward<forward>);
  m.impl("_backward", Unboxed::backward<backward>);
}

// What TORCH_LIBRARY would make: by hand, so that a second copy of this library in a process, which
// must not register anything, can leave it.
struct Registrations {
  std::vector<torch::Library> libraries;

  torch::Library& at(torch::Library::Kind kind, std::optional<DispatchKey> key, uint32_t line) {
    return libraries.emplace_back(kind, "fused_ce", key, __FILE__, line);
  }
  torch::Library& impl(DispatchKey key, uint32_t line) {
    return at(torch::Library::IMPL, key, line);
  }

  Registrations() {
    if (loaded_twice()) return;
    define(at(torch::Library::DEF, std::nullopt, __LINE__));
    impl(DispatchKey::CompositeImplicitAutograd, __LINE__)
        .impl("cross_entropy", Unboxed::cross_entropy<composite::cross_entropy>);
    // vmap takes no composite kernel for the answer unless it is registered with it as well.
    impl(DispatchKey::FuncTorchBatchedDecomposition, __LINE__)
        .impl("cross_entropy", Unboxed::cross_entropy<composite::cross_entropy>);
    impl(DispatchKey::AutocastCPU, __LINE__)
        .impl("cross_entropy", Unboxed::cross_entropy<autocast::cross_entropy>);
    impl(DispatchKey::AutocastCUDA, __LINE__)
        .impl("cross_entropy", Unboxed::cross_entropy<autocast::cross_entropy>);
    implement<autograd::forward, autograd::backward>(impl(DispatchKey::Autograd, __LINE__));
    implement<meta::forward, meta::backward>(impl(DispatchKey::Meta, __LINE__));
    implement<device::forward, device::backward>(impl(DispatchKey::CPU, __LINE__));
    implement<device::forward, device::backward>(impl(DispatchKey::CUDA, __LINE__));
  }
};

const Registrations kRegistrations;

}  // namespace
}  // namespace fused_ce
