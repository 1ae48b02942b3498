// Packed strips (pack.h) to panels: unsigned bytes and f32 scales of 16 rows side by side. A weight is then
// scale * q + offset, where scale and offset belong to one row and one sub-block of kSub elements.
//
// A word of a strip has the same four bytes of 16 rows, so decoding is the scalar code of scalar/quant.cc on 16 rows at
// once, and no shuffle is needed: a panel line holds elements 4g to 4g + 3 of each row, the operand of vpdpbusd and,
// widened, of a bf16 tile.
#pragma once

#include "kernels/avx512/vector.h"
#include "kernels/pack.h"
#include "kernels/quant_blocks.h"

namespace sluice::kernels::avx512 {
namespace {

// What a block is decoded to. q has a line of 64 bytes for every four elements; scales and offsets have 16 floats for
// each sub-block.
struct Decoded {
  uint8_t* q;
  float* scales;
  float* offsets;

  void put(int group, __m512i v) const { _mm512_store_si512(q + group * 64, v); }
  void put_scale(int sub, __m512 scale, __m512 offset) const {
    _mm512_store_ps(scales + sub * 16, scale);
    _mm512_store_ps(offsets + sub * 16, offset);
  }
};

// Word `index` of a block, all 16 rows.
inline __m512i word(const uint8_t* words, int index) { return load_512(words + index * 64); }

inline __m512i low_nibbles(__m512i x) { return and_bits(x, 0x0f0f0f0fu); }
inline __m512i high_nibbles(__m512i x) { return and_bits(_mm512_srli_epi32(x, 4), 0x0f0f0f0fu); }

// Byte b of each word as a float.
template <int kByte>
inline __m512 byte_to_float(__m512i words) {
  __m512i value = kByte == 3 ? _mm512_srli_epi32(words, 24) : and_bits(_mm512_srli_epi32(words, kByte * 8), 0xff);
  return _mm512_cvtepi32_ps(value);
}
template <int kByte>
inline __m512 signed_byte_to_float(__m512i words) {
  return _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(words, 24 - kByte * 8), 24));
}

// IQ4 levels + 128, which makes them unsigned.
inline __m512i look_up_iq4(__m512i nibbles) {
  const __m128i values = _mm_loadu_si128(reinterpret_cast<const __m128i*>(kIq4Values));
  const __m128i raised = _mm_xor_si128(values, _mm_set1_epi8(static_cast<char>(0x80)));
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(raised), nibbles);
}

template <typename Block>
struct Decoder;

// 16 bytes of each row whose low nibbles are elements 0-15 and whose high nibbles are elements 16-31.
inline void put_nibbles(const uint8_t* words, const Decoded& to) {
  for (int i = 0; i < 4; ++i) {
    const __m512i w = word(words, i);
    to.put(i, low_nibbles(w));
    to.put(i + 4, high_nibbles(w));
  }
}

// The scale of a block x = d * (q - kZero).
template <int kZero>
inline void put_symmetric_scale(const uint8_t* halves, const Decoded& to) {
  const __m512 d = load_halves(halves);
  to.put_scale(0, d, _mm512_mul_ps(d, _mm512_set1_ps(-kZero)));
}

// `words` and `halves` are those of one block.
template <>
struct Decoder<BlockQ4_0> {
  static constexpr DType kType = DType::kQ4_0;
  static constexpr int kSub = 32;
  static inline void decode(const uint8_t* words, const uint8_t* halves, const Decoded& to) {
    put_nibbles(words, to);
    put_symmetric_scale<8>(halves, to);
  }
};

template <>
struct Decoder<BlockQ4_1> {
  static constexpr DType kType = DType::kQ4_1;
  static constexpr int kSub = 32;
  static inline void decode(const uint8_t* words, const uint8_t* halves, const Decoded& to) {
    put_nibbles(words, to);
    to.put_scale(0, load_halves(halves), load_halves(halves + 32));
  }
};

inline void decode_fives(const uint8_t* words, const Decoded& to) {
  const __m512i fifth = word(words, 0);
  __m512i high = _mm512_slli_epi32(fifth, 4);  // bit g of each byte belongs to group g: to bit 4, group by group
  __m512i upper = fifth;
  for (int i = 0; i < 4; ++i) {
    __m512i w = word(words, i + 1);
    to.put(i, and_or(high, 0x10101010u, low_nibbles(w)));
    to.put(i + 4, and_or(upper, 0x10101010u, high_nibbles(w)));
    high = _mm512_srli_epi32(high, 1);
    upper = _mm512_srli_epi32(upper, 1);
  }
}

template <>
struct Decoder<BlockQ5_0> {
  static constexpr DType kType = DType::kQ5_0;
  static constexpr int kSub = 32;
  static inline void decode(const uint8_t* words, const uint8_t* halves, const Decoded& to) {
    decode_fives(words, to);
    put_symmetric_scale<16>(halves, to);
  }
};

template <>
struct Decoder<BlockQ5_1> {
  static constexpr DType kType = DType::kQ5_1;
  static constexpr int kSub = 32;
  static inline void decode(const uint8_t* words, const uint8_t* halves, const Decoded& to) {
    decode_fives(words, to);
    to.put_scale(0, load_halves(halves), load_halves(halves + 32));
  }
};

template <>
struct Decoder<BlockQ8_0> {
  static constexpr DType kType = DType::kQ8_0;
  static constexpr int kSub = 32;
  static inline void decode(const uint8_t* words, const uint8_t* halves, const Decoded& to) {
    for (int i = 0; i < 8; ++i)
      to.put(i, _mm512_xor_si512(word(words, i), _mm512_set1_epi32(static_cast<int>(0x80808080u))));
    put_symmetric_scale<128>(halves, to);
  }
};

template <>
struct Decoder<BlockIQ4_NL> {
  static constexpr DType kType = DType::kIQ4_NL;
  static constexpr int kSub = 32;
  static inline void decode(const uint8_t* words, const uint8_t* halves, const Decoded& to) {
    for (int i = 0; i < 4; ++i) {
      __m512i w = word(words, i);
      to.put(i, look_up_iq4(low_nibbles(w)));
      to.put(i + 4, look_up_iq4(high_nibbles(w)));
    }
    put_symmetric_scale<128>(halves, to);
  }
};

// Scales and minima of Q4_K and Q5_K: the three words at the start of a block.
inline void decode_scales_k4(const uint8_t* words, const uint8_t* halves, const Decoded& to) {
  const __m512 d = load_halves(halves), dmin = _mm512_sub_ps(_mm512_setzero_ps(), load_halves(halves + 32));
  const __m512i w0 = word(words, 0), w1 = word(words, 1), w2 = word(words, 2);
  const __m512i scales[2] = {and_bits(w0, 0x3f3f3f3fu), and_or(_mm512_srli_epi32(w0, 2), 0x30303030u, low_nibbles(w2))};
  const __m512i minima[2] = {and_bits(w1, 0x3f3f3f3fu),
                             and_or(_mm512_srli_epi32(w1, 2), 0x30303030u, high_nibbles(w2))};
  for (int i = 0; i < 2; ++i) {
    const __m512i s = scales[i], m = minima[i];
    to.put_scale(4 * i, _mm512_mul_ps(byte_to_float<0>(s), d), _mm512_mul_ps(byte_to_float<0>(m), dmin));
    to.put_scale(4 * i + 1, _mm512_mul_ps(byte_to_float<1>(s), d), _mm512_mul_ps(byte_to_float<1>(m), dmin));
    to.put_scale(4 * i + 2, _mm512_mul_ps(byte_to_float<2>(s), d), _mm512_mul_ps(byte_to_float<2>(m), dmin));
    to.put_scale(4 * i + 3, _mm512_mul_ps(byte_to_float<3>(s), d), _mm512_mul_ps(byte_to_float<3>(m), dmin));
  }
}

template <>
struct Decoder<BlockQ4_K> {
  static constexpr DType kType = DType::kQ4_K;
  static constexpr int kSub = 32;
  static inline void decode(const uint8_t* words, const uint8_t* halves, const Decoded& to) {
    decode_scales_k4(words, halves, to);
    for (int j = 0; j < 4; ++j) {
      for (int g = 0; g < 8; ++g) {
        __m512i w = word(words, 3 + j * 8 + g);
        to.put(16 * j + g, low_nibbles(w));
        to.put(16 * j + 8 + g, high_nibbles(w));
      }
    }
  }
};

template <>
struct Decoder<BlockQ5_K> {
  static constexpr DType kType = DType::kQ5_K;
  static constexpr int kSub = 32;
  static inline void decode(const uint8_t* words, const uint8_t* halves, const Decoded& to) {
    decode_scales_k4(words, halves, to);
    for (int g = 0; g < 8; ++g) {
      const __m512i high = word(words, 3 + g);  // bit 2j of its bytes for the low nibbles, 2j + 1 for the high ones
      for (int j = 0; j < 4; ++j) {
        __m512i w = word(words, 11 + j * 8 + g);
        // To bit 4; what shifts of words carry across bytes is masked away.
        __m512i low_fifth =
            j < 2 ? _mm512_slli_epi32(high, j < 2 ? 4 - 2 * j : 0) : _mm512_srli_epi32(high, j < 2 ? 0 : 2 * j - 4);
        __m512i high_fifth =
            j < 2 ? _mm512_slli_epi32(high, j < 2 ? 3 - 2 * j : 0) : _mm512_srli_epi32(high, j < 2 ? 0 : 2 * j - 3);
        to.put(16 * j + g, and_or(low_fifth, 0x10101010u, low_nibbles(w)));
        to.put(16 * j + 8 + g, and_or(high_fifth, 0x10101010u, high_nibbles(w)));
      }
    }
  }
};

// Scale and offset of sub-blocks 2i and 2i + 1 of 16, the offsets as products want them: that of the whole 32 last,
// what the first 16 have more than it first.
inline void put_scale_pair(const Decoded& to, int sub, __m512 scale0, __m512 offset0, __m512 scale1, __m512 offset1) {
  to.put_scale(sub, scale0, _mm512_sub_ps(offset0, offset1));
  to.put_scale(sub + 1, scale1, offset1);
}

// Four scales in the bytes of a word, x = d * (scale - kBias) * (q - kZero).
template <int kBias, int kZero, bool kSigned>
inline void put_byte_scales(const Decoded& to, int sub, __m512i words, __m512 d) {
  auto convert = [&](__m512 value) {
    return _mm512_mul_ps(kBias == 0 ? value : _mm512_sub_ps(value, _mm512_set1_ps(kBias)), d);
  };
  const __m512 s0 = convert(kSigned ? signed_byte_to_float<0>(words) : byte_to_float<0>(words));
  const __m512 s1 = convert(kSigned ? signed_byte_to_float<1>(words) : byte_to_float<1>(words));
  const __m512 s2 = convert(kSigned ? signed_byte_to_float<2>(words) : byte_to_float<2>(words));
  const __m512 s3 = convert(kSigned ? signed_byte_to_float<3>(words) : byte_to_float<3>(words));
  const __m512 zero = _mm512_set1_ps(-kZero);
  put_scale_pair(to, sub, s0, _mm512_mul_ps(s0, zero), s1, _mm512_mul_ps(s1, zero));
  put_scale_pair(to, sub + 2, s2, _mm512_mul_ps(s2, zero), s3, _mm512_mul_ps(s3, zero));
}

template <>
struct Decoder<BlockQ2_K> {
  static constexpr DType kType = DType::kQ2_K;
  static constexpr int kSub = 16;
  static inline void decode(const uint8_t* words, const uint8_t* halves, const Decoded& to) {
    const __m512 d = load_halves(halves), dmin = _mm512_sub_ps(_mm512_setzero_ps(), load_halves(halves + 32));
    for (int i = 0; i < 4; ++i) {
      const __m512i w = word(words, i), s = low_nibbles(w), m = high_nibbles(w);
      put_scale_pair(to, 4 * i, _mm512_mul_ps(byte_to_float<0>(s), d), _mm512_mul_ps(byte_to_float<0>(m), dmin),
                     _mm512_mul_ps(byte_to_float<1>(s), d), _mm512_mul_ps(byte_to_float<1>(m), dmin));
      put_scale_pair(to, 4 * i + 2, _mm512_mul_ps(byte_to_float<2>(s), d), _mm512_mul_ps(byte_to_float<2>(m), dmin),
                     _mm512_mul_ps(byte_to_float<3>(s), d), _mm512_mul_ps(byte_to_float<3>(m), dmin));
    }
    for (int half = 0; half < 2; ++half) {
      for (int g = 0; g < 8; ++g) {
        __m512i w = word(words, 4 + half * 8 + g);
        for (int j = 0; j < 4; ++j) {
          to.put(half * 32 + j * 8 + g, and_bits(w, 0x03030303u));
          w = _mm512_srli_epi32(w, 2);
        }
      }
    }
  }
};

template <>
struct Decoder<BlockQ3_K> {
  static constexpr DType kType = DType::kQ3_K;
  static constexpr int kSub = 16;
  static inline void decode(const uint8_t* words, const uint8_t* halves, const Decoded& to) {
    const __m512 d = load_halves(halves);
    const __m512i w0 = word(words, 24), w1 = word(words, 25), top = word(words, 26);
    put_byte_scales<32, 4, false>(to, 0, and_or(_mm512_slli_epi32(top, 4), 0x30303030u, low_nibbles(w0)), d);
    put_byte_scales<32, 4, false>(to, 4, and_or(_mm512_slli_epi32(top, 2), 0x30303030u, low_nibbles(w1)), d);
    put_byte_scales<32, 4, false>(to, 8, and_or(top, 0x30303030u, high_nibbles(w0)), d);
    put_byte_scales<32, 4, false>(to, 12, and_or(_mm512_srli_epi32(top, 2), 0x30303030u, high_nibbles(w1)), d);
    for (int g = 0; g < 8; ++g) {
      const __m512i third = word(words, g);
      for (int half = 0; half < 2; ++half) {
        // Bit 4 * half + j of each byte to bit 2.
        __m512i high = half == 0 ? _mm512_slli_epi32(third, 2) : _mm512_srli_epi32(third, 2);
        __m512i w = word(words, 8 + half * 8 + g);
        for (int j = 0; j < 4; ++j) {
          to.put(half * 32 + j * 8 + g, and_or(high, 0x04040404u, and_bits(w, 0x03030303u)));
          w = _mm512_srli_epi32(w, 2);
          high = _mm512_srli_epi32(high, 1);
        }
      }
    }
  }
};

template <>
struct Decoder<BlockQ6_K> {
  static constexpr DType kType = DType::kQ6_K;
  static constexpr int kSub = 16;
  static inline void decode(const uint8_t* words, const uint8_t* halves, const Decoded& to) {
    const __m512 d = load_halves(halves);
    for (int i = 0; i < 4; ++i) put_byte_scales<0, 32, true>(to, 4 * i, word(words, 48 + i), d);
    for (int half = 0; half < 2; ++half) {
      for (int g = 0; g < 8; ++g) {
        const __m512i top = word(words, 32 + half * 8 + g);
        const __m512i a = word(words, half * 16 + g), b = word(words, half * 16 + 8 + g);
        to.put(half * 32 + g, and_or(_mm512_slli_epi32(top, 4), 0x30303030u, low_nibbles(a)));
        to.put(half * 32 + 8 + g, and_or(_mm512_slli_epi32(top, 2), 0x30303030u, low_nibbles(b)));
        to.put(half * 32 + 16 + g, and_or(top, 0x30303030u, high_nibbles(a)));
        to.put(half * 32 + 24 + g, and_or(_mm512_srli_epi32(top, 2), 0x30303030u, high_nibbles(b)));
      }
    }
  }
};

template <>
struct Decoder<BlockIQ4_XS> {
  static constexpr DType kType = DType::kIQ4_XS;
  static constexpr int kSub = 32;
  static inline void decode(const uint8_t* words, const uint8_t* halves, const Decoded& to) {
    const __m512 d = load_halves(halves);
    __m512i low = word(words, 0);
    __m512i high =
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(halves + 32))), 4);
    for (int sub = 0; sub < 8; ++sub) {
      const __m512i scale = and_or(high, 0x30, and_bits(low, 15));
      const __m512 s = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(scale, _mm512_set1_epi32(32))), d);
      to.put_scale(sub, s, _mm512_mul_ps(s, _mm512_set1_ps(-128)));
      low = _mm512_srli_epi32(low, 4);
      high = _mm512_srli_epi32(high, 2);
      for (int i = 0; i < 4; ++i) {
        const __m512i w = word(words, 1 + sub * 4 + i);
        to.put(sub * 8 + i, look_up_iq4(low_nibbles(w)));
        to.put(sub * 8 + i + 4, look_up_iq4(high_nibbles(w)));
      }
    }
  }
};

}  // namespace
}  // namespace sluice::kernels::avx512
