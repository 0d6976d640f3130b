// One cross entropy problem on raw pointers, and what it points into.
#pragma once

#include <cstdint>
#include <vector>

#include "array.h"

namespace fused_ce::testing {

// Where the value of (row, class) lies.
inline int64_t at(const Problem& p, const Strides& s, int64_t row, int64_t c) {
  return row / p.inner * s.outer + c * s.classes + row % p.inner * s.inner;
}

struct ProblemData {
  Problem p{};
  Array logits{DType::kFloat, 0}, probabilities{DType::kFloat, 0}, weight{DType::kFloat, 0};
  std::vector<int64_t> target;  // of class indices: a row's class, or ignore_index
  std::vector<double> weights;  // as `weight` holds them, or ones
  double weight_sum = 0;

  ProblemData() = default;
  ProblemData(const ProblemData&) = delete;  // p points into it

  int64_t rows() const { return rows_of(p); }

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
};

}  // namespace fused_ce::testing
