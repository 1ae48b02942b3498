// How Python prints: str(), repr(), float repr, json.dumps, "%" formatting and str.format. Pure functions.
#pragma once

#include <string>
#include <string_view>

#include "text/jinja/value.h"

namespace sluice::jinja {

std::string to_str(const Value& v);
std::string repr(const Value& v);
std::string repr(std::string_view text);
std::string float_repr(double d);
std::string int_to_string(Int i);

struct JsonStyle {
  bool ensure_ascii = false;
  bool has_indent = false;
  std::string indent;              // one level
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool sort_keys = false;
};
// Throws "Object of type X is not JSON serializable".
std::string to_json(const Value& v, const JsonStyle& style);

// format % arguments: a tuple, a mapping or one value.
std::string percent_format(std::string_view format, const Value& arguments);
// format.format(*positional, **named).
std::string brace_format(std::string_view format, const CallArgs& args);
// format(v, spec).
std::string format_value(const Value& v, std::string_view spec);

// int(text, base) and float(text); false when Python raises ValueError.
bool parse_int(std::string_view text, int base, Int& out);
bool parse_float(std::string_view text, double& out);

// datetime.strftime of a UTC time without a zone.
std::string format_time(std::string_view format, int64_t unix_seconds);

// text.replace(old, new, count); a negative count is no limit.
std::string replace_text(std::string_view text, std::string_view old, std::string_view fresh, int64_t count);
std::string escape_html(std::string_view text);

}  // namespace sluice::jinja
