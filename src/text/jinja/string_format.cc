// Python's two string formatting languages: "%" and str.format.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "text/jinja/access.h"
#include "text/jinja/python_format.h"
#include "text/jinja/unicode_text.h"

namespace sluice::jinja {
namespace {

constexpr int64_t kMaxWidth = 1 << 20;

std::string to_base(Int value, int base, bool upper) {
  unsigned __int128 rest = value < 0 ? -static_cast<unsigned __int128>(value) : static_cast<unsigned __int128>(value);
  std::string digits;
  const char* alphabet = upper ? "0123456789ABCDEF" : "0123456789abcdef";
  do {
    digits.push_back(alphabet[static_cast<int>(rest % static_cast<unsigned>(base))]);
    rest /= static_cast<unsigned>(base);
  } while (rest != 0);
  std::reverse(digits.begin(), digits.end());
  return digits;
}

// Digits of |d| in the style of printf's e, f or g; the sign is the caller's.
std::string float_digits(double d, char style, int precision, bool alternate) {
  bool upper = style >= 'A' && style <= 'Z';
  d = std::fabs(d);
  if (std::isnan(d)) return upper ? "NAN" : "nan";
  if (std::isinf(d)) return upper ? "INF" : "inf";
  char format[8] = {'%', '.', '*', 0};
  size_t at = 1;
  if (alternate) format[at++] = '#';
  format[at++] = '.';
  format[at++] = '*';
  format[at++] = style;
  format[at] = 0;
  int size = std::snprintf(nullptr, 0, format, precision, d);
  std::string out(static_cast<size_t>(size) + 1, 0);
  std::snprintf(out.data(), out.size(), format, precision, d);
  out.pop_back();
  return out;
}

int check_width(Int width, const char* what) {
  if (width > kMaxWidth || width < -kMaxWidth) fail(Code::kInvalidArgument, "{} is too large", what);
  return static_cast<int>(width);
}

std::string repeat(std::string_view one, int64_t count) {
  std::string out;
  for (int64_t i = 0; i < count; ++i) out += one;
  return out;
}

Int to_integer(const Value& v, char conversion) {
  if (v.is_undefined()) fail_undefined(v);
  if (v.is_integral()) return v.get_int();
  if (v.is(Kind::kFloat) && (conversion == 'd' || conversion == 'i' || conversion == 'u')) {
    double d = std::trunc(v.get_float());
    if (!std::isfinite(d) || std::fabs(d) > 1e37) fail(Code::kInvalidArgument, "cannot convert {} to an integer", float_repr(d));
    return static_cast<Int>(d);
  }
  if (conversion == 'd' || conversion == 'i' || conversion == 'u') {
    fail(Code::kInvalidArgument, "%{} format: a real number is required, not {}", conversion, type_name(v));
  }
  fail(Code::kInvalidArgument, "%{} format: an integer is required, not {}", conversion, type_name(v));
}

std::string ascii_repr(const Value& v) {
  std::string plain = repr(v), out;
  for (size_t at = 0; at < plain.size();) {
    int32_t c = next_code_point(plain, at);
    if (c < 0x80) out.push_back(static_cast<char>(c));
    else if (c < 0x100) out += fmt::format("\\x{:02x}", c);
    else if (c < 0x10000) out += fmt::format("\\u{:04x}", c);
    else out += fmt::format("\\U{:08x}", c);
  }
  return out;
}

// The arguments of "%": one after the other, or by name.
class PercentArguments {
 public:
  explicit PercentArguments(const Value& arguments) : arguments_(arguments) {}

  const Value& next() {
    if (arguments_.is(Kind::kTuple)) {
      if (position_ >= arguments_.items().size()) fail(Code::kInvalidArgument, "not enough arguments for format string");
      return arguments_.items()[position_++];
    }
    if (position_++ > 0) fail(Code::kInvalidArgument, "not enough arguments for format string");
    return arguments_;
  }

  const Value& named(std::string_view name) {
    used_name_ = true;
    if (!arguments_.is(Kind::kDict)) fail(Code::kInvalidArgument, "format requires a mapping");
    const Value* found = arguments_.dict().find(name);
    if (found == nullptr) fail(Code::kInvalidArgument, "the format names '{}', which is not among the arguments", name);
    return *found;
  }

  void finish() const {
    bool is_mapping = arguments_.is(Kind::kDict) || arguments_.is(Kind::kList);
    size_t count = arguments_.is(Kind::kTuple) ? arguments_.items().size() : is_mapping || used_name_ ? position_ : 1;
    if (position_ < count) fail(Code::kInvalidArgument, "not all arguments converted during string formatting");
  }

 private:
  const Value& arguments_;
  size_t position_ = 0;
  bool used_name_ = false;
};

struct PercentSpec {
  bool left = false, plus = false, space = false, zero = false, alternate = false;
  int width = 0;
  int precision = -1;
};

std::string pad_percent(const PercentSpec& spec, std::string sign, std::string body, bool is_number) {
  int64_t length = count_code_points(sign) + count_code_points(body);
  std::string fill = repeat(spec.zero && is_number && !spec.left ? "0" : " ", std::max<int64_t>(0, spec.width - length));
  if (spec.left) return sign + body + fill;
  if (spec.zero && is_number) return sign + fill + body;
  return fill + sign + body;
}

std::string percent_one(const PercentSpec& spec, char conversion, const Value& v) {
  auto sign_of = [&](bool negative) { return std::string(negative ? "-" : spec.plus ? "+" : spec.space ? " " : ""); };
  switch (conversion) {
    case 's':
    case 'r':
    case 'a': {
      std::string text = conversion == 's' ? to_str(v) : conversion == 'r' ? repr(v) : ascii_repr(v);
      if (spec.precision >= 0) text.resize(byte_offset(text, spec.precision));
      return pad_percent(spec, "", std::move(text), false);
    }
    case 'c': {
      std::string text;
      if (v.is_string() && v.str().num_chars == 1) text = v.text();
      else if (v.is_integral() && v.get_int() >= 0 && v.get_int() < 0x110000) append_code_point(text, static_cast<int32_t>(v.get_int()));
      else fail(Code::kInvalidArgument, "%c requires int or char");
      return pad_percent(spec, "", std::move(text), false);
    }
    case 'd':
    case 'i':
    case 'u':
    case 'x':
    case 'X':
    case 'o': {
      Int value = to_integer(v, conversion);
      int base = conversion == 'o' ? 8 : conversion == 'x' || conversion == 'X' ? 16 : 10;
      std::string digits = to_base(value, base, conversion == 'X');
      if (spec.precision > static_cast<int>(digits.size())) {
        digits.insert(0, static_cast<size_t>(spec.precision) - digits.size(), '0');
      }
      std::string sign = sign_of(value < 0);
      if (spec.alternate && base != 10) sign += conversion == 'o' ? "0o" : conversion == 'x' ? "0x" : "0X";
      return pad_percent(spec, std::move(sign), std::move(digits), true);
    }
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G': {
      if (v.is_undefined()) fail_undefined(v);
      if (!v.is_number()) fail(Code::kInvalidArgument, "must be real number, not {}", type_name(v));
      double d = v.get_float();
      std::string digits = float_digits(d, conversion, spec.precision < 0 ? 6 : spec.precision, spec.alternate);
      return pad_percent(spec, sign_of(std::signbit(d) && !std::isnan(d)), std::move(digits), std::isfinite(d));
    }
    default: fail(Code::kInvalidArgument, "unsupported format character '{}'", std::string(1, conversion));
  }
}

struct FormatSpec {
  std::string fill = " ";
  char align = 0;  // < > ^ =
  char sign = '-';
  bool alternate = false;
  char grouping = 0;
  int width = 0;
  int precision = -1;
  char type = 0;
};

FormatSpec parse_spec(std::string_view spec) {
  FormatSpec out;
  auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
  size_t at = 0;
  if (!spec.empty()) {
    size_t after = 0;
    next_code_point(spec, after);
    if (after < spec.size() && is_align(spec[after])) {
      out.fill = spec.substr(0, after);
      out.align = spec[after];
      at = after + 1;
    } else if (is_align(spec[0])) {
      out.align = spec[0];
      at = 1;
    }
  }
  auto peek = [&] { return at < spec.size() ? spec[at] : '\0'; };
  if (peek() == '+' || peek() == '-' || peek() == ' ') out.sign = spec[at++];
  if (peek() == '#') {
    out.alternate = true;
    ++at;
  }
  if (peek() == '0') {
    if (out.align == 0) {
      out.align = '=';
      out.fill = "0";
    }
    ++at;
  }
  auto number = [&](const char* what) {
    Int value = 0;
    while (peek() >= '0' && peek() <= '9') value = check_width(value * 10 + (spec[at++] - '0'), what);
    return static_cast<int>(value);
  };
  out.width = number("the width");
  if (peek() == ',' || peek() == '_') out.grouping = spec[at++];
  if (peek() == '.') {
    ++at;
    if (peek() < '0' || peek() > '9') fail(Code::kInvalidArgument, "Format specifier missing precision");
    out.precision = number("the precision");
  }
  if (at < spec.size()) out.type = spec[at++];
  if (at < spec.size()) fail(Code::kInvalidArgument, "Invalid format specifier '{}'", spec);
  return out;
}

std::string group_digits(std::string digits, char separator, size_t every) {
  size_t end = 0;
  while (end < digits.size() && std::isxdigit(static_cast<unsigned char>(digits[end]))) ++end;
  for (size_t at = end; at > every;) {
    at -= every;
    digits.insert(at, 1, separator);
  }
  return digits;
}

std::string align_field(const FormatSpec& spec, const std::string& sign, const std::string& body, char default_align) {
  char align = spec.align != 0 ? spec.align : default_align;
  int64_t missing = std::max<int64_t>(0, spec.width - count_code_points(sign) - count_code_points(body));
  int64_t left = align == '>' || align == '=' ? missing : align == '^' ? missing / 2 : 0;
  std::string before = repeat(spec.fill, left), after = repeat(spec.fill, missing - left);
  return align == '=' ? sign + before + body + after : before + sign + body + after;
}

std::string format_number(const Value& v, FormatSpec spec) {
  std::string digits, sign;
  bool negative;
  bool is_float_type = std::string_view("eEfFgG%").find(spec.type) != std::string_view::npos && spec.type != 0;
  if (v.is(Kind::kFloat) || is_float_type) {
    double d = v.get_float();
    negative = std::signbit(d) && !std::isnan(d);
    if (spec.type == '%') {
      digits = float_digits(d * 100, 'f', spec.precision < 0 ? 6 : spec.precision, spec.alternate) + "%";
    } else if (spec.type != 0) {
      if (!is_float_type && spec.type != 'n') {
        fail(Code::kInvalidArgument, "Unknown format code '{}' for object of type 'float'", std::string(1, spec.type));
      }
      digits = float_digits(d, spec.type == 'n' ? 'g' : spec.type, spec.precision < 0 ? 6 : spec.precision, spec.alternate);
    } else if (spec.precision >= 0) {
      digits = float_digits(d, 'g', std::max(spec.precision, 1), spec.alternate);
      // Without a type a float keeps one digit after the point.
      if (std::isfinite(d) && digits.find_first_of(".e") == std::string::npos) digits += ".0";
    } else {
      digits = float_repr(std::fabs(d));
    }
    if (spec.grouping != 0) digits = group_digits(digits, spec.grouping, 3);
  } else {
    Int value = v.get_int();
    negative = value < 0;
    if (spec.precision >= 0) fail(Code::kInvalidArgument, "Precision not allowed in integer format specifier");
    switch (spec.type) {
      case 0:
      case 'd':
      case 'n': digits = to_base(value, 10, false); break;
      case 'x':
      case 'X': digits = to_base(value, 16, spec.type == 'X'); break;
      case 'o': digits = to_base(value, 8, false); break;
      case 'b': digits = to_base(value, 2, false); break;
      case 'c':
        if (value < 0 || value >= 0x110000) fail(Code::kInvalidArgument, "%c arg not in range(0x110000)");
        append_code_point(digits, static_cast<int32_t>(value));
        return align_field(spec, "", digits, '<');
      default:
        fail(Code::kInvalidArgument, "Unknown format code '{}' for object of type '{}'", std::string(1, spec.type), type_name(v));
    }
    if (spec.grouping != 0) digits = group_digits(digits, spec.grouping, spec.type == 0 || spec.type == 'd' ? 3 : 4);
    if (spec.alternate && spec.type != 0 && spec.type != 'd') sign = std::string("0") + spec.type;
  }
  sign = (negative ? "-" : spec.sign == '-' ? "" : std::string(1, spec.sign)) + sign;
  return align_field(spec, sign, digits, '>');
}

// str.format's replacement fields.
class BraceFormatter {
 public:
  explicit BraceFormatter(const CallArgs& args) : args_(args) {}

  std::string format(std::string_view text, int level) {
    if (level > 2) fail(Code::kInvalidArgument, "Max string recursion exceeded");
    std::string out;
    for (size_t at = 0; at < text.size();) {
      check_string_size(static_cast<int64_t>(out.size()));
      char c = text[at++];
      if (c != '{' && c != '}') {
        out.push_back(c);
        continue;
      }
      if (at < text.size() && text[at] == c) {
        out.push_back(c);
        ++at;
        continue;
      }
      if (c == '}') fail(Code::kInvalidArgument, "Single '}}' encountered in format string");
      size_t begin = at;
      int open = 1;
      for (; at < text.size(); ++at) {
        if (text[at] == '{') ++open;
        if (text[at] == '}' && --open == 0) break;
      }
      if (at == text.size()) fail(Code::kInvalidArgument, "expected '}}' before end of string");
      out += field(text.substr(begin, at - begin), level);
      ++at;
    }
    return out;
  }

 private:
  std::string field(std::string_view text, int level) {
    size_t name_end = 0;
    bool in_brackets = false;
    while (name_end < text.size() && (in_brackets || (text[name_end] != '!' && text[name_end] != ':'))) {
      if (text[name_end] == '[') in_brackets = true;
      if (text[name_end] == ']') in_brackets = false;
      ++name_end;
    }
    Value v = resolve(text.substr(0, name_end));
    std::string_view rest = text.substr(name_end);
    if (!rest.empty() && rest[0] == '!') {
      if (rest.size() < 2) fail(Code::kInvalidArgument, "unmatched '{{' in format spec");
      char conversion = rest[1];
      if (conversion != 's' && conversion != 'r' && conversion != 'a') {
        fail(Code::kInvalidArgument, "Unknown conversion specifier {}", conversion);
      }
      v = Value::string(conversion == 's' ? to_str(v) : conversion == 'r' ? repr(v) : ascii_repr(v));
      rest.remove_prefix(2);
      if (!rest.empty() && rest[0] != ':') fail(Code::kInvalidArgument, "expected ':' after conversion specifier");
    }
    std::string spec = rest.empty() ? "" : format(rest.substr(1), level + 1);
    return format_value(v, spec);
  }

  Value resolve(std::string_view name) {
    size_t end = name.find_first_of(".[");
    std::string_view first = name.substr(0, end);
    Value v = argument(first);
    while (end < name.size()) {
      if (name[end] == '.') {
        size_t next = std::min(name.find_first_of(".[", end + 1), name.size());
        if (next == end + 1) fail(Code::kInvalidArgument, "Empty attribute in format string");
        v = get_attribute(v, name.substr(end + 1, next - end - 1));
        end = next;
      } else {
        size_t close = name.find(']', end);
        if (close == std::string_view::npos || close == end + 1) fail(Code::kInvalidArgument, "Empty attribute in format string");
        std::string_view key = name.substr(end + 1, close - end - 1);
        bool is_number = std::all_of(key.begin(), key.end(), [](char c) { return c >= '0' && c <= '9'; });
        Int index = 0;
        if (is_number && parse_int(key, 10, index)) v = get_item(v, Value::integer(index));
        else v = get_item(v, Value::string(key));
        end = close + 1;
        if (end < name.size() && name[end] != '.' && name[end] != '[') {
          fail(Code::kInvalidArgument, "Only '.' or '[' may follow ']' in format field specifier");
        }
      }
    }
    return v;
  }

  Value argument(std::string_view name) {
    bool is_number = std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (is_number) {
      if (numbering_ == (name.empty() ? kManual : kAutomatic)) {
        fail(Code::kInvalidArgument, "cannot switch between manual field specification and automatic field numbering");
      }
      numbering_ = name.empty() ? kAutomatic : kManual;
      Int index = static_cast<Int>(next_);
      if (name.empty()) ++next_;
      else parse_int(name, 10, index);
      if (index >= static_cast<Int>(args_.positional.size())) {
        fail(Code::kInvalidArgument, "Replacement index {} out of range for positional args tuple", int_to_string(index));
      }
      return args_.positional[static_cast<size_t>(index)];
    }
    for (const auto& [key, value] : args_.named) {
      if (key == name) return value;
    }
    fail(Code::kInvalidArgument, "the format names '{}', which is not among the arguments", name);
  }

  enum Numbering { kUnknown, kAutomatic, kManual };
  const CallArgs& args_;
  size_t next_ = 0;
  Numbering numbering_ = kUnknown;
};

}  // namespace

std::string format_value(const Value& v, std::string_view spec_text) {
  if (spec_text.empty()) return to_str(v);
  FormatSpec spec = parse_spec(spec_text);
  if (v.is_number() && !(v.is(Kind::kBool) && spec.type == 's')) return format_number(v, spec);
  if (!v.is_string()) {
    fail(Code::kInvalidArgument, "unsupported format string passed to {}.__format__", type_name(v));
  }
  if (spec.type != 0 && spec.type != 's') {
    fail(Code::kInvalidArgument, "Unknown format code '{}' for object of type 'str'", std::string(1, spec.type));
  }
  if (spec.align == '=' && spec.fill == "0") spec.align = '<';
  if (spec.align == '=') fail(Code::kInvalidArgument, "'=' alignment not allowed in string format specifier");
  std::string text = v.text();
  if (spec.precision >= 0) text.resize(byte_offset(text, spec.precision));
  return align_field(spec, "", text, '<');
}

std::string percent_format(std::string_view format, const Value& arguments) {
  PercentArguments args(arguments);
  std::string out;
  for (size_t at = 0; at < format.size();) {
    check_string_size(static_cast<int64_t>(out.size()));
    if (format[at] != '%') {
      out.push_back(format[at++]);
      continue;
    }
    ++at;
    auto peek = [&] {
      if (at >= format.size()) fail(Code::kInvalidArgument, "incomplete format");
      return format[at];
    };
    const Value* named = nullptr;
    if (peek() == '(') {
      size_t begin = ++at;
      for (int open = 1;; ++at) {
        if (peek() == '(') ++open;
        if (peek() == ')' && --open == 0) break;
      }
      named = &args.named(format.substr(begin, at - begin));
      ++at;
    }
    PercentSpec spec;
    for (;; ++at) {
      char c = peek();
      if (c == '-') spec.left = true;
      else if (c == '+') spec.plus = true;
      else if (c == ' ') spec.space = true;
      else if (c == '0') spec.zero = true;
      else if (c == '#') spec.alternate = true;
      else break;
    }
    auto number = [&]() -> int {
      if (peek() == '*') {
        ++at;
        const Value& v = args.next();
        if (!v.is_integral()) fail(Code::kInvalidArgument, "* wants int");
        return check_width(v.get_int(), "the width");
      }
      Int value = 0;
      while (peek() >= '0' && peek() <= '9') value = check_width(value * 10 + (format[at++] - '0'), "the width");
      return static_cast<int>(value);
    };
    spec.width = number();
    if (spec.width < 0) {
      spec.left = true;
      spec.width = -spec.width;
    }
    if (peek() == '.') {
      ++at;
      spec.precision = std::max(0, number());
    }
    while (peek() == 'l' || peek() == 'h' || peek() == 'L') ++at;
    char conversion = format[at++];
    if (conversion == '%') out.push_back('%');
    else out += percent_one(spec, conversion, named != nullptr ? *named : args.next());
  }
  args.finish();
  return out;
}

std::string brace_format(std::string_view format, const CallArgs& args) { return BraceFormatter(args).format(format, 1); }

}  // namespace sluice::jinja
