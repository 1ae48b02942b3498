#include "kernels/avx512/fills.h"

namespace sluice::kernels {

void avx512_fill(Kernels& table) {
  table.isa = "avx512";
  avx512::fill_matmul_quantised(table);
  avx512::fill_matmul_float(table);
  avx512::fill_attention(table);
  avx512::fill_elementwise(table);
}

}  // namespace sluice::kernels
