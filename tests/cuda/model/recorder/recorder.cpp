// SPDX-License-Identifier: BSD-3-Clause
// Prints what forward, of a mean and of no reduction, and backward launch:
//
//   recorder TYPE TERMS OUTER CLASSES INNER ...  (problems of three numbers each)
//
// Types and terms as sass/facts.py names them. A line a launch: its call, the kernel's mangled
// name, blocks, threads, bytes of dynamic shared memory, and its arguments in hexadecimal. The
// launchers are the unchanged ones, so that a plan of theirs is never copied.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda.h"
#include "simt.h"

namespace {

const char* call = "";

// What lies where, as ptx/memory.py has it.
enum Region : uintptr_t {
  kLogits = 1,
  kTarget,
  kReference,
  kSum,
  kTargetLogit,
  kRowLoss,
  kLoss,
  kTotalWeight,
  kWorkspace,
  kGrad,
  kGradLogits,
};
// A region's first address, which any vector may have, and nobody reads here.
template <class T = void>
T* at(Region region) {
  return reinterpret_cast<T*>(static_cast<uintptr_t>(region) << 40);
}

using namespace fused_ce;

DType dtype_of(const char* type) {
  if (!strcmp(type, "float")) return DType::kFloat;
  if (!strcmp(type, "double")) return DType::kDouble;
  return strcmp(type, "Half") ? DType::kBFloat16 : DType::kHalf;
}

Problem problem_of(DType dtype, const char* terms) {
  Problem p{};
  p.dtype = p.target_dtype = dtype;
  p.logits = at(kLogits);
  p.target = at(kTarget);
  p.ignore_index = -100;
  if (strstr(terms, "probabilities")) p.target_kind = TargetKind::kProbabilities;
  if (strstr(terms, "smoothed")) p.label_smoothing = 0.1;
  if (strstr(terms, "general")) p.cap = 30;
  return p;
}

void record_calls(const Problem& p) {
  const Saved saved{at(kReference), at(kSum), at(kTargetLogit)};
  double* const total_weight = at<double>(kTotalWeight);
  // As the operator asks for them, where there will be a backward.
  call = "forward";
  cuda::forward(p, {saved, nullptr, p.dtype}, {Reduction::kMean, at(kLoss), p.dtype, total_weight},
                at(kWorkspace), nullptr);
  call = "forward_none";
  cuda::forward(p, {saved, at(kRowLoss), p.dtype},
                {Reduction::kNone, nullptr, p.dtype, total_weight}, at(kWorkspace), nullptr);
  call = "backward";
  cuda::backward(p, {saved, at(kGrad), p.dtype, 0, total_weight, at(kGradLogits), p.logits_strides},
                 nullptr);
}

}  // namespace

// Room for every tile: how many blocks a GPU has at once is the model's to say.
int simt::multiprocessors() { return INT32_MAX; }

void recorder::record(void* kernel, unsigned grid, unsigned block, size_t shared_bytes,
                      std::initializer_list<Bytes> arguments) {
  Dl_info info;
  if (!dladdr(kernel, &info) || !info.dli_sname) abort();
  printf("%s %s %u %u %zu", call, info.dli_sname, grid, block, shared_bytes);
  for (const auto& [data, size] : arguments) {
    printf(" ");
    for (size_t i = 0; i < size; ++i) printf("%02x", static_cast<const unsigned char*>(data)[i]);
  }
  printf("\n");
}

int main(int count, char** arguments) {
  if (count < 3 || count % 3) return 2;
  Problem p = problem_of(dtype_of(arguments[1]), arguments[2]);
  for (int i = 3; i < count; i += 3) {
    p.outer = atoll(arguments[i]), p.classes = atoll(arguments[i + 1]),
    p.inner = atoll(arguments[i + 2]);
    p.logits_strides = p.target_strides = {p.classes * p.inner, p.inner, 1};
    record_calls(p);
    printf("\n");
  }
}
