// SPDX-License-Identifier: BSD-3-Clause
#include "warp.h"

#include "failure.h"

namespace simt {
namespace machine {
namespace {

struct Warp {
  unsigned alive;    // lanes that exist and have not exited
  unsigned waiting;  // lanes in a warp intrinsic
  // What __syncwarp orders memory by. Groups of lanes may meet independently, so a group takes the
  // next one when its first lane arrives.
  char keys[64];
  int next_key;
};
Warp warps[kMaxThreads / kWarpSize];

SIMT_UNCHECKED int lowest(unsigned lanes) { return __builtin_ctz(lanes); }

SIMT_UNCHECKED void require_alive(const Warp& warp, const CudaThread& t) {
  const unsigned missing = t.mask & ~warp.alive;
  if (missing == 0) return;
  fail(Failure::kLaunch,
       "lane %d of warp %d has exited or never was, but lane %d waits for it at %s, mask %08x",
       lowest(missing), t.warp, t.lane, Place(t.where).text, t.mask);
}

// All lanes of the group have arrived: checks that they agree, and hands out what they asked for.
SIMT_UNCHECKED void exchange(const CudaThread& last) {
  CudaThread* const lanes = &threads[last.warp * kWarpSize];
  unsigned set = 0;
  uint64_t posted[kWarpSize];
  for (unsigned left = last.mask; left != 0; left &= left - 1) {
    const int lane = lowest(left);
    const CudaThread& t = lanes[lane];
    if (t.mask != last.mask || !same_place(t.where, last.where)) {
      fail(Failure::kLaunch, "warp %d diverged: lane %d at %s, mask %08x, lane %d at %s, mask %08x",
           last.warp, last.lane, Place(last.where).text, last.mask, lane, Place(t.where).text,
           t.mask);
    }
    if (t.source >= 0 && (last.mask >> t.source & 1) == 0) {
      fail(Failure::kLaunch, "lane %d of warp %d reads lane %d, which is not in mask %08x, at %s",
           lane, last.warp, t.source, last.mask, Place(last.where).text);
    }
    posted[lane] = t.value;
    if (t.value != 0) set |= 1u << lane;
  }
  for (unsigned left = last.mask; left != 0; left &= left - 1) {
    CudaThread& t = lanes[lowest(left)];
    t.value = t.source >= 0 ? posted[t.source] : set;
    make_ready(t);
  }
}

constexpr int kBallot = -1;  // instead of a source: which lanes posted something

// Waits for the lanes in `mask`.
SIMT_UNCHECKED uint64_t meet(unsigned mask, uint64_t value, int source, bool orders_memory,
                             Where where) {
  require_kernel(where);
  CudaThread& t = self();
  Warp& warp = warps[t.warp];
  t.state = State::kInWarp;
  t.where = where;
  t.mask = mask;
  t.value = value;
  t.source = source;
  if ((mask >> t.lane & 1) == 0) {
    fail(Failure::kLaunch, "lane %d of warp %d is not in its own mask %08x at %s", t.lane, t.warp,
         mask, Place(where).text);
  }
  require_alive(warp, t);
  if (orders_memory) {
    const unsigned arrived = warp.waiting & mask;
    const CudaThread* other =
        arrived == 0 ? nullptr : &threads[t.warp * kWarpSize + lowest(arrived)];
    t.key = other != nullptr && other->mask == mask && other->key != nullptr
                ? other->key
                : &warp.keys[static_cast<size_t>(warp.next_key++) % sizeof warp.keys];
    release(t.key);
  } else {
    t.key = nullptr;
  }
  warp.waiting |= 1u << t.lane;
  if ((warp.waiting & mask) == mask) {
    exchange(t);
    warp.waiting &= ~mask;
    ++statistics.collectives;
  }
  yield();
  if (orders_memory) acquire(t.key);
  return t.value;
}

}  // namespace

void clear_warps() {
  for (Warp& warp : warps) warp.alive = warp.waiting = 0;
}

void enter_warp(const CudaThread& t) { warps[t.warp].alive |= 1u << t.lane; }

SIMT_UNCHECKED void leave_warp(const CudaThread& t) {
  Warp& warp = warps[t.warp];
  warp.alive &= ~(1u << t.lane);
  for (unsigned left = warp.waiting; left != 0; left &= left - 1) {
    require_alive(warp, threads[t.warp * kWarpSize + lowest(left)]);
  }
}

}  // namespace machine

using namespace machine;

SIMT_UNCHECKED void sync_warp(unsigned mask, Where where) { meet(mask, 0, kBallot, true, where); }

SIMT_UNCHECKED uint64_t shuffle(unsigned mask, uint64_t value, int source, Where where) {
  if (source < 0 || source >= kWarpSize) {
    fail(Failure::kLaunch, "lane %d reads lane %d, which does not exist, at %s", thread->lane,
         source, Place(where).text);
  }
  return meet(mask, value, source, false, where);
}

SIMT_UNCHECKED unsigned ballot(unsigned mask, bool predicate, Where where) {
  return static_cast<unsigned>(meet(mask, predicate, kBallot, false, where));
}

}  // namespace simt
