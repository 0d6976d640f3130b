// SPDX-License-Identifier: BSD-3-Clause
// The entry points: plan, lay out the workspace, launch the kernels of the logits' type.
#include "launch.h"

#include <atomic>
#include <random>

#include "cuda.h"
#include "sums.cuh"

namespace fused_ce::cuda {
namespace {

int64_t aligned(int64_t bytes) { return (bytes + 15) / 16 * 16; }

int64_t slice_sums_bytes(DType type) {
  return type == DType::kDouble ? sizeof(RowSums<double, Terms::kGeneralProbabilities>)
                                : sizeof(RowSums<float, Terms::kGeneralProbabilities>);
}

// A call's number in the upper bits of its ticket. The first is drawn by lot: in a graph, or in
// another process's memory, numbers of other counters may be left.
Ticket::Word next_number() {
  static std::atomic<Ticket::Word> next = [] {
    std::random_device random;
    return Ticket::Word{random()} << 32 | random();
  }();
  return next++ << Ticket::kArrivalBits;
}

// The tiles of a plan, and what is to be reduced of them.
Tiles tiles_of(const Problem& p, const Plan& plan, const Totals& totals) {
  Tiles tiles{};
  tiles.count = static_cast<unsigned>(plan.tiles);
  tiles.rows = plan.tile_rows;
  tiles.totals = totals;
  tiles.weighted = p.target_kind != TargetKind::kProbabilities || p.row_weight;
  // torch counts the rows as logits / classes, which is no number where there are no classes.
  const double classes = static_cast<double>(p.classes);
  tiles.rows_in_all = static_cast<double>(rows_of(p)) * classes / classes;
  tiles.nothing = loss_of_no_rows(p);
  const bool divided = totals.reduction == Reduction::kMean && (totals.loss || totals.z_loss);
  tiles.wanted = totals.loss || totals.z_loss || totals.total_weight;
  tiles.wants[kLossSum] = totals.loss;
  tiles.wants[kWeightSum] =
      tiles.weighted && !totals.normalizer && (totals.total_weight || divided);
  tiles.wants[kZLossSum] = totals.z_loss;
  return tiles;
}

// What of a workspace belongs to whom.
class Workspace {
 public:
  Workspace(const Problem& p, const Plan& plan, const Tiles& tiles)
      : shares_(tiles.wanted && tiles.count > 1),
        sums_bytes_(aligned(tiles.count * sizeof(double))) {
    if (shares_) {
      tiles_bytes_ = aligned(sizeof(Ticket::Word));
      for (const bool wants : tiles.wants) tiles_bytes_ += wants ? sums_bytes_ : 0;
    }
    if (plan.loop == Loop::kSlices)
      slices_bytes_ = rows_of(p) * plan.slices * (kBlock / kWarp) * slice_sums_bytes(p.dtype);
  }

  int64_t bytes() const { return tiles_bytes_ + slices_bytes_; }

  // To `tiles` what is theirs.
  void share(void* memory, Tiles& tiles) const {
    if (!shares_) return;
    char* const bytes = static_cast<char*>(memory);
    tiles.ticket = {reinterpret_cast<Ticket::Word*>(bytes), next_number()};
    int64_t used = aligned(sizeof(Ticket::Word));
    for (int k = 0; k < kTileSums; ++k) {
      if (!tiles.wants[k]) continue;
      tiles.sums[k] = reinterpret_cast<double*>(bytes + used);
      used += sums_bytes_;
    }
  }
  void* slice_sums(void* memory) const { return static_cast<char*>(memory) + tiles_bytes_; }

 private:
  bool shares_;
  int64_t sums_bytes_, tiles_bytes_ = 0, slices_bytes_ = 0;
};

}  // namespace

int64_t workspace_bytes(const Problem& p, const Forward& out, const Totals& totals) {
  const Plan plan = forward_plan(p, is_general(p, out));
  return Workspace(p, plan, tiles_of(p, plan, totals)).bytes();
}

void forward(const Problem& p, const Forward& out, const Totals& totals, void* workspace,
             Stream stream) {
  const Plan plan = forward_plan(p, is_general(p, out));
  Tiles tiles = tiles_of(p, plan, totals);
  if (tiles.count == 0 && !tiles.wanted) return;
  const Workspace layout(p, plan, tiles);
  layout.share(workspace, tiles);
  void* const slice_sums = layout.slice_sums(workspace);
  switch (p.dtype) {
    case DType::kFloat:
      return of_float::forward(p, out, plan, tiles, slice_sums, stream);
    case DType::kDouble:
      return of_double::forward(p, out, plan, tiles, slice_sums, stream);
    case DType::kBFloat16:
      return of_bfloat16::forward(p, out, plan, tiles, slice_sums, stream);
    case DType::kHalf:
      return of_half::forward(p, out, plan, tiles, slice_sums, stream);
  }
}

void backward(const Problem& p, const Backward& back, Stream stream) {
  const Plan plan = backward_plan(p, back);
  if (plan.blocks == 0 || p.classes == 0) return;
  switch (p.dtype) {
    case DType::kFloat:
      return of_float::backward(p, back, plan, stream);
    case DType::kDouble:
      return of_double::backward(p, back, plan, stream);
    case DType::kBFloat16:
      return of_bfloat16::backward(p, back, plan, stream);
    case DType::kHalf:
      return of_half::backward(p, back, plan, stream);
  }
}

}  // namespace fused_ce::cuda
