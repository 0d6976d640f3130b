// SPDX-License-Identifier: BSD-3-Clause
// Compiled once for each instruction set: runs a problem's tasks with the loop that its plan names.
#include "cpu.h"
#include "plan.h"
#include "plane_gradients.h"
#include "planes.h"
#include "row_gradients.h"
#include "rows.h"
#include "scratch.h"
#include "single.h"
#include "staged.h"

#if defined(__AVX512BF16__)
namespace fused_ce::cpu::isa_avx512 {
extern const Kernels kKernels;
}
#elif defined(__AVX512F__)
namespace fused_ce::cpu::isa_avx2 {
extern const Kernels kKernels;
}
#endif

namespace fused_ce::cpu::FUSED_CE_ISA {

extern const Kernels kKernels;

namespace {

// The unit whose loops read a problem's type; `ranked`: what kIsRanked says. What AVX-512 BF16 adds
// is for bfloat16 alone: all else would be compiled to the same code twice. Statistics of double
// are rare enough to be left to AVX2.
const Kernels& kernels_for([[maybe_unused]] const Problem& p, [[maybe_unused]] bool ranked) {
#if defined(__AVX512BF16__)
  if (p.dtype != DType::kBFloat16) return isa_avx512::kKernels;
#elif defined(__AVX512F__)
  if (p.dtype == DType::kDouble && ranked) return isa_avx2::kKernels;
#endif
  return kKernels;
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

// Of which types there are loops for statistics: to keep the library small, not of those that are
// rarer, or slower anyway. What is not there is staged as float, or another unit's (kernels_for).
template <class S, bool kIndices>
inline constexpr bool kHasRanked = sizeof(S) != 2;
#if defined(__AVX512F__)
template <>
inline constexpr bool kHasRanked<BFloat16, true> = true;
template <bool kIndices>
inline constexpr bool kHasRanked<double, kIndices> = false;
#endif

// f.template operator()<S>() with the problem's storage type.
template <class F>
auto with_type([[maybe_unused]] const Problem& p, F f) {
#if !defined(__AVX512BF16__)
  switch (p.dtype) {
    case DType::kFloat:
      return f.template operator()<float>();
    case DType::kDouble:
      return f.template operator()<double>();
    case DType::kHalf:
      return f.template operator()<Half>();
    case DType::kBFloat16:
      break;
  }
#endif
  return f.template operator()<BFloat16>();
}
// f.template operator()<S, kTerms>() with that and the problem's terms. `ranked`: what kIsRanked
// says.
template <class F>
void with_terms(const Problem& p, bool ranked, F f) {
  with_type(p, [&]<class S>() {
    if (p.target_kind == TargetKind::kProbabilities) {
      if constexpr (kHasRanked<S, false>) {
        if (ranked) return f.template operator()<S, Terms::kProbabilitiesRanked>();
      }
      return f.template operator()<S, Terms::kProbabilities>();
    }
    if constexpr (kHasRanked<S, true>) {
      if (ranked) return f.template operator()<S, Terms::kIndicesRanked>();
    }
    if (p.label_smoothing > 0) return f.template operator()<S, Terms::kSmoothed>();
    return f.template operator()<S, Terms::kIndices>();
  });
}

// Whether a problem's logits are made before a loop reads them. `ranked`: whether statistics are,
// or were, asked for: what is saved depends on the type that a loop read.
bool is_staged(const Problem& p, bool ranked) {
  if (p.cap != 0) return true;
  const bool indices = p.target_kind != TargetKind::kProbabilities;
  return ranked && with_type(p, [&]<class S>() {
           return indices ? !kHasRanked<S, true> : !kHasRanked<S, false>;
         });
}

void forward_staged(const Problem& p, const Forward& out, const Plan& plan, int64_t begin,
                    int64_t end, Partial* partials) {
  with_type(p, [&]<class S>() {
    Stage<S> stage(p, plan.loop == Loop::kPlanes, /*backward=*/false);
    for (int64_t task = begin; task < end; ++task) {
      TaskSums sums;
      stage.for_tiles(plan.rows_of_task(task), [&](int64_t first, int n) {
        const Problem tile = stage.template open</*kBackward=*/false>(first, n);
        Partial of_tile[kStagedRows];
        const int64_t tasks = forward_plan(tile, out).tasks;
        kernels_for(tile, wants_statistics(out))
            .forward(tile, stage.forward(out), 0, tasks, of_tile);
        for (int64_t i = 0; i < tasks; ++i) sums.add(of_tile[i], first);
      });
      partials[task] = sums.partial();
    }
  });
}
void backward_staged(const Problem& p, const Backward& back, const Plan& plan, int64_t begin,
                     int64_t end, bool streamed) {
  with_type(p, [&]<class S>() {
    Stage<S> stage(p, plan.loop == Loop::kPlanes, /*backward=*/true);
    for (int64_t task = begin; task < end; ++task) {
      stage.for_tiles(plan.rows_of_task(task), [&](int64_t first, int n) {
        const Problem tile = stage.template open</*kBackward=*/true>(first, n);
        const Backward to = stage.backward(back);
        kernels_for(tile, to.saved.ranked)
            .backward(tile, to, 0, backward_plan(tile, to).tasks, /*streamed=*/false);
        stage.put_gradients(back, streamed);
      });
    }
  });
  fence();
}

// The same for every instruction set.
int64_t forward_tasks(const Problem& p) { return forward_plan(p, Forward{}).tasks; }

void forward(const Problem& p, const Forward& out, int64_t begin, int64_t end, Partial* partials) {
  const Kernels& kernels = kernels_for(p, wants_statistics(out));
  if (&kernels != &kKernels) return kernels.forward(p, out, begin, end, partials);
  const Plan plan = forward_plan(p, out);
  if (is_staged(p, wants_statistics(out)))
    return forward_staged(p, out, plan, begin, end, partials);
  with_terms(p, wants_statistics(out), [&]<class S, Terms kTerms>() {
    forward_tasks_of<S, kTerms>(p, out, plan, begin, end, partials);
  });
}

int64_t backward_tasks(const Problem& p, const Backward& back) {
  const Kernels& kernels = kernels_for(p, back.saved.ranked);
  return &kernels != &kKernels ? kernels.backward_tasks(p, back) : backward_plan(p, back).tasks;
}

void backward(const Problem& p, const Backward& back, int64_t begin, int64_t end, bool streamed) {
  const Kernels& kernels = kernels_for(p, back.saved.ranked);
  if (&kernels != &kKernels) return kernels.backward(p, back, begin, end, streamed);
  const Plan plan = backward_plan(p, back);
  if (is_staged(p, back.saved.ranked)) return backward_staged(p, back, plan, begin, end, streamed);
  with_terms(p, back.grad_entropy != nullptr, [&]<class S, Terms kTerms>() {
    backward_tasks_of<S, kTerms>(p, back, plan, begin, end, streamed);
  });
}

}  // namespace

const Kernels kKernels = {forward_tasks, forward, backward_tasks, backward};

}  // namespace fused_ce::cpu::FUSED_CE_ISA
