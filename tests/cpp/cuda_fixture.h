// SPDX-License-Identifier: BSD-3-Clause
// A problem that the CUDA kernels solve on the CPU, and the schedules that they do it under.
#pragma once

#include <string>
#include <tuple>

#include "fixture.h"
#include "kernels/cuda/cuda.h"
#include "tests/simt/machine.h"

namespace fused_ce::testing {

struct CudaFixture : ProblemFixture {
  using ProblemFixture::ProblemFixture;

  // Exactly as much as it asks for, and nothing of use in it.
  std::vector<unsigned char> workspace;

  Partial forward() { return forward(forward_out()); }
  Partial forward(const Forward& out) {
    Partial sum{0, 0, kNoBadRow};
    launch(p, out, {Reduction::kSum, &sum.loss, DType::kDouble, &sum.weight, &sum.z_loss});
    EXPECT_EQ(simt::error(), "");
    return sum;
  }
  void launch(const Problem& problem, const Forward& out, const cuda::Totals& totals) {
    workspace.assign(cuda::workspace_bytes(problem, out, totals), 0xAB);
    cuda::forward(problem, out, totals, workspace.data(), nullptr);
  }
  void backward() { backward(backward_out()); }
  void backward(const Backward& out) {
    cuda::backward(p, out, nullptr);
    EXPECT_EQ(simt::error(), "");
  }
  // Of another problem, a slice of this one.
  void solve(const Problem& slice, const Forward& out) {
    launch(slice, out, {Reduction::kNone, nullptr, DType::kFloat, nullptr});
  }
  void solve(const Problem& slice, const Backward& out) {
    cuda::backward(slice, out, nullptr);
    EXPECT_EQ(simt::error(), "");
  }
  // `again`: results are those of a forward that is for them alone.
  void run_and_check(bool again = false) {
    Partial sum = forward();
    backward();
    if (again) sum = forward(forward_out_alone());
    if (!::testing::Test::HasFailure()) check({sum});
  }
};

// Of rows that a small team has, however few they are (cuda/plan.cpp).
inline int64_t classes_of_small_teams(DType dtype) { return 444 / size_of(dtype); }

struct Schedule {
  const char* name;
  simt::Order order;
  uint64_t seed;
  uint8_t poison;
};
inline constexpr Schedule kSchedules[] = {{"fifo", simt::Order::kFifo, 0, 0xFF},
                                          {"lifo", simt::Order::kLifo, 0, 0x7F},
                                          {"random", simt::Order::kRandom, 7, 0xFF}};

class CudaKernel : public ::testing::TestWithParam<std::tuple<Schedule, DType>> {
 protected:
  DType dtype() const { return std::get<1>(GetParam()); }
  void SetUp() override {
    const Schedule& s = std::get<0>(GetParam());
    simt::set_schedule(s.order, s.seed);
    simt::set_poison(s.poison);
    simt::clear_error();
  }
  void TearDown() override {
    simt::reset_schedule();
    simt::set_multiprocessors();
    simt::clear_error();
  }
};

inline std::string cuda_kernel_name(const ::testing::TestParamInfo<CudaKernel::ParamType>& info) {
  return std::string(std::get<0>(info.param).name) + "_" + name_of(std::get<1>(info.param));
}

}  // namespace fused_ce::testing
