// Regular expressions, the door to PCRE2 (UTF, Unicode properties, JIT).
//
// Patterns come from tokenizer.json files and are in Oniguruma's dialect; translate_pattern() rewrites what differs:
// \s is the White_Space property, \w has marks, \p{Han} is the script and not its extensions, (?m) is dot-all, classes
// may be nested and intersected (&&). A Regex is immutable; any thread may search. Searching never fails: a hostile
// pattern that exceeds the step limit finds nothing more in that text.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::text {

// Throws Error for what cannot be translated.
std::string translate_pattern(std::string_view pattern);

class Regex {
 public:
  // Throws Error with the pattern and what is wrong with it.
  explicit Regex(std::string_view pattern);
  ~Regex();
  Regex(Regex&& other) noexcept;
  Regex& operator=(Regex&& other) noexcept;

  struct Match {
    size_t begin = 0, end = 0;  // byte offsets; equal for an empty match
  };

  // Calls visit(match) for each non-overlapping match from left to right in text[begin, end), which the pattern sees as
  // a whole text of its own. REQUIRES: valid UTF-8.
  template <typename Visit>
  void for_each_match(std::string_view text, Visit&& visit) const {
    if (groups_digits_) {
      for (const Match& group : find_digit_groups(text)) visit(group);
      return;
    }
    Match match;
    for (size_t at = 0; at <= text.size() && find(text, at, match);) {
      visit(match);
      at = match.end > match.begin ? match.end : next_character(text, match.end);
    }
  }

  // The first match that begins at `from` or later.
  bool find(std::string_view text, size_t from, Match& match) const;

 private:
  static size_t next_character(std::string_view text, size_t at) {
    ++at;
    while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) ++at;
    return at;
  }

  std::vector<Match> find_digit_groups(std::string_view text) const;

  struct Code;
  std::unique_ptr<Code> code_;
  // Patterns that cut numbers into groups of three from the right look ahead over the whole number for each group, which
  // is quadratic; these few are done by hand.
  bool groups_digits_ = false;
  bool any_number_ = false;      // \p{N}, not only \p{Nd}
  bool needs_boundary_ = false;  // a number that a letter follows is left alone
  bool empty_matches_ = false;   // the match is the place before the group
};

}  // namespace sluice::text
