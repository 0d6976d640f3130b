// SPDX-License-Identifier: BSD-3-Clause
// The rows of a batch in chunks, whose logits there are at a time: all rows as they lie, or where
// the CPU can see that some are ignored, those that count.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "call.h"

namespace fused_ce::linear {

struct Chunk {
  at::Tensor index;  // which rows of the batch; undefined: from `begin`
  int64_t begin, size;
  bool counts;  // whether the rows have a loss and gradients

  // The chunk's part of what has a number a row along a dimension. Undefined stays so.
  at::Tensor of(const at::Tensor& batch, int64_t dim = 0) const;
  void put(const at::Tensor& values, const at::Tensor& batch, int64_t dim = 0) const;
};

struct Chunks {
  std::vector<Chunk> chunks;
  int64_t counted = 0;      // rows that count, where the CPU could tell them from others, else all
  bool leaves_out = false;  // there are rows that no chunk has, or that do not count
  int64_t most_rows = 0;

  // Whether the one chunk is the batch as it lies.
  bool is_batch() const { return chunks.size() == 1 && !leaves_out; }
};

// Of a checked call. `ignored_too`: the rows that do not count follow in chunks of their own.
// Throws where a class index is not in [0, classes) and on the CPU.
Chunks chunks_of(const LinearCall& call, bool ignored_too, int64_t classes);
inline Chunks chunks_of(const LinearCall& call, bool ignored_too) {
  return chunks_of(call, ignored_too, call.layer.weight.size(0));
}

// How many rows have their logits at a time, of so many: what the call asks for, or as many as
// their memory allows and products are efficient with.
int64_t rows_of_chunk(const LinearCall& call, int64_t rows);

}  // namespace fused_ce::linear
