// The parts of the AVX-512 fill (F, BW, CD, DQ, VL and VNNI; *_bf16.cc also BF16). As in avx2/fills.h, nothing but
// these functions leaves this folder.
#pragma once

#include "kernels/kernels.h"

namespace sluice::kernels::avx512 {

void fill_matmul_quantised(Kernels& table);
void fill_matmul_float(Kernels& table);
void fill_matmul_bf16(Kernels& table);  // part of avx512_bf16_fill
void fill_attention(Kernels& table);
void fill_elementwise(Kernels& table);  // gates, rms_norm, sums of two

}  // namespace sluice::kernels::avx512
