// What the prompts of a load say: random token ids, or random words where a server takes no ids. Request i with the
// same seed always gets the same prompt; prompts with the same prefix_index begin with the same tokens, all others
// differ within the first page, so that no prefix cache helps where none is meant to. Safe for any thread once made.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "bench/workload.h"

namespace sluice::bench {

// Common English words, each one token or two in most vocabularies.
std::string draw_words(int64_t count, uint64_t seed, uint64_t stream);

struct Prompts {
  std::vector<int32_t> id_pool;   // ids are drawn from it; empty: words
  double tokens_per_word = 1;     // of words: what the server's tokenizer makes of them
  double overhead_tokens = 0;     // of words: what the server adds, such as a chat template
  uint64_t seed = 0;

  std::vector<int32_t> ids(const PlannedRequest& request, uint64_t request_index) const;
  std::string text(const PlannedRequest& request, uint64_t request_index) const;
};

}  // namespace sluice::bench
