// SPDX-License-Identifier: BSD-3-Clause
#include "barrier.h"

#include "failure.h"
#include "scheduler.h"

namespace simt {
namespace machine {
namespace {

int at_barrier = 0;
Votes votes;  // of the last barrier
// Keys that order memory. Barriers take turns, so that who is late at one does not learn what
// another thread did on its way to the next.
char keys[2];

}  // namespace

void clear_barrier() { at_barrier = 0; }
int waiting_at_barrier() { return at_barrier; }

SIMT_UNCHECKED void check_barrier() {
  if (at_barrier == 0 || at_barrier != alive) return;
  const CudaThread* first = nullptr;
  votes = {0, at_barrier};
  for (int i = 0; i < count; ++i) {
    const CudaThread& t = threads[i];
    if (t.state != State::kAtBarrier) continue;
    if (first == nullptr) first = &t;
    if (!same_place(t.where, first->where)) {
      fail(Failure::kLaunch, "divergent __syncthreads: thread %d at %s, thread %d at %s",
           number_of(*first), Place(first->where).text, i, Place(t.where).text);
      return;
    }
    votes.set += t.value != 0;
  }
  at_barrier = 0;
  ++statistics.barriers;
  for (int i = 0; i < count; ++i) {
    if (threads[i].state == State::kAtBarrier) make_ready(threads[i]);
  }
}

}  // namespace machine

using namespace machine;

SIMT_UNCHECKED Votes barrier(bool predicate, Where where) {
  require_kernel(where);
  CudaThread& t = self();
  t.state = State::kAtBarrier;
  t.where = where;
  t.value = predicate;
  char* const key = &keys[statistics.barriers % 2];
  release(key);
  ++at_barrier;
  check_barrier();
  yield();
  acquire(key);
  return votes;  // still of this barrier: the next one cannot be passed before this thread arrives
}

}  // namespace simt
