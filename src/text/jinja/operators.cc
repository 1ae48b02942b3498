// Arithmetic and comparison with Python's meaning: exact integers, true division, floor division and modulo that round
// towards minus infinity, sequences that add and multiply.
#include <cmath>

#include "text/jinja/access.h"
#include "text/jinja/python_format.h"

namespace sluice::jinja {
namespace {

const char* symbol(Operator op) {
  switch (op) {
    case Operator::kAdd: return "+";
    case Operator::kSubtract: return "-";
    case Operator::kMultiply: return "*";
    case Operator::kDivide: return "/";
    case Operator::kFloorDivide: return "//";
    case Operator::kModulo: return "%";
    case Operator::kPower: return "**";
    case Operator::kLess: return "<";
    case Operator::kLessEqual: return "<=";
    case Operator::kGreater: return ">";
    case Operator::kGreaterEqual: return ">=";
    default: return "?";
  }
}

[[noreturn]] void too_large() { fail(Code::kInvalidArgument, "an integer is too large"); }
[[noreturn]] void division_by_zero() { fail(Code::kInvalidArgument, "division by zero"); }

Value power(Int base, Int exponent) {
  if (exponent < 0) {
    if (base == 0) fail(Code::kInvalidArgument, "0.0 cannot be raised to a negative power");
    return Value::real(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  if (base == 0 || base == 1) return Value::integer(exponent == 0 ? 1 : base);
  if (base == -1) return Value::integer(exponent % 2 == 0 ? 1 : -1);
  if (exponent > 127) too_large();
  Int result = 1;
  for (Int i = 0; i < exponent; ++i) {
    if (__builtin_mul_overflow(result, base, &result)) too_large();
  }
  return Value::integer(result);
}

Int floor_divide(Int a, Int b) {
  if (b == 0) division_by_zero();
  if (b == -1) {
    Int result;
    if (__builtin_sub_overflow(Int{0}, a, &result)) too_large();
    return result;
  }
  return a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0);
}

Int modulo(Int a, Int b) {
  if (b == 0) division_by_zero();
  if (b == -1) return 0;
  Int rest = a % b;
  return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}

double modulo(double a, double b) {
  if (b == 0) division_by_zero();
  double rest = std::fmod(a, b);
  if (rest != 0 && (rest < 0) != (b < 0)) rest += b;
  if (rest == 0) rest = std::copysign(0.0, b);
  return rest;
}

Value calculate_ints(Operator op, Int a, Int b) {
  Int result = 0;
  switch (op) {
    case Operator::kAdd:
      if (__builtin_add_overflow(a, b, &result)) too_large();
      return Value::integer(result);
    case Operator::kSubtract:
      if (__builtin_sub_overflow(a, b, &result)) too_large();
      return Value::integer(result);
    case Operator::kMultiply:
      if (__builtin_mul_overflow(a, b, &result)) too_large();
      return Value::integer(result);
    case Operator::kDivide:
      if (b == 0) division_by_zero();
      return Value::real(static_cast<double>(a) / static_cast<double>(b));
    case Operator::kFloorDivide: return Value::integer(floor_divide(a, b));
    case Operator::kModulo: return Value::integer(modulo(a, b));
    default: return power(a, b);
  }
}

Value calculate_floats(Operator op, double a, double b) {
  switch (op) {
    case Operator::kAdd: return Value::real(a + b);
    case Operator::kSubtract: return Value::real(a - b);
    case Operator::kMultiply: return Value::real(a * b);
    case Operator::kDivide:
      if (b == 0) division_by_zero();
      return Value::real(a / b);
    case Operator::kFloorDivide: {
      double rest = modulo(a, b);
      double quotient = (a - rest) / b;
      double whole = std::floor(quotient);
      return Value::real(quotient - whole > 0.5 ? whole + 1 : whole);
    }
    case Operator::kModulo: return Value::real(modulo(a, b));
    default: {
      if (a == 0 && b < 0) fail(Code::kInvalidArgument, "0.0 cannot be raised to a negative power");
      if (a < 0 && std::floor(b) != b && std::isfinite(b)) fail(Code::kInvalidArgument, "complex numbers are not supported");
      double result = std::pow(a, b);
      if (std::isinf(result) && std::isfinite(a) && std::isfinite(b)) fail(Code::kInvalidArgument, "the result of ** is too large");
      return Value::real(result);
    }
  }
}

Value repeat(const Value& sequence, Int times) {
  if (times < 0) times = 0;
  if (times > (Int{1} << 40)) times = Int{1} << 40;
  if (sequence.is_string()) {
    int64_t size = static_cast<int64_t>(sequence.text().size());
    Int total = times * size;
    if (size == 0) times = 0;
    if (total > INT64_MAX) total = INT64_MAX;
    check_string_size(static_cast<int64_t>(total));
    std::string out;
    out.reserve(static_cast<size_t>(total));
    for (Int i = 0; i < times; ++i) out += sequence.text();
    return Value::string(std::move(out), sequence.str().is_markup);
  }
  int64_t size = static_cast<int64_t>(sequence.items().size());
  Int total = times * size;
  if (size == 0) times = 0;
  check_list_size(static_cast<int64_t>(total > INT64_MAX ? INT64_MAX : total));
  charge_steps(static_cast<int64_t>(total));
  std::vector<Value> out;
  out.reserve(static_cast<size_t>(total));
  for (Int i = 0; i < times; ++i) out.insert(out.end(), sequence.items().begin(), sequence.items().end());
  return sequence.is(Kind::kList) ? Value::list(std::move(out)) : Value::tuple(std::move(out));
}

Value add_sequences(const Value& a, const Value& b) {
  check_list_size(static_cast<int64_t>(a.items().size() + b.items().size()));
  charge_steps(static_cast<int64_t>(a.items().size() + b.items().size()));
  std::vector<Value> out;
  out.reserve(a.items().size() + b.items().size());
  out.insert(out.end(), a.items().begin(), a.items().end());
  out.insert(out.end(), b.items().begin(), b.items().end());
  return a.is(Kind::kList) ? Value::list(std::move(out)) : Value::tuple(std::move(out));
}

// Text that goes into a Markup string is escaped unless it is Markup itself.
std::string as_markup(const Value& v) {
  return v.is_string() && v.str().is_markup ? v.text() : escape_html(to_str(v));
}

}  // namespace

Value calculate(Operator op, const Value& a, const Value& b) {
  if (a.is_undefined()) fail_undefined(a);
  if (op == Operator::kModulo && a.is_string()) {
    return Value::string(percent_format(a.text(), b), a.str().is_markup);
  }
  if (b.is_undefined()) fail_undefined(b);
  if (a.is_integral() && b.is_integral()) return calculate_ints(op, a.get_int(), b.get_int());
  if (a.is_number() && b.is_number()) return calculate_floats(op, a.get_float(), b.get_float());
  if (op == Operator::kAdd) {
    if (a.is_string() && b.is_string()) {
      check_string_size(static_cast<int64_t>(a.text().size() + b.text().size()));
      if (a.str().is_markup || b.str().is_markup) return Value::string(as_markup(a) + as_markup(b), true);
      return Value::string(a.text() + b.text());
    }
    if (a.is_sequence() && a.kind() == b.kind()) return add_sequences(a, b);
    if (a.is_string()) {
      fail(Code::kInvalidArgument, "can only concatenate str (not \"{}\") to str; use ~ or |string", type_name(b));
    }
  }
  if (op == Operator::kMultiply) {
    if ((a.is_string() || a.is_sequence()) && b.is_integral()) return repeat(a, b.get_int());
    if ((b.is_string() || b.is_sequence()) && a.is_integral()) return repeat(b, a.get_int());
  }
  fail(Code::kInvalidArgument, "unsupported operand type(s) for {}: '{}' and '{}'", symbol(op), type_name(a), type_name(b));
}

Value negate(const Value& v) {
  if (v.is_undefined()) fail_undefined(v);
  if (v.is_integral()) return calculate_ints(Operator::kSubtract, 0, v.get_int());
  if (v.is(Kind::kFloat)) return Value::real(-v.get_float());
  fail(Code::kInvalidArgument, "bad operand type for unary -: '{}'", type_name(v));
}

Value positive(const Value& v) {
  if (v.is_undefined()) fail_undefined(v);
  if (v.is_integral()) return Value::integer(v.get_int());
  if (v.is(Kind::kFloat)) return v;
  fail(Code::kInvalidArgument, "bad operand type for unary +: '{}'", type_name(v));
}

bool compare(Operator op, const Value& a, const Value& b) {
  switch (op) {
    case Operator::kEqual: return is_equal(a, b);
    case Operator::kNotEqual: return !is_equal(a, b);
    case Operator::kIn: return contains(b, a);
    case Operator::kNotIn: return !contains(b, a);
    default: break;
  }
  bool has_nan = (a.is(Kind::kFloat) && std::isnan(a.get_float())) || (b.is(Kind::kFloat) && std::isnan(b.get_float()));
  if (has_nan && a.is_number() && b.is_number()) return false;
  switch (op) {
    case Operator::kLess: return is_less(a, b, "<");
    case Operator::kGreater: return is_less(b, a, ">");
    case Operator::kLessEqual: return !is_less(b, a, "<=");
    default: return !is_less(a, b, ">=");
  }
}

Value concatenate(const std::vector<Value>& parts) {
  std::string out;
  for (const Value& part : parts) {
    if (part.is_string()) out += part.text();
    else out += to_str(part);
    check_string_size(static_cast<int64_t>(out.size()));
  }
  return Value::string(std::move(out));
}

}  // namespace sluice::jinja
