// SPDX-License-Identifier: BSD-3-Clause
#include "huge_pages.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace fused_ce {
namespace {

constexpr size_t kSmallest = 4 << 20;
constexpr uintptr_t kHugePage = 2 << 20;

bool wanted() {
  const char* setting = std::getenv("FUSED_CE_HUGE_PAGES");
  return setting == nullptr || std::strcmp(setting, "0") != 0;
}

}  // namespace

void advise_huge_pages(void* start, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  static const bool kWanted = wanted();
  if (!kWanted || bytes < kSmallest) return;
  // Whole huge pages inside the tensor: what lies beside it is not ours to advise on.
  const uintptr_t address = reinterpret_cast<uintptr_t>(start);
  const uintptr_t begin = (address + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (address + bytes) / kHugePage * kHugePage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)start, (void)bytes;
#endif
}

}  // namespace fused_ce
