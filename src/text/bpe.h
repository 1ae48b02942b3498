// Byte-pair encoding over characters: start from single characters, then merge the best-ranked neighbours until none is
// left. The same model serves GPT-2's byte-level BPE (pieces arrive mapped to printable characters), SentencePiece's
// (a merge's rank is the score of what it makes) and tiktoken's (the rank is the token's id). Immutable; any thread.
//
// Merging a word of n characters costs O(n log n): a heap of candidate merges over a linked list of symbols. Short words
// take a plain scan instead, which is faster.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/flat_table.h"
#include "text/vocabulary.h"

namespace sluice::text {

class Bpe {
 public:
  struct Options {
    int32_t unknown_id = -1;      // -1: what has no token vanishes
    bool fuse_unknown = false;    // unknown characters side by side become one token
    bool byte_fallback = false;   // unknown characters become <0x..> tokens
    bool ignore_merges = false;   // a piece that is a token is that token
    bool whole_newlines = false;  // ignore_merges for pieces of newlines only
    bool skip_unknown_merges = false;  // merges of what is not in the vocabulary are left out instead of an Error
    std::string continuing_subword_prefix, end_of_word_suffix;
  };

  // Merges in order of rank, each two texts of which the concatenation is a token (else Error naming the merge).
  struct MergeText {
    std::string left, right;
  };
  Bpe(std::shared_ptr<const Vocabulary> vocabulary, const std::vector<MergeText>& merges, Options options);

  // Merges that are implied: any two tokens whose concatenation is a token may merge, lowest rank first.
  // ranks[id]: of the token; kNoRank: takes no part. `unused`: tokens that merges may pass through but that are taken
  // apart again if they remain.
  static constexpr uint32_t kNoRank = UINT32_MAX;
  Bpe(std::shared_ptr<const Vocabulary> vocabulary, const std::vector<uint32_t>& ranks, std::vector<bool> unused,
      Options options);

  // Appends the ids of one piece. REQUIRES: valid UTF-8.
  void encode(std::string_view piece, std::vector<int32_t>& ids) const;

  // True if no token has the SentencePiece space "▁" after another character, so that a piece may be cut before each "▁"
  // that follows another character without changing the result.
  bool can_cut_before_space() const { return can_cut_before_space_; }

 private:
  struct Merge {
    uint32_t rank = 0;
    int32_t result = -1;
  };

  static uint64_t key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  const Merge* find_merge(int32_t left, int32_t right) const {
    if (left < 0 || right < 0) return nullptr;
    return merges_.find(key(left, right));
  }
  void find_byte_ids();
  void find_inner_spaces();
  void split_characters(std::string_view piece, std::vector<int32_t>& ids) const;
  void merge_short(std::vector<int32_t>& ids) const;
  void merge_long(std::vector<int32_t>& ids) const;
  void append(int32_t id, std::vector<int32_t>& ids) const;

  std::shared_ptr<const Vocabulary> vocabulary_;
  Options options_;
  FlatTable<Merge> merges_;
  FlatTable<int32_t> characters_;       // code point -> id, or pseudo id (see .cc)
  std::vector<uint32_t> pseudo_characters_;  // by pseudo id - vocabulary size
  std::array<int32_t, 256> byte_ids_;
  std::vector<bool> unused_;            // [vocabulary size] or empty
  FlatTable<uint64_t> parts_of_unused_;  // id of an unused token -> key of its best merge
  bool can_cut_before_space_ = false;
};

}  // namespace sluice::text
