// Written as torch generates its own nodes, where torch::autograd::Function would cost as much as a
// small loss, and could not be seen by torch.func's transforms.
#include "nodes.h"

#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

#include <array>
#include <mutex>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "arguments.h"
#include "derivatives.h"
#include "direct.h"
#include "unboxed.h"

namespace fused_ce {
namespace {

using torch::autograd::SavedVariable;
using torch::autograd::variable_list;
using torch::dynamo::autograd::CompiledNodeArgs;
using torch::dynamo::autograd::IValuePacker;
using torch::dynamo::autograd::PackedArgs;
using torch::dynamo::autograd::SwapSavedVariables;

// What a node keeps, unpacked.
struct Unpacked {
  ops::Gradients grads;  // of the second node
  at::Tensor self, target, weight, row_weight, saved, total_weight;
  Options options;
  Call call() const { return {self, target, weight, options, row_weight}; }

  auto tensors() {
    return std::array{&grads.loss, &grads.z_loss, &grads.lse,  &grads.entropy, &self,
                      &target,     &weight,       &row_weight, &saved,         &total_weight};
  }
};

template <class F>
void for_fields(auto& options, F f) {
  std::apply([&](auto&... fields) { (f(fields), ...); }, options.fields());
}

// `Derivative` says what the node is called, how many incoming gradients it keeps, and what it
// computes.
template <class Derivative>
class CrossEntropyNode : public torch::autograd::Node {
 public:
  using Needs = std::array<bool, Derivative::kResults>;  // which of the results anybody wants

  std::string name() const override { return Derivative::kName; }

  void keep(const ops::Gradients& grads, const Call& call, const at::Tensor& saved,
            const at::Tensor& total_weight) {
    const auto save = [](const at::Tensor& t, SavedVariable& variable) {
      if (t.defined()) variable = SavedVariable(t, /*is_output=*/false);
    };
    for (size_t i = 0; i < grads_.size(); ++i) save(*grads.all()[i], grads_[i]);
    save(call.self, self_);
    save(call.target, target_);
    save(call.weight, weight_);
    save(call.row_weight, row_weight_);
    saved_ = saved;
    total_weight_ = total_weight;
    options_ = call.options;
  }

  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    for_variables(*this, [](SavedVariable& variable) { variable.reset_data(); });
    saved_.reset();
    total_weight_.reset();
  }

  variable_list apply(variable_list&& grads) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    return results_of(grads, unpacked(), needs());
  }

  // Compiled autograd: what the compiled graph depends on, and the trace of `apply` with what it
  // is given in the place of what is kept.
  void compiled_args(CompiledNodeArgs& args) const override {
    for_variables(
        *this, [&](const SavedVariable& variable) { args.collect(variable, /*is_output=*/false); });
    args.collect(saved_);
    args.collect(total_weight_);
    for_fields(options_, [&](const auto& field) { args.collect(field); });
  }

  variable_list apply_with_saved(const variable_list& grads, SwapSavedVariables& swap) override {
    const auto for_all = [&](auto f) {
      for_variables(*this, f);
      f(saved_);
      f(total_weight_);
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
  std::array<SavedVariable, Derivative::kKeptGradients> grads_;
  SavedVariable self_, target_, weight_, row_weight_;
  // Not variables: hooks that pack what is saved into fewer bits would lose what these numbers are
  // for, and nothing is differentiated by them.
  at::Tensor saved_, total_weight_;
  Options options_;

  template <class Self, class F>
  static void for_variables(Self& self, F f) {
    for (auto& grad : self.grads_) f(grad);
    f(self.self_), f(self.target_), f(self.weight_), f(self.row_weight_);
  }

  Unpacked unpacked() const {
    Unpacked kept{{},     self_.unpack(), target_.unpack(), weight_.unpack(), row_weight_.unpack(),
                  saved_, total_weight_,  options_};
    for (size_t i = 0; i < grads_.size(); ++i) *kept.grads.all()[i] = grads_[i].unpack();
    return kept;
  }

  Needs needs() const {
    Needs needs{};
    for (size_t i = 0; i < num_outputs(); ++i) needs[i] = task_should_compute_output(i);
    return needs;
  }

  static variable_list results_of(const variable_list& grads, const Unpacked& kept, Needs needs) {
    for (const at::Tensor& grad : grads) {
      if (grad.defined()) return Derivative::of(grads, kept, needs);
    }
    return variable_list(Derivative::kResults);
  }

  static std::vector<c10::IValue> packed(Unpacked kept, Needs needs) {
    PackedArgs args;
    for (const at::Tensor* tensor : kept.tensors()) args.pack(*tensor);
    for_fields(kept.options, [&](const auto& field) { args.pack(field); });
    for (const bool need : needs) args.pack(need);
    return std::move(args).vec();
  }

  static variable_list of_packed(const variable_list& grads,
                                 const std::vector<c10::IValue>& ivalues) {
    PackedArgs args(ivalues);
    Unpacked kept;
    for (at::Tensor* tensor : kept.tensors()) *tensor = args.unpack<at::Tensor>();
    for_fields(kept.options, [&]<class Field>(Field& field) { field = args.unpack<Field>(); });
    Needs needs{};
    for (bool& need : needs) need = args.unpack<bool>();
    return results_of(grads, kept, needs);
  }

  static std::vector<at::TypePtr> packed_types() {
    std::vector<at::TypePtr> types(Unpacked().tensors().size(),
                                   IValuePacker<at::Tensor>::packed_type());
    Options options;
    for_fields(options,
               [&]<class Field>(Field&) { types.push_back(IValuePacker<Field>::packed_type()); });
    types.insert(types.end(), Derivative::kResults, IValuePacker<bool>::packed_type());
    return types;
  }
};

// Of the loss and what else there is: by the logits.
struct FirstDerivative {
  static constexpr char kName[] = "fused_ce::CrossEntropyBackward";
  static constexpr size_t kKeptGradients = 0, kResults = 1;
  static variable_list of(const variable_list& incoming, const Unpacked& kept,
                          std::array<bool, kResults>) {
    ops::Gradients grads;
    for (size_t i = 0; i < incoming.size(); ++i) *grads.all()[i] = incoming[i];
    if (kept.options.in_place) return {overwritten(grads, kept)};
    return {direct_backward(grads, kept.call(), kept.saved, kept.total_weight)};
  }

 private:
  // The memory of the logits, with the gradient in it. Their version is one more, so that whoever
  // needs them later is told.
  static at::Tensor overwritten(const ops::Gradients& grads, const Unpacked& kept) {
    TORCH_CHECK(!at::GradMode::is_enabled(),
                "in_place: the gradient overwrites the logits that its own derivative would need "
                "(create_graph=True, or torch.func)");
    // is_grads_batched is torch's older vmap.
    constexpr c10::DispatchKeySet kBatched(
        {c10::DispatchKey::Batched, c10::DispatchKey::FuncTorchBatched});
    for (const at::Tensor* grad : grads.all())
      TORCH_CHECK(!grad->defined() || !grad->key_set().has_any(kBatched),
                  "in_place: the logits' memory has a place for one gradient, and each incoming "
                  "one of a batch has its own (is_grads_batched=True, or a vectorized jacobian)");
    const at::Tensor logits = kept.self.detach();
    direct_backward_(grads, kept.call().at(logits), kept.saved, kept.total_weight);
    return logits;
  }
};

// Of that gradient: by the incoming ones, and by the logits.
struct SecondDerivative {
  static constexpr char kName[] = "fused_ce::CrossEntropyBackwardBackward";
  static constexpr size_t kKeptGradients = ops::Gradients::kCount, kResults = kKeptGradients + 1;
  static variable_list of(const variable_list& incoming, const Unpacked& kept,
                          std::array<bool, kResults> needs) {
    const at::Tensor& v = incoming[0];
    const Call call = kept.call();
    variable_list result(kResults);
    for (size_t i = 0; i < kKeptGradients; ++i) {
      const at::Tensor& grad = *kept.grads.all()[i];
      if (!needs[i] || !grad.defined()) continue;
      result[i] = contraction(i, call, kept.saved, kept.total_weight, v).to(grad.scalar_type());
    }
    if (needs[kKeptGradients])
      result[kKeptGradients] = curvature(kept.grads, call, kept.total_weight, v);
    return result;
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

}  // namespace

void record_forward(ops::ForwardResult& result, const Call& call) {
  if (call.options.in_place) check_in_place(call);
  auto node = make_node<CrossEntropyNode<FirstDerivative>>();
  node->add_next_edge(torch::autograd::impl::gradient_edge(call.self));
  node->keep({}, call, result.saved, result.total_weight);
  // Up to the last of those that are there: each costs the node memory, and most have the loss
  // alone.
  const auto results = result.differentiable();
  size_t count = results.size();
  while (!call.options.has_result(count - 1)) --count;
  for (size_t i = 0; i < count; ++i)
    torch::autograd::set_history(call.options.has_result(i) ? *results[i] : undefined(), node);
}

void record_backward(const at::Tensor& gradient, const ops::Gradients& grads, const Call& call,
                     const at::Tensor& saved, const at::Tensor& total_weight) {
  const auto edge = [](const at::Tensor& tensor) {
    return tensor.defined() ? torch::autograd::impl::gradient_edge(tensor)
                            : torch::autograd::Edge();
  };
  auto node = make_node<CrossEntropyNode<SecondDerivative>>();
  for (const at::Tensor* grad : grads.all()) node->add_next_edge(edge(*grad));
  node->add_next_edge(edge(call.self));
  node->keep(grads, call, saved, total_weight);
  torch::autograd::set_history(gradient, node);
}

}  // namespace fused_ce
