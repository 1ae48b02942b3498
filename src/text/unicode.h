// Characters: UTF-8 in and out, general categories, case and normal forms. The door to utf8proc.
//
// Text from outside may be any bytes. sanitize_utf8() makes it valid, putting one U+FFFD for each maximal part of a
// character that is not one (the Unicode standard's recommendation, and what Rust and Python do); everything behind the
// tokenizers' front doors then relies on valid text. Pure functions, any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace sluice::text {

inline constexpr uint32_t kReplacementCharacter = 0xFFFD;

struct Utf8Character {
  uint32_t code_point = kReplacementCharacter;
  uint32_t num_bytes = 1;   // of the character, or of the part to replace when not valid
  bool valid = false;
  bool truncated = false;   // not valid only because the text ends here
};

// The character that begins at text[at]. REQUIRES: at < text.size().
Utf8Character decode_utf8(std::string_view text, size_t at);
void append_utf8(std::string& out, uint32_t code_point);

bool is_ascii(std::string_view text);
bool is_valid_utf8(std::string_view text);
std::string sanitize_utf8(std::string_view text);
// How many bytes at the end of `text` are the beginning of a character that is not complete.
size_t count_incomplete_bytes(std::string_view text);

bool is_whitespace(uint32_t code_point);   // the White_Space property
bool is_punctuation(uint32_t code_point);  // general category P*, or ASCII punctuation such as '$' and '~'
bool is_number(uint32_t code_point);       // N*
bool is_decimal_digit(uint32_t code_point);    // Nd
bool is_mark(uint32_t code_point);         // M*
bool is_nonspacing_mark(uint32_t code_point);  // Mn
bool is_other(uint32_t code_point);        // C*: control, format, unassigned, private use
bool is_word_character(uint32_t code_point);   // letters, marks, decimal digits, connectors
bool is_han_ideograph(uint32_t code_point);    // the blocks that BERT surrounds with spaces

std::string to_lowercase(std::string_view text);

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };
std::string normalize(std::string_view text, NormalForm form);

// Byte offset of the end of the extended grapheme cluster that begins at `at`. REQUIRES: at < text.size().
size_t find_grapheme_end(std::string_view text, size_t at);

}  // namespace sluice::text
