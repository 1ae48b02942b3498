// Packed F32, F16 and F8 weights times f32 activations, and BF16 weights times activations rounded to bf16: a panel of
// floats [inputs][16 outputs] and one chain of fused multiply-adds an output, in the order of inputs.
#include "kernels/avx512/fills.h"
#include "kernels/avx512/strips.h"

namespace sluice::kernels::avx512 {
namespace {

// FP8 E4M3, one in the low byte of each word, as avx2/vector.h has it: exponent and mantissa shifted to their f32
// places; a subnormal is made as 2^-6 * (1 + m / 8) less 2^-6.
inline __m512 f8_to_floats(__m512i wide) {
  const __m512i magnitude = and_bits(wide, 0x7f);
  const __m512i sign = _mm512_slli_epi32(and_bits(wide, 0x80), 24);
  const __mmask16 is_nan = _mm512_cmpeq_epi32_mask(magnitude, _mm512_set1_epi32(0x7f));
  const __mmask16 is_small = _mm512_cmplt_epi32_mask(magnitude, _mm512_set1_epi32(8));
  __m512i bits = _mm512_add_epi32(_mm512_slli_epi32(magnitude, 20), _mm512_set1_epi32(120 << 23));
  bits = _mm512_mask_add_epi32(bits, is_small, bits, _mm512_set1_epi32(1 << 23));
  __m512 value = _mm512_castsi512_ps(bits);
  value = _mm512_mask_sub_ps(value, is_small, value, _mm512_set1_ps(0x1p-6f));
  value = _mm512_mask_blend_ps(is_nan, value, _mm512_set1_ps(NAN));
  return _mm512_or_ps(value, _mm512_castsi512_ps(sign));
}

// What a type makes of a word of 16 rows: its kPerWord elements, as floats.
struct F32 {
  static constexpr DType kType = DType::kF32;
  static constexpr int kPerWord = 1;
  static inline void expand(__m512i word, float* to) { _mm512_store_ps(to, _mm512_castsi512_ps(word)); }
};
struct F16 {
  static constexpr DType kType = DType::kF16;
  static constexpr int kPerWord = 2;
  static inline void expand(__m512i word, float* to) {
    _mm512_store_ps(to, _mm512_cvtph_ps(_mm512_cvtepi32_epi16(word)));
    _mm512_store_ps(to + 16, _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(word, 16))));
  }
};
struct BF16 {
  static constexpr DType kType = DType::kBF16;
  static constexpr int kPerWord = 2;
  static inline void expand(__m512i word, float* to) {
    _mm512_store_ps(to, _mm512_castsi512_ps(_mm512_slli_epi32(word, 16)));
    _mm512_store_ps(to + 16, _mm512_castsi512_ps(and_bits(word, 0xffff0000u)));
  }
};
struct F8 {
  static constexpr DType kType = DType::kF8E4M3;
  static constexpr int kPerWord = 4;
  static inline void expand(__m512i word, float* to) {
    for (int i = 0; i < 4; ++i, word = _mm512_srli_epi32(word, 8))
      _mm512_store_ps(to + i * 16, f8_to_floats(and_bits(word, 0xff)));
  }
};

template <typename Type>
struct Float {
  static constexpr DType kType = Type::kType;
  static constexpr int kStretch = 256;  // a panel of 16 KB
  static constexpr int kMaxRows = 12;

  struct Panel {
    alignas(64) float weights[kStretch * 16];
  };

  static void decode(const MatmulArgs& args, int64_t output, int64_t begin, int64_t count, Panel& panel) {
    const uint8_t* words = find_strip(args, Type::kType, output) + begin / Type::kPerWord * 64;
    for (int64_t i = 0; i < count / Type::kPerWord; ++i) {
      Type::expand(load_512(words + i * 64), panel.weights + i * Type::kPerWord * 16);
    }
  }

  static int64_t activation_offset(int64_t begin) { return begin * 4; }

  template <int kRows, int kStrips>
  static void multiply(const Panel* panels, int64_t count, const uint8_t* activations, int64_t activation_row_bytes,
                       float* output, bool first, Ahead ahead) {
    __m512 sums[kRows][kStrips];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (int s = 0; s < kStrips; ++s) {
        sums[r][s] = first ? _mm512_setzero_ps() : _mm512_load_ps(output + (r * kStrips + s) * kStripRows);
      }
    }
    for (int64_t k = 0; k < count; ++k) {
      if (k % 32 == 0) ahead.fetch<kStrips>();
      __m512 w[kStrips];
#pragma GCC unroll 2
      for (int s = 0; s < kStrips; ++s) w[s] = _mm512_load_ps(panels[s].weights + k * 16);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const __m512 x = _mm512_set1_ps(reinterpret_cast<const float*>(activations + r * activation_row_bytes)[k]);
#pragma GCC unroll 2
        for (int s = 0; s < kStrips; ++s) sums[r][s] = _mm512_fmadd_ps(w[s], x, sums[r][s]);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (int s = 0; s < kStrips; ++s) _mm512_store_ps(output + (r * kStrips + s) * kStripRows, sums[r][s]);
    }
  }
};

template <typename Type>
void set(Kernels& table, ActivationFormat format) {
  table.packed_matmul[static_cast<int>(Type::kType)] = {format, multiply_strips<Float<Type>>};
}

}  // namespace

void fill_matmul_float(Kernels& table) {
  set<F32>(table, ActivationFormat::kF32);
  set<F16>(table, ActivationFormat::kF32);
  set<F8>(table, ActivationFormat::kF32);
  set<BF16>(table, ActivationFormat::kBF16);
}

}  // namespace sluice::kernels::avx512
