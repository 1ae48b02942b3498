// What happens to text before it is cut: a list of steps, each from string to string. Immutable; any thread.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "text/charsmap.h"
#include "text/regex.h"
#include "text/trie.h"
#include "text/unicode.h"

namespace sluice::text {

struct FormStep {  // NFC, NFD, NFKC, NFKD
  NormalForm form;
};
struct LowercaseStep {};
struct StripAccentsStep {};  // removes every mark
struct StripStep {
  bool left = true, right = true;
};
struct ReplaceStep {
  std::string literal;                 // what to replace, if not empty
  std::shared_ptr<const Regex> regex;  // otherwise
  std::string content;
  std::string apply(std::string_view text) const;
};
struct PrependStep {  // to a text that is not empty
  std::string prefix;
};
struct PrecompiledStep {
  std::shared_ptr<const Charsmap> map;
};
struct NmtStep {};  // drops control characters, makes odd spaces plain
struct BertStep {
  bool clean_text = true, handle_chinese_chars = true, strip_accents = true, lowercase = true;
};
struct ByteMapStep {};  // bytes to GPT-2's printable characters
// SentencePiece's own normaliser: map, white space, dummy prefix, escaping.
struct SentencePieceStep {
  std::shared_ptr<const Charsmap> map;
  std::shared_ptr<const Trie> unmapped;  // the user-defined pieces, which the map leaves alone; may be null
  bool add_dummy_prefix = true;
  bool prefix_only_at_start = false;  // not after a special token (Hugging Face's legacy=false)
  bool remove_extra_whitespaces = false;
  bool escape_whitespaces = true;
  bool treat_whitespace_as_suffix = false;
};

using NormalizerStep = std::variant<FormStep, LowercaseStep, StripAccentsStep, StripStep, ReplaceStep, PrependStep,
                                    PrecompiledStep, NmtStep, BertStep, ByteMapStep, SentencePieceStep>;

class Normalizer {
 public:
  void add(NormalizerStep&& step);
  bool empty() const { return steps_.empty(); }
  // `at_start`: the text begins the whole input (nothing, not even a special token, is before it).
  // REQUIRES: valid UTF-8.
  std::string apply(std::string text, bool at_start) const;

 private:
  std::vector<NormalizerStep> steps_;
};

}  // namespace sluice::text
