#include "text/jinja/lexer.h"

#include <algorithm>

#include "base/error.h"
#include "text/jinja/python_format.h"
#include "text/jinja/unicode_text.h"

namespace sluice::jinja {
namespace {

std::string normalise_newlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out.push_back('\n');
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out.push_back(source[i]);
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)), text_(source_) {}

  std::vector<Token> run() {
    while (at_ < text_.size()) read_text();
    add(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  template <typename... Args>
  [[noreturn]] void error(fmt::format_string<Args...> format, Args&&... args) {
    fail(Code::kInvalidArgument, "line {}: {}", line_, fmt::format(format, std::forward<Args>(args)...));
  }

  void add(TokenKind kind, std::string text, Value number = {}) {
    tokens_.push_back(Token{kind, line_, std::move(text), std::move(number)});
  }

  // Moves to `end`, counting lines; what stands there decides whether lstrip_blocks applies to the next text.
  void advance(size_t end) {
    line_ += static_cast<int>(std::count(text_.begin() + static_cast<std::ptrdiff_t>(at_), text_.begin() + static_cast<std::ptrdiff_t>(end), '\n'));
    if (end > at_) line_starting_ = text_[end - 1] == '\n';
    at_ = end;
  }

  size_t skip_spaces(size_t at) const {
    while (at < text_.size()) {
      size_t begin = at;
      if (!is_space(next_code_point(text_, at))) return begin;
    }
    return at;
  }

  bool matches(size_t at, std::string_view what) const { return text_.substr(at, what.size()) == what; }

  // Cuts the text before a tag as its mark asks.
  std::string_view cut(std::string_view data, char mark, bool is_variable) const {
    if (mark == '-') return strip_right(data);
    if (mark == '+' || is_variable) return data;
    size_t line_begin = data.rfind('\n') == std::string_view::npos ? 0 : data.rfind('\n') + 1;
    if (line_begin == 0 && !line_starting_) return data;
    return strip(data.substr(line_begin)).empty() ? data.substr(0, line_begin) : data;
  }

  void add_text(std::string_view data) {
    if (!data.empty()) add(TokenKind::kText, std::string(data));
  }

  void read_text() {
    size_t begin = at_, tag = begin;
    while (true) {
      tag = text_.find('{', tag);
      if (tag == std::string_view::npos || tag + 1 >= text_.size()) {
        add_text(text_.substr(begin));
        advance(text_.size());
        return;
      }
      char second = text_[tag + 1];
      if (second == '{' || second == '%' || second == '#') break;
      ++tag;
    }
    char type = text_[tag + 1];
    size_t raw_end = type == '%' ? match_raw_begin(tag) : 0;
    char mark = tag + 2 < text_.size() && (text_[tag + 2] == '-' || text_[tag + 2] == '+') ? text_[tag + 2] : 0;
    add_text(cut(text_.substr(begin, tag - begin), mark, type == '{'));
    if (raw_end != 0) {
      advance(raw_end);
      read_raw();
      return;
    }
    advance(tag + (mark != 0 ? 3 : 2));
    if (type == '#') {
      read_comment();
    } else {
      add(type == '{' ? TokenKind::kVariableBegin : TokenKind::kBlockBegin, "");
      read_tag(type == '{');
    }
  }

  // End of "{% raw %}" at `tag`, or 0.
  size_t match_raw_begin(size_t tag) const {
    size_t at = tag + 2;
    if (at < text_.size() && (text_[at] == '-' || text_[at] == '+')) ++at;
    at = skip_spaces(at);
    if (!matches(at, "raw")) return 0;
    at = skip_spaces(at + 3);
    if (matches(at, "-%}")) return skip_spaces(at + 3);
    return matches(at, "%}") ? at + 2 : 0;
  }

  void read_raw() {
    for (size_t tag = text_.find("{%", at_); tag != std::string_view::npos; tag = text_.find("{%", tag + 1)) {
      size_t at = tag + 2;
      char mark = at < text_.size() && (text_[at] == '-' || text_[at] == '+') ? text_[at++] : 0;
      at = skip_spaces(at);
      if (!matches(at, "endraw")) continue;
      at = skip_spaces(at + 6);
      size_t end = match_end(at, "%}", true);
      if (end == 0) continue;
      add_text(cut(text_.substr(at_, tag - at_), mark, false));
      advance(end);
      return;
    }
    error("a raw block is not closed; expected {{% endraw %}}");
  }

  // End of a closing delimiter with its mark and the white space it takes, or 0.
  size_t match_end(size_t at, std::string_view close, bool trims) const {
    if (matches(at, "-") && matches(at + 1, close)) return skip_spaces(at + 1 + close.size());
    if (trims && matches(at, "+") && matches(at + 1, close)) return at + 1 + close.size();
    if (!matches(at, close)) return 0;
    at += close.size();
    return trims && matches(at, "\n") ? at + 1 : at;
  }

  void read_comment() {
    size_t close = text_.find("#}", at_);
    if (close == std::string_view::npos) error("a comment is not closed; expected #}}");
    bool marked = close > at_ && (text_[close - 1] == '-' || text_[close - 1] == '+');
    advance(match_end(marked ? close - 1 : close, "#}", true));
  }

  void read_tag(bool is_variable) {
    std::string_view close = is_variable ? "}}" : "%}";
    std::string open;  // brackets not closed yet
    int begin_line = line_;
    while (true) {
      if (at_ >= text_.size()) {
        line_ = begin_line;
        error("a tag is not closed; expected {}", close);
      }
      if (open.empty()) {
        size_t end = match_end(at_, close, !is_variable);
        if (end != 0) {
          add(is_variable ? TokenKind::kVariableEnd : TokenKind::kBlockEnd, "");
          advance(end);
          return;
        }
      }
      size_t after = at_;
      int32_t c = next_code_point(text_, after);
      if (is_space(c)) advance(skip_spaces(at_));
      else if (c >= '0' && c <= '9') read_number();
      else if (c == '\'' || c == '"') read_string();
      else if (is_word(c)) read_name();
      else read_operator(open);
    }
  }

  void read_name() {
    size_t end = at_;
    while (end < text_.size()) {
      size_t next = end;
      if (!is_word(next_code_point(text_, next))) break;
      end = next;
    }
    add(TokenKind::kName, std::string(text_.substr(at_, end - at_)));
    advance(end);
  }

  static bool is_ascii_digit(char c) { return c >= '0' && c <= '9'; }

  // Digits with single underscores between them; `at` itself if there are none.
  size_t skip_digits(size_t at) const {
    if (at >= text_.size() || !is_ascii_digit(text_[at])) return at;
    while (at < text_.size()) {
      if (is_ascii_digit(text_[at])) ++at;
      else if (text_[at] == '_' && at + 1 < text_.size() && is_ascii_digit(text_[at + 1])) at += 2;
      else break;
    }
    return at;
  }

  bool read_float() {
    if (at_ > 0 && text_[at_ - 1] == '.') return false;
    size_t end = skip_digits(at_);
    bool is_float = false;
    if (end < text_.size() && text_[end] == '.' && skip_digits(end + 1) > end + 1) {
      end = skip_digits(end + 1);
      is_float = true;
    }
    if (end < text_.size() && (text_[end] == 'e' || text_[end] == 'E')) {
      size_t exponent = end + 1;
      if (exponent < text_.size() && (text_[exponent] == '+' || text_[exponent] == '-')) ++exponent;
      if (skip_digits(exponent) > exponent) {
        end = skip_digits(exponent);
        is_float = true;
      }
    }
    if (!is_float) return false;
    double value = 0;
    parse_float(text_.substr(at_, end - at_), value);
    add(TokenKind::kFloat, "", Value::real(value));
    advance(end);
    return true;
  }

  void read_number() {
    if (read_float()) return;
    size_t end = at_;
    int base = 10;
    if (text_[at_] == '0' && at_ + 1 < text_.size()) {
      char letter = static_cast<char>(text_[at_ + 1] | 0x20);
      base = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 10;
    }
    auto is_digit_of = [&](size_t at) {
      if (at >= text_.size()) return false;
      char c = static_cast<char>(text_[at] | 0x20);
      if (is_ascii_digit(text_[at])) return text_[at] - '0' < base;
      return base == 16 && c >= 'a' && c <= 'f';
    };
    if (base != 10) {
      end += 2;
      while (is_digit_of(end) || (end < text_.size() && text_[end] == '_' && is_digit_of(end + 1))) ++end;
      if (end == at_ + 2) base = 10, end = at_ + 1;
    } else if (text_[at_] == '0') {
      // Zeros only: "07" is 0 and then 7, as in Jinja.
      while (end < text_.size() && (text_[end] == '0' || (text_[end] == '_' && matches(end + 1, "0")))) ++end;
    } else {
      end = skip_digits(at_);
    }
    std::string digits(text_.substr(at_, end - at_));
    digits.erase(std::remove(digits.begin(), digits.end(), '_'), digits.end());
    Int value = 0;
    try {
      parse_int(digits, base, value);
    } catch (const Error& e) {
      error("{}", e.what());
    }
    add(TokenKind::kInteger, "", Value::integer(value));
    advance(end);
  }

  void read_string() {
    char quote = text_[at_];
    size_t end = at_ + 1;
    while (end < text_.size() && text_[end] != quote) end += text_[end] == '\\' ? 2 : 1;
    if (end >= text_.size()) error("a string is not closed; expected {}", quote);
    std::string value = unescape(text_.substr(at_ + 1, end - at_ - 1));
    add(TokenKind::kString, std::move(value));
    advance(end + 1);
  }

  std::string unescape(std::string_view raw) {
    std::string out;
    for (size_t i = 0; i < raw.size(); ++i) {
      if (raw[i] != '\\' || i + 1 == raw.size()) {
        out.push_back(raw[i]);
        continue;
      }
      char c = raw[++i];
      switch (c) {
        case '\n': break;
        case '\\':
        case '\'':
        case '"': out.push_back(c); break;
        case 'a': out.push_back('\a'); break;
        case 'b': out.push_back('\b'); break;
        case 'f': out.push_back('\f'); break;
        case 'n': out.push_back('\n'); break;
        case 'r': out.push_back('\r'); break;
        case 't': out.push_back('\t'); break;
        case 'v': out.push_back('\v'); break;
        case 'x': append_hex(out, raw, i, 2); break;
        case 'u': append_hex(out, raw, i, 4); break;
        case 'U': append_hex(out, raw, i, 8); break;
        case 'N': error("\\N escapes are not supported; write the character");
        default:
          if (c >= '0' && c <= '7') {
            int value = 0;
            size_t begin = i;
            while (i < raw.size() && i < begin + 3 && raw[i] >= '0' && raw[i] <= '7') value = value * 8 + (raw[i++] - '0');
            --i;
            append_code_point(out, value);
          } else {
            out.push_back('\\');
            out.push_back(c);
          }
      }
    }
    return out;
  }

  // REQUIRES: raw[i] is the letter of the escape. Leaves i at its last digit.
  void append_hex(std::string& out, std::string_view raw, size_t& i, int num_digits) {
    int32_t code = read_hex(raw, i, num_digits);
    if (code >= 0xD800 && code < 0xDC00 && raw.substr(i + 1, 2) == "\\u") {
      size_t second = i + 2;
      int32_t low = read_hex(raw, second, 4);
      if (low >= 0xDC00 && low < 0xE000) {
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
        i = second;
      }
    }
    if ((code >= 0xD800 && code < 0xE000) || code > 0x10FFFF) error("a string has an escape that is no Unicode character");
    append_code_point(out, code);
  }

  int32_t read_hex(std::string_view raw, size_t& i, int num_digits) {
    uint32_t value = 0;
    for (int k = 0; k < num_digits; ++k) {
      char c = ++i < raw.size() ? raw[i] : 'z';
      char low = static_cast<char>(c | 0x20);
      if (!is_ascii_digit(c) && !(low >= 'a' && low <= 'f')) error("a string has a truncated \\x or \\u escape");
      value = value * 16 + static_cast<uint32_t>(is_ascii_digit(c) ? c - '0' : low - 'a' + 10);
    }
    return value > 0x10FFFF ? 0x110000 : static_cast<int32_t>(value);
  }

  void read_operator(std::string& open) {
    static constexpr std::string_view kOperators[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]",
                                                      "(",  ")",  "{",  "}",  ">",  "<",  "=", ".", ":", "|", ",", ";"};
    for (std::string_view op : kOperators) {
      if (!matches(at_, op)) continue;
      char c = op[0];
      if (c == '(' || c == '[' || c == '{') {
        open.push_back(c == '(' ? ')' : c == '[' ? ']' : '}');
      } else if (c == ')' || c == ']' || c == '}') {
        if (open.empty()) error("unexpected '{}'", op);
        if (open.back() != c) error("unexpected '{}', expected '{}'", op, open.back());
        open.pop_back();
      }
      add(TokenKind::kOperator, std::string(op));
      advance(at_ + op.size());
      return;
    }
    size_t end = at_;
    next_code_point(text_, end);
    error("unexpected character '{}'", text_.substr(at_, end - at_));
  }

  const std::string source_;
  const std::string_view text_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) {
  if (source.size() > (size_t{8} << 20)) fail(Code::kInvalidArgument, "the template is larger than 8 MiB");
  if (!is_valid_utf8(source)) {
    size_t line_end = 0;
    int line = 1;
    for (size_t begin = 0; begin < source.size(); begin = line_end + 1, ++line) {
      line_end = std::min(source.find('\n', begin), source.size());
      if (!is_valid_utf8(source.substr(begin, line_end - begin))) break;
    }
    fail(Code::kInvalidArgument, "line {}: the template is not valid UTF-8", line);
  }
  return Lexer(normalise_newlines(source)).run();
}

}  // namespace sluice::jinja
