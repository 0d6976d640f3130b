// SPDX-License-Identifier: BSD-3-Clause
#include "chunks.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "../arguments.h"
#include "../out_of_range.h"
#include "part.h"
#include "products.h"

namespace fused_ce::linear {
namespace {

// A product of few rows reads the weights as often as it computes with them. On the CPU, at K =
// 1024 and one thread, 64 rows take 1.4 times as long as 256 (AVX2), and 128 as long (EPYC Zen 5,
// within 2 %). On a GPU, where nobody has measured it, a guess.
struct Efficient {
  int64_t rows, bytes_of_logits;
};
constexpr Efficient kOnCpu{128, 32 << 20}, kOnGpu{512, 256 << 20};

// Rows that count, in their order, and behind them those that do not.
struct Order {
  at::Tensor index;  // undefined: all count
  int64_t counted;
};

Order order_of(const LinearCall& call, int64_t classes) {
  const at::Tensor& target = call.target;
  const int64_t rows = call.layer.input.size(0);
  if (!target.is_cpu() || at::isFloatingType(target.scalar_type())) return {{}, rows};
  const int64_t ignore_index = call.options.ignore_index.guard_int(__FILE__, __LINE__);
  const at::Tensor indices = target.to(at::kLong).contiguous();
  const int64_t* const y = indices.const_data_ptr<int64_t>();
  int64_t counted = 0;
  for (int64_t i = 0; i < rows; ++i) {
    if (y[i] == ignore_index) continue;
    if (y[i] < 0 || y[i] >= classes) throw_out_of_range(target, i, classes, ignore_index);
    ++counted;
  }
  if (counted == rows) return {{}, rows};
  at::Tensor index = at::empty({rows}, target.options().dtype(at::kLong));
  int64_t* counts = index.mutable_data_ptr<int64_t>();
  int64_t* ignored = counts + counted;
  for (int64_t i = 0; i < rows; ++i) *(y[i] == ignore_index ? ignored : counts)++ = i;
  return {index, counted};
}

}  // namespace

at::Tensor Chunk::of(const at::Tensor& batch, int64_t dim) const {
  if (!batch.defined()) return batch;
  return index.defined() ? batch.index_select(dim, index) : part_of(batch, dim, begin, size);
}

void Chunk::put(const at::Tensor& values, const at::Tensor& batch, int64_t dim) const {
  if (index.defined()) {
    at::Tensor all = batch;
    all.index_copy_(dim, index, values.to(batch.scalar_type()));
  } else {
    batch.narrow(dim, begin, size).copy_(values);
  }
}

Chunks chunks_of(const LinearCall& call, bool ignored_too, int64_t classes) {
  const Order order = order_of(call, classes);
  const int64_t rows = call.layer.input.size(0);
  Chunks result;
  result.counted = order.counted;
  result.leaves_out = order.counted < rows;
  const auto cut = [&](int64_t begin, int64_t end, bool counts) {
    const int64_t size = rows_of_chunk(call, end - begin);
    for (; begin < end; begin += size) {
      const int64_t n = std::min(size, end - begin);
      const at::Tensor index =
          order.index.defined() ? part_of(order.index, 0, begin, n) : order.index;
      result.chunks.push_back({index, begin, n, counts});
      result.most_rows = std::max(result.most_rows, n);
    }
  };
  cut(0, order.counted, true);
  if (ignored_too) cut(order.counted, rows, false);
  return result;
}

int64_t rows_of_chunk(const LinearCall& call, int64_t rows) {
  if (rows == 0) return 1;
  if (const c10::SymInt& given = call.options.chunk_rows; given > 0)
    return std::min(rows, given.guard_int(__FILE__, __LINE__));
  const int64_t bytes = std::max<int64_t>(call.layer.weight.size(0), 1) *
                        static_cast<int64_t>(c10::elementSize(product_type(call.layer.input)));
  const Efficient& efficient = call.layer.input.is_cpu() ? kOnCpu : kOnGpu;
  const int64_t most = std::max(efficient.rows, efficient.bytes_of_logits / bytes);
  // Equal ones, for a small rest would not be efficient, and neither would parts of few rows be.
  const int64_t chunks = std::clamp<int64_t>(rows / efficient.rows, 1, (rows + most - 1) / most);
  return (rows + chunks - 1) / chunks;
}

}  // namespace fused_ce::linear
