// SPDX-License-Identifier: BSD-3-Clause
// What the shim's own tests share: every test begins with the same machine, and runs under several
// schedules and fillings of uninitialised memory.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "simt.h"

#define EXPECT_CONTAINS(text, part) EXPECT_PRED_FORMAT2(testing::IsSubstring, part, text)

inline constexpr unsigned kAll = ~0u;

class Simt : public testing::Test {
 protected:
  void SetUp() override { reset(); }
  void TearDown() override { reset(); }

  static void reset() {
    simt::reset_schedule();
    simt::only_blocks();
    simt::set_multiprocessors();
    simt::clear_error();
    simt::clear_launches();
  }
};

struct Schedule {
  simt::Order order;
  uint64_t seed;
  uint8_t poison;
};
inline const std::vector<Schedule> kSchedules = {
    {simt::Order::kFifo, 0, 0xFF},   {simt::Order::kFifo, 0, 0x7F},
    {simt::Order::kLifo, 0, 0xFF},   {simt::Order::kLifo, 0, 0x7F},
    {simt::Order::kRandom, 1, 0xFF}, {simt::Order::kRandom, 2, 0x7F},
    {simt::Order::kRandom, 3, 0xFF},
};

inline void use(const Schedule& schedule) {
  simt::set_schedule(schedule.order, schedule.seed);
  simt::set_poison(schedule.poison);
}
