// SPDX-License-Identifier: BSD-3-Clause
// What a device answers to a fuzzed problem, and whether that is right.
#pragma once

#include <cstdlib>
#include <iomanip>
#include <iostream>

#include "problem.h"

namespace fused_ce::testing {

struct Results {
  Array reference, sum, target_or_mass, gap, loss, z_loss, lse, entropy, confidence, grad;
  std::vector<int64_t> prediction;

  explicit Results(const FuzzedProblem& f)
      : reference(accumulate_type(f.p.dtype), f.rows()),
        sum(reference),
        target_or_mass(reference),
        gap(reference),
        loss(f.loss_dtype, f.rows()),
        z_loss(loss),
        lse(reference),
        entropy(reference),
        confidence(reference),
        grad(f.in_place ? f.logits
                        : Array(f.p.dtype, span_of(f.grad_strides, f.p), kUntouched, f.grad_start)),
        prediction(f.rows()) {}

  // The problem, of which the logits may be in the gradient's place.
  Problem problem(const FuzzedProblem& f) {
    Problem p = f.p;
    if (f.in_place) p.logits = grad.data();
    return p;
  }
  Saved saved(const FuzzedProblem& f) {
    return {reference.data(), sum.data(), target_or_mass.data(), f.asked.gap(gap.data()),
            f.asked.statistics()};
  }
  Forward forward(const FuzzedProblem& f) {
    return {saved(f), f.reduction == Reduction::kNone ? loss.data() : nullptr, loss.type(),
            f.asked.of(
                {z_loss.data(), lse.data(), entropy.data(), prediction.data(), confidence.data()})};
  }
  Backward backward(const FuzzedProblem& f) {
    Backward out{saved(f),           f.has_grad ? f.row_grads.data() : nullptr, f.row_grads.type(),
                 f.one_grad ? 0 : 1, f.divided ? &f.total_weight : nullptr,     grad.data(),
                 f.grad_strides};
    if (f.asked.z_loss) out.grad_z_loss = f.z_loss_grads.data();
    if (f.asked.lse) out.grad_lse = f.lse_grads.data();
    if (f.asked.entropy) out.grad_entropy = f.entropy_grads.data();
    return out;
  }

  bool same_bits(const Results& other) const {
    for (Array Results::* array : {&Results::reference, &Results::sum, &Results::target_or_mass,
                                   &Results::gap, &Results::loss, &Results::z_loss, &Results::lse,
                                   &Results::entropy, &Results::confidence, &Results::grad})
      if (!(this->*array).same_bits(other.*array)) return false;
    return prediction == other.prediction;
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
            << ", weights " << (p.weight != nullptr) << ", smoothing " << p.label_smoothing
            << ", scale " << p.scale << ", cap " << p.cap << ", z-loss weight " << p.z_loss_weight
            << ", row weights " << (p.row_weight != nullptr) << ", in place " << f.in_place
            << ", asked for z-loss, lse, entropy, prediction, confidence " << f.asked.z_loss
            << f.asked.lse << f.asked.entropy << f.asked.prediction << f.asked.confidence << ": ";
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

// Of one row, those that were asked for.
inline void check_statistics(const FuzzedProblem& f, const Results& r, int64_t row,
                             const Expected& e, const char* who) {
  const auto check = [&](const char* what, const Array& actual, const Near& expected) {
    if (!near(f.p, actual.get(row), expected, actual.type()))
      fail(f, who, what, " ", row, " is ", actual.get(row), ", not ", expected);
  };
  if (f.asked.z_loss) check("z-loss", r.z_loss, rounded(e.z_loss, f.loss_dtype));
  if (f.asked.lse) check("lse", r.lse, e.lse);
  if (f.asked.entropy) check("entropy", r.entropy, e.entropy);
  if (f.asked.confidence) check("confidence", r.confidence, e.confidence);
  if (f.asked.prediction && !is_prediction(f, row, r.prediction[row], e.prediction))
    fail(f, who, "prediction ", row, " is ", r.prediction[row], ", not ", e.prediction);
}

inline void check(const FuzzedProblem& f, const Results& r, const std::vector<Expected>& expected,
                  const char* who) {
  std::vector<bool> written(r.grad.size());
  for (int64_t row = 0; row < f.rows(); ++row) {
    const Expected& e = expected[row];
    const Near loss = rounded(e.loss, f.loss_dtype);
    if (f.reduction == Reduction::kNone && !near(f.p, r.loss.get(row), loss, f.loss_dtype))
      fail(f, who, "loss ", row, " is ", r.loss.get(row), ", not ", loss);
    check_statistics(f, r, row, e, who);
    for (int64_t c = 0; c < f.p.classes; ++c) {
      const int64_t i = at(f.p, f.grad_strides, row, c);
      written[i] = true;
      if (!near(f.p, r.grad.get(i), e.grad[c], f.p.dtype))
        fail(f, who, "gradient ", row, ", ", c, " is ", r.grad.get(i), ", not ", e.grad[c]);
    }
  }
  const Array before = Results(f).grad;
  for (int64_t i = 0; i < r.grad.size(); ++i) {
    const double value = before.get(i);
    if (!written[i] && !is_near(r.grad.get(i), {value, 0}))
      fail(f, who, "element ", i, " between the gradients is overwritten");
  }
}

// What a device says of all rows: the reduced loss and its z-loss, of `type`, and what a mean
// divides by.
struct Sums {
  double loss, z_loss, weight;
};
inline void check_sums(const FuzzedProblem& f, Reduction reduction, const Sums& sums, DType type,
                       const std::vector<Expected>& expected, const char* who) {
  long double loss = 0, z_loss = 0, weight = 0;
  if (f.indices() && f.p.classes == 0 && f.p.label_smoothing > 0)
    loss = std::numeric_limits<double>::quiet_NaN();  // of no rows, too
  double loss_error = 0, z_loss_error = 0, weight_terms = 0;
  for (const Expected& e : expected) {
    loss += e.loss.value;
    loss_error += e.loss.error;
    z_loss += e.z_loss.value;
    z_loss_error += e.z_loss.error;
    weight += e.weight;
    weight_terms += std::fabs(e.weight);
  }
  const Near all_weights{static_cast<double>(weight), weight_error(f.p) * weight_terms};
  if ((f.indices() || f.p.row_weight) && !near(f.p, sums.weight, all_weights, DType::kDouble))
    fail(f, who, "total weight is ", sums.weight, ", not ", all_weights);
  if (reduction == Reduction::kNone) return;
  const double divisor = reduction == Reduction::kMean ? sums.weight : 1;
  const auto check = [&](const char* what, double actual, long double sum, double error) {
    const Near exact =
        rounded({static_cast<double>(sum / divisor), error / std::fabs(divisor)}, type);
    if (!near(f.p, actual, exact, type))
      fail(f, who, what, divisor == 1 ? " in all is " : " on average is ", actual, ", not ", exact);
  };
  check("loss", sums.loss, loss, loss_error);
  check("z-loss", sums.z_loss, z_loss, z_loss_error);
}

}  // namespace fused_ce::testing
