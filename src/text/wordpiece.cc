#include "text/wordpiece.h"

namespace sluice::text {

WordPiece::WordPiece(std::shared_ptr<const Vocabulary> vocabulary, Options options)
    : vocabulary_(std::move(vocabulary)), options_(std::move(options)) {
  std::vector<std::pair<std::string_view, int32_t>> starts, continuations;
  for (int32_t id = 0; id < vocabulary_->size(); ++id) {
    if (!vocabulary_->contains(id)) continue;
    std::string_view text = vocabulary_->text(id);
    if (text.starts_with(options_.start_prefix)) starts.emplace_back(text.substr(options_.start_prefix.size()), id);
    bool continues = options_.continuing_prefix.empty()
                         ? options_.start_prefix.empty() || !text.starts_with(options_.start_prefix)
                         : text.starts_with(options_.continuing_prefix);
    if (continues) continuations.emplace_back(text.substr(options_.continuing_prefix.size()), id);
  }
  starts_ = Trie(std::move(starts));
  continuations_ = Trie(std::move(continuations));
}

void WordPiece::encode(std::string_view word, std::vector<int32_t>& ids) const {
  size_t first = ids.size(), num_characters = 0;
  for (char c : word) num_characters += (static_cast<uint8_t>(c) & 0xC0) != 0x80;
  bool known = num_characters <= options_.max_characters;
  for (size_t at = 0; known && at < word.size();) {
    auto [length, id] = (at == 0 ? starts_ : continuations_).find_longest(word, at);
    known = length > 0;
    if (known) ids.push_back(id);
    at += length;
  }
  if (known) return;
  ids.resize(first);
  if (options_.unknown_id >= 0) ids.push_back(options_.unknown_id);
}

}  // namespace sluice::text
