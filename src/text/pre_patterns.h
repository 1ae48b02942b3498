// The pre-tokenisers that GGUF files know by name (tokenizer.ggml.pre): for each family the patterns that cut its text,
// applied one after the other, and what else the name implies. Constant data, any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::text {

struct PrePattern {
  std::vector<std::string_view> names;     // the first is the one shown
  std::vector<std::string> patterns;  // Oniguruma; matches and what is between them are pieces
  uint32_t traits = 0;

  enum Trait : uint32_t {
    kIgnoreMerges = 1,   // a piece that is a token is that token
    kAddBos = 2,         // unless the file says otherwise
    kPlainText = 4,      // the vocabulary is plain text with <0x..> bytes, not GPT-2's byte map
    kEscapeSpaces = 8,   // spaces become "▁" first
  };
  bool ignores_merges() const { return traits & kIgnoreMerges; }
  bool adds_bos() const { return traits & kAddBos; }
  bool maps_bytes() const { return !(traits & kPlainText); }
  bool escapes_spaces() const { return traits & kEscapeSpaces; }
};

// Throws Error listing the known names. Empty: "default".
const PrePattern& get_pre_pattern(std::string_view name);

}  // namespace sluice::text
