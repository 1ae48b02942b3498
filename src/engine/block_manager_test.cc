#include "engine/block_manager.h"

#include <gtest/gtest.h>

#include <numeric>

namespace sluice::engine {
namespace {

std::vector<int32_t> make_tokens(int64_t count, int32_t first = 100) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

// Computes `tokens` into a new table, as the scheduler would in one chunk.
PageTable compute(BlockManager& pages, const std::vector<int32_t>& tokens,
                  const PrefixKey& key = nullptr) {
  PageTable table;
  std::vector<llm::PageCopy> copies;
  EXPECT_TRUE(pages.prepare_write(table, 0, static_cast<int64_t>(tokens.size()), copies));
  EXPECT_TRUE(copies.empty());
  pages.register_full_pages(table, tokens, static_cast<int64_t>(tokens.size()), key);
  return table;
}

int64_t count_match(const BlockManager& pages, const std::vector<int32_t>& tokens,
                    const PrefixKey& key = nullptr) {
  PrefixMatch match;
  pages.find_prefix(tokens, key, match);
  return static_cast<int64_t>(match.pages.size());
}

void check(const BlockManager& pages, std::vector<const PageTable*> tables) {
  pages.check_integrity(tables);
}

TEST(BlockManager, HandsOutAndTakesBack) {
  BlockManager pages({.num_pages = 4});
  PageTable a, b;
  std::vector<llm::PageCopy> copies;
  EXPECT_TRUE(pages.prepare_write(a, 0, 33, copies));
  EXPECT_EQ(a.pages.size(), 3u);
  EXPECT_FALSE(pages.prepare_write(b, 0, 17, copies));
  EXPECT_TRUE(b.pages.empty());
  EXPECT_TRUE(pages.prepare_write(a, 33, 15, copies));  // the rest of the third page
  EXPECT_EQ(pages.num_free(), 1);
  check(pages, {&a, &b});
  pages.release(a);
  EXPECT_EQ(pages.num_free(), 4);
  EXPECT_TRUE(pages.prepare_write(b, 0, 64, copies));
  check(pages, {&b});
}

TEST(BlockManager, FindsFullPagesOnly) {
  BlockManager pages({.num_pages = 8});
  std::vector<int32_t> tokens = make_tokens(40);
  PageTable table = compute(pages, tokens);
  EXPECT_EQ(count_match(pages, tokens), 2);
  EXPECT_EQ(count_match(pages, make_tokens(31)), 1);
  EXPECT_EQ(count_match(pages, make_tokens(15)), 0);
  tokens[20] = 7;
  EXPECT_EQ(count_match(pages, tokens), 1);
  tokens[3] = 7;
  EXPECT_EQ(count_match(pages, tokens), 0);
  pages.release(table);
  EXPECT_EQ(count_match(pages, make_tokens(40)), 2) << "released pages stay cached";
  check(pages, {});
}

TEST(BlockManager, KeysSeparateFirstPages) {
  BlockManager pages({.num_pages = 16});
  std::vector<int32_t> tokens = make_tokens(32);
  PrefixKey salted = make_prefix_key("", "tenant"), adapted = make_prefix_key("tenant", "");
  PageTable plain = compute(pages, tokens), salt = compute(pages, tokens, salted);
  EXPECT_EQ(count_match(pages, tokens), 2);
  EXPECT_EQ(count_match(pages, tokens, make_prefix_key("", "tenant")), 2);
  EXPECT_EQ(count_match(pages, tokens, adapted), 0);
  EXPECT_NE(plain.pages, salt.pages);
  check(pages, {&plain, &salt});
}

TEST(BlockManager, CollidingHashesAreHarmless) {
  BlockManager pages({.num_pages = 32, .hash_mask = 0});
  std::vector<PageTable> tables;
  for (int32_t i = 0; i < 8; ++i) tables.push_back(compute(pages, make_tokens(32, i)));
  for (int32_t i = 0; i < 8; ++i) {
    PrefixMatch match;
    pages.find_prefix(make_tokens(32, i), nullptr, match);
    EXPECT_EQ(match.pages, tables[static_cast<size_t>(i)].pages);
  }
  // The same 16 tokens after another first page are another second page.
  std::vector<int32_t> mixed = make_tokens(32, 3);
  std::copy_n(make_tokens(32, 5).begin() + 16, 16, mixed.begin() + 16);
  EXPECT_EQ(count_match(pages, mixed), 1);
  for (PageTable& table : tables) pages.release(table);
  check(pages, {});
}

TEST(BlockManager, EvictsTailsFirstAndUncachedPagesBeforeCachedOnes) {
  BlockManager pages({.num_pages = 6});
  std::vector<int32_t> first = make_tokens(48), second = make_tokens(47, 1000);
  PageTable a = compute(pages, first), b = compute(pages, second);  // b's third page is not full
  pages.release(a);
  pages.release(b);
  EXPECT_EQ(pages.num_cached(), 5);
  PageTable c;
  std::vector<llm::PageCopy> copies;
  ASSERT_TRUE(pages.prepare_write(c, 0, 16, copies));
  EXPECT_EQ(pages.num_cached(), 5) << "the page that holds nothing goes first";
  ASSERT_TRUE(pages.prepare_write(c, 16, 16, copies));
  EXPECT_EQ(count_match(pages, first), 2) << "then the tail of what was freed first";
  EXPECT_EQ(count_match(pages, second), 2);
  PageTable again;
  PrefixMatch match;
  pages.find_prefix(first, nullptr, match);
  EXPECT_EQ(match.num_unused, 2);
  pages.take_prefix(match, again);  // a hit protects them
  ASSERT_TRUE(pages.prepare_write(c, 32, 32, copies));
  EXPECT_EQ(count_match(pages, first), 2);
  EXPECT_EQ(count_match(pages, second), 0);
  check(pages, {&again, &c});
}

TEST(BlockManager, CopiesSharedPagesOnWrite) {
  BlockManager pages({.num_pages = 8});
  std::vector<int32_t> tokens = make_tokens(20);
  PageTable first = compute(pages, tokens), second, third;
  pages.share(first, second);
  pages.share(first, third);
  EXPECT_EQ(pages.num_free(), 6);
  EXPECT_EQ(pages.count_needed(first, 20, 1), 1);
  std::vector<llm::PageCopy> copies;
  int32_t original = first.pages[1];
  ASSERT_TRUE(pages.prepare_write(first, 20, 1, copies));
  ASSERT_TRUE(pages.prepare_write(second, 20, 1, copies));
  ASSERT_TRUE(pages.prepare_write(third, 20, 1, copies));
  ASSERT_EQ(copies.size(), 2u) << "the last owner writes in place";
  EXPECT_EQ(copies[0].from, original);
  EXPECT_EQ(copies[0].to, first.pages[1]);
  EXPECT_EQ(third.pages[1], original);
  EXPECT_EQ(first.pages[0], third.pages[0]);
  check(pages, {&first, &second, &third});
}

TEST(BlockManager, CopiesACachedPageBeforeItsLastTokenIsRecomputed) {
  BlockManager pages({.num_pages = 4});
  std::vector<int32_t> tokens = make_tokens(32);
  PageTable first = compute(pages, tokens);
  pages.release(first);
  PageTable table;
  PrefixMatch match;
  pages.find_prefix(tokens, nullptr, match);
  pages.take_prefix(match, table);
  std::vector<llm::PageCopy> copies;
  ASSERT_TRUE(pages.prepare_write(table, 31, 1, copies));
  ASSERT_EQ(copies.size(), 1u);
  EXPECT_EQ(copies[0].from, match.pages[1]);
  EXPECT_EQ(table.pages[1], copies[0].to);
  EXPECT_EQ(count_match(pages, tokens), 2);
  pages.register_full_pages(table, tokens, 32, nullptr);
  check(pages, {&table});
}

TEST(BlockManager, EqualPagesBecomeOne) {
  BlockManager pages({.num_pages = 8});
  std::vector<int32_t> tokens = make_tokens(40);
  PageTable first = compute(pages, tokens), second = compute(pages, tokens);
  EXPECT_EQ(first.pages[0], second.pages[0]);
  EXPECT_EQ(first.pages[1], second.pages[1]);
  EXPECT_NE(first.pages[2], second.pages[2]);
  EXPECT_EQ(pages.num_free(), 4);
  check(pages, {&first, &second});
}

TEST(BlockManager, CachesNothingWhenOff) {
  BlockManager pages({.num_pages = 4, .enable_prefix_caching = false});
  PageTable table = compute(pages, make_tokens(32));
  EXPECT_EQ(count_match(pages, make_tokens(32)), 0);
  EXPECT_EQ(pages.num_cached(), 0);
  pages.release(table);
  check(pages, {});
}

TEST(BlockManagerDeathTest, IntegrityCheckSeesLostPages) {
  BlockManager pages({.num_pages = 4});
  PageTable table = compute(pages, make_tokens(32));
  EXPECT_DEATH(check(pages, {}), "ref_count");
  PageTable twice = table;
  EXPECT_DEATH(check(pages, {&table, &twice}), "ref_count");
}

}  // namespace
}  // namespace sluice::engine
