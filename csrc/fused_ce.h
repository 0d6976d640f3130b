// SPDX-License-Identifier: BSD-3-Clause
// The C++ API of fused_ce: cross entropy with logits, fused, for LibTorch programs.
//
//   find_package(FusedCE REQUIRED)
//   target_link_libraries(app PRIVATE fused_ce::fused_ce)
//
// A program that reaches the operator only through the dispatcher (by name, or from a TorchScript
// or AOTInductor model) uses no symbol of this header; it must keep the library itself, with
// `-Wl,--no-as-needed` or by calling fused_ce::build_info().
#pragma once

#include <ATen/core/Reduction.h>
#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>
#include <c10/core/SymInt.h>
#include <torch/arg.h>
#include <torch/enum.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/options/loss.h>
#include <torch/nn/pimpl.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#if defined(_WIN32)
#define FUSED_CE_API
#else
#define FUSED_CE_API __attribute__((visibility("default")))
#endif

namespace fused_ce {

/// Cross entropy between logits and targets: `torch::nn::functional::cross_entropy` argument for
/// argument (same results, same errors, same dtype of the loss), computed in one fused pass.
///
/// `input` is (C), (N, C) or (N, C, d1, ..., dK); `target` holds class indices (int64, int32,
/// int16, int8 or uint8, the shape of `input` without C) or class probabilities (floating point,
/// the shape of `input`).
///
/// ```
/// namespace F = torch::nn::functional;
/// auto loss = fused_ce::cross_entropy(
///     logits, target, F::CrossEntropyFuncOptions().ignore_index(0).reduction(torch::kSum));
/// ```
FUSED_CE_API at::Tensor cross_entropy(
    const at::Tensor& input, const at::Tensor& target,
    const torch::nn::functional::CrossEntropyFuncOptions& options = {});

/// The same with the operator's plain arguments, like `at::cross_entropy_loss`. `reduction` is one
/// of `at::Reduction` and has no default, so that `cross_entropy(input, target, {})` means the
/// options.
FUSED_CE_API at::Tensor cross_entropy(const at::Tensor& input, const at::Tensor& target,
                                      const std::optional<at::Tensor>& weight, int64_t reduction,
                                      const c10::SymInt& ignore_index = -100,
                                      double label_smoothing = 0.0);

/// What `cross_entropy_stats` takes beside its tensors. The names and the defaults are Python's,
/// whose docstring has the formulas; tensors are undefined where there are none.
struct FUSED_CE_API CrossEntropyStatsOptions {
  using reduction_t = torch::nn::CrossEntropyLossOptions::reduction_t;

  /// One factor a class, (C).
  TORCH_ARG(at::Tensor, weight) = {};
  /// The class index whose rows do not count.
  TORCH_ARG(int64_t, ignore_index) = -100;
  /// `torch::kNone`, `torch::kMean` or `torch::kSum`.
  TORCH_ARG(reduction_t, reduction) = torch::kMean;
  /// The part of the target that is spread over all classes, in [0, 1].
  TORCH_ARG(double, label_smoothing) = 0.0;
  /// The logits are cap(logit_scale * input) / temperature, cap(v) = softcap * tanh(v / softcap).
  TORCH_ARG(double, logit_scale) = 1.0;
  TORCH_ARG(std::optional<double>, softcap) = std::nullopt;
  TORCH_ARG(double, temperature) = 1.0;
  /// What the square of the log-sum-exp adds to a row's loss with.
  TORCH_ARG(double, z_loss_weight) = 0.0;
  /// One factor a row, (N, d1, ..., dK); a mean divides by the sum of them times the classes'.
  TORCH_ARG(at::Tensor, row_weight) = {};
  /// One number, which a mean divides by instead.
  TORCH_ARG(at::Tensor, normalizer) = {};
  /// Of the loss.
  TORCH_ARG(std::optional<at::ScalarType>, dtype) = std::nullopt;
  /// The gradient overwrites the logits, whose values are lost.
  TORCH_ARG(bool, in_place) = false;
  TORCH_ARG(bool, return_lse) = false;
  TORCH_ARG(bool, return_entropy) = false;
  /// The confidence as well.
  TORCH_ARG(bool, return_prediction) = false;
};

/// Results of `cross_entropy_stats`; undefined where they were not asked for.
struct CrossEntropyStats {
  at::Tensor loss;        ///< reduced, or one a row; with the z-loss
  at::Tensor z_loss;      ///< that part of the loss, where there is a `z_loss_weight`
  at::Tensor lse;         ///< log-sum-exp of each row, differentiable; float, or double for double
  at::Tensor entropy;     ///< of each row, in nats, differentiable; of the same type
  at::Tensor prediction;  ///< the class of the largest logit, int64
  at::Tensor confidence;  ///< its probability
};

/// The loss and what else there is in the logits, in the same read of them.
///
/// ```
/// auto stats = fused_ce::cross_entropy_stats(
///     logits, target,
///     fused_ce::CrossEntropyStatsOptions().z_loss_weight(1e-4).return_entropy(true));
/// (stats.loss - 0.01 * stats.entropy.mean()).backward();
/// ```
FUSED_CE_API CrossEntropyStats cross_entropy_stats(const at::Tensor& input,
                                                   const at::Tensor& target,
                                                   const CrossEntropyStatsOptions& options = {});

/// What `predict` takes beside the logits, as above.
struct FUSED_CE_API PredictOptions {
  TORCH_ARG(double, logit_scale) = 1.0;
  TORCH_ARG(std::optional<double>, softcap) = std::nullopt;
  TORCH_ARG(double, temperature) = 1.0;
};

/// Results of `predict`, as in CrossEntropyStats.
struct Prediction {
  at::Tensor prediction, confidence, lse, entropy;
};

/// The class of the largest logit of each row, its probability, the log-sum-exp and the entropy, in
/// one read of the logits.
FUSED_CE_API Prediction predict(const at::Tensor& input, const PredictOptions& options = {});

/// What `linear_cross_entropy` takes beside its tensors, as above.
struct FUSED_CE_API LinearCrossEntropyOptions {
  using reduction_t = torch::nn::CrossEntropyLossOptions::reduction_t;

  /// (C), or (C, d1, ..., dk).
  TORCH_ARG(at::Tensor, linear_bias) = {};
  TORCH_ARG(at::Tensor, weight) = {};
  TORCH_ARG(int64_t, ignore_index) = -100;
  TORCH_ARG(reduction_t, reduction) = torch::kMean;
  TORCH_ARG(double, label_smoothing) = 0.0;
  /// Of how many rows the logits are there at a time; nullopt: as many as 32 MiB hold, at least
  /// 128.
  TORCH_ARG(std::optional<int64_t>, chunk_rows) = std::nullopt;
};

/// The cross entropy of `linear(input, linear_weight, linear_bias)`, whose outputs are there for a
/// chunk of rows at a time: no tensor of N x C numbers is made, in forward or in backward.
///
/// `input` is (*, K), `linear_weight` (C, K), of one dtype; `target` holds class indices of shape
/// (*) or class probabilities of shape (*, C). Or as in torch, `input` (N, K), `linear_weight`
/// (C, d1, ..., dk, K) and `target` (N, d1, ..., dk) or (N, C, d1, ..., dk), with all logits at
/// once.
///
/// ```
/// auto loss = fused_ce::linear_cross_entropy(hidden, head->weight, next_tokens);
/// ```
FUSED_CE_API at::Tensor linear_cross_entropy(const at::Tensor& input,
                                             const at::Tensor& linear_weight,
                                             const at::Tensor& target,
                                             const LinearCrossEntropyOptions& options = {});

/// The same for `linear_cross_entropy_stats`; what they mean, CrossEntropyStatsOptions says.
struct FUSED_CE_API LinearCrossEntropyStatsOptions {
  using reduction_t = torch::nn::CrossEntropyLossOptions::reduction_t;

  TORCH_ARG(at::Tensor, linear_bias) = {};
  TORCH_ARG(at::Tensor, weight) = {};
  TORCH_ARG(int64_t, ignore_index) = -100;
  TORCH_ARG(reduction_t, reduction) = torch::kMean;
  TORCH_ARG(double, label_smoothing) = 0.0;
  TORCH_ARG(double, logit_scale) = 1.0;
  TORCH_ARG(std::optional<double>, softcap) = std::nullopt;
  TORCH_ARG(double, temperature) = 1.0;
  TORCH_ARG(double, z_loss_weight) = 0.0;
  /// One factor a row, (*).
  TORCH_ARG(at::Tensor, row_weight) = {};
  TORCH_ARG(at::Tensor, normalizer) = {};
  TORCH_ARG(std::optional<at::ScalarType>, dtype) = std::nullopt;
  TORCH_ARG(bool, return_lse) = false;
  TORCH_ARG(bool, return_entropy) = false;
  TORCH_ARG(bool, return_prediction) = false;
  TORCH_ARG(std::optional<int64_t>, chunk_rows) = std::nullopt;
};

/// `cross_entropy_stats` of the layer's outputs, likewise; statistics are of shape (*).
FUSED_CE_API CrossEntropyStats linear_cross_entropy_stats(
    const at::Tensor& input, const at::Tensor& linear_weight, const at::Tensor& target,
    const LinearCrossEntropyStatsOptions& options = {});

/// Losses whose classes are shared out to the processes of a c10d group: each has the logits, or
/// the rows of a layer's weight, of some of them, and all have the targets. Python's docstrings
/// (`fused_ce.distributed`) say what is exchanged.
namespace distributed {

/// Which of the classes this process has, and who has the others. Nobody checks that the processes'
/// slices fit together.
struct FUSED_CE_API Slice {
  int64_t first_class;     ///< of this process's, counted over all
  int64_t classes;         ///< of all processes
  int64_t group_size;      ///< how many processes there are
  std::string group_name;  ///< what `c10d::register_process_group`, which keeps none, knows them by
};

/// `cross_entropy_stats` of the logits of all processes, joined along the classes: the same on
/// each. `input` and `options.weight()` are of this process's classes, and so are class
/// probabilities; class indices count over all. `options.in_place()` is refused.
///
/// ```
/// c10d::register_process_group("vocabulary", group);
/// auto stats = fused_ce::distributed::cross_entropy_stats(
///     logits, target, {rank * logits.size(1), vocabulary, group->getSize(), "vocabulary"});
/// ```
FUSED_CE_API CrossEntropyStats cross_entropy_stats(const at::Tensor& input,
                                                   const at::Tensor& target, const Slice& slice,
                                                   const CrossEntropyStatsOptions& options = {});

/// `linear_cross_entropy_stats` likewise: `input` is the same on all processes, `linear_weight` of
/// this one's classes.
FUSED_CE_API CrossEntropyStats linear_cross_entropy_stats(
    const at::Tensor& input, const at::Tensor& linear_weight, const at::Tensor& target,
    const Slice& slice, const LinearCrossEntropyStatsOptions& options = {});

}  // namespace distributed

/// The module behind `fused_ce::CrossEntropyLoss`; mirrors `torch::nn::CrossEntropyLossImpl`.
class FUSED_CE_API CrossEntropyLossImpl : public torch::nn::Cloneable<CrossEntropyLossImpl> {
 public:
  explicit CrossEntropyLossImpl(torch::nn::CrossEntropyLossOptions loss_options = {});

  /// Registers `weight` as a buffer, so that it moves, clones and serialises with the module.
  void reset() override;

  /// Prints `fused_ce::CrossEntropyLoss()`.
  void pretty_print(std::ostream& stream) const override;

  at::Tensor forward(const at::Tensor& input, const at::Tensor& target);

  // Public members, as in torch::nn::CrossEntropyLossImpl: code written for that one compiles here.
  torch::nn::CrossEntropyLossOptions options;
  at::Tensor weight;
};

/// A swap-in for `torch::nn::CrossEntropyLoss`, with the same options:
///
/// ```
/// fused_ce::CrossEntropyLoss criterion(torch::nn::CrossEntropyLossOptions().label_smoothing(0.1));
/// criterion(model(images), labels).backward();
/// ```
TORCH_MODULE(CrossEntropyLoss);

/// What this library was built from, and what it runs on.
struct BuildInfo {
  std::string version;         ///< of fused_ce
  std::string torch;           ///< the torch it was compiled against
  std::string compiler;        ///< name and version
  std::string cpu_capability;  ///< the instruction set in use: default, avx2, avx512...
  std::vector<std::string> cpu_capabilities;  ///< all that were built and that this machine runs
  std::string bfloat16_products;  ///< what linear layers of bfloat16 are multiplied in on the CPU
  bool openmp;                    ///< false: every call runs on one thread
  bool cuda;                      ///< whether CUDA kernels were built
  std::string cuda_version;       ///< of the toolkit that compiled them, or empty
  std::vector<std::string> cuda_architectures;  ///< sm_90: machine code; compute_120: PTX
};

FUSED_CE_API BuildInfo build_info();

/// Gives back to the system the memory that is kept for the next gradient.
///
/// On Linux, when a gradient of 4 MB or more on the CPU is freed, its memory is kept, for the next
/// one to find its pages there: one block a process. The system may take the pages of an idle block
/// whenever it needs them, so this is for programs that want `kept_bytes()` to be 0, or want it
/// now. `FUSED_CE_KEEP_MEMORY=0` in the environment (read once) keeps nothing, and neither does a
/// process whose address space is limited (`ulimit -v`).
FUSED_CE_API void empty_cache();

/// The size of what is kept at the moment: in this process, and not in use.
FUSED_CE_API size_t kept_bytes();

}  // namespace fused_ce
