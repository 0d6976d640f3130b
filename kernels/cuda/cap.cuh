// The soft cap of logits: z = cap * tanh(v), v = s x / cap.
#pragma once

#include "math.cuh"

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
        twice_(p.cap > 0 ? 2 * p.scale / p.cap : 1) {}

  __device__ __forceinline__ bool is_there() const { return cap_ > 0; }

  // With e = e^(-2|v|): tanh |v| = (1 - e) / (1 + e), and its slope 4 e / (1 + e)^2. 1 - e is made
  // without e, so that neither cancels anywhere: z is within 5 ulp, the slope within 8, but for
  // what rounding s / cap to a double does to e of doubles: |v| ulp.
  __device__ __forceinline__ Capped<A> of(A x) const {
    const Reduced<A> r = Reduced<A>::of(x < 0 ? x : -x, twice_, Power<A>::of(0, twice_));
    const A part = exp2_less_one(r.fraction);
    const A e = fma_of(part, r.two_to_n, r.two_to_n);
    const A less = fma_of(-part, r.two_to_n, 1 - r.two_to_n), both = 2 - less;
    const A inverse = 1 / both, near = product(less, inverse);
    const A tanh = fma_of(fma_of(-near, both, less), inverse, near);
    return {product(cap_, copysign(tanh, x)), 4 * slope_at_0_ * e * (inverse * inverse)};
  }

 private:
  const A cap_, slope_at_0_;
  const Scale<A> twice_;
};

}  // namespace fused_ce::cuda
