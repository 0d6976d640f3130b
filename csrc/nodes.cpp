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
  at::Tensor grad_output;  // of the second node
  at::Tensor self, target, weight, saved, total_weight;
  Options options;
  Call call() const { return {self, target, weight, options}; }
};
using Needs = std::array<bool, 2>;  // which of a node's results anybody wants

// `Derivative` says what the node is called, and what it computes.
template <class Derivative>
class CrossEntropyNode : public torch::autograd::Node {
 public:
  std::string name() const override { return Derivative::kName; }

  void keep(const at::Tensor& grad_output, const Call& call, const at::Tensor& saved,
            const at::Tensor& total_weight) {
    const auto save = [](const at::Tensor& t) { return SavedVariable(t, /*is_output=*/false); };
    if (grad_output.defined()) grad_output_ = save(grad_output);
    self_ = save(call.self);
    target_ = save(call.target);
    if (call.weight.defined()) weight_ = save(call.weight);
    saved_ = saved;
    total_weight_ = total_weight;
    options_ = call.options;
  }

  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    for_variables([](SavedVariable& variable) { variable.reset_data(); });
    saved_.reset();
    total_weight_.reset();
  }

  variable_list apply(variable_list&& grads) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!grads[0].defined()) return variable_list(num_outputs());
    return Derivative::of(grads[0], unpacked(), needs());
  }

  // Compiled autograd: what the compiled graph depends on, and the trace of `apply` with what it
  // is given in the place of what is kept.
  void compiled_args(CompiledNodeArgs& args) const override {
    for (const SavedVariable* variable : {&grad_output_, &self_, &target_, &weight_})
      args.collect(*variable, /*is_output=*/false);
    args.collect(saved_);
    args.collect(total_weight_);
    std::apply([&](const auto&... fields) { (args.collect(fields), ...); }, options_.fields());
  }

  variable_list apply_with_saved(const variable_list& grads, SwapSavedVariables& swap) override {
    const auto for_all = [&](auto f) {
      for_variables(f);
      f(saved_);
      f(total_weight_);
      std::apply([&](auto&... fields) { (f(fields), ...); }, options_.fields());
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
  SavedVariable grad_output_, self_, target_, weight_;
  // Not variables: hooks that pack what is saved into fewer bits would lose what these numbers are
  // for, and nothing is differentiated by them.
  at::Tensor saved_, total_weight_;
  Options options_;

  template <class F>
  void for_variables(F f) {
    f(grad_output_), f(self_), f(target_), f(weight_);
  }

  Unpacked unpacked() const {
    return {grad_output_.unpack(), self_.unpack(), target_.unpack(), weight_.unpack(), saved_,
            total_weight_,         options_};
  }

  Needs needs() const {
    Needs needs{};
    for (size_t i = 0; i < num_outputs(); ++i) needs[i] = task_should_compute_output(i);
    return needs;
  }

  static std::vector<c10::IValue> packed(const Unpacked& kept, Needs needs) {
    PackedArgs args;
    for (const at::Tensor* tensor : {&kept.grad_output, &kept.self, &kept.target, &kept.weight,
                                     &kept.saved, &kept.total_weight})
      args.pack(*tensor);
    std::apply([&](const auto&... fields) { (args.pack(fields), ...); }, kept.options.fields());
    args.pack(needs);
    return std::move(args).vec();
  }

  static variable_list of_packed(const variable_list& grads,
                                 const std::vector<c10::IValue>& ivalues) {
    PackedArgs args(ivalues);
    Unpacked kept;
    for (at::Tensor* tensor : {&kept.grad_output, &kept.self, &kept.target, &kept.weight,
                               &kept.saved, &kept.total_weight})
      *tensor = args.unpack<at::Tensor>();
    std::apply(
        [&](auto&... fields) {
          ((fields = args.unpack<std::remove_reference_t<decltype(fields)>>()), ...);
        },
        kept.options.fields());
    const auto needs = args.unpack<Needs>();
    if (!grads[0].defined()) return variable_list(Derivative::kResults);
    return Derivative::of(grads[0], kept, needs);
  }

  static std::vector<at::TypePtr> packed_types() {
    std::vector<at::TypePtr> types(6, IValuePacker<at::Tensor>::packed_type());
    std::apply(
        [&](const auto&... fields) {
          (types.push_back(IValuePacker<std::decay_t<decltype(fields)>>::packed_type()), ...);
        },
        Options{}.fields());
    types.push_back(IValuePacker<Needs>::packed_type());
    return types;
  }
};

// Of the loss: by the logits.
struct FirstDerivative {
  static constexpr char kName[] = "fused_ce::CrossEntropyBackward";
  static constexpr size_t kResults = 1;
  static variable_list of(const at::Tensor& grad, const Unpacked& kept, Needs) {
    return {direct_backward(grad, kept.call(), kept.saved, kept.total_weight)};
  }
};

// Of that gradient: by the incoming one, and by the logits.
struct SecondDerivative {
  static constexpr char kName[] = "fused_ce::CrossEntropyBackwardBackward";
  static constexpr size_t kResults = 2;
  static variable_list of(const at::Tensor& v, const Unpacked& kept, Needs needs) {
    const at::Tensor& g = kept.grad_output;
    const Call call = kept.call();
    variable_list result(kResults);
    if (needs[0]) {
      result[0] = contraction(call, kept.saved, kept.total_weight, v).to(g.scalar_type());
    }
    if (needs[1]) result[1] = curvature(g, call, kept.total_weight, v);
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

void record_forward(const ops::ForwardResult& result, const Call& call) {
  auto node = make_node<CrossEntropyNode<FirstDerivative>>();
  node->add_next_edge(torch::autograd::impl::gradient_edge(call.self));
  node->keep(at::Tensor(), call, result.saved, result.total_weight);
  torch::autograd::set_history(result.loss, node);
}

void record_backward(const at::Tensor& gradient, const at::Tensor& grad_output, const Call& call,
                     const at::Tensor& saved, const at::Tensor& total_weight) {
  auto node = make_node<CrossEntropyNode<SecondDerivative>>();
  node->add_next_edge(torch::autograd::impl::gradient_edge(grad_output));
  node->add_next_edge(torch::autograd::impl::gradient_edge(call.self));
  node->keep(grad_output, call, saved, total_weight);
  torch::autograd::set_history(gradient, node);
}

}  // namespace fused_ce
