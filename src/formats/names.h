// Names that come out of files (metadata keys, tensor names) and go into error messages, logs and JSON. A
// file may put anything there, so they are checked when read and quoted when shown. Pure functions.
#pragma once

#include <string>
#include <string_view>

namespace sluice::formats {

// Well-formed UTF-8: no overlong forms, no surrogates, nothing above U+10FFFF.
bool is_utf8(std::string_view text);

// `text` as UTF-8, ill-formed bytes replaced by U+FFFD.
std::string to_utf8(std::string_view text);

// 'text' for an error message: at most `max_bytes` of it, control characters and ill-formed bytes as \xNN.
std::string quote(std::string_view text, size_t max_bytes = 80);

}  // namespace sluice::formats
