// The parts of the reference fill, one a file of this folder. The reference is written for reading: it defines what
// each entry of kernels.h means, in double where rounding would blur that, and the other fills are measured against
// it.
#pragma once

#include "kernels/kernels.h"

namespace sluice::kernels::scalar {

void fill_quant(Kernels& table);       // dequantize
void fill_convert(Kernels& table);     // quantize_activations, store_row
void fill_matmul(Kernels& table);      // REQUIRES: fill_quant came first
void fill_attention(Kernels& table);   // REQUIRES: fill_quant came first
void fill_norm(Kernels& table);
void fill_rope(Kernels& table);
void fill_activation(Kernels& table);  // gates, softcap, sums and maxima: all that goes element by element
void fill_sampling(Kernels& table);

}  // namespace sluice::kernels::scalar
