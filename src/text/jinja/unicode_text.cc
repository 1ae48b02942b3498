#include "text/jinja/unicode_text.h"

#include <utf8proc.h>

#include <algorithm>

namespace sluice::jinja {
namespace {

// Case mappings that lengthen the text, which utf8proc's one-to-one tables leave out.
std::string_view long_upper(int32_t c) {
  switch (c) {
    case 0xDF: return "SS";
    case 0x149: return "\xCA\xBCN";
    case 0x1F0: return "J\xCC\x8C";
    case 0x587: return "\xD4\xB5\xD5\x92";
    case 0xFB00: return "FF";
    case 0xFB01: return "FI";
    case 0xFB02: return "FL";
    case 0xFB03: return "FFI";
    case 0xFB04: return "FFL";
    case 0xFB05:
    case 0xFB06: return "ST";
    default: return {};
  }
}

std::string_view long_title(int32_t c) {
  switch (c) {
    case 0xDF: return "Ss";
    case 0xFB00: return "Ff";
    case 0xFB01: return "Fi";
    case 0xFB02: return "Fl";
    case 0xFB03: return "Ffi";
    case 0xFB04: return "Ffl";
    case 0xFB05:
    case 0xFB06: return "St";
    default: return long_upper(c);
  }
}

bool is_cased(int32_t c) {
  utf8proc_category_t category = utf8proc_category(c);
  return category == UTF8PROC_CATEGORY_LU || category == UTF8PROC_CATEGORY_LL || category == UTF8PROC_CATEGORY_LT ||
         is_upper(c) || is_lower(c);
}

bool is_case_ignorable(int32_t c) {
  return utf8proc_category(c) == UTF8PROC_CATEGORY_MN || c == '\'' || c == '.' || c == ':';
}

void append_upper(std::string& out, int32_t c) {
  std::string_view special = long_upper(c);
  if (!special.empty()) out += special;
  else append_code_point(out, utf8proc_toupper(c));
}

void append_title(std::string& out, int32_t c) {
  std::string_view special = long_title(c);
  if (!special.empty()) out += special;
  else append_code_point(out, utf8proc_totitle(c));
}

void append_lower(std::string& out, std::string_view text, size_t begin, size_t end, int32_t c) {
  if (c == 0x130) {
    out += "i\xCC\x87";
  } else if (c == 0x3A3) {
    // Sigma is final when a cased letter stands before it and none after.
    bool before = false;
    for (size_t stop = begin; stop > 0;) {
      size_t at = --stop;
      while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
      stop = at;
      int32_t other = next_code_point(text, at);
      if (is_case_ignorable(other)) continue;
      before = is_cased(other);
      break;
    }
    bool after = false;
    for (size_t at = end; at < text.size();) {
      int32_t other = next_code_point(text, at);
      if (is_case_ignorable(other)) continue;
      after = is_cased(other);
      break;
    }
    append_code_point(out, before && !after ? 0x3C2 : 0x3C3);
  } else {
    append_code_point(out, utf8proc_tolower(c));
  }
}

bool contains(std::string_view chars, std::string_view one) {
  for (size_t at = 0; at < chars.size();) {
    size_t begin = at;
    next_code_point(chars, at);
    if (chars.substr(begin, at - begin) == one) return true;
  }
  return false;
}

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

}  // namespace

bool is_valid_utf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    if (static_cast<unsigned char>(text[at]) < 0x80) {
      ++at;
      continue;
    }
    utf8proc_int32_t c;
    utf8proc_ssize_t size = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + at,
                                             static_cast<utf8proc_ssize_t>(text.size() - at), &c);
    if (size <= 0) return false;
    at += static_cast<size_t>(size);
  }
  return true;
}

int32_t next_code_point(std::string_view text, size_t& position) {
  unsigned char first = static_cast<unsigned char>(text[position]);
  if (first < 0x80) {
    ++position;
    return first;
  }
  utf8proc_int32_t c;
  utf8proc_ssize_t size = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + position,
                                           static_cast<utf8proc_ssize_t>(text.size() - position), &c);
  if (size <= 0) {
    ++position;
    return 0xFFFD;
  }
  position += static_cast<size_t>(size);
  return c;
}

void append_code_point(std::string& out, int32_t code_point) {
  if (code_point >= 0 && code_point < 0x80) {
    out.push_back(static_cast<char>(code_point));
    return;
  }
  utf8proc_uint8_t bytes[4];
  utf8proc_ssize_t size = utf8proc_encode_char(code_point, bytes);
  out.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(size));
}

int64_t count_code_points(std::string_view text) {
  int64_t count = 0;
  for (size_t at = 0; at < text.size(); ++count) next_code_point(text, at);
  return count;
}

size_t byte_offset(std::string_view text, int64_t index) {
  size_t at = 0;
  while (index-- > 0 && at < text.size()) next_code_point(text, at);
  return at;
}

std::vector<std::string_view> split_code_points(std::string_view text) {
  std::vector<std::string_view> parts;
  for (size_t at = 0; at < text.size();) {
    size_t begin = at;
    next_code_point(text, at);
    parts.push_back(text.substr(begin, at - begin));
  }
  return parts;
}

bool is_space(int32_t c) {
  return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_alpha(int32_t c) {
  utf8proc_category_t category = utf8proc_category(c);
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

bool is_digit(int32_t c) {
  if (utf8proc_category(c) == UTF8PROC_CATEGORY_ND) return true;
  return c == 0xB2 || c == 0xB3 || c == 0xB9 || c == 0x2070 || (c >= 0x2074 && c <= 0x2079) ||
         (c >= 0x2080 && c <= 0x2089) || (c >= 0x2460 && c <= 0x2468);
}

bool is_alnum(int32_t c) {
  utf8proc_category_t category = utf8proc_category(c);
  return is_alpha(c) || (category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO);
}

bool is_word(int32_t c) { return c == '_' || is_alnum(c); }
bool is_upper(int32_t c) { return utf8proc_isupper(c) != 0; }
bool is_lower(int32_t c) { return utf8proc_islower(c) != 0; }

bool is_printable(int32_t c) {
  if (c == ' ') return true;
  switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS: return false;
    default: return true;
  }
}

std::string to_upper(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) append_upper(out, next_code_point(text, at));
  return out;
}

std::string to_lower(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    size_t begin = at;
    int32_t c = next_code_point(text, at);
    append_lower(out, text, begin, at, c);
  }
  return out;
}

std::string to_casefold(std::string_view text) {
  if (is_ascii(text)) return to_lower(text);
  utf8proc_uint8_t* mapped = nullptr;
  utf8proc_ssize_t size = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                       static_cast<utf8proc_ssize_t>(text.size()), &mapped, UTF8PROC_CASEFOLD);
  if (size < 0) return to_lower(text);
  std::string out(reinterpret_cast<const char*>(mapped), static_cast<size_t>(size));
  free(mapped);
  return out;
}

std::string capitalize(std::string_view text) {
  std::string out;
  if (text.empty()) return out;
  size_t at = 0;
  append_title(out, next_code_point(text, at));
  return out + to_lower(text.substr(at));
}

std::string title_case(std::string_view text) {
  std::string out;
  bool in_word = false;
  for (size_t at = 0; at < text.size();) {
    size_t begin = at;
    int32_t c = next_code_point(text, at);
    if (in_word) append_lower(out, text, begin, at, c);
    else append_title(out, c);
    in_word = is_cased(c);
  }
  return out;
}

std::string swap_case(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    size_t begin = at;
    int32_t c = next_code_point(text, at);
    if (is_upper(c)) append_lower(out, text, begin, at, c);
    else if (is_lower(c)) append_upper(out, c);
    else append_code_point(out, c);
  }
  return out;
}

std::string_view strip_left(std::string_view text, const std::string_view* chars) {
  size_t at = 0;
  while (at < text.size()) {
    size_t begin = at;
    int32_t c = next_code_point(text, at);
    bool strips = chars != nullptr ? contains(*chars, text.substr(begin, at - begin)) : is_space(c);
    if (!strips) return text.substr(begin);
  }
  return {};
}

std::string_view strip_right(std::string_view text, const std::string_view* chars) {
  size_t end = text.size();
  while (end > 0) {
    size_t begin = end - 1;
    while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
    size_t at = begin;
    int32_t c = next_code_point(text, at);
    bool strips = chars != nullptr ? contains(*chars, text.substr(begin, end - begin)) : is_space(c);
    if (!strips) break;
    end = begin;
  }
  return text.substr(0, end);
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    size_t end = at;
    int32_t c = next_code_point(text, at);
    bool breaks = (c >= 10 && c <= 13) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
    if (!breaks) continue;
    if (c == '\r' && at < text.size() && text[at] == '\n') ++at;
    lines.push_back(text.substr(begin, (keep_ends ? at : end) - begin));
    begin = at;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return lines;
}

}  // namespace sluice::jinja
