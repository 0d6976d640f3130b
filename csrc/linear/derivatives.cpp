// SPDX-License-Identifier: BSD-3-Clause
#include "derivatives.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "../arguments.h"
#include "../derivatives.h"
#include "chunks.h"
#include "composed.h"
#include "rows.h"

namespace fused_ce::linear {
namespace {

// Rows of a batch, to be differentiated through.
struct Part {
  c10::SymInt begin, size;
  at::Tensor of(const at::Tensor& batch, int64_t dim = 0) const {
    return batch.defined() ? batch.narrow_symint(dim, begin, size) : batch;
  }
};

// All rows at once where a trace does not know their number.
std::vector<Part> parts_of(const LinearCall& call) {
  const c10::SymInt rows = call.layer.input.sym_size(0);
  const auto known = rows.maybe_as_int();
  if (!known || !call.layer.weight.sym_size(0).maybe_as_int()) return {{0, rows}};
  const int64_t size = rows_of_chunk(call, *known);
  std::vector<Part> parts;
  for (int64_t begin = 0; begin < *known; begin += size)
    parts.push_back({begin, std::min(size, *known - begin)});
  if (parts.empty()) parts.push_back({0, 0});
  return parts;
}

// Numbers a row, 0 where it is ignored: whatever there is in its place, products have none of it.
at::Tensor counted(const at::Tensor& rows, const at::Tensor& target, const Options& options) {
  if (!rows.defined() || at::isFloatingType(target.scalar_type())) return rows;
  const at::Tensor ignored = target.to(at::kLong).eq(at::Scalar(options.ignore_index));
  return rows.masked_fill(ignored.unsqueeze(1), 0);
}

void add_to(at::Tensor& sum, const at::Tensor& term) { sum = sum.defined() ? sum + term : term; }

// The layer of some rows in the product type, and the logits it makes.
struct PartOfLayer {
  PartOfLayer(const LinearCall& call, const Layer& v, const Part& part)
      : input(counted(part.of(call.layer.input), part.of(call.target), call.options)),
        v_input(counted(part.of(v.input), part.of(call.target), call.options)),
        logits(composed::logits({input, call.layer.weight, call.layer.bias})),
        target(part.of(call.target)),
        row_weight(part.of(call.row_weight)) {
    const at::ScalarType type = logits.scalar_type();
    input = input.to(type);
    weight = call.layer.weight.to(type);
    if (v_input.defined()) v_input = v_input.to(type);
    if (v.weight.defined()) v_weight = v.weight.to(type);
    if (v.bias.defined()) v_bias = v.bias.to(type);
  }

  // What the logits change by.
  at::Tensor change() const {
    at::Tensor sum;
    if (v_input.defined()) add_to(sum, at::matmul(v_input, weight.t()));
    if (v_weight.defined()) add_to(sum, at::matmul(input, v_weight.t()));
    if (v_bias.defined()) add_to(sum, v_bias.expand_as(logits));
    return sum;
  }

  at::Tensor input, weight, v_input, v_weight, v_bias, logits, target, row_weight;
};

}  // namespace

// Here and below without autocast, whose logits would not be those that forward saw.
Results contraction(const LinearCall& call, const at::Tensor& saved, const at::Tensor& total_weight,
                    const Layer& v, const std::array<bool, ops::Gradients::kCount>& wanted) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const Options options = by_row(call.options);
  std::array<std::vector<at::Tensor>, ops::Gradients::kCount> rows;
  for (const Part& part : parts_of(call)) {
    const PartOfLayer p(call, v, part);
    const Call of_part{p.logits, p.target, call.weight, options, p.row_weight};
    const at::Tensor change = p.change(), part_saved = part.of(saved, /*dim=*/1);
    for (size_t i = 0; i < rows.size(); ++i) {
      if (wanted[i])
        rows[i].push_back(fused_ce::contraction(i, of_part, part_saved, total_weight, change));
    }
  }
  Results results;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!wanted[i]) continue;
    const at::Tensor all = at::cat(rows[i]);
    const bool is_loss = i < 2;  // or the z-loss
    results[i] = is_loss ? reduced(all, call.options, total_weight, all.scalar_type()) : all;
  }
  return results;
}

Layer curvature(const ops::Gradients& grads, const LinearCall& call, const at::Tensor& saved,
                const at::Tensor& total_weight, const Layer& v, Needs needs) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const ops::Gradients of_all = of_sums(grads, call.options, total_weight);
  const Options options = without_mean(call.options);
  const at::ScalarType own = call.layer.input.scalar_type(),
                       type = accumulate_type(call.layer.input);
  std::vector<at::Tensor> by_input;
  Layer sums;
  for (const Part& part : parts_of(call)) {
    const PartOfLayer p(call, v, part);
    const Call of_part{p.logits, p.target, call.weight, options, p.row_weight};
    const ops::Gradients given =
        part_of(of_all, call.options, [&](const at::Tensor& batch) { return part.of(batch); });
    // The gradient by the logits, and what that changes by.
    const at::Tensor g =
        fused_ce::ops::backward(given, of_part, part.of(saved, /*dim=*/1), total_weight);
    const at::Tensor h = fused_ce::curvature(given, of_part, total_weight, p.change());
    if (needs[0]) {
      at::Tensor rows = at::matmul(h, p.weight);
      if (p.v_weight.defined()) rows = rows + at::matmul(g, p.v_weight);
      by_input.push_back(rows.to(own));
    }
    if (needs[1]) {
      add_to(sums.weight, at::matmul(h.t(), p.input).to(type));
      if (p.v_input.defined()) add_to(sums.weight, at::matmul(g.t(), p.v_input).to(type));
    }
    if (needs[2]) add_to(sums.bias, h.to(type).sum(0));
  }
  Layer result;
  if (needs[0]) result.input = at::cat(by_input);
  if (needs[1]) result.weight = sums.weight.to(own);
  if (needs[2]) result.bias = sums.bias.to(own);
  return result;
}

}  // namespace fused_ce::linear
