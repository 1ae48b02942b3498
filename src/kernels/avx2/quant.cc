// Rows from one type to another: weights to f32, f32 to quantised activations and to KV memory. All give the bytes that
// scalar/ gives.
#include "kernels/avx2/decode.h"
#include "kernels/avx2/fills.h"

namespace sluice::kernels::avx2 {
namespace {

template <typename Block>
void dequantize_blocks(const void* row, float* out, int64_t n) {
  using Decode = Decoder<Block>;
  constexpr int kSubs = Decode::kElements / Decode::kSub;
  alignas(32) uint8_t q[Decode::kElements];
  float scales[kSubs], offsets[kSubs];
  const Block* block = static_cast<const Block*>(row);
  for (int64_t i = 0; i < n; i += Decode::kElements, ++block) {
    decode_block(block, q, scales, offsets);
    for (int e = 0; e < Decode::kElements; e += 8) {
      __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(q + e));
      __m256 scale = _mm256_set1_ps(scales[e / Decode::kSub]);
      __m256 value;
      if constexpr (Decode::kSigned) {
        value = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)), scale);
      } else {
        // Both products are exact in 24 bits, so this rounds once, where scalar/ does.
        value = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)), scale,
                                _mm256_set1_ps(offsets[e / Decode::kSub]));
      }
      _mm256_storeu_ps(out + i + e, value);
    }
  }
}

template <__m256 (*kLoad)(const void*), int kBytes>
void dequantize_plain(const void* row, float* out, int64_t n) {
  const auto* from = static_cast<const uint8_t*>(row);
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(out + i, kLoad(from + i * kBytes));
  if (i < n) {
    uint8_t padded[8 * kBytes] = {};
    memcpy(padded, from + i * kBytes, static_cast<size_t>(n - i) * kBytes);
    _mm256_maskstore_ps(out + i, lane_mask(n - i), kLoad(padded));
  }
}

// Block of 32 floats as its largest magnitude (NaNs do not count) and, from that, 32 signed bytes of x * 127 / largest.
struct Rounded {
  float largest;
  __m256i bytes;
};

inline Rounded round_block(const float* x) {
  const __m256 sign_bit = _mm256_set1_ps(-0.0f);
  __m256 v[4], most = _mm256_setzero_ps();
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm256_loadu_ps(x + i * 8);
    most = _mm256_max_ps(_mm256_andnot_ps(sign_bit, v[i]), most);  // a NaN leaves `most` as it is
  }
  Rounded result;
  result.largest = max_lanes(most);
  const __m256 inverse = _mm256_set1_ps(result.largest > 0 ? 127.0f / result.largest : 0.0f);
  const __m256 limit = _mm256_set1_ps(127.0f);
  __m256i words[4];
  for (int i = 0; i < 4; ++i) {
    __m256 scaled = _mm256_mul_ps(v[i], inverse);
    scaled = _mm256_and_ps(scaled, _mm256_cmp_ps(scaled, scaled, _CMP_ORD_Q));  // NaN to 0
    scaled = _mm256_max_ps(_mm256_min_ps(scaled, limit), _mm256_sub_ps(_mm256_setzero_ps(), limit));
    words[i] = _mm256_cvtps_epi32(scaled);
  }
  // The packs work within 128-bit halves: put the groups of four bytes back in order.
  __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32(words[0], words[1]), _mm256_packs_epi32(words[2], words[3]));
  result.bytes = _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  return result;
}

inline int sum_of_16(__m128i bytes) {
  __m128i pairs = _mm_maddubs_epi16(_mm_set1_epi8(1), bytes);
  __m128i fours = _mm_madd_epi16(pairs, _mm_set1_epi16(1));
  fours = _mm_add_epi32(fours, _mm_unpackhi_epi64(fours, fours));
  return _mm_cvtsi128_si32(_mm_add_epi32(fours, _mm_shuffle_epi32(fours, 1)));
}

void quantize_q8_32(const float* x, void* row, int64_t n) {
  BlockQ8_32* block = static_cast<BlockQ8_32*>(row);
  for (int64_t i = 0; i < n; i += 32, ++block) {
    Rounded rounded = round_block(x + i);
    block->scale = rounded.largest / 127.0f;
    const int low_sum = sum_of_16(_mm256_castsi256_si128(rounded.bytes));
    const int sum = low_sum + sum_of_16(_mm256_extracti128_si256(rounded.bytes, 1));
    block->sum = block->scale * static_cast<float>(sum);
    block->low_sum = block->scale * static_cast<float>(low_sum);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(block->qs), rounded.bytes);
  }
}

void store_q8_0(const float* x, void* row, int64_t n) {
  BlockQ8_0* block = static_cast<BlockQ8_0*>(row);
  for (int64_t i = 0; i < n; i += 32, ++block) {
    Rounded rounded = round_block(x + i);
    block->d = float_to_half(rounded.largest / 127.0f);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(block->qs), rounded.bytes);
  }
}

// Finite numbers stay finite, as in scalar/.
void store_f16(const float* x, void* row, int64_t n) {
  auto* to = static_cast<uint8_t*>(row);
  const __m256 most = _mm256_set1_ps(65504.0f), least = _mm256_set1_ps(-65504.0f);
  auto convert = [&](__m256 v) {  // min and max give their second operand when one is NaN
    return _mm256_cvtps_ph(_mm256_max_ps(least, _mm256_min_ps(most, v)), _MM_FROUND_TO_NEAREST_INT);
  };
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i * 2), convert(_mm256_loadu_ps(x + i)));
  if (i < n) {
    alignas(16) uint16_t tail[8];
    _mm_store_si128(reinterpret_cast<__m128i*>(tail), convert(_mm256_maskload_ps(x + i, lane_mask(n - i))));
    memcpy(to + i * 2, tail, static_cast<size_t>(n - i) * 2);
  }
}

inline __m128i to_bf16(__m256 v) {
  __m256i bits = _mm256_castps_si256(v);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  __m256 is_nan = _mm256_cmp_ps(v, v, _CMP_UNORD_Q);
  rounded = _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(rounded), _mm256_castsi256_ps(quiet), is_nan));
  rounded = _mm256_srli_epi32(rounded, 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
}

void store_bf16(const float* x, void* row, int64_t n) {
  auto* to = static_cast<uint8_t*>(row);
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i * 2), to_bf16(_mm256_loadu_ps(x + i)));
  if (i < n) {
    alignas(16) uint16_t tail[8];
    _mm_store_si128(reinterpret_cast<__m128i*>(tail), to_bf16(_mm256_maskload_ps(x + i, lane_mask(n - i))));
    memcpy(to + i * 2, tail, static_cast<size_t>(n - i) * 2);
  }
}

void pair_bf16(const float* x, void* row, int64_t n) {
  store_bf16(x, row, n);
  if (n % 2 != 0) memset(static_cast<uint8_t*>(row) + n * 2, 0, 2);
}

void round_to_bf16(const float* x, void* row, int64_t n) {
  auto* to = static_cast<float*>(row);
  auto round = [](__m256 v) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(to_bf16(v)), 16));
  };
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(to + i, round(_mm256_loadu_ps(x + i)));
  if (i < n) _mm256_maskstore_ps(to + i, lane_mask(n - i), round(_mm256_maskload_ps(x + i, lane_mask(n - i))));
}

}  // namespace

void fill_quant(Kernels& table) {
  auto set = [&](DType type, void (*entry)(const void*, float*, int64_t)) {
    table.dequantize[static_cast<int>(type)] = entry;
  };
  set(DType::kF16, dequantize_plain<load_halves, 2>);
  set(DType::kBF16, dequantize_plain<load_bf16, 2>);
  set(DType::kF8E4M3, dequantize_plain<load_f8, 1>);
  set(DType::kQ4_0, dequantize_blocks<BlockQ4_0>);
  set(DType::kQ4_1, dequantize_blocks<BlockQ4_1>);
  set(DType::kQ5_0, dequantize_blocks<BlockQ5_0>);
  set(DType::kQ5_1, dequantize_blocks<BlockQ5_1>);
  set(DType::kQ8_0, dequantize_blocks<BlockQ8_0>);
  set(DType::kQ2_K, dequantize_blocks<BlockQ2_K>);
  set(DType::kQ3_K, dequantize_blocks<BlockQ3_K>);
  set(DType::kQ4_K, dequantize_blocks<BlockQ4_K>);
  set(DType::kQ5_K, dequantize_blocks<BlockQ5_K>);
  set(DType::kQ6_K, dequantize_blocks<BlockQ6_K>);
  set(DType::kIQ4_NL, dequantize_blocks<BlockIQ4_NL>);
  set(DType::kIQ4_XS, dequantize_blocks<BlockIQ4_XS>);
  table.quantize_activations[static_cast<int>(ActivationFormat::kQ8_32)] = quantize_q8_32;
  table.quantize_activations[static_cast<int>(ActivationFormat::kBF16)] = round_to_bf16;
  table.quantize_activations[static_cast<int>(ActivationFormat::kBF16Pairs)] = pair_bf16;
  table.store_row[static_cast<int>(DType::kF16)] = store_f16;
  table.store_row[static_cast<int>(DType::kBF16)] = store_bf16;
  table.store_row[static_cast<int>(DType::kQ8_0)] = store_q8_0;
}

}  // namespace sluice::kernels::avx2
