// SPDX-License-Identifier: BSD-3-Clause
// The soft cap of logits: z = cap * tanh(v), v = s x / cap. The mirror of cpu/cap.h.
#pragma once

#include "exponential.cuh"

namespace fused_ce::cuda {

template <class A>
struct Capped {
  A logit, slope;  // z and dz/dx
};

template <class A>
class Cap {
 public:
  // Made on the host.
  explicit Cap(const Problem& p)
      : cap_(static_cast<A>(p.cap)),
        slope_at_0_(static_cast<A>(p.scale)),
        twice_(p.cap > 0 ? 2 * p.scale / p.cap : 1),
        far_(smaller(kFar / twice_.s, Constants<A>::kLargest)) {}

  __device__ __forceinline__ bool is_there() const { return cap_ > 0; }

  // With e = e^(2|v|) - 1, tanh |v| is 1 - 2 / (e + 2), and for small e, where that cancels,
  // e / 2 (1 - e / (e + 2)): the quotient's roundings weigh less than the product that it is taken
  // from. Its slope, 4 (e + 1) / (e + 2)^2, is 4 q (1 - q) with q = 1 / (e + 2), which cancels
  // nowhere. z is within 4 ulp, the slope within 4, but for what rounding s / cap to a double does
  // to e of doubles: |v| ulp.
  __device__ __forceinline__ Capped<A> of(A x) const {
    const A absolute = x < 0 ? -x : x, near = absolute > far_ ? far_ : absolute;
    const Reduced<A> r = Reduced<A>::of(near, twice_, Power<A>::of(0, twice_));
    const A e = fma_of(exp2_less_one(r.fraction), r.two_to_n, r.two_to_n - 1);
    const A q = 1 / (e + 2), four = 4 * q;
    const bool is_large = e > 2;
    const A most = is_large ? cap_ : product(e, cap_ / 2);
    const A z = fma_of(-most, product(is_large ? A(2) : e, q), most);
    return {copysign(z, x), slope_at_0_ * fma_of(-four, q, four)};
  }

 private:
  static constexpr A kFar = sizeof(A) == 4 ? A(86) : A(700);  // 2|v| whose slope is as good as 0
  const A cap_, slope_at_0_;
  const Scale<A> twice_;
  const A far_;
};

}  // namespace fused_ce::cuda
