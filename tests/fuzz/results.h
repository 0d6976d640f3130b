// What a device answers to a fuzzed problem, and whether that is right.
#pragma once

#include <cstdlib>
#include <iomanip>
#include <iostream>

#include "problem.h"

namespace fused_ce::testing {

struct Results {
  Array reference, sum, target_or_mass, loss, grad;

  explicit Results(const FuzzedProblem& f)
      : reference(accumulate_type(f.p.dtype), f.rows()),
        sum(accumulate_type(f.p.dtype), f.rows()),
        target_or_mass(accumulate_type(f.p.dtype), f.rows()),
        loss(f.loss_dtype, f.rows()),
        grad(f.p.dtype, span_of(f.grad_strides, f.p), kUntouched, f.grad_start) {}

  Saved saved() { return {reference.data(), sum.data(), target_or_mass.data()}; }
  Forward forward(const FuzzedProblem& f) {
    return {saved(), f.reduction == Reduction::kNone ? loss.data() : nullptr, loss.type()};
  }
  Backward backward(const FuzzedProblem& f) {
    return {saved(),
            f.row_grads.data(),
            f.row_grads.type(),
            f.one_grad ? 0 : 1,
            f.divided ? &f.total_weight : nullptr,
            grad.data(),
            f.grad_strides};
  }

  bool same_bits(const Results& other) const {
    return reference.same_bits(other.reference) && sum.same_bits(other.sum) &&
           target_or_mass.same_bits(other.target_or_mass) && loss.same_bits(other.loss) &&
           grad.same_bits(other.grad);
  }

  static constexpr double kUntouched = 77;
};

inline std::ostream& operator<<(std::ostream& out, const Strides& s) {
  return out << '(' << s.outer << ", " << s.classes << ", " << s.inner << ')';
}

// An aborted process is what a fuzzer looks for.
template <class... Values>
[[noreturn]] void fail(const FuzzedProblem& f, const char* who, const Values&... values) {
  const Problem& p = f.p;
  std::cerr << std::setprecision(17) << who << ": dtype " << static_cast<int>(p.dtype)
            << ", target kind " << static_cast<int>(p.target_kind) << ", shape "
            << Strides{p.outer, p.classes, p.inner} << ", strides " << p.logits_strides
            << ", of targets " << p.target_strides << ", of gradients " << f.grad_strides
            << ", weights " << (p.weight != nullptr) << ", smoothing " << p.label_smoothing << ": ";
  (std::cerr << ... << values) << std::endl;
  std::abort();
}

inline double largest(DType type) {
  return type == DType::kHalf     ? 65504
         : type == DType::kDouble ? std::numeric_limits<double>::max()
                                  : std::numeric_limits<float>::max();
}

// A number of `type`, computed in the accumulate type, that has yet to be rounded.
inline Near rounded(const Near& n, DType type) {
  return {n.value, n.error + epsilon(type) / 2 * std::fabs(n.value) + smallest(type)};
}
inline bool near(const Problem& p, double actual, const Near& expected, DType type) {
  return is_near(actual, expected, std::min(largest(type), largest(accumulate_type(p.dtype))));
}
inline std::ostream& operator<<(std::ostream& out, const Near& n) {
  return out << n.value << " +- " << n.error;
}

inline std::vector<Expected> expected_rows(const FuzzedProblem& f) {
  std::vector<Expected> rows;
  for (int64_t row = 0; row < f.rows(); ++row)
    rows.push_back(expected_row(f, row, f.grads_of(row)));
  return rows;
}

inline void check(const FuzzedProblem& f, const Results& r, const std::vector<Expected>& expected,
                  const char* who) {
  std::vector<bool> written(r.grad.size());
  for (int64_t row = 0; row < f.rows(); ++row) {
    const Expected& e = expected[row];
    const Near loss = rounded(e.loss, f.loss_dtype);
    if (f.reduction == Reduction::kNone && !near(f.p, r.loss.get(row), loss, f.loss_dtype))
      fail(f, who, "loss ", row, " is ", r.loss.get(row), ", not ", loss);
    for (int64_t c = 0; c < f.p.classes; ++c) {
      const int64_t i = at(f.p, f.grad_strides, row, c);
      written[i] = true;
      if (!near(f.p, r.grad.get(i), e.grad[c], f.p.dtype))
        fail(f, who, "gradient ", row, ", ", c, " is ", r.grad.get(i), ", not ", e.grad[c]);
    }
  }
  const double untouched = Array(f.p.dtype, 1, Results::kUntouched).get(0);
  for (int64_t i = 0; i < r.grad.size(); ++i) {
    if (!written[i] && r.grad.get(i) != untouched)
      fail(f, who, "element ", i, " between the gradients is overwritten");
  }
}

// The reduced loss, of `type`, and what a mean divides by.
inline void check_sums(const FuzzedProblem& f, Reduction reduction, double loss, DType type,
                       double weight, const std::vector<Expected>& expected, const char* who) {
  long double sum = 0, weights = 0;
  if (f.indices() && f.p.classes == 0 && f.p.label_smoothing > 0)
    sum = std::numeric_limits<double>::quiet_NaN();  // of no rows, too
  double error = 0, weight_terms = 0;
  for (const Expected& e : expected) {
    sum += e.loss.value;
    error += e.loss.error;
    weights += e.weight;
    weight_terms += std::fabs(e.weight);
  }
  const double exact_weight = static_cast<double>(weights);
  if (f.indices() && !near(f.p, weight, {exact_weight, 1e-12 * weight_terms}, DType::kDouble))
    fail(f, who, "total weight is ", weight, ", not ", exact_weight);
  const bool mean = reduction == Reduction::kMean;
  const double divisor = mean ? weight : 1;
  const Near loss_of_all =
      rounded({static_cast<double>(sum / divisor), error / std::fabs(divisor)}, type);
  if (reduction != Reduction::kNone && !near(f.p, loss, loss_of_all, type))
    fail(f, who, mean ? "mean is " : "sum is ", loss, ", not ", loss_of_all);
}

}  // namespace fused_ce::testing
