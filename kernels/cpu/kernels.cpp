// Compiled once for each instruction set: runs a problem's tasks with the loop that its plan names.
#include "cpu.h"
#include "plan.h"
#include "plane_gradients.h"
#include "planes.h"
#include "row_gradients.h"
#include "rows.h"
#include "scratch.h"
#include "single.h"

namespace fused_ce::cpu::FUSED_CE_ISA {
namespace {

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

// f(row, n) for each tile: the n rows from `row` on.
template <class F>
void for_tiles(const Plan& plan, Range rows, F f) {
  for (int64_t row = rows.begin; row < rows.end; row += plan.tile)
    f(row, static_cast<int>(smaller<int64_t>(rows.end - row, plan.tile)));
}

template <class S, Terms kTerms>
void forward_tasks_of(const Problem& p, const Forward& out, const Plan& plan, int64_t begin,
                      int64_t end, Partial* partials) {
  const auto over_rows = [&](auto& loop) {
    for (int64_t task = begin; task < end; ++task) {
      const Range rows = plan.rows_of_task(task);
      partials[task] = loop.forward(out, rows.begin, rows.end);
    }
  };
  const auto over_tiles = [&](auto& loop) {
    for (int64_t task = begin; task < end; ++task) {
      TaskSums sums;
      for_tiles(plan, plan.rows_of_task(task),
                [&](int64_t row, int n) { loop.forward(out, row, n, sums); });
      partials[task] = sums.partial();
    }
  };
  switch (plan.loop) {
    case Loop::kRows:
      return over_rows(in_scratch<Rows<S, kTerms>>(p));
    case Loop::kPlanes:
      return over_tiles(in_scratch<Planes<S, kTerms>>(p));
    case Loop::kFew:
      return over_tiles(in_scratch<Few<S, kTerms>>(p));
    case Loop::kSingle:
      if constexpr (!kIsRanked<kTerms>) return over_rows(in_scratch<Single<S, kTerms>>(p));
  }
}

template <class S, Terms kTerms>
void backward_tasks_of(const Problem& p, const Backward& back, const Plan& plan, int64_t begin,
                       int64_t end, bool streamed) {
  const auto over_rows = [&](auto& loop) {
    for (int64_t task = begin; task < end; ++task) {
      const Range rows = plan.rows_of_task(task);
      loop.backward(back, rows.begin, rows.end, streamed);
    }
  };
  const auto over_tiles = [&](auto& loop) {
    for (int64_t task = begin; task < end; ++task) {
      for_tiles(plan, plan.rows_of_task(task),
                [&](int64_t row, int n) { loop.backward(back, row, n, streamed); });
    }
  };
  switch (plan.loop) {
    case Loop::kRows:
      over_rows(in_scratch<RowGradients<S, kTerms>>(p));
      return fence();
    case Loop::kPlanes:
      over_tiles(in_scratch<PlaneGradients<S, kTerms>>(p));
      return fence();
    case Loop::kFew:
      return over_tiles(in_scratch<Flat<S, kTerms>>(p));
    case Loop::kSingle:
      if constexpr (!kIsRanked<kTerms>) return over_rows(in_scratch<Single<S, kTerms>>(p));
  }
}

// Calls f.template operator()<S, kTerms>() with the problem's storage type and terms. `ranked`:
// what kIsRanked says.
template <class S, class F>
void with_terms(const Problem& p, bool ranked, F f) {
  if (p.target_kind == TargetKind::kProbabilities)
    return ranked ? f.template operator()<S, Terms::kProbabilitiesRanked>()
                  : f.template operator()<S, Terms::kProbabilities>();
  if (ranked) return f.template operator()<S, Terms::kIndicesRanked>();
  if (p.label_smoothing > 0) return f.template operator()<S, Terms::kSmoothed>();
  return f.template operator()<S, Terms::kIndices>();
}
template <class F>
void with_types(const Problem& p, bool ranked, F f) {
  switch (p.dtype) {
    case DType::kFloat:
      return with_terms<float>(p, ranked, f);
    case DType::kDouble:
      return with_terms<double>(p, ranked, f);
    case DType::kBFloat16:
      return with_terms<BFloat16>(p, ranked, f);
    case DType::kHalf:
      return with_terms<Half>(p, ranked, f);
  }
}

int64_t forward_tasks(const Problem& p) { return forward_plan(p, Forward{}).tasks; }

void forward(const Problem& p, const Forward& out, int64_t begin, int64_t end, Partial* partials) {
  const Plan plan = forward_plan(p, out);
  with_types(p, wants_statistics(out), [&]<class S, Terms kTerms>() {
    forward_tasks_of<S, kTerms>(p, out, plan, begin, end, partials);
  });
}

int64_t backward_tasks(const Problem& p, const Backward& back) {
  return backward_plan(p, back).tasks;
}

void backward(const Problem& p, const Backward& back, int64_t begin, int64_t end, bool streamed) {
  const Plan plan = backward_plan(p, back);
  with_types(p, back.grad_entropy != nullptr, [&]<class S, Terms kTerms>() {
    backward_tasks_of<S, kTerms>(p, back, plan, begin, end, streamed);
  });
}

}  // namespace

extern const Kernels kKernels;
const Kernels kKernels = {forward_tasks, forward, backward_tasks, backward};

}  // namespace fused_ce::cpu::FUSED_CE_ISA
