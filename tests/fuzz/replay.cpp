// A fuzzer without libFuzzer, for any compiler: `replay FILE ...` runs what a fuzzer has found,
// `replay NUMBER` as many inputs of random bytes.
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (std::ifstream file{argv[i], std::ios::binary}) {
      const std::vector<char> bytes(std::istreambuf_iterator<char>(file), {});
      LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
      continue;
    }
    std::mt19937 random;
    for (long left = std::atol(argv[i]); left > 0; --left) {
      std::vector<uint8_t> bytes(random() % 100);
      for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
      LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
    }
  }
}
