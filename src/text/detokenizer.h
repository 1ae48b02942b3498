// Token ids to text, as a stream. Never hands out half a UTF-8 character, nor the beginning of a stop string that may
// still turn out to be one. One Detokenizer belongs to one generated sequence; not shared between threads.
//
// Of several stop strings the one that is complete first wins, at the byte where it is complete: what comes out does not
// depend on how the text was cut into tokens. Every byte is looked at once (Knuth, Morris and Pratt's failure links).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace sluice::text {

struct DetokenizerOptions {
  bool skip_special = true;
  std::vector<std::string> stop;       // matched on the text; empty ones are ignored
  bool include_stop = false;           // keep the matched stop string in the text
  int64_t min_tokens = 0;              // a stop string is one only if its last byte comes after this many tokens
};

class Detokenizer {
 public:
  // `prompt` gives the context of the first token: its leading space is dropped where decoding a whole text would drop
  // it, that is after a prompt of special tokens only. `tokenizer` must outlive the object.
  Detokenizer(const Tokenizer& tokenizer, DetokenizerOptions options, const std::vector<int32_t>& prompt);

  // Adds one token; returns the text that is now certain (often empty). Nothing is returned after a stop matched.
  std::string push(int32_t id);
  // The rest at the end of the sequence: held-back stop beginnings, U+FFFD for an unfinished character.
  std::string finish();
  // The stop string that matched, if any.
  const std::optional<std::string>& matched_stop() const { return matched_stop_; }

 private:
  // One stop string and how much of it the text so far ends with.
  struct Matcher {
    std::string stop;
    std::vector<uint32_t> failure;  // [stop.size()] length of the longest border of stop[0..i]
    uint32_t matched = 0;
  };

  // Takes complete text; returns what is certain and keeps the rest in held_back_.
  std::string release(const std::string& text);

  const Tokenizer& tokenizer_;
  DetokenizerOptions options_;
  std::vector<Matcher> matchers_;
  bool strip_next_space_ = false;
  int64_t num_tokens_ = 0;
  std::string pending_bytes_;  // a character not complete yet
  std::string held_back_;      // complete text that may begin a stop string
  std::optional<std::string> matched_stop_;
};

}  // namespace sluice::text
