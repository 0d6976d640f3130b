#include "machine.h"

#include <link.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <thread>

#include "fiber.h"

namespace simt {
namespace {

constexpr int kMaxThreads = 1024;
constexpr int kMaxWarps = kMaxThreads / kWarpSize;
constexpr size_t kSharedBytes = 48 << 10;      // dynamic, unless the kernel was allowed more
constexpr size_t kMaxSharedBytes = 227 << 10;  // Hopper's
constexpr size_t kMaxLaunches = 1024;

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

struct Warp {
  unsigned alive;    // lanes that exist and have not exited
  unsigned waiting;  // lanes in a warp intrinsic
  // What __syncwarp orders memory by. Groups of lanes may meet independently, so a group takes the
  // next one when its first lane arrives.
  char keys[64];
  int next_key;
};

// The threads that can run, in the order in which they became ready.
class ReadyQueue {
 public:
  SIMT_UNCHECKED void clear() { head_ = count_ = 0; }
  SIMT_UNCHECKED bool empty() const { return count_ == 0; }
  SIMT_UNCHECKED void push(int number) { at(count_++) = number; }

  SIMT_UNCHECKED int pop(Order order) {
    int place = 0;
    if (order == Order::kLifo) place = count_ - 1;
    if (order == Order::kRandom) place = static_cast<int>(random() % static_cast<unsigned>(count_));
    const int number = at(place);
    --count_;
    if (place == 0) {
      head_ = (head_ + 1) % kMaxThreads;
    } else {
      at(place) = at(count_);
    }
    return number;
  }

  void seed(uint64_t seed) { random_ = seed * 2654435761u + 1; }
  SIMT_UNCHECKED unsigned random() {  // Knuth's MMIX generator
    random_ = random_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<unsigned>(random_ >> 33);
  }

 private:
  SIMT_UNCHECKED int& at(int place) { return numbers_[(head_ + place) % kMaxThreads]; }

  int numbers_[kMaxThreads];
  int head_ = 0, count_ = 0;
  uint64_t random_ = 1;
};

struct Schedule {
  Order order;
  uint64_t seed;
};

// ---- State, guarded by `mutex` -----------------------------------------------------------------

std::mutex mutex;

// What tests ask for.
std::optional<Schedule> chosen_schedule;
std::optional<uint8_t> chosen_poison;
uint64_t first_block = 0, last_block = UINT64_MAX;
std::map<const void*, size_t> allowed_shared_bytes;

// What they are told.
std::string error_text;
Failure error_kind = Failure::kNone;
std::deque<Launch> history;

// The launch that runs.
CudaThread threads[kMaxThreads];
Warp warps[kMaxWarps];
int created = 0;  // threads whose fiber exists
int count = 0;    // threads of a block
int alive = 0, at_barrier = 0;
Votes votes;  // of the last barrier
ReadyQueue ready_queue;
Order order = Order::kFifo;
Fiber scheduler;
Fiber* running = nullptr;
void (*body)(const void*);
const void* arguments;
Launch statistics;

bool failed = false;
Failure failed_as;
char failure_text[1024];

// Keys that order memory. Barriers take turns, so that who is late at one does not learn what
// another thread did on its way to the next.
char begin_key, end_key, barrier_keys[2];

Thread outside{};  // what host code sees

// ---- Running threads ---------------------------------------------------------------------------

SIMT_UNCHECKED bool in_kernel() { return thread != &outside; }

SIMT_UNCHECKED CudaThread& self() { return static_cast<CudaThread&>(*thread); }
SIMT_UNCHECKED int number_of(const CudaThread& t) { return static_cast<int>(&t - threads); }

SIMT_UNCHECKED void make_ready(CudaThread& t) {
  t.state = State::kReady;
  ready_queue.push(number_of(t));
}

SIMT_UNCHECKED void resume(Fiber& fiber) {
  Fiber& from = *running;
  if (&from == &fiber) return;
  running = &fiber;
  ++statistics.switches;
  switch_fibers(from, fiber);
}

// Runs whoever comes next: the scheduler, where nobody can.
SIMT_UNCHECKED void yield() {
  if (ready_queue.empty()) {
    thread = &outside;
    resume(scheduler);
  } else {
    CudaThread& next = threads[ready_queue.pop(order)];
    thread = &next;
    resume(next.fiber);
  }
}

// Ends the launch: the running thread is left where it is, as all others are.
[[gnu::format(printf, 2, 3)]] SIMT_UNCHECKED void fail(Failure kind, const char* format, ...) {
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
    thread = &outside;
    resume(scheduler);
  }
}

// A place in the source, for messages.
struct Place {
  char text[256];
  explicit Place(Where where) {
    const char* file = strrchr(where.file_name(), '/');
    snprintf(text, sizeof text, "%s:%u", file == nullptr ? where.file_name() : file + 1,
             static_cast<unsigned>(where.line()));
  }
};

SIMT_UNCHECKED bool same_place(Where a, Where b) {
  return a.line() == b.line() && a.column() == b.column() &&
         (a.file_name() == b.file_name() || strcmp(a.file_name(), b.file_name()) == 0);
}

SIMT_UNCHECKED void require_kernel(Where where) {
  if (in_kernel()) return;
  fprintf(stderr, "simt: %s: called outside of a kernel\n", Place(where).text);
  abort();
}

// ---- Barriers ----------------------------------------------------------------------------------

// Releases the barrier if every thread that has not exited waits at it.
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

// ---- Warp intrinsics ---------------------------------------------------------------------------

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

// ---- Blocks ------------------------------------------------------------------------------------

SIMT_UNCHECKED void exit_thread() {
  CudaThread& t = self();
  Warp& warp = warps[t.warp];
  t.state = State::kDone;
  --alive;
  warp.alive &= ~(1u << t.lane);
  for (unsigned left = warp.waiting; left != 0; left &= left - 1) {
    require_alive(warp, threads[t.warp * kWarpSize + lowest(left)]);
  }
  check_barrier();
}

SIMT_UNCHECKED void thread_main() {
  begin_fiber();
  for (;;) {  // once a block
    acquire(&begin_key);
    body(arguments);
    release(&end_key);
    exit_thread();
    yield();
  }
}

// The thread-local variables of this module, in the calling thread: among them is all static
// shared memory, and nothing that somebody else uses, for a launch has a thread to itself.
struct Bytes {
  unsigned char* begin = nullptr;
  size_t size = 0;
};
Bytes thread_locals() {
  Bytes found;
#ifndef SIMT_ADDRESS_SANITIZER
  const auto look = [](dl_phdr_info* module, size_t, void* out) -> int {
    const auto here = reinterpret_cast<uintptr_t>(&threads);
    const ElfW(Phdr)* tls = nullptr;
    bool ours = false;
    for (int i = 0; i < module->dlpi_phnum; ++i) {
      const ElfW(Phdr) & segment = module->dlpi_phdr[i];
      if (segment.p_type == PT_TLS) tls = &segment;
      if (segment.p_type == PT_LOAD && here - module->dlpi_addr - segment.p_vaddr < segment.p_memsz)
        ours = true;
    }
    if (ours && tls != nullptr) {
      *static_cast<Bytes*>(out) = {static_cast<unsigned char*>(module->dlpi_tls_data),
                                   tls->p_memsz};
    }
    return ours;
  };
  [[maybe_unused]] static thread_local volatile char
      touched;  // a library's exist in a thread only once touched
  touched = 1;
  dl_iterate_phdr(look, &found);
#endif
  return found;
}

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
  alive = count;
  at_barrier = 0;
  for (Warp& warp : warps) warp.alive = warp.waiting = 0;
  const dim3 size = block.size;
  for (int i = 0; i < count; ++i) {
    CudaThread& t = threads[i];
    const auto u = static_cast<unsigned>(i);
    t.index = {u % size.x, u / size.x % size.y, u / (size.x * size.y)};
    warps[t.warp].alive |= 1u << t.lane;
    make_ready(t);
  }
  release(&begin_key);
  yield();
  acquire(&end_key);
  ++statistics.blocks;
  if (failed || alive == 0) return;

  const CudaThread& stuck = *std::find_if(
      threads, threads + count, [](const CudaThread& t) { return t.state != State::kDone; });
  const bool barrier = stuck.state == State::kAtBarrier;
  char mask[32] = "";
  if (!barrier) snprintf(mask, sizeof mask, ", mask %08x", stuck.mask);
  fail(Failure::kLaunch,
       "deadlock: %d of %d threads wait for ever, %d of them at __syncthreads; thread %d at %s, in "
       "%s%s",
       alive, count, at_barrier, number_of(stuck), Place(stuck.where).text,
       barrier ? "__syncthreads" : "a warp intrinsic", mask);
}

// ---- Grids -------------------------------------------------------------------------------------

// Block numbers in the order in which they run.
class BlockOrder {
 public:
  BlockOrder(uint64_t first, uint64_t size) : first_(first), size_(size) {
    if (order != Order::kRandom || size == 0) return;
    // A permutation without a table: steps of a size that has no divisor in common with the number
    // of blocks come by each of them once.
    offset_ = ready_queue.random() % size;
    do {
      step_ = ready_queue.random() % size + 1;
    } while (std::gcd(step_, size) != 1);
  }
  uint64_t operator[](uint64_t i) const {
    if (order == Order::kLifo) return first_ + (size_ - 1 - i);
    __extension__ using Wide = unsigned __int128;
    return first_ + static_cast<uint64_t>((Wide{i} * step_ + offset_) % size_);
  }

 private:
  uint64_t first_, size_, step_ = 1, offset_ = 0;
};

void run_grid(const Configuration& configuration, uint8_t poison) {
  const dim3 grid = configuration.grid;
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  adopt_thread(scheduler);
  running = &scheduler;
  create_threads();
  const Bytes static_shared = thread_locals();
  // Of the exact size, for AddressSanitizer. 16-byte aligned, as operator new does.
  const std::unique_ptr<unsigned char[]> dynamic_shared(
      configuration.shared_bytes == 0 ? nullptr : new unsigned char[configuration.shared_bytes]);

  block = {{0, 0, 0}, configuration.block, grid, dynamic_shared.get()};
  const uint64_t end = last_block < blocks ? last_block + 1 : blocks;
  const uint64_t selected = first_block < end ? end - first_block : 0;
  const BlockOrder numbers(first_block, selected);
  for (uint64_t i = 0; i < selected && !failed; ++i) {
    const uint64_t number = numbers[i];
    block.index = {static_cast<unsigned>(number % grid.x),
                   static_cast<unsigned>(number / grid.x % grid.y),
                   static_cast<unsigned>(number / grid.x / grid.y)};
    if (static_shared.size != 0) memset(static_shared.begin, poison, static_shared.size);
    if (dynamic_shared) memset(dynamic_shared.get(), poison, configuration.shared_bytes);
    run_block();
  }
  if (failed) {
    for (int i = 0; i < count; ++i) {
      if (threads[i].state != State::kDone) restart(threads[i].fiber, i, thread_main);
    }
  }
  block.dynamic_shared = nullptr;
}

// ---- Launches ----------------------------------------------------------------------------------

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

Thread* thread = &outside;
Block block{{0, 0, 0}, {}, {}, nullptr};

void run(const Configuration& configuration, void (*run_body)(const void*),
         const void* run_arguments) {
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
  body = run_body;
  arguments = run_arguments;
  failed = false;
  const dim3 size = configuration.block;
  count = static_cast<int>(size.x * size.y * size.z);
  statistics = {
      configuration.kernel_name, configuration.grid, size, configuration.shared_bytes, 0, 0, 0, 0};

  // A thread of its own, whose thread-local variables are the shared memory.
  std::thread([&] { run_grid(configuration, chosen_poison.value_or(poison)); }).join();

  history.push_back(statistics);
  if (history.size() > kMaxLaunches) history.pop_front();
  if (failed) {
    const uint3 b = block.index;
    set_error(failed_as, format("%s: block (%u, %u, %u): %s", configuration.kernel_name, b.x, b.y,
                                b.z, failure_text));
  }
}

SIMT_UNCHECKED Votes barrier(bool predicate, Where where) {
  require_kernel(where);
  CudaThread& t = self();
  t.state = State::kAtBarrier;
  t.where = where;
  t.value = predicate;
  char* const key = &barrier_keys[statistics.barriers % 2];
  release(key);
  ++at_barrier;
  check_barrier();
  yield();
  acquire(key);
  return votes;  // still of this barrier: the next one cannot be passed before this thread arrives
}

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

// ---- For tests ---------------------------------------------------------------------------------

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
  first_block = first;
  last_block = last;
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
