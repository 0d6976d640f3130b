// Compiled once for each instruction set: cuts a problem into tasks and chooses the loop for its
// shape.
#include "cpu.h"
#include "few.h"
#include "flat.h"
#include "planes.h"
#include "row_gradients.h"
#include "rows.h"
#include "scratch.h"
#include "single.h"

namespace fused_ce::cpu::FUSED_CE_ISA {
namespace {

// Elements a task has at least: enough to be worth handing to a thread, few enough to share out
// evenly.
constexpr int64_t kTaskElements = 32768;
// Fewer neighbouring rows than this would leave the lanes of a tile mostly empty.
constexpr int64_t kNarrowestPlane = 8;

enum class Loop { kRows, kPlanes, kFew, kSingle };

// How rows are dealt out: `rows` at a time, never across the end of a span of neighbouring rows.
struct Cut {
  Loop loop;
  int tile;           // rows a tile, unless the loop is over rows
  int64_t span;       // rows that lie in one piece
  int64_t task_rows;  // rows a task
  int64_t tasks_per_span;
  int64_t tasks;
};

// `few`: rows of so many classes have a loop of their own.
Cut cut(const Problem& p, const Strides& grad, int64_t few) {
  Cut cut{};
  const Strides& s = p.logits_strides;
  if (p.classes == 1) {
    cut.loop = Loop::kSingle;
  } else if (p.classes <= few && (s.inner != 1 || p.classes == 0)) {
    cut.loop = Loop::kFew;
  } else if (s.inner == 1 && grad.inner == 1 && s.classes != 1 && p.inner >= kNarrowestPlane) {
    cut.loop = Loop::kPlanes;
  } else {
    cut.loop = p.classes <= few ? Loop::kFew : Loop::kRows;
  }
  cut.span = cut.loop == Loop::kPlanes ? p.inner : rows_of(p);
  cut.tile = cut.loop == Loop::kPlanes ? kPlaneTile : kFewTile;
  static_assert(kFlatTile == kFewTile);
  int64_t rows = kTaskElements / (p.classes > 0 ? p.classes : 1);
  if (cut.loop == Loop::kRows) {
    rows = rows > 1 ? rows : 1;
  } else {  // whole tiles
    rows = (rows / cut.tile > 1 ? rows / cut.tile : 1) * cut.tile;
  }
  cut.task_rows = rows;
  cut.tasks_per_span = (cut.span + rows - 1) / rows;
  cut.tasks = cut.span > 0 ? cut.tasks_per_span * (rows_of(p) / cut.span) : 0;
  return cut;
}

struct Range {
  int64_t begin, end;
};
Range rows_of_task(const Cut& cut, int64_t task) {
  const int64_t start = task / cut.tasks_per_span * cut.span;
  const int64_t begin = start + task % cut.tasks_per_span * cut.task_rows;
  const int64_t end = begin + cut.task_rows;
  return {begin, end < start + cut.span ? end : start + cut.span};
}

// A loop in scratch memory, which `new` gives out: with its buffers it is larger than a caller's
// stack may be. Nothing is to be destroyed.
template <class Loop>
struct InScratch {
  Loop loop;
  static void* operator new(size_t bytes) { return scratch(bytes); }
};
template <class Loop>
Loop& in_scratch(const Problem& p) {
  return (new InScratch<Loop>{Loop(p)})->loop;
}

template <class S, Terms kTerms>
void forward_tasks_of(const Problem& p, const Forward& out, const Cut& cut, int64_t begin,
                      int64_t end, Partial* partials) {
  const auto over_rows = [&](auto& rows) {
    for (int64_t task = begin; task < end; ++task) {
      const Range r = rows_of_task(cut, task);
      partials[task] = rows.template forward<kTerms>(out, r.begin, r.end);
    }
  };
  const auto over_tiles = [&](auto& tiles) {
    for (int64_t task = begin; task < end; ++task) {
      const Range r = rows_of_task(cut, task);
      TaskSums sums;
      for (int64_t row = r.begin; row < r.end; row += cut.tile) {
        tiles.template forward<kTerms>(
            out, row, static_cast<int>(smaller<int64_t>(r.end - row, cut.tile)), sums);
      }
      partials[task] = sums.partial();
    }
  };
  switch (cut.loop) {
    case Loop::kRows:
      return over_rows(in_scratch<Rows<S>>(p));
    case Loop::kPlanes:
      return over_tiles(in_scratch<Planes<S>>(p));
    case Loop::kFew:
      return over_tiles(in_scratch<Few<S>>(p));
    case Loop::kSingle:
      return over_rows(in_scratch<Single<S>>(p));
  }
}

template <class S, Terms kTerms>
void backward_tasks_of(const Problem& p, const Backward& out, const Cut& cut, int64_t begin,
                       int64_t end, bool streamed) {
  const auto over_rows = [&](auto& rows) {
    for (int64_t task = begin; task < end; ++task) {
      const Range r = rows_of_task(cut, task);
      rows.template backward<kTerms>(out, r.begin, r.end, streamed);
    }
  };
  const auto over_tiles = [&](auto& tiles) {
    for (int64_t task = begin; task < end; ++task) {
      const Range r = rows_of_task(cut, task);
      for (int64_t row = r.begin; row < r.end; row += cut.tile) {
        tiles.template backward<kTerms>(
            out, row, static_cast<int>(smaller<int64_t>(r.end - row, cut.tile)), streamed);
      }
    }
  };
  switch (cut.loop) {
    case Loop::kRows:
      over_rows(in_scratch<RowGradients<S>>(p));
      return fence();
    case Loop::kPlanes:
      over_tiles(in_scratch<Planes<S>>(p));
      return fence();
    case Loop::kFew:
      return over_tiles(in_scratch<Flat<S>>(p));
    case Loop::kSingle:
      return over_rows(in_scratch<Single<S>>(p));
  }
}

// Calls f.template operator()<S, kTerms>() with the problem's storage type and terms.
template <class S, class F>
void with_terms(const Problem& p, F f) {
  if (p.target_kind == TargetKind::kProbabilities)
    return f.template operator()<S, Terms::kProbabilities>();
  if (p.label_smoothing > 0) return f.template operator()<S, Terms::kSmoothed>();
  return f.template operator()<S, Terms::kIndices>();
}
template <class F>
void with_types(const Problem& p, F f) {
  switch (p.dtype) {
    case DType::kFloat:
      return with_terms<float>(p, f);
    case DType::kDouble:
      return with_terms<double>(p, f);
    case DType::kBFloat16:
      return with_terms<BFloat16>(p, f);
    case DType::kHalf:
      return with_terms<Half>(p, f);
  }
}

int64_t forward_tasks(const Problem& p) { return cut(p, p.logits_strides, kFewClasses).tasks; }

void forward(const Problem& p, const Forward& out, int64_t begin, int64_t end, Partial* partials) {
  const Cut c = cut(p, p.logits_strides, kFewClasses);
  with_types(p, [&]<class S, Terms kTerms>() {
    forward_tasks_of<S, kTerms>(p, out, c, begin, end, partials);
  });
}

int64_t backward_tasks(const Problem& p, const Backward& out) {
  return cut(p, out.grad_strides, kFlatClasses).tasks;
}

void backward(const Problem& p, const Backward& out, int64_t begin, int64_t end, bool streamed) {
  const Cut c = cut(p, out.grad_strides, kFlatClasses);
  with_types(p, [&]<class S, Terms kTerms>() {
    backward_tasks_of<S, kTerms>(p, out, c, begin, end, streamed);
  });
}

}  // namespace

extern const Kernels kKernels;
const Kernels kKernels = {forward_tasks, forward, backward_tasks, backward};

}  // namespace fused_ce::cpu::FUSED_CE_ISA
