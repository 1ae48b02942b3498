// Which KV page belongs to whom: page tables, reference counts, the free list and the prefix cache.
// Knows page numbers and token ids, never the memory behind a page (llm/kv_store.h). Owned by the
// scheduler's thread; no locks, no clock.
//
// A page holds kPageSize tokens. A page that is full may be entered into the prefix cache: it is
// found again by what it holds, which is (the cached page before it, its 16 tokens), and for a
// first page the adapter and cache salt. Each cached page has a content id that is never reused,
// and a look-up compares the id of the parent and all 16 tokens, so equal hashes of different pages
// cost time and nothing else. Pages that nobody uses stay in the cache until the free list hands
// them out again, least recently used first. A page that is shared or cached is never written:
// whoever needs to write gets a copy (prepare_write).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "llm/batch.h"

namespace sluice::engine {

inline constexpr int64_t kTokensPerPage = 16;  // kernels::kPageSize

inline int64_t count_pages(int64_t num_tokens) {
  return (num_tokens + kTokensPerPage - 1) / kTokensPerPage;
}

// Tells apart equal tokens that mean something else: adapter and cache salt. Null when both are
// empty.
using PrefixKey = std::shared_ptr<const std::string>;
PrefixKey make_prefix_key(const std::string& adapter, const std::string& cache_salt);

struct PageTable {
  std::vector<int32_t> pages;  // oldest first
  int64_t num_identified =
      0;  // leading pages whose content id is known: they are, or equal, a cached page
  uint64_t content_id = 0;  // of the last of those; 0: none
};

struct PrefixMatch {
  std::vector<int32_t>
      pages;               // the longest run of cached pages that holds the beginning of the tokens
  int64_t num_unused = 0;  // of them, those that count as free now
  uint64_t content_id = 0;
};

struct BlockManagerOptions {
  int64_t num_pages = 0;
  bool enable_prefix_caching = true;
  uint64_t hash_seed = 0;  // secret in a server, so that nobody can choose colliding prompts
  uint64_t hash_mask = ~uint64_t{0};  // tests narrow it to make hashes collide
};

class BlockManager {
 public:
  explicit BlockManager(const BlockManagerOptions& options);
  BlockManager(const BlockManager&) = delete;
  BlockManager& operator=(const BlockManager&) = delete;

  int64_t num_pages() const { return static_cast<int64_t>(pages_.size()); }
  int64_t num_free() const { return num_free_; }  // cached pages that nobody uses included
  int64_t num_cached() const { return num_cached_; }

  // Fills `match` (its memory is reused) and changes nothing.
  void find_prefix(std::span<const int32_t> tokens, const PrefixKey& key, PrefixMatch& match) const;
  // REQUIRES: `table` is empty and nothing changed since find_prefix.
  void take_prefix(const PrefixMatch& match, PageTable& table);

  // Pages that must be free for prepare_write(table, first_position, num_tokens).
  int64_t count_needed(const PageTable& table, int64_t first_position, int64_t num_tokens) const;
  // Makes positions [first_position, first_position + num_tokens) writable: appends pages, and
  // replaces a shared or cached page at first_position by a copy, which is added to `copies`.
  // False, with nothing changed, if too few are free. REQUIRES: the table covers [0,
  // first_position).
  [[nodiscard]] bool prepare_write(PageTable& table, int64_t first_position, int64_t num_tokens,
                                   std::vector<llm::PageCopy>& copies);

  // Enters the table's full pages of tokens[0, num_computed) into the prefix cache. Where an equal
  // page is cached already, the table takes that one and gives its own back.
  void register_full_pages(PageTable& table, std::span<const int32_t> tokens, int64_t num_computed,
                           const PrefixKey& key);

  // REQUIRES: `to` is empty.
  void share(const PageTable& from, PageTable& to);
  // Gives all pages back, the last first, so that the tail of a sequence leaves the cache before
  // its beginning.
  void release(PageTable& table);

  // CHECKs that free + used = all, that every reference count equals the number of tables that hold
  // the page, and that free list and prefix cache are sound. `tables` are all tables there are.
  void check_integrity(std::span<const PageTable* const> tables) const;

 private:
  struct Page {
    int32_t ref_count = 0;
    int32_t older = -1, newer = -1;  // neighbours in the free list, while ref_count is 0
    int32_t next_in_bucket = -1;
    uint64_t content_id = 0;  // 0: not in the prefix cache
    uint64_t parent_id = 0;   // content id of the page before; 0: none
    uint64_t hash = 0;
    int32_t tokens[kTokensPerPage] = {};
    PrefixKey key;  // first pages only
  };

  uint64_t hash_page(uint64_t parent_id, const int32_t* tokens, const PrefixKey& key) const;
  int32_t find_page(uint64_t hash, uint64_t parent_id, const int32_t* tokens,
                    const PrefixKey& key) const;
  void enter(int32_t page, uint64_t hash, uint64_t parent_id, const int32_t* tokens,
             const PrefixKey& key);
  void forget(int32_t page);
  int32_t allocate();
  void reference(int32_t page);
  void dereference(int32_t page);
  void unlink_free(int32_t page);

  std::vector<Page> pages_;
  std::vector<int32_t> buckets_;  // first page of each hash chain, or -1
  const bool enable_prefix_caching_;
  const uint64_t hash_seed_, hash_mask_;
  int32_t oldest_ = -1, newest_ = -1;  // ends of the free list; the oldest is handed out first
  int64_t num_free_ = 0, num_cached_ = 0;
  uint64_t last_content_id_ = 0;
};

}  // namespace sluice::engine
