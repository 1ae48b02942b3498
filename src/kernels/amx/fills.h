// The parts of the AMX fill. Test programs hold these files twice, the second time over emulated tiles (tile.h) and
// under other names.
#pragma once

#include "kernels/kernels.h"

namespace sluice::kernels::amx {

#if defined(SLUICE_EMULATE_AMX)
inline namespace emulated {
#else
inline namespace real {
#endif

void fill_matmul(Kernels& table);
void fill_attention(Kernels& table);

}  // namespace
}  // namespace sluice::kernels::amx
