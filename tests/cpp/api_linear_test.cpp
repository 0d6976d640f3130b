// SPDX-License-Identifier: BSD-3-Clause
// The linear layer's loss of the C++ API against the layer and the loss.
#include <fused_ce.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

namespace {

constexpr int64_t kRows = 11;
constexpr int64_t kFeatures = 4;
constexpr int64_t kClasses = 7;

void expect_close(const torch::Tensor& actual, const torch::Tensor& expected) {
  ASSERT_EQ(actual.dtype(), expected.dtype());
  ASSERT_EQ(actual.sizes(), expected.sizes());
  EXPECT_TRUE(torch::allclose(actual, expected, /*rtol=*/1e-12, /*atol=*/1e-12))
      << actual << "\nexpected\n"
      << expected;
}

class ApiLinear : public testing::Test {
 protected:
  void SetUp() override { torch::manual_seed(0); }

  static torch::Tensor leaf(at::IntArrayRef sizes) {
    return torch::randn(sizes, torch::dtype(torch::kDouble).requires_grad(true));
  }

  const torch::Tensor input = leaf({kRows, kFeatures}), weight = leaf({kClasses, kFeatures}),
                      bias = leaf({kClasses});
  const torch::Tensor target = torch::randint(kClasses, {kRows});
  const torch::Tensor logits = torch::linear(input, weight, bias);

  // The gradients of both, with the same number coming in.
  void expect_same_gradients(const torch::Tensor& actual, const torch::Tensor& expected) {
    const std::vector<torch::Tensor> leaves{input, weight, bias};
    const auto ours = torch::autograd::grad({actual}, leaves, {torch::full_like(actual, 0.7)});
    const auto theirs =
        torch::autograd::grad({expected}, leaves, {torch::full_like(expected, 0.7)});
    for (size_t i = 0; i < leaves.size(); ++i) expect_close(ours[i], theirs[i]);
  }
};

TEST_F(ApiLinear, IsTheLossOfTheLayer) {
  const auto options = fused_ce::LinearCrossEntropyOptions()
                           .linear_bias(bias)
                           .weight(torch::rand({kClasses}, torch::kDouble))
                           .ignore_index(3)
                           .reduction(torch::kSum)
                           .label_smoothing(0.1)
                           .chunk_rows(4);
  const auto loss = fused_ce::linear_cross_entropy(input, weight, target, options);
  const auto expected =
      at::cross_entropy_loss(logits, target, options.weight(), at::Reduction::Sum, 3, 0.1);
  expect_close(loss, expected);
  expect_same_gradients(loss, expected);
}

TEST_F(ApiLinear, DefaultsAreTheLosses) {
  const auto loss = fused_ce::linear_cross_entropy(input, weight, target);
  expect_close(loss, torch::nn::functional::cross_entropy(torch::linear(input, weight), target));
}

TEST_F(ApiLinear, StatisticsAreThoseOfTheLogits) {
  const auto row_weight = torch::rand({kRows}, torch::kDouble);
  const auto set = [&](auto options) {
    return options.ignore_index(3)
        .label_smoothing(0.1)
        .logit_scale(1.7)
        .softcap(2.5)
        .temperature(0.6)
        .z_loss_weight(0.3)
        .row_weight(row_weight)
        .normalizer(torch::tensor(5))
        .return_lse(true)
        .return_entropy(true)
        .return_prediction(true);
  };
  const auto stats = fused_ce::linear_cross_entropy_stats(
      input, weight, target,
      set(fused_ce::LinearCrossEntropyStatsOptions()).linear_bias(bias).chunk_rows(4));
  const auto expected =
      fused_ce::cross_entropy_stats(logits, target, set(fused_ce::CrossEntropyStatsOptions()));
  expect_close(stats.loss, expected.loss);
  expect_close(stats.z_loss, expected.z_loss);
  expect_close(stats.lse, expected.lse);
  expect_close(stats.entropy, expected.entropy);
  expect_close(stats.confidence, expected.confidence);
  EXPECT_TRUE(torch::equal(stats.prediction, expected.prediction));
  expect_same_gradients(stats.loss + stats.entropy.sum() + stats.lse.sum(),
                        expected.loss + expected.entropy.sum() + expected.lse.sum());
}

TEST_F(ApiLinear, WhatIsNotAskedForIsUndefined) {
  const auto stats = fused_ce::linear_cross_entropy_stats(input, weight, target);
  for (const auto& other :
       {stats.z_loss, stats.lse, stats.entropy, stats.prediction, stats.confidence})
    EXPECT_FALSE(other.defined());
}

TEST_F(ApiLinear, RefusesChunksOfNoRows) {
  EXPECT_THROW(fused_ce::linear_cross_entropy(input, weight, target,
                                              fused_ce::LinearCrossEntropyOptions().chunk_rows(0)),
               c10::ValueError);
}

}  // namespace
