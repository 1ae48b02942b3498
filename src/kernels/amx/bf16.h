// Floats to bf16, in an unnamed namespace so that the objects export nothing.
#pragma once

#include "kernels/avx512/vector.h"

namespace sluice::kernels::amx {
namespace {

// The upper halves of two floats side by side, rounded to nearest (halves away from zero: one addition, and as free of
// bias as halves to even).
inline __m512i round_pairs(__m512 even, __m512 odd) {
  const __m512i half = _mm512_set1_epi32(0x8000);
  const __m512i upper_bytes = _mm512_broadcast_i32x4(_mm_setr_epi32(0x0302, 0x0706, 0x0b0a, 0x0f0e));
  return _mm512_mask_shuffle_epi8(_mm512_add_epi32(_mm512_castps_si512(odd), half), 0x3333333333333333u,
                                  _mm512_add_epi32(_mm512_castps_si512(even), half), upper_bytes);
}

// 16 floats as bf16 in the upper halves of words, to nearest even, as scalar/ does it.
inline __m512i round_upper(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = avx512::and_bits(_mm512_srli_epi32(bits, 16), 1);
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  const __mmask16 is_nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return _mm512_mask_or_epi32(rounded, is_nan, bits, _mm512_set1_epi32(0x400000));
}

}  // namespace
}  // namespace sluice::kernels::amx
