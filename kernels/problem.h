// The description of one cross entropy problem: plain data that every device's kernels read. All
// pointers point to memory of that device, so that nothing has to be waited for. (Functions are
// static: a shared one might be linked as an instruction set compiled it that a machine lacks.)
#pragma once

#include <stdint.h>

namespace fused_ce {

enum class DType : int8_t { kFloat, kDouble, kBFloat16, kHalf };

enum class TargetKind : int8_t { kInt64, kUInt8, kProbabilities };

enum class Reduction : int8_t { kNone, kMean, kSum };  // as at::Reduction

// What stands in place of a row's class where there is none. A class is never negative.
enum NoClass : int8_t { kIgnored = -1, kOutOfRange = -2, kMixed = -3 };  // kMixed: probabilities

static inline constexpr int64_t size_of(DType type) {
  return type == DType::kDouble ? 8 : type == DType::kFloat ? 4 : 2;
}

// Distances, in elements, between neighbours along each axis of a tensor seen as (outer, classes,
// inner).
struct Strides {
  int64_t outer;
  int64_t classes;
  int64_t inner;
};

// logits (N, C, d1, ..., dK) are seen as (outer, classes, inner): outer = N, classes = C, inner =
// d1 * ... * dK. A row is the `classes` logits of one (outer, inner) pair, and row number
// `outer_index * inner + inner_index` names it wherever one value a row is read or written: class
// indices, losses, saved numbers.
//
// half types and float are computed in float, double in double: "the accumulate type".
struct Problem {
  int64_t outer;
  int64_t classes;
  int64_t inner;

  const void* logits;
  DType dtype;
  Strides logits_strides;

  // kInt64, kUInt8: one class index a row. kProbabilities: target_dtype values laid out by
  // target_strides.
  const void* target;
  TargetKind target_kind;
  DType target_dtype;
  Strides target_strides;

  const void* weight;        // classes values of the accumulate type, or null for all ones
  const double* weight_sum;  // with weight and label_smoothing: the sum of the weights
  int64_t ignore_index;
  double label_smoothing;
};

static inline constexpr int64_t rows_of(const Problem& p) { return p.outer * p.inner; }

// What the loss of no rows adds up to. torch multiplies that of smoothed class indices by s / C:
// NaN where there are no classes.
static inline constexpr double loss_of_no_rows(const Problem& p) {
  const bool smoothed = p.target_kind != TargetKind::kProbabilities && p.label_smoothing > 0;
  return smoothed && p.classes == 0 ? __builtin_nan("") : 0;
}

// What forward leaves for backward, each an array of `rows` values of the accumulate type, or null
// where there will be no backward. (On the CPU, rows of one class leave nothing.)
//   reference: class indices: the logit that the row's exponentials are taken relative to (see
//              cpu/reference.h). probabilities: the largest logit, the pivot's
//   sum:       the sum of those exponentials without the target's, or the pivot's, own, which keeps
//              1 - p exact where p is close to 1
//   target_or_mass: class indices: the target's logit, which lies anywhere in the row.
//              probabilities: the mass, sum of weight * target over the classes
struct Saved {
  void* reference;
  void* sum;
  void* target_or_mass;
};

struct Forward {
  Saved saved;
  void* loss;  // one value a row of type loss_dtype, or null where only the partial sums are wanted
  DType loss_dtype;
};

// The share of one task in the reduction. Tasks are cut by the problem alone, never by the number
// of threads, so adding them up in order gives the same bits whatever ran them.
struct Partial {
  double loss;
  double weight;
  int64_t bad_row;  // the first row whose class index is out of range, or -1
};

// What backward reads, but for grad_logits, which it writes.
struct Backward {
  Saved saved;
  // The gradient of the loss: grad_dtype values, `grad_stride` (0 or 1) apart from row to row; all
  // are divided by `*total_weight`, what a mean was divided by, unless it is null.
  const void* grad;
  DType grad_dtype;
  int64_t grad_stride;
  const double* total_weight;
  void* grad_logits;  // of the logits' type
  Strides grad_strides;
};

inline constexpr int64_t kNoBadRow = -1;

}  // namespace fused_ce
