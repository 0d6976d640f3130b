// SPDX-License-Identifier: BSD-3-Clause
#include "arguments.h"

#include <c10/core/ScalarType.h>
#include <c10/core/SymBool.h>
#include <c10/util/Exception.h>

#include <cmath>
#include <limits>

#include "shapes.h"

namespace fused_ce {
bool must_equal(const c10::SymInt& a, const c10::SymInt& b) {
  return a.sym_eq(b).expect_true(__FILE__, __LINE__);
}

bool must_equal(c10::SymIntArrayRef a, c10::SymIntArrayRef b) {
  if (a.size() != b.size()) return false;
  for (size_t d = 0; d < a.size(); ++d) {
    if (!must_equal(a[d], b[d])) return false;
  }
  return true;
}

void check_dense(const at::Tensor& tensor, const char* name, const char* function) {
  TORCH_CHECK_NOT_IMPLEMENTED(tensor.layout() == at::kStrided && !tensor.is_quantized(),
                              "fused_ce::", function, ": ", name,
                              " must be a dense, unquantized tensor, got layout ", tensor.layout(),
                              " and dtype ", tensor.scalar_type());
}

void check_device(const at::Tensor& self, const at::Tensor& tensor, const char* name) {
  TORCH_CHECK(tensor.device() == self.device(),
              "Expected all tensors to be on the same device, but ", name, " is on ",
              tensor.device(), " and input is on ", self.device());
}

namespace {

void check_batch(const at::Tensor& self, const at::Tensor& target) {
  TORCH_CHECK_VALUE(target.dim() > 0, "Expected input batch_size (", self.sym_size(0),
                    ") to match target batch_size (0): target is a scalar, and input of shape ",
                    self.sym_sizes(), " needs one class index a row, of shape ",
                    c10::SymIntArrayRef(row_shape(self)),
                    self.dim() == 2 ? " (was it squeezed? target.reshape(-1) has that shape)" : "");
  TORCH_CHECK_VALUE(must_equal(self.sym_size(0), target.sym_size(0)), "Expected input batch_size (",
                    self.sym_size(0), ") to match target batch_size (", target.sym_size(0),
                    "). input has shape ", self.sym_sizes(), ", target ", target.sym_sizes());
}

// A mismatch of two shapes, first in torch's words, which depend on the number of dimensions.
[[noreturn]] void throw_other_shape(const at::Tensor& self, const at::Tensor& target) {
  const c10::SymDimVector rows = row_shape(self);
  const auto sizes = self.sym_sizes(), got = target.sym_sizes();
  if (self.dim() == 4) {
    TORCH_CHECK(target.dim() == 3,
                "only batches of spatial targets supported (3D tensors) but got targets of "
                "dimension: ",
                target.dim(), ". Expected target size ", c10::SymIntArrayRef(rows), ", got ", got,
                " (input has shape ", sizes, ")");
    TORCH_CHECK(false, "size mismatch (got input: ", sizes, " , target: ", got,
                "): Expected target size ", c10::SymIntArrayRef(rows), ", got ", got);
  }
  // Logits of language models have their classes last.
  const bool classes_last = self.dim() == 3 && target.dim() == 2 &&
                            TORCH_GUARD_OR_FALSE(sizes[0].sym_eq(got[0])) &&
                            TORCH_GUARD_OR_FALSE(sizes[1].sym_eq(got[1]));
  TORCH_CHECK(false, "Expected target size ", c10::SymIntArrayRef(rows), ", got ", got,
              " (input has shape ", sizes, ", its classes in dimension 1)",
              classes_last ? ". If the last dimension holds the classes: "
                             "cross_entropy(logits.flatten(0, 1), target.flatten())"
                           : "");
}

void check_indices(const at::Tensor& self, const at::Tensor& target) {
  if (self.dim() > 1) check_batch(self, target);
  TORCH_CHECK(self.dim() > 2 || target.dim() <= 1,
              "0D or 1D target tensor expected, multi-target not supported: input of shape ",
              self.sym_sizes(), " needs class indices of shape ",
              c10::SymIntArrayRef(row_shape(self)), " or probabilities of the shape of input, got ",
              target.sym_sizes(), " of ", target.scalar_type());
  if (self.dim() > 2 && !must_equal(target.sym_sizes(), row_shape(self)))
    throw_other_shape(self, target);
  TORCH_CHECK(at::isIntegralType(target.scalar_type(), /*includeBool=*/false) &&
                  !at::isBarebonesUnsignedType(target.scalar_type()),
              "expected target dtype to be Long, Int, Short, Char or Byte, but got ",
              target.scalar_type(),
              " (class indices are int64, int32, int16, int8 or uint8; convert with "
              "target.long())");
  TORCH_CHECK_VALUE(self.dim() > 1 || target.dim() == 0 || must_equal(target.sym_size(0), 1),
                    "For 1D input, 1D target must have size 1, but got target size: ",
                    target.dim() == 0 ? c10::SymInt(1) : target.sym_size(0), " (input of shape ",
                    self.sym_sizes(), " is one row)");
}

void check_probabilities(const at::Tensor& self, const at::Tensor& target,
                         const c10::SymInt& ignore_index) {
  TORCH_CHECK(at::isFloatingType(target.scalar_type()),
              "Expected floating point type for target with class probabilities, got ",
              target.scalar_type(), ": the target has the logits' own shape ", self.sym_sizes(),
              ". For one-hot integers pass class indices, target.argmax(1), or probabilities, "
              "target.float()");
  TORCH_CHECK(is_supported(target.scalar_type()), "fused_ce::cross_entropy: not implemented for '",
              target.scalar_type(), "' target");
  TORCH_CHECK(must_equal(self.sym_sizes(), target.sym_sizes()), "Expected target size ",
              self.sym_sizes(), ", got ", target.sym_sizes());
  TORCH_CHECK(ignore_index < 0, "ignore_index is not supported for floating point target, got ",
              ignore_index);
}

void check_weight(const Call& call, bool probabilities) {
  const at::Tensor& weight = call.weight;
  const c10::SymInt classes = call.self.sym_size(class_dim(call.self));
  TORCH_CHECK(weight.dim() == 1 && must_equal(weight.sym_size(0), classes),
              "weight tensor should be defined either for all ", classes,
              " classes or no classes but got weight tensor of shape: ", weight.sym_sizes());
  check_dense(weight, "weight");
  TORCH_CHECK(is_supported(weight.scalar_type()) ||
                  (probabilities && at::isIntegralType(weight.scalar_type(), /*includeBool=*/true)),
              "expected weight to be a floating point tensor, but found ", weight.scalar_type());
  check_device(call.self, weight, "weight");
}

// Any floating point type: it is read in the accumulate type, a number a row.
void check_row_weight(const Call& call) {
  const at::Tensor& row_weight = call.row_weight;
  const c10::SymDimVector rows = row_shape(call.self);
  check_dense(row_weight, "row_weight");
  TORCH_CHECK(is_supported(row_weight.scalar_type()),
              "expected row_weight to be a floating point tensor, but found ",
              row_weight.scalar_type());
  TORCH_CHECK(must_equal(row_weight.sym_sizes(), rows),
              "row_weight must have one factor a row, of shape ", c10::SymIntArrayRef(rows),
              ", but got shape ", row_weight.sym_sizes(), " (input has shape ",
              call.self.sym_sizes(), ")");
  check_device(call.self, row_weight, "row_weight");
}

void check_normalizer(const Call& call) {
  const at::Tensor& normalizer = call.normalizer;
  check_dense(normalizer, "normalizer");
  TORCH_CHECK(normalizer.dim() == 0,
              "normalizer must be a number or a tensor of no dimension, got "
              "a tensor of shape ",
              normalizer.sym_sizes());
  TORCH_CHECK(at::isFloatingType(normalizer.scalar_type()) ||
                  at::isIntegralType(normalizer.scalar_type(), /*includeBool=*/false),
              "expected normalizer to be a real number, but found ", normalizer.scalar_type());
  TORCH_CHECK(call.options.is_mean(),
              "normalizer is what a mean divides by, and there is none: reduction is ",
              call.options.by_row() ? "none" : "sum");
  // As everywhere in torch, a number may wait on the CPU.
  if (!normalizer.is_cpu()) check_device(call.self, normalizer, "normalizer");
}

void check_head(const at::Tensor& self, const Options& options) {
  const auto check_positive = [](double value, const char* name) {
    TORCH_CHECK(value > 0 && std::isfinite(value), name, " must be positive and finite, got ",
                value);
  };
  check_positive(options.logit_scale, "logit_scale");
  check_positive(options.temperature, "temperature");
  if (options.softcap) check_positive(*options.softcap, "softcap");
  TORCH_CHECK(std::isfinite(options.z_loss_weight), "z_loss_weight must be finite, got ",
              options.z_loss_weight);
  if (options.scale() == 1 && !options.softcap) return;
  // The kernels have these quotients in the accumulate type.
  const bool is_double = accumulate_type(self) == at::kDouble;
  const double least =
      is_double ? std::numeric_limits<double>::min() : std::numeric_limits<float>::min();
  const double most =
      is_double ? std::numeric_limits<double>::max() : std::numeric_limits<float>::max();
  const auto check_range = [&](double value, double most, const char* name) {
    TORCH_CHECK(value >= least && value <= most, name, " must lie between ", least, " and ", most,
                " for input of ", self.scalar_type(), ", got ", value);
  };
  check_range(options.scale(), most, "logit_scale / temperature");
  if (!options.softcap) return;
  check_range(options.cap(), most, "softcap / temperature");
  check_range(options.scale() / options.cap(), most / 4, "logit_scale / softcap");
}

void check_call(const Call& call) {
  const at::Tensor &self = call.self, &target = call.target;
  const Options& options = call.options;
  check_input(self, "cross_entropy");
  TORCH_CHECK_TYPE(target.defined(), "cross_entropy(): argument 'target' must be Tensor, not None");
  check_dense(target, "target");
  TORCH_CHECK(options.reduction >= at::Reduction::None && options.reduction < at::Reduction::END,
              "reduction must be 0 (none), 1 (mean) or 2 (sum), got ", options.reduction);
  TORCH_CHECK(options.label_smoothing >= 0.0 && options.label_smoothing <= 1.0,
              "label_smoothing must be between 0.0 and 1.0. Got: ", options.label_smoothing);
  check_device(self, target, "target");
  const bool probabilities = is_probabilities(self, target);
  if (probabilities) check_probabilities(self, target, options.ignore_index);
  TORCH_CHECK_INDEX(self.dim() > 0,
                    "Expected input of at least one dimension, (C) or (N, C, ...), got a scalar");
  if (!probabilities) check_indices(self, target);
  if (call.weight.defined()) check_weight(call, probabilities);
  check_head(self, options);
  if (call.row_weight.defined()) check_row_weight(call);
  if (call.normalizer.defined()) check_normalizer(call);
}

// Gradients of so many numbers.
void check_gradient(const at::Tensor& self, const at::Tensor& grad, const char* name,
                    const c10::SymDimVector& shape) {
  if (!grad.defined()) return;
  check_device(self, grad, name);
  TORCH_CHECK(grad.layout() == at::kStrided && is_supported(grad.scalar_type()) &&
                  must_equal(grad.sym_sizes(), shape),
              "fused_ce::_backward: ", name, ": expected floating point numbers of shape ",
              c10::SymIntArrayRef(shape), ", got ", grad.scalar_type(), " of shape ",
              grad.sym_sizes());
}

}  // namespace

bool is_supported(at::ScalarType type) {
  return type == at::kFloat || type == at::kDouble || type == at::kBFloat16 || type == at::kHalf;
}

bool is_probabilities(const at::Tensor& self, const at::Tensor& target) {
  const c10::SymIntArrayRef a = self.sym_sizes(), b = target.sym_sizes();
  if (a.size() != b.size()) return false;
  // Of as many dimensions, class indices are one index for one row of logits, or a mistake.
  const bool unless_known = at::isFloatingType(target.scalar_type());
  for (size_t d = 0; d < a.size(); ++d) {
    const c10::SymBool equal = a[d].sym_eq(b[d]);
    if (unless_known ? !TORCH_GUARD_OR_TRUE(equal) : !TORCH_GUARD_OR_FALSE(equal)) return false;
  }
  return true;
}

void check_input(const at::Tensor& self, const char* function) {
  TORCH_CHECK_TYPE(self.defined(), function, "(): argument 'input' must be Tensor, not None");
  check_dense(self, "input", function);
  TORCH_CHECK_NOT_IMPLEMENTED(is_supported(self.scalar_type()), "fused_ce::", function,
                              ": not implemented for '", self.scalar_type(),
                              "': input must be float32, float64, bfloat16 or float16");
}

at::ScalarType accumulate_type(const at::Tensor& self) {
  return self.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

at::ScalarType loss_type(at::ScalarType self, const Call& call) {
  if (!is_probabilities(call.self, call.target)) return self;
  const at::ScalarType type = c10::promoteTypes(self, call.target.scalar_type());
  return call.weight.defined() ? c10::promoteTypes(type, call.weight.scalar_type()) : type;
}

at::ScalarType check_forward(const Call& call, std::optional<at::ScalarType> dtype) {
  check_call(call);
  const at::ScalarType type = dtype ? *dtype : loss_type(call.self.scalar_type(), call);
  TORCH_CHECK(is_supported(type), "fused_ce::_forward: not implemented for a loss of '", type,
              "': dtype must be float32, float64, bfloat16 or float16");
  // Where the caller says what the loss is, the weights may still be what the logits are, or what
  // they are added up in.
  TORCH_CHECK(!call.weight.defined() || call.weight.scalar_type() == type ||
                  (dtype && call.weight.scalar_type() == call.self.scalar_type()) ||
                  (dtype && call.weight.scalar_type() == accumulate_type(call.self)) ||
                  is_probabilities(call.self, call.target),
              "expected scalar type ", type, " but found ", call.weight.scalar_type(),
              " (weight must have the dtype of the loss: the logits', or float under autocast)");
  return type;
}

void check_backward(const ops::Gradients& grads, const Call& call, const at::Tensor& saved,
                    const at::Tensor& total_weight) {
  check_call(call);
  const at::Tensor& self = call.self;
  const c10::SymDimVector loss = loss_shape(call), rows = row_shape(self);
  const c10::SymDimVector saved_shape = {call.options.saved_numbers(), row_count(self)};
  check_gradient(self, grads.loss, "grad_loss", loss);
  check_gradient(self, grads.z_loss, "grad_z_loss", loss);
  check_gradient(self, grads.lse, "grad_lse", rows);
  check_gradient(self, grads.entropy, "grad_entropy", rows);
  TORCH_CHECK(!grads.entropy.defined() || call.options.wants(kEntropy),
              "fused_ce::_backward: grad_entropy: return_entropy was not asked for");
  check_device(self, saved, "saved");
  TORCH_CHECK(saved.layout() == at::kStrided && saved.scalar_type() == accumulate_type(self) &&
                  must_equal(saved.sym_sizes(), saved_shape),
              "fused_ce::_backward: saved: expected what _forward saved for these logits, ",
              accumulate_type(self), " of shape ", c10::SymIntArrayRef(saved_shape), ", got ",
              saved.scalar_type(), " of shape ", saved.sym_sizes());
  if (total_weight.defined()) check_device(self, total_weight, "total_weight");
  if (!call.options.is_mean()) return;
  TORCH_CHECK(total_weight.layout() == at::kStrided && total_weight.scalar_type() == at::kDouble &&
                  total_weight.dim() == 0,
              "fused_ce::_backward: total_weight: expected one number, a double, got ",
              total_weight.scalar_type(), " of shape ", total_weight.sym_sizes());
}

void check_in_place(const Call& call) {
  const at::Tensor& self = call.self;
  const auto check_leaf = [](const at::TensorBase& owner, const char* what) {
    TORCH_CHECK(!(owner.is_leaf() && owner.requires_grad()), "in_place: input is ", what,
                "a leaf that requires grad, whose values would be lost: in_place is for logits "
                "that an operation has computed");
  };
  check_leaf(self, "");
  if (self.is_view()) check_leaf(self._base(), "a view of ");
  check_apart(self, call.target, "target");
  check_apart(self, call.weight, "weight");
  check_apart(self, call.row_weight, "row_weight");
  check_own_memory(self);
}

void check_apart(const at::Tensor& self, const at::Tensor& other, const char* name) {
  TORCH_CHECK(
      !(other.defined() && self.has_storage() && other.has_storage() && self.is_alias_of(other)),
      "in_place: ", name, " shares the memory of input, which the gradient would overwrite");
}

void check_own_memory(const at::Tensor& self) {
  TORCH_CHECK(TORCH_GUARD_OR_TRUE(self.unsafeGetTensorImpl()->sym_is_non_overlapping_and_dense()),
              "in_place: input must be dense, with a place in memory for each of its elements "
              "alone, got shape ",
              self.sym_sizes(), " with strides ", self.sym_strides());
}

}  // namespace fused_ce
