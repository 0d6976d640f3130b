// SPDX-License-Identifier: BSD-3-Clause
// How forward cuts rows, and where the sums of the pieces go: an argument of its kernels, by value.
//
// A tile is some rows, cut by the problem alone. Its sums have a place of their own, and the last
// block to end adds up all of them in the tiles' order. So blocks may share the tiles among them in
// any way: the same bits whatever the GPU and its grid.
#pragma once

#include "cuda.h"
#include "ticket.cuh"

namespace fused_ce::cuda {

enum TileSum { kLossSum, kWeightSum, kZLossSum, kTileSums };

struct Tiles {
  unsigned count;  // at most 2^16 - 1, see Ticket
  int64_t rows;    // of each, but for the last
  // The first row of a tile, and the one behind its last of `all`.
  __device__ int64_t begin(unsigned tile) const { return tile * rows; }
  __device__ int64_t end(unsigned tile, int64_t all) const {
    const int64_t end = begin(tile + 1);
    return end < all ? end : all;
  }

  bool wanted;  // whether there is anything to be reduced, and then which sums
  bool wants[kTileSums];
  double* sums[kTileSums];  // one a tile. One tile has none: the block that has it keeps them
  Ticket ticket;            // of more than one tile
  Totals totals;
  bool weighted;  // whether a mean divides by the rows' weights, or by how many there are
  double rows_in_all;
  double nothing;  // the loss of no rows
};

}  // namespace fused_ce::cuda
