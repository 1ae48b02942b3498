// 2^x, e^x and tanh x of 16 floats, in an unnamed namespace like vector.h.
#pragma once

#include "kernels/avx512/vector.h"

namespace sluice::kernels::avx512 {
namespace {

// 2^x within 2 units in the last place: x = n + r, |r| <= 1/2, a polynomial of degree 5 in r (least largest relative
// error, 1 at r = 0), times 2^n. Exactly 0 below -126; NaN stays NaN.
inline __m512 exp2(__m512 x) {
  const __mmask16 is_normal = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ);
  const __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 r = _mm512_sub_ps(x, n);
  __m512 p = _mm512_set1_ps(1.326472848e-3f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(9.671513923e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.550733581e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.402224243e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.931470037e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  return _mm512_maskz_scalef_ps(is_normal, p, n);
}

// e^x within 2 units in the last place: x = n ln 2 + r, a polynomial of degree 7 in r (Cephes expf), times 2^n. Exactly
// 0 below -87.3; NaN stays NaN.
inline __m512 exp(__m512 x) {
  const __mmask16 is_normal = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.3365448f), _CMP_NLT_UQ);
  // Above this all is infinite; r must not be. min gives its second operand when one is NaN.
  const __m512 bounded = _mm512_min_ps(_mm512_set1_ps(100.0f), x);
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(bounded, _mm512_set1_ps(1.44269504088896341f)),
                                        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), bounded);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.9875691500e-4f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
  p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
  return _mm512_maskz_scalef_ps(is_normal, p, n);
}

// tanh x within 3 units in the last place: a polynomial near 0 (Cephes tanhf), 1 - 2 / (e^2x + 1) elsewhere.
inline __m512 tanh(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.0f), magnitude = _mm512_abs_ps(x);
  const __m512 sign = _mm512_and_ps(_mm512_set1_ps(-0.0f), x);
  const __m512 z = _mm512_mul_ps(x, x);
  __m512 p = _mm512_set1_ps(-5.70498872745e-3f);
  p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(2.06390887954e-2f));
  p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(-5.37397155531e-2f));
  p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(1.33314422036e-1f));
  p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(-3.33332819422e-1f));
  const __m512 small = _mm512_fmadd_ps(_mm512_mul_ps(p, z), x, x);
  const __m512 e = exp(_mm512_add_ps(magnitude, magnitude));
  const __m512 large = _mm512_sub_ps(one, _mm512_div_ps(_mm512_set1_ps(2.0f), _mm512_add_ps(e, one)));
  const __mmask16 is_small = _mm512_cmp_ps_mask(magnitude, _mm512_set1_ps(0.625f), _CMP_LT_OQ);
  return _mm512_mask_blend_ps(is_small, _mm512_or_ps(large, sign), small);
}

}  // namespace
}  // namespace sluice::kernels::avx512
