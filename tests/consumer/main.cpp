// SPDX-License-Identifier: BSD-3-Clause
// A LibTorch program that knows fused_ce only as an installed package.
#include <fused_ce.h>
#include <torch/torch.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <set>
#include <string>

namespace {

void expect(bool condition, const char* what) {
  if (!condition) {
    std::fprintf(stderr, "FAILED: %s\n", what);
    std::exit(1);
  }
}

// The shared objects of this process whose file name begins with `name`.
std::set<std::string> loaded(const std::string& name) {
  std::set<std::string> paths;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    const auto slash = line.rfind('/');
    if (slash != std::string::npos && line.compare(slash + 1, name.size(), name) == 0) {
      paths.insert(line.substr(line.find('/')));
    }
  }
  return paths;
}

}  // namespace

int main() {
  torch::manual_seed(0);
  const auto logits = torch::randn({64, 10}, torch::requires_grad());
  const auto target = torch::randint(10, {64}, torch::kLong);

  const auto loss = fused_ce::cross_entropy(logits, target);
  loss.backward();
  const auto expected = torch::nn::functional::cross_entropy(logits, target);
  expect(torch::allclose(loss, expected), "the function agrees with torch's");
  expect(logits.grad().defined(), "the gradient arrives");

  fused_ce::CrossEntropyLoss criterion(torch::nn::CrossEntropyLossOptions().label_smoothing(0.1));
  torch::nn::CrossEntropyLoss reference(torch::nn::CrossEntropyLossOptions().label_smoothing(0.1));
  expect(torch::allclose(criterion(logits, target), reference(logits, target)),
         "the module agrees with torch's");

  const auto hidden = torch::randn({64, 16}, torch::requires_grad());
  const auto head = torch::randn({10, 16}, torch::requires_grad());
  const auto of_layer = fused_ce::linear_cross_entropy(
      hidden, head, target, fused_ce::LinearCrossEntropyOptions().chunk_rows(8));
  of_layer.backward();
  expect(torch::allclose(of_layer, fused_ce::cross_entropy(torch::linear(hidden, head), target)),
         "the layer's loss is that of its logits");
  expect(head.grad().defined(), "the layer's gradient arrives");

  expect(fused_ce::build_info().openmp, "the library was compiled with OpenMP");
  expect(loaded("libgomp").size() <= 1, "one OpenMP runtime is loaded");
  expect(loaded("libpython").empty(), "no Python is loaded");
  std::printf("consumer: loss %.6f, torch %.6f\n", loss.item<double>(), expected.item<double>());
}
