// The finish of rows: from a row's sums to its loss, and from its saved numbers to the factors of
// its gradient. Rows are finished a group at a time, in double, one row a lane: one logarithm a row
// would otherwise cost more than the exponentials of a short row.
//
// With p = softmax(x), weights w, smoothing s over C classes, target y (Szegedy et al.,
// arXiv:1512.00567):
//   indices:        loss = (1 - s) w_y nll + s / C * sum_j w_j (lse - x_j),   nll = log(1 + sum_{j
//   != y} e^(x_j - x_y)) probabilities:  loss = sum_j q_j (lse - x_j),   q_j = w_j ((1 - s) t_j + s
//   / C)
#pragma once

#include "convert.h"
#include "reference.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

inline constexpr int kGroup = 256;  // rows finished together

// Where an array of the group is said to be "of indices" or "of probabilities", it is unused for
// the other kind.
template <class A>
struct Group {
  alignas(64) A reference[kGroup];
  alignas(64) double sum[kGroup];            // of exponentials; indices: without the target's
  alignas(64) double linear[kGroup];         // sum of w_j (m - x_j) (indices) or q_j (m - x_j)
  alignas(64) double mass[kGroup];           // probabilities: sum of q_j
  alignas(64) A target_logit[kGroup];        // indices
  alignas(64) double target_weight[kGroup];  // indices: w_y, 0 for ignored rows
  alignas(64) Int<A> target[kGroup];         // indices: the class, -1 for ignored rows
};

// Double lanes [i, i + kLanes<double>) of an array.
inline Vec<double> lanes(const double* p, int i) { return load(p + i); }
inline Vec<double> lanes(const float* p, int i) {
  return __builtin_convertvector(load_narrow(p + i), Vec<double>);
}

struct RowTerms {
  Reference<double> ref;
  Vec<double> m, target_exp,
      total;  // target_exp: e^(x_y) relative to the reference; total: all classes
};

template <class S, bool kIndices>
inline RowTerms row_terms(const Group<Accumulate<S>>& group, int i) {
  RowTerms t;
  t.m = lanes(group.reference, i);
  t.ref = Reference<double>::of<S>(t.m);
  t.target_exp = kIndices ? t.ref.exp(lanes(group.target_logit, i)) : Vec<double>{};
  t.total = lanes(group.sum, i) + t.target_exp;
  return t;
}

struct Smoothing {
  double keep, spread;  // 1 - s and s / C
  double weight_sum;
  bool single_class;  // p is exactly 1, loss and gradient exactly 0 (or NaN), with no rounding to
                      // betray how
  explicit Smoothing(const Problem& p)
      : keep(1 - p.label_smoothing),
        spread(p.label_smoothing > 0 ? p.label_smoothing / static_cast<double>(p.classes) : 0),
        weight_sum(p.weight_sum),
        single_class(p.classes == 1) {}
};

// loss[0, n): ignored rows give 0. Arrays are read up to the next multiple of a vector.
template <class S, bool kIndices>
inline void finish_forward(const Group<Accumulate<S>>& group, int n, const Smoothing& smoothing,
                           double* loss) {
  using K = ExpConstants<double>;
  for (int i = 0; i < n; i += kLanes<double>) {
    const RowTerms t = row_terms<S, kIndices>(group, i);
    // lse - m. The reference cancels against m first, while the products are still exact.
    const auto above = [&] {
      return smoothing.single_class ? t.m - t.m
                                    : ((t.ref.shift - t.m) + t.ref.c * K::kLn2High) +
                                          (t.ref.c * K::kLn2Low + log(t.total));
    };
    Vec<double> result;
    if constexpr (kIndices) {
      const Vec<double> others = lanes(group.sum, i);
      const Vec<double> x = lanes(group.target_logit, i);
      const Vec<double> w = lanes(group.target_weight, i);
      // The quotient is exact to the last bits however small the loss is; it fails only where
      // e^(x_y) underflows.
      const auto representable =
          (t.target_exp > others * 1e-290 && t.target_exp > 1e-290) || t.total != t.total;
      Vec<double> nll = log1p(others / t.target_exp);
      if (!all_lanes(representable)) nll = representable ? nll : above() + (t.m - x);
      result = smoothing.keep * w * nll;
      if (smoothing.spread > 0) {
        result += smoothing.spread * (lanes(group.linear, i) + smoothing.weight_sum * above());
      }
      const auto ignored =
          __builtin_convertvector(load_narrow(group.target + i), Vec<int64_t>) < int64_t{0};
      result = ignored ? Vec<double>{} : result;
    } else {
      result = lanes(group.linear, i) + lanes(group.mass, i) * above();
    }
    store(loss + i, result);
  }
}

// The gradient of a row's loss times g:
//   g * (mass p_j - q_j), with mass = (1 - s) w_y + s / C sum(w) and q_j = (1 - s) w_y [j = y] + s
//   / C w_j for indices.
template <class A>
struct Factors {
  alignas(64) A shift[kGroup], c[kGroup];  // g * mass * p_j = factor * e^(x_j - shift) 2^-c
  alignas(64) A
      factor[kGroup];  // in [1/2, 1), its exponent is in c: no intermediate can over- or underflow
  alignas(64) A grad[kGroup];       // probabilities: g. indices: g * s / C
  alignas(64) A at_target[kGroup];  // indices: the gradient at the target's class
};

// grad[i] is g of row i.
template <class S, bool kIndices>
inline void finish_backward(const Group<Accumulate<S>>& group, int n, const Smoothing& smoothing,
                            const double* grad, Factors<Accumulate<S>>& out) {
  for (int i = 0; i < n; i += kLanes<double>) {
    const RowTerms t = row_terms<S, kIndices>(group, i);
    const Vec<double> g = load(grad + i);
    const Vec<double> w = kIndices ? lanes(group.target_weight, i) : Vec<double>{};
    const Vec<double> mass = kIndices ? smoothing.keep * w + smoothing.spread * smoothing.weight_sum
                                      : lanes(group.mass, i);
    const Vec<double> scale_by = g * mass / t.total;

    // Split into a mantissa in [1/2, 1) and an exponent. 0, subnormal, infinite and NaN factors
    // stay whole.
    const Vec<int64_t> bits = bits_as<Vec<int64_t>>(scale_by);
    const Vec<int64_t> field = (bits >> 52) & 0x7ff;
    const auto whole = field == 0 || field == 0x7ff;
    const Vec<int64_t> mantissa = (bits & ~(int64_t{0x7ff} << 52)) | (int64_t{1022} << 52);
    const Vec<double> exponent =
        bits_as<Vec<double>>((field - 1022) + bits_as<int64_t>(ExpConstants<double>::kRound)) -
        ExpConstants<double>::kRound;
    Vec<double> factor = whole ? scale_by : bits_as<Vec<double>>(mantissa);
    const Vec<double> c = whole ? t.ref.c : t.ref.c - exponent;

    Vec<double> at_target{}, spread_grad = g;
    if constexpr (kIndices) {
      spread_grad = g * smoothing.spread;
      // p_y - 1 is minus the other classes' share: no cancellation.
      at_target = -g * smoothing.keep * w * (lanes(group.sum, i) / t.total);
      if (smoothing.spread > 0) {
        at_target += spread_grad * (smoothing.weight_sum * (t.target_exp / t.total) - w);
      }
    }
    if (smoothing.single_class) {
      factor = at_target = t.m - t.m;
      spread_grad = Vec<double>{};
    }
    store_narrow(out.shift + i, t.ref.shift);
    store_narrow(out.c + i, c);
    store_narrow(out.factor + i, factor);
    store_narrow(out.grad + i, spread_grad);
    store_narrow(out.at_target + i, at_target);
  }
}

}  // namespace fused_ce::cpu::FUSED_CE_ISA
