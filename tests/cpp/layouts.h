// SPDX-License-Identifier: BSD-3-Clause
// How a problem's logits lie in memory, and shapes that show it.
#pragma once

#include <cstdint>
#include <ostream>
#include <utility>

#include "kernels/problem.h"

namespace fused_ce::testing {

enum class Layout { kRows, kPadded, kTransposed, kPlanes, kStridedPlanes };

inline constexpr Layout kLayouts[] = {Layout::kRows, Layout::kPadded, Layout::kTransposed,
                                      Layout::kPlanes, Layout::kStridedPlanes};

inline std::ostream& operator<<(std::ostream& out, Layout layout) {
  constexpr const char* kNames[] = {"rows", "padded", "transposed", "planes", "strided planes"};
  return out << kNames[static_cast<int>(layout)];
}

struct Shape {
  int64_t outer, classes, inner;
};

// Strides of a layout, and the elements they span.
inline std::pair<Strides, int64_t> strides_of(Layout layout, const Shape& s) {
  switch (layout) {
    case Layout::kPadded:  // every second class of a longer row
      return {{2 * s.classes + 3, 2, 1}, s.outer * (2 * s.classes + 3)};
    case Layout::kTransposed:
      return {{0, s.inner, 1}, s.classes * s.inner};
    case Layout::kPlanes:
      return {{s.classes * s.inner, s.inner, 1}, s.outer * s.classes * s.inner};
    case Layout::kStridedPlanes:
      return {{s.classes * s.inner * 2, s.inner * 2, 2}, s.outer * s.classes * s.inner * 2};
    default:
      return {{s.classes, 1, 0}, s.outer * s.classes};
  }
}

inline Shape shape_of(Layout layout, int64_t classes) {
  switch (layout) {
    case Layout::kTransposed:
      return {1, classes, 300};
    case Layout::kPlanes:
    case Layout::kStridedPlanes:
      return {3, classes, 37};
    default:
      return {classes > 100 ? 5 : 261, classes, 1};
  }
}

// As shape_of, with fewer rows: a thread switch costs what a hundred logits cost.
inline Shape small_shape(Layout layout, int64_t classes) {
  switch (layout) {
    case Layout::kTransposed:
      return {1, classes, 300};
    case Layout::kPlanes:
      return {2, classes, 36};  // a multiple of what a thread reads at once
    case Layout::kStridedPlanes:
      return {3, classes, 37};
    default:
      return {classes > 40 ? 3 : 150, classes, 1};
  }
}

}  // namespace fused_ce::testing
