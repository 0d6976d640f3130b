// SPDX-License-Identifier: BSD-3-Clause
// The C++ API of losses whose classes are shared out: two processes' groups, which here are two
// threads of one process, against one that has all classes.
#include <fused_ce.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torch/csrc/distributed/c10d/GroupRegistry.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include <array>
#include <barrier>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

constexpr int kProcesses = 2;

// What threads hand to one another in turn.
struct Meeting {
  std::array<at::Tensor, kProcesses> given;
  std::barrier<> turn{kProcesses};

  // What all have given, in the order of their ranks.
  std::vector<at::Tensor> exchange(int rank, const at::Tensor& own) {
    given[rank] = own.clone();
    turn.arrive_and_wait();
    std::vector<at::Tensor> all(given.begin(), given.end());
    turn.arrive_and_wait();  // before the next one's are put there
    return all;
  }
};

struct Done : c10d::Work {
  bool wait(std::chrono::milliseconds) override { return true; }
};

class ThreadBackend : public c10d::Backend {
 public:
  ThreadBackend(int rank, Meeting& meeting)
      : Backend(rank, kProcesses), rank_(rank), meeting_(meeting) {}
  const std::string getBackendName() const override { return "threads"; }

  // What the functional collectives come to, of one tensor each.
  c10::intrusive_ptr<c10d::Work> allgather_into_tensor_coalesced(
      std::vector<at::Tensor>& outputs, std::vector<at::Tensor>& inputs,
      const c10d::AllgatherOptions&) override {
    outputs.at(0).copy_(at::cat(meeting_.exchange(rank_, inputs.at(0))));
    return c10::make_intrusive<Done>();
  }
  c10::intrusive_ptr<c10d::Work> allreduce(std::vector<at::Tensor>& tensors,
                                           const c10d::AllreduceOptions& options) override {
    EXPECT_TRUE(options.reduceOp == c10d::ReduceOp::SUM);
    tensors.at(0).copy_(at::stack(meeting_.exchange(rank_, tensors.at(0))).sum(0));
    return c10::make_intrusive<Done>();
  }

 private:
  const int rank_;
  Meeting& meeting_;
};

c10::intrusive_ptr<c10d::ProcessGroup> group_of(int rank, Meeting& meeting) {
  const auto group = c10::make_intrusive<c10d::ProcessGroup>(rank, kProcesses);
  group->setBackend(c10::kCPU, c10d::ProcessGroup::BackendType::CUSTOM,
                    c10::make_intrusive<ThreadBackend>(rank, meeting));
  group->setDefaultBackend(c10d::ProcessGroup::BackendType::CUSTOM);
  return group;
}

// f(rank, slice) on each thread, which has the first `cut` classes or the others.
template <class F>
void for_ranks(int64_t cut, int64_t classes, F f) {
  Meeting meeting;
  std::vector<std::thread> threads;
  for (int rank = 0; rank < kProcesses; ++rank) {
    threads.emplace_back([&, rank] {
      const std::string name = "rank " + std::to_string(rank);
      const auto group = group_of(rank, meeting);  // nobody else keeps it
      c10d::register_process_group(name, group);
      f(rank, fused_ce::distributed::Slice{rank == 0 ? 0 : cut, classes, kProcesses, name});
      c10d::unregister_process_group(name);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

torch::Tensor leaf(const torch::Tensor& values) {
  return values.detach().clone().requires_grad_(true);
}
void expect_close(const torch::Tensor& actual, const torch::Tensor& expected) {
  ASSERT_EQ(actual.sizes(), expected.sizes());
  EXPECT_TRUE(torch::allclose(actual, expected, /*rtol=*/1e-12, /*atol=*/1e-12))
      << actual << "\nexpected\n"
      << expected;
}

const auto kHead = fused_ce::CrossEntropyStatsOptions()
                       .label_smoothing(0.1)
                       .z_loss_weight(0.01)
                       .return_entropy(true)
                       .return_prediction(true);

TEST(ApiDistributed, IsTheLossOfAllClasses) {
  const torch::Tensor all = torch::randn({6, 9}, torch::kDouble), y = torch::randint(9, {6});
  const torch::Tensor logits = leaf(all);
  const auto expected = fused_ce::cross_entropy_stats(logits, y, kHead);
  (expected.loss + expected.entropy.sum()).backward();
  for_ranks(4, 9, [&](int rank, const fused_ce::distributed::Slice& slice) {
    const auto mine = rank == 0 ? torch::indexing::Slice(0, 4) : torch::indexing::Slice(4, 9);
    const torch::Tensor own = leaf(all.index({torch::indexing::Slice(), mine}));
    const auto found = fused_ce::distributed::cross_entropy_stats(own, y, slice, kHead);
    (found.loss + found.entropy.sum()).backward();
    expect_close(found.loss, expected.loss);
    expect_close(found.z_loss, expected.z_loss);
    EXPECT_TRUE(found.prediction.equal(expected.prediction));
    EXPECT_FALSE(found.lse.defined());
    expect_close(own.grad(), logits.grad().index({torch::indexing::Slice(), mine}));
  });
}

TEST(ApiDistributed, IsTheLossOfAWholeLayer) {
  const torch::Tensor x = torch::randn({6, 3}, torch::kDouble), y = torch::randint(9, {6});
  const torch::Tensor w = torch::randn({9, 3}, torch::kDouble);
  const torch::Tensor input = leaf(x), weight = leaf(w);
  const auto expected = fused_ce::linear_cross_entropy_stats(input, weight, y);
  expected.loss.backward();
  for_ranks(9, 9, [&](int rank, const fused_ce::distributed::Slice& slice) {  // one has none
    const torch::Tensor mine = rank == 0 ? leaf(w) : leaf(w.slice(0, 9)), same = leaf(x);
    const auto found = fused_ce::distributed::linear_cross_entropy_stats(same, mine, y, slice);
    found.loss.backward();
    expect_close(found.loss, expected.loss);
    expect_close(same.grad(), input.grad());
    expect_close(mine.grad(), rank == 0 ? weight.grad() : weight.grad().slice(0, 9));
  });
}

TEST(ApiDistributed, RefusesToOverwriteItsLogits) {
  const torch::Tensor logits = torch::randn({2, 3});
  EXPECT_THROW(fused_ce::distributed::cross_entropy_stats(
                   logits, torch::zeros({2}, torch::kLong), {0, 3, 1, ""},
                   fused_ce::CrossEntropyStatsOptions().in_place(true)),
               c10::Error);
}

}  // namespace
