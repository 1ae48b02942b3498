// Sampling: logits to weights, and how much of them lies above a border. A vocabulary fits the second-level cache and
// not the first, so the loops only have to keep up with that.
#include "kernels/avx2/fills.h"
#include "kernels/avx2/vector.h"

namespace sluice::kernels::avx2 {
namespace {

// Floats that are added up in f32 lanes before they go into doubles: 16 a lane lose nothing that counts.
constexpr int64_t kSpan = 256;

inline double widened_sum(__m256 v) {
  __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128(v));
  return sum_lanes(_mm256_add_pd(low, _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1))));
}

double exp_weights(const float* x, float base, float scale, float* weights, int64_t n) {
  const __m256 bases = _mm256_set1_ps(base), scales = _mm256_set1_ps(scale);
  auto weigh = [&](__m256 v) { return exp(_mm256_mul_ps(_mm256_sub_ps(v, bases), scales)); };
  double total = 0;
  int64_t i = 0;
  while (i + 16 <= n) {
    const int64_t end = n - i < kSpan ? n - 15 : i + kSpan;
    __m256 sum0 = _mm256_setzero_ps(), sum1 = _mm256_setzero_ps();
    for (; i < end; i += 16) {
      __m256 a = weigh(_mm256_loadu_ps(x + i)), b = weigh(_mm256_loadu_ps(x + i + 8));
      _mm256_storeu_ps(weights + i, a);
      _mm256_storeu_ps(weights + i + 8, b);
      sum0 = _mm256_add_ps(sum0, a);
      sum1 = _mm256_add_ps(sum1, b);
    }
    total += widened_sum(_mm256_add_ps(sum0, sum1));
  }
  for (; i < n; i += 8) {
    __m256i mask = lane_mask(n - i < 8 ? n - i : 8);
    __m256 v = weigh(_mm256_maskload_ps(x + i, mask));
    _mm256_maskstore_ps(weights + i, mask, v);
    total += widened_sum(_mm256_and_ps(v, _mm256_castsi256_ps(mask)));
  }
  return total;
}

double sum_at_least(const float* keys, const float* values, float border, int64_t n, int64_t* count) {
  const __m256 borders = _mm256_set1_ps(border);
  __m256i counts0 = _mm256_setzero_si256(), counts1 = _mm256_setzero_si256();
  double total = 0;
  int64_t i = 0;
  while (i + 16 <= n) {
    const int64_t end = n - i < kSpan ? n - 15 : i + kSpan;
    __m256 sum0 = _mm256_setzero_ps(), sum1 = _mm256_setzero_ps();
    for (; i < end; i += 16) {
      __m256 above0 = _mm256_cmp_ps(_mm256_loadu_ps(keys + i), borders, _CMP_GE_OQ);
      __m256 above1 = _mm256_cmp_ps(_mm256_loadu_ps(keys + i + 8), borders, _CMP_GE_OQ);
      sum0 = _mm256_add_ps(sum0, _mm256_and_ps(above0, _mm256_loadu_ps(values + i)));
      sum1 = _mm256_add_ps(sum1, _mm256_and_ps(above1, _mm256_loadu_ps(values + i + 8)));
      counts0 = _mm256_sub_epi32(counts0, _mm256_castps_si256(above0));  // a mask is -1
      counts1 = _mm256_sub_epi32(counts1, _mm256_castps_si256(above1));
    }
    total += widened_sum(_mm256_add_ps(sum0, sum1));
  }
  int32_t lanes[8];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(lanes), _mm256_add_epi32(counts0, counts1));
  int64_t num = 0;
  for (int lane = 0; lane < 8; ++lane) num += lanes[lane];
  for (; i < n; ++i) {
    if (!(keys[i] >= border)) continue;
    total += static_cast<double>(values[i]);
    ++num;
  }
  *count = num;
  return total;
}

}  // namespace

void fill_sampling(Kernels& table) {
  table.exp_weights = exp_weights;
  table.sum_at_least = sum_at_least;
}

}  // namespace sluice::kernels::avx2
