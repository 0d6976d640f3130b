#include "arguments.h"

#include <ATen/core/Reduction.h>
#include <c10/core/ScalarType.h>
#include <c10/util/Exception.h>

namespace fused_ce {
namespace {

bool is_supported(at::ScalarType type) {
  return type == at::kFloat || type == at::kDouble || type == at::kBFloat16 || type == at::kHalf;
}

void check_dense(const at::Tensor& tensor, const char* name) {
  TORCH_CHECK_NOT_IMPLEMENTED(tensor.layout() == at::kStrided && !tensor.is_quantized(),
                              "fused_ce::cross_entropy: ", name,
                              " must be a dense, unquantized tensor, got layout ", tensor.layout(),
                              " and dtype ", tensor.scalar_type());
}

void check_indices(const at::Tensor& self, const at::Tensor& target) {
  const bool batched = self.dim() > 1;
  TORCH_CHECK_VALUE(!batched || (target.dim() > 0 && self.sym_size(0) == target.sym_size(0)),
                    "Expected input batch_size (", self.sym_size(0),
                    ") to match target batch_size (",
                    target.dim() > 0 ? target.sym_size(0) : c10::SymInt(1), ").");
  TORCH_CHECK(target.scalar_type() == at::kLong || target.scalar_type() == at::kByte,
              "expected target dtype to be Long or Byte, but got ", target.scalar_type(),
              " (class indices are int64 or uint8; convert with target.long())");
  if (!batched) {
    TORCH_CHECK(target.dim() <= 1, "Expected target of logits of shape ", self.sym_sizes(),
                " to be one class index, of 0 or 1 dimensions, got shape ", target.sym_sizes());
    TORCH_CHECK_VALUE(target.dim() == 0 || target.sym_size(0) == 1,
                      "Expected target of logits of shape ", self.sym_sizes(),
                      " to be one class index, got shape ", target.sym_sizes());
    return;
  }
  c10::SymDimVector expected(self.sym_sizes().begin(), self.sym_sizes().end());
  expected.erase(expected.begin() + 1);
  TORCH_CHECK(target.sym_sizes().equals(expected), "Expected target size ",
              c10::SymIntArrayRef(expected), ", got ", target.sym_sizes(), " (logits have shape ",
              self.sym_sizes(), ")");
}

void check_weight(const at::Tensor& self, const at::Tensor& weight, bool probabilities,
                  bool same_dtype) {
  const c10::SymInt classes = self.sym_size(self.dim() > 1 ? 1 : 0);
  TORCH_CHECK(weight.dim() == 1 && weight.sym_size(0) == classes,
              "weight tensor should be defined either for all ", classes,
              " classes or no classes but got weight tensor of shape: ", weight.sym_sizes());
  check_dense(weight, "weight");
  TORCH_CHECK(!same_dtype || weight.scalar_type() == self.scalar_type(), "expected scalar type ",
              self.scalar_type(), " but found ", weight.scalar_type(),
              " (weight must have the logits' dtype)");
  TORCH_CHECK(is_supported(weight.scalar_type()) ||
                  (probabilities && at::isIntegralType(weight.scalar_type(), /*includeBool=*/true)),
              "expected weight to be a floating point tensor, but found ", weight.scalar_type());
  TORCH_CHECK(weight.device() == self.device(),
              "Expected all tensors to be on the same device, but weight is on ", weight.device(),
              " and input is on ", self.device());
}

}  // namespace

bool is_probabilities(const at::Tensor& self, const at::Tensor& target) {
  return self.sym_sizes().equals(target.sym_sizes());
}

at::ScalarType accumulate_type(const at::Tensor& self) {
  return self.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

at::ScalarType loss_type(const at::Tensor& self, const at::Tensor& target,
                         const std::optional<at::Tensor>& weight) {
  at::ScalarType type = self.scalar_type();
  if (!is_probabilities(self, target)) return type;
  type = c10::promoteTypes(type, target.scalar_type());
  return weight ? c10::promoteTypes(type, weight->scalar_type()) : type;
}

void check_arguments(const at::Tensor& self, const at::Tensor& target,
                     const std::optional<at::Tensor>& weight, int64_t reduction,
                     const c10::SymInt& ignore_index, double label_smoothing,
                     bool same_weight_dtype) {
  TORCH_CHECK_TYPE(self.defined(), "cross_entropy(): argument 'input' must be Tensor, not None");
  TORCH_CHECK_TYPE(target.defined(), "cross_entropy(): argument 'target' must be Tensor, not None");
  check_dense(self, "input");
  check_dense(target, "target");
  TORCH_CHECK_NOT_IMPLEMENTED(is_supported(self.scalar_type()),
                              "fused_ce::cross_entropy: not implemented for '", self.scalar_type(),
                              "': input must be float32, float64, bfloat16 or float16");
  TORCH_CHECK(reduction >= at::Reduction::None && reduction < at::Reduction::END,
              "reduction must be 0 (none), 1 (mean) or 2 (sum), got ", reduction);
  TORCH_CHECK(label_smoothing >= 0.0 && label_smoothing <= 1.0,
              "label_smoothing must be between 0.0 and 1.0. Got: ", label_smoothing);
  TORCH_CHECK(target.device() == self.device(),
              "Expected all tensors to be on the same device, but target is on ", target.device(),
              " and input is on ", self.device());
  const bool probabilities = is_probabilities(self, target);
  if (probabilities) {
    TORCH_CHECK(at::isFloatingType(target.scalar_type()),
                "Expected floating point type for target with class probabilities, got ",
                target.scalar_type(), ": the target has the logits' own shape ", self.sym_sizes(),
                ". For one-hot integers pass class indices, target.argmax(1), or probabilities, "
                "target.float()");
    TORCH_CHECK(is_supported(target.scalar_type()),
                "fused_ce::cross_entropy: not implemented for '", target.scalar_type(), "' target");
    TORCH_CHECK(ignore_index < 0, "ignore_index is not supported for floating point target, got ",
                ignore_index);
  }
  TORCH_CHECK_INDEX(self.dim() > 0,
                    "Expected input of at least one dimension, (C) or (N, C, ...), got a scalar");
  if (!probabilities) check_indices(self, target);
  if (weight) check_weight(self, *weight, probabilities, same_weight_dtype && !probabilities);
}

}  // namespace fused_ce
