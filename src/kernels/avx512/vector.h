// Small pieces that the files for 512-bit registers share, in an unnamed namespace so that the objects export nothing.
#pragma once

#include <immintrin.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

namespace sluice::kernels::avx512 {
namespace {

inline __m512i load_512(const void* p) { return _mm512_loadu_si512(p); }
inline void store_512(void* p, __m512i v) { _mm512_storeu_si512(p, v); }

// 16 half floats as floats.
inline __m512 load_halves(const void* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
}

inline __m512i broadcast_4_bytes(const void* p) {
  int32_t word;
  memcpy(&word, p, 4);
  return _mm512_set1_epi32(word);
}

inline __m512i and_bits(__m512i x, uint32_t mask) {
  return _mm512_and_si512(x, _mm512_set1_epi32(static_cast<int>(mask)));
}

// (a & mask) | b in one instruction.
inline __m512i and_or(__m512i a, uint32_t mask, __m512i b) {
  return _mm512_ternarylogic_epi32(a, _mm512_set1_epi32(static_cast<int>(mask)), b, 0xea);
}

// The first `count` of 16 lanes.
inline __mmask16 first_lanes(int64_t count) {
  return count >= 16 ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1u << count) - 1);
}

// Lanes [begin, end) of 16. The bounds may lie outside.
inline __mmask16 lanes_between(int64_t begin, int64_t end) {
  const unsigned from = begin > 0 ? first_lanes(begin) : 0, to = end > 0 ? first_lanes(end) : 0;
  return static_cast<__mmask16>(to & ~from);
}

}  // namespace
}  // namespace sluice::kernels::avx512
