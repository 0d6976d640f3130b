#include "derivatives.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/softmax.h>

#include "arguments.h"
#include "ops.h"
#include "shapes.h"
#include "unboxed.h"

namespace fused_ce {
namespace {

// A number a class, shaped to broadcast over the rows.
at::Tensor by_class(const at::Tensor& weight, const at::Tensor& self) {
  c10::SymDimVector shape(self.dim(), 1);
  shape[class_dim(self)] = weight.sym_size(0);
  return weight.view_symint(shape);
}

// The incoming gradient of each row, shaped to broadcast over the classes, less what a mean divides
// by.
at::Tensor by_row(const at::Tensor& grad_output, const Call& call, const at::Tensor& total_weight) {
  const at::ScalarType type = accumulate_type(call.self);
  const at::Tensor g = grad_output.to(type);
  if (call.options.by_row()) return g.unsqueeze(class_dim(call.self));
  return call.options.is_mean() ? g / total_weight.to(type) : g;
}

// Class indices of the rows, shaped as numbers a row that broadcast over the classes.
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

// q_j of the rows, in the accumulate type (see kernels/cpu/finish.h for the formulas). Of ignored
// rows, anything.
at::Tensor class_weights(const Call& call) {
  const at::ScalarType type = accumulate_type(call.self);
  const int64_t dim = class_dim(call.self);
  const double s = call.options.label_smoothing;
  const at::Tensor w =
      call.weight.defined() ? by_class(call.weight.to(type), call.self) : at::Tensor();
  const auto weighted = [&](const at::Tensor& t) { return w.defined() ? t * w : t; };
  const at::Tensor ones = at::ones_like(call.self, call.self.options().dtype(type));
  const at::Tensor spread = weighted(ones) * s / call.self.sym_size(dim);
  if (is_probabilities(call.self, call.target))
    return weighted(call.target.to(type)) * (1 - s) + spread;
  const Indices y(call);
  return spread.scatter_add(dim, y.or_zero(), y.weight() * (1 - s));
}

// mass of each row, shaped to broadcast over the classes.
at::Tensor row_mass(const Call& call) {
  const double s = call.options.label_smoothing;
  if (is_probabilities(call.self, call.target))
    return class_weights(call).sum(class_dim(call.self), /*keepdim=*/true);
  const at::Tensor w = Indices(call).weight();
  return call.weight.defined() ? w * (1 - s) + call.weight.to(w.scalar_type()).mean() * s : w;
}

// Ignored rows have no gradient, whatever there is in their place: the mean of no row is no number.
at::Tensor counted(const at::Tensor& gradient, const Call& call) {
  if (is_probabilities(call.self, call.target)) return gradient;
  return gradient.masked_fill(Indices(call).ignored(), 0);
}

}  // namespace

at::Tensor contraction(const Call& call, const at::Tensor& saved, const at::Tensor& total_weight,
                       const at::Tensor& v) {
  const at::ScalarType type = accumulate_type(call.self);
  Options options = call.options;
  options.reduction = at::Reduction::None;
  // Row by row: in half precision, the gradient of a mean over many would be nothing.
  const at::Tensor ones = at::ones_symint(row_shape(call.self), call.self.options().dtype(type));
  const at::Tensor gradient =
      ops::backward(ones, {call.self, call.target, call.weight, options}, saved, total_weight);
  const at::Tensor rows = (gradient.to(type) * v.to(type)).sum(class_dim(call.self));
  if (call.options.by_row()) return rows;
  return call.options.is_mean() ? rows.sum() / total_weight.to(type) : rows.sum();
}

at::Tensor curvature(const at::Tensor& grad_output, const Call& call,
                     const at::Tensor& total_weight, const at::Tensor& v) {
  const int64_t dim = class_dim(call.self);
  const at::ScalarType type = accumulate_type(call.self);
  const at::Tensor p = at::softmax(call.self, dim, type);
  const at::Tensor pv = v.to(type) * p;
  const at::Tensor centered = pv - p * pv.sum(dim, /*keepdim=*/true);
  const at::Tensor factor = by_row(grad_output, call, total_weight) * row_mass(call);
  return counted(factor * centered, call).to(call.self.scalar_type());
}

at::Tensor composed_loss(const Call& call, std::optional<at::ScalarType> dtype) {
  const auto is_half = [](at::ScalarType type) {
    return type == at::kHalf || type == at::kBFloat16;
  };
  // As torch's autocast does it, which has the loss in float.
  const auto cast = [&](const at::Tensor& tensor) {
    const bool widen =
        dtype && !is_half(*dtype) && tensor.defined() && is_half(tensor.scalar_type());
    return widen ? tensor.to(at::kFloat) : tensor;
  };
  const at::Tensor loss = at::cross_entropy_loss_symint(
      cast(call.self), cast(call.target), optional_if_defined(cast(call.weight)),
      call.options.reduction, call.options.ignore_index, call.options.label_smoothing);
  return dtype ? loss.to(*dtype) : loss;
}

at::Tensor composed_gradient(const at::Tensor& grad_output, const Call& call,
                             const at::Tensor& total_weight) {
  const int64_t dim = class_dim(call.self);
  const at::Tensor q = class_weights(call);
  const at::Tensor p = at::softmax(call.self, dim, accumulate_type(call.self));
  // What the mean of class indices divides by depends on the weights.
  const bool indices = !is_probabilities(call.self, call.target);
  const at::Tensor total =
      indices && call.options.is_mean() ? Indices(call).weight().sum() : total_weight;
  const at::Tensor gradient =
      by_row(grad_output, call, total) * (q.sum(dim, /*keepdim=*/true) * p - q);
  return counted(gradient, call).to(call.self.scalar_type());
}

}  // namespace fused_ce
