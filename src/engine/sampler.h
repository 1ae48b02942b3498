// Logits to a token: masks, penalties, temperature, filters, draw; and log-probabilities from the
// untouched logits. Pure arithmetic without state: what is picked depends on the logits, the
// sequence and its request's parameters only, the random number being a function of (seed, sequence
// index, number of tokens generated). So a request's text does not depend on its neighbours, nor on
// preemption. Any number of threads may call it, each with a Scratch of its own and no two at once
// with the same row.
//
// Nothing sorts the vocabulary: candidates are selected in linear time, and only what is left after
// top_k, min_p or the bulk of top_p is looked at more closely.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "engine/request.h"
#include "engine/sequence.h"

namespace sluice::engine {

class Sampler {
 public:
  struct Candidate {
    float key;     // larger is better; the logit, or how typical it is
    float weight;  // proportional to its probability
    int32_t token;
  };
  // Memory of one thread, kept from call to call.
  struct Scratch {
    std::vector<Candidate> candidates;
    std::vector<std::pair<int32_t, float>> undo;  // changed logits and what they were
    std::vector<float> row;                       // [vocab_size], where nearly all logits change
    std::vector<double> block_sums;
  };

  Sampler(int64_t vocab_size, std::vector<int32_t> end_tokens);

  // Throws Error if parameters are out of range or a token is outside the vocabulary.
  void validate(const SamplingParams& sampling) const;

  // logits: [vocab_size], changed during the call and restored. Throws Error if one is not a
  // number, or if nothing may be picked.
  int32_t pick(float* logits, const Sequence& sequence, Scratch& scratch) const;
  // `num_top` as SamplingParams::num_logprobs. Throws Error if a logit is not a number.
  PositionLogprobs score(const float* logits, int32_t token, int num_top, Scratch& scratch) const;

 private:
  int32_t draw(const float* logits, const Sequence& sequence, Scratch& scratch) const;

  const int64_t vocab_size_;
  const std::vector<int32_t> end_tokens_;
};

}  // namespace sluice::engine
