// SPDX-License-Identifier: BSD-3-Clause
#include "whole.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/log1p.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <array>
#include <limits>
#include <tuple>
#include <vector>

#include "../../kernels/problem.h"
#include "../arguments.h"
#include "../direct.h"
#include "collectives.h"
#include "leader.h"

namespace fused_ce::parallel {
namespace {

using Number = SliceSums::Number;

constexpr char kDifferentCalls[] = "fused_ce: the processes of the group have made different calls";
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Some numbers of each row, (..., rows): those of one process, or of all of them.
using Numbers = std::array<at::Tensor, Number::kNumbers>;

// What a call needs of SliceSums.
Numbers wanted_numbers(const at::Tensor& sums, const ParallelCall& call) {
  const Options& o = call.options;
  const bool indices = !is_probabilities(call.self, call.target);
  Numbers own;
  const auto take = [&](Number number, bool is_wanted) {
    if (is_wanted) own[number] = sums.select(1, number);
  };
  take(Number::kLargest, true), take(Number::kOthers, true);
  take(Number::kGap, o.wants(kEntropy)), take(Number::kPrediction, o.wants(kPrediction));
  take(Number::kTargetLogit, indices);
  take(Number::kTargetWeight, indices && call.weight.defined());
  take(Number::kLinear, !indices || o.label_smoothing > 0), take(Number::kMass, !indices);
  return own;
}

// In one tensor (numbers, 1 + rows), in which they go over the wire. Before the rows there are
// numbers of the process: `head`, as many as there are of a row at most.
at::Tensor packed(const Numbers& numbers, std::vector<at::Tensor> head) {
  std::vector<at::Tensor> defined;
  for (const at::Tensor& number : numbers) {
    if (number.defined()) defined.push_back(number);
  }
  const at::Tensor rows = at::stack(defined);
  head.resize(defined.size(), at::zeros({}, rows.options()));
  return at::cat({at::stack(head).unsqueeze(1), rows}, 1);
}
// What became of them, (..., numbers, 1 + rows), in the places that they had.
Numbers unpacked(const at::Tensor& all, const Numbers& as) {
  Numbers numbers;
  int64_t next = 0;
  for (size_t i = 0; i < numbers.size(); ++i) {
    if (as[i].defined()) numbers[i] = all.select(-2, next++).slice(-1, 1);
  }
  return numbers;
}
at::Tensor head_of(const at::Tensor& all, int64_t i) { return all.select(-2, i).select(-1, 0); }

// Throws, where the host can see them without a wait, if the processes' least and largest numbers
// of a call differ: on each of them.
void check_calls(const at::Tensor& least, const at::Tensor& largest) {
  if (!least.is_cpu() || !is_plain(least)) return;
  TORCH_CHECK_VALUE(least.item<double>() == largest.item<double>(), kDifferentCalls);
}

at::Tensor number(int64_t value, const at::Tensor& like) {
  return at::full({}, value, like.options());
}

// x * y, 0 where x is, whatever y is there.
at::Tensor times(const at::Tensor& x, const at::Tensor& y) {
  return at::where(x == 0, at::scalar_tensor(0.0, x.options()), x * y);
}

// What the difference of two numbers that the kernels computed with is as one of logits: capped
// ones are logits already.
double scale_of(const ParallelCall& call) {
  if (call.options.cap() != 0) return 1;
  const double scale = call.options.scale();
  // The kernels' own roundings.
  return accumulate_type(call.self) == at::kDouble ? scale
                                                   : static_cast<double>(static_cast<float>(scale));
}

// A process's numbers relative to the largest logit of the whole row, as SliceSums but for
//   kOthers: the sum of e^(z_j - K), less that of the leader's largest, which `leads` says,
//   kGap:    the sum of e^(z_j - K) (K - z_j).
// The sums of these over the processes are the whole row's.
Numbers relative_to(const at::Tensor& largest, const at::Tensor& leads, const Numbers& own,
                    const at::Tensor& weight_sum, double scale) {
  const at::Tensor behind = (largest - own[Number::kLargest]) * scale;
  const at::Tensor factor = at::exp(-behind), &others = own[Number::kOthers];
  Numbers result;
  result[Number::kOthers] = times(factor, others) + factor.masked_fill(leads, 0);
  if (own[Number::kGap].defined()) {
    const at::Tensor gap = factor * (1 + others) * (own[Number::kGap] + behind);
    result[Number::kGap] = at::where(factor == 0, 0.0, gap);  // infinitely far behind
  }
  if (own[Number::kLinear].defined()) {
    const at::Tensor& mass = own[Number::kMass].defined() ? own[Number::kMass] : weight_sum;
    result[Number::kLinear] = own[Number::kLinear] + times(mass, behind);
  }
  for (const Number same : {Number::kTargetLogit, Number::kTargetWeight, Number::kMass})
    result[same] = own[same];
  return result;
}

// Numbers of whole rows, (rows).
struct Whole {
  at::Tensor largest;
  at::Tensor prediction;  // the leader's, where it is asked for
  Numbers sums;           // relative_to the largest, over all processes
  at::Tensor weight_sum;
};

// Everybody gets everybody's numbers, and puts them together alike.
Whole gathered(const Numbers& own, const at::Tensor& weight_sum, const ParallelCall& call) {
  const ParallelOptions& o = call.options;
  const at::Tensor& any = own[Number::kLargest];
  const at::Tensor sent =
      packed(own, {number(o.call_id, any), weight_sum.defined() ? weight_sum : number(0, any)});
  const at::Tensor got =
      o.group_size == 1 ? sent.unsqueeze(0) : all_gather(sent, o.group_size, o.group_name);
  const at::Tensor calls = head_of(got, 0);
  check_calls(calls.min(), calls.max());
  const Numbers all = unpacked(got, own);
  at::Tensor weight_sums;  // (processes, 1)
  if (weight_sum.defined()) weight_sums = head_of(got, 1).unsqueeze(1);

  Whole whole;
  const at::Tensor& largests = all[Number::kLargest];
  at::Tensor leader;
  std::tie(whole.largest, leader) = largests.max(0);  // NaN, if any is
  const at::Tensor leads = at::zeros_like(largests, at::kBool).scatter(0, leader.unsqueeze(0), 1);
  whole.sums = relative_to(whole.largest, leads, all, weight_sums, scale_of(call));
  for (at::Tensor& sum : whole.sums) {
    if (sum.defined()) sum = sum.sum(0);
  }
  if (all[Number::kPrediction].defined()) {  // the first of several
    const at::Tensor lead = (largests == whole.largest).logical_or(largests.isnan());
    whole.prediction = at::where(lead, all[Number::kPrediction], kInfinity).amin(0);
  }
  if (weight_sum.defined()) whole.weight_sum = weight_sums.sum();
  return whole;
}

// The leader is found first, and then each adds its numbers relative to that one's.
Whole reduced(const Numbers& own, const at::Tensor& weight_sum, const ParallelCall& given) {
  const ParallelOptions& o = given.options;
  const at::Tensor place =
      own[Number::kPrediction].defined()
          ? own[Number::kPrediction]
          : at::full_like(own[Number::kLargest], static_cast<double>(o.first_class));
  const at::Tensor key = leader_key(own[Number::kLargest], place);
  const at::Tensor call = number(o.call_id, key);
  const at::Tensor most = all_max(at::cat({at::stack({call, -call}), key}), o.group_name);
  check_calls(-most.select(0, 1), most.select(0, 0));
  const at::Tensor leader = most.slice(0, 2);

  Whole whole;
  whole.largest = logit_of(leader);
  if (own[Number::kPrediction].defined()) whole.prediction = place_of(leader);
  const Numbers relative =
      relative_to(whole.largest, key == leader, own, weight_sum, scale_of(given));
  std::vector<at::Tensor> head;
  if (weight_sum.defined()) head.push_back(weight_sum);
  const at::Tensor sums = all_sum(packed(relative, head), o.group_name);
  whole.sums = unpacked(sums, relative);
  if (weight_sum.defined()) whole.weight_sum = head_of(sums, 0);
  return whole;
}

// Whether two reductions cost less than one gather: of many rows on more than two processes, for of
// a gather each has to take in what all the others have, of reductions at most twice what it gives.
// On gloo, on one machine, 4 and 8 processes gathered 8 MB in the time of the second collective;
// NVLink carries as much in that time, slower networks less. Only logits of float make a key.
bool reduces(const Numbers& own, const ParallelCall& call) {
  constexpr int64_t kMostGathered = 8 << 20;  // bytes
  const int64_t processes = call.options.group_size;
  if (processes <= 2 || accumulate_type(call.self) == at::kDouble ||
      call.options.classes > std::numeric_limits<int32_t>::max())
    return false;
  int64_t numbers = 0;
  for (const at::Tensor& number : own) numbers += number.defined();
  const int64_t bytes = processes * numbers * static_cast<int64_t>(sizeof(double));
  return TORCH_GUARD_OR_FALSE((own[Number::kLargest].sym_numel() * bytes).sym_gt(kMostGathered));
}

// The rows' results. A row that does not count has 0 for all but its prediction.
RowResults finish(const Whole& whole, const ParallelCall& call) {
  const Options& o = call.options;
  const double scale = scale_of(call);
  const at::Tensor& largest = whole.largest;
  const at::Tensor& sum = whole.sums[Number::kOthers];
  const at::Tensor& logit = whole.sums[Number::kTargetLogit];
  const bool indices = logit.defined();
  const at::Tensor top = at::log1p(sum), share = 1 / (1 + sum);
  const at::Tensor z = largest * scale;
  const at::Tensor no_number = z - z;  // of an infinite logit, else 0
  at::Tensor counts;
  if (indices) counts = call.target.reshape(-1).ne(at::Scalar(o.ignore_index));
  const auto counted = [&](const at::Tensor& values) {
    return indices ? values.masked_fill(counts.logical_not(), 0) : values;
  };

  RowResults rows;
  ops::ForwardResult& r = rows.result;
  at::Tensor loss, without_target = sum;
  if (indices) {
    const at::Tensor behind = (largest - logit) * scale;
    const at::Tensor& own_weight = whole.sums[Number::kTargetWeight];
    const at::Tensor weight = own_weight.defined() ? counted(own_weight) : counts.to(at::kDouble);
    loss = (1 - o.label_smoothing) * weight * (behind + top);
    if (whole.weight_sum.defined()) {
      const double spread = o.label_smoothing / static_cast<double>(call.options.classes);
      loss = loss + spread * (whole.sums[Number::kLinear] + whole.weight_sum * top);
    }
    rows.weights = {weight, whole.weight_sum};
    without_target =
        at::where(behind > 0, 1 + (sum - at::exp(-behind)).clamp_min(0), without_target);
  } else {
    loss = whole.sums[Number::kLinear] + whole.sums[Number::kMass] * top;
  }
  r.loss = counted(loss + no_number);
  std::vector<at::Tensor> saved = {largest, without_target,
                                   indices ? logit : whole.sums[Number::kMass]};
  if (o.wants(kLse)) r.lse = counted(z + at::where(no_number == 0, top, 0.0));
  if (o.wants(kEntropy)) {
    const at::Tensor gap = whole.sums[Number::kGap] * share;
    r.entropy = counted(top + gap + no_number);
    saved.push_back(gap);
  }
  if (o.wants(kPrediction)) {
    r.prediction = whole.prediction.to(at::kLong);
    r.confidence = share + no_number;
  }
  r.saved = at::stack(saved).to(accumulate_type(call.self));
  return rows;
}

}  // namespace

RowResults exchange(const at::Tensor& sums, const at::Tensor& weight_sum,
                    const ParallelCall& call) {
  const Numbers own = wanted_numbers(sums, call);
  return finish(
      reduces(own, call) ? reduced(own, weight_sum, call) : gathered(own, weight_sum, call), call);
}

}  // namespace fused_ce::parallel
