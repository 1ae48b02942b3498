// The Unigram model (Kudo, "Subword Regularization", 2018): of all ways to write a text as tokens, the one with the
// greatest sum of scores, found by Viterbi over a trie in time linear in the text. Immutable; any thread.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <string_view>
#include <vector>

#include "text/trie.h"
#include "text/vocabulary.h"

namespace sluice::text {

class Unigram {
 public:
  // scores[id]; `matchable[id]`: whether text may become this token (empty: all). `unknown_id` may be -1: then what the
  // vocabulary cannot express vanishes. `lowest_score`: what an unknown character is scored by; infinity: the least score of
  // all tokens.
  Unigram(std::shared_ptr<const Vocabulary> vocabulary, std::vector<double> scores, const std::vector<bool>& matchable,
          int32_t unknown_id, bool byte_fallback,
          double lowest_score = std::numeric_limits<double>::infinity());

  // Appends the ids of one piece. Unknown characters side by side become one unknown token, or their bytes.
  void encode(std::string_view piece, std::vector<int32_t>& ids) const;

 private:
  std::shared_ptr<const Vocabulary> vocabulary_;
  std::vector<double> scores_;
  Trie trie_;
  int32_t unknown_id_;
  double unknown_score_;
  std::vector<int32_t> byte_ids_;  // [256], or empty without fallback
};

}  // namespace sluice::text
