// SPDX-License-Identifier: BSD-3-Clause
// One cross entropy problem on raw pointers, and what it points into.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "array.h"

namespace fused_ce::testing {

// Where the value of (row, class) lies.
inline int64_t at(const Problem& p, const Strides& s, int64_t row, int64_t c) {
  return row / p.inner * s.outer + c * s.classes + row % p.inner * s.inner;
}

// As many classes as indices of a kind can name.
inline int64_t classes_of(TargetKind kind) {
  switch (kind) {
    case TargetKind::kInt32:
      return int64_t{1} << 31;
    case TargetKind::kInt16:
      return 1 << 15;
    case TargetKind::kInt8:
      return 1 << 7;
    case TargetKind::kUInt8:
      return 1 << 8;
    default:
      return INT64_MAX;
  }
}

struct ProblemData {
  Problem p{};
  Array logits{DType::kFloat, 0}, probabilities{DType::kFloat, 0}, weight{DType::kFloat, 0};
  Array row_weight{DType::kFloat, 0};
  std::vector<int64_t> target;        // of class indices: a row's class, or ignore_index
  std::vector<unsigned char> narrow;  // the same, unless the kernels read `target` itself
  std::vector<double> weights;        // as `weight` holds them, or ones
  double weight_sum = 0;

  ProblemData() = default;
  ProblemData(const ProblemData&) = delete;  // p points into it

  int64_t rows() const { return rows_of(p); }
  bool indices() const { return p.target_kind != TargetKind::kProbabilities; }
  double row_weight_of(int64_t row) const { return p.row_weight ? row_weight.get(row) : 1; }

  // Weight weight_of(c) of class c, or what is nearest to it in the accumulate type.
  template <class WeightOf>
  void set_weights(WeightOf weight_of, int64_t start = 0) {
    weight = Array(accumulate_type(p.dtype), p.classes, 0, start);
    weights.resize(p.classes);
    weight_sum = 0;
    for (int64_t c = 0; c < p.classes; ++c) {
      weight.set(c, weight_of(c));
      weights[c] = weight.get(c);
      weight_sum += weights[c];
    }
    p.weight = weight.data();
    p.weight_sum = &weight_sum;
  }

  // The same of rows.
  template <class WeightOf>
  void set_row_weights(WeightOf weight_of) {
    row_weight = Array(accumulate_type(p.dtype), rows());
    for (int64_t row = 0; row < rows(); ++row) row_weight.set(row, weight_of(row));
    p.row_weight = row_weight.data();
  }

  // Has the kernels read `target` as p.target_kind has it: cut off, here too, where that is
  // narrower.
  void put_targets() {
    p.target = target.data();
    const auto cut = [&](auto index) {
      narrow.resize(target.size() * sizeof index);
      for (size_t row = 0; row < target.size(); ++row) {
        target[row] = index = static_cast<decltype(index)>(target[row]);
        std::memcpy(narrow.data() + row * sizeof index, &index, sizeof index);
      }
      p.target = narrow.data();
    };
    switch (p.target_kind) {
      case TargetKind::kInt32:
        return cut(int32_t{});
      case TargetKind::kInt16:
        return cut(int16_t{});
      case TargetKind::kInt8:
        return cut(int8_t{});
      case TargetKind::kUInt8:
        return cut(uint8_t{});
      default:
        return;
    }
  }
};

}  // namespace fused_ce::testing
