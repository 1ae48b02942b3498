#include "kernels/amx/fills.h"

namespace sluice::kernels {

#if defined(SLUICE_EMULATE_AMX)
void amx_emulated_fill(Kernels& table) {
  table.isa = "amx_emulated";
#else
void amx_fill(Kernels& table) {
  table.isa = "amx";
#endif
  amx::fill_matmul(table);
  amx::fill_attention(table);
}

}  // namespace sluice::kernels
