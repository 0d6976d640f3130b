#include "whole.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/log1p.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <array>
#include <limits>
#include <utility>
#include <vector>

#include "../../kernels/problem.h"
#include "../arguments.h"
#include "../shapes.h"
#include "collectives.h"

namespace fused_ce::parallel {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Which of SliceSums are of use to the call: what goes over the wire.
struct Columns {
  std::vector<int64_t> sent;
  std::array<int64_t, SliceSums::kNumbers> place;  // of each number; -1: not sent
  bool has_weight_sum;

  explicit Columns(const ParallelCall& call) {
    const Options& o = call.options;
    const bool indices = !is_probabilities(call.self, call.target);
    has_weight_sum = indices && o.label_smoothing > 0;
    place.fill(-1);
    const auto send = [&](SliceSums::Number number, bool wanted) {
      if (!wanted) return;
      place[number] = static_cast<int64_t>(sent.size());
      sent.push_back(number);
    };
    send(SliceSums::kLargest, true);
    send(SliceSums::kOthers, true);
    send(SliceSums::kGap, o.wants(kEntropy));
    send(SliceSums::kTargetLogit, indices);
    send(SliceSums::kTargetWeight, indices && call.weight.defined());
    send(SliceSums::kLinear, !indices || has_weight_sum);
    send(SliceSums::kMass, !indices);
    send(SliceSums::kPrediction, o.wants(kPrediction));
  }
};

// What all processes have sent: a number (processes, rows).
class Gathered {
 public:
  Gathered(const at::Tensor& sums, const at::Tensor& weight_sum, const ParallelCall& call)
      : columns_(call) {
    std::vector<at::Tensor> sent;
    for (const int64_t number : columns_.sent) sent.push_back(sums.select(1, number));
    at::Tensor own = at::stack(sent);
    // One number a process, before the rows.
    if (columns_.has_weight_sum) own = at::cat({weight_sum.expand({own.size(0), 1}), own}, 1);
    const ParallelOptions& o = call.options;
    all_ = o.group_size == 1 ? own.unsqueeze(0) : all_gather(own, o.group_size, o.group_name);
  }

  bool has(SliceSums::Number number) const { return columns_.place[number] >= 0; }
  at::Tensor operator[](SliceSums::Number number) const {
    const at::Tensor of_rows = all_.select(1, columns_.place[number]);
    return columns_.has_weight_sum ? of_rows.slice(1, 1) : of_rows;
  }
  // (processes, 1)
  at::Tensor weight_sums() const { return all_.select(1, 0).slice(1, 0, 1); }

 private:
  Columns columns_;
  at::Tensor all_;
};

// x * y, 0 where x is, whatever y is there.
at::Tensor times(const at::Tensor& x, const at::Tensor& y) {
  return at::where(x == 0, at::scalar_tensor(0.0, x.options()), x * y);
}

// The logit z of a number that the kernels computed with, less that of another: capped logits are z
// already.
double scale_of(const ParallelCall& call) {
  if (call.options.cap() != 0) return 1;
  const double scale = call.options.scale();
  // The kernels' own roundings.
  return accumulate_type(call.self) == at::kDouble ? scale
                                                   : static_cast<double>(static_cast<float>(scale));
}

}  // namespace

RowResults exchange(const at::Tensor& sums, const at::Tensor& weight_sum,
                    const ParallelCall& call) {
  using Number = SliceSums::Number;
  const Options& o = call.options;
  const Gathered all(sums, weight_sum, call);
  const double scale = scale_of(call);
  const bool indices = all.has(Number::kTargetLogit);

  const at::Tensor largests = all[Number::kLargest];
  auto [largest, owner] = largests.max(0);                         // NaN, if any is
  const at::Tensor behind_largest = (largest - largests) * scale;  // K - K_r
  const at::Tensor factors = at::exp(-behind_largest);
  const at::Tensor others = all[Number::kOthers];
  const at::Tensor of_rests = factors * others;
  const at::Tensor of_largests = factors.scatter(0, owner.unsqueeze(0), 0.0);
  const at::Tensor sum = (of_rests + of_largests).sum(0);  // S
  const at::Tensor top = at::log1p(sum), share = 1 / (1 + sum);
  const at::Tensor z = largest * scale;
  const at::Tensor no_number = z - z;  // of an infinite logit, else 0

  RowResults rows;
  ops::ForwardResult& r = rows.result;
  const at::Tensor counts =
      indices ? call.target.reshape(-1).ne(at::Scalar(o.ignore_index)) : at::Tensor();
  const auto counted = [&](const at::Tensor& values) {
    return indices ? values.masked_fill(counts.logical_not(), 0) : values;
  };

  // What a row's loss is less its target's part: sum of q_j (K - z_j), from each process's sum of
  // q_j (K_r - z_j) and of q_j.
  const auto linear_below = [&](const at::Tensor& masses) {
    return (all[Number::kLinear] + times(masses, behind_largest)).sum(0);
  };
  at::Tensor target_or_mass, without_target = sum, loss;
  if (indices) {
    target_or_mass = all[Number::kTargetLogit].sum(0);
    const at::Tensor behind = (largest - target_or_mass) * scale;
    at::Tensor weight = counts.to(at::kDouble);
    if (all.has(Number::kTargetWeight)) weight = counted(all[Number::kTargetWeight].sum(0));
    loss = (1 - o.label_smoothing) * weight * (behind + top);
    if (all.has(Number::kLinear)) {
      const at::Tensor masses = all.weight_sums();
      rows.weights.weight_sum = masses.sum();
      loss = loss + o.label_smoothing / static_cast<double>(call.options.classes) *
                        (linear_below(masses) + rows.weights.weight_sum * top);
    }
    rows.weights.target_weight = weight;
    without_target =
        at::where(behind > 0, 1 + (sum - at::exp(-behind)).clamp_min(0), without_target);
  } else {
    const at::Tensor masses = all[Number::kMass];
    target_or_mass = masses.sum(0);
    loss = linear_below(masses) + target_or_mass * top;
  }
  r.loss = counted(loss + no_number);

  std::vector<at::Tensor> saved = {largest, without_target, target_or_mass};
  if (o.wants(kLse)) r.lse = counted(z + at::where(no_number == 0, top, 0.0));
  if (o.wants(kEntropy)) {
    const at::Tensor gaps = factors * (1 + others) * (all[Number::kGap] + behind_largest);
    const at::Tensor gap = at::where(factors == 0, 0.0, gaps).sum(0) * share;
    r.entropy = counted(top + gap + no_number);
    saved.push_back(gap);
  }
  if (o.wants(kPrediction)) {
    // The first of several.
    const at::Tensor leads = (largests == largest).logical_or(largests.isnan());
    r.prediction = at::where(leads, all[Number::kPrediction], kInfinity).amin(0).to(at::kLong);
    r.confidence = share + no_number;
  }
  r.saved = at::stack(saved).to(accumulate_type(call.self));
  return rows;
}

}  // namespace fused_ce::parallel
