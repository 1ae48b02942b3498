// What goes element by element or makes one number of a row. Tails of less than 8 elements go through masked loads and
// stores, so every element is computed by the same instructions wherever it stands.
#include "kernels/avx2/fills.h"
#include "kernels/avx2/vector.h"

namespace sluice::kernels::avx2 {
namespace {

// out[i] = f(x[i])
template <typename Function>
inline void map(const float* x, float* out, int64_t n, Function f) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(out + i, f(_mm256_loadu_ps(x + i)));
  if (i < n) {
    __m256i mask = lane_mask(n - i);
    _mm256_maskstore_ps(out + i, mask, f(_mm256_maskload_ps(x + i, mask)));
  }
}

// out[i] = f(a[i], b[i])
template <typename Function>
inline void map(const float* a, const float* b, float* out, int64_t n, Function f) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(out + i, f(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i)));
  if (i < n) {
    __m256i mask = lane_mask(n - i);
    _mm256_maskstore_ps(out + i, mask, f(_mm256_maskload_ps(a + i, mask), _mm256_maskload_ps(b + i, mask)));
  }
}

// The sum of f(x[i]) in double: rows are a few thousand long, and a norm scales everything behind it.
template <typename Function>
inline double sum_of(const float* x, int64_t n, Function f) {
  __m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd();
  auto add = [&](__m256 v) {
    low = _mm256_add_pd(low, f(_mm256_cvtps_pd(_mm256_castps256_ps128(v))));
    high = _mm256_add_pd(high, f(_mm256_cvtps_pd(_mm256_extractf128_ps(v, 1))));
  };
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) add(_mm256_loadu_ps(x + i));
  double sum = sum_lanes(_mm256_add_pd(low, high));
  for (; i < n; ++i) {
    double one = static_cast<double>(x[i]);
    sum += _mm256_cvtsd_f64(f(_mm256_set1_pd(one)));
  }
  return sum;
}

void rms_norm(const float* x, const float* weight, float* out, int64_t n, float epsilon) {
  double squares = sum_of(x, n, [](__m256d v) { return _mm256_mul_pd(v, v); });
  float inverse = static_cast<float>(1.0 / sqrt(squares / static_cast<double>(n) + static_cast<double>(epsilon)));
  __m256 factor = _mm256_set1_ps(inverse);
  map(x, weight, out, n, [=](__m256 v, __m256 w) { return _mm256_mul_ps(_mm256_mul_ps(v, factor), w); });
}

void layer_norm(const float* x, const float* weight, const float* bias, float* out, int64_t n, float epsilon) {
  double mean = sum_of(x, n, [](__m256d v) { return v; }) / static_cast<double>(n);
  const __m256d middle = _mm256_set1_pd(mean);
  double squares = sum_of(x, n, [=](__m256d v) {
    __m256d difference = _mm256_sub_pd(v, middle);
    return _mm256_mul_pd(difference, difference);
  });
  float inverse = static_cast<float>(1.0 / sqrt(squares / static_cast<double>(n) + static_cast<double>(epsilon)));
  const __m256 mean_f = _mm256_set1_ps(static_cast<float>(mean)), factor = _mm256_set1_ps(inverse);
  map(x, weight, out, n, [=](__m256 v, __m256 w) {
    return _mm256_mul_ps(_mm256_mul_ps(_mm256_sub_ps(v, mean_f), factor), w);
  });
  if (bias != nullptr) map(out, bias, out, n, [](__m256 v, __m256 b) { return _mm256_add_ps(v, b); });
}

void rope_neox(float* x, const float* cosines, const float* sines, int64_t half) {
  for (int64_t i = 0; i < half; i += 8) {
    __m256i mask = lane_mask(half - i < 8 ? half - i : 8);
    __m256 a = _mm256_maskload_ps(x + i, mask), b = _mm256_maskload_ps(x + half + i, mask);
    __m256 c = _mm256_maskload_ps(cosines + i, mask), s = _mm256_maskload_ps(sines + i, mask);
    _mm256_maskstore_ps(x + i, mask, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)));
    _mm256_maskstore_ps(x + half + i, mask, _mm256_fmadd_ps(a, s, _mm256_mul_ps(b, c)));
  }
}

void rope_interleaved(float* x, const float* cosines, const float* sines, int64_t half) {
  int64_t i = 0;
  for (; i + 4 <= half; i += 4) {
    __m256 pairs = _mm256_loadu_ps(x + 2 * i);
    // c0 c0 c1 c1 c2 c2 c3 c3
    const __m256i twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    __m256 c = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(cosines + i)), twice);
    __m256 s = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(sines + i)), twice);
    __m256 swapped = _mm256_permute_ps(pairs, 0xb1);
    _mm256_storeu_ps(x + 2 * i, _mm256_addsub_ps(_mm256_mul_ps(pairs, c), _mm256_mul_ps(swapped, s)));
  }
  for (; i < half; ++i) {
    float a = x[2 * i], b = x[2 * i + 1];
    x[2 * i] = a * cosines[i] - b * sines[i];
    x[2 * i + 1] = a * sines[i] + b * cosines[i];
  }
}

inline __m256 negate(__m256 x) { return _mm256_xor_ps(x, _mm256_set1_ps(-0.0f)); }

inline __m256 silu(__m256 x) {
  return _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0f), exp(negate(x))));
}

// 0.5 x (1 + tanh u) = x / (1 + e^-2u): no difference of near equals for negative x.
inline __m256 gelu(__m256 x) {
  __m256 inner = _mm256_fmadd_ps(_mm256_mul_ps(x, x), _mm256_set1_ps(0.044715f), _mm256_set1_ps(1.0f));
  __m256 minus_2u = _mm256_mul_ps(_mm256_mul_ps(x, inner), _mm256_set1_ps(-2.0f * 0.7978845608028654f));
  return _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0f), exp(minus_2u)));
}

// 0.5 x erfc(-x / sqrt 2), with erfc(z) = polynomial(1 / (1 + 0.3275911 z)) e^-z^2 for z >= 0 (Abramowitz and Stegun
// 7.1.26, error 1.5e-7) and erfc(-z) = 2 - erfc(z).
inline __m256 gelu_exact(__m256 x) {
  const __m256 one = _mm256_set1_ps(1.0f);
  __m256 z = _mm256_mul_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), x), _mm256_set1_ps(0.70710678f));
  __m256 t = _mm256_div_ps(one, _mm256_fmadd_ps(z, _mm256_set1_ps(0.3275911f), one));
  __m256 p = _mm256_set1_ps(1.061405429f);
  p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(-1.453152027f));
  p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(1.421413741f));
  p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(-0.284496736f));
  p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(0.254829592f));
  __m256 tail = _mm256_mul_ps(_mm256_mul_ps(p, t), exp(negate(_mm256_mul_ps(z, z))));
  __m256 positive = _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_GT_OQ);
  __m256 erfc = _mm256_blendv_ps(tail, _mm256_sub_ps(_mm256_set1_ps(2.0f), tail), positive);
  // x * 0 is NaN for an infinity: there the tail is 0 and so is the product.
  __m256 product = _mm256_mul_ps(_mm256_mul_ps(x, _mm256_set1_ps(0.5f)), erfc);
  return _mm256_blendv_ps(product, _mm256_setzero_ps(), _mm256_cmp_ps(x, _mm256_set1_ps(-INFINITY), _CMP_EQ_OQ));
}

void silu_multiply(const float* gate, const float* up, float* out, int64_t n) {
  map(gate, up, out, n, [](__m256 g, __m256 u) { return _mm256_mul_ps(silu(g), u); });
}

void gelu_multiply(const float* gate, const float* up, float* out, int64_t n) {
  map(gate, up, out, n, [](__m256 g, __m256 u) { return _mm256_mul_ps(gelu(g), u); });
}

void gelu_tanh(const float* x, float* out, int64_t n) {
  map(x, out, n, [](__m256 v) { return gelu(v); });
}

void gelu_erf(const float* x, float* out, int64_t n) {
  map(x, out, n, [](__m256 v) { return gelu_exact(v); });
}

void add(const float* a, const float* b, float* out, int64_t n) {
  map(a, b, out, n, [](__m256 x, __m256 y) { return _mm256_add_ps(x, y); });
}

void scale(const float* x, float factor, float* out, int64_t n) {
  map(x, out, n, [f = _mm256_set1_ps(factor)](__m256 v) { return _mm256_mul_ps(v, f); });
}

void multiply_add(const float* x, float factor, float* accumulator, int64_t n) {
  map(x, accumulator, accumulator, n,
      [f = _mm256_set1_ps(factor)](__m256 v, __m256 sum) { return _mm256_fmadd_ps(v, f, sum); });
}

void softcap(const float* x, float cap, float* out, int64_t n) {
  const __m256 limit = _mm256_set1_ps(cap);
  map(x, out, n, [=](__m256 v) { return _mm256_mul_ps(tanh(_mm256_div_ps(v, limit)), limit); });
}

// The largest element that is not NaN, -inf if there is none.
inline float highest_of(const float* x, int64_t n) {
  __m256 highest = _mm256_set1_ps(-INFINITY);
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) highest = _mm256_max_ps(_mm256_loadu_ps(x + i), highest);
  float result = max_lanes(highest);
  for (; i < n; ++i) result = x[i] > result ? x[i] : result;
  return result;
}

double log_sum_exp(const float* x, int64_t n) {
  const float highest = highest_of(x, n);
  if (highest == -INFINITY) return static_cast<double>(-INFINITY);
  const __m256 base = _mm256_set1_ps(highest);
  __m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd();
  for (int64_t i = 0; i < n; i += 8) {
    __m256i mask = lane_mask(n - i < 8 ? n - i : 8);
    __m256 v = exp(_mm256_sub_ps(_mm256_maskload_ps(x + i, mask), base));
    v = _mm256_and_ps(v, _mm256_castsi256_ps(mask));
    low = _mm256_add_pd(low, _mm256_cvtps_pd(_mm256_castps256_ps128(v)));
    high = _mm256_add_pd(high, _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1)));
  }
  return static_cast<double>(highest) + log(sum_lanes(_mm256_add_pd(low, high)));
}

int64_t argmax(const float* x, int64_t n) {
  const float highest = highest_of(x, n);
  const __m256 wanted = _mm256_set1_ps(highest);
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    int equal = _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(x + i), wanted, _CMP_EQ_OQ));
    if (equal != 0) return i + __builtin_ctz(static_cast<unsigned>(equal));
  }
  for (; i < n; ++i) {
    if (x[i] == highest) return i;
  }
  return 0;  // nothing but NaNs
}

}  // namespace

void fill_elementwise(Kernels& table) {
  table.rms_norm = rms_norm;
  table.layer_norm = layer_norm;
  table.rope_neox = rope_neox;
  table.rope_interleaved = rope_interleaved;
  table.silu_multiply = silu_multiply;
  table.gelu_multiply = gelu_multiply;
  table.gelu_tanh = gelu_tanh;
  table.gelu_erf = gelu_erf;
  table.add = add;
  table.scale = scale;
  table.multiply_add = multiply_add;
  table.softcap = softcap;
  table.log_sum_exp = log_sum_exp;
  table.argmax = argmax;
}

}  // namespace sluice::kernels::avx2
