// SPDX-License-Identifier: BSD-3-Clause
#include "fiber.h"

#include <pthread.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include <new>

#ifdef SIMT_THREAD_SANITIZER
extern "C" {
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void* __tsan_get_current_fiber();
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
}
#endif
#ifdef SIMT_ADDRESS_SANITIZER
extern "C" {
void __sanitizer_start_switch_fiber(void** save, const void* stack, size_t bytes);
void __sanitizer_finish_switch_fiber(void* saved, const void** old_stack, size_t* old_bytes);
void __asan_unpoison_memory_region(const volatile void* address, size_t bytes);
}
#endif

#ifndef SIMT_USES_UCONTEXT
// Saves what the ABI wants saved on the running stack, and picks up where the other one left off.
// A tenth of what swapcontext takes, which asks the kernel for the signal mask.
extern "C" void simt_switch_stacks(void** save, void* load);
asm(R"(
.text
.hidden simt_switch_stacks
.globl simt_switch_stacks
.type simt_switch_stacks, @function
simt_switch_stacks:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch_stacks, . - simt_switch_stacks
)");
#endif

namespace simt {
namespace {

#if defined(SIMT_THREAD_SANITIZER) || defined(SIMT_ADDRESS_SANITIZER)
constexpr size_t kStackBytes = 256 << 10;  // red zones make frames larger
#else
constexpr size_t kStackBytes = 128 << 10;
#endif

// Stacks that all begin at the same offset of a page would compete for the same lines of the
// first-level cache.
size_t stagger(int number) { return static_cast<size_t>(number) * 320 % 16384; }

void prepare_stack(Fiber& fiber, int number, Entry entry) {
  const size_t usable = fiber.stack_bytes - stagger(number);
#ifdef SIMT_USES_UCONTEXT
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack;
  fiber.context.uc_stack.ss_size = usable;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, entry, 0);
#else
  constexpr int kSavedRegisters = 6;
  void** top = reinterpret_cast<void**>(fiber.stack + usable);
  *--top = nullptr;  // where `entry` would return to: ends backtraces
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < kSavedRegisters; ++i) *--top = nullptr;
  fiber.stack_pointer = top;
#endif
}

#ifdef SIMT_THREAD_SANITIZER
// Whether what the fiber did that is switched from comes before what the other one does next.
constexpr unsigned kOrder = 0, kNoOrder = 1;
#endif

}  // namespace

void adopt_thread(Fiber& fiber) {
  fiber = Fiber{};
#ifdef SIMT_ADDRESS_SANITIZER
  pthread_attr_t attributes;
  void* stack;
  if (pthread_getattr_np(pthread_self(), &attributes) != 0) throw std::bad_alloc();
  pthread_attr_getstack(&attributes, &stack, &fiber.stack_bytes);
  pthread_attr_destroy(&attributes);
  fiber.stack = static_cast<unsigned char*>(stack);
#endif
#ifdef SIMT_THREAD_SANITIZER
  fiber.thread_sanitizer = __tsan_get_current_fiber();
#endif
}

void create(Fiber& fiber, int number, Entry entry) {
  const size_t guard = static_cast<size_t>(sysconf(_SC_PAGESIZE));  // what overflows, faults
  void* memory = mmap(nullptr, guard + kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, guard, PROT_NONE) != 0) throw std::bad_alloc();
  fiber = Fiber{};
  fiber.stack = static_cast<unsigned char*>(memory) + guard;
  fiber.stack_bytes = kStackBytes;
#ifdef SIMT_THREAD_SANITIZER
  fiber.thread_sanitizer = __tsan_create_fiber(0);
#endif
  prepare_stack(fiber, number, entry);
}

SIMT_UNCHECKED void restart(Fiber& fiber, int number, Entry entry) {
#ifdef SIMT_THREAD_SANITIZER
  // What it did until now comes before what the calling thread does next.
  void* const caller = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(fiber.thread_sanitizer, kNoOrder);
  __tsan_switch_to_fiber(caller, kOrder);
  // A new one: the old one's record of calls would never be unwound.
  __tsan_destroy_fiber(fiber.thread_sanitizer);
  fiber.thread_sanitizer = __tsan_create_fiber(0);
#endif
#ifdef SIMT_ADDRESS_SANITIZER
  __asan_unpoison_memory_region(fiber.stack, fiber.stack_bytes);
  fiber.address_sanitizer = nullptr;
#endif
  prepare_stack(fiber, number, entry);
}

SIMT_UNCHECKED void switch_fibers(Fiber& from, Fiber& to) {
#ifdef SIMT_ADDRESS_SANITIZER
  __sanitizer_start_switch_fiber(&from.address_sanitizer, to.stack, to.stack_bytes);
#endif
#ifdef SIMT_THREAD_SANITIZER
  __tsan_switch_to_fiber(to.thread_sanitizer, kNoOrder);
#endif
#ifdef SIMT_USES_UCONTEXT
  swapcontext(&from.context, &to.context);
#else
  simt_switch_stacks(&from.stack_pointer, to.stack_pointer);
#endif
#ifdef SIMT_ADDRESS_SANITIZER
  __sanitizer_finish_switch_fiber(from.address_sanitizer, nullptr, nullptr);
#endif
}

SIMT_UNCHECKED void begin_fiber() {
#ifdef SIMT_ADDRESS_SANITIZER
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

}  // namespace simt
