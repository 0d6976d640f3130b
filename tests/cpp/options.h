// SPDX-License-Identifier: BSD-3-Clause
// What a loss is asked for beside its logits.
#pragma once

#include <ostream>

#include "kernels/problem.h"

namespace fused_ce::testing {

// Which numbers a row.
struct Asked {
  bool z_loss = false, lse = false, entropy = false, prediction = false, confidence = false;

  // Of the results, those that were asked for.
  Statistics of(Statistics all) const {
    if (!z_loss) all.z_loss = nullptr;
    if (!lse) all.lse = nullptr;
    if (!entropy) all.entropy = nullptr;
    if (!prediction) all.prediction = nullptr;
    if (!confidence) all.confidence = nullptr;
    return all;
  }
  // `gap` where backward may need it.
  void* gap(void* gap) const { return entropy ? gap : nullptr; }
  bool statistics() const { return entropy || prediction || confidence; }
};
inline constexpr Asked kNothing{};
inline constexpr Asked kAll{true, true, true, true, true};

struct Options {
  TargetKind targets = TargetKind::kInt64;
  bool weights = false;
  double smoothing = 0;
  double scale = 1, cap = 0;
  double z_loss_weight = 0;
  bool row_weights = false;
  Asked asked{};
};

inline constexpr Options kPlain{};
inline constexpr Options kBytes{.targets = TargetKind::kUInt8};
inline constexpr Options kWeighted{.weights = true};
inline constexpr Options kSmoothed{.smoothing = 0.2};
inline constexpr Options kWeightedSmoothed{.weights = true, .smoothing = 0.2};
inline constexpr Options kProbabilities{.targets = TargetKind::kProbabilities};
inline constexpr Options kWeightedSmoothedProbabilities{
    .targets = TargetKind::kProbabilities, .weights = true, .smoothing = 0.2};

// A loss head's: each alone, and all at once.
inline constexpr Options kScaled{.scale = 0.7};
inline constexpr Options kCapped{.scale = 1.3, .cap = 5};
inline constexpr Options kZLoss{.z_loss_weight = 0.1, .asked = {.z_loss = true}};
inline constexpr Options kRowWeights{.row_weights = true};
inline constexpr Options kLse{.asked = {.lse = true}};
inline constexpr Options kEntropy{.asked = {.entropy = true}};
inline constexpr Options kPrediction{.asked = {.prediction = true}};
inline constexpr Options kConfidence{.asked = {.confidence = true}};
inline constexpr Options kEvaluation{
    .asked = {.lse = true, .prediction = true, .confidence = true}};
inline constexpr Options kStatistics{.asked = kAll};
inline constexpr Options kSmoothedStatistics{.smoothing = 0.2, .asked = kAll};
inline constexpr Options kHead{.weights = true,
                               .smoothing = 0.2,
                               .scale = 1.3,
                               .cap = 5,
                               .z_loss_weight = 0.1,
                               .row_weights = true,
                               .asked = kAll};
inline constexpr Options kHeadOfProbabilities{.targets = TargetKind::kProbabilities,
                                              .weights = true,
                                              .smoothing = 0.2,
                                              .scale = 0.7,
                                              .z_loss_weight = 0.1,
                                              .row_weights = true,
                                              .asked = kAll};
inline constexpr Options kInt32s{.targets = TargetKind::kInt32};
inline constexpr Options kInt16s{.targets = TargetKind::kInt16};
inline constexpr Options kInt8s{.targets = TargetKind::kInt8};

inline constexpr Options kEveryHead[] = {
    kScaled,     kCapped,     kZLoss,      kRowWeights,         kLse,  kEntropy,
    kPrediction, kConfidence, kStatistics, kSmoothedStatistics, kHead, kHeadOfProbabilities,
    kInt32s,     kInt16s,     kInt8s,
};

inline constexpr Options kEveryOption[] = {
    kPlain,
    kBytes,
    kWeighted,
    kSmoothed,
    kWeightedSmoothed,
    kProbabilities,
    kWeightedSmoothedProbabilities,
};

inline std::ostream& operator<<(std::ostream& out, const Options& options) {
  constexpr const char* kTargets[] = {"int64", "int32", "int16", "int8", "uint8", "probabilities"};
  out << kTargets[static_cast<int>(options.targets)];
  if (options.weights) out << ", weights";
  if (options.smoothing > 0) out << ", smoothing";
  if (options.scale != 1) out << ", scale " << options.scale;
  if (options.cap > 0) out << ", cap " << options.cap;
  if (options.z_loss_weight != 0) out << ", z-loss";
  if (options.row_weights) out << ", row weights";
  const Asked& asked = options.asked;
  if (asked.z_loss) out << ", asked for z-loss";
  if (asked.lse) out << ", asked for lse";
  if (asked.entropy) out << ", asked for entropy";
  if (asked.prediction) out << ", asked for prediction";
  if (asked.confidence) out << ", asked for confidence";
  return out;
}

}  // namespace fused_ce::testing
