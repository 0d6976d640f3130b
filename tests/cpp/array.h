// SPDX-License-Identifier: BSD-3-Clause
// Values of one of the four types, and what that type can hold.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "kernels/problem.h"

namespace fused_ce::testing {

// gcc 12 knows it by one name on x86, and by another on ARM.
#if defined(__aarch64__)
using Float16 = __fp16;
#else
using Float16 = _Float16;
#endif

inline constexpr DType kDTypes[] = {DType::kFloat, DType::kDouble, DType::kBFloat16, DType::kHalf};

inline std::string name_of(DType type) {
  return type == DType::kFloat      ? "float"
         : type == DType::kDouble   ? "double"
         : type == DType::kBFloat16 ? "bfloat16"
                                    : "half";
}

inline double epsilon(DType type) {
  switch (type) {
    case DType::kDouble:
      return 0x1p-52;
    case DType::kFloat:
      return 0x1p-23;
    case DType::kHalf:
      return 0x1p-10;
    default:
      return 0x1p-7;
  }
}

inline double smallest(DType type) {
  switch (type) {
    case DType::kDouble:
      return std::numeric_limits<double>::min();
    case DType::kHalf:
      return 0x1p-24;
    default:
      return std::numeric_limits<float>::min();
  }
}

// Values of one of the four types in exactly as many bytes as they need: a read or write past the
// end is one outside the heap block, which AddressSanitizer sees. `start` values before the first
// move it away from where the heap aligns it.
class Array {
 public:
  Array(DType type, int64_t size, double fill = 0, int64_t start = 0)
      : type_(type), start_(start), bytes_((start + size) * size_of(type)) {
    for (int64_t i = 0; i < size; ++i) set(i, fill);
  }

  void* data() { return bytes_.data() + start_ * size_of(type_); }
  const void* data() const { return bytes_.data() + start_ * size_of(type_); }
  DType type() const { return type_; }
  int64_t size() const { return static_cast<int64_t>(bytes_.size() / size_of(type_)) - start_; }

  bool same_bits(const Array& other) const { return bytes_ == other.bytes_; }

  double get(int64_t i) const {
    switch (type_) {
      case DType::kDouble:
        return read<double>(i);
      case DType::kFloat:
        return read<float>(i);
      case DType::kHalf:
        return static_cast<double>(read<Float16>(i));
      default: {
        const uint32_t bits = uint32_t{read<uint16_t>(i)} << 16;
        float value;
        std::memcpy(&value, &bits, sizeof value);
        return value;
      }
    }
  }

  void set(int64_t i, double value) {
    switch (type_) {
      case DType::kDouble:
        return write(i, value);
      case DType::kFloat:
        return write(i, static_cast<float>(value));
      case DType::kHalf:
        return write(i, static_cast<Float16>(value));
      default: {
        // Inputs only have to be some bfloat16 near the value.
        const float rounded = static_cast<float>(value);
        uint32_t bits;
        std::memcpy(&bits, &rounded, sizeof bits);
        return write(i, static_cast<uint16_t>(bits >> 16));
      }
    }
  }

 private:
  template <class T>
  T read(int64_t i) const {
    T value;
    std::memcpy(&value, bytes_.data() + (start_ + i) * sizeof(T), sizeof(T));
    return value;
  }
  template <class T>
  void write(int64_t i, T value) {
    std::memcpy(bytes_.data() + (start_ + i) * sizeof(T), &value, sizeof(T));
  }

  DType type_;
  int64_t start_;
  std::vector<unsigned char> bytes_;
};

inline DType accumulate_type(DType type) {
  return type == DType::kDouble ? DType::kDouble : DType::kFloat;
}

}  // namespace fused_ce::testing
