// SPDX-License-Identifier: BSD-3-Clause
// Launches: what CUDA would refuse, what tests ask for, and what they are told.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <thread>

#include "block.h"
#include "failure.h"
#include "grid.h"
#include "scheduler.h"

namespace simt {
namespace {

using namespace machine;

constexpr size_t kSharedBytes = 48 << 10;      // dynamic, unless the kernel was allowed more
constexpr size_t kMaxSharedBytes = 227 << 10;  // Hopper's
constexpr size_t kMaxLaunches = 1024;

struct Schedule {
  Order order;
  uint64_t seed;
};

// Guards what follows, and all that machine/ keeps of the launch that runs.
std::mutex mutex;

// What tests ask for.
std::optional<Schedule> chosen_schedule;
std::optional<uint8_t> chosen_poison;
Selection chosen_blocks;
int chosen_multiprocessors = kMultiprocessors;
std::map<const void*, size_t> allowed_shared_bytes;

// What they are told.
std::string error_text;
Failure error_kind = Failure::kNone;
std::deque<Launch> history;

void set_error(Failure kind, std::string text) {
  error_kind = kind;
  error_text = std::move(text);
}

[[gnu::format(printf, 1, 2)]] std::string format(const char* pattern, ...) {
  char text[sizeof failure_text + 512];
  va_list list;
  va_start(list, pattern);
  vsnprintf(text, sizeof text, pattern, list);
  va_end(list);
  return text;
}

// What is wrong with a launch, or nothing.
std::string objection(const Configuration& c) {
  const dim3 b = c.block, g = c.grid;
  const uint64_t threads_per_block = uint64_t{b.x} * b.y * b.z;
  if (b.x == 0 || b.y == 0 || b.z == 0 || b.x > 1024 || b.y > 1024 || b.z > 64 ||
      threads_per_block > kMaxThreads) {
    return format("block (%u, %u, %u) is empty, or exceeds (1024, 1024, 64) or 1024 threads", b.x,
                  b.y, b.z);
  }
  if (g.x == 0 || g.y == 0 || g.z == 0 || g.x > 0x7FFFFFFF || g.y > 65535 || g.z > 65535) {
    return format("grid (%u, %u, %u) is empty, or exceeds (2147483647, 65535, 65535)", g.x, g.y,
                  g.z);
  }
  const auto found = allowed_shared_bytes.find(c.kernel);
  const size_t allowed = found == allowed_shared_bytes.end() ? kSharedBytes : found->second;
  if (c.shared_bytes > std::max(allowed, kSharedBytes)) {
    return format(
        "%zu bytes of dynamic shared memory, where more than 49152 need "
        "cudaFuncAttributeMaxDynamicSharedMemorySize",
        c.shared_bytes);
  }
  return "";
}

// False where the variables cannot be understood.
bool schedule_from_environment(Schedule& schedule, uint8_t& poison) {
  schedule = {Order::kFifo, 0};
  poison = 0xFF;
  if (const char* text = getenv("SIMT_ORDER")) {
    char* end = const_cast<char*>(text);
    if (strcmp(text, "lifo") == 0) {
      schedule.order = Order::kLifo;
    } else if (strncmp(text, "rand:", 5) == 0) {
      schedule = {Order::kRandom, strtoull(text + 5, &end, 10)};
      if (*end != '\0' || end == text + 5) return false;
    } else if (strcmp(text, "fifo") != 0) {
      return false;
    }
  }
  if (const char* text = getenv("SIMT_POISON")) {
    char* end;
    const unsigned long value = strtoul(text, &end, 0);
    if (end == text || *end != '\0' || value > 0xFF) return false;
    poison = static_cast<uint8_t>(value);
  }
  return true;
}

}  // namespace

void run(const Configuration& configuration, void (*function)(const void*), const void* arguments) {
  const std::lock_guard lock(mutex);
  if (error_kind != Failure::kNone) return;

  if (const std::string why = objection(configuration); !why.empty()) {
    set_error(Failure::kConfiguration,
              format("%s: impossible launch: %s", configuration.kernel_name, why.c_str()));
    return;
  }
  Schedule schedule;
  uint8_t poison;
  if (!schedule_from_environment(schedule, poison)) {
    set_error(Failure::kValue,
              "SIMT_ORDER is fifo, lifo or rand:NUMBER, and SIMT_POISON a byte such as 0x7F");
    return;
  }
  schedule = chosen_schedule.value_or(schedule);

  order = schedule.order;
  ready_queue.seed(schedule.seed);
  body = {function, arguments};
  failed = false;
  const dim3 size = configuration.block;
  count = static_cast<int>(size.x * size.y * size.z);
  statistics = {
      configuration.kernel_name, configuration.grid, size, configuration.shared_bytes, 0, 0, 0, 0};

  // A thread of its own, whose thread-local variables are the shared memory.
  std::thread([&] {
    run_grid(configuration, chosen_blocks, chosen_poison.value_or(poison));
  }).join();

  history.push_back(statistics);
  if (history.size() > kMaxLaunches) history.pop_front();
  if (failed) {
    const uint3 b = block.index;
    set_error(failed_as, format("%s: block (%u, %u, %u): %s", configuration.kernel_name, b.x, b.y,
                                b.z, failure_text));
  }
}

void set_schedule(Order new_order, uint64_t seed) {
  const std::lock_guard lock(mutex);
  chosen_schedule = Schedule{new_order, seed};
}
void set_poison(uint8_t byte) {
  const std::lock_guard lock(mutex);
  chosen_poison = byte;
}
void reset_schedule() {
  const std::lock_guard lock(mutex);
  chosen_schedule.reset();
  chosen_poison.reset();
}
void only_blocks(uint64_t first, uint64_t last) {
  const std::lock_guard lock(mutex);
  chosen_blocks = {first, last};
}

void set_multiprocessors(int number) {
  const std::lock_guard lock(mutex);
  chosen_multiprocessors = number;
}
int multiprocessors() {
  const std::lock_guard lock(mutex);
  return chosen_multiprocessors;
}

std::string error() {
  const std::lock_guard lock(mutex);
  return error_text;
}
Failure failure() {
  const std::lock_guard lock(mutex);
  return error_kind;
}
void clear_error() {
  const std::lock_guard lock(mutex);
  set_error(Failure::kNone, "");
}

std::vector<Launch> launches() {
  const std::lock_guard lock(mutex);
  return {history.begin(), history.end()};
}
void clear_launches() {
  const std::lock_guard lock(mutex);
  history.clear();
}

bool allow_shared_bytes(const void* kernel, int bytes) {
  const std::lock_guard lock(mutex);
  if (bytes < 0 || static_cast<size_t>(bytes) > kMaxSharedBytes) return false;
  allowed_shared_bytes[kernel] = static_cast<size_t>(bytes);
  return true;
}

}  // namespace simt
