// SentencePiece's precompiled normalisation map: a Darts double-array trie from byte strings to offsets into a list of
// NUL-terminated replacements, all in one blob. Every index is checked, since the blob comes from a model file.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sluice::text {

class Charsmap {
 public:
  Charsmap() = default;
  // `blob` is empty (no map), or: little-endian u32 size of the trie in bytes, trie, replacements. Throws Error naming
  // `where` if that does not fit.
  Charsmap(std::string_view blob, const char* where);

  bool empty() const { return units_.empty(); }

  // The replacement of the longest (or shortest) key that text begins with at `at`, and that key's length.
  struct Replacement {
    std::string_view text;
    size_t num_bytes = 0;
  };
  std::optional<Replacement> find_longest(std::string_view text, size_t at) const;
  std::optional<Replacement> find_shortest(std::string_view text, size_t at) const;

  // Hugging Face's way of applying it: whole grapheme clusters of up to 5 bytes first, then single characters.
  std::string apply_to_graphemes(std::string_view text) const;

 private:
  template <typename Visit>
  void for_each_prefix(std::string_view text, size_t at, Visit&& visit) const;
  std::optional<std::string_view> replacement_at(uint32_t offset) const;

  std::vector<uint32_t> units_;
  std::string replacements_;
};

}  // namespace sluice::text
