// The tables that tests go through: those of this machine and, where AVX-512 runs, the amx one over tiles emulated in
// plain code ("amx_emulated"), which is linked into the test program only.
#pragma once

#include <cstring>

#include "kernels/cpu.h"
#include "kernels/kernels.h"

namespace sluice::kernels {

void amx_emulated_fill(Kernels& table);

inline IsaList isas_to_test() {
  IsaList isas = available_isas();
#if defined(__x86_64__)
  if (get_cpu().avx512_vnni) isas.names[isas.count++] = "amx_emulated";
#endif
  return isas;
}

inline Kernels make_tested_kernels(const char* isa) {
#if defined(__x86_64__)
  if (std::strcmp(isa, "amx_emulated") == 0) {
    Kernels table = make_kernels("avx512");
    amx_emulated_fill(table);
    return table;
  }
#endif
  return make_kernels(isa);
}

}  // namespace sluice::kernels
