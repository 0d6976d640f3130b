// SPDX-License-Identifier: BSD-3-Clause
// A second copy of this library in a process, as an installed package beside a build tree makes.
#pragma once

#include <string>

namespace fused_ce {

// Whether the operators are registered by another copy already. Two registrations of one namespace
// would end the process.
bool loaded_twice();

// What is wrong, and the file of the copy whose operators are in use; "" where nothing is.
const std::string& load_error();

}  // namespace fused_ce
