// SPDX-License-Identifier: BSD-3-Clause
// The threads of the block that runs, and which of them runs next. What is declared here belongs to
// the one launch that runs (launch.cpp lets no second one begin).
#pragma once

#include "ready_queue.h"

namespace simt::machine {

enum class State : uint8_t { kReady, kAtBarrier, kInWarp, kDone };

struct CudaThread : Thread {
  int warp;
  Fiber fiber;
  State state;
  // What it waits for:
  Where where;
  unsigned mask;   // the lanes it meets, itself included
  uint64_t value;  // what it posts, then what it gets
  int source;      // the lane whose value it asks for
  char* key;       // of its group, for __syncwarp
};

extern CudaThread threads[kMaxThreads];
extern int count;  // threads of a block
extern int alive;  // those that have not exited
extern ReadyQueue ready_queue;
extern Order order;
extern Launch statistics;

bool in_kernel();
CudaThread& self();
int number_of(const CudaThread& t);

// Makes the calling thread the one that is come back to when no CUDA thread can run.
void become_scheduler();
void make_ready(CudaThread& t);
// Runs whoever comes next: the scheduler, where nobody can.
void yield();
// Leaves the running thread where it is, and all others.
void leave_kernel();

}  // namespace simt::machine
