// Strings as Python sees them, over UTF-8: code points, classes of characters, case mapping. Input must be valid UTF-8
// (the lexer and the JSON parser see to that); a stray byte counts as one character and is never read past. Pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::jinja {

bool is_valid_utf8(std::string_view text);
// Decodes the code point at `position` and moves past it. REQUIRES: position < text.size().
int32_t next_code_point(std::string_view text, size_t& position);
void append_code_point(std::string& out, int32_t code_point);
int64_t count_code_points(std::string_view text);
// Byte offset of the index-th code point; text.size() when index is at or past the end.
size_t byte_offset(std::string_view text, int64_t index);
std::vector<std::string_view> split_code_points(std::string_view text);

bool is_space(int32_t code_point);
bool is_alpha(int32_t code_point);
bool is_digit(int32_t code_point);
bool is_alnum(int32_t code_point);
bool is_word(int32_t code_point);  // \w
bool is_upper(int32_t code_point);
bool is_lower(int32_t code_point);
bool is_printable(int32_t code_point);

std::string to_upper(std::string_view text);
std::string to_lower(std::string_view text);
std::string to_casefold(std::string_view text);
std::string capitalize(std::string_view text);  // first character in title case, the rest lower
std::string title_case(std::string_view text);  // str.title(): words are runs of cased letters
std::string swap_case(std::string_view text);

// Strips white space, or the code points of `chars` when given.
std::string_view strip_left(std::string_view text, const std::string_view* chars = nullptr);
std::string_view strip_right(std::string_view text, const std::string_view* chars = nullptr);
inline std::string_view strip(std::string_view text, const std::string_view* chars = nullptr) {
  return strip_right(strip_left(text, chars), chars);
}
// str.splitlines(): every Unicode line boundary, "\r\n" being one.
std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends);

}  // namespace sluice::jinja
