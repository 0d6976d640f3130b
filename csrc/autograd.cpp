// Autograd of the private operators. Both are torch::autograd::Function: _forward's backward is
// _backward, and _backward's backward is plain differentiable ATen, so that gradients of any order
// exist.
#include <ATen/TensorOperators.h>
#include <ATen/core/Reduction.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/softmax.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <utility>

#include "arguments.h"
#include "ops.h"

namespace fused_ce {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Options {
  int64_t reduction;
  c10::SymInt ignore_index;
  double label_smoothing;

  void save(AutogradContext* ctx) const {
    ctx->saved_data["reduction"] = reduction;
    ctx->saved_data["ignore_index"] = ignore_index;
    ctx->saved_data["label_smoothing"] = label_smoothing;
  }
  static Options of(AutogradContext* ctx) {
    return {ctx->saved_data["reduction"].toInt(), ctx->saved_data["ignore_index"].toSymInt(),
            ctx->saved_data["label_smoothing"].toDouble()};
  }
};

std::optional<at::Tensor> optional(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional<at::Tensor>(tensor) : std::nullopt;
}

at::Tensor class_shaped(const at::Tensor& weight, int64_t dim) {
  c10::SymDimVector shape(dim, 1);
  shape[1] = weight.sym_size(0);
  return weight.view_symint(shape);
}

// mass of each row, shaped to broadcast over the classes: the gradient is g (mass softmax - q). See
// kernels/cpu/group.h.
at::Tensor row_mass(const at::Tensor& self, const at::Tensor& target,
                    const std::optional<at::Tensor>& weight, const Options& o) {
  const at::ScalarType type = accumulate_type(self);
  const double keep = 1 - o.label_smoothing;
  const at::Tensor w = weight ? weight->to(type) : at::Tensor();
  if (is_probabilities(self, target)) {
    const at::Tensor t = target.to(type);
    if (!weight) return t.sum(1, /*keepdim=*/true) * keep + o.label_smoothing;
    return (t * class_shaped(w, self.dim())).sum(1, /*keepdim=*/true) * keep +
           w.mean() * o.label_smoothing;
  }
  const at::Tensor index = target.to(at::kLong).unsqueeze(1);
  const at::Tensor ignored = index.eq(at::Scalar(o.ignore_index));
  const at::Tensor safe = index.masked_fill(ignored, 0);
  const at::Tensor mass = weight ? w.take(safe) * keep + w.mean() * o.label_smoothing
                                 : at::ones_like(safe, self.options().dtype(type));
  return mass.masked_fill(ignored, 0);
}

}  // namespace

// The two nodes of a graph, under the names that torch gives its own: they are what grad_fn and
// anomaly detection print.

class CrossEntropyBackwardBackward
    : public torch::autograd::Function<CrossEntropyBackwardBackward> {
 public:
  static constexpr bool is_traceable = true;

  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& grad_output,
                            const at::Tensor& self, const at::Tensor& target,
                            const std::optional<at::Tensor>& weight, int64_t reduction,
                            const c10::SymInt& ignore_index, double label_smoothing,
                            const at::Tensor& saved, const at::Tensor& total_weight) {
    const Options options{reduction, ignore_index, label_smoothing};
    options.save(ctx);
    ctx->set_materialize_grads(false);
    ctx->save_for_backward(
        {grad_output, self, target, weight.value_or(at::Tensor()), saved, total_weight});
    const at::AutoDispatchBelowADInplaceOrView guard;
    return ops::backward(grad_output, self, target, weight, reduction, ignore_index,
                         label_smoothing, saved, total_weight);
  }

  // The gradient is g_i K_ij, K = mass p - q. Given v for it:
  //   by g:     sum_j v_ij K_ij
  //   by x_ij:  g_i mass_i p_ij (v_ij - sum_k v_ik p_ik), the backward of softmax
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const at::Tensor& v = grads[0];
    const auto tensors = ctx->get_saved_variables();
    const at::Tensor &g = tensors[0], &self = tensors[1], &target = tensors[2], &saved = tensors[4],
                     &total_weight = tensors[5];
    const std::optional<at::Tensor> weight = optional(tensors[3]);
    const Options o = Options::of(ctx);
    variable_list result(9);
    if (!v.defined()) return result;
    const bool none = o.reduction == at::Reduction::None;
    const at::ScalarType type = accumulate_type(self);

    if (ctx->needs_input_grad(0)) {
      const at::Tensor k = ops::backward(at::ones_like(g), self, target, weight, o.reduction,
                                         o.ignore_index, o.label_smoothing, saved, total_weight);
      const at::Tensor product = v.to(type) * k.to(type);
      result[0] = (none ? product.sum(1) : product.sum()).to(g.scalar_type());
    }
    if (ctx->needs_input_grad(1)) {
      at::Tensor factor = row_mass(self, target, weight, o) * (none ? g.unsqueeze(1) : g).to(type);
      if (o.reduction == at::Reduction::Mean) factor = factor / total_weight.to(type);
      const at::Tensor p = at::softmax(self, 1, type);
      const at::Tensor by_softmax = v.to(type) * p;
      result[1] =
          (factor * (by_softmax - p * by_softmax.sum(1, /*keepdim=*/true))).to(self.scalar_type());
    }
    return result;
  }
};

class CrossEntropyBackward : public torch::autograd::Function<CrossEntropyBackward> {
 public:
  static constexpr bool is_traceable = true;

  static variable_list forward(AutogradContext* ctx, const at::Tensor& self,
                               const at::Tensor& target, const std::optional<at::Tensor>& weight,
                               int64_t reduction, const c10::SymInt& ignore_index,
                               double label_smoothing, at::ScalarType dtype) {
    const Options options{reduction, ignore_index, label_smoothing};
    at::Tensor loss, saved, total_weight;
    {
      const at::AutoDispatchBelowADInplaceOrView guard;
      std::tie(loss, saved, total_weight) =
          ops::forward(self, target, weight, reduction, ignore_index, label_smoothing, dtype);
    }
    options.save(ctx);
    // No zeros for what has no gradient: `saved` and `total_weight`. They are not marked as not
    // differentiable, for compiled autograd has no such mark.
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({self, target, weight.value_or(at::Tensor()), saved, total_weight});
    return {loss, saved, total_weight};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    variable_list result(7);
    if (!grads[0].defined()) return result;
    const auto tensors = ctx->get_saved_variables();
    const Options o = Options::of(ctx);
    const at::Tensor &self = tensors[0], &target = tensors[1], &saved = tensors[3],
                     &total_weight = tensors[4];
    const std::optional<at::Tensor> weight = optional(tensors[2]);
    const auto call = [&](const at::Tensor& g) {
      return ops::backward(g, self, target, weight, o.reduction, o.ignore_index, o.label_smoothing,
                           saved, total_weight);
    };
    const at::Tensor& g = grads[0];
    if (g.key_set().has(c10::DispatchKey::FuncTorchBatched)) {
      // Batched gradients: the result is linear in g, so one gradient of ones serves the whole
      // batch.
      const at::Tensor ones =
          o.reduction == at::Reduction::None
              ? at::ones_symint(target_shape(self), self.options().dtype(g.scalar_type()))
              : at::ones({}, self.options().dtype(g.scalar_type()));
      const at::Tensor by_row = o.reduction == at::Reduction::None ? g.unsqueeze(1) : g;
      result[0] = (call(ones) * by_row).to(self.scalar_type());
    } else {
      result[0] = call(g);
    }
    return result;
  }

 private:
  static c10::SymDimVector target_shape(const at::Tensor& self) {
    c10::SymDimVector shape(self.sym_sizes().begin(), self.sym_sizes().end());
    shape.erase(shape.begin() + 1);
    return shape;
  }
};

namespace {

ops::ForwardResult forward(const at::Tensor& self, const at::Tensor& target,
                           const std::optional<at::Tensor>& weight, int64_t reduction,
                           c10::SymInt ignore_index, double label_smoothing, at::ScalarType dtype) {
  if (!at::GradMode::is_enabled() || !self.requires_grad()) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return ops::forward(self, target, weight, reduction, std::move(ignore_index), label_smoothing,
                        dtype);
  }
  const variable_list result = CrossEntropyBackward::apply(self, target, weight, reduction,
                                                           ignore_index, label_smoothing, dtype);
  return {result[0], result[1], result[2]};
}

at::Tensor backward(const at::Tensor& grad_output, const at::Tensor& self, const at::Tensor& target,
                    const std::optional<at::Tensor>& weight, int64_t reduction,
                    c10::SymInt ignore_index, double label_smoothing, const at::Tensor& saved,
                    const at::Tensor& total_weight) {
  if (!at::GradMode::is_enabled() || !(self.requires_grad() || grad_output.requires_grad())) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return ops::backward(grad_output, self, target, weight, reduction, std::move(ignore_index),
                         label_smoothing, saved, total_weight);
  }
  return CrossEntropyBackwardBackward::apply(grad_output, self, target, weight, reduction,
                                             ignore_index, label_smoothing, saved, total_weight);
}

}  // namespace

TORCH_LIBRARY_IMPL(fused_ce, Autograd, m) {
  m.impl("_forward", forward);
  m.impl("_backward", backward);
}

}  // namespace fused_ce
