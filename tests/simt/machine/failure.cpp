// SPDX-License-Identifier: BSD-3-Clause
#include "failure.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scheduler.h"

namespace simt {
namespace machine {

bool failed = false;
Failure failed_as;
char failure_text[1024];

SIMT_UNCHECKED void fail(Failure kind, const char* format, ...) {
  if (!failed) {
    failed = true;
    failed_as = kind;
    va_list list;
    va_start(list, format);
    vsnprintf(failure_text, sizeof failure_text, format, list);
    va_end(list);
  }
  if (in_kernel()) {
    self().state = State::kReady;  // even one that was about to exit has to be restarted
    leave_kernel();
  }
}

Place::Place(Where where) {
  const char* file = strrchr(where.file_name(), '/');
  snprintf(text, sizeof text, "%s:%u", file == nullptr ? where.file_name() : file + 1,
           static_cast<unsigned>(where.line()));
}

SIMT_UNCHECKED bool same_place(Where a, Where b) {
  return a.line() == b.line() && a.column() == b.column() &&
         (a.file_name() == b.file_name() || strcmp(a.file_name(), b.file_name()) == 0);
}

SIMT_UNCHECKED void require_kernel(Where where) {
  if (in_kernel()) return;
  fprintf(stderr, "simt: %s: called outside of a kernel\n", Place(where).text);
  abort();
}

}  // namespace machine

using namespace machine;

SIMT_UNCHECKED void assertion_failed(const char* condition, Where where) {
  if (in_kernel()) {
    const uint3 t = thread->index;
    fail(Failure::kAssert, "thread (%u, %u, %u): assertion failed at %s: %s", t.x, t.y, t.z,
         Place(where).text, condition);
  }
  fprintf(stderr, "%s: assertion failed: %s\n", Place(where).text, condition);
  abort();
}

SIMT_UNCHECKED void misaligned(const void* address, size_t alignment, Where where) {
  if (in_kernel()) {
    const uint3 t = thread->index;
    fail(Failure::kMisaligned, "thread (%u, %u, %u): address %p is not aligned to %zu bytes at %s",
         t.x, t.y, t.z, address, alignment, Place(where).text);
  }
  fprintf(stderr, "%s: address %p is not aligned to %zu bytes\n", Place(where).text, address,
          alignment);
  abort();
}

}  // namespace simt
