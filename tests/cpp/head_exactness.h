// SPDX-License-Identifier: BSD-3-Clause
// The last digits of a loss head, for a `make` as in exactness.h: statistics of rows of which
// torch's composition has no right digit, logits that are scaled and capped.
#pragma once

#include <cmath>
#include <cstring>

#include "exactness.h"

namespace fused_ce::testing {

// |actual - expected| in units in the last place of `expected` in `type`, which is normal or counts
// as the smallest normal number. (Below that, processors may give 0.)
inline double ulps(double actual, long double expected, DType type) {
  const long double size = std::fmax(fabsl(expected), static_cast<long double>(smallest(type)));
  const long double ulp = epsilon(type) * ldexpl(1, ilogbl(size));
  return static_cast<double>(fabsl(actual - expected) / ulp);
}

// The exponential of a half type's logit in units of float: `rounded` of its own, and what the
// rounding of its argument costs, `near` for logits about the largest, and farther below a unit for
// each that it lies below.
struct HalfExp {
  double rounded, near;
};
inline constexpr HalfExp kCpuHalfExp{1, 16};  // 2^-23.1; arguments up to 16 stay as they are
// The hardware's 2; arguments, in base 2, that are 28 at the largest: ln(2) 2^-20 below 32.
inline constexpr HalfExp kCudaHalfExp{2, 5.5};

// Units of the accumulate type that are promised of statistics: of half types two exponentials of
// logits `lead` apart come to them, and the roundings of a sum.
inline double promised(DType dtype, const HalfExp& half, double units, double lead) {
  if (size_of(dtype) > 2) return units;
  return units + 2 * (half.rounded + std::fmax(half.near, lead)) + 2;
}

// Rows whose class leads by 0, and so on up to `most`. No logit is below 1: lse is far from 0,
// where it would cancel.
template <class Fixture>
void set_leads(Fixture& f, double most) {
  f.p.ignore_index = -100;
  const auto last = static_cast<double>(std::max<int64_t>(f.rows() - 1, 1));
  for (int64_t row = 0; row < f.rows(); ++row) {
    const int64_t leader = row * 7 % f.p.classes;
    const auto place = [&](int64_t c) { return at(f.p, f.p.logits_strides, row, c); };
    double largest = -std::numeric_limits<double>::infinity();
    for (int64_t c = 0; c < f.p.classes; ++c) {
      f.logits.set(place(c), 1 + std::fabs(f.logits.get(place(c))));
      if (c != leader) largest = std::max(largest, f.logits.get(place(c)));
    }
    f.logits.set(place(leader), largest + most * static_cast<double>(row) / last);
    if (f.indices()) f.target[row] = row % 3 == 0 ? leader : row % f.p.classes;
  }
}

// Entropy, lse, z-loss and confidence of rows whose class leads by 0 to 100. lse_units: how near
// the device has lse.
template <class Make>
void check_exact_statistics(DType dtype, double lse_units, const HalfExp& half, Make make,
                            std::initializer_list<int64_t> class_counts) {
  const DType type = accumulate_type(dtype);
  const double most = size_of(dtype) == 2 ? 70 : 100;
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (TargetKind targets : {TargetKind::kInt64, TargetKind::kProbabilities}) {
      for (int64_t classes : class_counts) {
        const Options options{.targets = targets, .z_loss_weight = 0.01, .asked = kAll};
        SCOPED_TRACE(::testing::Message() << classes << " classes, " << layout << ", " << options);
        auto f = make(layout, options, classes, 1.0);
        set_leads(f, most);
        f.forward();
        for (int64_t row = 0; row < f.rows(); ++row) {
          SCOPED_TRACE("row " + std::to_string(row));
          const Softmax s = softmax_of(f, row);
          const double lead = static_cast<double>(s.gap / (1 - s.confidence));
          ASSERT_LE(ulps(f.entropy.get(row), s.entropy, type), promised(dtype, half, 4, lead));
          ASSERT_LE(ulps(f.lse.get(row), s.lse, type), promised(dtype, half, lse_units, 0));
          ASSERT_LE(ulps(f.z_loss.get(row), f.p.z_loss_weight * s.lse * s.lse, type),
                    promised(dtype, half, 2 * lse_units + 1, 0));
          ASSERT_LE(ulps(f.confidence.get(row), s.confidence, type),
                    promised(dtype, half, 2, static_cast<double>(s.gap)));
        }
      }
    }
  }
}

// The gradients of lse and of a z-loss alone, which cancel nowhere.
template <class Make>
void check_exact_z_loss_gradients(DType dtype, Make make) {
  const double slack = dtype == DType::kHalf ? smallest(dtype) : 0;
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (int64_t classes : {2, 9, 40, 300, 5003}) {
      for (bool z_loss : {false, true}) {
        SCOPED_TRACE(::testing::Message() << classes << " classes, " << layout << ", " << z_loss);
        const Options options{.z_loss_weight = 0.01, .asked = {.z_loss = true, .lse = true}};
        auto f = make(layout, options, classes, 1.0);
        set_leads(f, 20);
        f.forward();
        Backward out = f.backward_out();
        out.grad = nullptr;
        (z_loss ? out.grad_lse : out.grad_z_loss) = nullptr;
        f.backward(out);
        for (int64_t row = 0; row < f.rows(); ++row) {
          const Softmax s = softmax_of(f, row);
          const long double g =
              z_loss ? f.z_loss_grads[row] * 2 * f.p.z_loss_weight * s.lse : f.lse_grads.get(row);
          for (int64_t c = 0; c < classes; ++c) {
            const auto grad = static_cast<double>(g * s.p[c]);
            const double work = size_of(dtype) == 2
                                    ? epsilon(dtype) / 2 + 40 * 0x1p-23
                                    : (dtype == DType::kFloat ? 3 : 4) * epsilon(dtype);
            ASSERT_NEAR(grad_of(f, row, c), grad, work * std::fabs(grad) + slack)
                << "row " << row << ", class " << c;
          }
        }
      }
    }
  }
}

// The gradient of the entropy at a class that leads: -g p (the mean gap), however small that is.
template <class Make>
void check_exact_entropy_gradients(DType dtype, Make make) {
  const double slack = smallest(dtype);
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (TargetKind targets : {TargetKind::kInt64, TargetKind::kProbabilities}) {
      for (int64_t classes : {2, 9, 40, 300, 5003}) {
        const Options options{.targets = targets, .asked = {.entropy = true}};
        SCOPED_TRACE(::testing::Message() << classes << " classes, " << layout << ", " << options);
        auto f = make(layout, options, classes, 1.0);
        set_leads(f, size_of(dtype) == 2 ? 70 : 80);
        f.forward();
        Backward out = f.backward_out();
        out.grad = nullptr;
        f.backward(out);
        for (int64_t row = 0; row < f.rows(); ++row) {
          const Softmax s = softmax_of(f, row);
          const auto grad = static_cast<double>(-f.entropy_grads.get(row) * s.gap * s.confidence);
          ASSERT_NEAR(grad_of(f, row, s.largest), grad,
                      exact_gradient(dtype) * std::fabs(grad) + slack)
              << "row " << row;
        }
      }
    }
  }
}

// A row of one class has its logit for lse, and the slope of that for a gradient: one of every so
// many numbers that there are, of either sign.
template <class Make>
void check_every_capped_number(DType dtype, double scale, double cap, double logit_units,
                               Make make) {
  const DType type = accumulate_type(dtype);
  const Options options{.scale = scale, .cap = cap, .asked = {.lse = true}};
  auto f = make(options, int64_t{1} << 16);
  for (int64_t row = 0; row < f.rows(); ++row) {
    unsigned char bytes[8]{};
    const uint64_t bits = static_cast<uint64_t>(row) * 0x0001000100010001;
    std::memcpy(bytes, &bits, sizeof bits);
    std::memcpy(static_cast<unsigned char*>(f.logits.data()) + row * size_of(dtype), bytes,
                size_of(dtype));
    f.lse_grads.set(row, 1);
  }
  f.forward();
  Backward out = f.backward_out();
  out.grad = nullptr;
  f.backward(out);
  for (int64_t row = 0; row < f.rows(); ++row) {
    const double x = f.logits.get(row), slope = static_cast<double>(slope_of(f.p, x));
    if (std::isnan(x)) {
      ASSERT_TRUE(std::isnan(f.lse.get(row)) && std::isnan(f.grad.get(row)));
      continue;
    }
    // Below the normal numbers the quotient by the cap has lost digits already.
    const double units = std::fabs(x) * scale / cap < 2 * smallest(type) ? 64 : logit_units;
    ASSERT_LE(ulps(f.lse.get(row), logit_of(f.p, x), type), units) << "of " << x;
    ASSERT_NEAR(f.grad.get(row), slope,
                4 * epsilon(type) * scale + epsilon(dtype) / 2 * slope + smallest(dtype))
        << "of " << x;
  }
}

// Losses of rows whose class leads, when z = scale * x: `rounded`, what the rounding of one z may
// cost, in units of |z|.
template <class Make>
void check_exact_scaled_losses(DType dtype, Make make, const Options& options, double rounded) {
  for (Layout layout : {Layout::kRows, Layout::kPlanes}) {
    for (int64_t classes : {2, 9, 40, 300, 5003}) {
      SCOPED_TRACE(::testing::Message() << classes << " classes, " << layout << ", " << options);
      auto f = make(layout, options, classes, 1.0);
      set_leads(f, 40);
      for (int64_t row = 0; row < f.rows(); ++row) f.target[row] = row * 7 % classes;
      f.forward();
      for (int64_t row = 0; row < f.rows(); ++row) {
        const Softmax s = softmax_of(f, row);
        const int64_t y = f.target[row];
        const long double loss = -s.log_p[y];
        long double error = exact_loss(dtype) * loss;
        for (int64_t c = 0; c < classes; ++c)
          error += rounded * epsilon(accumulate_type(dtype)) * fabsl(s.z[c]) *
                   (c == y ? s.rest[c] : s.p[c]);
        ASSERT_NEAR(f.loss.get(row), static_cast<double>(loss), static_cast<double>(error))
            << "row " << row;
      }
    }
  }
}

}  // namespace fused_ce::testing
