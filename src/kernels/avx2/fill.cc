#include "kernels/avx2/fills.h"

namespace sluice::kernels {

void avx2_fill(Kernels& table) {
  table.isa = "avx2";
  avx2::fill_quant(table);
  avx2::fill_matmul_quantised(table);
  avx2::fill_matmul_float(table);
  avx2::fill_attention(table);
  avx2::fill_elementwise(table);
  avx2::fill_sampling(table);
}

}  // namespace sluice::kernels
