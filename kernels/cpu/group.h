// The finish of rows: from a row's sums to its loss, and from its saved numbers to the factors of
// its gradient. Rows are finished a group at a time, in double, one row a lane: one logarithm a row
// would otherwise cost more than the exponentials of a short row.
//
// With p = softmax(x), weights w, smoothing s over C classes, target y (Szegedy et al.,
// arXiv:1512.00567):
//   indices:        loss = (1 - s) w_y (lse - x_y) + s / C sum_j w_j (lse - x_j),
//   probabilities:  loss = sum_j q_j (lse - x_j),  q_j = w_j ((1 - s) t_j + s / C)
// where lse - x_k = log(1 + sum_{j != k} e^(x_j - x_k)) of one class k, the pivot: the target, or
// beside probabilities the largest logit's. Its own exponential stays out of the row's sum, so that
// the loss of a confident row cancels nowhere.
#pragma once

#include "convert.h"
#include "reference.h"

namespace fused_ce::cpu::FUSED_CE_ISA {

// A number a row. The numbers of one row are used together, in arrays that would all begin at the
// same offset into a page, and crowd each other out of the first cache, were it not for the odd
// length.
template <class T, int kRows>
struct alignas(64) PerRow {
  T values[kRows + 192 / sizeof(T)];
  operator T*() { return values; }
  operator const T*() const { return values; }
};

// kRows: the rows finished together, at most. Where an array of the group is said to be "of
// indices" or "of probabilities", it is unused for the other kind.
template <class A, int kRows>
struct Group {
  PerRow<A, kRows> reference;
  PerRow<double, kRows> sum;            // of exponentials, without the pivot's
  PerRow<double, kRows> linear;         // sum of w_j (m - x_j) (indices) or q_j (m - x_j)
  PerRow<double, kRows> mass;           // probabilities: sum of q_j
  PerRow<A, kRows> pivot_logit;         // probabilities: the reference
  PerRow<double, kRows> pivot_exp;      // relative to the reference; forward: its inverse
  PerRow<Int<A>, kRows> pivot;          // its class, -1 for ignored rows
  PerRow<double, kRows> target_weight;  // indices: w_y, 0 for ignored rows
};

// Double lanes [i, i + kLanes<double>) of an array.
inline Vec<double> lanes(const double* p, int i) { return load(p + i); }
inline Vec<double> lanes(const float* p, int i) { return widen_half(load_narrow(p + i)); }

// Rows of float and half types are finished in double as well, but with the short forms of exp and
// log1p: results are rounded to float. (A log cancels against the reference: there is no short
// one.)
template <class S>
inline constexpr bool kShort = sizeof(S) < sizeof(double);

// The references of rows [i, i + kLanes<double>).
template <class S, int kRows>
inline Offset<double> offset_of(const Group<Accumulate<S>, kRows>& group, int i) {
  return Offset<double>::of<S>(lanes(group.reference, i));
}

// e^x relative to a reference
template <class S>
inline Vec<double> exp_of(Vec<double> x, const Offset<double>& ref) {
  return exp_scaled<double, kShort<S>>(x - ref.shift, Power<double>::of(ref.c));
}

// 1 / exp_of(x, ref), infinite where that is nothing
template <class S>
inline Vec<double> inverse_exp_of(Vec<double> x, const Offset<double>& ref) {
  const Vec<double> d = at_most<double>(ref.shift - x, splat(-ExpConstants<double>::kLow));
  return exp_scaled<double, kShort<S>>(d, Power<double>::of(-ref.c));
}

struct Smoothing {
  double keep, spread;  // 1 - s and s / C
  double weight_sum;
  bool no_class;  // an empty sum
  explicit Smoothing(const Problem& p)
      : keep(1 - p.label_smoothing),
        spread(p.label_smoothing > 0 ? p.label_smoothing / static_cast<double>(p.classes) : 0),
        weight_sum(p.weight_sum ? *p.weight_sum : static_cast<double>(p.classes)),
        no_class(p.classes == 0) {}
};

template <class A, int kRows>
inline auto ignored_lanes(const Group<A, kRows>& group, int i) {
  return __builtin_convertvector(load_narrow(group.pivot + i), Vec<int64_t>) < int64_t{0};
}

// The finish is cut into loops with short chains of dependent instructions, of which the processor
// runs several at a time; in one loop each vector would wait for the one before.

// loss[0, n): ignored rows give 0. Arrays are read up to the next multiple of a vector.
template <class S, bool kIndices, int kRows>
inline void finish_forward(Group<Accumulate<S>, kRows>& group, int n, const Smoothing& smoothing,
                           double* loss) {
  using K = ExpConstants<double>;
  if (smoothing.no_class) {
    for (int i = 0; i < n; ++i) loss[i] = 0;
    return;
  }
  // lse - m, where the sum of all exponentials is `total`. The reference cancels against m first,
  // while the products are still exact.
  const auto above = [&](int i, Vec<double> total) __attribute__((always_inline)) {
    const Offset<double> ref = offset_of<S>(group, i);
    return ((ref.shift - lanes(group.reference, i)) + ref.c * K::kLn2High) +
           (ref.c * K::kLn2Low + log(total));
  };
  for (int i = 0; i < n; i += kLanes<double>) {
    store(group.pivot_exp + i,
          inverse_exp_of<S>(lanes(group.pivot_logit, i), offset_of<S>(group, i)));
  }
  for (int i = 0; i < n; i += kLanes<double>) {
    const Vec<double> others = lanes(group.sum, i), inverse = lanes(group.pivot_exp, i);
    // The product is exact to the last bits however small the loss is; it fails only where e^(x_y)
    // is nothing beside the others.
    const Vec<double> odds = others * inverse;
    Vec<double> nll = log1p<kShort<S>>(odds);
    if constexpr (!kIndices) {
      store(loss + i, lanes(group.linear, i) + lanes(group.mass, i) * nll);
      continue;
    }
    const auto nothing = odds >= 1e290;
    const Vec<double> lead = lanes(group.pivot_logit, i) - lanes(group.reference, i);
    Vec<double> lse = nll + lead;  // less the reference
    if (!all_lanes(~nothing)) {
      const Vec<double> far = above(i, others);
      nll = nothing ? far - lead : nll;
      lse = nothing ? far : lse;
    }
    Vec<double> result = smoothing.keep * lanes(group.target_weight, i) * nll;
    if (smoothing.spread > 0) {
      // Of double, nll has no digits to spare where it cancels against a target far behind.
      if constexpr (!kShort<S>) lse = odds > 1.0 ? above(i, others + 1.0 / inverse) : lse;
      result += smoothing.spread * (lanes(group.linear, i) + smoothing.weight_sum * lse);
    }
    store(loss + i, ignored_lanes(group, i) ? Vec<double>{} : result);
  }
}

// The gradient of a row's loss times g is g (mass p_j - q_j), where for indices
//   mass = (1 - s) w_y + s / C sum(w),  q_j = (1 - s) w_y [j = y] + s / C w_j.
template <class A, int kRows>
struct Factors {
  PerRow<A, kRows> shift, c;   // g * mass * p_j = factor * e^(x_j - shift) 2^-c
  bool shifted;                // whether any shift differs from 0
  PerRow<A, kRows> factor;     // in [1/2, 1), its exponent is in c: no step can over- or underflow
  PerRow<A, kRows> grad;       // probabilities: g. indices: g * s / C
  PerRow<A, kRows> at_target;  // indices: the gradient at the target's class
};

// grad[i] is g of row i.
template <class S, bool kIndices, int kRows>
inline void finish_backward(Group<Accumulate<S>, kRows>& group, int n, const Smoothing& smoothing,
                            const double* grad, Factors<Accumulate<S>, kRows>& out) {
  for (int i = 0; i < n; i += kLanes<double>) {
    store(group.pivot_exp + i, exp_of<S>(lanes(group.pivot_logit, i), offset_of<S>(group, i)));
  }
  out.shifted = false;
  for (int i = 0; i < n; i += kLanes<double>) {
    const Vec<double> pivot_exp = lanes(group.pivot_exp, i);
    const Vec<double> others = lanes(group.sum, i), total = others + pivot_exp;
    const Offset<double> ref = offset_of<S>(group, i);
    const Vec<double> g = load(grad + i);
    const Vec<double> w = kIndices ? lanes(group.target_weight, i) : Vec<double>{};
    const Vec<double> mass = kIndices ? smoothing.keep * w + smoothing.spread * smoothing.weight_sum
                                      : lanes(group.mass, i);
    const Vec<double> share = 1.0 / total;
    const Vec<double> scale_by = g * mass * share;

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
    const Vec<double> c = whole ? ref.c : ref.c - exponent;

    Vec<double> at_target{}, spread_grad = g;
    if constexpr (kIndices) {
      spread_grad = g * smoothing.spread;
      // p_y - 1 is minus the other classes' share: no cancellation.
      at_target = -g * smoothing.keep * w * (others * share);
      if (smoothing.spread > 0) {
        at_target += spread_grad * (smoothing.weight_sum * (pivot_exp * share) - w);
      }
    }
    out.shifted |= !all_lanes(ref.shift == 0.0);
    store_narrow(out.shift + i, ref.shift);
    store_narrow(out.c + i, c);
    store_narrow(out.factor + i, factor);
    store_narrow(out.grad + i, spread_grad);
    store_narrow(out.at_target + i, at_target);
  }
}

}  // namespace fused_ce::cpu::FUSED_CE_ISA
