// The contract between "which tokens" (engine) and "what is computed" (llm): plain arrays, no behaviour.
//
// A batch holds the new tokens of every sequence of one step, back to back. There is no prefill and no decode: a
// sequence brings one token or two thousand, its earlier ones are in its pages. The scheduler owns the batch and reuses
// it from step to step.
#pragma once

#include <cstdint>
#include <vector>

namespace sluice::llm {

struct BatchSequence {
  int64_t first_token = 0;     // index of its first new token in Batch::tokens
  int64_t num_tokens = 0;      // new tokens in this batch, >= 1
  int64_t first_position = 0;  // position of its first new token = tokens already in its pages
  const int32_t* pages = nullptr;  // [ceil((first_position + num_tokens) / 16)] page ids, oldest first
};

struct PageCopy {
  int32_t from = 0, to = 0;
};

struct Batch {
  std::vector<int32_t> tokens;           // [num_tokens]
  std::vector<BatchSequence> sequences;  // first_token ascending, no gaps
  std::vector<int32_t> logit_tokens;     // ascending indices into tokens whose logits are wanted
  std::vector<PageCopy> page_copies;     // done before anything is computed (copy on write)

  void clear() {
    tokens.clear();
    sequences.clear();
    logit_tokens.clear();
    page_copies.clear();
  }
};

}  // namespace sluice::llm
