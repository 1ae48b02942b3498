#include "kernels/scalar/fills.h"

namespace sluice::kernels {

void scalar_fill(Kernels& table) {
  table = Kernels{};
  table.isa = "scalar";
  scalar::fill_quant(table);
  scalar::fill_convert(table);
  scalar::fill_matmul(table);
  scalar::fill_attention(table);
  scalar::fill_norm(table);
  scalar::fill_rope(table);
  scalar::fill_activation(table);
  scalar::fill_sampling(table);
}

}  // namespace sluice::kernels
