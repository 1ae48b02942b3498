#include "text/added_tokens.h"

#include "text/unicode.h"

namespace sluice::text {
namespace {

uint32_t character_before(std::string_view text, size_t at) {
  size_t begin = at - 1;
  while (begin > 0 && (static_cast<uint8_t>(text[begin]) & 0xC0) == 0x80) --begin;
  return decode_utf8(text, begin).code_point;
}

size_t skip_spaces_back(std::string_view text, size_t at, size_t limit) {
  while (at > limit && is_whitespace(character_before(text, at))) {
    --at;
    while (at > limit && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) --at;
  }
  return at;
}

size_t skip_spaces(std::string_view text, size_t at) {
  while (at < text.size()) {
    Utf8Character c = decode_utf8(text, at);
    if (!is_whitespace(c.code_point)) break;
    at += c.num_bytes;
  }
  return at;
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens, const Normalizer& normalizer) : tokens_(std::move(tokens)) {
  std::vector<std::string> contents;
  contents.reserve(tokens_.size());
  for (const AddedToken& token : tokens_) {
    contents.push_back(token.normalized && !token.verbatim ? normalizer.apply(token.content, true) : token.content);
  }
  std::vector<std::pair<std::string_view, int32_t>> raw, normalized, raw_plain, normalized_plain;
  for (size_t i = 0; i < tokens_.size(); ++i) {
    std::pair<std::string_view, int32_t> entry{contents[i], static_cast<int32_t>(i)};
    (tokens_[i].normalized ? normalized : raw).push_back(entry);
    if (!tokens_[i].special) (tokens_[i].normalized ? normalized_plain : raw_plain).push_back(entry);
  }
  raw_ = Trie(std::move(raw));
  normalized_ = Trie(std::move(normalized));
  raw_plain_ = Trie(std::move(raw_plain));
  normalized_plain_ = Trie(std::move(normalized_plain));
}

std::vector<AddedTokens::Segment> AddedTokens::split(std::string_view text, bool in_normalized, bool parse_special) const {
  const Trie& trie = in_normalized ? (parse_special ? normalized_ : normalized_plain_)
                                   : (parse_special ? raw_ : raw_plain_);
  std::vector<Segment> segments;
  size_t done = 0;
  if (!trie.empty()) {
    for (size_t at = 0; at < text.size();) {
      auto [length, index] = trie.find_longest(text, at);
      if (length == 0) {
        ++at;
        continue;
      }
      const AddedToken& token = tokens_[static_cast<size_t>(index)];
      size_t begin = at, end = at + length;
      at = end;
      if (token.single_word) {
        bool touched = (begin > 0 && is_word_character(character_before(text, begin))) ||
                       (end < text.size() && is_word_character(decode_utf8(text, end).code_point));
        if (touched) continue;
      }
      if (token.lstrip) begin = skip_spaces_back(text, begin, done);
      if (token.rstrip) end = skip_spaces(text, end);
      if (begin < done) begin = done;
      if (end <= begin) continue;
      if (begin > done) segments.push_back({done, begin, -1});
      segments.push_back({begin, end, token.id});
      done = end;
      if (at < done) at = done;
    }
  }
  if (done < text.size()) segments.push_back({done, text.size(), -1});
  return segments;
}

}  // namespace sluice::text
