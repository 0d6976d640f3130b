// Which loop a problem takes, and in how many blocks. Plain C++; the answer follows from the
// problem alone, never from the GPU, so that every GPU adds up in the same order.
#pragma once

#include "../problem.h"

namespace fused_ce::cuda {

enum class Loop : int8_t { kFew, kRows, kSlices, kPlanes };

struct Plan {
  Loop loop;
  int team;               // kRows: threads that share a row
  int neighbours;         // kPlanes: rows a thread
  int64_t slices;         // kRows (backward) and kSlices: pieces a row is cut into
  int64_t slice_classes;  // classes a piece
  int64_t blocks;
};

Plan forward_plan(const Problem& problem);
Plan backward_plan(const Problem& problem, const Backward& out);

}  // namespace fused_ce::cuda
