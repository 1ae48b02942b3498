#include "llm/kv_store.h"

#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "base/error.h"

namespace sluice::llm {
namespace {

TEST(KvStoreTest, PlacesAreDisjointAndZeroAtFirst) {
  const KvLayout layout{.num_layers = 3, .num_kv_heads = 2, .head_dim = 32, .type = DType::kQ8_0};
  EXPECT_EQ(layout.page_bytes(), 3 * 2 * 2 * 16 * 34);
  KvStore kv(layout, 5);
  std::set<void*> places;
  for (int layer = 0; layer < 3; ++layer) {
    for (int page = 0; page < 5; ++page) {
      for (int head = 0; head < 2; ++head) {
        for (void* place : {kv.key_page(layer, page, head), kv.value_page(layer, page, head)}) {
          EXPECT_EQ(*static_cast<uint8_t*>(place), 0);
          EXPECT_TRUE(places.insert(place).second);
          std::memset(place, static_cast<int>(places.size()), 16 * 34);
        }
      }
    }
  }
  uint8_t next = 1;  // the same order again: nobody wrote over anybody
  for (int layer = 0; layer < 3; ++layer) {
    for (int page = 0; page < 5; ++page) {
      for (int head = 0; head < 2; ++head) {
        for (void* place : {kv.key_page(layer, page, head), kv.value_page(layer, page, head)}) {
          EXPECT_EQ(static_cast<uint8_t*>(place)[0], next);
          EXPECT_EQ(static_cast<uint8_t*>(place)[16 * 34 - 1], next);
          ++next;
        }
      }
    }
  }
}

TEST(KvStoreTest, CopyTakesEveryLayer) {
  KvStore kv({.num_layers = 2, .num_kv_heads = 2, .head_dim = 8, .type = DType::kF16}, 4);
  for (int layer = 0; layer < 2; ++layer) {
    for (int head = 0; head < 2; ++head) {
      std::memset(kv.key_page(layer, 3, head), 1 + layer, 16 * 16);
      std::memset(kv.value_page(layer, 3, head), 5 + head, 16 * 16);
    }
  }
  kv.copy_page(3, 1);
  for (int layer = 0; layer < 2; ++layer) {
    for (int head = 0; head < 2; ++head) {
      EXPECT_EQ(std::memcmp(kv.key_page(layer, 3, head), kv.key_page(layer, 1, head), 16 * 16), 0);
      EXPECT_EQ(std::memcmp(kv.value_page(layer, 3, head), kv.value_page(layer, 1, head), 16 * 16),
                0);
      EXPECT_EQ(*static_cast<uint8_t*>(kv.key_page(layer, 2, head)), 0);
    }
  }
}

TEST(KvStoreTest, ImpossibleSizesAreErrors) {
  const KvLayout layout{
      .num_layers = 100, .num_kv_heads = 100, .head_dim = 4096, .type = DType::kF32};
  EXPECT_THROW(KvStore(layout, 0), Error);
  EXPECT_THROW(KvStore(layout, INT64_MAX), Error);
  EXPECT_THROW(KvStore(layout, INT32_MAX), Error);
}

}  // namespace
}  // namespace sluice::llm
