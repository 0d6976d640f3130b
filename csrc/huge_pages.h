// SPDX-License-Identifier: BSD-3-Clause
// Huge pages for large results.
#pragma once

#include <cstddef>

namespace fused_ce {

// Asks the kernel for huge pages under memory that was just allocated and not yet written: first
// touch in pages of 4 KB takes longer than computing what is written there. Only a hint: nothing
// happens below 4 MB, where FUSED_CE_HUGE_PAGES=0, or on systems that have no such thing.
void advise_huge_pages(void* start, size_t bytes);

}  // namespace fused_ce
