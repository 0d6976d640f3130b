// SPDX-License-Identifier: BSD-3-Clause
// The terms of the loss and of its gradient (kernels/README.md has the formulas) in ATen operations
// that can be differentiated and transformed again. All in the accumulate type.
#pragma once

#include <ATen/core/Tensor.h>

#include "ops.h"

namespace fused_ce::formula {

// The logits z, and what they change by where the numbers that stand for them change.
at::Tensor logits(const Call& call);
at::Tensor slope(const Call& call, const at::Tensor& z);

// 0 for ignored rows, whatever there is in their place: the mean of no row is no number. The values
// broadcast over the classes, or have all of them.
at::Tensor without_ignored(const at::Tensor& values, const Call& call);

// q_j: what the classes of each row weigh in its loss. Of ignored rows, anything.
at::Tensor class_weights(const Call& call);

// What a mean divides by, in double.
at::Tensor total_weight(const Call& call);

// Incoming gradients as the kernels have them: those of the loss and the z-loss less what a mean
// divides by, and times the row's weight. Shaped to broadcast over the classes.
ops::Gradients by_row(const ops::Gradients& grads, const Call& call,
                      const at::Tensor& total_weight);

// The logits z of a call, their softmax p, and what follows from it. Numbers a row broadcast over
// the classes.
struct Softmax {
  explicit Softmax(const Call& call);

  at::Tensor sum(const at::Tensor& of_classes) const;
  // log(1 + S) + sum_j p_j (z_max - z_j), where S is the others' exponentials over the largest: no
  // sum with the largest's own, beside which a confident row's others would be rounded away.
  at::Tensor entropy() const;
  // How far -log p_j lies above the entropy; 0 where p_j is 0, as the logit may be -inf there.
  at::Tensor excess() const;

  int64_t dim;
  at::Tensor z, p, lse;

 private:
  bool is_empty() const;  // without classes, and so without a largest logit
  // How far each lies below the largest, whose index is given; likewise 0 where p_j is 0.
  at::Tensor below(const at::Tensor& largest) const;
};

// Of incoming gradients g as by_row has them, a number a row that broadcasts over the classes: what
// lse^2 is multiplied with in the loss, and the derivative by the log-sum-exp.
at::Tensor squared_lse_factor(const ops::Gradients& g, const Call& call);
at::Tensor lse_factor(const ops::Gradients& g, const Call& call, const Softmax& softmax);

// The gradient by z.
at::Tensor gradient(const ops::Gradients& g, const Call& call, const Softmax& softmax);

}  // namespace fused_ce::formula
