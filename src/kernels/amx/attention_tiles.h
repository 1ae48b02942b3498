// What attention multiplies, as tiles of bf16: queries on the left side, keys and values on the right. A page of keys
// lies element by element, so two elements of its 16 keys, interleaved, are a row of a right tile as they stand; a row
// of the tiles of values is a value of one page and the value of the same row of the next page, interleaved. So the 32
// keys of a tile product are, in this order: key 0 of both pages, key 1 of both, ...; weights have to lie likewise.
//
// f32 queries and keys of more than 8 significant bits go in two parts, a number rounded to bf16 and what that left
// away, rounded too: together 16 bits. Scores need them (attention.cc says why); values are rounded once.
#pragma once

#include "kernels/amx/bf16.h"
#include "kernels/amx/tile.h"
#include "kernels/avx512/kv_types.h"

namespace sluice::kernels::amx {
namespace {

constexpr int kTileColumns = 16;  // of 4 bytes: keys, elements of a value

// Tiles a key needs for each 32 elements.
template <typename Type>
constexpr int kKeyParts = 2;  // exact for F16, whose 11 bits make two times 8; Q8_0 has up to 18
template <>
constexpr int kKeyParts<avx512::BF16> = 1;
constexpr int kQueryParts = 2;

inline __m512 upper_float(__m512i words) { return _mm512_castsi512_ps(avx512::and_bits(words, 0xffff0000u)); }

// What rounding left over; nothing of an infinity.
inline __m512 find_rest(__m512 x, __m512 rounded) {
  const __m512 magnitude = _mm512_abs_ps(rounded);
  const __mmask16 is_infinite = _mm512_cmp_ps_mask(magnitude, _mm512_set1_ps(__builtin_inff()), _CMP_EQ_OQ);
  return _mm512_mask_sub_ps(_mm512_setzero_ps(), static_cast<__mmask16>(~is_infinite), x, rounded);
}

// query[head_dim] * scale to its row of the tiles [num_chunks, kQueryParts], zeros after its end.
inline void pack_query(const float* query, int64_t head_dim, float scale, uint8_t* row) {
  for (int64_t d = 0; d < head_dim; d += kTileInputs, row += kQueryParts * kTileBytes) {
    for (int64_t half = 0; half < 2; ++half) {
      const __mmask16 valid = avx512::lanes_between(0, head_dim - d - half * 16);
      const __m512 x = _mm512_mul_ps(_mm512_maskz_loadu_ps(valid, query + d + half * 16), _mm512_set1_ps(scale));
      const __m512i high = round_upper(x), low = round_upper(find_rest(x, upper_float(high)));
      auto store = [](uint8_t* to, __m512i words) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(_mm512_srli_epi32(words, 16)));
      };
      store(row + half * 32, high);
      store(row + half * 32 + kTileBytes, low);
    }
  }
}

// round_pairs() of what was stored: a NaN of any payload stays one.
inline __m512i round_stored(__m512 even, __m512 odd) {
  auto quiet = [](__m512 x) {
    return _mm512_mask_mov_ps(x, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), _mm512_set1_ps(__builtin_nanf("")));
  };
  return round_pairs(quiet(even), quiet(odd));
}

// A page of keys to tiles [num_chunks, kKeyParts<Type>], zeros after the last element.
template <typename Type>
inline void pack_keys(const void* page, int64_t head_dim, uint8_t* tiles) {
  constexpr int kParts = kKeyParts<Type>;
  typename Type::Keys keys(page, head_dim);
  auto pack = [](__m512 even, __m512 odd, uint8_t* to) {
    const __m512i high = round_stored(even, odd);
    avx512::store_512(to, high);
    if constexpr (kParts == 2) {
      even = find_rest(even, _mm512_castsi512_ps(_mm512_slli_epi32(high, 16)));
      odd = find_rest(odd, upper_float(high));
      avx512::store_512(to + kTileBytes, round_stored(even, odd));
    }
  };
  for (int64_t begin = 0; begin < head_dim; begin += kTileInputs, tiles += kParts * kTileBytes) {
    keys.start(begin);
    uint8_t* row = tiles;
    int64_t d = begin;
    const int64_t end = d + kTileInputs < head_dim ? d + kTileInputs : head_dim;
    for (; d + 2 <= end; d += 2, row += kTileRowBytes) pack(keys.load(d, 0), keys.load(d + 1, 0), row);
    if (d < end) {
      pack(keys.load(d, 0), _mm512_setzero_ps(), row);
      row += kTileRowBytes;
    }
    for (; row < tiles + kTileBytes; row += kTileRowBytes) {
      for (int part = 0; part < kParts; ++part) avx512::store_512(row + part * kTileBytes, _mm512_setzero_si512());
    }
  }
}

// Two values to their row of the tiles [columns of 16 elements], zeros after their end.
template <typename Type>
inline void pack_values(const uint8_t* first, const uint8_t* second, int64_t head_dim, uint8_t* row) {
  int64_t d = 0;
  __m512 a[2], b[2];
  for (; d + 32 <= head_dim; d += 32, row += 2 * kTileBytes) {
    Type::template load_values<2>(first, d, a);
    Type::template load_values<2>(second, d, b);
    avx512::store_512(row, round_stored(a[0], b[0]));
    avx512::store_512(row + kTileBytes, round_stored(a[1], b[1]));
  }
  if (d + 16 <= head_dim) {
    Type::template load_values<1>(first, d, a);
    Type::template load_values<1>(second, d, b);
    avx512::store_512(row, round_stored(a[0], b[0]));
    d += 16;
    row += kTileBytes;
  }
  if (const int64_t left = head_dim & 15; left > 0) {
    alignas(64) uint8_t padded[2][64] = {};
    memcpy(padded[0], first + Type::row_bytes(d), static_cast<size_t>(Type::row_bytes(left)));
    memcpy(padded[1], second + Type::row_bytes(d), static_cast<size_t>(Type::row_bytes(left)));
    Type::template load_values<1>(padded[0], 0, a);
    Type::template load_values<1>(padded[1], 0, b);
    avx512::store_512(row, round_stored(a[0], b[0]));
  }
}

}  // namespace
}  // namespace sluice::kernels::amx
