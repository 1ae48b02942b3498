// Tokens that are recognised as they stand, before the text is cut: <|im_end|>, <mask>, runs of spaces. Immutable; any
// thread. Matching is leftmost-longest and linear in the text (times the longest token).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/normalizer.h"
#include "text/trie.h"

namespace sluice::text {

struct AddedToken {
  int32_t id = -1;
  std::string content;
  bool special = false;      // a control token: found only with parse_special, dropped by skip_special
  bool normalized = false;   // looked for in the normalised text, as the normaliser writes it
  bool verbatim = false;     // with `normalized`: but the token as it stands
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false, rstrip = false;  // swallows the white space before or after it
};

class AddedTokens {
 public:
  AddedTokens() = default;
  // Tokens with `normalized` are looked for as `normalizer` writes them.
  AddedTokens(std::vector<AddedToken> tokens, const Normalizer& normalizer);

  struct Segment {
    size_t begin = 0, end = 0;
    int32_t id = -1;  // -1: text between added tokens
  };
  // Cuts text [begin, end) into added tokens and what is between them. Segments are in order and not empty.
  std::vector<Segment> split(std::string_view text, bool in_normalized, bool parse_special) const;
  bool has_normalized() const { return !normalized_.empty(); }

 private:
  std::vector<AddedToken> tokens_;
  Trie raw_, normalized_;               // values: indices into tokens_
  Trie raw_plain_, normalized_plain_;   // the same without special tokens
};

}  // namespace sluice::text
