// SPDX-License-Identifier: BSD-3-Clause
#include "kept_memory.h"

#include "fused_ce.h"

#ifdef __linux__

#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "huge_pages.h"

namespace fused_ce {
namespace {

constexpr size_t kHugePage = 2 << 20;

// A block may be so many times what is asked for. What lies behind is not touched, and stays free
// for the kernel to take, but many small gradients that live long must not hold a large block each.
constexpr size_t kMostTimes = 4;

// After so many requests in a row that are smaller still, the block has had its time. Until then it
// waits for its next large gradient, beside which small ones with fresh pages are cheap.
constexpr int kPatience = 16;

// In the page before the memory. Where the memory starts is then all that a deleter has to know,
// which is how torch's copy-on-write storages want it.
struct Header {
  size_t bytes;     // of the memory, in whole pages
  int passed_over;  // how often, since the last use, for being too large
};

// The one that is kept. Whoever exchanges it for nullptr owns it: nobody waits, and nobody reads
// the header of a block that another thread may unmap. Never destroyed: gradients are freed after
// static destructors have run.
std::atomic<char*> slot{nullptr};

size_t page() {
  static const size_t kBytes = sysconf(_SC_PAGESIZE);
  return kBytes;
}

size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

Header& header(char* start) { return *reinterpret_cast<Header*>(start - page()); }

bool advise(char* start, int advice) {
  return madvise(start - page(), page() + header(start).bytes, advice) == 0;
}

void unmap(char* start) {
  if (start != nullptr) munmap(start - page(), page() + header(start).bytes);
}

char* map(size_t bytes) {
  const size_t all = page() + bytes + kHugePage;
  void* found = mmap(nullptr, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (found == MAP_FAILED) return nullptr;
  char* begin = static_cast<char*>(found);
  const uintptr_t address = reinterpret_cast<uintptr_t>(begin);
  char* start = begin + (round_up(address + page(), kHugePage) - address);
  if (start - page() > begin) munmap(begin, start - page() - begin);
  if (begin + all > start + bytes) munmap(start + bytes, begin + all - (start + bytes));
  new (start - page()) Header{bytes, 0};
  advise_huge_pages(start, bytes);
  return start;
}

char* take_kept() { return slot.exchange(nullptr, std::memory_order_acq_rel); }

void keep(char* start) {
  char* other = take_kept();
  if (other != nullptr && header(other).bytes > header(start).bytes) std::swap(start, other);
  unmap(other);
  unmap(slot.exchange(start, std::memory_order_acq_rel));  // another thread's, of just now
}

// Pages can be had back from an idle block, but addresses cannot: where they are limited
// (`ulimit -v`), somebody else's malloc would fail for our sake.
bool addresses_are_limited() {
  for (const auto resource : {RLIMIT_AS, RLIMIT_DATA}) {
    rlimit limit;
    if (getrlimit(resource, &limit) != 0 || limit.rlim_cur != RLIM_INFINITY) return true;
  }
  return false;
}

bool wanted() {
  const char* setting = std::getenv("FUSED_CE_KEEP_MEMORY");
  return setting == nullptr || std::strcmp(setting, "0") != 0;
}

// A child has no mapping of the kept block, and must forget it.
bool forget_in_children() {
  return pthread_atfork(nullptr, nullptr, [] { slot.store(nullptr, std::memory_order_relaxed); }) ==
         0;
}

}  // namespace

bool keeps_memory() {
  static const bool kKeeps = wanted() && forget_in_children();
  return kKeeps;
}

void* take_block(size_t bytes) {
  if (char* kept = take_kept()) {
    Header& h = header(kept);
    const bool fits = h.bytes >= bytes, too_large = h.bytes / kMostTimes > bytes;
    if (fits && !too_large && advise(kept, MADV_DOFORK)) {
      h.passed_over = 0;
      return kept;
    }
    // What will not do goes before its successor comes: never two where one was asked for.
    if (too_large && ++h.passed_over < kPatience) {
      keep(kept);
    } else {
      unmap(kept);
    }
  }
  const size_t whole_pages = round_up(bytes, page());
  char* fresh = map(whole_pages);
  if (fresh == nullptr) {
    empty_cache();
    fresh = map(whole_pages);
  }
  return fresh;
}

void give_block(void* start) {
  char* block = static_cast<char*>(start);
  // In this order: what is in the slot, no child has. The header stays as it is.
  if (!addresses_are_limited() && madvise(block, header(block).bytes, MADV_FREE) == 0 &&
      advise(block, MADV_DONTFORK)) {
    keep(block);
  } else {
    unmap(block);
  }
}

void empty_cache() { unmap(take_kept()); }

size_t kept_bytes() {
  char* kept = take_kept();
  if (kept == nullptr) return 0;
  const size_t bytes = header(kept).bytes;
  keep(kept);
  return bytes;
}

}  // namespace fused_ce

#else

namespace fused_ce {

bool keeps_memory() { return false; }
void* take_block(size_t) { return nullptr; }
void give_block(void*) {}
void empty_cache() {}
size_t kept_bytes() { return 0; }

}  // namespace fused_ce

#endif
