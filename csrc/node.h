// SPDX-License-Identifier: BSD-3-Clause
// A node of a graph, written as torch generates its own, where torch::autograd::Function would cost
// as much as a small loss, and could not be seen by torch.func's transforms.
#pragma once

#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

#include <array>
#include <mutex>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "ops.h"

namespace fused_ce {

template <class F>
void for_fields(auto&& options, F f) {
  std::apply([&](auto&... fields) { (f(fields), ...); }, options.fields());
}

// `Derivative` says what the node is called (kName), how many gradients it gives (kResults), what
// it keeps for them (Kept), and computes them:
//
//   static variable_list of(const variable_list& incoming, Kept&& kept, Needs needs);
//
// A Kept has variables(), an array of pointers to those of its tensors that hooks and version
// counters watch; constants(), to the others; and options. With kGivesAway its constants are the
// results' own in the last backward: nobody else holds them then, and kept.is_last says so.
template <class Derivative>
class FusedNode : public torch::autograd::Node {
  using variable_list = torch::autograd::variable_list;
  using CompiledNodeArgs = torch::dynamo::autograd::CompiledNodeArgs;
  using PackedArgs = torch::dynamo::autograd::PackedArgs;
  using SwapSavedVariables = torch::dynamo::autograd::SwapSavedVariables;
  template <class T>
  using IValuePacker = torch::dynamo::autograd::IValuePacker<T>;

 public:
  using Kept = typename Derivative::Kept;
  using KeptOptions = decltype(Kept::options);
  using Needs = std::array<bool, Derivative::kResults>;  // which of the results anybody wants
  static constexpr size_t kVariables = std::tuple_size_v<decltype(Kept().variables())>;
  static constexpr size_t kConstants = std::tuple_size_v<decltype(Kept().constants())>;

  std::string name() const override { return Derivative::kName; }

  // In the order of Kept.
  void keep(const std::array<const at::Tensor*, kVariables>& variables,
            const std::array<const at::Tensor*, kConstants>& constants,
            const KeptOptions& options) {
    for (size_t i = 0; i < kVariables; ++i) {
      if (variables[i]->defined())
        variables_[i] = torch::autograd::SavedVariable(*variables[i], /*is_output=*/false);
    }
    for (size_t i = 0; i < kConstants; ++i) constants_[i] = *constants[i];
    options_ = options;
  }

  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto& variable : variables_) variable.reset_data();
    for (auto& constant : constants_) constant.reset();
  }

  variable_list apply(variable_list&& grads) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!any_defined(grads)) return variable_list(Derivative::kResults);
    Kept kept = unpacked();
    if constexpr (Derivative::kGivesAway) {
      kept.is_last = !torch::autograd::get_current_graph_task_keep_graph();
      if (kept.is_last) constants_ = {};
    }
    return Derivative::of(grads, std::move(kept), needs());
  }

  // Compiled autograd: what the compiled graph depends on, and the trace of `apply` with what it
  // is given in the place of what is kept.
  void compiled_args(CompiledNodeArgs& args) const override {
    for (const auto& variable : variables_) args.collect(variable, /*is_output=*/false);
    for (const auto& constant : constants_) args.collect(constant);
    for_fields(options_, [&](const auto& field) { args.collect(field); });
  }

  variable_list apply_with_saved(const variable_list& grads, SwapSavedVariables& swap) override {
    const auto for_all = [&](auto f) {
      for (auto& variable : variables_) f(variable);
      for (auto& constant : constants_) f(constant);
      for_fields(options_, f);
    };
    for_all([&](auto& kept) { swap.before(kept); });
    const auto& compiler = torch::dynamo::autograd::getPyCompilerInterface();
    const std::string bound = compiler->bind_function(
        swap.get_py_compiler(), Derivative::kName, of_packed, packed_types(),
        /*is_custom_function=*/true, /*is_traceable=*/true);
    variable_list result = compiler->call_function(
        swap.get_py_compiler(), "apply_functional", bound, grads, packed(unpacked(), needs()),
        IValuePacker<std::vector<std::optional<torch::autograd::InputMetadata>>>::pack(
            torch::dynamo::autograd::get_input_metadata(next_edges())));
    for_all([&](auto& kept) { swap.after(kept); });
    return result;
  }

 private:
  std::array<torch::autograd::SavedVariable, kVariables> variables_;
  // Not variables: hooks that pack what is saved into fewer bits would lose what these numbers are
  // for, and nothing is differentiated by them.
  std::array<at::Tensor, kConstants> constants_;
  KeptOptions options_;

  Kept unpacked() const {
    Kept kept;
    kept.options = options_;
    const auto variables = kept.variables();
    const auto constants = kept.constants();
    for (size_t i = 0; i < kVariables; ++i) *variables[i] = variables_[i].unpack();
    for (size_t i = 0; i < kConstants; ++i) *constants[i] = constants_[i];
    return kept;
  }

  Needs needs() const {
    Needs needs{};
    for (size_t i = 0; i < num_outputs(); ++i) needs[i] = task_should_compute_output(i);
    return needs;
  }

  static bool any_defined(const variable_list& grads) {
    for (const at::Tensor& grad : grads) {
      if (grad.defined()) return true;
    }
    return false;
  }

  static std::vector<c10::IValue> packed(Kept kept, Needs needs) {
    PackedArgs args;
    for (const at::Tensor* tensor : kept.variables()) args.pack(*tensor);
    for (const at::Tensor* tensor : kept.constants()) args.pack(*tensor);
    for_fields(kept.options, [&](const auto& field) { args.pack(field); });
    for (const bool need : needs) args.pack(need);
    return std::move(args).vec();
  }

  static variable_list of_packed(const variable_list& grads,
                                 const std::vector<c10::IValue>& ivalues) {
    PackedArgs args(ivalues);
    Kept kept;
    for (at::Tensor* tensor : kept.variables()) *tensor = args.unpack<at::Tensor>();
    for (at::Tensor* tensor : kept.constants()) *tensor = args.unpack<at::Tensor>();
    for_fields(kept.options, [&]<class Field>(Field& field) { field = args.unpack<Field>(); });
    Needs needs{};
    for (bool& need : needs) need = args.unpack<bool>();
    if (!any_defined(grads)) return variable_list(Derivative::kResults);
    return Derivative::of(grads, std::move(kept), needs);
  }

  static std::vector<at::TypePtr> packed_types() {
    std::vector<at::TypePtr> types(kVariables + kConstants,
                                   IValuePacker<at::Tensor>::packed_type());
    KeptOptions options;
    for_fields(options,
               [&]<class Field>(Field&) { types.push_back(IValuePacker<Field>::packed_type()); });
    types.insert(types.end(), Derivative::kResults, IValuePacker<bool>::packed_type());
    return types;
  }
};

// torch 2.12 changed how graphs hold their nodes.
template <class T, class Pointer = decltype(torch::autograd::Edge::function)>
auto make_node() {
  if constexpr (std::is_same_v<Pointer, std::shared_ptr<torch::autograd::Node>>) {
    return std::shared_ptr<T>(new T, [](auto* node) { deleteNode(node); });
  } else {
    return c10::make_intrusive<T>();
  }
}

// To where a tensor came from; none for one that is not there.
inline torch::autograd::Edge edge_of(const at::Tensor& tensor) {
  return tensor.defined() ? torch::autograd::impl::gradient_edge(tensor) : torch::autograd::Edge();
}

// Says of the results that have derivatives, up to the last that is there, that they are the
// node's: each costs it memory, and most calls have the loss alone.
template <class Node>
void set_history(ops::ForwardResult& result, const Options& options, const Node& node) {
  const auto results = result.differentiable();
  size_t count = results.size();
  while (!options.has_result(count - 1)) --count;
  for (size_t i = 0; i < count; ++i)
    torch::autograd::set_history(options.has_result(i) ? *results[i] : undefined(), node);
}

inline ops::Gradients gradients_of(const torch::autograd::variable_list& incoming) {
  ops::Gradients grads;
  for (size_t i = 0; i < incoming.size(); ++i) *grads.all()[i] = incoming[i];
  return grads;
}

}  // namespace fused_ce
