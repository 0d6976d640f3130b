// SPDX-License-Identifier: BSD-3-Clause
// The CPU kernels at each instruction set of this machine: near the formula, inside of their
// buffers, and the same bits whatever the order of the tasks.
#include "kernels/cpu/cpu.h"

#include <cstring>

#include "results.h"

namespace {

using namespace fused_ce;
using namespace fused_ce::testing;

void run(const cpu::Kernels& kernels, const FuzzedProblem& f, Results& r,
         std::vector<Partial>& partials) {
  const Problem p = r.problem(f);
  kernels.forward(p, r.forward(f), 0, static_cast<int64_t>(partials.size()), partials.data());
  const Backward out = r.backward(f);
  kernels.backward(p, out, 0, kernels.backward_tasks(p, out), f.streamed);
}

// The last task first, each by itself.
void run_apart(const cpu::Kernels& kernels, const FuzzedProblem& f, Results& r,
               std::vector<Partial>& partials) {
  const Problem p = r.problem(f);
  for (int64_t task = static_cast<int64_t>(partials.size()); task-- > 0;)
    kernels.forward(p, r.forward(f), task, task + 1, partials.data());
  const Backward out = r.backward(f);
  for (int64_t task = kernels.backward_tasks(p, out); task-- > 0;)
    kernels.backward(p, out, task, task + 1, f.streamed);
}

void check_partials(const FuzzedProblem& f, const std::vector<Partial>& partials,
                    const std::vector<Partial>& others, const std::vector<Expected>& expected,
                    const char* who) {
  // Equal ones would all be rounded the same way.
  long double loss = loss_of_no_rows(f.p), z_loss = 0, weight = 0;
  int64_t bad = kNoBadRow;
  for (size_t i = 0; i < partials.size(); ++i) {
    if (std::memcmp(&partials[i], &others[i], sizeof(Partial)) != 0)
      fail(f, who, "task ", i, " depends on the others");
    loss += partials[i].loss;
    z_loss += partials[i].z_loss;
    weight += partials[i].weight;
    if (bad < 0) bad = partials[i].bad_row;
  }
  if (bad != f.first_bad) fail(f, who, "first bad row ", bad, ", not ", f.first_bad);
  check_sums(f, Reduction::kSum,
             {static_cast<double>(loss), static_cast<double>(z_loss), static_cast<double>(weight)},
             DType::kDouble, expected, who);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const FuzzedProblem f(Bytes(data, size));
  const std::vector<Expected> expected = expected_rows(f);
  for (cpu::Capability capability : cpu::kCapabilities) {
    if (!cpu::supported(capability)) continue;
    const char* const who = cpu::capability_name(capability);
    const cpu::Kernels& kernels = cpu::kernels(capability);
    std::vector<Partial> partials(kernels.forward_tasks(f.p)), others(partials);
    Results together(f), apart(f);
    run(kernels, f, together, partials);
    run_apart(kernels, f, apart, others);
    if (!together.same_bits(apart)) fail(f, who, "results depend on the order of tasks");
    check(f, together, expected, who);
    check_partials(f, partials, others, expected, who);
  }
  return 0;
}
