#include "text/byte_map.h"

#include <array>

#include "text/unicode.h"

namespace sluice::text {
namespace {

struct ByteMap {
  std::array<std::string, 256> characters;   // UTF-8 of each byte's character
  std::array<int16_t, 0x180> bytes;          // by code point; -1: not in the map
  ByteMap() {
    bytes.fill(-1);
    uint32_t next = 0x100;
    for (uint32_t byte = 0; byte < 256; ++byte) {
      bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      uint32_t code_point = printable ? byte : next++;
      append_utf8(characters[byte], code_point);
      bytes[code_point] = static_cast<int16_t>(byte);
    }
  }
};

const ByteMap& get_map() {
  static const ByteMap map;
  return map;
}

}  // namespace

void append_mapped_bytes(std::string& out, std::string_view bytes) {
  const ByteMap& map = get_map();
  for (char c : bytes) out += map.characters[static_cast<uint8_t>(c)];
}

std::optional<std::string> unmap_bytes(std::string_view mapped) {
  const ByteMap& map = get_map();
  std::string out;
  for (size_t at = 0; at < mapped.size();) {
    Utf8Character c = decode_utf8(mapped, at);
    if (!c.valid || c.code_point >= map.bytes.size() || map.bytes[c.code_point] < 0) return std::nullopt;
    out.push_back(static_cast<char>(map.bytes[c.code_point]));
    at += c.num_bytes;
  }
  return out;
}

}  // namespace sluice::text
