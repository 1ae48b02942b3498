// Attention (attention_blocks.h) in registers of 16 floats: a vector is one element of the 16 keys of a page, or 16
// elements of a value.
#include "kernels/avx512/exponential.h"
#include "kernels/avx512/fills.h"
#include "kernels/attention_blocks.h"
#include "kernels/quant_blocks.h"

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
    const unsigned from = begin > 0 ? first_lanes(begin) : 0, to = end > 0 ? first_lanes(end) : 0;
    return _mm512_mask_blend_ps(static_cast<__mmask16>(to & ~from), other, v);
  }
};

// `kLoad` makes floats of 16 stored elements of kBytes each.
template <__m512 (*kLoad)(const void*), int kBytes>
struct Plain {
  static constexpr int64_t kKeyStep = kPageSize * kBytes;
  static inline int64_t row_bytes(int64_t n) { return n * kBytes; }
  static inline bool is_in_place(int64_t head_dim) { return head_dim % 16 == 0; }
  struct Keys {
    Keys() = default;
    Keys(const void* page, int64_t) : page(static_cast<const uint8_t*>(page)) {}
    inline void start(int64_t) {}
    inline __m512 load(int64_t d, int) const { return kLoad(page + d * 16 * kBytes); }
    const uint8_t* page;
  };
  template <int kNum>
  static inline void load_values(const uint8_t* row, int64_t d, __m512* out) {
#pragma GCC unroll 4
    for (int i = 0; i < kNum; ++i) out[i] = kLoad(row + (d + i * 16) * kBytes);
  }
};
inline __m512 load_f32(const void* p) { return _mm512_loadu_ps(p); }
inline __m512 load_bf16(const void* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
using F32 = Plain<load_f32, 4>;
using F16 = Plain<load_halves, 2>;
using BF16 = Plain<load_bf16, 2>;

// Scale times integer is exact in f32: 11 bits times 7.
struct Q8_0 {
  static constexpr int64_t kKeyStep = kPageSize;
  static inline int64_t row_bytes(int64_t n) { return n / 32 * static_cast<int64_t>(sizeof(BlockQ8_0)); }
  static inline bool is_in_place(int64_t) { return true; }
  static inline __m512 load_bytes(const void* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))));
  }
  struct Keys {
    Keys() = default;
    Keys(const void* page, int64_t head_dim)
        : page(static_cast<const uint8_t*>(page)), scales(this->page + head_dim * kPageSize) {}
    inline void start(int64_t d) { scale = load_halves(scales + d); }  // 32 bytes for every 32 elements
    inline __m512 load(int64_t d, int) const { return _mm512_mul_ps(load_bytes(page + d * kPageSize), scale); }
    const uint8_t *page, *scales;
    __m512 scale;
  };
  template <int kNum>
  static inline void load_values(const uint8_t* row, int64_t d, __m512* out) {
    __m512 scale;
#pragma GCC unroll 4
    for (int i = 0; i < kNum; ++i) {
      const uint8_t* block = row + (d + i * 16) / 32 * static_cast<int64_t>(sizeof(BlockQ8_0));
      if (i % 2 == 0 || kNum == 1) {
        uint16_t half;
        memcpy(&half, block, 2);
        scale = _mm512_cvtph_ps(_mm256_set1_epi16(static_cast<int16_t>(half)));
      }
      out[i] = _mm512_mul_ps(load_bytes(block + offsetof(BlockQ8_0, qs) + (d + i * 16) % 32), scale);
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

}  // namespace sluice::kernels::avx512
