// Logits to a token: masks, penalties, temperature, filters, draw; and log-probabilities from the
// untouched logits. Pure arithmetic without state: what is picked depends on the logits, the
// sequence and its request's parameters only, the random number being a function of (seed, sequence
// index, number of tokens generated). So a request's text does not depend on its neighbours, nor on
// preemption. Any number of threads may call it, each with a Scratch of its own and no two at once
// with the same row.
//
// Nothing sorts the vocabulary. What a filter keeps is everything down to some border, and the
// border is found by bisection: each look is one pass of vector code over the row that adds up what
// is above, and only the last few hundred tokens around the border are sorted. So a flat row costs
// no more than a peaked one. The draw goes through what is kept in the order of token ids.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "engine/request.h"
#include "engine/sequence.h"
#include "kernels/kernels.h"

namespace sluice::engine {

class Sampler {
 public:
  struct Candidate {
    float key;     // larger is better
    float weight;  // proportional to its probability
    int32_t index;  // of the token, or among the top_k
  };
  // Memory of one thread, kept from call to call.
  struct Scratch {
    std::vector<Candidate> candidates;
    std::vector<std::pair<int32_t, float>> undo;  // changed logits and what they were
    std::vector<float> row;                       // [vocab_size], where nearly all logits change
    // Of the tokens there are to draw from, all or the top_k best, by ascending id.
    std::vector<float> logits;    // [top_k]
    std::vector<int32_t> tokens;  // [top_k]
    std::vector<float> weights;   // [>= their number]
    std::vector<float> keys;      // [>= their number], how typical each is
    std::vector<double> block_sums;
    int64_t num_kept = 0;  // tokens that the last draw chose from
  };

  Sampler(int64_t vocab_size, std::vector<int32_t> end_tokens,
          const kernels::Kernels& kernels = kernels::get_kernels());

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
  const kernels::Kernels& kernels_;
};

}  // namespace sluice::engine
