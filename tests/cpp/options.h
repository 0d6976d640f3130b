// What a loss is asked for beside its logits.
#pragma once

#include <ostream>

#include "kernels/problem.h"

namespace fused_ce::testing {

struct Options {
  TargetKind targets = TargetKind::kInt64;
  bool weights = false;
  double smoothing = 0;
};

inline constexpr Options kPlain{};
inline constexpr Options kBytes{.targets = TargetKind::kUInt8};
inline constexpr Options kWeighted{.weights = true};
inline constexpr Options kSmoothed{.smoothing = 0.2};
inline constexpr Options kWeightedSmoothed{.weights = true, .smoothing = 0.2};
inline constexpr Options kProbabilities{.targets = TargetKind::kProbabilities};
inline constexpr Options kWeightedSmoothedProbabilities{
    .targets = TargetKind::kProbabilities, .weights = true, .smoothing = 0.2};

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
  constexpr const char* kTargets[] = {"int64", "uint8", "probabilities"};
  out << kTargets[static_cast<int>(options.targets)];
  if (options.weights) out << ", weights";
  if (options.smoothing > 0) out << ", smoothing";
  return out;
}

}  // namespace fused_ce::testing
