// SPDX-License-Identifier: BSD-3-Clause
// Prints what one forward and one backward of class indices launch:
//
//   recorder float OUTER CLASSES INNER ...  (or BFloat16; problems of three numbers each)
//
// A line a launch: its call, the kernel's mangled name, blocks, threads, bytes of dynamic shared
// memory. The launchers are the unchanged ones, so that a plan of theirs is never copied.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda.h"
#include "simt.h"

namespace {

const char* call = "";

// An address that any vector may have, and nobody reads.
template <class T = void>
T* somewhere() {
  return reinterpret_cast<T*>(uintptr_t{1} << 20);
}

void record_calls(const fused_ce::Problem& p) {
  using namespace fused_ce;
  const Saved saved{somewhere(), somewhere(), somewhere()};
  call = "forward";
  cuda::forward(p, {saved, nullptr, p.dtype},
                {Reduction::kMean, somewhere(), p.dtype, somewhere<double>()}, somewhere(),
                nullptr);
  call = "backward";
  cuda::backward(
      p, {saved, somewhere(), p.dtype, 0, somewhere<double>(), somewhere(), p.logits_strides},
      nullptr);
}

}  // namespace

// Room for every tile: how many blocks a GPU has at once is the model's to say.
int simt::multiprocessors() { return INT32_MAX; }

void recorder::record(void* kernel, unsigned grid, unsigned block, size_t shared_bytes) {
  Dl_info info;
  if (!dladdr(kernel, &info) || !info.dli_sname) abort();
  printf("%s %s %u %u %zu\n", call, info.dli_sname, grid, block, shared_bytes);
}

int main(int count, char** arguments) {
  if (count < 2 || count % 3 != 2) return 2;
  fused_ce::Problem p{};
  p.dtype = strcmp(arguments[1], "float") ? fused_ce::DType::kBFloat16 : fused_ce::DType::kFloat;
  p.logits = p.target = somewhere();
  p.ignore_index = -100;
  for (int i = 2; i < count; i += 3) {
    p.outer = atoll(arguments[i]), p.classes = atoll(arguments[i + 1]),
    p.inner = atoll(arguments[i + 2]);
    p.logits_strides = {p.classes * p.inner, p.inner, 1};
    record_calls(p);
    printf("\n");
  }
}
