// UTF-8 at the border: what leaves in JSON is always valid, whatever a model or a client said.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace sluice::api {

// Every byte that is not part of a well-formed character becomes U+FFFD (one for each maximal part, as browsers do).
// Where the first byte is that belongs to no well-formed character; npos: nowhere.
size_t find_invalid_utf8(std::string_view text);
std::string to_valid_utf8(std::string_view text);
// Of valid UTF-8.
int64_t count_characters(std::string_view text);

}  // namespace sluice::api
