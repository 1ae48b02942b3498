#include "text/vocabulary.h"

#include "base/error.h"

namespace sluice::text {

void Vocabulary::add(std::string_view text, int64_t id, const char* where) {
  if (id < 0 || id >= kMaxTokens) {
    fail(Code::kInvalidArgument, "{}: token id {} is outside 0..{}", where, id, kMaxTokens - 1);
  }
  size_t index = static_cast<size_t>(id);
  if (index >= tokens_.size()) {
    tokens_.resize(index + 1);
    present_.resize(index + 1);
  }
  tokens_[index] = std::string(text);
  present_[index] = true;
  ids_.emplace(std::string(text), static_cast<int32_t>(id));
}

std::optional<uint8_t> parse_byte_token(std::string_view token) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return std::nullopt;
  int value = 0;
  for (char c : token.substr(3, 2)) {
    int digit = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                       : -1;
    if (digit < 0) return std::nullopt;
    value = value * 16 + digit;
  }
  return static_cast<uint8_t>(value);
}

std::string format_byte_token(uint8_t byte) { return fmt::format("<0x{:02X}>", byte); }

}  // namespace sluice::text
