// SPDX-License-Identifier: BSD-3-Clause
#include "block.h"

#include <stdio.h>

#include <algorithm>

#include "barrier.h"
#include "failure.h"
#include "scheduler.h"
#include "warp.h"

namespace simt {

Block block{{0, 0, 0}, {}, {}, nullptr};

namespace machine {

Body body;

namespace {

int created = 0;          // threads whose fiber exists
char begin_key, end_key;  // order memory

SIMT_UNCHECKED void exit_thread() {
  CudaThread& t = self();
  t.state = State::kDone;
  --alive;
  leave_warp(t);
  check_barrier();
}

SIMT_UNCHECKED void thread_main() {
  begin_fiber();
  for (;;) {  // once a block
    acquire(&begin_key);
    body.function(body.arguments);
    release(&end_key);
    exit_thread();
    yield();
  }
}

void fail_of_deadlock() {
  const CudaThread& stuck = *std::find_if(
      threads, threads + count, [](const CudaThread& t) { return t.state != State::kDone; });
  const bool barrier = stuck.state == State::kAtBarrier;
  char mask[32] = "";
  if (!barrier) snprintf(mask, sizeof mask, ", mask %08x", stuck.mask);
  fail(Failure::kLaunch,
       "deadlock: %d of %d threads wait for ever, %d of them at __syncthreads; thread %d at %s, in "
       "%s%s",
       alive, count, waiting_at_barrier(), number_of(stuck), Place(stuck.where).text,
       barrier ? "__syncthreads" : "a warp intrinsic", mask);
}

}  // namespace

void create_threads() {
  for (; created < count; ++created) {
    CudaThread& t = threads[created];
    create(t.fiber, created, thread_main);
    t.lane = created % kWarpSize;
    t.warp = created / kWarpSize;
  }
}

void run_block() {
  ready_queue.clear();
  clear_barrier();
  clear_warps();
  alive = count;
  const dim3 size = block.size;
  for (int i = 0; i < count; ++i) {
    CudaThread& t = threads[i];
    const auto u = static_cast<unsigned>(i);
    t.index = {u % size.x, u / size.x % size.y, u / (size.x * size.y)};
    enter_warp(t);
    make_ready(t);
  }
  release(&begin_key);
  yield();
  acquire(&end_key);
  ++statistics.blocks;
  if (!failed && alive != 0) fail_of_deadlock();
}

void abandon_threads() {
  for (int i = 0; i < count; ++i) {
    if (threads[i].state != State::kDone) restart(threads[i].fiber, i, thread_main);
  }
}

}  // namespace machine
}  // namespace simt
