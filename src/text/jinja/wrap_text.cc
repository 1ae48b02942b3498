// textwrap.wrap() for one line: split into words, white space and hyphenated parts, then fill lines greedily.
#include <algorithm>

#include "text/jinja/filters.h"
#include "text/jinja/unicode_text.h"

namespace sluice::jinja {
namespace {

using Text = std::u32string;

bool is_blank(char32_t c) { return c == ' ' || (c >= 9 && c <= 13); }
bool is_letter(char32_t c) { return is_word(static_cast<int32_t>(c)) && !is_digit(static_cast<int32_t>(c)); }
bool ends_word(char32_t c) { return is_word(static_cast<int32_t>(c)) || (c < 128 && std::string_view("!\"'&.,?").find(static_cast<char>(c)) != std::string_view::npos); }

// Length of an em-dash ("--" or longer) at `at` that a word follows, or 0.
size_t dash_at(const Text& text, size_t at) {
  size_t end = at;
  while (end < text.size() && text[end] == '-') ++end;
  return end - at >= 2 && end < text.size() && is_word(static_cast<int32_t>(text[end])) ? end - at : 0;
}

// A hyphen inside a word after which a line may end: two letters before it (or x-y-) and two after it (or x-y).
bool breaks_after_hyphen(const Text& text, size_t at) {
  auto letter = [&](size_t i) { return i < text.size() && is_letter(text[i]); };
  if (text[at] != '-') return false;
  bool before = at >= 2 && letter(at - 1) && (letter(at - 2) || (at >= 3 && text[at - 2] == '-' && letter(at - 3)));
  bool after = letter(at + 1) && (letter(at + 2) || (at + 2 < text.size() && text[at + 2] == '-' && letter(at + 3)));
  return before && after;
}

std::vector<Text> split_chunks(const Text& text, bool break_on_hyphens) {
  std::vector<Text> chunks;
  for (size_t at = 0; at < text.size();) {
    size_t end = at + 1;
    if (is_blank(text[at])) {
      while (end < text.size() && is_blank(text[end])) ++end;
    } else if (break_on_hyphens && at > 0 && ends_word(text[at - 1]) && dash_at(text, at) > 0) {
      end = at + dash_at(text, at);
    } else {
      for (; end < text.size() && !is_blank(text[end]); ++end) {
        if (!break_on_hyphens) continue;
        if (breaks_after_hyphen(text, end)) {
          ++end;
          break;
        }
        if (text[end] == '-' && ends_word(text[end - 1]) && dash_at(text, end) > 0) break;
      }
    }
    chunks.push_back(text.substr(at, end - at));
    at = end;
  }
  return chunks;
}

bool is_white(const Text& text) {
  return std::all_of(text.begin(), text.end(), [](char32_t c) { return is_space(static_cast<int32_t>(c)); });
}

}  // namespace

std::vector<std::string> wrap_line(std::string_view line, int64_t width, bool break_long_words, bool break_on_hyphens) {
  if (width <= 0) fail(Code::kInvalidArgument, "wordwrap: invalid width {} (must be > 0)", width);
  Text text;
  for (size_t at = 0; at < line.size();) text.push_back(static_cast<char32_t>(next_code_point(line, at)));
  std::vector<Text> chunks = split_chunks(text, break_on_hyphens);
  std::reverse(chunks.begin(), chunks.end());
  size_t limit = static_cast<size_t>(width);
  std::vector<std::string> lines;
  while (!chunks.empty()) {
    std::vector<Text> current;
    size_t length = 0;
    if (!lines.empty() && is_white(chunks.back())) chunks.pop_back();
    while (!chunks.empty() && length + chunks.back().size() <= limit) {
      length += chunks.back().size();
      current.push_back(std::move(chunks.back()));
      chunks.pop_back();
    }
    if (!chunks.empty() && chunks.back().size() > limit) {
      Text& word = chunks.back();
      if (break_long_words) {
        size_t end = limit - length;
        if (break_on_hyphens && word.size() > end && end > 0) {
          size_t hyphen = word.rfind(U'-', end - 1);
          if (hyphen != Text::npos && hyphen > 0 && word.find_first_not_of(U'-') < hyphen) end = hyphen + 1;
        }
        current.push_back(word.substr(0, end));
        word.erase(0, end);
      } else if (current.empty()) {
        current.push_back(std::move(word));
        chunks.pop_back();
      }
    }
    if (!current.empty() && is_white(current.back())) current.pop_back();
    if (current.empty()) continue;
    std::string out;
    for (const Text& part : current) {
      for (char32_t c : part) append_code_point(out, static_cast<int32_t>(c));
    }
    lines.push_back(std::move(out));
  }
  return lines;
}

}  // namespace sluice::jinja
