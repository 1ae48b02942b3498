// The order of packed strips, word by word. That products read it rightly is matmul_test.cc's matter.
#include "kernels/pack.h"

#include <gtest/gtest.h>

#include "kernels/random_weights.h"

namespace sluice::kernels {
namespace {

uint32_t word_at(const uint8_t* p) {
  uint32_t word;
  std::memcpy(&word, p, 4);
  return word;
}

TEST(Pack, KeepsTheSizeOfEveryType) {
  for (DType type : kWeightTypes) {
    ASSERT_TRUE(can_pack(type, 512)) << name(type);
    EXPECT_EQ(packed_bytes(type, 32, 512), 32 * row_bytes(type, 512)) << name(type);
  }
  EXPECT_FALSE(can_pack(DType::kQ4_K, 128));
  EXPECT_FALSE(can_pack(DType::kF16, 33));
  EXPECT_FALSE(can_pack(DType::kI32, 32));
}

TEST(Pack, TransposesWordsAndCollectsHalves) {
  Random random(1);
  for (DType type : kWeightTypes) {
    const PackedLayout layout = get_packed_layout(type);
    const int64_t num_inputs = 512, num_blocks = num_inputs / layout.block_elements, num_rows = 13;
    const std::vector<uint8_t> rows = random_weights(type, num_rows, num_inputs, random);
    std::vector<uint8_t> strip(static_cast<size_t>(packed_strip_bytes(type, num_inputs)), 0xcc);
    pack_strip(type, rows.data(), row_bytes(type, num_inputs), num_rows, num_inputs, strip.data());
    const uint8_t* words = strip.data() + packed_half_bytes(type, num_inputs);
    for (int64_t row = 0; row < kStripRows; ++row) {
      for (int64_t b = 0; b < num_blocks; ++b) {
        const uint8_t* block = rows.data() + row * row_bytes(type, num_inputs) + b * layout.block_bytes;
        for (int w = layout.transposes_first_word ? 1 : 0; w < layout.num_words; ++w) {
          uint32_t expected = row < num_rows ? word_at(block + layout.first_word_offset + w * 4) : 0;
          ASSERT_EQ(word_at(words + ((b * layout.num_words + w) * kStripRows + row) * 4), expected)
              << name(type) << " row " << row << " block " << b << " word " << w;
        }
        for (int h = 0; h < layout.num_halves; ++h) {
          uint16_t expected = 0, got;
          if (row < num_rows) std::memcpy(&expected, block + layout.half_offsets[h], 2);
          std::memcpy(&got, strip.data() + ((b * layout.num_halves + h) * kStripRows + row) * 2, 2);
          ASSERT_EQ(got, expected) << name(type) << " row " << row << " block " << b << " half " << h;
        }
      }
    }
  }
}

// Bit 4g + b of the file's fifth bits becomes bit 8b + g.
TEST(Pack, TransposesTheFifthBits) {
  for (int bit = 0; bit < 32; ++bit) {
    BlockQ5_0 block = {};
    uint32_t fifths = 1u << bit;
    std::memcpy(block.qh, &fifths, 4);
    alignas(64) uint8_t strip[packed_strip_bytes(DType::kQ5_0, 32)];
    pack_strip(DType::kQ5_0, &block, sizeof block, 1, 32, strip);
    EXPECT_EQ(word_at(strip + packed_half_bytes(DType::kQ5_0, 32)), 1u << (bit % 4 * 8 + bit / 4)) << bit;
  }
}

}  // namespace
}  // namespace sluice::kernels
