// SPDX-License-Identifier: BSD-3-Clause
// What a loss head computes beside the loss, and what else goes into it: the statistics of a row,
// their gradients, scale and cap, weights of rows, targets of any width. What holds of every device
// is said once, for a `make(layout, options, classes, scale)` that makes a problem of the device's
// own size.
#pragma once

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <vector>

#include "fixture.h"

namespace fused_ce::testing {

// Around the ends of vectors, blocks, tiles and of each loop's reach.
inline constexpr int64_t kHeadClasses[] = {1, 2, 3, 9, 16, 17, 40, 100, 128, 129, 300, 1000, 5003};

// Rows of many classes in planes are slow, and show nothing that the others do not.
inline bool is_slow(Layout layout, int64_t classes) {
  return classes > 300 && layout != Layout::kRows && layout != Layout::kPadded;
}

template <class Make>
void check_every_head(Make make) {
  for (Layout layout : kLayouts) {
    for (const Options& options : kEveryHead) {
      for (int64_t classes : kHeadClasses) {
        if (is_slow(layout, classes)) continue;
        SCOPED_TRACE(::testing::Message() << classes << " classes, " << layout << ", " << options);
        auto f = make(layout, options, classes, 3.0);
        f.run_and_check();
        if (::testing::Test::HasFailure()) return;
      }
    }
  }
}

// The first guess of the reference, the target's logit, is far below lse: it must cancel exactly.
template <class Make>
void check_lse_of_far_targets(Make make) {
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (const Options& options : {kLse, kZLoss, kStatistics}) {
      for (int64_t classes : {3, 17, 100, 300}) {
        for (double target : {-30.0, -60.0, -85.0, -300.0}) {
          SCOPED_TRACE(::testing::Message()
                       << classes << " classes, " << layout << ", " << options << ", " << target);
          auto f = make(layout, options, classes, 1.0);
          f.p.ignore_index = -100;
          for (int64_t row = 0; row < f.rows(); ++row)
            f.logits.set(at(f.p, f.p.logits_strides, row, f.target[row]), target);
          f.run_and_check();
          if (::testing::Test::HasFailure()) return;
        }
      }
    }
  }
}

// Backward is given the gradients of some outputs alone, whatever forward was asked for.
template <class Make>
void check_some_gradients(Make make) {
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (const Options& options : {kHead, kHeadOfProbabilities}) {
      for (int64_t classes : {2, 17, 129, 300}) {
        auto f = make(layout, options, classes, 3.0);
        const auto partials = f.forward();
        for (int some = 0; some < 16; ++some) {
          SCOPED_TRACE(::testing::Message()
                       << classes << " classes, " << layout << ", " << options << ", " << some);
          Backward out = f.backward_out();
          if (some & 1) out.grad = nullptr;
          if (some & 2) out.grad_z_loss = nullptr;
          if (some & 4) out.grad_lse = nullptr;
          if (some & 8) out.grad_entropy = nullptr;
          f.backward(out);
          f.check({partials}, [&](int64_t row) {
            const RowGrads all = f.grads_of(row);
            return RowGrads{some & 1 ? 0 : all.loss, some & 2 ? 0 : all.z_loss,
                            some & 4 ? 0 : all.lse, some & 8 ? 0 : all.entropy};
          });
          if (::testing::Test::HasFailure()) return;
        }
      }
    }
  }
}

// What autograd passes for a mean: one gradient for all rows, and what the mean divided by.
template <class Make>
void check_gradients_of_a_mean(Make make) {
  const float grad = 0.75f, grad_z_loss = -1.5f;
  const double divisor = 3;
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (const Options& options : {kZLoss, kHead, kHeadOfProbabilities}) {
      for (int64_t classes : {5, 100}) {
        SCOPED_TRACE(::testing::Message() << classes << " classes, " << layout << ", " << options);
        auto f = make(layout, options, classes, 3.0);
        const auto partials = f.forward();
        Backward out = f.backward_out();
        out.grad = &grad;
        out.grad_z_loss = &grad_z_loss;
        out.grad_dtype = DType::kFloat;
        out.grad_stride = 0;
        out.total_weight = &divisor;
        f.backward(out);
        f.check({partials}, [&](int64_t row) {
          RowGrads grads = f.grads_of(row);
          grads.loss = grad / divisor;
          grads.z_loss = grad_z_loss / divisor;
          return grads;
        });
        if (::testing::Test::HasFailure()) return;
      }
    }
  }
}

// A row that is hard to rank: what stands at so many of its classes, a and b, or in all.
struct HardRow {
  const char* name;
  int places;
  void (*fill)(std::vector<double>& x, int64_t a, int64_t b);
};
namespace hard {
inline constexpr double kInfinity = std::numeric_limits<double>::infinity();
inline constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
using Row = std::vector<double>&;
}  // namespace hard
inline constexpr HardRow kHardRows[] = {
    {"two largest", 2, [](hard::Row x, int64_t a, int64_t b) { x[a] = x[b] = 9; }},
    {"all the same", 0, [](hard::Row x, int64_t, int64_t) { std::fill(x.begin(), x.end(), -2); }},
    {"zeros of both signs", 2,
     [](hard::Row x, int64_t a, int64_t b) {
       std::fill(x.begin(), x.end(), -1);
       x[a] = -0.0, x[b] = 0.0;
     }},
    {"a bit more", 2, [](hard::Row x, int64_t a, int64_t b) { x[a] = 8, x[b] = 8 * (1 + 0x1p-7); }},
    {"ascending", 0,
     [](hard::Row x, int64_t, int64_t) {
       for (size_t c = 0; c < x.size(); ++c) x[c] = std::floor(static_cast<double>(c) / 4);
     }},
    {"descending", 0,
     [](hard::Row x, int64_t, int64_t) {
       for (size_t c = 0; c < x.size(); ++c) x[c] = -std::floor(static_cast<double>(c) / 4);
     }},
    {"one far above", 1, [](hard::Row x, int64_t a, int64_t) { x[a] = 3e4; }},
    {"one far below", 1, [](hard::Row x, int64_t a, int64_t) { x[a] = -3e4; }},
    {"NaN", 1, [](hard::Row x, int64_t a, int64_t) { x[a] = hard::kNaN; }},
    {"two NaN", 2, [](hard::Row x, int64_t a, int64_t b) { x[a] = x[b] = hard::kNaN; }},
    {"all NaN", 0,
     [](hard::Row x, int64_t, int64_t) { std::fill(x.begin(), x.end(), hard::kNaN); }},
    {"NaN and infinity", 2,
     [](hard::Row x, int64_t a, int64_t b) { x[b] = hard::kInfinity, x[a] = hard::kNaN; }},
    {"NaN among -infinity", 1,
     [](hard::Row x, int64_t a, int64_t) {
       std::fill(x.begin(), x.end(), -hard::kInfinity);
       x[a] = hard::kNaN;
     }},
    {"infinity", 1, [](hard::Row x, int64_t a, int64_t) { x[a] = hard::kInfinity; }},
    {"two infinities", 2, [](hard::Row x, int64_t a, int64_t b) { x[a] = x[b] = hard::kInfinity; }},
    {"-infinity", 1, [](hard::Row x, int64_t a, int64_t) { x[a] = -hard::kInfinity; }},
    {"all -infinity", 0,
     [](hard::Row x, int64_t, int64_t) { std::fill(x.begin(), x.end(), -hard::kInfinity); }},
    {"one above -infinity", 1,
     [](hard::Row x, int64_t a, int64_t) {
       std::fill(x.begin(), x.end(), -hard::kInfinity);
       x[a] = 1;
     }},
};

struct HardCase {
  const HardRow* kind;
  int64_t a, b;
  int64_t target;  // a, b, or -1: any
};

// Each kind at the places, or pairs of places, where a row begins, ends, or is cut. Where there is
// no pair, twice: the target is at the place, or anywhere.
inline std::vector<HardCase> hard_cases(int64_t classes) {
  std::vector<int64_t> places;
  for (int64_t c :
       {int64_t{0}, int64_t{1}, int64_t{7}, classes / 2, classes - 17, classes - 2, classes - 1})
    if (c >= 0 && c < classes && std::find(places.begin(), places.end(), c) == places.end())
      places.push_back(c);
  const size_t n = places.size();
  std::vector<HardCase> cases;
  for (const HardRow& kind : kHardRows) {
    for (size_t i = 0; i < (kind.places > 0 ? n : 1); ++i) {
      for (size_t j = 0; j < (kind.places > 1 ? n : 2); ++j) {
        const int64_t a = places[i], b = places[j % n];
        const int64_t in_turn[] = {a, -1, b};
        cases.push_back({&kind, a, b, kind.places > 1 ? in_turn[(i + j) % 3] : in_turn[j]});
      }
    }
  }
  return cases;
}

template <class Make>
void check_hard_rows(Make make, const Options& options, bool again = false) {
  for (Layout layout : kLayouts) {
    for (int64_t classes : kHeadClasses) {
      if (is_slow(layout, classes)) continue;
      auto f = make(layout, options, classes, 3.0);
      const std::vector<HardCase> cases = hard_cases(classes);
      const std::vector<int64_t> any = f.target;
      std::vector<double> x(classes);
      for (size_t next = 0; next < cases.size();) {
        const char* const first = cases[next].kind->name;
        for (int64_t row = 0; row < f.rows(); ++row, ++next) {
          for (int64_t c = 0; c < classes; ++c) x[c] = std::sin(static_cast<double>(c * 7 + row));
          const HardCase& is = cases[next % cases.size()];
          is.kind->fill(x, is.a, is.b);
          if (f.indices()) f.target[row] = is.target < 0 ? any[row] : is.target;
          for (int64_t c = 0; c < classes; ++c)
            f.logits.set(at(f.p, f.p.logits_strides, row, c), x[c]);
        }
        SCOPED_TRACE(::testing::Message() << classes << " classes, " << layout << ", " << options
                                          << ", row 0: " << first << " and those after it");
        f.run_and_check(again);
        if (::testing::Test::HasFailure()) return;
      }
    }
  }
}

// The same bits in the logits' place, and nothing beside them.
template <class Make>
void check_in_place(Make make) {
  for (Layout layout : kLayouts) {
    for (const Options& options : {kPlain, kWeightedSmoothed, kWeightedSmoothedProbabilities,
                                   kEntropy, kHead, kHeadOfProbabilities}) {
      for (int64_t classes : kHeadClasses) {
        if (is_slow(layout, classes)) continue;
        SCOPED_TRACE(::testing::Message() << classes << " classes, " << layout << ", " << options);
        auto f = make(layout, options, classes, 3.0);
        f.forward();
        f.backward();
        Array expected = f.logits;
        for (int64_t row = 0; row < f.rows(); ++row) {
          for (int64_t c = 0; c < classes; ++c) {
            const int64_t i = at(f.p, f.p.logits_strides, row, c);
            expected.set(i, f.grad.get(i));
          }
        }
        Backward out = f.backward_out();
        out.grad_logits = f.logits.data();
        f.backward(out);
        ASSERT_TRUE(f.logits.same_bits(expected));
      }
    }
  }
}

// What is asked for beside it changes no bit of a statistic of the largest class, unless it is the
// entropy, for which a guess has to be nearer.
template <class Make>
void check_statistics_alone(Make make) {
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (int64_t classes : {9, 100, 300}) {
      SCOPED_TRACE(::testing::Message() << classes << " classes, " << layout);
      auto all = make(layout, kStatistics, classes, 3.0);
      auto entropy = make(layout, kEntropy, classes, 3.0);
      auto prediction = make(layout, kPrediction, classes, 3.0);
      auto confidence = make(layout, kConfidence, classes, 3.0);
      for (auto* f : {&all, &entropy, &prediction, &confidence}) f->forward();
      EXPECT_TRUE(all.entropy.same_bits(entropy.entropy));
      EXPECT_EQ(all.prediction, prediction.prediction);
      EXPECT_TRUE(all.loss.same_bits(entropy.loss));
      EXPECT_TRUE(prediction.loss.same_bits(confidence.loss));
    }
  }
}

}  // namespace fused_ce::testing
