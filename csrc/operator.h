// SPDX-License-Identifier: BSD-3-Clause
// An operator of this library, to be called through the dispatcher.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

namespace fused_ce {

// To be looked up once each: a lookup by name costs more than a small loss. The handles outlive
// every call, for the registrations live in this library.
template <class Function>
auto find_operator(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Function>();
}

}  // namespace fused_ce
