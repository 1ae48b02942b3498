// Packed strips (pack.h) to tiles of bf16: for 32 inputs of 16 outputs a tile whose row i holds inputs 2i and 2i + 1 of
// every output, which is what a product of tiles takes on its right side.
//
// A Stage is what lies between: it loads a stretch of up to kPanelInputs inputs of one strip, then makes tiles of it
// one at a time, so that this work can go on between products. Inputs past the end of a row are zero in the tiles.
//
//   kType
//   load(args, strip, begin, count)   begin is a multiple of kPanelInputs
//   expand(index, tile)               inputs [32 * index, 32 * index + 32) of the stretch
//
// Expanding is what a product with few rows spends its time on: for 64 weights of a quantised type 16 vector
// instructions, of which the processor starts two a cycle, besides decoding them to bytes.
#pragma once

#include "kernels/amx/bf16.h"
#include "kernels/amx/tile.h"
#include "kernels/avx512/decode.h"
#include "kernels/kernels.h"

namespace sluice::kernels::amx {
namespace {

using avx512::and_bits;
using avx512::and_or;
using avx512::load_512;

constexpr int64_t kPanelInputs = 256;

// Bits of a code as decode.h leaves it in a byte.
template <typename Block>
constexpr int kCodeBits = 8;
template <>
constexpr int kCodeBits<BlockQ2_K> = 2;
template <>
constexpr int kCodeBits<BlockQ3_K> = 3;
template <>
constexpr int kCodeBits<BlockQ4_0> = 4;
template <>
constexpr int kCodeBits<BlockQ4_1> = 4;
template <>
constexpr int kCodeBits<BlockQ4_K> = 4;
template <>
constexpr int kCodeBits<BlockQ5_0> = 5;
template <>
constexpr int kCodeBits<BlockQ5_1> = 5;
template <>
constexpr int kCodeBits<BlockQ5_K> = 5;
template <>
constexpr int kCodeBits<BlockQ6_K> = 6;

// scale * q + offset for codes q that lie kShift bits up in a word. Put under the exponent of 1.0 the code makes the
// float 1 + q * 2^(kShift - 23) without a conversion, and one multiply-add takes away the 1 again. The offset of that
// is rounded, which moves all weights of a sub-block by up to scale * 2^(-1 - kShift): with kShift at least
// 15 - kCodeBits this is below what bf16 rounds away of most weights.
template <int kShift, int kBits>
struct Placed {
  __m512 scale, offset;

  Placed(__m512 unit_scale, __m512 unit_offset)
      : scale(_mm512_mul_ps(unit_scale, _mm512_set1_ps(static_cast<float>(1 << (23 - kShift))))),
        offset(_mm512_sub_ps(unit_offset, scale)) {}

  inline __m512 to_float(__m512i words) const {
    constexpr uint32_t kMask = ((1u << kBits) - 1) << kShift;
    return _mm512_fmadd_ps(_mm512_castsi512_ps(and_or(words, kMask, _mm512_set1_epi32(0x3f800000))), scale, offset);
  }
};

template <typename Block>
struct Quantised {
  using Decoder = avx512::Decoder<Block>;
  static constexpr DType kType = Decoder::kType;
  static constexpr int kSub = Decoder::kSub;
  static constexpr PackedLayout kLayout = get_packed_layout(kType);

  alignas(64) uint8_t q[kPanelInputs * kStripRows];
  alignas(64) float scales[kPanelInputs / kSub * kStripRows];
  alignas(64) float offsets[kPanelInputs / kSub * kStripRows];

  void load(const MatmulArgs& args, const uint8_t* strip, int64_t begin, int64_t count) {
    constexpr int kElements = kLayout.block_elements;
    constexpr int64_t kWordBytes = kLayout.num_words * 64, kHalfBytes = kLayout.num_halves * 32;
    const uint8_t* words = strip + packed_half_bytes(kType, args.num_inputs) + begin / kElements * kWordBytes;
    const uint8_t* halves = strip + begin / kElements * kHalfBytes;
    avx512::Decoded to = {q, scales, offsets};
    for (int64_t b = 0; b < count / kElements; ++b) {
      Decoder::decode(words, halves, to);
      words += kWordBytes;
      halves += kHalfBytes;
      to.q += kElements * kStripRows;
      to.scales += kElements / kSub * kStripRows;
      to.offsets += kElements / kSub * kStripRows;
    }
  }

  void expand(int64_t index, uint8_t* tile) const {
    constexpr int kBits = kCodeBits<Block>, kLow = 15 - kBits;
    const uint8_t* line = q + index * kTileInputs * kStripRows;
    for (int64_t sub = 0; sub < kTileInputs / kSub; ++sub) {
      const int64_t at = (index * (kTileInputs / kSub) + sub) * kStripRows;
      const __m512 scale = _mm512_load_ps(scales + at);
      __m512 offset = _mm512_load_ps(offsets + at);
      if (kSub == 16 && sub == 0) {  // kept less that of the other half, see put_scale_pair()
        offset = _mm512_add_ps(offset, _mm512_load_ps(offsets + at + kStripRows));
      }
      const Placed<kLow, kBits> low(scale, offset);
      const Placed<kLow + 8, kBits> high(scale, offset);
      for (int i = 0; i < kSub / 4; ++i, line += 64, tile += 128) {
        const __m512i words = _mm512_load_si512(line);
        const __m512i first = _mm512_slli_epi32(words, kLow), second = _mm512_srli_epi32(words, 16 - kLow);
        _mm512_store_si512(tile, round_pairs(low.to_float(first), high.to_float(first)));
        _mm512_store_si512(tile + 64, round_pairs(low.to_float(second), high.to_float(second)));
      }
    }
  }
};

// Words of a strip that are expanded straight from memory: kPerWord inputs in each.
template <DType type, int kPerWord>
struct Words {
  static constexpr DType kType = type;

  const uint8_t* words;
  int64_t count;  // of words a row

  void load(const MatmulArgs&, const uint8_t* strip, int64_t begin, int64_t num_inputs) {
    words = strip + begin / kPerWord * 64;
    count = num_inputs / kPerWord;
  }
  // Line `i` of a tile's 32 / kPerWord lines.
  inline __m512i get(int64_t index, int64_t i) const {
    const int64_t at = index * (kTileInputs / kPerWord) + i;
    return at < count ? load_512(words + at * 64) : _mm512_setzero_si512();
  }
};

struct BF16 : Words<DType::kBF16, 2> {
  void expand(int64_t index, uint8_t* tile) const {
    for (int i = 0; i < kTileRows; ++i) _mm512_store_si512(tile + i * 64, get(index, i));
  }
};

struct F8 : Words<DType::kF8E4M3, 4> {
  // FP8 E4M3 in the low byte of each 16 bits. Exact: exponent and mantissa move to their places; subnormals, of which
  // there are eight, come from a table.
  static inline __m512i to_bf16(__m512i bytes) {
    const __m512i subnormals =
        _mm512_castsi128_si512(_mm_setr_epi16(0, 0x3b00, 0x3b80, 0x3bc0, 0x3c00, 0x3c20, 0x3c40, 0x3c60));
    const __m512i magnitude = _mm512_and_si512(_mm512_slli_epi16(bytes, 4), _mm512_set1_epi16(0x07f0));
    const __mmask32 is_small = _mm512_cmplt_epu16_mask(magnitude, _mm512_set1_epi16(0x80));
    const __mmask32 is_nan = _mm512_cmpeq_epi16_mask(magnitude, _mm512_set1_epi16(0x07f0));
    __m512i value = _mm512_add_epi16(magnitude, _mm512_set1_epi16(120 << 7));
    value = _mm512_mask_permutexvar_epi16(value, is_small, bytes, subnormals);
    value = _mm512_mask_blend_epi16(is_nan, value, _mm512_set1_epi16(0x7fc0));
    return and_or(_mm512_slli_epi16(bytes, 8), 0x80008000u, value);
  }

  void expand(int64_t index, uint8_t* tile) const {
    const __m512i first = _mm512_broadcast_i32x4(  // bytes 0 and 1 of each word, a zero above each
        _mm_setr_epi8(0, -128, 1, -128, 4, -128, 5, -128, 8, -128, 9, -128, 12, -128, 13, -128));
    const __m512i second = _mm512_add_epi8(first, _mm512_set1_epi32(0x00020002));
    for (int i = 0; i < kTileRows / 2; ++i) {
      const __m512i words = get(index, i);
      _mm512_store_si512(tile + i * 128, to_bf16(_mm512_shuffle_epi8(words, first)));
      _mm512_store_si512(tile + i * 128 + 64, to_bf16(_mm512_shuffle_epi8(words, second)));
    }
  }
};

}  // namespace
}  // namespace sluice::kernels::amx
