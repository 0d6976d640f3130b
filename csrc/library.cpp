// SPDX-License-Identifier: BSD-3-Clause
// The operators' schemas, and the table of what answers for which dispatch key.
#include <torch/library.h>

#include <string>
#include <vector>

#include "autocast.h"
#include "autograd.h"
#include "composite.h"
#include "device.h"
#include "linear/library.h"
#include "loaded_twice.h"
#include "meta.h"
#include "parallel/library.h"
#include "unboxed.h"

namespace fused_ce {
namespace {

using c10::DispatchKey;

// cross_entropy has exactly the arguments of aten::cross_entropy_loss; the private operators are
// what a graph of the public ones consists of (ops.h says what they take and return).
void define(torch::Library& m) {
  const auto def = [&](const std::string& schema) {
    m.def(torch::schema(schema.c_str()), {at::Tag::pt2_compliant_tag});
  };
  const std::string loss = kLossSchema;
  const std::string head = std::string(kLogitSchema) + ", bool in_place=False, " + kOutputSchema;
  const std::string options = loss + ", " + head;
  const std::string tensors = "Tensor self, Tensor target, Tensor? weight=None, ";
  const std::string more =
      "Tensor? row_weight=None, Tensor? normalizer=None, ScalarType? dtype=None, ";
  const std::string results =
      "Tensor loss, Tensor z_loss, Tensor lse, Tensor entropy, Tensor prediction, "
      "Tensor confidence";
  def("cross_entropy(" + tensors + loss + ") -> Tensor");
  def("cross_entropy_stats(" + tensors + loss + ", *, " + more + head + ") -> (" + results + ")");
  def("predict(Tensor self, *, float logit_scale=1.0, float? softcap=None, float temperature=1.0) "
      "-> (Tensor prediction, Tensor confidence, Tensor lse, Tensor entropy)");
  def("_forward(" + tensors + more + "bool save=False, " + options + ") -> (" + results +
      ", Tensor saved, Tensor total_weight)");
  const auto backward = [&](const std::string& self) {
    return "(Tensor? grad_loss, Tensor? grad_z_loss, Tensor? grad_lse, Tensor? grad_entropy, " +
           self +
           ", Tensor target, Tensor? weight, Tensor? row_weight, Tensor saved, "
           "Tensor total_weight, " +
           options + ")";
  };
  def("_backward" + backward("Tensor self") + " -> Tensor");
  def("_backward_" + backward("Tensor(a!) self") + " -> ()");
  linear::define(def);
  parallel::define(def);
}

template <ops::ForwardFunction* forward, ops::BackwardFunction* backward,
          ops::InPlaceFunction* backward_>
void implement(torch::Library& m) {
  m.impl("_forward", Unboxed::forward<forward>);
  m.impl("_backward", Unboxed::backward<ops::BackwardFunction, backward>);
  m.impl("_backward_", Unboxed::backward<ops::InPlaceFunction, backward_>);
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
    // vmap takes no composite kernel for the answer unless it is registered with it as well.
    for (const DispatchKey key :
         {DispatchKey::CompositeImplicitAutograd, DispatchKey::FuncTorchBatchedDecomposition}) {
      torch::Library& m = impl(key, __LINE__);
      m.impl("cross_entropy", Unboxed::cross_entropy<composite::cross_entropy>);
      m.impl("cross_entropy_stats", Unboxed::cross_entropy_stats<composite::cross_entropy_stats>);
      m.impl("predict", Unboxed::predict<composite::predict>);
      linear::implement_composite(m);
    }
    parallel::implement_composite(impl(DispatchKey::CompositeImplicitAutograd, __LINE__));
    for (const DispatchKey key : {DispatchKey::AutocastCPU, DispatchKey::AutocastCUDA}) {
      torch::Library& m = impl(key, __LINE__);
      m.impl("cross_entropy", Unboxed::cross_entropy<autocast::cross_entropy>);
      m.impl("cross_entropy_stats", Unboxed::cross_entropy_stats<autocast::cross_entropy_stats>);
      linear::implement_autocast(m);
    }
    torch::Library& graph = impl(DispatchKey::Autograd, __LINE__);
    implement<autograd::forward, autograd::backward, autograd::backward_>(graph);
    linear::implement_autograd(graph);
    impl(DispatchKey::ADInplaceOrView, __LINE__)
        .impl("_backward_", Unboxed::backward<ops::InPlaceFunction, autograd::overwrite>);
    torch::Library& shapes = impl(DispatchKey::Meta, __LINE__);
    implement<meta::forward, meta::backward, meta::backward_>(shapes);
    linear::implement_meta(shapes);
    parallel::implement_meta(shapes);
    for (const DispatchKey key : {DispatchKey::CPU, DispatchKey::CUDA}) {
      torch::Library& m = impl(key, __LINE__);
      implement<device::forward, device::backward, device::backward_>(m);
      linear::implement_device(m);
      parallel::implement_device(m);
    }
  }
};

const Registrations kRegistrations;

}  // namespace
}  // namespace fused_ce
