// SPDX-License-Identifier: BSD-3-Clause
// The kernels' own exp and log of one instruction set, made callable: compiled once for each, and
// free of any header that the linker could share between them.
#pragma once

#include <stdint.h>

namespace fused_ce::testing {

struct MathProbe {
  // e^x 2^-c, and its short form
  void (*exp_float)(const float* x, float c, float* out, int64_t n);
  void (*exp_float_above)(const float* x, float c, float* out, int64_t n);  // of no x too low
  void (*exp_float_short)(const float* x, float c, float* out, int64_t n);
  void (*exp_double)(const double* x, double c, double* out, int64_t n);
  void (*exp_double_short)(const double* x, double c, double* out, int64_t n);
  void (*log)(const double* x, double* out, int64_t n);
  void (*log1p)(const double* x, double* out, int64_t n);
  void (*log1p_short)(const double* x, double* out, int64_t n);
  int64_t multiple;  // n is a multiple of it
};

}  // namespace fused_ce::testing
