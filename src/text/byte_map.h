// GPT-2's reversible map from bytes to printable characters: vocabularies of byte-level BPE are written in it (a space
// is "Ġ", a newline "Ċ"). Printable Latin-1 bytes stand for themselves, the other 68 for U+0100 onwards in byte order.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace sluice::text {

// Appends the characters of `bytes`.
void append_mapped_bytes(std::string& out, std::string_view bytes);
// The bytes a mapped text stands for; nullopt if a character of it is not in the map.
std::optional<std::string> unmap_bytes(std::string_view mapped);

}  // namespace sluice::text
