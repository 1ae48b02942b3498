// Attention (attention_blocks.h) in registers of 16 floats: a vector is one element of the 16 keys of a page, or 16
// elements of a value.
#include "kernels/attention_blocks.h"
#include "kernels/avx512/exponential.h"
#include "kernels/avx512/fills.h"
#include "kernels/avx512/kv_types.h"

namespace sluice::kernels::avx512 {
namespace {

struct Vector {
  using Floats = __m512;
  static constexpr int kLanes = 16;
  static constexpr int kRows = 8;  // times two vectors: 16 sums hide the latency and leave registers for operands

  static inline __m512 zero() { return _mm512_setzero_ps(); }
  static inline __m512 set(float x) { return _mm512_set1_ps(x); }
  static inline __m512 load(const float* p) { return _mm512_loadu_ps(p); }
  static inline void store(float* p, __m512 v) { _mm512_storeu_ps(p, v); }
  static inline __m512 add(__m512 a, __m512 b) { return _mm512_add_ps(a, b); }
  static inline __m512 sub(__m512 a, __m512 b) { return _mm512_sub_ps(a, b); }
  static inline __m512 mul(__m512 a, __m512 b) { return _mm512_mul_ps(a, b); }
  static inline __m512 max(__m512 a, __m512 b) { return _mm512_max_ps(a, b); }
  static inline __m512 fmadd(__m512 a, __m512 b, __m512 c) { return _mm512_fmadd_ps(a, b, c); }
  static inline __m512 exp2(__m512 x) { return avx512::exp2(x); }
  static inline __m512 tanh(__m512 x) { return avx512::tanh(x); }
  static inline float first(__m512 v) { return _mm512_cvtss_f32(v); }
  static inline float max_lanes(__m512 v) { return _mm512_reduce_max_ps(v); }
  static inline float sum_lanes(__m512 v) { return _mm512_reduce_add_ps(v); }
  // Lanes [begin, end) of v, the others of `other`. The bounds may lie outside.
  static inline __m512 keep(__m512 v, int64_t begin, int64_t end, __m512 other) {
    return _mm512_mask_blend_ps(lanes_between(begin, end), other, v);
  }
};

template <typename Type>
void attend(const AttentionArgs& args) {
  Blocks<Vector>::attend<Type, F32>(args);
}

}  // namespace

void fill_attention(Kernels& table) {
  table.attention[static_cast<int>(DType::kF32)] = attend<F32>;
  table.attention[static_cast<int>(DType::kF16)] = attend<F16>;
  table.attention[static_cast<int>(DType::kBF16)] = attend<BF16>;
  table.attention[static_cast<int>(DType::kQ8_0)] = attend<Q8_0>;
}

}  // namespace sluice::kernels::avx512
