// The table of filters, and those that convert a value: numbers, JSON, defaults, attributes.
#include "text/jinja/filters.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "text/jinja/arguments.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/python_format.h"

namespace sluice::jinja {
namespace {

Value filter_abs(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments("abs", call, {});
  if (input.is_undefined()) fail_undefined(input);
  if (input.is_integral()) return input.get_int() < 0 ? negate(input) : Value::integer(input.get_int());
  if (input.is(Kind::kFloat)) return Value::real(std::fabs(input.get_float()));
  fail(Code::kInvalidArgument, "bad operand type for abs(): '{}'", type_name(input));
}

Value filter_attr(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments args("attr", call, {"name"}, 1);
  return get_own_attribute(input, to_str(*args.get(0)));
}

Value filter_default(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments args("default", call, {"default_value", "boolean"});
  bool replaces = input.is_undefined() || (args.boolean(1, false) && !is_true(input));
  return replaces ? args.value(0, Value::string("")) : input;
}

bool float_to_int(double d, Int& out) {
  d = std::trunc(d);
  if (!std::isfinite(d)) return false;
  if (std::fabs(d) > 1.7e38) fail(Code::kInvalidArgument, "an integer is too large");
  out = static_cast<Int>(d);
  return true;
}

Value filter_int(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments args("int", call, {"default", "base"});
  if (input.is_undefined()) fail_undefined(input);
  Value otherwise = args.value(0, Value::integer(0));
  bool has_base = !args.has(1) || args.get(1)->is_integral();
  int64_t base = has_base ? args.integer(1, 10) : 10;
  Int out = 0;
  if (input.is_integral()) return Value::integer(input.get_int());
  if (input.is(Kind::kFloat)) return float_to_int(input.get_float(), out) ? Value::integer(out) : otherwise;
  if (!input.is_string() || !has_base) return otherwise;
  if (base != 0 && (base < 2 || base > 36)) return otherwise;
  if (parse_int(input.text(), static_cast<int>(base), out)) return Value::integer(out);
  double d = 0;
  if (parse_float(input.text(), d) && float_to_int(d, out)) return Value::integer(out);
  return otherwise;
}

Value filter_float(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments args("float", call, {"default"});
  if (input.is_undefined()) fail_undefined(input);
  if (input.is_number()) return Value::real(input.get_float());
  double d = 0;
  if (input.is_string() && parse_float(input.text(), d)) return Value::real(d);
  return args.value(0, Value::real(0.0));
}

// Python rounds the exact decimal value, half to even; so does printf.
double round_decimals(double d, int64_t precision) {
  if (!std::isfinite(d) || precision > 320) return d;
  if (precision >= 0) {
    char buffer[800];
    std::snprintf(buffer, sizeof buffer, "%.*f", static_cast<int>(precision), d);
    return std::strtod(buffer, nullptr);
  }
  if (precision < -320) return std::copysign(0.0, d);
  double scale = std::pow(10.0, static_cast<double>(-precision));
  return std::nearbyint(d / scale) * scale;
}

Value round_int(Int i, int64_t precision) {
  if (precision >= 0) return Value::integer(i);
  if (precision < -38) return Value::integer(0);
  Int scale = 1;
  for (int64_t k = 0; k < -precision; ++k) scale *= 10;
  Int quotient = i / scale, rest = i % scale;
  if (rest < 0) rest += scale, --quotient;
  if (rest * 2 > scale || (rest * 2 == scale && quotient % 2 != 0)) ++quotient;
  return calculate(Operator::kMultiply, Value::integer(quotient), Value::integer(scale));
}

Value filter_round(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments args("round", call, {"precision", "method"});
  int64_t precision = args.integer(0, 0);
  std::string_view method = args.text(1, "common");
  if (input.is_undefined()) fail_undefined(input);
  if (!input.is_number()) fail(Code::kInvalidArgument, "type {} doesn't define __round__ method", type_name(input));
  if (method == "common") {
    if (input.is_integral()) return round_int(input.get_int(), precision);
    return Value::real(round_decimals(input.get_float(), precision));
  }
  if (method != "ceil" && method != "floor") fail(Code::kInvalidArgument, "method must be common, ceil or floor");
  double scale = std::pow(10.0, static_cast<double>(precision));
  double scaled = input.get_float() * scale;
  return Value::real((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
}

Value filter_string(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments("string", call, {});
  return input.is_string() ? input : Value::string(to_str(input));
}

// Hugging Face's version: json.dumps with its keyword arguments, non-ASCII text left as it is, nothing escaped for HTML.
Value filter_tojson(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments args("tojson", call, {"ensure_ascii", "indent", "separators", "sort_keys"});
  if (input.is_undefined()) fail_undefined(input);
  JsonStyle style;
  style.ensure_ascii = args.boolean(0, false);
  style.sort_keys = args.boolean(3, false);
  if (args.has_value(1)) {
    style.has_indent = true;
    style.item_separator = std::string(1, ',');
    if (args.get(1)->is_string()) {
      style.indent = args.get(1)->text();
    } else {
      int64_t width = std::max<int64_t>(0, args.integer(1, 0));
      check_string_size(width);
      style.indent.assign(static_cast<size_t>(width), ' ');
    }
  }
  if (args.has_value(2)) {
    const Value& separators = *args.get(2);
    if (!separators.is_sequence() || separators.items().size() != 2 || !separators.items()[0].is_string() ||
        !separators.items()[1].is_string()) {
      fail(Code::kInvalidArgument, "tojson: separators must be a pair of strings");
    }
    style.item_separator = separators.items()[0].text();
    style.key_separator = separators.items()[1].text();
  }
  return Value::string(to_json(input, style));
}

Value filter_filesizeformat(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments args("filesizeformat", call, {"binary"});
  bool binary = args.boolean(0, false);
  double bytes = 0;
  if (input.is_undefined()) fail_undefined(input);
  if (input.is_number()) bytes = input.get_float();
  else if (!input.is_string() || !parse_float(input.text(), bytes)) {
    fail(Code::kInvalidArgument, "filesizeformat: a number is wanted, not {}", type_name(input));
  }
  double base = binary ? 1024 : 1000;
  if (bytes == 1) return Value::string("1 Byte");
  if (bytes < base) return Value::string(fmt::format("{} Bytes", int_to_string(static_cast<Int>(std::clamp(bytes, -1e30, 1e30)))));
  static const char* const kPrefixes[2][8] = {{"kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"},
                                              {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"}};
  double unit = base;
  int i = 0;
  for (; i < 7 && bytes >= unit * base; ++i) unit *= base;
  return Value::string(fmt::format("{:.1f} {}", bytes / unit, kPrefixes[binary ? 1 : 0][i]));
}

}  // namespace

const std::vector<NamedFilter>& value_filters() {
  static const std::vector<NamedFilter> kFilters = {
      {"abs", filter_abs},         {"attr", filter_attr},   {"d", filter_default},
      {"default", filter_default}, {"float", filter_float}, {"filesizeformat", filter_filesizeformat},
      {"int", filter_int},         {"round", filter_round}, {"string", filter_string},
      {"tojson", filter_tojson},
  };
  return kFilters;
}

Filter find_filter(std::string_view name) {
  static const std::unordered_map<std::string_view, Filter> kFilters = [] {
    std::unordered_map<std::string_view, Filter> all;
    for (const auto* group : {&value_filters(), &text_filters(), &sequence_filters()}) all.insert(group->begin(), group->end());
    return all;
  }();
  auto found = kFilters.find(name);
  return found != kFilters.end() ? found->second : nullptr;
}

}  // namespace sluice::jinja
