// SPDX-License-Identifier: BSD-3-Clause
// How often pages of memory are read, from the first access to the last of a window of pages:
// reading the memory once, in order, reads each page once; reading it again, again. Every page is
// locked until it is read, and again once kWindow others have been.
#pragma once

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>

namespace fused_ce::testing {

class PageReads {
 public:
  // More than a loop reads side by side.
  static constexpr int kWindow = 32;

  explicit PageReads(int64_t bytes)
      : page_(sysconf(_SC_PAGESIZE)),
        bytes_((bytes + page_ - 1) / page_ * page_),
        begin_(static_cast<unsigned char*>(
            mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {
    if (begin_ == MAP_FAILED) std::abort();
  }
  ~PageReads() { munmap(begin_, bytes_); }
  PageReads(const PageReads&) = delete;

  void* data() { return begin_; }
  int64_t pages() const { return bytes_ / page_; }

  // How many pages `work` reads.
  template <class Work>
  int64_t of(Work work) {
    reads_ = 0;
    for (unsigned char*& page : window_) page = nullptr;
    running_ = this;
    struct sigaction ours{}, theirs{};
    ours.sa_sigaction = on_access;
    ours.sa_flags = SA_SIGINFO;
    mprotect(begin_, bytes_, PROT_NONE);
    sigaction(SIGSEGV, &ours, &theirs);
    work();
    sigaction(SIGSEGV, &theirs, nullptr);
    mprotect(begin_, bytes_, PROT_READ | PROT_WRITE);
    return reads_;
  }

 private:
  static void on_access(int, siginfo_t* info, void*) {
    running_->unlock(static_cast<unsigned char*>(info->si_addr));
  }
  void unlock(unsigned char* address) {
    if (address < begin_ || address >= begin_ + bytes_) std::abort();  // a bug of another kind
    unsigned char*& oldest = window_[reads_++ % kWindow];
    if (oldest) mprotect(oldest, page_, PROT_NONE);
    oldest = begin_ + (address - begin_) / page_ * page_;
    mprotect(oldest, page_, PROT_READ);
  }

  inline static PageReads* running_ = nullptr;

  const int64_t page_, bytes_;
  unsigned char* const begin_;
  unsigned char* window_[kWindow]{};
  int64_t reads_ = 0;
};

}  // namespace fused_ce::testing
