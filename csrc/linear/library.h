// SPDX-License-Identifier: BSD-3-Clause
// The linear operators in ../library.cpp's table.
#pragma once

#include <torch/library.h>

#include <functional>
#include <string>

namespace fused_ce::linear {

// def(schema) for each of the operators.
void define(const std::function<void(const std::string&)>& def);

void implement_composite(torch::Library& m);
void implement_autocast(torch::Library& m);
void implement_autograd(torch::Library& m);
void implement_meta(torch::Library& m);
void implement_device(torch::Library& m);

}  // namespace fused_ce::linear
