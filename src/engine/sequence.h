// What the engine keeps of a live request. A RequestState owns its Sequences: sequence 0 computes
// the prompt; when its last prompt token is in a step, the other num_sequences - 1 appear and share
// its pages. A Sequence is its tokens, how many of them are computed, and where: there is no
// prefill and no decode, only num_computed catching up with tokens. Belongs to the engine thread;
// the sampler's workers read it during a step.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "engine/block_manager.h"
#include "engine/request.h"

namespace sluice::engine {

enum class SequenceState { kWaiting, kRunning, kFinished };

struct RequestState;

// [0, num_computed): keys and values are in the pages of `table`
// [num_computed, tokens.size()): to be computed; one token while generating, more after arrival or
// preemption
struct Sequence {
  RequestState* request = nullptr;
  int index = 0;  // in RequestState::sequences; also the random stream
  SequenceState state = SequenceState::kWaiting;
  std::vector<int32_t> tokens;  // prompt, then generated
  int64_t num_prompt_tokens = 0;
  int64_t num_computed = 0;
  PageTable table;
  // Of each distinct token, how often it was generated (0: in the prompt only). Kept only if a
  // penalty is asked for.
  std::unordered_map<int32_t, int32_t> output_counts;

  FinishReason finish_reason = FinishReason::kNone;
  std::optional<int32_t> stop_token;
  bool stopped_by_end_token = false;
  bool is_reported = false;  // its last event is out

  int64_t num_tokens() const { return static_cast<int64_t>(tokens.size()); }
  int64_t num_generated() const { return num_tokens() - num_prompt_tokens; }
  int64_t num_remaining() const { return num_tokens() - num_computed; }
};

struct RequestState {
  Request request;  // its prompt has moved into sequence 0
  uint64_t seed = 0;
  PrefixKey prefix_key;
  bool counts_tokens = false;  // some penalty is on
  uint64_t arrival_index = 0;  // set by the scheduler
  // One until the prompt is computed, then request.num_sequences.
  std::vector<std::unique_ptr<Sequence>> sequences;
  int num_unfinished = 0;   // of request.num_sequences
  int num_unreported = 0;   // of request.num_sequences, those whose last event is still to come
  bool is_planned = false;  // its first step is in flight or behind it
  int64_t num_cached_tokens = 0;                  // found in the prefix cache when first scheduled
  std::vector<PositionLogprobs> prompt_logprobs;  // as far as computed
  bool has_sent_prompt_logprobs = false;          // they have moved into an event
  Timings timings;

  const SamplingParams& sampling() const { return request.sampling; }
  bool wants_prompt_logprobs() const { return request.sampling.num_prompt_logprobs != kNoLogprobs; }
  // Prompt positions whose logprobs are still to be computed. The first token has none to compute.
  int64_t num_prompt_logprobs_left() const {
    if (!wants_prompt_logprobs() || has_sent_prompt_logprobs) return 0;
    return sequences.front()->num_prompt_tokens -
           std::max<int64_t>(1, static_cast<int64_t>(prompt_logprobs.size()));
  }
  bool is_forked() const { return static_cast<int>(sequences.size()) == request.num_sequences; }
};

// Takes the prompt out of `request` into sequence 0.
inline std::unique_ptr<RequestState> make_request_state(Request request, uint64_t seed) {
  auto state = std::make_unique<RequestState>();
  auto first = std::make_unique<Sequence>();
  first->request = state.get();
  first->tokens = std::move(request.prompt);
  first->num_prompt_tokens = first->num_tokens();
  const SamplingParams& sampling = request.sampling;
  state->counts_tokens = sampling.repetition_penalty != 1.0 || sampling.frequency_penalty != 0.0 ||
                         sampling.presence_penalty != 0.0;
  if (state->counts_tokens) {
    for (int32_t token : first->tokens) first->output_counts.emplace(token, 0);
  }
  state->seed = seed;
  state->prefix_key = make_prefix_key(request.adapter, request.cache_salt);
  state->num_unfinished = state->num_unreported = request.num_sequences;
  state->sequences.push_back(std::move(first));
  state->request = std::move(request);
  return state;
}

inline void append_token(Sequence& sequence, int32_t token) {
  sequence.tokens.push_back(token);
  if (sequence.request->counts_tokens) ++sequence.output_counts[token];
}

}  // namespace sluice::engine
