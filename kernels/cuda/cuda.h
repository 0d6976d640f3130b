// SPDX-License-Identifier: BSD-3-Clause
// The CUDA kernels: what a caller (the operator, a test, a C++ program) sees of them. The mirror of
// cpu/cpu.h.
#pragma once

#include "../problem.h"

struct CUstream_st;  // cudaStream_t, without the toolkit's headers

namespace fused_ce::cuda {

using Stream = CUstream_st*;

// Where forward leaves the reduced loss: device memory, so that nobody waits for it.
struct Totals {
  Reduction reduction;
  void* loss;  // one value of loss_dtype; null where the reduction is none
  DType loss_dtype;
  double* total_weight;  // what a mean divides by: *normalizer, or else the weights of the rows
                         // that count, or, for probabilities, the row weights, without which it is
                         // the number of rows; null where nobody asks
  void* z_loss = nullptr;  // the part of `loss` that z_loss_weight makes, reduced likewise and of
                           // loss_dtype; null where nobody asks
  const double* normalizer = nullptr;  // device memory: what a mean divides by, or null
};

// Device memory that forward needs, in bytes: often none. Its contents do not matter. 16-byte
// aligned.
int64_t workspace_bytes(const Problem& problem, const Forward& out, const Totals& totals);

// Both launch on `stream` and return: no synchronisation, no allocation, so that a CUDA graph can
// hold them. The same problem gives the same bits on every GPU: atomics count blocks that have
// ended, and nothing else. Forward is one launch, or two for few rows that are very long; backward
// is one. Every pointer is device memory.
// A class index out of range trips a device-side assertion, as torch's does. Launch errors are left
// for cudaGetLastError.
void forward(const Problem& problem, const Forward& out, const Totals& totals, void* workspace,
             Stream stream);
void backward(const Problem& problem, const Backward& back, Stream stream);

}  // namespace fused_ce::cuda
