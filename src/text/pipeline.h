// The one Tokenizer class: added tokens, normaliser, pre-tokeniser, model, special tokens around, decoder. The loaders
// fill in a PipelineParts from their file formats; everything here is immutable afterwards and any thread may use it.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <variant>
#include <vector>

#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/decoder.h"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"
#include "text/tokenizer.h"
#include "text/unigram.h"
#include "text/vocabulary.h"
#include "text/wordpiece.h"

namespace sluice::text {

using TokenModel = std::variant<Bpe, Unigram, WordPiece, WordLevel>;

struct PipelineParts {
  std::shared_ptr<const Vocabulary> vocabulary;  // the model's
  std::shared_ptr<const TokenModel> model;
  std::vector<AddedToken> added_tokens;  // their ids may or may not be in `vocabulary`
  std::vector<int32_t> raw_ids;          // tokens that decode to their own text whatever the decoder
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  Decoder decoder;
  std::string end_of_word_suffix;        // replaced by a space in decoded text (CLIP), if not empty
  std::vector<int32_t> prefix_ids, suffix_ids;  // put around with add_special
  SpecialIds special;
  std::string description;
};

class PipelineTokenizer : public Tokenizer {
 public:
  explicit PipelineTokenizer(PipelineParts parts);

  std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options = {}) const override;
  std::string decode(const std::vector<int32_t>& ids, bool skip_special) const override;
  std::string token_bytes(int32_t id) const override;
  std::string token_text(int32_t id) const override;
  std::optional<int32_t> find_token(std::string_view text) const override;
  int64_t vocab_size() const override { return vocab_size_; }
  bool is_special(int32_t id) const override { return has_flag(id, kSpecial); }
  const SpecialIds& special_ids() const override { return parts_.special; }
  bool adds_bos() const override {
    return parts_.special.bos >= 0 && !parts_.prefix_ids.empty() && parts_.prefix_ids[0] == parts_.special.bos;
  }
  bool strips_leading_space() const override { return strips_leading_space_; }
  std::string description() const override { return parts_.description; }

 private:
  static constexpr uint8_t kSpecial = 1, kRaw = 2;
  class WordCache;

  bool has_flag(int32_t id, uint8_t flag) const {
    return id >= 0 && static_cast<size_t>(id) < flags_.size() && (flags_[static_cast<size_t>(id)] & flag) != 0;
  }
  bool contains(int32_t id) const;
  void encode_text(std::string_view text, bool at_start, const EncodeOptions& options, WordCache& cache,
                   std::vector<int32_t>& ids) const;
  void encode_piece(std::string_view piece, WordCache& cache, std::vector<int32_t>& ids) const;

  PipelineParts parts_;
  AddedTokens added_;
  std::unordered_map<int32_t, std::string> added_texts_;
  std::unordered_map<std::string, int32_t> added_ids_;
  std::vector<uint8_t> flags_;  // [vocab_size]
  int64_t vocab_size_ = 0;
  bool strips_leading_space_ = false;
};

}  // namespace sluice::text
