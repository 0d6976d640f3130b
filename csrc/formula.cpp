// SPDX-License-Identifier: BSD-3-Clause
#include "formula.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/log1p.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/zeros.h>

#include "arguments.h"
#include "shapes.h"

namespace fused_ce::formula {
namespace {

// A number a class, shaped to broadcast over the rows.
at::Tensor by_class(const at::Tensor& weight, const at::Tensor& self) {
  c10::SymDimVector shape(self.dim(), 1);
  shape[class_dim(self)] = weight.sym_size(0);
  return weight.view_symint(shape);
}

// A number a row, shaped to broadcast over the classes.
at::Tensor of_rows(const at::Tensor& rows, const Call& call) {
  return rows.to(accumulate_type(call.self)).unsqueeze(class_dim(call.self));
}

// Class indices, shaped as numbers a row that broadcast over the classes.
class Indices {
 public:
  explicit Indices(const Call& call)
      : call_(call),
        index_(call.target.to(at::kLong)
                   .reshape_symint(row_shape(call.self))
                   .unsqueeze(class_dim(call.self))),
        ignored_(index_.eq(at::Scalar(call.options.ignore_index))) {}

  at::Tensor ignored() const { return ignored_; }
  at::Tensor or_zero() const { return index_.masked_fill(ignored_, 0); }
  // w_y, 0 for ignored rows. Of the accumulate type.
  at::Tensor weight() const {
    const at::ScalarType type = accumulate_type(call_.self);
    if (!call_.weight.defined())
      return at::ones_like(index_, call_.self.options().dtype(type)).masked_fill(ignored_, 0);
    const at::Tensor w = call_.weight.to(type).index_select(0, or_zero().reshape(-1));
    return w.reshape_symint(index_.sym_sizes()).masked_fill(ignored_, 0);
  }

 private:
  const Call& call_;
  at::Tensor index_, ignored_;
};

bool has_probabilities(const Call& call) { return is_probabilities(call.self, call.target); }

// mass: the sum of a row's q_j, shaped to broadcast over the classes.
at::Tensor mass(const Call& call) {
  const double s = call.options.label_smoothing;
  if (has_probabilities(call))
    return class_weights(call).sum(class_dim(call.self), /*keepdim=*/true);
  const at::Tensor w = Indices(call).weight();
  return call.weight.defined() ? w * (1 - s) + call.weight.to(w.scalar_type()).mean() * s : w;
}

}  // namespace

at::Tensor logits(const Call& call) {
  const at::Tensor x = call.self.to(accumulate_type(call.self));
  const double scale = call.options.scale(), cap = call.options.cap();
  const at::Tensor scaled = scale == 1 ? x : x * scale;
  return cap == 0 ? scaled : at::tanh(scaled / cap) * cap;
}

at::Tensor slope(const Call& call, const at::Tensor& z) {
  const double scale = call.options.scale(), cap = call.options.cap();
  if (cap == 0) return at::full({}, scale, z.options());
  return (1 - (z / cap).square()) * scale;
}

at::Tensor without_ignored(const at::Tensor& values, const Call& call) {
  return has_probabilities(call) ? values : values.masked_fill(Indices(call).ignored(), 0);
}

at::Tensor class_weights(const Call& call) {
  const at::ScalarType type = accumulate_type(call.self);
  const int64_t dim = class_dim(call.self);
  const double s = call.options.label_smoothing;
  const at::Tensor w =
      call.weight.defined() ? by_class(call.weight.to(type), call.self) : at::Tensor();
  const auto weighted = [&](const at::Tensor& t) { return w.defined() ? t * w : t; };
  const at::Tensor ones = at::ones_like(call.self, call.self.options().dtype(type));
  const at::Tensor spread = weighted(ones) * s / call.self.sym_size(dim);
  if (has_probabilities(call)) return weighted(call.target.to(type)) * (1 - s) + spread;
  const Indices y(call);
  return spread.scatter_add(dim, y.or_zero(), y.weight() * (1 - s));
}

at::Tensor total_weight(const Call& call) {
  if (call.normalizer.defined()) return call.normalizer.to(call.self.device(), at::kDouble);
  const at::Tensor r = call.row_weight.defined() ? of_rows(call.row_weight, call) : at::Tensor();
  if (!has_probabilities(call)) {
    const at::Tensor w = Indices(call).weight();
    return (r.defined() ? w * r : w).sum(at::kDouble);
  }
  if (r.defined()) return r.sum(at::kDouble);
  const auto options = call.self.options().dtype(at::kDouble);
  // torch counts the rows as logits / classes, which is no number where there are no classes.
  const c10::SymInt classes = call.self.sym_size(class_dim(call.self));
  return at::ones_symint({}, options) * call.self.sym_numel() / classes;
}

ops::Gradients by_row(const ops::Gradients& grads, const Call& call,
                      const at::Tensor& total_weight) {
  const at::ScalarType type = accumulate_type(call.self);
  const Options& options = call.options;
  const auto of_losses = [&](const at::Tensor& grad) {
    if (!grad.defined()) return grad;
    at::Tensor g = options.by_row() ? of_rows(grad, call) : grad.to(type);
    if (options.is_mean()) g = g / total_weight.to(type);
    return call.row_weight.defined() ? g * of_rows(call.row_weight, call) : g;
  };
  const auto of_statistics = [&](const at::Tensor& grad) {
    return grad.defined() ? of_rows(grad, call) : grad;
  };
  return {of_losses(grads.loss), of_losses(grads.z_loss), of_statistics(grads.lse),
          of_statistics(grads.entropy)};
}

Softmax::Softmax(const Call& call)
    : dim(class_dim(call.self)),
      z(logits(call)),
      p(at::softmax(z, dim)),
      lse(at::logsumexp(z, dim, /*keepdim=*/true)) {}

at::Tensor Softmax::sum(const at::Tensor& of_classes) const {
  return of_classes.sum(dim, /*keepdim=*/true);
}

bool Softmax::is_empty() const { return TORCH_GUARD_OR_FALSE(z.sym_size(dim).sym_eq(0)); }

at::Tensor Softmax::below(const at::Tensor& largest) const {
  return (z.gather(dim, largest) - z).masked_fill(p.eq(0), 0).scatter(dim, largest, 0);
}

at::Tensor Softmax::entropy() const {
  if (is_empty()) return sum(p);
  const at::Tensor largest = z.argmax(dim, /*keepdim=*/true);
  const at::Tensor others = sum(p.scatter(dim, largest, 0)) / p.gather(dim, largest);
  return at::log1p(others) + sum(p * below(largest));
}

at::Tensor Softmax::excess() const {
  if (is_empty()) return p;
  const at::Tensor b = below(z.argmax(dim, /*keepdim=*/true));
  return (b - sum(p * b)).masked_fill(p.eq(0), 0);
}

at::Tensor squared_lse_factor(const ops::Gradients& g, const Call& call) {
  const double weight = call.options.z_loss_weight;
  at::Tensor factor = at::zeros({}, call.self.options().dtype(accumulate_type(call.self)));
  if (weight == 0) return factor;
  if (g.loss.defined()) factor = factor + g.loss * weight;
  return g.z_loss.defined() ? factor + g.z_loss * weight : factor;
}

at::Tensor lse_factor(const ops::Gradients& g, const Call& call, const Softmax& softmax) {
  at::Tensor factor = squared_lse_factor(g, call);
  if (call.options.z_loss_weight != 0) factor = factor * softmax.lse * 2;
  if (g.loss.defined()) factor = factor + g.loss * mass(call);
  return g.lse.defined() ? factor + g.lse : factor;
}

at::Tensor gradient(const ops::Gradients& g, const Call& call, const Softmax& softmax) {
  at::Tensor factor = lse_factor(g, call, softmax);
  if (g.entropy.defined()) factor = factor + g.entropy * softmax.excess();
  const at::Tensor pull = softmax.p * factor;
  return g.loss.defined() ? pull - g.loss * class_weights(call) : pull;
}

}  // namespace fused_ce::formula
