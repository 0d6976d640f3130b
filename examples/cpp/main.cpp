// SPDX-License-Identifier: BSD-3-Clause
/* A LibTorch program, without Python: learns which of three spiral arms a point belongs to.

   prefix=$(python -c "import fused_ce, torch; \
            print(fused_ce.cmake_prefix_path + ';' + torch.utils.cmake_prefix_path)")
   cmake -S examples/cpp -B build/example -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH="$prefix"
   cmake --build build/example && build/example/train

   Fails below 97 % of new points told right (guessing gives 33 %). */
#include <fused_ce.h>
#include <torch/torch.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <utility>

namespace {

constexpr int64_t kArms = 3;
constexpr double kRequiredAccuracy = 0.97;

struct Points {
  torch::Tensor places;  // (N, 2)
  torch::Tensor arms;    // (N), the class of each
};

// Each arm turns 0.7 times around the origin while it goes out; a little noise blurs the angle.
Points spirals(int64_t points) {
  const auto arms = torch::randint(kArms, {points});
  const auto radius = torch::rand({points}).sqrt();
  const auto turn = 2 * M_PI * (0.7 * radius + arms / static_cast<double>(kArms));
  const auto angle = turn + 0.1 * torch::randn({points});
  return {torch::stack({radius * angle.cos(), radius * angle.sin()}, 1), arms};
}

double accuracy(torch::nn::Sequential& network, const Points& points) {
  const torch::NoGradGuard no_grad;
  const auto right = network->forward(points.places).argmax(1).eq(points.arms);
  return right.to(torch::kDouble).mean().item<double>();
}

int train() {
  torch::manual_seed(0);
  const auto points = spirals(2000);
  const auto new_points = spirals(2000);

  torch::nn::Sequential network(torch::nn::Linear(2, 64), torch::nn::Tanh(),
                                torch::nn::Linear(64, 64), torch::nn::Tanh(),
                                torch::nn::Linear(64, kArms));
  fused_ce::CrossEntropyLoss criterion;  // takes torch::nn::CrossEntropyLossOptions
  torch::optim::Adam optimizer(network->parameters(), torch::optim::AdamOptions(0.01));

  for (int epoch = 1; epoch <= 20; ++epoch) {
    double total = 0;
    int batches = 0;
    for (const auto& rows : torch::randperm(points.arms.size(0)).split(100)) {
      auto loss = criterion(network->forward(points.places.index_select(0, rows)),
                            points.arms.index_select(0, rows));
      optimizer.zero_grad();
      loss.backward();
      optimizer.step();
      total += loss.item<double>();
      ++batches;
    }
    std::printf("epoch %2d  loss %.4f  accuracy %5.1f %%\n", epoch, total / batches,
                100 * accuracy(network, points));
  }

  const double reached = accuracy(network, new_points);
  std::printf("new points: accuracy %.1f %%, required %.0f %%\n", 100 * reached,
              100 * kRequiredAccuracy);
  return reached >= kRequiredAccuracy ? EXIT_SUCCESS : EXIT_FAILURE;
}

}  // namespace

int main() {
  try {
    return train();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return EXIT_FAILURE;
  }
}
