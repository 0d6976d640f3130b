// SPDX-License-Identifier: BSD-3-Clause
// The loss head of the C++ API against the same in torch's operations.
#include <fused_ce.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

namespace {

constexpr int64_t kRows = 12;
constexpr int64_t kClasses = 7;

void expect_close(const torch::Tensor& actual, const torch::Tensor& expected) {
  ASSERT_EQ(actual.dtype(), expected.dtype());
  ASSERT_EQ(actual.sizes(), expected.sizes());
  EXPECT_TRUE(torch::allclose(actual, expected, /*rtol=*/1e-12, /*atol=*/1e-12))
      << actual << "\nexpected\n"
      << expected;
}

class ApiStats : public testing::Test {
 protected:
  void SetUp() override { torch::manual_seed(0); }

  const torch::Tensor logits = torch::randn({kRows, kClasses}, torch::kDouble);
  const torch::Tensor target = torch::randint(kClasses, {kRows}, torch::kInt);
};

TEST_F(ApiStats, IsTheLossByDefault) {
  const auto stats = fused_ce::cross_entropy_stats(logits, target);
  expect_close(stats.loss, fused_ce::cross_entropy(logits, target));
  for (const auto& other :
       {stats.z_loss, stats.lse, stats.entropy, stats.prediction, stats.confidence})
    EXPECT_FALSE(other.defined());
}

TEST_F(ApiStats, AllOptions) {
  const auto x = logits.clone().requires_grad_(), y = logits.clone().requires_grad_();
  const auto weight = torch::rand({kClasses}, torch::kDouble) + 0.5;
  const auto row_weight = torch::rand({kRows}, torch::kDouble);
  const auto stats = fused_ce::cross_entropy_stats(x, target,
                                                   fused_ce::CrossEntropyStatsOptions()
                                                       .weight(weight)
                                                       .ignore_index(2)
                                                       .label_smoothing(0.1)
                                                       .logit_scale(1.7)
                                                       .softcap(2.5)
                                                       .temperature(0.6)
                                                       .z_loss_weight(0.3)
                                                       .row_weight(row_weight)
                                                       .normalizer(torch::tensor(5))
                                                       .dtype(torch::kDouble)
                                                       .return_lse(true)
                                                       .return_entropy(true)
                                                       .return_prediction(true));
  const auto z = 2.5 * torch::tanh(1.7 * y / 2.5) / 0.6;
  const auto counts = target.ne(2).to(torch::kDouble);
  const auto lse = z.logsumexp(1) * counts;
  const auto z_loss = row_weight * 0.3 * lse.square();
  const auto nll =
      at::cross_entropy_loss(z, target.to(torch::kLong), weight, at::Reduction::None, 2, 0.1);
  const auto loss = (row_weight * nll + z_loss).sum() / 5;
  const auto entropy = -(z.softmax(1) * z.log_softmax(1)).sum(1) * counts;
  expect_close(stats.loss, loss);
  expect_close(stats.z_loss, z_loss.sum() / 5);
  expect_close(stats.lse, lse);
  expect_close(stats.entropy, entropy);
  expect_close(stats.confidence, z.softmax(1).amax(1));
  EXPECT_TRUE(torch::equal(stats.prediction, z.argmax(1)));

  (stats.loss + stats.lse.sum() - stats.entropy.sum()).backward();
  (loss + lse.sum() - entropy.sum()).backward();
  expect_close(x.grad(), y.grad());
}

TEST_F(ApiStats, InPlace) {
  const auto x = logits.clone().requires_grad_(), y = logits.clone().requires_grad_();
  const auto in_place = fused_ce::CrossEntropyStatsOptions().in_place(true).reduction(torch::kSum);
  const auto overwritten = x * 1;
  fused_ce::cross_entropy_stats(overwritten, target, in_place).loss.backward();
  fused_ce::cross_entropy(y, target, torch::nn::CrossEntropyLossOptions().reduction(torch::kSum))
      .backward();
  expect_close(x.grad(), y.grad());
  expect_close(overwritten.detach(), y.grad());
  EXPECT_THROW(fused_ce::cross_entropy_stats(x, target, in_place), c10::Error);
}

TEST_F(ApiStats, Predict) {
  const auto x = logits.clone().requires_grad_();
  const auto result = fused_ce::predict(x, fused_ce::PredictOptions().temperature(0.6));
  const auto z = logits / 0.6;
  EXPECT_TRUE(torch::equal(result.prediction, z.argmax(1)));
  expect_close(result.confidence, z.softmax(1).amax(1));
  expect_close(result.lse, z.logsumexp(1));
  expect_close(result.entropy, -(z.softmax(1) * z.log_softmax(1)).sum(1));
  EXPECT_TRUE(result.lse.requires_grad() && result.entropy.requires_grad());
  EXPECT_FALSE(result.confidence.requires_grad());
}

TEST_F(ApiStats, Errors) {
  const auto options = [] { return fused_ce::CrossEntropyStatsOptions(); };
  EXPECT_THROW(fused_ce::cross_entropy_stats(logits, target, options().softcap(0.0)), c10::Error);
  EXPECT_THROW(fused_ce::cross_entropy_stats(logits, target, options().temperature(0)), c10::Error);
  EXPECT_THROW(
      fused_ce::cross_entropy_stats(logits, target, options().row_weight(torch::ones({kRows, 1}))),
      c10::Error);
  EXPECT_THROW(fused_ce::predict(torch::ones({})), c10::IndexError);
}

}  // namespace
