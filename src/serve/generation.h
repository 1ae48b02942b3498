// One running request: the engine's events go in, text comes out.
//
// The engine thread pushes events into an EventQueue, which does nothing but store them and wake the consumer.
// The consumer (an HTTP thread, or the terminal of `sluice run`) takes Chunks; detokenising, stop strings,
// best_of and the request's log line and metrics all happen on its thread. A Generation has one consumer.
// Destroying it before it is done cancels the request. The Model that made it must outlive it.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "engine/request.h"
#include "serve/metrics.h"
#include "serve/model.h"
#include "sluice/error.h"
#include "text/detokenizer.h"
#include "text/tokenizer.h"

namespace sluice::serve {

struct TokenText {
  int32_t id = 0;
  std::string bytes;     // what the token adds to the text; may be half a character
  float logprob = 0;     // NaN: none (the first token of a prompt)
  int32_t rank = 0;      // 1: the most likely
};

struct TokenLogprobs {
  TokenText chosen;
  std::vector<TokenText> top;  // best first
};

// What stopped a sequence: nothing worth naming (end token, length), a stop token, a stop string.
using StopReason = std::variant<std::monostate, int32_t, std::string>;

// What one sequence brought. Valid UTF-8 that is final: no part of a stop string, no half character.
struct Chunk {
  int index = 0;                        // [0, n)
  std::string text;
  std::vector<int32_t> tokens;
  std::vector<TokenLogprobs> logprobs;  // one a token, if wanted
  int64_t num_tokens = 0;               // of this sequence so far, these included
  FinishReason finish_reason = FinishReason::kNone;
  StopReason stop_reason;
  std::optional<Error> error;           // the whole request failed; nothing follows
};

struct Usage {
  int64_t prompt_tokens = 0, completion_tokens = 0, cached_tokens = 0;
};

class EventQueue {
 public:
  explicit EventQueue(Wake wake) : wake_(std::move(wake)) {}

  // Engine thread. The number of events is bounded by the tokens the request may have.
  void push(engine::Event&& event);
  struct Stamped {
    engine::Event event;
    int64_t time_us = 0;
  };
  std::optional<Stamped> try_pop();
  // Waits for an event, until `deadline_us` if that is not 0.
  std::optional<Stamped> wait_pop(int64_t deadline_us);
  bool empty() const;
  // From now on events are dropped.
  void close();

 private:
  const Wake wake_;  // called when the queue stops being empty
  mutable std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<Stamped> events_;
  bool closed_ = false;
};

struct GenerationSetup {
  std::string id;
  const text::Tokenizer* tokenizer = nullptr;  // null: chunks have tokens and no text
  std::vector<int32_t> prompt;
  std::string prompt_text;
  int n = 1;
  int best_of = 1;                     // sequences that the engine runs
  text::DetokenizerOptions detokenizer;
  bool wants_logprobs = false;
  int64_t max_tokens = 0;              // for metrics
  int64_t arrival_us = 0, deadline_us = 0;
  std::function<void()> cancel;                          // both may be called from any thread
  std::function<void(int sequence_index)> finish_sequence;
  ModelMetrics* metrics = nullptr;     // may be null
};

class Generation {
 public:
  Generation(GenerationSetup setup, std::shared_ptr<EventQueue> queue);
  ~Generation();
  Generation(const Generation&) = delete;
  Generation& operator=(const Generation&) = delete;

  // The chunks that are ready, at most about `max_chunks`; never waits. Empty: wait for the wake, unless done().
  std::vector<Chunk> take(size_t max_chunks = 64);
  // The next chunk, waiting for it; nullopt when the request is done.
  std::optional<Chunk> next();
  // Every chunk has been handed out.
  bool done() const { return complete_ && ready_.empty(); }
  // Something to take at once.
  bool has_more() const { return !ready_.empty() || (!complete_ && !queue_->empty()); }
  void cancel();

  const std::string& id() const { return setup_.id; }
  const std::vector<int32_t>& prompt() const { return setup_.prompt; }
  const std::string& prompt_text() const { return setup_.prompt_text; }
  int n() const { return setup_.n; }
  int64_t deadline_us() const { return setup_.deadline_us; }
  // One a prompt token, once the first chunk is there and if they were wanted.
  const std::vector<TokenLogprobs>& prompt_logprobs() const { return prompt_logprobs_; }
  // Of what the engine sent so far.
  Usage usage() const;
  // Milliseconds from arrival to the first token; negative before.
  double first_token_ms() const;
  // Tokens a second after the first, over all sequences; 0 when there were not two.
  double tokens_per_second() const;

 private:
  struct Sequence {
    std::optional<text::Detokenizer> detokenizer;
    int64_t num_tokens = 0;
    int64_t last_time_us = 0;
    double logprob_sum = 0;
    bool finished = false;
    std::vector<Chunk> kept;   // best_of: until the best are known
  };

  void process(EventQueue::Stamped&& stamped);
  void add_tokens(Sequence& sequence, const engine::Event& event, int64_t time_us, Chunk& chunk);
  void fail_with(Error error);
  void complete(const char* finished_reason);
  void rank_sequences();
  void check_deadline();
  TokenText describe(const engine::TokenLogprob& logprob) const;
  TokenLogprobs describe(const engine::PositionLogprobs& position) const;

  const GenerationSetup setup_;
  const std::shared_ptr<EventQueue> queue_;
  std::vector<Sequence> sequences_;
  std::deque<Chunk> ready_;
  std::vector<TokenLogprobs> prompt_logprobs_;
  engine::Timings timings_;
  int64_t num_cached_tokens_ = 0;
  int64_t last_token_us_ = 0;
  int num_finished_ = 0;
  bool complete_ = false;
  const char* finished_reason_ = "stop";
};

}  // namespace sluice::serve
