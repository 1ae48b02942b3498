// The two-way list of tokens: id to text and text to id. Built once, then read from any thread. Ids may have holes
// (their text is empty and nothing finds them).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace sluice::text {

class Vocabulary {
 public:
  // No vocabulary known has a tenth of this; a file that asks for more is refused before memory is.
  static constexpr int64_t kMaxTokens = 16 << 20;

  Vocabulary() = default;
  Vocabulary(Vocabulary&&) = default;
  Vocabulary& operator=(Vocabulary&&) = default;

  // Throws Error when the id is negative or absurd. Of two ids with one text, the first is found by text; of two texts
  // with one id, the later stays.
  void add(std::string_view text, int64_t id, const char* where);

  int64_t size() const { return static_cast<int64_t>(tokens_.size()); }
  bool contains(int64_t id) const { return id >= 0 && id < size() && present_[static_cast<size_t>(id)]; }
  // Empty outside the vocabulary.
  const std::string& text(int64_t id) const {
    static const std::string kNone;
    return contains(id) ? tokens_[static_cast<size_t>(id)] : kNone;
  }
  std::optional<int32_t> find(std::string_view text) const {
    auto found = ids_.find(text);
    if (found == ids_.end()) return std::nullopt;
    return found->second;
  }
  int32_t find_or(std::string_view text, int32_t otherwise) const { return find(text).value_or(otherwise); }

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  std::vector<std::string> tokens_;
  std::vector<bool> present_;
  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> ids_;
};

// "<0x0A>" to 10; nullopt for anything else.
std::optional<uint8_t> parse_byte_token(std::string_view token);
std::string format_byte_token(uint8_t byte);

}  // namespace sluice::text
