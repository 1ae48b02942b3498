// Cutting text into the pieces that a model then tokenises one by one: a list of steps, each cutting further. Immutable;
// any thread. All steps together are linear in the text (for regular expressions that are).
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "text/regex.h"

namespace sluice::text {

// A text and where its pieces lie in it.
struct Pieces {
  struct Span {
    size_t begin = 0, end = 0;
    bool at_start = false;  // of the whole input
  };
  std::string text;
  std::vector<Span> spans;  // in order, never empty spans

  std::string_view piece(const Span& span) const {
    return std::string_view(text).substr(span.begin, span.end - span.begin);
  }
};

// What becomes of the delimiters.
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

struct RegexSplit {
  std::shared_ptr<const Regex> regex;  // null: `literal`
  std::string literal;
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;  // the matches are the pieces and the rest the delimiters
};
struct CharacterSplit {
  enum class Class { kWhitespace, kPunctuation, kNumber, kDelimiter } characters = Class::kWhitespace;
  uint32_t delimiter = 0;
  SplitBehavior behavior = SplitBehavior::kIsolated;
};
struct MetaspaceSplit {
  enum class Prepend { kNever, kFirst, kAlways };
  std::string replacement = "\xE2\x96\x81";
  Prepend prepend = Prepend::kAlways;
  bool split = true;
};
struct ByteLevelSplit {
  bool add_prefix_space = false;
  std::shared_ptr<const Regex> regex;  // null: no cutting, only the map to printable characters
};
struct FixedLengthSplit {
  size_t num_characters = 5;
};
struct ScriptSplit {};  // where the script changes; Hiragana, Katakana and Han count as one, spaces as either

using PreTokenizerStep =
    std::variant<RegexSplit, CharacterSplit, MetaspaceSplit, ByteLevelSplit, FixedLengthSplit, ScriptSplit>;

class PreTokenizer {
 public:
  void add(PreTokenizerStep&& step);
  bool empty() const { return steps_.empty(); }
  // REQUIRES: valid UTF-8. `at_start`: the text begins the whole input.
  Pieces apply(std::string text, bool at_start) const;

 private:
  std::vector<PreTokenizerStep> steps_;
};

// GPT-2's pattern, which a ByteLevel pre-tokenizer uses.
std::shared_ptr<const Regex> get_gpt2_regex();

}  // namespace sluice::text
