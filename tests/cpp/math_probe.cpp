// SPDX-License-Identifier: BSD-3-Clause
#include "math_probe.h"

#include "kernels/cpu/exp_table.h"

namespace fused_ce::cpu::FUSED_CE_ISA {
namespace {

template <class T, bool kShort = false>
void exp_all(const T* x, T c, T* out, int64_t n) {
  const Power<T> power = Power<T>::of(splat(c));
  for (int64_t i = 0; i < n; i += kLanes<T>)
    store(out + i, exp_scaled<T, kShort>(load(x + i), power));
}
void exp_all_above(const float* x, float c, float* out, int64_t n) {
  const Power<float> power = Power<float>::of(splat(c));
  for (int64_t i = 0; i < n; i += kLanes<float>)
    store(out + i, exp_above<float, false>(at_least<float>(load(x + i), lowest(power)), power));
}
void log_all(const double* x, double* out, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes<double>) store(out + i, log(load(x + i)));
}
template <bool kShort>
void log1p_all(const double* x, double* out, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes<double>) store(out + i, log1p<kShort>(load(x + i)));
}

}  // namespace

extern const testing::MathProbe kMathProbe;
const testing::MathProbe kMathProbe = {
    exp_all<float>, exp_all_above,    exp_all<float, true>, exp_all<double>, exp_all<double, true>,
    log_all,        log1p_all<false>, log1p_all<true>,      kLanes<float>};

}  // namespace fused_ce::cpu::FUSED_CE_ISA
