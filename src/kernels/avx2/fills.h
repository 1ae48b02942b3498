// The parts of the AVX2 fill (with FMA and F16C), one a file of this folder. Files here are compiled with flags
// that the rest of the program does not have: they include intrinsics, C headers and kernels/ only, and keep
// everything but these functions internal, so that no inline function built here can be picked by the linker for a
// machine without AVX2 (tools/check_isa_symbols.sh).
#pragma once

#include "kernels/kernels.h"

namespace sluice::kernels::avx2 {

void fill_quant(Kernels& table);             // dequantize, quantize_activations, store_row
void fill_matmul_quantised(Kernels& table);
void fill_matmul_float(Kernels& table);
void fill_attention(Kernels& table);
void fill_elementwise(Kernels& table);       // norms, rope, gates, softcap, sums and maxima
void fill_sampling(Kernels& table);

}  // namespace sluice::kernels::avx2
