// The layout that wide products want their weights in: strips of kStripRows rows, transposed by words.
//
// A product that keeps 16 outputs side by side in one register needs the same four bytes of 16 rows together. So a
// strip takes the blocks that lie below each other in 16 rows and stores word 0 of all 16, then word 1 of all 16, and
// so on; half-float fields are collected before them in the same way. Nothing is decoded and nothing is padded: a
// packed matrix has the bytes of the file in another order (the last strip is filled up with zero rows).
//
//   strip = [num_blocks][num_halves][16] half floats, rounded up to 64 bytes, [num_blocks][num_words][16] 32-bit words
//
// Bits of `qh` of the types with blocks of 32 are transposed as well: bit i of the file's 32 belongs to element i, bit
// 8b + g of the packed word belongs to element 4g + b, so that one shift serves the four bytes of a word.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"

namespace sluice::kernels {

inline constexpr int64_t kStripRows = 16;

// How a block of one type is taken apart.
struct PackedLayout {
  int block_elements;    // 0: the type cannot be packed
  int block_bytes;
  int first_word_offset; // of num_words consecutive words
  int num_words;
  int num_halves;
  int half_offsets[2];
  bool transposes_first_word;  // qh
};

// These are inlined everywhere: objects of one instruction set must not leave copies of functions for others.
[[gnu::always_inline]] constexpr PackedLayout get_packed_layout(DType type) {
  switch (type) {
    case DType::kF32: return {1, 4, 0, 1, 0, {}, false};
    case DType::kF16:
    case DType::kBF16: return {2, 4, 0, 1, 0, {}, false};
    case DType::kF8E4M3: return {4, 4, 0, 1, 0, {}, false};
    case DType::kQ4_0:
    case DType::kIQ4_NL: return {32, 18, 2, 4, 1, {0}, false};
    case DType::kQ4_1: return {32, 20, 4, 4, 2, {0, 2}, false};
    case DType::kQ5_0: return {32, 22, 2, 5, 1, {0}, true};
    case DType::kQ5_1: return {32, 24, 4, 5, 2, {0, 2}, true};
    case DType::kQ8_0: return {32, 34, 2, 8, 1, {0}, false};
    case DType::kQ2_K: return {256, 84, 0, 20, 2, {80, 82}, false};
    case DType::kQ3_K: return {256, 110, 0, 27, 1, {108}, false};
    case DType::kQ4_K: return {256, 144, 4, 35, 2, {0, 2}, false};
    case DType::kQ5_K: return {256, 176, 4, 43, 2, {0, 2}, false};
    case DType::kQ6_K: return {256, 210, 0, 52, 1, {208}, false};
    case DType::kIQ4_XS: return {256, 136, 4, 33, 2, {0, 2}, false};
    default: return {};
  }
}

// Whether rows of num_inputs weights of the type can be packed.
constexpr bool can_pack(DType type, int64_t num_inputs) {
  PackedLayout layout = get_packed_layout(type);
  return layout.block_elements > 0 && num_inputs % layout.block_elements == 0;
}

// Bytes of a strip's half floats, which its words come after. REQUIRES: can_pack().
[[gnu::always_inline]] constexpr int64_t packed_half_bytes(DType type, int64_t num_inputs) {
  PackedLayout layout = get_packed_layout(type);
  return (num_inputs / layout.block_elements * layout.num_halves * kStripRows * 2 + 63) / 64 * 64;
}

// Bytes of one strip. REQUIRES: can_pack().
[[gnu::always_inline]] constexpr int64_t packed_strip_bytes(DType type, int64_t num_inputs) {
  PackedLayout layout = get_packed_layout(type);
  return packed_half_bytes(type, num_inputs) + num_inputs / layout.block_elements * layout.num_words * kStripRows * 4;
}

// Bytes of a packed matrix.
constexpr int64_t packed_bytes(DType type, int64_t num_outputs, int64_t num_inputs) {
  return (num_outputs + kStripRows - 1) / kStripRows * packed_strip_bytes(type, num_inputs);
}

// Packs `num_rows` <= kStripRows rows, `row_bytes` apart, into the strip; missing rows become zero weights. Any thread.
void pack_strip(DType type, const void* rows, int64_t row_bytes, int64_t num_rows, int64_t num_inputs, void* strip);

// Packs a whole matrix [num_outputs, num_inputs] into `strips`, packed_bytes() long.
void pack_matrix(DType type, const void* rows, int64_t num_outputs, int64_t num_inputs, void* strips);

}  // namespace sluice::kernels
