// One language model: token ids in, logits out. Loaded once, immutable afterwards; forward() is called by the engine
// thread only and spreads its work over the pool.
#pragma once

#include <cstdint>
#include <string>

#include "llm/batch.h"
#include "llm/kv_store.h"

namespace sluice::llm {

class Model {
 public:
  virtual ~Model() = default;

  virtual int64_t vocab_size() const = 0;
  virtual int64_t max_positions() const = 0;       // the context length the checkpoint states
  virtual KvLayout kv_layout(DType kv_type) const = 0;
  virtual std::string description() const = 0;     // "llama 1.1B q4_0, 22 layers"
  virtual int64_t num_parameters() const = 0;
  virtual int64_t weight_bytes() const = 0;

  // Computes the batch, writes its keys and values into `kv`, and the logits of batch.logit_tokens[i] to
  // logits + i * vocab_size(). REQUIRES: batch.tokens within the vocabulary, pages within kv.
  virtual void forward(const Batch& batch, KvStore& kv, float* logits) = 0;  // logits: [num_logit_tokens, vocab_size]
};

}  // namespace sluice::llm
