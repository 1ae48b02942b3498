#include "kernels/pack.h"

#include <algorithm>
#include <cstring>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

#include "base/check.h"
#include "base/tensor.h"

namespace sluice::kernels {
namespace {

// Element 4g + b of 32, in bit 4g + b, to bit 8b + g.
uint32_t transpose_bits(uint32_t x) {
  uint32_t out = 0;
  for (int b = 0; b < 4; ++b) {
    uint32_t eighth = x >> b & 0x11111111u;  // bits 4g, to be gathered into a byte
    eighth = (eighth | eighth >> 3) & 0x03030303u;
    eighth = (eighth | eighth >> 6) & 0x000f000fu;
    eighth = (eighth | eighth >> 12) & 0xffu;
    out |= eighth << (8 * b);
  }
  return out;
}

// Words [word, word + 4) of four rows, to column `row` of four lines of 16 words.
inline void transpose_4x4(const uint8_t* const* rows, int64_t offset, uint32_t* lines) {
#if defined(__x86_64__)
  __m128i r[4];
  for (int i = 0; i < 4; ++i) r[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[i] + offset));
  __m128i a = _mm_unpacklo_epi32(r[0], r[1]), b = _mm_unpackhi_epi32(r[0], r[1]);
  __m128i c = _mm_unpacklo_epi32(r[2], r[3]), d = _mm_unpackhi_epi32(r[2], r[3]);
  _mm_store_si128(reinterpret_cast<__m128i*>(lines), _mm_unpacklo_epi64(a, c));
  _mm_store_si128(reinterpret_cast<__m128i*>(lines + 16), _mm_unpackhi_epi64(a, c));
  _mm_store_si128(reinterpret_cast<__m128i*>(lines + 32), _mm_unpacklo_epi64(b, d));
  _mm_store_si128(reinterpret_cast<__m128i*>(lines + 48), _mm_unpackhi_epi64(b, d));
#else
  for (int i = 0; i < 4; ++i) {
    for (int w = 0; w < 4; ++w) std::memcpy(lines + w * 16 + i, rows[i] + offset + w * 4, 4);
  }
#endif
}

}  // namespace

void pack_strip(DType type, const void* rows, int64_t row_bytes, int64_t num_rows, int64_t num_inputs, void* strip) {
  const PackedLayout layout = get_packed_layout(type);
  DCHECK(can_pack(type, num_inputs) && num_rows >= 1 && num_rows <= kStripRows, num_rows, num_inputs);
  int64_t num_blocks = num_inputs / layout.block_elements;
  int64_t block_bytes = layout.block_bytes, num_words = layout.num_words;
  const bool is_plain = layout.num_halves == 0;
  if (is_plain) {  // one long block of words
    num_words = num_blocks;
    block_bytes *= num_blocks;
    num_blocks = 1;
  }
  auto* bytes = static_cast<uint8_t*>(strip);
  const int64_t half_bytes = packed_half_bytes(type, num_inputs);
  std::memset(bytes, 0, static_cast<size_t>(half_bytes));
  auto* halves = reinterpret_cast<uint16_t*>(bytes);
  auto* words = reinterpret_cast<uint32_t*>(bytes + half_bytes);
  const uint8_t* row[kStripRows];
  for (int64_t i = 0; i < kStripRows; ++i) {
    row[i] = static_cast<const uint8_t*>(rows) + std::min(i, num_rows - 1) * row_bytes;
  }
  for (int64_t b = 0; b < num_blocks; ++b, words += num_words * kStripRows) {
    const int64_t offset = layout.first_word_offset;
    int64_t w = 0;
    for (; w + 4 <= num_words; w += 4) {
      for (int64_t i = 0; i < kStripRows; i += 4) transpose_4x4(row + i, offset + w * 4, words + w * kStripRows + i);
    }
    for (; w < num_words; ++w) {
      for (int64_t i = 0; i < kStripRows; ++i) std::memcpy(words + w * kStripRows + i, row[i] + offset + w * 4, 4);
    }
    if (layout.transposes_first_word) {
      for (int64_t i = 0; i < kStripRows; ++i) words[i] = transpose_bits(words[i]);
    }
    for (int h = 0; h < layout.num_halves; ++h, halves += kStripRows) {
      for (int64_t i = 0; i < kStripRows; ++i) std::memcpy(halves + i, row[i] + layout.half_offsets[h], 2);
    }
    for (const uint8_t*& r : row) r += block_bytes;
  }
  // Zero rows: their words and halves. (The last row was packed in their place.)
  if (num_rows == kStripRows) return;
  auto clear = [&](uint8_t* line, uint8_t* end, int64_t size) {
    for (; line < end; line += kStripRows * size) {
      std::memset(line + num_rows * size, 0, static_cast<size_t>((kStripRows - num_rows) * size));
    }
  };
  clear(bytes, bytes + num_inputs / layout.block_elements * layout.num_halves * kStripRows * 2, 2);
  clear(bytes + half_bytes, bytes + packed_strip_bytes(type, num_inputs), 4);
}

void pack_matrix(DType type, const void* rows, int64_t num_outputs, int64_t num_inputs, void* strips) {
  const int64_t bytes = row_bytes(type, num_inputs), strip_bytes = packed_strip_bytes(type, num_inputs);
  for (int64_t o = 0; o < num_outputs; o += kStripRows) {
    pack_strip(type, static_cast<const uint8_t*>(rows) + o * bytes, bytes, std::min(kStripRows, num_outputs - o),
               num_inputs, static_cast<uint8_t*>(strips) + o / kStripRows * strip_bytes);
  }
}

}  // namespace sluice::kernels
