// Attention (attention_blocks.h) in registers of 8 floats: a vector is one element of half the keys of a page, or 8
// elements of a value.
#include "kernels/attention_blocks.h"
#include "kernels/avx2/fills.h"
#include "kernels/avx2/vector.h"
#include "kernels/quant_blocks.h"

namespace sluice::kernels::avx2 {
namespace {

// 2^x within 2 units in the last place: x = n + r, |r| <= 1/2, a polynomial of degree 5 in r (least largest relative
// error, 1 at r = 0), times 2^n. Exactly 0 below -126; NaN stays NaN. REQUIRES: x < 128.
inline __m256 exp2(__m256 x) {
  const __m256 lowest = _mm256_set1_ps(-126.0f);
  const __m256 is_zero = _mm256_cmp_ps(x, lowest, _CMP_LT_OQ);
  x = _mm256_max_ps(lowest, x);  // the second operand when one is NaN
  const __m256 n = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m256 r = _mm256_sub_ps(x, n);
  __m256 p = _mm256_set1_ps(1.326472848e-3f);
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(9.671513923e-3f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(5.550733581e-2f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(2.402224243e-1f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(6.931470037e-1f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
  const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_andnot_ps(is_zero, _mm256_mul_ps(p, _mm256_castsi256_ps(power)));
}

struct Vector {
  using Floats = __m256;
  static constexpr int kLanes = 8;
  static constexpr int kRows = 4;  // times two vectors: 8 sums and their operands

  static inline __m256 zero() { return _mm256_setzero_ps(); }
  static inline __m256 set(float x) { return _mm256_set1_ps(x); }
  static inline __m256 load(const float* p) { return _mm256_loadu_ps(p); }
  static inline void store(float* p, __m256 v) { _mm256_storeu_ps(p, v); }
  static inline __m256 add(__m256 a, __m256 b) { return _mm256_add_ps(a, b); }
  static inline __m256 sub(__m256 a, __m256 b) { return _mm256_sub_ps(a, b); }
  static inline __m256 mul(__m256 a, __m256 b) { return _mm256_mul_ps(a, b); }
  static inline __m256 max(__m256 a, __m256 b) { return _mm256_max_ps(a, b); }
  static inline __m256 fmadd(__m256 a, __m256 b, __m256 c) { return _mm256_fmadd_ps(a, b, c); }
  static inline __m256 exp2(__m256 x) { return avx2::exp2(x); }
  static inline __m256 tanh(__m256 x) { return avx2::tanh(x); }
  static inline float first(__m256 v) { return _mm256_cvtss_f32(v); }
  static inline float max_lanes(__m256 v) { return avx2::max_lanes(v); }
  static inline float sum_lanes(__m256 v) { return avx2::sum_lanes(v); }
  // Lanes [begin, end) of v, the others of `other`. The bounds may lie outside.
  static inline __m256 keep(__m256 v, int64_t begin, int64_t end, __m256 other) {
    const __m256i kept = _mm256_andnot_si256(lane_mask(begin), lane_mask(end));
    return _mm256_blendv_ps(other, v, _mm256_castsi256_ps(kept));
  }
};

// `kLoad` makes floats of 8 stored elements of kBytes each.
template <__m256 (*kLoad)(const void*), int kBytes>
struct Plain {
  static constexpr int64_t kKeyStep = kPageSize * kBytes;
  static inline int64_t row_bytes(int64_t n) { return n * kBytes; }
  static inline bool is_in_place(int64_t head_dim) { return head_dim % 8 == 0; }
  struct Keys {
    Keys() = default;
    Keys(const void* page, int64_t) : page(static_cast<const uint8_t*>(page)) {}
    inline void start(int64_t) {}
    inline __m256 load(int64_t d, int part) const { return kLoad(page + (d * 16 + part * 8) * kBytes); }
    const uint8_t* page;
  };
  template <int kNum>
  static inline void load_values(const uint8_t* row, int64_t d, __m256* out) {
#pragma GCC unroll 4
    for (int i = 0; i < kNum; ++i) out[i] = kLoad(row + (d + i * 8) * kBytes);
  }
};
inline __m256 load_f32(const void* p) { return _mm256_loadu_ps(static_cast<const float*>(p)); }
using F32 = Plain<load_f32, 4>;
using F16 = Plain<load_halves, 2>;
using BF16 = Plain<load_bf16, 2>;

// Scale times integer is exact in f32: 11 bits times 7.
struct Q8_0 {
  static constexpr int64_t kKeyStep = kPageSize;
  static inline int64_t row_bytes(int64_t n) { return n / 32 * static_cast<int64_t>(sizeof(BlockQ8_0)); }
  static inline bool is_in_place(int64_t) { return true; }
  static inline __m256 load_bytes(const void* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p))));
  }
  struct Keys {
    Keys() = default;
    Keys(const void* page, int64_t head_dim)
        : page(static_cast<const uint8_t*>(page)), scales(this->page + head_dim * kPageSize) {}
    inline void start(int64_t d) {  // 32 bytes for every 32 elements
      scale[0] = load_halves(scales + d);
      scale[1] = load_halves(scales + d + 16);
    }
    inline __m256 load(int64_t d, int part) const {
      return _mm256_mul_ps(load_bytes(page + d * kPageSize + part * 8), scale[part]);
    }
    const uint8_t *page, *scales;
    __m256 scale[2];
  };
  template <int kNum>
  static inline void load_values(const uint8_t* row, int64_t d, __m256* out) {
#pragma GCC unroll 4
    for (int i = 0; i < kNum; ++i) {
      const uint8_t* block = row + (d + i * 8) / 32 * static_cast<int64_t>(sizeof(BlockQ8_0));
      uint16_t half;
      memcpy(&half, block, 2);
      const __m256 scale = _mm256_cvtph_ps(_mm_set1_epi16(static_cast<int16_t>(half)));
      out[i] = _mm256_mul_ps(load_bytes(block + offsetof(BlockQ8_0, qs) + (d + i * 8) % 32), scale);
    }
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

}  // namespace sluice::kernels::avx2
