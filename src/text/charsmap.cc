#include "text/charsmap.h"

#include <cstring>

#include "base/error.h"
#include "text/unicode.h"

namespace sluice::text {

Charsmap::Charsmap(std::string_view blob, const char* where) {
  if (blob.empty()) return;
  uint32_t trie_bytes = 0;
  if (blob.size() > 4) {
    for (int i = 3; i >= 0; --i) trie_bytes = (trie_bytes << 8) | static_cast<uint8_t>(blob[static_cast<size_t>(i)]);
  }
  if (blob.size() <= 4 || trie_bytes % 4 != 0 || trie_bytes > blob.size() - 4) {
    fail(Code::kInvalidArgument, "{}: precompiled charsmap of {} bytes says its trie has {} bytes; the file is damaged",
         where, blob.size(), trie_bytes);
  }
  units_.resize(trie_bytes / 4);
  for (size_t i = 0; i < units_.size(); ++i) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(blob.data()) + 4 + 4 * i;
    units_[i] = static_cast<uint32_t>(bytes[0]) | static_cast<uint32_t>(bytes[1]) << 8 |
                static_cast<uint32_t>(bytes[2]) << 16 | static_cast<uint32_t>(bytes[3]) << 24;
  }
  replacements_ = std::string(blob.substr(4 + trie_bytes));
}

// A unit packs the label of the edge into it (bits 0-7), whether a key ends here (bit 8), and the distance to its
// children (bits 10-30, shifted by 8 more if bit 9 is set); a unit with bit 31 set is a value.
template <typename Visit>
void Charsmap::for_each_prefix(std::string_view text, size_t at, Visit&& visit) const {
  auto children = [](uint32_t unit) { return (unit >> 10) << ((unit & (1u << 9)) >> 6); };
  if (units_.empty()) return;
  uint32_t position = children(units_[0]);
  for (size_t i = at; i < text.size(); ++i) {
    uint32_t byte = static_cast<uint8_t>(text[i]);
    if (byte == 0) return;
    position ^= byte;
    if (position >= units_.size()) return;
    uint32_t unit = units_[position];
    if ((unit & 0x800000FFu) != byte) return;
    position ^= children(unit);
    if ((unit >> 8) & 1u) {
      if (position >= units_.size()) return;
      if (!visit(i + 1 - at, units_[position] & 0x7FFFFFFFu)) return;
    }
  }
}

std::optional<std::string_view> Charsmap::replacement_at(uint32_t offset) const {
  if (offset >= replacements_.size()) return std::nullopt;
  const void* end = std::memchr(replacements_.data() + offset, 0, replacements_.size() - offset);
  if (end == nullptr) return std::nullopt;
  return std::string_view(replacements_.data() + offset,
                          static_cast<size_t>(static_cast<const char*>(end) - replacements_.data()) - offset);
}

std::optional<Charsmap::Replacement> Charsmap::find_longest(std::string_view text, size_t at) const {
  std::optional<Replacement> best;
  for_each_prefix(text, at, [&](size_t length, uint32_t offset) {
    if (auto replacement = replacement_at(offset)) best = Replacement{*replacement, length};
    return true;
  });
  return best;
}

std::optional<Charsmap::Replacement> Charsmap::find_shortest(std::string_view text, size_t at) const {
  std::optional<Replacement> best;
  for_each_prefix(text, at, [&](size_t length, uint32_t offset) {
    if (auto replacement = replacement_at(offset)) best = Replacement{*replacement, length};
    return false;
  });
  return best;
}

std::string Charsmap::apply_to_graphemes(std::string_view text) const {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    size_t end = find_grapheme_end(text, at);
    std::string_view grapheme = text.substr(at, end - at);
    at = end;
    if (grapheme.size() < 6) {
      if (auto replacement = find_shortest(grapheme, 0)) {
        out += replacement->text;
        continue;
      }
    }
    for (size_t i = 0; i < grapheme.size();) {
      std::string_view character = grapheme.substr(i, decode_utf8(grapheme, i).num_bytes);
      auto replacement = find_shortest(character, 0);
      out += replacement ? replacement->text : character;
      i += character.size();
    }
  }
  return out;
}

}  // namespace sluice::text
