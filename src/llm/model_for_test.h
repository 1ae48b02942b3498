// For tests: a model from a path, and a small driver that hands it batches as the engine would.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "formats/weight_file.h"
#include "llm/registry.h"
#include "llm/transformer.h"

namespace sluice::llm {

// Tests compare batches bit by bit. Set before anything asks for the kernels.
inline const bool kIsBatchInvariant = setenv("SLUICE_BATCH_INVARIANT", "1", 1) == 0;

struct TestModel {
  explicit TestModel(const std::string& path, int num_threads = 2, bool repack = true) : pool(num_threads) {
    std::string folder = std::filesystem::is_directory(path)
                             ? path
                             : std::filesystem::path(path).parent_path().string();
    model = load_model(formats::open_weights(path), folder, pool, repack);
  }
  Transformer& transformer() { return dynamic_cast<Transformer&>(*model); }

  ThreadPool pool;
  std::unique_ptr<Model> model;
};

// One sequence and the pages it has: `first_page`, and every second one from there, so that pages
// are never in a row.
struct TestSequence {
  TestSequence(int32_t first_page, int num_pages) {
    for (int i = 0; i < num_pages; ++i) pages.push_back(first_page + 2 * i);
  }
  std::vector<int32_t> pages;
  int64_t num_computed = 0;
};

inline void add_to_batch(Batch& batch, TestSequence& sequence, const std::vector<int32_t>& tokens,
                         int64_t count) {
  batch.sequences.push_back({.first_token = static_cast<int64_t>(batch.tokens.size()),
                             .num_tokens = count,
                             .first_position = sequence.num_computed,
                             .pages = sequence.pages.data()});
  for (int64_t i = 0; i < count; ++i) {
    batch.logit_tokens.push_back(static_cast<int32_t>(batch.tokens.size()));
    batch.tokens.push_back(tokens[static_cast<size_t>(sequence.num_computed + i)]);
  }
  sequence.num_computed += count;
}

// Logits of every position, the prompt cut into chunks of at most `chunk` tokens: [tokens.size(),
// vocab_size].
inline std::vector<float> compute_logits(TestModel& m, const std::vector<int32_t>& tokens,
                                         int64_t chunk, DType kv_type = DType::kF32) {
  const int64_t total = static_cast<int64_t>(tokens.size()), vocab = m.model->vocab_size();
  const int num_pages = static_cast<int>(total / kernels::kPageSize + 1);
  KvStore kv(m.model->kv_layout(kv_type), 2 * num_pages);
  TestSequence sequence(1, num_pages);
  std::vector<float> logits(static_cast<size_t>(total * vocab));
  while (sequence.num_computed < total) {
    Batch batch;
    int64_t first = sequence.num_computed;
    add_to_batch(batch, sequence, tokens, std::min(chunk, total - first));
    m.model->forward(batch, kv, logits.data() + first * vocab);
  }
  return logits;
}

}  // namespace sluice::llm
