#include "text/jinja/python_format.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "text/jinja/unicode_text.h"

namespace sluice::jinja {
namespace {

void append_hex(std::string& out, uint32_t value, int digits) {
  for (int shift = (digits - 1) * 4; shift >= 0; shift -= 4) out.push_back("0123456789abcdef"[(value >> shift) & 15]);
}

void append_repr(std::string& out, std::string_view text) {
  bool has_single = text.find('\'') != std::string_view::npos, has_double = text.find('"') != std::string_view::npos;
  char quote = has_single && !has_double ? '"' : '\'';
  out.push_back(quote);
  for (size_t at = 0; at < text.size();) {
    size_t begin = at;
    int32_t c = next_code_point(text, at);
    if (c == quote || c == '\\') {
      out.push_back('\\');
      out.push_back(static_cast<char>(c));
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (is_printable(c)) {
      out += text.substr(begin, at - begin);
    } else if (c < 0x100) {
      out += "\\x";
      append_hex(out, static_cast<uint32_t>(c), 2);
    } else if (c < 0x10000) {
      out += "\\u";
      append_hex(out, static_cast<uint32_t>(c), 4);
    } else {
      out += "\\U";
      append_hex(out, static_cast<uint32_t>(c), 8);
    }
  }
  out.push_back(quote);
}

void append_repr(std::string& out, const Value& v);

void append_items(std::string& out, const std::vector<Value>& items, const char* open, const char* close) {
  out += open;
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out += ", ";
    append_repr(out, items[i]);
  }
  out += close;
}

void append_dict(std::string& out, const Dict& dict) {
  out.push_back('{');
  for (size_t i = 0; i < dict.items.size(); ++i) {
    if (i > 0) out += ", ";
    append_repr(out, dict.items[i].first);
    out += ": ";
    append_repr(out, dict.items[i].second);
  }
  out.push_back('}');
}

void append_repr(std::string& out, const Value& v) {
  FrameGuard guard;
  charge_steps(1);
  check_string_size(static_cast<int64_t>(out.size()));
  switch (v.kind()) {
    case Kind::kUndefined: out += "Undefined"; break;
    case Kind::kNone: out += "None"; break;
    case Kind::kBool: out += v.get_bool() ? "True" : "False"; break;
    case Kind::kInt: out += int_to_string(v.get_int()); break;
    case Kind::kFloat: out += float_repr(v.get_float()); break;
    case Kind::kString:
      if (v.str().is_markup) out += "Markup(";
      append_repr(out, v.text());
      if (v.str().is_markup) out += ")";
      break;
    case Kind::kList: append_items(out, v.items(), "[", "]"); break;
    case Kind::kTuple: append_items(out, v.items(), "(", v.items().size() == 1 ? ",)" : ")"); break;
    case Kind::kDict: append_dict(out, v.dict()); break;
    case Kind::kRange: {
      const Range& range = v.as<const Range>();
      out += fmt::format("range({}, {}", range.start, range.stop);
      if (range.step != 1) out += fmt::format(", {}", range.step);
      out += ")";
      break;
    }
    case Kind::kView:
      out += type_name(v);
      append_items(out, iterate(v)->items, "([", "])");
      break;
    case Kind::kNamespace:
      out += "<Namespace ";
      append_dict(out, v.as<const Namespace>().variables);
      out += ">";
      break;
    case Kind::kLoop: {
      const Loop& loop = v.as<const Loop>();
      out += fmt::format("<LoopContext {}/{}>", loop.index0 + 1, loop.items->items.size());
      break;
    }
    case Kind::kFunction: out += fmt::format("<function {}>", v.as<const Function>().name); break;
    case Kind::kMethod:
      out += fmt::format("<built-in method {} of {} object>", v.as<const Method>().name, type_name(v.as<const Method>().self));
      break;
    default: out += fmt::format("<{} object>", type_name(v));
  }
}

// One level of json.dumps.
class JsonWriter {
 public:
  explicit JsonWriter(const JsonStyle& style) : style_(style) {}

  void write(const Value& v, int level) {
    FrameGuard guard;
    charge_steps(1);
    check_string_size(static_cast<int64_t>(out_.size()));
    switch (v.kind()) {
      case Kind::kNone: out_ += "null"; break;
      case Kind::kBool: out_ += v.get_bool() ? "true" : "false"; break;
      case Kind::kInt: out_ += int_to_string(v.get_int()); break;
      case Kind::kFloat: out_ += number(v.get_float()); break;
      case Kind::kString: write_string(v.text()); break;
      case Kind::kList:
      case Kind::kTuple: write_list(v.items(), level); break;
      case Kind::kDict: write_dict(v.dict(), level); break;
      default: fail(Code::kInvalidArgument, "Object of type {} is not JSON serializable", type_name(v));
    }
  }

  std::string take() { return std::move(out_); }

 private:
  static std::string number(double d) {
    if (std::isnan(d)) return "NaN";
    if (std::isinf(d)) return d > 0 ? "Infinity" : "-Infinity";
    return float_repr(d);
  }

  void write_string(std::string_view text) {
    out_.push_back('"');
    for (size_t at = 0; at < text.size();) {
      size_t begin = at;
      int32_t c = next_code_point(text, at);
      switch (c) {
        case '"': out_ += "\\\""; continue;
        case '\\': out_ += "\\\\"; continue;
        case '\n': out_ += "\\n"; continue;
        case '\r': out_ += "\\r"; continue;
        case '\t': out_ += "\\t"; continue;
        case '\b': out_ += "\\b"; continue;
        case '\f': out_ += "\\f"; continue;
        default: break;
      }
      if (c < 0x20 || (style_.ensure_ascii && c >= 0x7F)) {
        uint32_t code = static_cast<uint32_t>(c);
        if (code >= 0x10000) {
          code -= 0x10000;
          out_ += "\\u";
          append_hex(out_, 0xD800 + (code >> 10), 4);
          code = 0xDC00 + (code & 0x3FF);
        }
        out_ += "\\u";
        append_hex(out_, code, 4);
      } else {
        out_ += text.substr(begin, at - begin);
      }
    }
    out_.push_back('"');
  }

  void new_line(int level) {
    if (!style_.has_indent) return;
    out_.push_back('\n');
    check_string_size(static_cast<int64_t>(style_.indent.size()) * level);
    for (int i = 0; i < level; ++i) out_ += style_.indent;
    check_string_size(static_cast<int64_t>(out_.size()));
  }

  void write_list(const std::vector<Value>& items, int level) {
    if (items.empty()) {
      out_ += "[]";
      return;
    }
    out_.push_back('[');
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_ += style_.item_separator;
      new_line(level + 1);
      write(items[i], level + 1);
    }
    new_line(level);
    out_.push_back(']');
  }

  std::string key_text(const Value& key) {
    switch (key.kind()) {
      case Kind::kString: return key.text();
      case Kind::kNone: return "null";
      case Kind::kBool: return key.get_bool() ? "true" : "false";
      case Kind::kInt: return int_to_string(key.get_int());
      case Kind::kFloat: return number(key.get_float());
      default: fail(Code::kInvalidArgument, "keys must be str, int, float, bool or None, not {}", type_name(key));
    }
  }

  void write_dict(const Dict& dict, int level) {
    if (dict.items.empty()) {
      out_ += "{}";
      return;
    }
    std::vector<const std::pair<Value, Value>*> members;
    for (const auto& member : dict.items) members.push_back(&member);
    if (style_.sort_keys) {
      std::stable_sort(members.begin(), members.end(),
                       [](const auto* a, const auto* b) { return is_less(a->first, b->first); });
    }
    out_.push_back('{');
    for (size_t i = 0; i < members.size(); ++i) {
      if (i > 0) out_ += style_.item_separator;
      new_line(level + 1);
      write_string(key_text(members[i]->first));
      out_ += style_.key_separator;
      write(members[i]->second, level + 1);
    }
    new_line(level);
    out_.push_back('}');
  }

  const JsonStyle& style_;
  std::string out_;
};

}  // namespace

std::string int_to_string(Int i) {
  unsigned __int128 rest = i < 0 ? -static_cast<unsigned __int128>(i) : static_cast<unsigned __int128>(i);
  std::string digits;
  do {
    digits.push_back(static_cast<char>('0' + static_cast<int>(rest % 10)));
    rest /= 10;
  } while (rest != 0);
  if (i < 0) digits.push_back('-');
  std::reverse(digits.begin(), digits.end());
  return digits;
}

std::string float_repr(double d) {
  if (std::isnan(d)) return "nan";
  if (std::isinf(d)) return d > 0 ? "inf" : "-inf";
  char buffer[40];
  double size = std::fabs(d);
  bool exponent = size != 0 && (size < 1e-4 || size >= 1e16);
  auto [end, error] = std::to_chars(buffer, buffer + sizeof buffer, d,
                                    exponent ? std::chars_format::scientific : std::chars_format::fixed);
  std::string text(buffer, end);
  if (!exponent && text.find('.') == std::string::npos) text += ".0";
  return text;
}

std::string to_str(const Value& v) {
  if (v.is_string()) return v.text();
  if (v.is_undefined()) return "";
  std::string out;
  append_repr(out, v);
  return out;
}

std::string repr(const Value& v) {
  std::string out;
  append_repr(out, v);
  return out;
}

std::string repr(std::string_view text) {
  std::string out;
  append_repr(out, text);
  return out;
}

std::string to_json(const Value& v, const JsonStyle& style) {
  JsonWriter writer(style);
  writer.write(v, 0);
  return writer.take();
}

bool parse_int(std::string_view text, int base, Int& out) {
  text = strip(text);
  bool negative = false;
  if (!text.empty() && (text[0] == '+' || text[0] == '-')) {
    negative = text[0] == '-';
    text.remove_prefix(1);
  }
  bool has_prefix = false;
  if (text.size() > 1 && text[0] == '0') {
    char letter = static_cast<char>(text[1] | 0x20);
    int prefix_base = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 0;
    if (prefix_base != 0 && (base == prefix_base || base == 0)) {
      base = prefix_base;
      text.remove_prefix(2);
      has_prefix = true;
    }
  }
  if (base == 0) base = 10;
  if (text.empty()) return false;
  Int value = 0;
  bool after_digit = has_prefix;
  for (size_t at = 0; at < text.size();) {
    int32_t c = next_code_point(text, at);
    if (c == '_') {
      if (!after_digit || at == text.size()) return false;
      after_digit = false;
      continue;
    }
    int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'z' ? c - 'a' + 10 : c >= 'A' && c <= 'Z' ? c - 'A' + 10 : 99;
    if (digit >= base) return false;
    after_digit = true;
    if (__builtin_mul_overflow(value, Int{base}, &value) || __builtin_add_overflow(value, Int{digit}, &value)) {
      fail(Code::kInvalidArgument, "the integer {} is too large", text);
    }
  }
  out = negative ? -value : value;
  return true;
}

bool parse_float(std::string_view text, double& out) {
  text = strip(text);
  std::string digits;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '_') {
      auto is_ascii_digit = [&](size_t at) { return at < text.size() && text[at] >= '0' && text[at] <= '9'; };
      if (i == 0 || !is_ascii_digit(i - 1) || !is_ascii_digit(i + 1)) return false;
      continue;
    }
    digits.push_back(text[i]);
  }
  std::string_view rest = digits;
  bool negative = false;
  if (!rest.empty() && (rest[0] == '+' || rest[0] == '-')) {
    negative = rest[0] == '-';
    rest.remove_prefix(1);
  }
  if (rest.empty() || rest[0] == '-' || rest[0] == '+') return false;
  std::string word = to_lower(rest);
  if (word == "inf" || word == "infinity") {
    out = negative ? -INFINITY : INFINITY;
    return true;
  }
  if (word == "nan") {
    out = NAN;
    return true;
  }
  if ((rest[0] < '0' || rest[0] > '9') && rest[0] != '.') return false;
  double value = 0;
  auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
  if (end != rest.data() + rest.size()) return false;
  if (error == std::errc::result_out_of_range) {
    // from_chars does not say whether it was too large or too small; strtod does.
    value = std::strtod(std::string(rest).c_str(), nullptr);
  } else if (error != std::errc()) {
    return false;
  }
  out = negative ? -value : value;
  return true;
}

std::string replace_text(std::string_view text, std::string_view old, std::string_view fresh, int64_t count) {
  std::string out;
  if (count < 0) count = INT64_MAX;
  charge_steps(static_cast<int64_t>(text.size()) / kBytesPerStep);
  size_t at = 0;
  if (old.empty()) {
    // Python puts `fresh` before every character and at the end.
    while (count-- > 0) {
      out += fresh;
      check_string_size(static_cast<int64_t>(out.size()));
      if (at == text.size()) return out;
      size_t begin = at;
      next_code_point(text, at);
      out += text.substr(begin, at - begin);
    }
  } else {
    while (count-- > 0) {
      size_t found = text.find(old, at);
      if (found == std::string_view::npos) break;
      out += text.substr(at, found - at);
      out += fresh;
      check_string_size(static_cast<int64_t>(out.size()));
      at = found + old.size();
    }
  }
  out += text.substr(at);
  return out;
}

std::string escape_html(std::string_view text) {
  std::string out;
  for (char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '\'': out += "&#39;"; break;
      case '"': out += "&#34;"; break;
      default: out.push_back(c);
    }
  }
  return out;
}

}  // namespace sluice::jinja
