// SPDX-License-Identifier: BSD-3-Clause
// A fuzzer's bytes as a cross entropy problem: every layout, option and value that the kernels
// promise to take, and class indices that they promise to refuse.
#pragma once

#include <algorithm>

#include "bytes.h"
#include "tests/cpp/formula.h"
#include "tests/cpp/options.h"

namespace fused_ce::testing {

// Where loops, tiles, blocks and vectors end.
inline constexpr int64_t kClassCounts[] = {0,   1,   2,   3,   4,   5,   8,    9,    16,   17,
                                           31,  32,  33,  48,  49,  63,  64,   65,   127,  128,
                                           129, 255, 256, 257, 511, 513, 1025, 2049, 4097, 16391};
inline constexpr int64_t kInnerCounts[] = {1, 1,  1,  1,  2,  3,   7,   8,
                                           9, 16, 31, 32, 36, 128, 512, 513};
inline constexpr int64_t kOuterCounts[] = {1, 1, 2, 3, 5, 16, 17, 127, 129, 0, 2048, 8000};
inline constexpr double kScales[] = {1, 3, 0, 1e-3, 10, 40, 300, 1e4};
inline constexpr double kOffsets[] = {0,    0,   1,     -50, 88,   -88,  256,
                                      -257, 800, -3000, 3e4, 1e30, -1e30};
inline constexpr double kSmoothings[] = {0, 0, 0.1, 0.5, 1, 1e-8};
inline constexpr TargetKind kTargetKinds[] = {TargetKind::kInt64, TargetKind::kUInt8,
                                              TargetKind::kProbabilities};
inline constexpr TargetKind kSignedKinds[] = {TargetKind::kInt64, TargetKind::kInt32,
                                              TargetKind::kInt16, TargetKind::kInt8};
inline constexpr double kLogitScales[] = {1, 0.7, 2.5, 1e-3, 40};
inline constexpr double kCaps[] = {0, 30, 2, 1e3, 1e-2};
inline constexpr double kZLossWeights[] = {0, 1e-4, 1, -0.5};
// Logits beyond it are not scaled, nor asked for more than their loss: a square overflows.
inline constexpr double kLargestOfAHead = 1e15;
// Enough for some rows so long that CUDA cuts them into slices.
inline constexpr int64_t kMostLogits = 80000;

inline int64_t span_of(const Strides& s, const Problem& p) {
  if (p.outer == 0 || p.classes == 0 || p.inner == 0) return 0;
  return (p.outer - 1) * s.outer + (p.classes - 1) * s.classes + (p.inner - 1) * s.inner + 1;
}

// The axes in any order, with or without gaps. To be read: expanded or overlapping as well.
inline Strides fuzzed_strides(Bytes& bytes, const Problem& p, bool written) {
  Strides s{};
  struct Axis {
    int64_t size;
    int64_t* stride;
  } axes[] = {{p.inner, &s.inner}, {p.classes, &s.classes}, {p.outer, &s.outer}};
  std::swap(axes[0], axes[bytes.below(3)]);
  std::swap(axes[1], axes[1 + bytes.below(2)]);
  int64_t step = bytes.one_in(4) ? 2 : 1;
  for (const Axis& axis : axes) {
    *axis.stride = step;
    step = step * std::max<int64_t>(axis.size, 1) + (bytes.one_in(4) ? bytes.below(5) : 0);
  }
  if (!written && bytes.one_in(4)) *axes[bytes.below(3)].stride = bytes.below(3);
  return s;
}

// `target` of a row that is out of range is ignore_index: it counts for nothing.
struct FuzzedProblem : ProblemData {
  Strides grad_strides;
  Array row_grads{DType::kFloat, 0};
  Asked asked;
  Array z_loss_grads{DType::kFloat, 0}, lse_grads{DType::kFloat, 0},
      entropy_grads{DType::kFloat, 0};
  bool has_grad = true;
  bool in_place = false;  // the gradient takes the place of (a copy of) the logits
  int64_t first_bad = kNoBadRow;
  double total_weight = 1;
  bool one_grad = false, divided = false, streamed;
  int64_t grad_start;
  DType loss_dtype;
  Reduction reduction;

  explicit FuzzedProblem(Bytes bytes) {
    p.dtype = static_cast<DType>(bytes.below(4));
    p.target_kind = bytes.one_of(kTargetKinds);
    p.label_smoothing = bytes.one_of(kSmoothings);
    choose_shape(bytes);
    p.logits_strides = fuzzed_strides(bytes, p, /*written=*/false);
    grad_strides = bytes.one_in(2) ? Strides{p.classes * p.inner, p.inner, 1}
                                   : fuzzed_strides(bytes, p, /*written=*/true);
    loss_dtype = static_cast<DType>(bytes.below(4));
    reduction = static_cast<Reduction>(bytes.below(3));
    streamed = bytes.one_in(2);
    grad_start = bytes.below(8);
    fill_weights(bytes);
    fill_logits(bytes);
    fill_targets(bytes);
    fill_row_grads(bytes);
    // Last: where the bytes run out there is the loss alone, so that older inputs stay what they
    // were.
    choose_head(bytes);
    if (indices()) take_targets();
  }

  RowGrads grads_of(int64_t row) const {
    const auto of_loss = [&](const Array& grads) {
      return grads.get(one_grad ? 0 : row) / (divided ? total_weight : 1);
    };
    return {has_grad ? of_loss(row_grads) : 0, asked.z_loss ? of_loss(z_loss_grads) : 0,
            asked.lse ? lse_grads.get(row) : 0, asked.entropy ? entropy_grads.get(row) : 0};
  }

 private:
  void choose_shape(Bytes& bytes) {
    p.classes = bytes.one_in(2) ? bytes.one_of(kClassCounts) : bytes.below(700);
    p.inner = bytes.one_in(2) ? bytes.one_of(kInnerCounts) : 1 + bytes.below(60);
    p.outer = bytes.one_in(2) ? bytes.one_of(kOuterCounts) : bytes.below(20);
    // Most problems are small, so that many are tried.
    const bool large = bytes.one_in(8);
    if (large && bytes.one_in(4)) p.classes = 16384 + bytes.below(700);
    const int64_t most = large ? kMostLogits : 2048;
    p.classes = std::min(p.classes, most);
    p.inner = std::min(p.inner, most / std::max<int64_t>(p.classes, 1));
    p.outer = std::min(p.outer, most / std::max<int64_t>(p.classes * p.inner, 1));
  }

  void fill_weights(Bytes& bytes) {
    weights.assign(p.classes, 1.0);
    if (bytes.one_in(2)) return;
    const int64_t start = bytes.below(4);
    Random random(bytes.below(256));
    const bool some_zero = bytes.one_in(4), some_negative = bytes.one_in(8);
    const auto weight_of = [&](int64_t) {
      double w = 0.5 + random.uniform();
      if (some_zero && random.uniform() < 0.3) w = 0;
      if (some_negative && random.uniform() < 0.3) w = -w;
      return w;
    };
    set_weights(weight_of, start);
  }

  void fill_logits(Bytes& bytes) {
    const double infinity = std::numeric_limits<double>::infinity();
    // A linear sum of far larger logits overflows, as torch's does.
    const bool linear = !indices() || p.label_smoothing > 0;
    const double limit = p.dtype == DType::kHalf     ? 65504
                         : linear                    ? 1e30
                         : p.dtype == DType::kDouble ? std::numeric_limits<double>::max()
                                                     : 3.3e38;
    logits = Array(p.dtype, span_of(p.logits_strides, p), 0, bytes.one_in(2) ? 0 : bytes.below(16));
    p.logits = logits.data();
    Random random(bytes.below(65536));
    const double scale = bytes.one_of(kScales), offset = bytes.one_of(kOffsets);
    for (int64_t i = 0; i < logits.size(); ++i)
      logits.set(i, std::clamp(offset + scale * random.normal(), -limit, limit));
    const double special[] = {-infinity, infinity, std::nan(""), limit,       -limit, 0,
                              -0.0,      40,       95,           -104,        500,    -1000,
                              1e-40,     3e4,      offset + 88,  offset - 100};
    for (int64_t n = bytes.one_in(2) ? bytes.below(12) : 0; n > 0 && logits.size() > 0; --n) {
      const double value = bytes.one_of(special);
      const double chosen = std::isfinite(value) ? std::clamp(value, -limit, limit) : value;
      if (bytes.one_in(4)) {  // a class of all rows, or a run of them, as a mask does it
        const int64_t first = bytes.below(p.classes);
        const int64_t end = first + 1 + (bytes.one_in(2) ? bytes.below(p.classes - first) : 0);
        for (int64_t row = 0; row < rows(); ++row) {
          for (int64_t c = first; c < end; ++c) logits.set(at(p, p.logits_strides, row, c), chosen);
        }
      } else {
        logits.set(bytes.below(logits.size()), chosen);
      }
    }
  }

  void fill_targets(Bytes& bytes) {
    if (!indices()) return fill_probabilities(bytes);
    const int64_t wrong[] = {-1,   p.classes, INT64_MAX, INT64_MIN, int64_t{1} << 32, p.classes + 1,
                             -100, 255};
    const int64_t ignorable[] = {-100,          -1,        0,   p.classes / 2,
                                 p.classes - 1, p.classes, 255, INT64_MIN};
    p.ignore_index = bytes.one_of(ignorable);
    Random random(bytes.below(256));
    const double ignored = bytes.one_in(4) ? 0.5 : 0.05;
    target.resize(rows());
    for (int64_t& y : target) {
      y = random.uniform() < ignored || p.classes == 0
              ? p.ignore_index
              : std::min(static_cast<int64_t>(random.uniform() * static_cast<double>(p.classes)),
                         p.classes - 1);
    }
    for (int64_t n = bytes.one_in(4) ? bytes.below(4) : 0; n > 0 && rows() > 0; --n)
      target[bytes.below(rows())] = bytes.one_of(wrong);
  }

  // As the kernels read them; those out of range count for nothing.
  void take_targets() {
    if (p.target_kind == TargetKind::kInt64) {
      targets_ = target;
      p.target = targets_.data();
    } else {
      put_targets();
    }
    for (int64_t row = 0; row < rows(); ++row) {
      int64_t& y = target[row];
      if (y == p.ignore_index || (y >= 0 && y < p.classes)) continue;
      if (first_bad < 0) first_bad = row;
      y = p.ignore_index;
    }
  }

  void fill_probabilities(Bytes& bytes) {
    p.target_dtype = static_cast<DType>(bytes.below(4));
    p.target_strides = fuzzed_strides(bytes, p, /*written=*/false);
    probabilities = Array(p.target_dtype, span_of(p.target_strides, p), 0, bytes.below(4));
    p.target = probabilities.data();
    Random random(bytes.below(256));
    const double zero = bytes.one_in(2) ? 0.9 : 0;
    const bool some_negative = bytes.one_in(8);
    for (int64_t i = 0; i < probabilities.size(); ++i) {
      const double t = random.uniform() < zero ? 0 : random.uniform();
      probabilities.set(i, some_negative ? t - 0.5 : t);
    }
  }

  void fill_row_grads(Bytes& bytes) {
    Random random(bytes.below(256));
    one_grad = bytes.one_in(2);
    row_grads = Array(static_cast<DType>(bytes.below(4)), one_grad ? 1 : rows());
    for (int64_t i = 0; i < row_grads.size(); ++i) row_grads.set(i, random.normal());
    divided = bytes.one_in(2);
    total_weight = 0.25 + random.uniform();
  }

  void choose_head(Bytes& bytes) {
    if (p.target_kind == TargetKind::kInt64) p.target_kind = bytes.one_of(kSignedKinds);
    in_place = bytes.one_in(3) && are_apart();
    if (in_place) grad_strides = p.logits_strides;
    double largest = 0;
    for (int64_t i = 0; i < logits.size(); ++i) {
      if (std::isfinite(logits.get(i))) largest = std::max(largest, std::fabs(logits.get(i)));
    }
    if (largest > kLargestOfAHead || p.classes == 0) return;
    p.scale = bytes.one_of(kLogitScales);
    p.cap = bytes.one_of(kCaps);
    p.z_loss_weight = bytes.one_of(kZLossWeights);
    const int64_t some = bytes.below(32);
    asked = {(some & 1) != 0, (some & 2) != 0, (some & 4) != 0, (some & 8) != 0, (some & 16) != 0};
    Random random(bytes.below(256));
    const bool weighted = bytes.one_in(3);
    if (weighted)
      set_row_weights([&](int64_t row) { return row % 7 == 3 ? 0 : 0.5 + random.uniform(); });
    has_grad = !bytes.one_in(4);
    z_loss_grads = Array(row_grads.type(), row_grads.size());
    for (int64_t i = 0; i < z_loss_grads.size(); ++i) z_loss_grads.set(i, random.normal());
    lse_grads = entropy_grads = Array(accumulate_type(p.dtype), rows());
    for (int64_t row = 0; row < rows(); ++row) {
      lse_grads.set(row, random.normal());
      entropy_grads.set(row, random.normal());
    }
  }

  // Whether no two logits share their memory.
  bool are_apart() const {
    std::vector<bool> taken(logits.size());
    for (int64_t row = 0; row < rows(); ++row) {
      for (int64_t c = 0; c < p.classes; ++c) {
        auto place = taken[at(p, p.logits_strides, row, c)];
        if (place) return false;
        place = true;
      }
    }
    return true;
  }

  std::vector<int64_t> targets_;
};

}  // namespace fused_ce::testing
