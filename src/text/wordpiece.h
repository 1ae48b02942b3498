// WordPiece (BERT): each word is the longest token it begins with, then the longest continuations, or one unknown token
// for the whole. And WordLevel: a word is a token or unknown. Immutable; any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/trie.h"
#include "text/vocabulary.h"

namespace sluice::text {

class WordPiece {
 public:
  struct Options {
    int32_t unknown_id = -1;
    std::string continuing_prefix = "##";  // how the vocabulary writes a continuation
    std::string start_prefix;              // how it writes the beginning of a word ("▁" in GGUF files), often empty
    size_t max_characters = 100;           // of a word; longer ones are unknown
  };
  WordPiece(std::shared_ptr<const Vocabulary> vocabulary, Options options);
  void encode(std::string_view word, std::vector<int32_t>& ids) const;

 private:
  std::shared_ptr<const Vocabulary> vocabulary_;
  Options options_;
  Trie starts_, continuations_;  // texts without their prefixes
};

class WordLevel {
 public:
  WordLevel(std::shared_ptr<const Vocabulary> vocabulary, int32_t unknown_id)
      : vocabulary_(std::move(vocabulary)), unknown_id_(unknown_id) {}
  void encode(std::string_view word, std::vector<int32_t>& ids) const {
    int32_t id = vocabulary_->find_or(word, unknown_id_);
    if (id >= 0) ids.push_back(id);
  }

 private:
  std::shared_ptr<const Vocabulary> vocabulary_;
  int32_t unknown_id_;
};

}  // namespace sluice::text
