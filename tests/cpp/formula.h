// One cross entropy problem on raw pointers, and its answer by the formula in long double: with x87
// that has 11 bits more than the double kernels that it judges.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "kernels/problem.h"

namespace fused_ce::testing {

inline double epsilon(DType type) {
  switch (type) {
    case DType::kDouble:
      return 0x1p-52;
    case DType::kFloat:
      return 0x1p-23;
    case DType::kHalf:
      return 0x1p-10;
    default:
      return 0x1p-7;
  }
}

inline double smallest(DType type) {
  switch (type) {
    case DType::kDouble:
      return std::numeric_limits<double>::min();
    case DType::kHalf:
      return 0x1p-24;
    default:
      return std::numeric_limits<float>::min();
  }
}

// Values of one of the four types in exactly as many bytes as they need: a read or write past the
// end is one outside the heap block, which AddressSanitizer sees. `start` values before the first
// move it away from where the heap aligns it.
class Array {
 public:
  Array(DType type, int64_t size, double fill = 0, int64_t start = 0)
      : type_(type), start_(start), bytes_((start + size) * size_of(type)) {
    for (int64_t i = 0; i < size; ++i) set(i, fill);
  }

  void* data() { return bytes_.data() + start_ * size_of(type_); }
  const void* data() const { return bytes_.data() + start_ * size_of(type_); }
  DType type() const { return type_; }
  int64_t size() const { return static_cast<int64_t>(bytes_.size() / size_of(type_)) - start_; }

  bool same_bits(const Array& other) const { return bytes_ == other.bytes_; }

  double get(int64_t i) const {
    switch (type_) {
      case DType::kDouble:
        return read<double>(i);
      case DType::kFloat:
        return read<float>(i);
      case DType::kHalf:
        return static_cast<double>(read<_Float16>(i));
      default: {
        const uint32_t bits = uint32_t{read<uint16_t>(i)} << 16;
        float value;
        std::memcpy(&value, &bits, sizeof value);
        return value;
      }
    }
  }

  void set(int64_t i, double value) {
    switch (type_) {
      case DType::kDouble:
        return write(i, value);
      case DType::kFloat:
        return write(i, static_cast<float>(value));
      case DType::kHalf:
        return write(i, static_cast<_Float16>(value));
      default: {
        // Inputs only have to be some bfloat16 near the value.
        const float rounded = static_cast<float>(value);
        uint32_t bits;
        std::memcpy(&bits, &rounded, sizeof bits);
        return write(i, static_cast<uint16_t>(bits >> 16));
      }
    }
  }

 private:
  template <class T>
  T read(int64_t i) const {
    T value;
    std::memcpy(&value, bytes_.data() + (start_ + i) * sizeof(T), sizeof(T));
    return value;
  }
  template <class T>
  void write(int64_t i, T value) {
    std::memcpy(bytes_.data() + (start_ + i) * sizeof(T), &value, sizeof(T));
  }

  DType type_;
  int64_t start_;
  std::vector<unsigned char> bytes_;
};

inline DType accumulate_type(DType type) {
  return type == DType::kDouble ? DType::kDouble : DType::kFloat;
}

// Where the value of (row, class) lies.
inline int64_t at(const Problem& p, const Strides& s, int64_t row, int64_t c) {
  return row / p.inner * s.outer + c * s.classes + row % p.inner * s.inner;
}

// One row's answer. `terms` is the sum of the absolute terms that the result is a sum of: what a
// relative rounding error of one term is relative to.
struct Expected {
  double loss = 0, loss_terms = 0, weight = 0;
  std::vector<double> grad, grad_terms;
};

inline Expected expected_row(const Problem& p, const Array& logits,
                             const std::vector<int64_t>& target, const Array& probabilities,
                             const std::vector<double>& weight, int64_t row, double g) {
  const int64_t classes = p.classes;
  Expected e;
  e.grad.assign(classes, 0);
  e.grad_terms.assign(classes, 0);
  std::vector<double> q(classes), q_terms(classes);  // a negative probability may cancel smoothing
  std::vector<long double> log_p(classes);
  const bool indices = p.target_kind != TargetKind::kProbabilities;
  const double s = p.label_smoothing;
  if (indices && target[row] == p.ignore_index) return e;
  long double mass = 0, all_mass = 0, peak = -std::numeric_limits<long double>::infinity();
  for (int64_t c = 0; c < classes; ++c) {
    const double t = indices ? 0 : probabilities.get(at(p, p.target_strides, row, c));
    const double own = (1 - s) * t, spread = s / static_cast<double>(classes);
    q[c] = weight[c] * (own + spread);
    q_terms[c] = std::fabs(weight[c]) * (std::fabs(own) + spread);
    mass += q[c];
    all_mass += q_terms[c];
    log_p[c] = logits.get(at(p, p.logits_strides, row, c));
    peak = fmaxl(peak, log_p[c]);
  }
  const double at_target = indices ? (1 - s) * weight[target[row]] : 0;
  mass += at_target;
  all_mass += std::fabs(at_target);
  long double sum = 0;
  for (int64_t c = 0; c < classes; ++c) sum += expl(log_p[c] - peak);
  const long double log_sum = logl(sum);
  long double loss = 0;
  for (int64_t c = 0; c < classes; ++c) {
    log_p[c] = (log_p[c] - peak) - log_sum;  // not one number: a huge peak has no room for it
    const long double softmax = expl(log_p[c]);
    const bool is_target = indices && c == target[row];
    // Each term for itself: torch's, too, is NaN where one is 0 times infinity.
    if (!indices || s > 0) loss -= q[c] * log_p[c];
    if (is_target) loss -= at_target * log_p[c];
    if (is_target) q[c] += at_target, q_terms[c] += std::fabs(at_target);
    if (q_terms[c] != 0) e.loss_terms += static_cast<double>(q_terms[c] * (fabsl(log_p[c]) + 1));
    e.grad[c] = static_cast<double>(g * (mass * softmax - q[c]));
    e.grad_terms[c] = std::fabs(g) * static_cast<double>(all_mass * softmax + q_terms[c]);
  }
  e.loss = static_cast<double>(loss);
  e.weight = indices ? weight[target[row]] : 1;
  return e;
}

// How far from the formula a result may be, as tests/README.md says.
//
// A term may be wrong by 4 units of the type that is computed in (half types: by 2e-6), and by its
// share of the roundings of a sum in double, which walk at random, but all one way where the
// classes share one logit.
inline double term_error(const Problem& p) {
  const double term = size_of(p.dtype) == 2 ? 2e-6 : 4 * epsilon(p.dtype);
  const auto classes = static_cast<double>(p.classes);
  return term + 0x1p-53 * (p.logits_strides.classes == 0 ? classes / 4 : std::sqrt(classes));
}
// A gradient is rounded once more, to its type.
inline double grad_error(const Problem& p, const Expected& e, int64_t c) {
  return epsilon(p.dtype) / 2 * std::fabs(e.grad[c]) + term_error(p) * e.grad_terms[c] +
         smallest(p.dtype);
}

}  // namespace fused_ce::testing
