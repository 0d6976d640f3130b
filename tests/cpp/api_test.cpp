// SPDX-License-Identifier: BSD-3-Clause
// The C++ API against torch::nn::functional::cross_entropy and torch::nn::CrossEntropyLoss.
#include <ATen/Parallel.h>
#include <fused_ce.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <atomic>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace {

namespace F = torch::nn::functional;
using Options = torch::nn::CrossEntropyLossOptions;

constexpr int64_t kRows = 12;
constexpr int64_t kClasses = 7;

torch::Tensor random_logits() { return torch::randn({kRows, kClasses}, torch::kDouble); }
torch::Tensor random_indices() { return torch::randint(kClasses, {kRows}, torch::kLong); }
torch::Tensor random_weight() { return torch::rand({kClasses}, torch::kDouble) + 0.5; }
torch::Tensor random_probabilities() {
  return torch::softmax(torch::randn({kRows, kClasses}, torch::kDouble), 1);
}

void expect_close(const torch::Tensor& actual, const torch::Tensor& expected) {
  ASSERT_EQ(actual.dtype(), expected.dtype());
  ASSERT_EQ(actual.sizes(), expected.sizes());
  EXPECT_TRUE(torch::allclose(actual, expected, /*rtol=*/1e-12, /*atol=*/1e-12, /*equal_nan=*/true))
      << actual << "\nexpected\n"
      << expected;
}

// Loss and gradient, ours and torch's, for one set of options.
void expect_same(const torch::Tensor& logits, const torch::Tensor& target, const Options& options) {
  const auto ours = logits.detach().clone().requires_grad_();
  const auto theirs = logits.detach().clone().requires_grad_();
  const auto loss = fused_ce::cross_entropy(ours, target, options);
  const auto expected = F::cross_entropy(theirs, target, options);
  expect_close(loss, expected);

  const auto grad = torch::randn_like(expected);
  loss.backward(grad);
  expected.backward(grad);
  expect_close(ours.grad(), theirs.grad());
}

std::vector<Options> all_options(bool probabilities) {
  std::vector<Options> all;
  for (const bool weighted : {false, true}) {
    for (const double smoothing : {0.0, 0.2}) {
      for (const Options::reduction_t reduction :
           {Options::reduction_t(torch::kNone), Options::reduction_t(torch::kMean),
            Options::reduction_t(torch::kSum)}) {
        Options options;
        options.reduction(reduction).label_smoothing(smoothing);
        if (weighted) options.weight(random_weight());
        if (!probabilities) options.ignore_index(2);
        all.push_back(options);
      }
    }
  }
  return all;
}

class Api : public testing::Test {
 protected:
  void SetUp() override { torch::manual_seed(0); }
};

TEST_F(Api, IndicesAgreeWithTorch) {
  for (const auto& options : all_options(/*probabilities=*/false)) {
    expect_same(random_logits(), random_indices(), options);
  }
}

TEST_F(Api, ProbabilitiesAgreeWithTorch) {
  for (const auto& options : all_options(/*probabilities=*/true)) {
    expect_same(random_logits(), random_probabilities(), options);
  }
}

TEST_F(Api, ImagesAgreeWithTorch) {
  const auto logits = torch::randn({2, kClasses, 3, 4}, torch::kDouble);
  const auto target = torch::randint(kClasses, {2, 3, 4}, torch::kLong);
  for (const auto& options : all_options(/*probabilities=*/false)) {
    expect_same(logits, target, options);
  }
}

TEST_F(Api, OneRowWithoutABatch) {
  expect_same(torch::randn({kClasses}, torch::kDouble), torch::tensor(3), {});
}

// Numbers of a textbook. It cuts digits off (0.38508 stands there as 0.3850), hence the tolerance.
TEST_F(Api, KnownNumbers) {
  const auto logits = torch::tensor({{1.0, 1.1, 2.5}, {3.2, 0.2, 0.9}});
  const auto losses =
      fused_ce::cross_entropy(logits, torch::tensor({2, 2}), Options().reduction(torch::kNone));
  EXPECT_NEAR(losses[0].item<double>(), 0.3850, 1e-4);
  EXPECT_NEAR(losses[1].item<double>(), 2.4398, 1e-4);
}

TEST_F(Api, DefaultsAreTheOptions) {
  const auto logits = random_logits();
  const auto target = random_indices();
  const auto expected = F::cross_entropy(logits, target);
  expect_close(fused_ce::cross_entropy(logits, target), expected);
  // F::cross_entropy takes an empty initialiser, so ours must not call it ambiguous.
  expect_close(fused_ce::cross_entropy(logits, target, {}), expected);
}

TEST_F(Api, PlainArguments) {
  const auto logits = random_logits();
  const auto target = random_indices();
  const auto weight = random_weight();
  expect_close(fused_ce::cross_entropy(logits, target, weight, at::Reduction::Sum, 2, 0.1),
               at::cross_entropy_loss(logits, target, weight, at::Reduction::Sum, 2, 0.1));
  expect_close(fused_ce::cross_entropy(logits, target, std::nullopt, at::Reduction::None),
               at::cross_entropy_loss(logits, target, {}, at::Reduction::None));
}

TEST_F(Api, AllRowsIgnored) {
  const auto target = torch::full({kRows}, -100, torch::kLong);
  EXPECT_TRUE(std::isnan(fused_ce::cross_entropy(random_logits(), target).item<double>()));
}

TEST_F(Api, SecondDerivative) {
  const auto logits = random_logits().requires_grad_();
  const auto target = random_indices();
  const auto second = [&](const torch::Tensor& loss) {
    const auto first = torch::autograd::grad({loss}, {logits}, {}, true, /*create_graph=*/true)[0];
    return torch::autograd::grad({first.square().sum()}, {logits})[0];
  };
  expect_close(second(fused_ce::cross_entropy(logits, target)),
               second(F::cross_entropy(logits, target)));
}

TEST_F(Api, NoGradRecordsNothing) {
  const torch::NoGradGuard no_grad;
  const auto logits = random_logits().requires_grad_();
  EXPECT_FALSE(fused_ce::cross_entropy(logits, random_indices()).requires_grad());
}

TEST_F(Api, ModuleAgreesWithTorch) {
  for (const auto& options : all_options(/*probabilities=*/false)) {
    fused_ce::CrossEntropyLoss ours(options);
    torch::nn::CrossEntropyLoss theirs(options);
    const auto logits = random_logits();
    const auto target = random_indices();
    expect_close(ours(logits, target), theirs(logits, target));
  }
}

TEST_F(Api, ModuleDefaults) {
  fused_ce::CrossEntropyLoss module;
  EXPECT_EQ(module->options.ignore_index(), -100);
  EXPECT_EQ(module->options.label_smoothing(), 0.0);
  EXPECT_FALSE(module->weight.defined());
  std::ostringstream text;
  text << module;
  EXPECT_EQ(text.str(), "fused_ce::CrossEntropyLoss()");
}

TEST_F(Api, ModuleWeightIsABuffer) {
  fused_ce::CrossEntropyLoss module(Options().weight(random_weight()));
  ASSERT_EQ(module->named_buffers().size(), 1);
  EXPECT_EQ(module->named_buffers()[0].key(), "weight");
  EXPECT_TRUE(module->parameters().empty());
}

// `to` sets the buffer: forward must read that one, and the caller's tensor stays what it was.
TEST_F(Api, ModuleConverts) {
  const auto weight = random_weight();
  fused_ce::CrossEntropyLoss module(Options().weight(weight));
  module->to(torch::kFloat);
  EXPECT_EQ(weight.scalar_type(), torch::kDouble);
  EXPECT_EQ(module->weight.scalar_type(), torch::kFloat);
  const auto loss = module(random_logits().to(torch::kFloat), random_indices());
  EXPECT_EQ(loss.scalar_type(), torch::kFloat);
}

TEST_F(Api, ModuleClones) {
  fused_ce::CrossEntropyLoss module(Options().weight(random_weight()).ignore_index(2));
  const auto clone = std::dynamic_pointer_cast<fused_ce::CrossEntropyLossImpl>(module->clone());
  ASSERT_NE(clone, nullptr);
  EXPECT_EQ(clone->options.ignore_index(), 2);
  expect_close(clone->weight, module->weight);
  module->weight.zero_();
  EXPECT_GT(clone->weight.sum().item<double>(), 0);
}

TEST_F(Api, ModuleSerialises) {
  fused_ce::CrossEntropyLoss saved(Options().weight(random_weight()));
  fused_ce::CrossEntropyLoss loaded(Options().weight(random_weight()));
  std::stringstream stream;
  torch::save(saved, stream);
  torch::load(loaded, stream);
  expect_close(loaded->weight, saved->weight);
}

TEST_F(Api, ModuleInASequential) {
  torch::nn::Sequential model(torch::nn::Linear(4, kClasses));
  const auto loss =
      fused_ce::CrossEntropyLoss()(model->forward(torch::randn({kRows, 4})), random_indices());
  loss.backward();
  EXPECT_TRUE(model->parameters()[0].grad().defined());
}

// The exception types are torch's (c10::IndexError becomes Python's IndexError, and so on).
TEST_F(Api, Errors) {
  const auto logits = random_logits();
  const auto target = random_indices();
  EXPECT_THROW(fused_ce::cross_entropy(logits, torch::full_like(target, kClasses)),
               c10::IndexError);
  EXPECT_THROW(fused_ce::cross_entropy(logits, target.slice(0, 1)), c10::ValueError);
  EXPECT_THROW(fused_ce::cross_entropy(logits, target.to(torch::kBool)), c10::Error);
  EXPECT_THROW(fused_ce::cross_entropy(logits, target, Options().label_smoothing(1.5)), c10::Error);
  EXPECT_THROW(
      fused_ce::cross_entropy(logits, target, Options().weight(random_weight().slice(0, 1))),
      c10::Error);
  EXPECT_THROW(fused_ce::cross_entropy(logits.to(torch::kLong), target), c10::Error);
}

TEST_F(Api, ErrorNamesTheTarget) {
  auto target = random_indices();
  target[5] = 9;
  try {
    fused_ce::cross_entropy(random_logits(), target);
    FAIL() << "no exception";
  } catch (const c10::IndexError& error) {
    EXPECT_NE(std::string(error.what()).find("Target 9 is out of bounds"), std::string::npos)
        << error.what();
  }
}

// Loss and gradient.
std::vector<torch::Tensor> loss_and_grad(const torch::Tensor& logits, const torch::Tensor& target,
                                         const Options& options) {
  const auto leaf = logits.detach().requires_grad_();
  const auto loss = fused_ce::cross_entropy(leaf, target, options);
  loss.backward();
  return {loss.detach(), leaf.grad()};
}

// Callers on threads of their own, each of which starts threads of torch's.
TEST_F(Api, CallersOnManyThreadsGetTheSameBits) {
  constexpr int kThreads = 8, kRounds = 10;
  const auto target = torch::randint(300, {512}, torch::kLong);
  const auto options = Options().weight(torch::rand({300}) + 0.5).label_smoothing(0.1);
  std::vector<torch::Tensor> logits;
  std::vector<std::vector<torch::Tensor>> alone;
  for (int i = 0; i < kThreads; ++i) {
    logits.push_back(torch::randn({512, 300}));
    alone.push_back(loss_and_grad(logits[i], target, options));
  }
  std::vector<std::thread> threads;
  std::atomic<int> different = 0;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < kRounds; ++round) {
        const auto together = loss_and_grad(logits[i], target, options);
        for (size_t k = 0; k < together.size(); ++k)
          different += !torch::equal(together[k], alone[i][k]);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(different, 0);
}

// One number, expanded to more logits than there is memory for their gradient, or for the losses.
TEST_F(Api, FailedAllocationsLeaveEverythingUsable) {
  constexpr int64_t kHuge = int64_t{1} << 50;
  const auto logits = random_logits();
  const auto target = random_indices();
  const auto before = loss_and_grad(logits, target, {});

  const auto one = torch::zeros({1, 1}).requires_grad_();
  const auto ignored = torch::full({1 << 19}, -100, torch::kLong);
  const auto loss = fused_ce::cross_entropy(one.expand({1 << 19, (int64_t{1} << 31) - 1}), ignored,
                                            Options().reduction(torch::kSum));
  EXPECT_THROW(loss.backward(), c10::Error);
  EXPECT_FALSE(one.grad().defined());
  EXPECT_THROW(fused_ce::cross_entropy(torch::zeros({1, 1}).expand({kHuge, kClasses}),
                                       torch::zeros({1}, torch::kLong).expand({kHuge})),
               c10::Error);

  const auto after = loss_and_grad(logits, target, {});
  EXPECT_TRUE(torch::equal(before[0], after[0]) && torch::equal(before[1], after[1]));
}

TEST_F(Api, BuildInfo) {
  const auto info = fused_ce::build_info();
  EXPECT_EQ(info.torch, TORCH_VERSION);
  EXPECT_TRUE(info.openmp);
  EXPECT_FALSE(info.cuda);
  ASSERT_FALSE(info.cpu_capabilities.empty());
  EXPECT_EQ(info.cpu_capabilities.front(), "default");
}

#ifdef __linux__
TEST_F(Api, KeptMemory) {
  static torch::Tensor outlives_main;  // freed among the static destructors
  const auto logits = torch::randn({1 << 10, 1 << 10}, torch::requires_grad());
  const auto target = torch::zeros({1 << 10}, torch::kLong);
  fused_ce::cross_entropy(logits, target, {}).backward();
  EXPECT_EQ(fused_ce::kept_bytes(), 0);
  logits.mutable_grad().reset();
  EXPECT_EQ(fused_ce::kept_bytes(), 4 << 20);
  fused_ce::empty_cache();
  EXPECT_EQ(fused_ce::kept_bytes(), 0);
  fused_ce::cross_entropy(logits, target, {}).backward();
  outlives_main = logits.grad();
}
#endif

// A second OpenMP runtime would mean a second pool of threads, and deaf omp_set_num_threads.
TEST_F(Api, OneOpenMPRuntimeAndNoPython) {
  fused_ce::cross_entropy(torch::randn({4096, 512}), torch::zeros({4096}, torch::kLong));
  std::string gomp;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    EXPECT_EQ(line.find("libpython"), std::string::npos) << line;
    const auto slash = line.find('/');
    if (slash == std::string::npos || line.find("/libgomp") == std::string::npos) continue;
    const auto path = line.substr(slash);
    if (gomp.empty()) gomp = path;
    EXPECT_EQ(path, gomp);
  }
}

}  // namespace
