// SPDX-License-Identifier: BSD-3-Clause
#include "derivatives.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <vector>

#include "../arguments.h"
#include "../formula.h"
#include "../shapes.h"
#include "collectives.h"

namespace fused_ce::parallel {
namespace {

// A slice of the softmax, and what its rows' losses are made of. Numbers a row broadcast over the
// classes.
class Slice {
 public:
  Slice(const ParallelCall& call, const WholeWeights& weights, const at::Tensor& saved)
      : call_(call),
        dim_(class_dim(call.self)),
        indices_(!is_probabilities(call.self, call.target)) {
    const at::ScalarType type = accumulate_type(call.self);
    const Call of_slice = call.call(nullptr);
    z = formula::logits(of_slice);
    slope = formula::slope(of_slice, z);
    const double scale = call.options.cap() != 0 ? 1 : call.options.scale();
    const at::Tensor largest = of_rows(saved[0]) * scale, rest = of_rows(saved[2]);
    const at::Tensor own = indices_ ? at::exp(rest * scale - largest) : at::ones_like(rest);
    p = at::exp(z - largest) / (of_rows(saved[1]) + own);
    if (indices_) {
      index_ = of_rows(call.target).to(at::kLong);
      ignored_ = index_ == at::Scalar(call.options.ignore_index);
      p = p.masked_fill(ignored_, 0);
    }
    const at::Tensor none = p == 0;
    if (call.options.wants(kEntropy))
      excess = (largest - z - of_rows(saved[3])).masked_fill(none, 0);
    q = class_weights(weights, type);
    mass = indices_ ? target_mass(weights, type) : rest;
  }

  at::Tensor of_rows(const at::Tensor& rows) const {
    return rows.reshape_symint(row_shape(call_.self)).unsqueeze(dim_);
  }
  at::Tensor sum(const at::Tensor& of_classes) const { return of_classes.sum(dim_); }
  at::Tensor without_ignored(const at::Tensor& values) const {
    return indices_ ? values.masked_fill(ignored_, 0) : values;
  }

  at::Tensor z, slope, p;
  at::Tensor excess;  // how far -log p_j lies above the entropy
  at::Tensor q;       // what classes weigh in their row's loss
  at::Tensor mass;    // the sum of that over all classes

 private:
  double spread() const {
    return call_.options.label_smoothing / static_cast<double>(call_.options.classes);
  }
  at::Tensor target_mass(const WholeWeights& weights, at::ScalarType type) const {
    const at::Tensor own =
        of_rows(weights.target_weight).to(type) * (1 - call_.options.label_smoothing);
    return weights.weight_sum.defined() ? own + weights.weight_sum.to(type) * spread() : own;
  }
  at::Tensor class_weights(const WholeWeights& weights, at::ScalarType type) const {
    c10::SymDimVector shape(call_.self.dim(), 1);
    const c10::SymInt classes = call_.self.sym_size(dim_);
    shape[dim_] = classes;
    const at::Tensor w = call_.weight.defined()
                             ? call_.weight.to(type).reshape_symint(shape)
                             : at::ones_symint(shape, call_.self.options().dtype(type));
    const double keep = 1 - call_.options.label_smoothing;
    if (!indices_) return w * (call_.target.to(type) * keep + spread());
    const at::Tensor c = at::arange(classes, index_.options()).reshape_symint(shape);
    const at::Tensor is_target = c == index_ - call_.options.first_class;
    return without_ignored(w * spread() +
                           is_target * (of_rows(weights.target_weight).to(type) * keep));
  }

  const ParallelCall& call_;
  int64_t dim_;
  bool indices_;
  at::Tensor index_, ignored_;
};

}  // namespace

Derivatives derivatives(const ops::Gradients& grads, const ParallelCall& call,
                        const WholeWeights& weights, const at::Tensor& saved, const at::Tensor& v) {
  // Third derivatives would need the sums' own.
  const at::AutoDispatchBelowADInplaceOrView guard;
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const Slice s(call, weights, saved);
  const at::Tensor u = s.without_ignored(v.to(s.z.scalar_type()) * s.slope);
  const bool entropy = call.options.wants(kEntropy);

  std::vector<at::Tensor> own = {s.sum(s.p * u), s.sum(s.q * u)};
  if (entropy) own.push_back(s.sum(s.p * s.excess * u));
  at::Tensor all = at::stack(own);
  if (call.options.group_size > 1) all = all_sum(all, call.options.group_name);
  const auto number = [&](int64_t i) { return all.select(0, i); };

  Derivatives d;
  const at::Tensor mass = s.mass.reshape_symint(row_shape(call.self));
  d.by_loss = mass * number(0) - number(1);
  d.by_lse = number(0);
  if (entropy) d.by_entropy = number(2);

  // The Hessian by z applied to u, over p: see ../derivatives.cpp.
  const at::Tensor mean = s.of_rows(number(0)), centered = u - mean;
  const auto grad_of = [&](const at::Tensor& grad) { return s.of_rows(grad).to(u.scalar_type()); };
  at::Tensor factor = at::zeros_like(mean);
  if (grads.loss.defined()) factor = factor + grad_of(grads.loss) * s.mass;
  if (grads.lse.defined()) factor = factor + grad_of(grads.lse);
  at::Tensor hessian = factor * centered;
  if (grads.entropy.defined())
    hessian = hessian + grad_of(grads.entropy) * (centered * (s.excess - 1) - s.of_rows(number(2)));
  at::Tensor result = s.p * hessian * s.slope;
  if (const double cap = call.options.cap(); cap != 0) {
    at::Tensor by_z = s.p * factor;
    if (grads.entropy.defined()) by_z = by_z + s.p * s.excess * grad_of(grads.entropy);
    if (grads.loss.defined()) by_z = by_z - grad_of(grads.loss) * s.q;
    result = result + by_z * u * s.z * (-2 * call.options.scale() / (cap * cap));
  }
  d.by_logits = s.without_ignored(result).to(call.self.scalar_type());
  return d;
}

}  // namespace fused_ce::parallel
