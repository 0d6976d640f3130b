// SPDX-License-Identifier: BSD-3-Clause
// The description of one cross entropy problem: plain data that every device's kernels read. All
// pointers point to memory of that device, so that nothing has to be waited for. (Functions are
// static: a shared one might be linked as an instruction set compiled it that a machine lacks.)
#pragma once

#include <stdint.h>

namespace fused_ce {

enum class DType : int8_t { kFloat, kDouble, kBFloat16, kHalf };

enum class TargetKind : int8_t { kInt64, kInt32, kInt16, kInt8, kUInt8, kProbabilities };

enum class Reduction : int8_t { kNone, kMean, kSum };  // as at::Reduction

// What stands in place of a row's class where there is none among those at hand. A class is never
// negative. kElsewhere, alone of these, is the largest: rows with a class, or with one elsewhere,
// are those that count. kMixed: probabilities
enum NoClass : int8_t { kElsewhere = -1, kIgnored = -2, kOutOfRange = -3, kMixed = -4 };

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

// Where a problem's classes are a slice of those that its rows have: classes [first, first + its
// own) of `classes`. The others are elsewhere, with another process; class indices count from the
// first of all. Forward leaves SliceSums, and backward takes what all of them come to.
struct Slice {
  int64_t first = 0;
  int64_t classes = 0;  // 0: the problem has all classes, and is no slice
  // Backward, of class indices: what the target of each row weighs, wherever it is; `rows` values.
  const double* target_weight = nullptr;
};

// logits (N, C, d1, ..., dK) are seen as (outer, classes, inner): outer = N, classes = C, inner =
// d1 * ... * dK. A row is the `classes` logits of one (outer, inner) pair, and row number
// `outer_index * inner + inner_index` names it wherever one value a row is read or written: class
// indices, losses, saved numbers.
//
// half types and float are computed in float, double in double: "the accumulate type".
//
// A number x in memory stands for the logit z = scale * x, or with a cap z = cap * tanh(scale * x /
// cap). All that is computed of a row is computed of z; "logits" in a name below are the x.
struct Problem {
  int64_t outer;
  int64_t classes;
  int64_t inner;

  const void* logits;
  DType dtype;
  Strides logits_strides;

  double scale = 1;  // positive and finite
  double cap = 0;    // 0: none

  // One class index a row, or kProbabilities: target_dtype values laid out by target_strides.
  const void* target;
  TargetKind target_kind;
  DType target_dtype;
  Strides target_strides;

  const void* weight;  // classes values of the accumulate type, or null for all ones
  // Of class indices, with weight and label_smoothing: the sum of the weights. Of a slice's, with
  // smoothing it is always there: forward has that of the slice's own, backward that of all.
  const double* weight_sum;
  int64_t ignore_index;
  double label_smoothing;

  Slice slice{};

  const void* row_weight = nullptr;  // rows values of the accumulate type, or null for all ones
  double z_loss_weight = 0;          // what lse^2 is added with to a row's loss
};

static inline constexpr int64_t rows_of(const Problem& p) { return p.outer * p.inner; }
static inline constexpr bool is_slice(const Problem& p) { return p.slice.classes > 0; }
// How many classes a row has, here and elsewhere: what smoothing is spread over.
static inline constexpr int64_t all_classes(const Problem& p) {
  return is_slice(p) ? p.slice.classes : p.classes;
}

// What the loss of no rows adds up to. torch multiplies that of smoothed class indices by s / C:
// NaN where there are no classes.
static inline constexpr double loss_of_no_rows(const Problem& p) {
  const bool smoothed = p.target_kind != TargetKind::kProbabilities && p.label_smoothing > 0;
  return smoothed && p.classes == 0 ? __builtin_nan("") : 0;
}

// What forward leaves for backward, each an array of `rows` values of the accumulate type, or null
// where there will be no backward. (On the CPU, rows of one class leave nothing where the loss is
// all that is asked of them.)
//   reference: class indices: the logit that the row's exponentials are taken relative to (see
//              cpu/reference.h). probabilities, and wherever statistics are asked for (see
//              wants_statistics): the largest logit, the pivot's
//   sum:       the sum of those exponentials without the target's, or of probabilities the pivot's,
//              own, which keeps 1 - p exact where p is close to 1
//   target_or_mass: class indices: the target's logit, which lies anywhere in the row.
//              probabilities: the mass, sum of weight * target over the classes
//   gap:       where the entropy is asked for, else null: how far the logits lie below the
//              largest, sum of p_j (z_max - z_j)
// Of a slice these are numbers of the whole row; reference is the largest logit, and sum is
// relative to that logit's own exponential.
struct Saved {
  void* reference;
  void* sum;
  void* target_or_mass;
  void* gap = nullptr;
  bool ranked = false;  // whether statistics are asked for: backward has to know
};

// Numbers a row, each an array or null: what is asked for beside the loss. Rows that do not count
// have 0 for the first three; their prediction is given.
struct Statistics {
  void* z_loss = nullptr;         // the part of the loss that z_loss_weight makes; of loss_dtype
  void* lse = nullptr;            // log sum_j e^(z_j), of the accumulate type
  void* entropy = nullptr;        // -sum_j p_j log p_j, of the accumulate type
  int64_t* prediction = nullptr;  // the class of the largest logit, or of the first NaN; the first
                                  // of several
  void* confidence = nullptr;     // its p, of the accumulate type
};

// What a slice's part of each row comes to: `kNumbers` doubles a row, row after row.
// With k the class of the largest logit here, and numbers x as they are in memory (of a capped
// problem, logits):
//   kLargest:       x_k, -inf where there is none
//   kOthers:        S = sum over the other classes here of e^(z_j - z_k); of -inf, it and the sums
//                   below are 0
//   kGap:           sum of p_j (z_k - z_j), p the softmax of the slice alone; where it is asked for
//   kTargetLogit:   x_y of class indices, 0 where that class is elsewhere
//   kTargetWeight:  w_y likewise
//   kLinear:        sum of w_j (z_k - z_j) or, of probabilities, q_j (z_k - z_j)
//   kMass:          of probabilities: sum of q_j
//   kPrediction:    k, counted from the first of all classes, where it is asked for; where logits
//                   are NaN the first such class, and kLargest is NaN
// Of a row that does not count there is only what a prediction and its confidence need, kLargest,
// kOthers and kPrediction, and that only where one is asked for.
struct SliceSums {
  enum Number {
    kLargest,
    kOthers,
    kGap,
    kTargetLogit,
    kTargetWeight,
    kLinear,
    kMass,
    kPrediction,
    kNumbers
  };
  double* numbers = nullptr;
  bool wants_gap = false, wants_prediction = false;
};

struct Forward {
  Saved saved;
  void* loss;  // one value a row of type loss_dtype, or null where only the partial sums are wanted
  DType loss_dtype;
  Statistics statistics{};
  SliceSums slice{};  // of a slice: all that is wanted
};

// Whether a row's largest logit is needed, and what lies below it. (lse and z_loss alone follow
// from what any loss is made of.)
static inline constexpr bool wants_statistics(const Forward& out) {
  const Statistics& s = out.statistics;
  return s.entropy || s.prediction || s.confidence || out.slice.numbers;
}

// Whether it is also needed how far the others lie below. A forward that saves knows by the place
// for it what its backward may be asked.
static inline constexpr bool wants_gap(const Forward& out) {
  return out.statistics.entropy || out.saved.gap || out.slice.wants_gap;
}

// Whether it is asked which class leads.
static inline constexpr bool wants_prediction(const Forward& out) {
  return out.statistics.prediction || out.slice.wants_prediction;
}

// The share of one task in the reduction. Tasks are cut by the problem alone, never by the number
// of threads, so adding them up in order gives the same bits whatever ran them.
struct Partial {
  double loss;    // with what z_loss_weight adds
  double weight;  // of class indices: row_weight * w_y; of probabilities: row_weight, or 0 without
  int64_t bad_row;    // the first row whose class index is out of range, or -1
  double z_loss = 0;  // that part of `loss`
};

// What backward reads, but for grad_logits, which it writes.
struct Backward {
  Saved saved;
  // The gradient of the loss: grad_dtype values, `grad_stride` (0 or 1) apart from row to row; all
  // are divided by `*total_weight`, what a mean was divided by, unless it is null. Null: 0.
  const void* grad;
  DType grad_dtype;
  int64_t grad_stride;
  const double* total_weight;
  // Of the logits' type. May be the logits themselves, with their strides: every logit is read
  // before its gradient is written.
  void* grad_logits;
  Strides grad_strides;
  // The gradients of statistics, or null. Rows that do not count have none.
  const void* grad_z_loss = nullptr;   // in the form of `grad`, and divided likewise
  const void* grad_lse = nullptr;      // one a row, of the accumulate type
  const void* grad_entropy = nullptr;  // one a row, of the accumulate type; needs saved.gap
};

inline constexpr int64_t kNoBadRow = -1;

}  // namespace fused_ce
