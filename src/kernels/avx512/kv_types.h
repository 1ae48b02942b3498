// How keys and values lie in pages, as the KV types that attention_blocks.h asks for, in registers of 16 floats: a
// vector is one element of the 16 keys of a page, or 16 elements of a value. In an unnamed namespace like vector.h.
#pragma once

#include "kernels/avx512/vector.h"
#include "kernels/kernels.h"
#include "kernels/quant_blocks.h"

namespace sluice::kernels::avx512 {
namespace {

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

}  // namespace
}  // namespace sluice::kernels::avx512
