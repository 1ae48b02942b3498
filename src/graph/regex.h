// Regular expressions in RE2's syntax: the graph's door to PCRE2.
//
// ONNX means RE2 by "regular expression". What RE2 does not know (look-around, back-references, possessive repetition,
// verbs) is an error here too, and what means another thing there is rewritten: \s has no vertical tab, \v is nothing
// but that, a script is the script and not its extensions, $ is the end of the text. RE2 takes linear time; PCRE2 goes
// back and tries again, so a search has a limit of steps, and going over it is an error, not "no match". Immutable; any
// thread may match.
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace sluice::graph {

class Regex {
 public:
  // Throws Error with the pattern and what is wrong with it.
  explicit Regex(std::string_view pattern);
  ~Regex();
  Regex(const Regex&) = delete;
  Regex& operator=(const Regex&) = delete;

  // True if the pattern matches all of `text`; no pattern matches what is not UTF-8. Throws Error beyond the limit.
  bool matches(std::string_view text) const;

 private:
  struct Code;
  std::unique_ptr<Code> code_;
};

}  // namespace sluice::graph
