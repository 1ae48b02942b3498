// From tokens' texts back to text: a list of steps over the list of tokens, as Hugging Face's decoders. Immutable; any
// thread.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "text/normalizer.h"

namespace sluice::text {

struct TokenText {
  std::string text;
  bool raw = false;  // stands for itself: no byte map, no escapes
};

struct ByteLevelDecode {};
struct MetaspaceDecode {
  std::string replacement = "\xE2\x96\x81";
  bool strip_first = true;  // the first token loses its spaces
};
struct WordPieceDecode {
  std::string prefix = "##";
  bool cleanup = true;
};
struct BpeSuffixDecode {
  std::string suffix = "</w>";
};
struct ByteFallbackDecode {};
struct FuseDecode {};
struct StripDecode {
  std::string content = " ";
  size_t start = 0, stop = 0;
};
struct ReplaceDecode {
  ReplaceStep step;
};
struct CtcDecode {
  std::string pad = "<pad>", word_delimiter = "|";
  bool cleanup = true;
};

using DecoderStep = std::variant<ByteLevelDecode, MetaspaceDecode, WordPieceDecode, BpeSuffixDecode, ByteFallbackDecode,
                                 FuseDecode, StripDecode, ReplaceDecode, CtcDecode>;

class Decoder {
 public:
  void add(DecoderStep&& step);
  bool empty() const { return steps_.empty(); }
  // Valid UTF-8. Without any step the tokens are joined by spaces.
  std::string decode(std::vector<TokenText> tokens) const;
  // What one token adds when it is not the first: bytes, which need not be whole characters.
  std::string decode_middle(TokenText token) const;
  // True if the first token loses its leading space.
  bool strips_leading_space() const;

 private:
  std::vector<DecoderStep> steps_;
};

}  // namespace sluice::text
