// SPDX-License-Identifier: BSD-3-Clause
// Fibers: stacks to switch between, and the calls that keep the sanitizers informed of it.
#pragma once

#include <stddef.h>

#if !defined(__x86_64__) || defined(SIMT_UCONTEXT)
#include <ucontext.h>
#define SIMT_USES_UCONTEXT
#endif

#ifdef __SANITIZE_THREAD__
#define SIMT_THREAD_SANITIZER
extern "C" {
void __tsan_acquire(void* key);
void __tsan_release(void* key);
}
#endif
#ifdef __SANITIZE_ADDRESS__
#define SIMT_ADDRESS_SANITIZER
#endif

// For functions that run on fibers and write what other fibers read: one runs at a time, and a
// race in the machine's own bookkeeping is not what ThreadSanitizer is asked for.
#define SIMT_UNCHECKED __attribute__((no_sanitize("thread")))

namespace simt {

struct Fiber {
#ifdef SIMT_USES_UCONTEXT
  ucontext_t context;
#else
  void* stack_pointer;
#endif
  unsigned char* stack = nullptr;
  size_t stack_bytes;
  void* thread_sanitizer;   // its name for this fiber
  void* address_sanitizer;  // what it keeps of this fiber while another runs
};

using Entry = void (*)();  // never returns

// Makes the calling thread a fiber to switch from and back to.
void adopt_thread(Fiber& fiber);
// A fiber with a stack of its own, kept for ever. `number` tells fibers apart.
void create(Fiber& fiber, int number, Entry entry);
// Forgets what the fiber was doing. Destructors do not run.
void restart(Fiber& fiber, int number, Entry entry);

void switch_fibers(Fiber& from, Fiber& to);
void begin_fiber();  // the first call of an entry

// A thread that acquired `key` comes after those that had released it: the only order of memory
// that ThreadSanitizer learns of, for switching gives none.
SIMT_UNCHECKED inline void release(char* key) {
#ifdef SIMT_THREAD_SANITIZER
  __tsan_release(key);
#else
  static_cast<void>(key);
#endif
}
SIMT_UNCHECKED inline void acquire(char* key) {
#ifdef SIMT_THREAD_SANITIZER
  __tsan_acquire(key);
#else
  static_cast<void>(key);
#endif
}

}  // namespace simt
