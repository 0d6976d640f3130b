// SPDX-License-Identifier: BSD-3-Clause
// Compiled once for each storage type: launches the kernels of a plan. FUSED_CE_STORAGE is the
// type's name in types.cuh, FUSED_CE_STORAGE_NAME the namespace that keeps one type's code apart
// from another's.
#include "few.cuh"
#include "grid.h"
#include "launch.h"
#include "planes.cuh"
#include "rows.cuh"
#include "slices.cuh"

namespace fused_ce::cuda::FUSED_CE_STORAGE_NAME {
namespace {

using S = FUSED_CE_STORAGE;
using A = Accumulate<S>;
constexpr int kNeighbours = neighbours(sizeof(S));

template <Terms kTerms>
constexpr bool kHasSlices = kTerms != Terms::kGeneralProbabilities;

dim3 grid(int64_t blocks) { return dim3(static_cast<unsigned>(blocks)); }

// A block for each of so many pieces of work, or as many blocks as there is room for.
template <class Kernel>
dim3 grid_of(Kernel* kernel, int64_t pieces, int threads, size_t shared_bytes) {
  if (pieces <= 1) return dim3(1);  // and where there is none, one block writes forward's totals
  const int64_t most = blocks_at_once(reinterpret_cast<const void*>(kernel), threads, shared_bytes);
  return grid(pieces < most ? pieces : most);
}

// Calls f.template operator()<kTeam>() with the number of threads that share a row, which are at
// most kLargest. (To have less code, the general loops come in fewer sizes: see plan.cpp.)
template <Terms kTerms, int kLargest, class F>
void with_team(int team, F f) {
  if constexpr (!kIsGeneral<kTerms>) {
    if (team == kSmallTeam) return f.template operator()<kSmallTeam>();
  }
  if constexpr (kLargest > kWarp) {
    if (team > kWarp) return f.template operator()<kLargest>();
  }
  return f.template operator()<kWarp>();
}

// The same with the number of neighbouring rows that a thread has.
template <Terms kTerms, class F>
void with_neighbours(int neighbours, F f) {
  if constexpr (!kIsGeneral<kTerms>) {
    if (neighbours > 1) return f.template operator()<kNeighbours>();
  }
  return f.template operator()<1>();
}

template <Terms kTerms>
void forward_of(const Objective<S, kTerms>& objective, const Forward& out, const Plan& plan,
                const Tiles& tiles, void* slice_sums, Stream stream) {
  switch (plan.loop) {
    case Loop::kFew: {
      const int pitch = few_pitch(objective.problem.classes, sizeof(S));
      const size_t bytes = sizeof(S) * kFewRows * pitch;
      const dim3 blocks = grid_of(few_forward<S, kTerms>, tiles.count, kFewRows, bytes);
      FUSED_CE_LAUNCH((few_forward<S, kTerms>), blocks, dim3(kFewRows), bytes, stream, objective,
                      out, pitch, tiles);
      return;
    }
    case Loop::kRows:
      return with_team<kTerms, kBlock>(plan.team, [&]<int kTeam>() {
        constexpr int kThreads = block_of(kTeam);
        const dim3 blocks = grid_of(rows_forward<S, kTerms, kTeam>, tiles.count, kThreads, 0);
        FUSED_CE_LAUNCH((rows_forward<S, kTerms, kTeam>), blocks, dim3(kThreads), 0, stream,
                        objective, out, tiles);
      });
    case Loop::kSlices:
      if constexpr (kHasSlices<kTerms>) {
        auto* const sums = static_cast<RowSums<A, kTerms>*>(slice_sums);
        if (const int64_t items = rows_of(objective.problem) * plan.slices; items > 0) {
          FUSED_CE_LAUNCH((slices_forward<S, kTerms>),
                          grid_of(slices_forward<S, kTerms>, items, kBlock, 0), dim3(kBlock), 0,
                          stream, objective, sums, out, plan.slices, plan.slice_classes);
        }
        const dim3 blocks = grid_of(slices_finish<S, kTerms>, tiles.count, kBlock, 0);
        FUSED_CE_LAUNCH((slices_finish<S, kTerms>), blocks, dim3(kBlock), 0, stream, objective, out,
                        sums, plan.slices, tiles);
      }
      return;
    case Loop::kPlanes:
      return with_neighbours<kTerms>(plan.neighbours, [&]<int kN>() {
        const dim3 blocks = grid_of(planes_forward<S, kTerms, kN>, tiles.count, kPlaneBlock, 0);
        FUSED_CE_LAUNCH((planes_forward<S, kTerms, kN>), blocks, dim3(kPlaneBlock), 0, stream,
                        objective, out, tiles);
      });
  }
}

template <Terms kTerms>
void backward_of(const Objective<S, kTerms>& objective, const Backward& back, const Plan& plan,
                 Stream stream) {
  const dim3 blocks = grid(plan.blocks);
  switch (plan.loop) {
    case Loop::kFew: {
      const int pitch = few_pitch(objective.problem.classes, sizeof(S));
      const size_t bytes = sizeof(S) * kFewRows * pitch;
      FUSED_CE_LAUNCH((few_backward<S, kTerms>), blocks, dim3(kFewRows), bytes, stream, objective,
                      back, pitch);
      return;
    }
    case Loop::kRows:
    case Loop::kSlices:
      return with_team<kTerms, kIsGeneral<kTerms> ? kWarp : kBlock>(plan.team, [&]<int kTeam>() {
        constexpr int kThreads = block_of(kTeam);
        const int64_t pieces = rows_of(objective.problem) * plan.slices;
        const int64_t at_once = kThreads / kTeam;
        const dim3 blocks =
            grid_of(rows_backward<S, kTerms, kTeam>, (pieces + at_once - 1) / at_once, kThreads, 0);
        FUSED_CE_LAUNCH((rows_backward<S, kTerms, kTeam>), blocks, dim3(kThreads), 0, stream,
                        objective, back, plan.slices, plan.slice_classes);
      });
    case Loop::kPlanes:
      return with_neighbours<kTerms>(plan.neighbours, [&]<int kN>() {
        FUSED_CE_LAUNCH((planes_backward<S, kTerms, kN>), blocks, dim3(kPlaneBlock), 0, stream,
                        objective, back);
      });
  }
}

// Calls f.template operator()<kTerms>() with what the problem's loops compute.
template <class F>
void with_terms(const Problem& p, bool general, F f) {
  const bool probabilities = p.target_kind == TargetKind::kProbabilities;
  if (general && probabilities) return f.template operator()<Terms::kGeneralProbabilities>();
  if (general) return f.template operator()<Terms::kGeneralIndices>();
  if (probabilities) return f.template operator()<Terms::kProbabilities>();
  if (p.label_smoothing > 0) return f.template operator()<Terms::kSmoothed>();
  return f.template operator()<Terms::kIndices>();
}

}  // namespace

void forward(const Problem& p, const Forward& out, const Plan& plan, const Tiles& tiles,
             void* slice_sums, Stream stream) {
  with_terms(p, is_general(p, out), [&]<Terms kTerms>() {
    forward_of(Objective<S, kTerms>(p), out, plan, tiles, slice_sums, stream);
  });
}

void backward(const Problem& p, const Backward& back, const Plan& plan, Stream stream) {
  with_terms(p, is_general(p, back),
             [&]<Terms kTerms>() { backward_of(Objective<S, kTerms>(p), back, plan, stream); });
}

}  // namespace fused_ce::cuda::FUSED_CE_STORAGE_NAME
