#include "engine/block_manager.h"

#include <bit>
#include <cstring>

#include "base/check.h"
#include "kernels/kernels.h"

namespace sluice::engine {
namespace {

static_assert(kTokensPerPage == kernels::kPageSize);

uint64_t mix(uint64_t a, uint64_t b) {
  unsigned __int128 product =
      static_cast<unsigned __int128>(a ^ 0x9e3779b97f4a7c15ull) * (b ^ 0xd1b54a32d192ed03ull);
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

bool equal_keys(const PrefixKey& a, const PrefixKey& b) {
  return a == b || (a && b && *a == *b);
}

}  // namespace

PrefixKey make_prefix_key(const std::string& adapter, const std::string& cache_salt) {
  if (adapter.empty() && cache_salt.empty()) return nullptr;
  // The length in front keeps ("ab", "c") and ("a", "bc") apart.
  return std::make_shared<const std::string>(std::to_string(adapter.size()) + ":" + adapter +
                                             cache_salt);
}

BlockManager::BlockManager(const BlockManagerOptions& options)
    : pages_(static_cast<size_t>(options.num_pages)),
      buckets_(std::bit_ceil(static_cast<size_t>(options.num_pages) + 1), -1),
      enable_prefix_caching_(options.enable_prefix_caching),
      hash_seed_(options.hash_seed),
      hash_mask_(options.hash_mask) {
  CHECK(options.num_pages >= 1 && options.num_pages < INT32_MAX, options.num_pages);
  for (int32_t page = 0; page < static_cast<int32_t>(options.num_pages); ++page) {
    pages_[static_cast<size_t>(page)].older = page - 1;
    pages_[static_cast<size_t>(page)].newer = page + 1 < options.num_pages ? page + 1 : -1;
  }
  oldest_ = 0;
  newest_ = static_cast<int32_t>(options.num_pages) - 1;
  num_free_ = options.num_pages;
}

uint64_t BlockManager::hash_page(uint64_t parent_id, const int32_t* tokens,
                                 const PrefixKey& key) const {
  uint64_t hash = mix(hash_seed_, parent_id);
  for (int64_t i = 0; i < kTokensPerPage; i += 2) {
    uint64_t pair;
    std::memcpy(&pair, tokens + i, sizeof pair);
    hash = mix(hash, pair);
  }
  if (key && parent_id == 0) hash = mix(hash, std::hash<std::string>{}(*key));
  return hash & hash_mask_;
}

int32_t BlockManager::find_page(uint64_t hash, uint64_t parent_id, const int32_t* tokens,
                                const PrefixKey& key) const {
  int32_t page = buckets_[hash & (buckets_.size() - 1)];
  while (page >= 0) {
    const Page& candidate = pages_[static_cast<size_t>(page)];
    if (candidate.hash == hash && candidate.parent_id == parent_id &&
        std::memcmp(candidate.tokens, tokens, sizeof candidate.tokens) == 0 &&
        (parent_id != 0 || equal_keys(candidate.key, key))) {
      return page;
    }
    page = candidate.next_in_bucket;
  }
  return -1;
}

void BlockManager::enter(int32_t page, uint64_t hash, uint64_t parent_id, const int32_t* tokens,
                         const PrefixKey& key) {
  Page& entry = pages_[static_cast<size_t>(page)];
  entry.content_id = ++last_content_id_;
  entry.parent_id = parent_id;
  entry.hash = hash;
  std::memcpy(entry.tokens, tokens, sizeof entry.tokens);
  if (parent_id == 0) entry.key = key;
  int32_t& bucket = buckets_[hash & (buckets_.size() - 1)];
  entry.next_in_bucket = bucket;
  bucket = page;
  ++num_cached_;
}

void BlockManager::forget(int32_t page) {
  Page& entry = pages_[static_cast<size_t>(page)];
  int32_t* link = &buckets_[entry.hash & (buckets_.size() - 1)];
  while (*link != page) link = &pages_[static_cast<size_t>(*link)].next_in_bucket;
  *link = entry.next_in_bucket;
  entry.next_in_bucket = -1;
  entry.content_id = 0;
  entry.key.reset();
  --num_cached_;
}

void BlockManager::unlink_free(int32_t page) {
  Page& entry = pages_[static_cast<size_t>(page)];
  (entry.older >= 0 ? pages_[static_cast<size_t>(entry.older)].newer : oldest_) = entry.newer;
  (entry.newer >= 0 ? pages_[static_cast<size_t>(entry.newer)].older : newest_) = entry.older;
  entry.older = entry.newer = -1;
  --num_free_;
}

int32_t BlockManager::allocate() {
  CHECK(num_free_ > 0);
  int32_t page = oldest_;
  unlink_free(page);
  Page& entry = pages_[static_cast<size_t>(page)];
  if (entry.content_id != 0) forget(page);
  entry.ref_count = 1;
  return page;
}

void BlockManager::reference(int32_t page) {
  Page& entry = pages_[static_cast<size_t>(page)];
  if (entry.ref_count++ == 0) unlink_free(page);
}

void BlockManager::dereference(int32_t page) {
  Page& entry = pages_[static_cast<size_t>(page)];
  CHECK(entry.ref_count > 0, page);
  if (--entry.ref_count > 0) return;
  // A page with nothing to remember is reused before any cached one is evicted.
  if (entry.content_id != 0) {
    entry.older = newest_;
    (newest_ >= 0 ? pages_[static_cast<size_t>(newest_)].newer : oldest_) = page;
    newest_ = page;
  } else {
    entry.newer = oldest_;
    (oldest_ >= 0 ? pages_[static_cast<size_t>(oldest_)].older : newest_) = page;
    oldest_ = page;
  }
  ++num_free_;
}

void BlockManager::find_prefix(std::span<const int32_t> tokens, const PrefixKey& key,
                               PrefixMatch& match) const {
  match.pages.clear();
  match.num_unused = 0;
  match.content_id = 0;
  if (!enable_prefix_caching_) return;
  int64_t num_full = static_cast<int64_t>(tokens.size()) / kTokensPerPage;
  for (int64_t i = 0; i < num_full; ++i) {
    const int32_t* page_tokens = tokens.data() + i * kTokensPerPage;
    int32_t page = find_page(hash_page(match.content_id, page_tokens, key), match.content_id,
                             page_tokens, key);
    if (page < 0) return;
    match.pages.push_back(page);
    match.num_unused += pages_[static_cast<size_t>(page)].ref_count == 0;
    match.content_id = pages_[static_cast<size_t>(page)].content_id;
  }
}

void BlockManager::take_prefix(const PrefixMatch& match, PageTable& table) {
  CHECK(table.pages.empty(), table.pages.size());
  for (int32_t page : match.pages) reference(page);
  table.pages.assign(match.pages.begin(), match.pages.end());
  table.num_identified = static_cast<int64_t>(match.pages.size());
  table.content_id = match.content_id;
}

int64_t BlockManager::count_needed(const PageTable& table, int64_t first_position,
                                   int64_t num_tokens) const {
  int64_t held = static_cast<int64_t>(table.pages.size());
  int64_t needed = count_pages(first_position + num_tokens) - held;
  int64_t first_page = first_position / kTokensPerPage;
  if (first_page < held) {
    const Page& page = pages_[static_cast<size_t>(table.pages[static_cast<size_t>(first_page)])];
    needed += page.ref_count > 1 || page.content_id != 0;
  }
  return needed;
}

bool BlockManager::prepare_write(PageTable& table, int64_t first_position, int64_t num_tokens,
                                 std::vector<llm::PageCopy>& copies) {
  CHECK(num_tokens > 0 && count_pages(first_position) <= static_cast<int64_t>(table.pages.size()),
        first_position, num_tokens, table.pages.size());
  if (count_needed(table, first_position, num_tokens) > num_free_) return false;
  size_t first_page = static_cast<size_t>(first_position / kTokensPerPage);
  if (first_page < table.pages.size()) {
    // Pages are appended just before they are written, so no page after this one can exist yet.
    CHECK(first_page + 1 == table.pages.size(), first_position, table.pages.size());
    int32_t page = table.pages[first_page];
    const Page& entry = pages_[static_cast<size_t>(page)];
    if (entry.ref_count > 1 || entry.content_id != 0) {
      // The old page may become free here, and may be written in this very step: copies happen
      // before, and in order.
      int32_t copy = allocate();
      copies.push_back({.from = page, .to = copy});
      table.pages[first_page] = copy;
      dereference(page);
    }
  }
  int64_t wanted = count_pages(first_position + num_tokens);
  while (static_cast<int64_t>(table.pages.size()) < wanted) table.pages.push_back(allocate());
  return true;
}

void BlockManager::register_full_pages(PageTable& table, std::span<const int32_t> tokens,
                                       int64_t num_computed, const PrefixKey& key) {
  if (!enable_prefix_caching_) return;
  int64_t num_full = num_computed / kTokensPerPage;
  for (; table.num_identified < num_full; ++table.num_identified) {
    int32_t& own = table.pages[static_cast<size_t>(table.num_identified)];
    const int32_t* page_tokens = tokens.data() + table.num_identified * kTokensPerPage;
    uint64_t parent_id = table.content_id;
    uint64_t hash = hash_page(parent_id, page_tokens, key);
    int32_t cached = find_page(hash, parent_id, page_tokens, key);
    if (cached < 0) {
      // A page shared by forked sequences may be full and already cached under the same chain;
      // never twice.
      if (pages_[static_cast<size_t>(own)].content_id == 0)
        enter(own, hash, parent_id, page_tokens, key);
      cached = own;
    } else if (cached != own) {
      reference(cached);
      dereference(own);
      own = cached;
    }
    table.content_id = pages_[static_cast<size_t>(cached)].content_id;
  }
}

void BlockManager::share(const PageTable& from, PageTable& to) {
  CHECK(to.pages.empty(), to.pages.size());
  for (int32_t page : from.pages) reference(page);
  to = from;
}

void BlockManager::release(PageTable& table) {
  for (size_t i = table.pages.size(); i-- > 0;) dereference(table.pages[i]);
  table.pages.clear();
  table.num_identified = 0;
  table.content_id = 0;
}

void BlockManager::check_integrity(std::span<const PageTable* const> tables) const {
  std::vector<int32_t> counts(pages_.size(), 0);
  for (const PageTable* table : tables) {
    CHECK(table->num_identified <= static_cast<int64_t>(table->pages.size()));
    for (int32_t page : table->pages) {
      CHECK(page >= 0 && page < num_pages(), page);
      ++counts[static_cast<size_t>(page)];
    }
  }
  int64_t num_used = 0, num_cached = 0;
  for (int32_t page = 0; page < num_pages(); ++page) {
    const Page& entry = pages_[static_cast<size_t>(page)];
    CHECK(entry.ref_count == counts[static_cast<size_t>(page)], page, entry.ref_count,
          counts[static_cast<size_t>(page)]);
    num_used += entry.ref_count > 0;
    if (entry.content_id == 0) continue;
    ++num_cached;
    int32_t found = buckets_[entry.hash & (buckets_.size() - 1)];
    while (found >= 0 && found != page) found = pages_[static_cast<size_t>(found)].next_in_bucket;
    CHECK(found == page, page, entry.hash);
  }
  int64_t num_listed = 0;
  for (int32_t page = oldest_, older = -1; page >= 0;
       older = page, page = pages_[static_cast<size_t>(page)].newer) {
    CHECK(pages_[static_cast<size_t>(page)].ref_count == 0 &&
              pages_[static_cast<size_t>(page)].older == older,
          page);
    CHECK(++num_listed <= num_pages(), page);
  }
  CHECK(num_listed == num_free_ && num_free_ + num_used == num_pages(), num_listed, num_free_,
        num_used, num_pages());
  CHECK(num_cached == num_cached_, num_cached, num_cached_);
}

}  // namespace sluice::engine
