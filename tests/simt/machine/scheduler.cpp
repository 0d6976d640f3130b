// SPDX-License-Identifier: BSD-3-Clause
#include "scheduler.h"

namespace simt {
namespace machine {

CudaThread threads[kMaxThreads];
int count = 0;
int alive = 0;
ReadyQueue ready_queue;
Order order = Order::kFifo;
Launch statistics;

namespace {

Thread outside{};  // what host code sees
Fiber scheduler;
Fiber* running = nullptr;

SIMT_UNCHECKED void resume(Fiber& fiber) {
  Fiber& from = *running;
  if (&from == &fiber) return;
  running = &fiber;
  ++statistics.switches;
  switch_fibers(from, fiber);
}

}  // namespace

SIMT_UNCHECKED bool in_kernel() { return thread != &outside; }

SIMT_UNCHECKED CudaThread& self() { return static_cast<CudaThread&>(*thread); }
SIMT_UNCHECKED int number_of(const CudaThread& t) { return static_cast<int>(&t - threads); }

void become_scheduler() {
  adopt_thread(scheduler);
  running = &scheduler;
}

SIMT_UNCHECKED void make_ready(CudaThread& t) {
  t.state = State::kReady;
  ready_queue.push(number_of(t));
}

SIMT_UNCHECKED void yield() {
  if (ready_queue.empty()) {
    leave_kernel();
  } else {
    CudaThread& next = threads[ready_queue.pop(order)];
    thread = &next;
    resume(next.fiber);
  }
}

SIMT_UNCHECKED void leave_kernel() {
  thread = &outside;
  resume(scheduler);
}

}  // namespace machine

Thread* thread = &machine::outside;

}  // namespace simt
