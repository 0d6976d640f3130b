// SPDX-License-Identifier: BSD-3-Clause
#include "leader.h"

#include <ATen/TensorOperators.h>

#include <cstdint>

namespace fused_ce::parallel {
namespace {

constexpr int64_t kLow = 0x7fffffff;  // the largest place, and all bits of a float but its sign
constexpr int64_t kPlaceBits = 32;

// The bits of a float, as an integer, in the order of the numbers; and the way back.
at::Tensor ordered(const at::Tensor& bits) {
  return bits.bitwise_xor(bits.bitwise_right_shift(31).bitwise_and(kLow));
}

}  // namespace

at::Tensor leader_key(const at::Tensor& logit, const at::Tensor& place) {
  // 0 in the place of -0, which is as large. NaN: above infinity.
  const at::Tensor bits = (logit.to(at::kFloat) + 0.0).view(at::kInt).to(at::kLong);
  const at::Tensor rank = ordered(bits).masked_fill(logit.isnan(), kLow);
  return rank.bitwise_left_shift(kPlaceBits).bitwise_or(kLow - place.to(at::kLong));
}

at::Tensor logit_of(const at::Tensor& key) {
  const at::Tensor bits = ordered(key.bitwise_right_shift(kPlaceBits));
  return bits.to(at::kInt).view(at::kFloat).to(at::kDouble);
}

at::Tensor place_of(const at::Tensor& key) { return kLow - key.bitwise_and(kLow); }

}  // namespace fused_ce::parallel
