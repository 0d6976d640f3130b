// SPDX-License-Identifier: BSD-3-Clause
// The operators of shared-out classes in the library: see ../library.cpp.
#pragma once

#include <torch/library.h>

#include <functional>
#include <string>

namespace fused_ce::parallel {

void define(const std::function<void(const std::string&)>& def);
void implement_composite(torch::Library& m);
void implement_meta(torch::Library& m);
void implement_device(torch::Library& m);

}  // namespace fused_ce::parallel
