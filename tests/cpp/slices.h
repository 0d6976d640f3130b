// SPDX-License-Identifier: BSD-3-Clause
// Losses whose classes are cut into slices, as processes share them: what the slices leave is put
// together here, and has to be the whole row's.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <list>
#include <string>
#include <utility>
#include <vector>

#include "head.h"

namespace fused_ce::testing {

using Sizes = std::vector<int64_t>;
inline constexpr double kInfinity = std::numeric_limits<double>::infinity();
inline constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// A whole problem of a device's fixture F, and slices of it, each in memory of its own. Its results
// are the whole's. F::solve(problem, out) is forward or backward of a slice.
template <class F>
struct Sliced : F {
  using F::loss, F::lse, F::entropy, F::prediction, F::confidence, F::grad;
  using F::p, F::asked, F::rows, F::indices, F::target, F::weights, F::logits, F::probabilities;
  using F::reference, F::target_or_mass, F::gap;

  struct Part {
    Problem p;
    Array logits, grad, probabilities, weight;
    double weight_sum;
    std::vector<double> numbers;

    double number(SliceSums::Number n, int64_t row) const {
      return numbers[row * SliceSums::kNumbers + n];
    }
  };

  template <class... Whole>
  Sliced(Layout layout, Sizes sizes, Whole&&... whole)
      : F(std::forward<Whole>(whole)...),
        layout(layout),
        sizes(std::move(sizes)),
        target_weight(rows()) {}

  // Forward of each slice, and what they come to together.
  Partial forward() {
    cut();
    for (Part& part : parts) {
      SliceSums sums{part.numbers.data(), asked.entropy, asked.prediction};
      const Forward out{{}, nullptr, DType::kFloat, {}, sums};
      F::solve(part.p, out);
    }
    Partial sum{0, 0, kNoBadRow};
    for (int64_t row = 0; row < rows(); ++row) put_together(row, sum);
    return sum;
  }

  void backward() { backward(F::backward_out()); }
  void backward(const Backward& given) {
    double weight_sum_of_all = 0;
    for (const Part& part : parts) weight_sum_of_all += part.weight_sum;
    for (Part& part : parts) {
      if (indices()) {
        part.p.slice.target_weight = target_weight.data();
        if (p.label_smoothing > 0) part.p.weight_sum = &weight_sum_of_all;
      }
      Backward out = given;
      out.grad_logits = part.grad.data();
      out.grad_strides = part.p.logits_strides;
      F::solve(part.p, out);
      for (int64_t row = 0; row < rows(); ++row) {
        for (int64_t c = 0; c < part.p.classes; ++c) {
          grad.set(at(p, p.logits_strides, row, part.p.slice.first + c),
                   part.grad.get(at(part.p, part.p.logits_strides, row, c)));
        }
      }
    }
  }

  // `again` is of no meaning to slices, which save nothing.
  void run_and_check(bool /*again*/ = false) {
    const Partial sum = forward();
    backward();
    if (!::testing::Test::HasFailure()) F::check({sum});
  }

  bool counts(int64_t row) const { return !indices() || target[row] != p.ignore_index; }

  Layout layout;
  Sizes sizes;
  std::list<Part> parts;
  std::vector<double> target_weight;

 private:
  void cut() {
    parts.clear();
    int64_t first = 0;
    for (const int64_t classes : sizes) {
      const auto [strides, size] = strides_of(layout, {p.outer, classes, p.inner});
      Part& part = parts.emplace_back(Part{p,
                                           Array(p.dtype, size, kNaN),
                                           Array(p.dtype, size),
                                           Array(p.dtype, indices() ? 0 : rows() * classes),
                                           Array(accumulate_type(p.dtype), classes),
                                           0,
                                           {}});
      part.numbers.assign(rows() * SliceSums::kNumbers, kNaN);
      Problem& q = part.p;
      q.classes = classes;
      q.slice = {first, p.classes};
      q.logits = part.logits.data();
      q.logits_strides = strides;
      if (!indices()) {
        q.target = part.probabilities.data();
        q.target_strides = {classes * p.inner, p.inner, 1};
      }
      if (p.weight) q.weight = part.weight.data();
      for (int64_t c = 0; c < classes; ++c) {
        part.weight.set(c, weights[first + c]);
        part.weight_sum += weights[first + c];
        for (int64_t row = 0; row < rows(); ++row) {
          part.logits.set(at(q, strides, row, c),
                          logits.get(at(p, p.logits_strides, row, first + c)));
          if (indices()) continue;
          part.probabilities.set(at(q, q.target_strides, row, c),
                                 probabilities.get(at(p, p.target_strides, row, first + c)));
        }
      }
      q.weight_sum = indices() && p.label_smoothing > 0 ? &part.weight_sum : nullptr;
      first += classes;
    }
    ASSERT_EQ(first, p.classes);
  }

  // Of every row, where it is asked for.
  void put_prediction(int64_t row, const Part& leader) {
    using N = SliceSums::Number;
    if (!asked.prediction) return;
    prediction[row] = static_cast<int64_t>(leader.number(N::kPrediction, row));
    const double scale = p.cap > 0 ? 1 : p.scale, top = leader.number(N::kLargest, row);
    double total = std::isinf(top) ? kNaN : 0;
    for (const Part& part : parts) {
      const double factor = exp(scale * (part.number(N::kLargest, row) - top));
      total += &part == &leader ? 1 + part.number(N::kOthers, row)
                                : factor * (1 + part.number(N::kOthers, row));
    }
    confidence.set(row, 1 / total);
  }

  // As whoever gathers the slices' sums has to. (Long double: a distance that double has rounded
  // would be all of the error of double's e^-70.)
  void put_together(int64_t row, Partial& sum) {
    using N = SliceSums::Number;
    using Real = long double;
    const Part* leader = &parts.front();
    for (const Part& part : parts) {
      const double largest = part.number(N::kLargest, row);
      const double most = leader->number(N::kLargest, row);
      if (!std::isnan(most) && (std::isnan(largest) || largest > most)) leader = &part;
    }
    for (Array* result : {&loss, &lse, &entropy}) result->set(row, 0);
    // What does not count must not matter.
    for (Array* saved : {&reference, &(F::sum), &target_or_mass, &gap}) saved->set(row, kNaN);
    target_weight[row] = kNaN;
    if (!counts(row)) return put_prediction(row, *leader);
    put_prediction(row, *leader);
    const bool has_linear = !indices() || p.label_smoothing > 0;
    const Real scale = p.cap > 0 ? 1 : p.scale, top = leader->number(N::kLargest, row);
    Real others = 0, linear = 0, mass = 0, target_logit = 0, w = 0, gaps = 0, weight_sum = 0;
    for (const Part& part : parts) {
      const bool leads = &part == leader;
      const Real below = leads ? 0 : scale * (top - part.number(N::kLargest, row));
      const Real own = part.number(N::kOthers, row), all = expl(-below) * (1 + own);
      const Real q = indices() ? part.weight_sum : part.number(N::kMass, row);
      others += leads ? own : all;
      if (all != 0) gaps += all * (part.number(N::kGap, row) + below);
      if (has_linear) linear += part.number(N::kLinear, row) + (leads ? 0 : q * below);
      mass += part.number(N::kMass, row);
      target_logit += part.number(N::kTargetLogit, row);
      w += part.number(N::kTargetWeight, row);
      weight_sum += part.weight_sum;
    }
    const Real log_others = std::isinf(top) ? kNaN : log1pl(others), mean_gap = gaps / (1 + others);
    const Real lead = scale * (top - target_logit);
    Real value = linear + mass * log_others;
    if (indices()) {
      value = (1 - p.label_smoothing) * w * (lead + log_others);
      if (has_linear) {
        const Real spread = p.label_smoothing / static_cast<Real>(p.classes);
        value += spread * (linear + weight_sum * log_others);
      }
    }
    const auto put = [row](Array& to, Real x) { to.set(row, static_cast<double>(x)); };
    put(loss, value);
    put(lse, std::isinf(top) ? top : scale * top + log_others);
    put(entropy, log_others + mean_gap);
    put(reference, top);
    put(F::sum, !indices() || lead == 0 ? others : 1 + others - expl(-lead));
    put(target_or_mass, indices() ? target_logit : mass);
    put(gap, mean_gap);
    target_weight[row] = static_cast<double>(w);
    sum.loss += static_cast<double>(value);
    sum.weight += target_weight[row];
  }
};

inline Sizes cut_of(int64_t classes) {
  if (classes < 4) return Sizes(classes, 1);
  return {classes / 3, 1, classes - classes / 3 - 1};
}

inline constexpr Asked kNumbers{.lse = true, .entropy = true, .prediction = true};
inline constexpr Options kWithNumbers{.asked = kNumbers};
inline constexpr Options kSlicedHead{
    .weights = true, .smoothing = 0.2, .scale = 1.3, .cap = 5, .asked = kNumbers};
inline constexpr Options kSlicedHeadOfProbabilities{.targets = TargetKind::kProbabilities,
                                                    .weights = true,
                                                    .smoothing = 0.2,
                                                    .scale = 0.7,
                                                    .asked = kNumbers};
inline constexpr Options kOptions[] = {
    kPlain,
    kBytes,
    kWeighted,
    kSmoothed,
    kWeightedSmoothed,
    kProbabilities,
    kWeightedSmoothedProbabilities,
    kScaled,
    kCapped,
    kInt8s,
    kLse,
    kPrediction,
    {.scale = 0.7, .asked = kNumbers},
    {.smoothing = 0.2, .scale = 1.3, .cap = 5},
    {.targets = TargetKind::kProbabilities, .scale = 1.3, .cap = 5},
    kWithNumbers,
    kSlicedHead,
    kSlicedHeadOfProbabilities};

inline int64_t total(const Sizes& sizes) {
  int64_t classes = 0;
  for (const int64_t n : sizes) classes += n;
  return classes;
}

// make(layout, options, shape, sizes, scale) gives the Sliced fixture of a device.

// All layouts and options, and slices of one class up to half of many.
template <class Make>
void check_slices(Make make) {
  for (const Sizes& sizes : {Sizes{1}, Sizes{1, 1}, Sizes{1, 4, 27}, Sizes{100, 28},
                             Sizes{300, 1, 723}, Sizes{2049, 2047}}) {
    const int64_t classes = total(sizes);
    for (Layout layout : kLayouts) {
      if (is_slow(layout, classes) && (layout != Layout::kPlanes || classes > 2000)) continue;
      for (const Options& options : kOptions) {
        SCOPED_TRACE(::testing::Message() << ::testing::PrintToString(sizes) << " classes, "
                                          << layout << ", " << options);
        auto f = make(layout, options, small_shape(layout, classes), sizes, 3);
        f.run_and_check();
        if (::testing::Test::HasFailure()) return;
      }
    }
  }
}

// The slice that has the target, or the largest logit, is the last; so far above those before that
// its exponential fits nowhere beside theirs.
template <class Make>
void check_far_logits(Make make) {
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (int64_t classes : {9, 40, 300, 5003, 50000}) {
      if (is_slow(layout, classes)) continue;
      for (const Options& options : {kPlain, kSmoothed, kWeightedSmoothed, kWithNumbers}) {
        for (double lead : {-300.0, 70.0, 95.0, 800.0}) {
          SCOPED_TRACE(::testing::Message()
                       << classes << " classes, " << layout << ", " << options << ", " << lead);
          auto f = make(layout, options, small_shape(layout, classes), cut_of(classes), 1);
          f.set_far_target(lead);
          f.run_and_check();
          if (::testing::Test::HasFailure()) return;
        }
      }
      SCOPED_TRACE(::testing::Message() << classes << " classes, " << layout);
      auto smoothed =
          make(layout, kWeightedSmoothed, small_shape(layout, classes), cut_of(classes), 1);
      smoothed.set_late_maximum_of_smoothed();
      smoothed.run_and_check();
      auto probabilities =
          make(layout, kProbabilities, small_shape(layout, classes), cut_of(classes), 1);
      probabilities.set_late_maximum_of_probabilities();
      probabilities.run_and_check();
      if (::testing::Test::HasFailure()) return;
    }
  }
}

// All of a slice is -inf, and what other slices have is not.
template <class Make>
void check_slices_of_nothing(Make make) {
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (int64_t classes : {9, 40, 300, 60000}) {
      if (is_slow(layout, classes)) continue;
      for (const Options& options : {kPlain, kWeighted, kWithNumbers, kScaled, kCapped}) {
        SCOPED_TRACE(::testing::Message() << classes << " classes, " << layout << ", " << options);
        auto f = make(layout, options, small_shape(layout, classes), cut_of(classes), 1);
        f.p.ignore_index = -100;
        for (int64_t row = 0; row < f.rows(); ++row) {
          // The first slice's classes are -inf, or the last one's.
          const bool first = row % 2 == 0;
          for (int64_t c = 0; c < classes; ++c) {
            if (first ? c < classes / 3 : c > classes / 3)
              f.logits.set(at(f.p, f.p.logits_strides, row, c), -kInfinity);
          }
          f.target[row] = first ? classes - 1 : 0;
          if (row % 3 == 0) f.target[row] = classes / 3;
        }
        f.run_and_check();
        if (::testing::Test::HasFailure()) return;
      }
    }
  }
}

// The target leads the row, and all others are elsewhere: loss and gradient keep their digits
// however small they are.
template <class Make>
void check_confident_slices(Make make, DType dtype) {
  const double bound = size_of(dtype) == 2 ? 4e-6 : 8 * epsilon(dtype);
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (const Options& options : {kPlain, kWithNumbers, kProbabilities}) {
      for (double lead : {12.0, 40.0, 70.0}) {
        SCOPED_TRACE(::testing::Message() << layout << ", " << options << ", " << lead);
        auto f = make(layout, options, small_shape(layout, 33), {16, 16, 1}, 1);
        f.p.ignore_index = -100;
        for (int64_t row = 0; row < f.rows(); ++row) {
          f.logits.set(at(f.p, f.p.logits_strides, row, 32), lead);
          f.target[row] = 32;
          f.row_grads[row] = 1;
          for (int64_t c = 0; c < 33 && !f.indices(); ++c)
            f.probabilities.set(at(f.p, f.p.target_strides, row, c), c == 32);
        }
        f.asked.lse = f.asked.entropy = false;
        f.forward();
        f.backward();
        for (int64_t row = 0; row < f.rows(); ++row) {
          const Expected e = expected_row(f, row, {1, 0, 0, 0});
          ASSERT_NEAR(f.loss.get(row), e.loss.value, bound * e.loss.value) << "row " << row;
          const double grad = std::fabs(e.grad[32].value);
          if (grad < smallest(dtype)) continue;
          ASSERT_NEAR(-f.grad.get(at(f.p, f.p.logits_strides, row, 32)), grad,
                      (bound + epsilon(dtype) / 2) * grad + smallest(dtype))
              << "row " << row;
        }
      }
    }
  }
}

// Backward is given the gradients of some outputs alone.
template <class Make>
void check_some_gradients_of_slices(Make make) {
  for (const Options& options : {kWithNumbers, kSlicedHead, kSlicedHeadOfProbabilities}) {
    for (const Sizes& sizes : {Sizes{1, 4, 27}, Sizes{100, 1, 28}}) {
      auto f = make(Layout::kRows, options, {5, total(sizes), 1}, sizes, 3);
      const Partial sum = f.forward();
      for (int some = 0; some < 8; ++some) {
        SCOPED_TRACE(::testing::Message()
                     << ::testing::PrintToString(sizes) << " classes, " << options << ", " << some);
        Backward out = f.backward_out();
        if (some & 1) out.grad = nullptr;
        if (some & 2) out.grad_lse = nullptr;
        if (some & 4) out.grad_entropy = nullptr;
        f.backward(out);
        f.check({sum}, [&](int64_t row) {
          const RowGrads all = f.grads_of(row);
          return RowGrads{some & 1 ? 0 : all.loss, 0, some & 2 ? 0 : all.lse,
                          some & 4 ? 0 : all.entropy};
        });
        if (::testing::Test::HasFailure()) return;
      }
    }
  }
}

// The same rows as of a whole problem, cut.
template <class Make>
auto cut(Make make) {
  return [make](Layout layout, const Options& options, int64_t classes, double scale) {
    return make(layout, options, small_shape(layout, classes), cut_of(classes), scale);
  };
}

}  // namespace fused_ce::testing
