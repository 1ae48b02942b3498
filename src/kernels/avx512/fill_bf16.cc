#include "kernels/avx512/fills.h"

namespace sluice::kernels {

void avx512_bf16_fill(Kernels& table) { avx512::fill_matmul_bf16(table); }

}  // namespace sluice::kernels
