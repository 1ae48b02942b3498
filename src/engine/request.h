// What goes into the engine and what comes out: token ids only, no text. A Request is handed over by value; its Events
// come back through its sink, on the engine thread, in order. A sink must return at once (post to a queue, wake a
// coroutine) and may not call back into the engine except for cancel() and finish_sequence().
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "sluice/error.h"

namespace sluice::engine {

inline constexpr int kNoLogprobs = -1;   // none wanted
inline constexpr int kAllLogprobs = -2;  // the whole vocabulary

// Order of application (as vLLM): allowed ids, min_tokens, bad words, logit bias, penalties, [logprobs are taken from
// the untouched logits], temperature, min_p, top_k, top_p, typical_p, draw. temperature 0 is exact argmax.
struct SamplingParams {
  double temperature = 1.0;
  int64_t top_k = 0;            // 0 or -1: off
  double top_p = 1.0;
  double min_p = 0.0;
  double typical_p = 1.0;
  double repetition_penalty = 1.0;  // over prompt and output
  double frequency_penalty = 0.0;   // over output
  double presence_penalty = 0.0;    // over output
  std::vector<std::pair<int32_t, float>> logit_bias;
  std::vector<std::vector<int32_t>> bad_words;   // token sequences that must not appear
  std::vector<int32_t> allowed_token_ids;        // empty: all
  std::optional<uint64_t> seed;                  // absent: drawn at submit
  std::vector<int32_t> stop_token_ids;           // besides the model's end tokens
  bool ignore_eos = false;
  int64_t min_tokens = 0;       // end and stop tokens are masked before this many
  int64_t max_tokens = 16;      // >= 0; 0 with prompt_logprobs scores the prompt and generates nothing
  int num_logprobs = kNoLogprobs;     // 0: the chosen token's only; k: and the k most likely
  int num_prompt_logprobs = kNoLogprobs;
};

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;
  int32_t rank = 0;  // 1: the most likely
};

// Of one position: the token that is there, and the most likely ones, best first.
struct PositionLogprobs {
  TokenLogprob chosen;
  std::vector<TokenLogprob> top;
};

enum class FinishReason { kNone, kStop, kLength, kAbort, kError };

// Times of one request, monotonic microseconds. 0: not reached.
struct Timings {
  int64_t arrival_us = 0;       // set by the caller before tokenisation, or by submit()
  int64_t queued_us = 0;
  int64_t scheduled_us = 0;     // first put into a step
  int64_t first_token_us = 0;
  int64_t finished_us = 0;
};

struct Event {
  int sequence_index = 0;                 // [0, num_sequences)
  std::vector<int32_t> tokens;            // new tokens; the end or stop token that finished it is included as the last
  std::vector<PositionLogprobs> logprobs; // one a token, if wanted
  // With the first event of sequence 0, if wanted: one a prompt token; the first has no logprob (NaN).
  std::shared_ptr<const std::vector<PositionLogprobs>> prompt_logprobs;
  FinishReason finish_reason = FinishReason::kNone;
  std::optional<int32_t> stop_token;      // the id that stopped it, when it did
  bool stopped_by_end_token = false;      // it was one of the model's own end tokens
  int64_t num_cached_tokens = 0;          // prompt tokens found in the prefix cache
  bool is_last = false;                   // the last event of the whole request; nothing follows
  int64_t emitted_us = 0;                 // when its step was done: one time for all events of a step, as in `timings`
  Timings timings;
  std::optional<Error> error;             // with kError
};

using EventSink = std::function<void(Event&&)>;

// Who goes first when not everybody can: by arrival, or by Request::priority and then by arrival.
enum class SchedulingPolicy { kFcfs, kPriority };

struct Request {
  std::string id;                   // unique among live requests; shown in logs
  std::vector<int32_t> prompt;      // at least one token
  SamplingParams sampling;
  int num_sequences = 1;            // n or best_of; they share the prompt's pages
  int64_t priority = 0;             // lower is earlier, under --scheduling-policy priority
  std::string cache_salt;           // isolates prefix-cache reuse
  std::string adapter;              // LoRA adapter, part of the prefix hash; empty: none
  int64_t arrival_us = 0;           // 0: now
  EventSink sink;
};

}  // namespace sluice::engine
