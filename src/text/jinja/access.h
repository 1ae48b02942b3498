// a.b, a[b], a[b:c:d] and the operators, with Jinja's rules: an attribute falls back to an item and the other way round,
// and what is missing is an undefined value, not an error. Pure functions but for the attributes of loops and cyclers.
#pragma once

#include <string>
#include <string_view>

#include "text/jinja/value.h"

namespace sluice::jinja {

// a.name. Throws only when `object` is undefined.
Value get_attribute(const Value& object, std::string_view name);
// a.name without looking at items, as |attr does.
Value get_own_attribute(const Value& object, std::string_view name);
// a[key].
Value get_item(const Value& object, const Value& key);
// a[start:stop:step]; None stands for what is left out.
Value get_slice(const Value& object, const Value& start, const Value& stop, const Value& step);

enum class Operator : uint8_t {
  kAdd, kSubtract, kMultiply, kDivide, kFloorDivide, kModulo, kPower,
  kEqual, kNotEqual, kLess, kLessEqual, kGreater, kGreaterEqual, kIn, kNotIn,
};

Value calculate(Operator op, const Value& a, const Value& b);
Value negate(const Value& v);
Value positive(const Value& v);
bool compare(Operator op, const Value& a, const Value& b);
// a ~ b ~ c.
Value concatenate(const std::vector<Value>& parts);

// The method `name` of a str, list, tuple, dict, ...; null if there is none.
MethodBody find_method(Kind kind, std::string_view name);
// Methods that change their object, which the sandbox forbids.
bool is_mutating_method(Kind kind, std::string_view name);

}  // namespace sluice::jinja
