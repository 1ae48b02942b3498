#include "base/json.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/error.h"

namespace sluice::json {
namespace {

[[noreturn]] void wrong_type(std::string_view key, const char* wanted, const value& got) {
  fail_param(std::string(key), "'{}' must be {}, not {}", key, wanted, describe(got));
}

std::optional<int64_t> to_int(const value& v) {
  if (v.is_int64()) return v.get_int64();
  if (v.is_uint64() && v.get_uint64() <= static_cast<uint64_t>(INT64_MAX)) return static_cast<int64_t>(v.get_uint64());
  // 1.0 and 1e3 are integers to most clients.
  if (v.is_double() && std::nearbyint(v.get_double()) == v.get_double() && std::fabs(v.get_double()) < 9.0e15) {
    return static_cast<int64_t>(v.get_double());
  }
  return std::nullopt;
}

void append_string(std::string& out, std::string_view text) {
  static const char kHex[] = "0123456789abcdef";
  out.push_back('"');
  for (char c : text) {
    switch (c) {
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      case '\n': out += "\\n"; break;
      case '\r': out += "\\r"; break;
      case '\t': out += "\\t"; break;
      case '\b': out += "\\b"; break;
      case '\f': out += "\\f"; break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          out += "\\u00";
          out.push_back(kHex[(c >> 4) & 15]);
          out.push_back(kHex[c & 15]);
        } else {
          out.push_back(c);
        }
    }
  }
  out.push_back('"');
}

// Boost.JSON 1.81 writes 0.5 as 5E-1, which is legal and ugly; std::to_chars writes the shortest form.
void append_double(std::string& out, double number) {
  if (!std::isfinite(number)) {
    out += "null";
    return;
  }
  char buffer[32];
  auto [end, error] = std::to_chars(buffer, buffer + sizeof buffer, number);
  std::string_view digits(buffer, static_cast<size_t>(end - buffer));
  out += digits;
  if (digits.find_first_of(".e") == std::string_view::npos) out += ".0";
}

void append(std::string& out, const value& v) {
  switch (v.kind()) {
    case kind::null: out += "null"; break;
    case kind::bool_: out += v.get_bool() ? "true" : "false"; break;
    case kind::int64: out += std::to_string(v.get_int64()); break;
    case kind::uint64: out += std::to_string(v.get_uint64()); break;
    case kind::double_: append_double(out, v.get_double()); break;
    case kind::string: append_string(out, v.get_string()); break;
    case kind::array: {
      out.push_back('[');
      bool first = true;
      for (const value& item : v.get_array()) {
        if (!first) out.push_back(',');
        first = false;
        append(out, item);
      }
      out.push_back(']');
      break;
    }
    case kind::object: {
      out.push_back('{');
      bool first = true;
      for (const auto& member : v.get_object()) {
        if (!first) out.push_back(',');
        first = false;
        append_string(out, member.key());
        out.push_back(':');
        append(out, member.value());
      }
      out.push_back('}');
      break;
    }
  }
}

// Boost.JSON reads 1e999 as infinity and 0e999 as NaN. Depth is bounded by the parser, so recursion is too.
bool all_finite(const value& v) {
  if (v.is_double()) return std::isfinite(v.get_double());
  if (v.is_array()) return std::all_of(v.get_array().begin(), v.get_array().end(), all_finite);
  if (v.is_object()) {
    return std::all_of(v.get_object().begin(), v.get_object().end(),
                       [](const auto& member) { return all_finite(member.value()); });
  }
  return true;
}

}  // namespace

value parse(std::string_view text, int max_depth) {
  boost::json::stream_parser parser({}, boost::json::parse_options{.max_depth = static_cast<size_t>(max_depth)});
  boost::json::error_code error;
  size_t consumed = parser.write_some(text.data(), text.size(), error);
  if (!error && consumed < text.size()) error = boost::json::make_error_code(boost::json::error::extra_data);
  if (!error) parser.finish(error);
  if (error) fail(Code::kInvalidArgument, "invalid JSON: {} at byte {}", error.message(), consumed);
  value parsed = parser.release();
  if (!all_finite(parsed)) fail(Code::kInvalidArgument, "invalid JSON: a number is outside the range of a double");
  return parsed;
}

std::string serialize(const value& v) {
  std::string out;
  append(out, v);
  return out;
}

const value* find(const object& o, std::string_view key) {
  const value* found = o.if_contains(key);
  return found != nullptr && !found->is_null() ? found : nullptr;
}

std::optional<bool> read_bool(const object& o, std::string_view key) {
  const value* v = find(o, key);
  if (v == nullptr) return std::nullopt;
  if (!v->is_bool()) wrong_type(key, "true or false", *v);
  return v->get_bool();
}

std::optional<int64_t> read_int(const object& o, std::string_view key, int64_t low, int64_t high) {
  const value* v = find(o, key);
  if (v == nullptr) return std::nullopt;
  std::optional<int64_t> number = to_int(*v);
  if (!number) wrong_type(key, "an integer", *v);
  if (*number < low || *number > high) {
    if (high == INT64_MAX) fail_param(std::string(key), "'{}' must be at least {}, got {}", key, low, *number);
    fail_param(std::string(key), "'{}' must be in [{}, {}], got {}", key, low, high, *number);
  }
  return number;
}

std::optional<double> read_double(const object& o, std::string_view key, double low, double high) {
  const value* v = find(o, key);
  if (v == nullptr) return std::nullopt;
  if (!v->is_number()) wrong_type(key, "a number", *v);
  double number = v->to_number<double>();
  if (!std::isfinite(number) || number < low || number > high) {
    fail_param(std::string(key), "'{}' must be in [{}, {}], got {}", key, low, high, number);
  }
  return number;
}

std::optional<std::string> read_string(const object& o, std::string_view key) {
  const value* v = find(o, key);
  if (v == nullptr) return std::nullopt;
  if (!v->is_string()) wrong_type(key, "a string", *v);
  return std::string(v->get_string());
}

std::vector<std::string> read_strings(const object& o, std::string_view key, size_t max_count) {
  const value* v = find(o, key);
  if (v == nullptr) return {};
  if (v->is_string()) return {std::string(v->get_string())};
  if (!v->is_array()) wrong_type(key, "a string or a list of strings", *v);
  if (v->get_array().size() > max_count) {
    fail_param(std::string(key), "'{}' has {} entries, the limit is {}", key, v->get_array().size(), max_count);
  }
  std::vector<std::string> strings;
  for (const value& item : v->get_array()) {
    if (!item.is_string()) wrong_type(key, "a string or a list of strings", item);
    strings.emplace_back(item.get_string());
  }
  return strings;
}

std::vector<int64_t> read_ints(const object& o, std::string_view key, size_t max_count) {
  const value* v = find(o, key);
  if (v == nullptr) return {};
  if (!v->is_array()) wrong_type(key, "a list of integers", *v);
  if (v->get_array().size() > max_count) {
    fail_param(std::string(key), "'{}' has {} entries, the limit is {}", key, v->get_array().size(), max_count);
  }
  std::vector<int64_t> numbers;
  for (const value& item : v->get_array()) {
    std::optional<int64_t> number = to_int(item);
    if (!number) wrong_type(key, "a list of integers", item);
    numbers.push_back(*number);
  }
  return numbers;
}

const char* describe(const value& v) {
  switch (v.kind()) {
    case kind::null: return "null";
    case kind::bool_: return "a boolean";
    case kind::int64:
    case kind::uint64: return "an integer";
    case kind::double_: return "a number";
    case kind::string: return "a string";
    case kind::array: return "a list";
    case kind::object: return "an object";
  }
  return "unknown";
}

}  // namespace sluice::json
