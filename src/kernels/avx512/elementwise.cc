// Element by element in 512 bits: the entries that show in the profile of a prompt. Tails go through masked loads and
// stores, so every element is computed by the same instructions wherever it stands.
#include "kernels/avx512/exponential.h"
#include "kernels/avx512/fills.h"

namespace sluice::kernels::avx512 {
namespace {

// out[i] = f(x[i])
template <typename Function>
inline void map(const float* x, float* out, int64_t n, Function f) {
  for (int64_t i = 0; i < n; i += 16) {
    const __mmask16 mask = first_lanes(n - i);
    _mm512_mask_storeu_ps(out + i, mask, f(_mm512_maskz_loadu_ps(mask, x + i)));
  }
}

// out[i] = f(a[i], b[i])
template <typename Function>
inline void map(const float* a, const float* b, float* out, int64_t n, Function f) {
  for (int64_t i = 0; i < n; i += 16) {
    const __mmask16 mask = first_lanes(n - i);
    _mm512_mask_storeu_ps(out + i, mask, f(_mm512_maskz_loadu_ps(mask, a + i), _mm512_maskz_loadu_ps(mask, b + i)));
  }
}

void rms_norm(const float* x, const float* weight, float* out, int64_t n, float epsilon) {
  // In double: rows are a few thousand long, and a norm scales everything behind it.
  __m512d sums[2] = {_mm512_setzero_pd(), _mm512_setzero_pd()};
  for (int64_t i = 0; i < n; i += 16) {
    const __m512 v = _mm512_maskz_loadu_ps(first_lanes(n - i), x + i);
    const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(v));
    const __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1));
    sums[0] = _mm512_fmadd_pd(low, low, sums[0]);
    sums[1] = _mm512_fmadd_pd(high, high, sums[1]);
  }
  alignas(64) double lanes[8];
  _mm512_store_pd(lanes, _mm512_add_pd(sums[0], sums[1]));
  double squares = 0;
  for (double lane : lanes) squares += lane;
  const double inverse = 1.0 / sqrt(squares / static_cast<double>(n) + static_cast<double>(epsilon));
  const __m512 factor = _mm512_set1_ps(static_cast<float>(inverse));
  map(x, weight, out, n, [=](__m512 v, __m512 w) { return _mm512_mul_ps(_mm512_mul_ps(v, factor), w); });
}

inline __m512 negate(__m512 x) { return _mm512_xor_ps(x, _mm512_set1_ps(-0.0f)); }

inline __m512 silu(__m512 x) { return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), exp(negate(x)))); }

// 0.5 x (1 + tanh u) = x / (1 + e^-2u): no difference of near equals for negative x.
inline __m512 gelu(__m512 x) {
  const __m512 inner = _mm512_fmadd_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(0.044715f), _mm512_set1_ps(1.0f));
  const __m512 minus_2u = _mm512_mul_ps(_mm512_mul_ps(x, inner), _mm512_set1_ps(-2.0f * 0.7978845608028654f));
  return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), exp(minus_2u)));
}

void silu_multiply(const float* gate, const float* up, float* out, int64_t n) {
  map(gate, up, out, n, [](__m512 g, __m512 u) { return _mm512_mul_ps(silu(g), u); });
}

void gelu_multiply(const float* gate, const float* up, float* out, int64_t n) {
  map(gate, up, out, n, [](__m512 g, __m512 u) { return _mm512_mul_ps(gelu(g), u); });
}

void gelu_tanh(const float* x, float* out, int64_t n) {
  map(x, out, n, [](__m512 v) { return gelu(v); });
}

void add(const float* a, const float* b, float* out, int64_t n) {
  map(a, b, out, n, [](__m512 x, __m512 y) { return _mm512_add_ps(x, y); });
}

void softcap(const float* x, float cap, float* out, int64_t n) {
  const __m512 limit = _mm512_set1_ps(cap);
  map(x, out, n, [=](__m512 v) { return _mm512_mul_ps(tanh(_mm512_div_ps(v, limit)), limit); });
}

}  // namespace

void fill_elementwise(Kernels& table) {
  table.rms_norm = rms_norm;
  table.silu_multiply = silu_multiply;
  table.gelu_multiply = gelu_multiply;
  table.gelu_tanh = gelu_tanh;
  table.add = add;
  table.softcap = softcap;
}

}  // namespace sluice::kernels::avx512
