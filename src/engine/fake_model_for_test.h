// A language model of no weights, for tests: what it says next is a hash of all tokens it finds in
// the KV pages of a sequence, so that wrong pages show. Token kFailToken makes forward() throw,
// kNanToken makes the logits NaN, and a gate holds steps back.
#pragma once

#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstring>
#include <limits>
#include <mutex>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "llm/model.h"

namespace sluice::engine {

class FakeModel : public llm::Model {
 public:
  static constexpr int64_t kVocabulary = 64;
  static constexpr int32_t kEndToken = 2, kFailToken = 63, kNanToken = 62;

  int64_t vocab_size() const override { return kVocabulary; }
  int64_t max_positions() const override { return 512; }
  llm::KvLayout kv_layout(DType) const override {
    return {.num_layers = 1, .num_kv_heads = 1, .head_dim = 2, .type = DType::kF32};
  }
  std::string description() const override { return "fake"; }
  int64_t num_parameters() const override { return 0; }
  int64_t weight_bytes() const override { return 0; }

  void forward(const llm::Batch& batch, llm::KvStore& kv, float* logits) override {
    ++num_steps;
    wait_at_gate();
    for (const llm::PageCopy& copy : batch.page_copies) kv.copy_page(copy.from, copy.to);
    for (const llm::BatchSequence& part : batch.sequences) {
      for (int64_t i = 0; i < part.num_tokens; ++i) {
        int32_t token = batch.tokens[static_cast<size_t>(part.first_token + i)];
        if (token == kFailToken) fail(Code::kInternal, "the fake model met token {}", token);
        cell(kv, part, part.first_position + i)[0] = static_cast<float>(token);
        cell(kv, part, part.first_position + i)[1] = static_cast<float>(part.first_position + i);
      }
    }
    size_t row = 0;
    for (const llm::BatchSequence& part : batch.sequences) {
      std::vector<int32_t> history;
      for (int64_t position = 0; position < part.first_position + part.num_tokens; ++position) {
        const float* seen = cell(kv, part, position);
        history.push_back(seen[1] == static_cast<float>(position) ? static_cast<int32_t>(seen[0])
                                                                  : -1);
        int64_t token_index = part.first_token + position - part.first_position;
        if (row >= batch.logit_tokens.size() || batch.logit_tokens[row] != token_index) continue;
        write_logits(history, logits + static_cast<int64_t>(row) * kVocabulary);
        ++row;
      }
    }
  }

  static void write_logits(const std::vector<int32_t>& history, float* logits) {
    uint64_t hash = 1;
    bool is_nan = false;
    for (int32_t token : history) {
      hash = (hash ^ static_cast<uint64_t>(token)) * 0x9e3779b97f4a7c15ull;
      hash ^= hash >> 32;
      is_nan = is_nan || token == kNanToken;
    }
    for (int64_t i = 0; i < kVocabulary; ++i) {
      logits[i] = is_nan ? std::nanf("")
                         : static_cast<float>(uniform(hash, 0, static_cast<uint64_t>(i)) * 8 - 4);
    }
    for (int32_t token : {kEndToken, kFailToken, kNanToken})
      logits[token] = -20.0f;  // only when asked for
  }

  // While shut, every step waits.
  void shut_gate() {
    std::lock_guard lock(mutex_);
    is_shut_ = true;
  }
  void open_gate() {
    std::lock_guard lock(mutex_);
    is_shut_ = false;
    changed_.notify_all();
  }
  void wait_until_in_step() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return is_in_step_; });
  }

  std::atomic<int64_t> num_steps{0};

 private:
  static float* cell(llm::KvStore& kv, const llm::BatchSequence& part, int64_t position) {
    return static_cast<float*>(kv.key_page(0, part.pages[position / 16], 0)) + position % 16 * 2;
  }

  void wait_at_gate() {
    std::unique_lock lock(mutex_);
    is_in_step_ = is_shut_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return !is_shut_; });
    is_in_step_ = false;
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool is_shut_ = false, is_in_step_ = false;
};

}  // namespace sluice::engine
