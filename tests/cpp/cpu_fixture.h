// SPDX-License-Identifier: BSD-3-Clause
// A problem that the CPU kernels solve at one instruction set.
#pragma once

#include <string>
#include <tuple>
#include <vector>

#include "fixture.h"
#include "kernels/cpu/cpu.h"

namespace fused_ce::testing {

struct CpuFixture : ProblemFixture {
  const cpu::Kernels& kernels;

  CpuFixture(cpu::Capability capability, DType dtype, Layout layout, const Options& options,
             const Shape& s, double scale = 3)
      : ProblemFixture(dtype, layout, options, s, scale), kernels(cpu::kernels(capability)) {}

  std::vector<Partial> forward() { return forward(forward_out()); }
  std::vector<Partial> forward(const Forward& out) {
    std::vector<Partial> partials(kernels.forward_tasks(p));
    kernels.forward(p, out, 0, static_cast<int64_t>(partials.size()), partials.data());
    return partials;
  }
  void backward() { backward(backward_out()); }
  void backward(const Backward& out, bool streamed = false) {
    kernels.backward(p, out, 0, kernels.backward_tasks(p, out), streamed);
  }
  // Of another problem, a slice of this one.
  std::vector<Partial> solve(const Problem& slice, const Forward& out) {
    std::vector<Partial> partials(kernels.forward_tasks(slice));
    kernels.forward(slice, out, 0, static_cast<int64_t>(partials.size()), partials.data());
    return partials;
  }
  void solve(const Problem& slice, const Backward& out) {
    kernels.backward(slice, out, 0, kernels.backward_tasks(slice, out), /*streamed=*/false);
  }
  // `again`: results are those of a forward that is for them alone.
  void run_and_check(bool again = false) {
    std::vector<Partial> partials = forward();
    backward();
    if (again) partials = forward(forward_out_alone());
    check(partials);
  }
};

class Kernel : public ::testing::TestWithParam<std::tuple<cpu::Capability, DType>> {
 protected:
  cpu::Capability capability() const { return std::get<0>(GetParam()); }
  DType dtype() const { return std::get<1>(GetParam()); }
  void SetUp() override {
    if (!cpu::supported(capability())) GTEST_SKIP() << "this machine lacks the instruction set";
  }
};

// For INSTANTIATE_TEST_SUITE_P: all of them that differ, and their names. AVX-512 BF16 has code of
// its own for bfloat16 alone.
inline std::vector<Kernel::ParamType> every_kernel() {
  std::vector<Kernel::ParamType> found;
  for (const cpu::Capability capability : cpu::kCapabilities) {
    for (const DType dtype : kDTypes) {
      if (capability != cpu::Capability::kAvx512BFloat16 || dtype == DType::kBFloat16)
        found.emplace_back(capability, dtype);
    }
  }
  return found;
}
inline const auto kEveryKernel = ::testing::ValuesIn(every_kernel());
inline std::string kernel_name(const ::testing::TestParamInfo<Kernel::ParamType>& info) {
  const auto [capability, dtype] = info.param;
  return std::string(cpu::capability_name(capability)) + "_" + name_of(dtype);
}

}  // namespace fused_ce::testing
