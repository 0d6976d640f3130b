// SPDX-License-Identifier: BSD-3-Clause
// Which loop a problem takes, and in which pieces. Plain C++; the answer follows from the problem
// alone, never from the GPU, so that every GPU adds up in the same order.
#pragma once

#include "../problem.h"

namespace fused_ce::cuda {

inline constexpr int kWarp = 32;
inline constexpr unsigned kWholeWarp = 0xffffffff;  // a bit for each of its lanes
// Teams of threads that share a row are of this size, of a warp's, or of a block's.
inline constexpr int kSmallTeam = 4, kBlock = 256;
// Threads a block that has teams of so many: no more than a warp's lanes are small teams, so that
// a warp finishes what all of them have at once.
constexpr int block_of(int team) { return team * kWarp < kBlock ? team * kWarp : kBlock; }
// Rows a block, and threads, where a thread has a row of few classes, which are at most so many
// bytes; with more of them, the rows would fill the shared memory.
inline constexpr int kFewRows = 128, kFewBytes = 256;
// Threads a block, where a thread has neighbouring rows: one, or as many as `neighbours` says of
// logits of so many bytes.
inline constexpr int kPlaneBlock = 128;
constexpr int neighbours(int64_t size) { return size == 8 ? 2 : 4; }

enum class Loop : int8_t { kFew, kRows, kSlices, kPlanes };

struct Plan {
  Loop loop;
  int team;               // kRows: threads that share a row
  int neighbours;         // kPlanes: rows a thread
  int64_t slices;         // kRows (backward) and kSlices: pieces a row is cut into
  int64_t slice_classes;  // classes a piece
  int64_t tile_rows;      // forward: rows whose sums are left in one place (see tiles.h)
  int64_t tiles;
  int64_t blocks;  // backward
};

// Whether a problem takes the general loops, which have statistics, capped logits and, forward,
// what is left of a slice.
static inline bool is_general(const Problem& problem, const Forward& out) {
  return problem.cap > 0 || wants_statistics(out) || is_slice(problem);
}
static inline bool is_general(const Problem& problem, const Backward& back) {
  return problem.cap > 0 || back.grad_entropy;
}

Plan forward_plan(const Problem& problem, bool general);
Plan backward_plan(const Problem& problem, const Backward& back);

}  // namespace fused_ce::cuda
