// SPDX-License-Identifier: BSD-3-Clause
#include "shared_memory.h"

#include <link.h>
#include <stdint.h>

#include "fiber.h"

namespace simt::machine {

#ifndef SIMT_ADDRESS_SANITIZER
static char inside;  // some variable of this module
#endif

Bytes thread_locals() {
  Bytes found;
#ifndef SIMT_ADDRESS_SANITIZER
  const auto look = [](dl_phdr_info* module, size_t, void* out) -> int {
    const auto here = reinterpret_cast<uintptr_t>(&inside);
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

}  // namespace simt::machine
