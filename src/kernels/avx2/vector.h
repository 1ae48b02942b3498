// Small pieces that the AVX2 files share: masked tails, sums over lanes, half floats, exp and tanh. In an unnamed
// namespace, so that every file has its own copy and the objects export nothing (see fills.h).
//
// Products and sums that must come out the same bit for bit on several paths are written with explicit fmadd: the
// compiler may contract a multiply and an add that stand apart, but differently in each place.
#pragma once

#include <immintrin.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

namespace sluice::kernels::avx2 {
namespace {

// The first `count` lanes set, 0 <= count <= 8.
inline __m256i lane_mask(int64_t count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

inline float sum_lanes(__m256 v) {
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}

inline double sum_lanes(__m256d v) {
  __m128d x = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
  return _mm_cvtsd_f64(_mm_add_sd(x, _mm_unpackhi_pd(x, x)));
}

inline float max_lanes(__m256 v) {
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}

// The sums of a, b, c and d over their lanes, in this order.
inline __m128 sum_lanes_of_4(__m256 a, __m256 b, __m256 c, __m256 d) {
  __m256 ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));  // a b a b, twice
  __m256 cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
  __m256 lo = _mm256_shuffle_ps(ab, cd, 0x44), hi = _mm256_shuffle_ps(ab, cd, 0xee);
  __m256 abcd = _mm256_add_ps(lo, hi);
  return _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1));
}

inline float half_to_float(uint16_t half) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half))); }

inline uint16_t float_to_half(float x) {
  return static_cast<uint16_t>(_mm_cvtsi128_si32(_mm_cvtps_ph(_mm_set_ss(x), _MM_FROUND_TO_NEAREST_INT)));
}

inline __m256 load_halves(const void* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}

inline __m256 load_bf16(const void* p) {
  __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

// FP8 E4M3, one in the low byte of each word: shift exponent and mantissa to their f32 places and move the exponent's
// bias. A subnormal m * 2^-9 is made as 2^-6 * (1 + m / 8) less 2^-6: the obvious way, one product with 2^120, is slow
// because it goes through f32 subnormals. 0x7f and 0xff are NaN and not 480.
inline __m256 f8_to_floats(__m256i wide) {
  __m256i magnitude = _mm256_and_si256(wide, _mm256_set1_epi32(0x7f));
  __m256i sign = _mm256_slli_epi32(_mm256_and_si256(wide, _mm256_set1_epi32(0x80)), 24);
  __m256i is_nan = _mm256_cmpeq_epi32(magnitude, _mm256_set1_epi32(0x7f));
  __m256i is_small = _mm256_cmpgt_epi32(_mm256_set1_epi32(8), magnitude);
  __m256i bits = _mm256_add_epi32(_mm256_slli_epi32(magnitude, 20), _mm256_set1_epi32(120 << 23));
  bits = _mm256_sub_epi32(bits, _mm256_slli_epi32(is_small, 23));  // the mask is -1
  __m256 excess = _mm256_and_ps(_mm256_castsi256_ps(is_small), _mm256_set1_ps(0x1p-6f));
  __m256 value = _mm256_sub_ps(_mm256_castsi256_ps(bits), excess);
  value = _mm256_blendv_ps(value, _mm256_set1_ps(NAN), _mm256_castsi256_ps(is_nan));
  return _mm256_or_ps(value, _mm256_castsi256_ps(sign));
}

inline __m256 load_f8(const void* p) {
  return f8_to_floats(_mm256_cvtepu8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p))));
}

// e^x within 2 units in the last place: x = n ln 2 + r, a polynomial of degree 7 in r (Cephes expf), times 2^n. Exactly
// 0 below -87.3 and infinite above 88.3 (a little early); NaN stays NaN.
inline __m256 exp(__m256 x) {
  const __m256 highest = _mm256_set1_ps(88.3762626f), lowest = _mm256_set1_ps(-87.3365448f);
  __m256 too_high = _mm256_cmp_ps(x, highest, _CMP_GT_OQ), too_low = _mm256_cmp_ps(x, lowest, _CMP_LT_OQ);
  // min and max give their second operand when one is NaN.
  x = _mm256_max_ps(lowest, _mm256_min_ps(highest, x));
  __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504088896341f)),
                             _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
  __m256 p = _mm256_set1_ps(1.9875691500e-4f);
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.3981999507e-3f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(8.3334519073e-3f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.1665795894e-2f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.6666665459e-1f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(5.0000001201e-1f));
  p = _mm256_fmadd_ps(p, _mm256_mul_ps(r, r), _mm256_add_ps(r, _mm256_set1_ps(1.0f)));
  __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  p = _mm256_mul_ps(p, _mm256_castsi256_ps(power));
  p = _mm256_blendv_ps(p, _mm256_set1_ps(INFINITY), too_high);
  return _mm256_andnot_ps(too_low, p);
}

// tanh x within 3 units in the last place: a polynomial near 0 (Cephes tanhf), 1 - 2 / (e^2x + 1) elsewhere.
inline __m256 tanh(__m256 x) {
  const __m256 sign_bit = _mm256_set1_ps(-0.0f), one = _mm256_set1_ps(1.0f);
  __m256 magnitude = _mm256_andnot_ps(sign_bit, x), sign = _mm256_and_ps(sign_bit, x);
  __m256 z = _mm256_mul_ps(x, x);
  __m256 p = _mm256_set1_ps(-5.70498872745e-3f);
  p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(2.06390887954e-2f));
  p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(-5.37397155531e-2f));
  p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(1.33314422036e-1f));
  p = _mm256_fmadd_ps(p, z, _mm256_set1_ps(-3.33332819422e-1f));
  __m256 small = _mm256_fmadd_ps(_mm256_mul_ps(p, z), x, x);
  __m256 e = exp(_mm256_add_ps(magnitude, magnitude));
  __m256 large = _mm256_sub_ps(one, _mm256_div_ps(_mm256_set1_ps(2.0f), _mm256_add_ps(e, one)));
  large = _mm256_or_ps(large, sign);
  return _mm256_blendv_ps(large, small, _mm256_cmp_ps(magnitude, _mm256_set1_ps(0.625f), _CMP_LT_OQ));
}

// Word c < 4 of the 16 bytes at each of 8 rows, side by side in out[c]. Rows i and i + 4 meet in one register on
// loading, which leaves two levels of shuffles.
__attribute__((always_inline)) inline void transpose_8x4(const uint8_t* const* rows, size_t offset, __m256i* out) {
  __m256i r[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[i] + offset));
    __m128i high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[i + 4] + offset));
    r[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
  }
  __m256i a = _mm256_unpacklo_epi32(r[0], r[1]), b = _mm256_unpackhi_epi32(r[0], r[1]);
  __m256i c = _mm256_unpacklo_epi32(r[2], r[3]), d = _mm256_unpackhi_epi32(r[2], r[3]);
  out[0] = _mm256_unpacklo_epi64(a, c);
  out[1] = _mm256_unpackhi_epi64(a, c);
  out[2] = _mm256_unpacklo_epi64(b, d);
  out[3] = _mm256_unpackhi_epi64(b, d);
}

// The same for the 8 words of 32 bytes.
__attribute__((always_inline)) inline void transpose_8x8(const uint8_t* const* rows, size_t offset, __m256i* out) {
  transpose_8x4(rows, offset, out);
  transpose_8x4(rows, offset + 16, out + 4);
}

}  // namespace
}  // namespace sluice::kernels::avx2
