// SPDX-License-Identifier: BSD-3-Clause
// The CUDA kernels, executed on the CPU: near the formula, inside of their buffers, and the same
// bits whichever threads and blocks come first.
#include "kernels/cuda/cuda.h"

#include "results.h"
#include "tests/simt/machine.h"

namespace {

using namespace fused_ce;
using namespace fused_ce::testing;

struct Run {
  Results results;
  std::vector<unsigned char> workspace;  // exactly as much as it asks for, and nothing of use in it
  Array loss, z_loss;                    // the reduced ones
  double weight = 0;

  explicit Run(const FuzzedProblem& f) : results(f), loss(f.loss_dtype, 1), z_loss(loss) {
    const bool reduced = f.reduction != Reduction::kNone;
    const Problem p = results.problem(f);
    const Forward out = results.forward(f);
    const cuda::Totals totals{f.reduction, reduced ? loss.data() : nullptr, loss.type(), &weight,
                              reduced ? z_loss.data() : nullptr};
    workspace.assign(cuda::workspace_bytes(p, out, totals), 0xAB);
    cuda::forward(p, out, totals, workspace.data(), nullptr);
    cuda::backward(p, results.backward(f), nullptr);
  }

  bool same_bits(const Run& other) const {
    return results.same_bits(other.results) && loss.same_bits(other.loss) &&
           z_loss.same_bits(other.z_loss);
  }
};

void expect_refusal(const FuzzedProblem& f) {
  const std::string error = simt::error();
  simt::clear_error();
  if (error.find("Target is out of bounds") == std::string::npos)
    fail(f, "cuda", "row ", f.first_bad, " is not refused, but: ", error);
}

}  // namespace

// Else clang's AddressSanitizer keeps a second stack for every fiber, and never gives it back.
extern "C" const char* __asan_default_options() { return "detect_stack_use_after_return=0"; }

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const FuzzedProblem f(Bytes(data, size));
  simt::set_schedule(simt::Order::kFifo);
  simt::set_poison(0xFF);
  Run run(f);
  if (f.first_bad >= 0) {
    expect_refusal(f);
    return 0;
  }
  simt::set_schedule(simt::Order::kRandom, size);
  simt::set_poison(0x7F);
  Run again(f);
  if (!simt::error().empty()) fail(f, "cuda", simt::error());
  if (!run.same_bits(again)) fail(f, "cuda", "results depend on the schedule");
  const std::vector<Expected> expected = expected_rows(f);
  check(f, run.results, expected, "cuda");
  check_sums(f, f.reduction, {run.loss.get(0), run.z_loss.get(0), run.weight}, f.loss_dtype,
             expected, "cuda");
  return 0;
}
