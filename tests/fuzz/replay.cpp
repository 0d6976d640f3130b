// SPDX-License-Identifier: BSD-3-Clause
// A fuzzer without libFuzzer, for any compiler: `replay FILE_OR_FOLDER ...` runs what a fuzzer has
// found, `replay NUMBER` as many inputs of random bytes.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

namespace fs = std::filesystem;

void run_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> bytes(std::istreambuf_iterator<char>(file), {});
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
}

void run_random(long count) {
  std::mt19937 random;
  for (; count > 0; --count) {
    std::vector<uint8_t> bytes(random() % 100);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  }
}

}  // namespace

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (fs::is_directory(argv[i])) {
      for (const fs::path& path : fs::directory_iterator(argv[i])) run_file(path);
    } else if (fs::exists(argv[i])) {
      run_file(argv[i]);
    } else if (const long count = std::atol(argv[i]); count > 0) {
      run_random(count);
    } else {
      std::cerr << argv[i] << ": no file, no folder, no number\n";
      return 2;
    }
  }
}
