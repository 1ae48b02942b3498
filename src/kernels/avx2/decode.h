// Quantised blocks to bytes and f32 scales: the form that products and dequantize go on from. A weight is then
// scale * q + offset, where scale and offset belong to a sub-block of kSub elements; q is unsigned and at most
// kMax, or, where kMax is 127, a signed byte with no offset.
//
// Decoding works byte by byte, never across bytes. So it is written once, as `expand` on registers of packed bytes,
// and serves two layouts: 32 neighbouring bytes of one block (decode_block), or word c of the same 32 bytes of the
// blocks of 8 rows (decode_8_rows, for panels). Transposing packed bytes costs less than transposing decoded ones.
#pragma once

#include "kernels/avx2/vector.h"
#include "kernels/quant_blocks.h"

namespace sluice::kernels::avx2 {
namespace {

inline __m256i load_32(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline void store_32(uint8_t* p, __m256i v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }

inline __m256i low_nibbles(__m256i x) { return _mm256_and_si256(x, _mm256_set1_epi8(15)); }
inline __m256i high_nibbles(__m256i x) { return low_nibbles(_mm256_srli_epi16(x, 4)); }

inline __m256i look_up_iq4(__m256i nibbles) {
  const __m128i values = _mm_loadu_si128(reinterpret_cast<const __m128i*>(kIq4Values));
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(values), nibbles);
}

template <typename Block>
struct Decoder;

// Types with blocks of 32 and one half-float scale.
template <int kLargest, int kZeroPoint>
struct Simple {
  static constexpr int kElements = 32, kSub = 32, kMax = kLargest;
  static constexpr bool kSigned = kLargest == 127, kSimple = true;
  static constexpr int kZero = kZeroPoint;  // offset = -kZero * scale, unless the block has its own in m
  // Packed bytes come in 16s whose low nibbles are elements 0-15 and whose high nibbles are elements 16-31.
  static constexpr bool kNibbles = true;
  static inline __m256i map(__m256i nibbles) { return nibbles; }
};

template <>
struct Decoder<BlockQ4_0> : Simple<15, 8> {};
template <>
struct Decoder<BlockQ4_1> : Simple<15, 0> {};
template <>
struct Decoder<BlockQ5_0> : Simple<31, 16> {};
template <>
struct Decoder<BlockQ5_1> : Simple<31, 0> {};
template <>
struct Decoder<BlockQ8_0> : Simple<127, 0> {
  static constexpr bool kNibbles = false;
};
template <>
struct Decoder<BlockIQ4_NL> : Simple<127, 0> {
  static inline __m256i map(__m256i nibbles) { return look_up_iq4(nibbles); }
};

// Types with blocks of 256. They have kRaw runs of 32 packed bytes: raw(block, i) is where run i lies, and expand
// makes of one register of each run the registers of the sub-blocks of 32 elements, calling store(j, values) for j
// < 8. Scales are decoded for one block (decode_scales) or for those of 8 rows at a time (decode_8_scales), which
// is a good part of the work when the weights are used only once.
template <int kSubElements, int kLargest, int kRuns>
struct Super {
  static constexpr int kElements = 256, kSub = kSubElements, kMax = kLargest, kRaw = kRuns;
  static constexpr bool kSigned = kLargest == 127, kSimple = false, kNibbles = false;
};

// Small integers in bytes, times d.
inline void convert_scales(__m128i bytes, bool is_signed, int count, float d, float* to) {
  for (int i = 0; i < count; i += 8) {
    __m256i words = is_signed ? _mm256_cvtepi8_epi32(bytes) : _mm256_cvtepu8_epi32(bytes);
    _mm256_storeu_ps(to + i, _mm256_mul_ps(_mm256_cvtepi32_ps(words), _mm256_set1_ps(d)));
    bytes = _mm_srli_si128(bytes, 8);
  }
}

// Bits [from, from + count) of each word as a float.
template <int kFrom, int kCount>
inline __m256 bits_to_floats(__m256i words) {
  return _mm256_cvtepi32_ps(
      _mm256_and_si256(_mm256_srli_epi32(words, kFrom), _mm256_set1_epi32((1 << kCount) - 1)));
}

// The lower or upper half of each word, a half float.
inline __m256 low_halves_to_floats(__m256i words) {
  words = _mm256_and_si256(words, _mm256_set1_epi32(0xffff));
  return _mm256_cvtph_ps(_mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
inline __m256 high_halves_to_floats(__m256i words) { return low_halves_to_floats(_mm256_srli_epi32(words, 16)); }

inline __m256 negative(__m256 x) { return _mm256_xor_ps(x, _mm256_set1_ps(-0.0f)); }

// The four bytes of each word: byte b's value times d goes to to[b * stride]. Signed after subtracting kBias.
template <int kBias>
inline void store_byte_scales(__m256i words, __m256 d, float* to, int stride) {
  const __m256 bias = _mm256_set1_ps(static_cast<float>(kBias));
  auto store = [&](int b, __m256 value) {
    _mm256_storeu_ps(to + b * stride, _mm256_mul_ps(kBias == 0 ? value : _mm256_sub_ps(value, bias), d));
  };
  store(0, bits_to_floats<0, 8>(words));
  store(1, bits_to_floats<8, 8>(words));
  store(2, bits_to_floats<16, 8>(words));
  store(3, bits_to_floats<24, 8>(words));
}

inline __m256i and_bits(__m256i x, uint32_t mask) {
  return _mm256_and_si256(x, _mm256_set1_epi32(static_cast<int>(mask)));
}

// Q4_K and Q5_K begin with d, dmin and the 12 bytes: four words.
inline void decode_8_scales_k4(const uint8_t* const* rows, float* scales, float* offsets, int stride) {
  __m256i w[4];
  transpose_8x4(rows, 0, w);
  const __m256 d = low_halves_to_floats(w[0]), dmin = negative(high_halves_to_floats(w[0]));
  __m256i top_scales = and_bits(_mm256_srli_epi32(w[1], 2), 0x30303030u);
  __m256i top_minima = and_bits(_mm256_srli_epi32(w[2], 2), 0x30303030u);
  store_byte_scales<0>(and_bits(w[1], 0x3f3f3f3fu), d, scales, stride);
  store_byte_scales<0>(_mm256_or_si256(and_bits(w[3], 0x0f0f0f0fu), top_scales), d, scales + 4 * stride, stride);
  store_byte_scales<0>(and_bits(w[2], 0x3f3f3f3fu), dmin, offsets, stride);
  store_byte_scales<0>(_mm256_or_si256(and_bits(_mm256_srli_epi32(w[3], 4), 0x0f0f0f0fu), top_minima), dmin,
                       offsets + 4 * stride, stride);
}

template <typename Read>
inline __m256 gather_halves(Read read) {
  return _mm256_cvtph_ps(_mm_setr_epi16(read(0), read(1), read(2), read(3), read(4), read(5), read(6), read(7)));
}

// The half float `offset` bytes into each row.
inline __m256 gather_halves_at(const uint8_t* const* rows, size_t offset) {
  return gather_halves([&](int i) {
    int16_t half;
    memcpy(&half, rows[i] + offset, 2);
    return half;
  });
}

// The 12 bytes of Q4_K and Q5_K: four bytes at a time of what scalar/quant.cc unpacks one by one.
template <typename Block>
inline void decode_scales_k4(const Block* block, float* scales, float* offsets) {
  uint32_t s[3];
  memcpy(s, block->scales, 12);
  const uint64_t scales_high = (s[2] & 0x0f0f0f0fu) | (s[0] >> 2 & 0x30303030u);
  const uint64_t minima_high = (s[2] >> 4 & 0x0f0f0f0fu) | (s[1] >> 2 & 0x30303030u);
  const uint64_t packed_scales = scales_high << 32 | (s[0] & 0x3f3f3f3fu);
  const uint64_t packed_minima = minima_high << 32 | (s[1] & 0x3f3f3f3fu);
  convert_scales(_mm_cvtsi64_si128(static_cast<int64_t>(packed_scales)), false, 8, half_to_float(block->d), scales);
  convert_scales(_mm_cvtsi64_si128(static_cast<int64_t>(packed_minima)), false, 8, -half_to_float(block->dmin),
                 offsets);
}

template <>
struct Decoder<BlockQ4_K> : Super<32, 15, 4> {
  static inline const uint8_t* raw(const BlockQ4_K* block, int i) { return block->qs + i * 32; }
  static inline void decode_scales(const BlockQ4_K* block, float* scales, float* offsets) {
    decode_scales_k4(block, scales, offsets);
  }
  static inline void decode_8_scales(const uint8_t* const* rows, float* scales, float* offsets, int stride) {
    decode_8_scales_k4(rows, scales, offsets, stride);
  }
  template <typename Store>
  static inline void expand(const __m256i* raw, Store store) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      store(2 * j, low_nibbles(raw[j]));
      store(2 * j + 1, high_nibbles(raw[j]));
    }
  }
};

template <>
struct Decoder<BlockQ5_K> : Super<32, 31, 5> {
  static inline const uint8_t* raw(const BlockQ5_K* block, int i) { return i < 4 ? block->qs + i * 32 : block->qh; }
  static inline void decode_scales(const BlockQ5_K* block, float* scales, float* offsets) {
    decode_scales_k4(block, scales, offsets);
  }
  static inline void decode_8_scales(const uint8_t* const* rows, float* scales, float* offsets, int stride) {
    decode_8_scales_k4(rows, scales, offsets, stride);
  }
  template <typename Store>
  static inline void expand(const __m256i* raw, Store store) {
    const __m256i fifth = _mm256_set1_epi8(16);
    __m256i high = raw[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      // Bits 2j and 2j + 1 of each byte go to bit 4; what 16-bit shifts carry across bytes is masked away.
      store(2 * j, _mm256_or_si256(low_nibbles(raw[j]), _mm256_and_si256(_mm256_slli_epi16(high, 4), fifth)));
      store(2 * j + 1, _mm256_or_si256(high_nibbles(raw[j]), _mm256_and_si256(_mm256_slli_epi16(high, 3), fifth)));
      high = _mm256_srli_epi16(high, 2);
    }
  }
};

template <>
struct Decoder<BlockQ2_K> : Super<16, 3, 2> {
  static inline const uint8_t* raw(const BlockQ2_K* block, int i) { return block->qs + i * 32; }
  static inline void decode_scales(const BlockQ2_K* block, float* scales, float* offsets) {
    __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block->scales));
    const __m128i nibble = _mm_set1_epi8(15);
    convert_scales(_mm_and_si128(packed, nibble), false, 16, half_to_float(block->d), scales);
    convert_scales(_mm_and_si128(_mm_srli_epi16(packed, 4), nibble), false, 16, -half_to_float(block->dmin), offsets);
  }
  static inline void decode_8_scales(const uint8_t* const* rows, float* scales, float* offsets, int stride) {
    const __m256 d = gather_halves_at(rows, offsetof(BlockQ2_K, d));
    const __m256 dmin = negative(gather_halves_at(rows, offsetof(BlockQ2_K, dmin)));
    __m256i w[4];
    transpose_8x4(rows, 0, w);
    for (int i = 0; i < 4; ++i) {
      store_byte_scales<0>(low_nibbles(w[i]), d, scales + 4 * i * stride, stride);
      store_byte_scales<0>(high_nibbles(w[i]), dmin, offsets + 4 * i * stride, stride);
    }
  }
  template <typename Store>
  static inline void expand(const __m256i* raw, Store store) {
    const __m256i low = _mm256_set1_epi8(3);
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      __m256i x = raw[half];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        store(half * 4 + j, _mm256_and_si256(x, low));
        x = _mm256_srli_epi16(x, 2);
      }
    }
  }
};

template <>
struct Decoder<BlockQ3_K> : Super<16, 7, 3> {
  static inline const uint8_t* raw(const BlockQ3_K* block, int i) { return i < 2 ? block->qs + i * 32 : block->hmask; }
  static inline void decode_scales(const BlockQ3_K* block, float* scales, float* offsets) {
    uint32_t s[3];
    memcpy(s, block->scales, 12);
    const uint32_t nibble = 0x0f0f0f0fu, two = 0x30303030u;
    auto word = [](uint32_t bits) { return static_cast<int>(bits); };
    __m128i small = _mm_setr_epi32(word((s[0] & nibble) | (s[2] << 4 & two)), word((s[1] & nibble) | (s[2] << 2 & two)),
                                   word((s[0] >> 4 & nibble) | (s[2] & two)),
                                   word((s[1] >> 4 & nibble) | (s[2] >> 2 & two)));
    small = _mm_sub_epi8(small, _mm_set1_epi8(32));
    const float d = half_to_float(block->d);
    convert_scales(small, true, 16, d, scales);
    convert_scales(small, true, 16, -4.0f * d, offsets);
  }
  static inline void decode_8_scales(const uint8_t* const* rows, float* scales, float* offsets, int stride) {
    // The last 16 bytes of the block: two of qs, the 12 and d.
    __m256i w[4], s[3];
    transpose_8x4(rows, sizeof(BlockQ3_K) - 16, w);
    for (int i = 0; i < 3; ++i) s[i] = _mm256_or_si256(_mm256_srli_epi32(w[i], 16), _mm256_slli_epi32(w[i + 1], 16));
    const __m256 d = high_halves_to_floats(w[3]), zero = _mm256_mul_ps(d, _mm256_set1_ps(-4.0f));
    const uint32_t two = 0x30303030u;
    const __m256i words[4] = {_mm256_or_si256(low_nibbles(s[0]), and_bits(_mm256_slli_epi32(s[2], 4), two)),
                              _mm256_or_si256(low_nibbles(s[1]), and_bits(_mm256_slli_epi32(s[2], 2), two)),
                              _mm256_or_si256(high_nibbles(s[0]), and_bits(s[2], two)),
                              _mm256_or_si256(high_nibbles(s[1]), and_bits(_mm256_srli_epi32(s[2], 2), two))};
    for (int i = 0; i < 4; ++i) {
      store_byte_scales<32>(words[i], d, scales + 4 * i * stride, stride);
      store_byte_scales<32>(words[i], zero, offsets + 4 * i * stride, stride);
    }
  }
  template <typename Store>
  static inline void expand(const __m256i* raw, Store store) {
    const __m256i low = _mm256_set1_epi8(3), third = _mm256_set1_epi8(4);
    __m256i mask = raw[2];
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      __m256i x = raw[half];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        __m256i bit = _mm256_and_si256(_mm256_slli_epi16(mask, 2), third);
        store(half * 4 + j, _mm256_or_si256(_mm256_and_si256(x, low), bit));
        x = _mm256_srli_epi16(x, 2);
        mask = _mm256_srli_epi16(mask, 1);
      }
    }
  }
};

template <>
struct Decoder<BlockQ6_K> : Super<16, 63, 6> {
  static inline const uint8_t* raw(const BlockQ6_K* block, int i) {
    return i < 4 ? block->ql + i * 32 : block->qh + (i - 4) * 32;
  }
  static inline void decode_scales(const BlockQ6_K* block, float* scales, float* offsets) {
    __m128i small = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block->scales));
    const float d = half_to_float(block->d);
    convert_scales(small, true, 16, d, scales);
    convert_scales(small, true, 16, -32.0f * d, offsets);
  }
  static inline void decode_8_scales(const uint8_t* const* rows, float* scales, float* offsets, int stride) {
    const __m256 d = gather_halves_at(rows, offsetof(BlockQ6_K, d)), zero = _mm256_mul_ps(d, _mm256_set1_ps(-32.0f));
    __m256i w[4];
    transpose_8x4(rows, offsetof(BlockQ6_K, scales), w);
    for (int i = 0; i < 4; ++i) {
      // Signed bytes plus 128, which the bias takes off again.
      __m256i shifted = _mm256_xor_si256(w[i], _mm256_set1_epi8(-128));
      store_byte_scales<128>(shifted, d, scales + 4 * i * stride, stride);
      store_byte_scales<128>(shifted, zero, offsets + 4 * i * stride, stride);
    }
  }
  template <typename Store>
  static inline void expand(const __m256i* raw, Store store) {
    auto top = [](__m256i bits) { return _mm256_and_si256(bits, _mm256_set1_epi8(0x30)); };
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      __m256i a = raw[2 * half], b = raw[2 * half + 1], h = raw[4 + half];
      store(half * 4, _mm256_or_si256(low_nibbles(a), top(_mm256_slli_epi16(h, 4))));
      store(half * 4 + 1, _mm256_or_si256(low_nibbles(b), top(_mm256_slli_epi16(h, 2))));
      store(half * 4 + 2, _mm256_or_si256(high_nibbles(a), top(h)));
      store(half * 4 + 3, _mm256_or_si256(high_nibbles(b), top(_mm256_srli_epi16(h, 2))));
    }
  }
};

// IQ4_XS packs as the simple types do, 16 bytes a sub-block.
template <>
struct Decoder<BlockIQ4_XS> : Super<32, 127, 0> {
  static constexpr bool kNibbles = true;
  static inline __m256i map(__m256i nibbles) { return look_up_iq4(nibbles); }
  static inline void decode_scales(const BlockIQ4_XS* block, float* scales, float* offsets) {
    const float d = half_to_float(block->d);
    const uint32_t high = block->scales_h;
    for (int j = 0; j < 8; ++j) {
      int low = block->scales_l[j / 2] >> (4 * (j % 2)) & 15;
      scales[j] = d * static_cast<float>((low | static_cast<int>(high >> (2 * j) & 3) << 4) - 32);
      offsets[j] = 0;
    }
  }
  static inline void decode_8_scales(const uint8_t* const* rows, float* scales, float*, int stride) {
    __m256i w[4];  // d and scales_h, scales_l, and 8 bytes of qs
    transpose_8x4(rows, 0, w);
    const __m256 d = low_halves_to_floats(w[0]);
    const __m256i high = _mm256_srli_epi32(w[0], 16);
    for (int j = 0; j < 8; ++j) {
      __m256i low_bits = and_bits(_mm256_srl_epi32(w[1], _mm_cvtsi32_si128(4 * j)), 15);
      __m256i high_bits = and_bits(_mm256_srl_epi32(high, _mm_cvtsi32_si128(2 * j)), 3);
      __m256i scale = _mm256_or_si256(low_bits, _mm256_slli_epi32(high_bits, 4));
      scale = _mm256_sub_epi32(scale, _mm256_set1_epi32(32));
      _mm256_storeu_ps(scales + j * stride, _mm256_mul_ps(_mm256_cvtepi32_ps(scale), d));
    }
  }
};

template <typename Block>
constexpr bool kHasFifthBits = requires(Block block) { block.qh[3]; } && Decoder<Block>::kSimple;

// Bits 4c to 4c + 3 of each word to bit 4 of its bytes.
inline __m256i spread_4_bits(__m256i words, int c) {
  __m256i x = _mm256_and_si256(_mm256_srl_epi32(words, _mm_cvtsi32_si128(4 * c)), _mm256_set1_epi32(15));
  x = _mm256_or_si256(x, _mm256_slli_epi32(x, 14));
  x = _mm256_or_si256(x, _mm256_slli_epi32(x, 7));
  return _mm256_slli_epi32(_mm256_and_si256(x, _mm256_set1_epi32(0x01010101)), 4);
}

// One block in element order: q[kElements], scales and offsets [kElements / kSub].
template <typename Block>
inline void decode_block(const Block* block, uint8_t* q, float* scales, float* offsets) {
  using Decode = Decoder<Block>;
  if constexpr (Decode::kSimple) {
    scales[0] = half_to_float(block->d);
    if constexpr (requires { block->m; }) offsets[0] = half_to_float(block->m);
    else offsets[0] = static_cast<float>(-Decode::kZero) * scales[0];
  } else {
    Decode::decode_scales(block, scales, offsets);
  }
  if constexpr (Decode::kNibbles) {
    for (int j = 0; j < Decode::kElements / 32; ++j) {
      __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block->qs + j * 16));
      __m256i twice = _mm256_broadcastsi128_si256(packed);
      __m256i nibbles = _mm256_blend_epi32(low_nibbles(twice), high_nibbles(twice), 0xf0);
      if constexpr (kHasFifthBits<Block>) {
        int32_t bits;
        memcpy(&bits, block->qh, 4);
        // Word c of the 8 wants bits 4c to 4c + 3.
        __m256i words = _mm256_srlv_epi32(_mm256_set1_epi32(bits), _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
        nibbles = _mm256_or_si256(nibbles, spread_4_bits(words, 0));
      }
      store_32(q + j * 32, Decode::map(nibbles));
    }
  } else if constexpr (Decode::kSimple) {
    store_32(q, load_32(block->qs));
  } else {
    __m256i raw[Decode::kRaw];
    for (int i = 0; i < Decode::kRaw; ++i) raw[i] = load_32(Decode::raw(block, i));
    Decode::expand(raw, [&](int j, __m256i v) { store_32(q + j * 32, v); });
  }
}

// The block at each of 8 rows, transposed: store(w, v) gets elements 4w to 4w + 3 of all rows, and scales and offsets
// of sub-block s go to 8 floats at s * stride.
template <typename Block, typename Store>
inline void decode_8_rows(const uint8_t* const* rows, float* scales, float* offsets, int stride, Store store) {
  using Decode = Decoder<Block>;
  auto block = [&](int i) { return reinterpret_cast<const Block*>(rows[i]); };
  if constexpr (Decode::kSimple) {
    __m256 d = gather_halves([&](int i) { return static_cast<int16_t>(block(i)->d); });
    _mm256_storeu_ps(scales, d);
    if constexpr (requires(Block b) { b.m; }) {
      _mm256_storeu_ps(offsets, gather_halves([&](int i) { return static_cast<int16_t>(block(i)->m); }));
    } else if constexpr (!Decode::kSigned) {
      _mm256_storeu_ps(offsets, _mm256_mul_ps(d, _mm256_set1_ps(static_cast<float>(-Decode::kZero))));
    }
  } else {
    Decode::decode_8_scales(rows, scales, offsets, stride);
  }

  if constexpr (Decode::kNibbles) {
    __m256i fifth = _mm256_setzero_si256();
    if constexpr (kHasFifthBits<Block>) {
      auto bits = [&](int i) {
        int32_t word;
        memcpy(&word, block(i)->qh, 4);
        return word;
      };
      fifth = _mm256_setr_epi32(bits(0), bits(1), bits(2), bits(3), bits(4), bits(5), bits(6), bits(7));
    }
    for (int j = 0; j < Decode::kElements / 32; ++j) {
      __m256i packed[4];
      transpose_8x4(rows, offsetof(Block, qs) + static_cast<size_t>(j) * 16, packed);
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) {
        __m256i low = low_nibbles(packed[c]), high = high_nibbles(packed[c]);
        if constexpr (kHasFifthBits<Block>) {
          low = _mm256_or_si256(low, spread_4_bits(fifth, c));
          high = _mm256_or_si256(high, spread_4_bits(fifth, c + 4));
        }
        store(j * 8 + c, Decode::map(low));
        store(j * 8 + c + 4, Decode::map(high));
      }
    }
  } else if constexpr (Decode::kSimple) {
    __m256i words[8];
    transpose_8x8(rows, offsetof(Block, qs), words);
    for (int c = 0; c < 8; ++c) store(c, words[c]);
  } else {
    alignas(32) __m256i runs[Decode::kRaw][8];
    for (int i = 0; i < Decode::kRaw; ++i) {
      const auto offset = Decode::raw(block(0), i) - rows[0];
      transpose_8x8(rows, static_cast<size_t>(offset), runs[i]);
    }
#pragma GCC unroll 8
    for (int c = 0; c < 8; ++c) {
      __m256i raw[Decode::kRaw];
#pragma GCC unroll 8
      for (int i = 0; i < Decode::kRaw; ++i) raw[i] = runs[i][c];
      Decode::expand(raw, [&](int j, __m256i v) { store(j * 8 + c, v); });
    }
  }
}

}  // namespace
}  // namespace sluice::kernels::avx2
