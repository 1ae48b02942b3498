// What may stand after "is".
#include "text/jinja/arguments.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/unicode_text.h"

namespace sluice::jinja {
namespace {

const Value& only_argument(const CallArgs& call) {
  Arguments args("the test", call, {""}, 1);
  return *args.get(0);
}

template <bool (*Check)(const Value&)>
bool plain(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments("the test", call, {});
  return Check(input);
}

template <Operator kOp>
bool comparison(Interpreter&, const Value& input, const CallArgs& call) {
  return compare(kOp, input, only_argument(call));
}

bool is_defined(const Value& v) { return !v.is_undefined(); }
bool is_undefined(const Value& v) { return v.is_undefined(); }
bool is_none(const Value& v) { return v.is_none(); }
bool is_boolean(const Value& v) { return v.is(Kind::kBool); }
bool is_false(const Value& v) { return v.is(Kind::kBool) && !v.get_bool(); }
bool is_true_constant(const Value& v) { return v.is(Kind::kBool) && v.get_bool(); }
bool is_integer(const Value& v) { return v.is(Kind::kInt); }
bool is_float(const Value& v) { return v.is(Kind::kFloat); }
bool is_number(const Value& v) { return v.is_number(); }
bool is_string(const Value& v) { return v.is_string(); }
bool is_mapping(const Value& v) { return v.is(Kind::kDict); }
bool is_escaped(const Value& v) { return v.is_string() && v.str().is_markup; }

// Has a length and can be indexed; an undefined value has both, if only to fail.
bool is_sequence(const Value& v) {
  return v.is_undefined() || v.is_string() || v.is_sequence() || v.is(Kind::kDict) || v.is(Kind::kRange);
}

bool is_callable(const Value& v) {
  switch (v.kind()) {
    case Kind::kUndefined:
    case Kind::kFunction:
    case Kind::kMethod:
    case Kind::kMacro:
    case Kind::kLoop:
    case Kind::kJoiner: return true;
    default: return false;
  }
}

Int rest_of(const Value& v, Int divisor) {
  Value rest = calculate(Operator::kModulo, v, Value::integer(divisor));
  if (!rest.is_number()) fail(Code::kInvalidArgument, "a number is wanted, not {}", type_name(v));
  if (rest.is(Kind::kFloat)) return rest.get_float() == 0 ? 0 : rest.get_float() == 1 ? 1 : 2;
  return rest.get_int();
}

bool is_odd(const Value& v) { return rest_of(v, 2) == 1; }
bool is_even(const Value& v) { return rest_of(v, 2) == 0; }

bool is_divisible_by(Interpreter&, const Value& input, const CallArgs& call) {
  return is_equal(calculate(Operator::kModulo, input, only_argument(call)), Value::integer(0));
}

bool is_same_as(Interpreter&, const Value& input, const CallArgs& call) { return is_identical(input, only_argument(call)); }

// All cased characters in one case, and at least one.
template <bool (*Wanted)(int32_t), bool (*Other)(int32_t)>
bool is_cased(const Value& v) {
  std::string text = to_str(v);
  bool found = false;
  for (size_t at = 0; at < text.size();) {
    int32_t c = next_code_point(text, at);
    if (Other(c)) return false;
    found = found || Wanted(c);
  }
  return found;
}

bool is_filter(const Value& v) { return v.is_string() && find_filter(v.text()) != nullptr; }
bool is_test(const Value& v) { return v.is_string() && find_test(v.text()) != nullptr; }

}  // namespace

Test find_test(std::string_view name) {
  static const std::unordered_map<std::string_view, Test> kTests = {
      {"!=", comparison<Operator::kNotEqual>},
      {"<", comparison<Operator::kLess>},
      {"<=", comparison<Operator::kLessEqual>},
      {"==", comparison<Operator::kEqual>},
      {">", comparison<Operator::kGreater>},
      {">=", comparison<Operator::kGreaterEqual>},
      {"boolean", plain<is_boolean>},
      {"callable", plain<is_callable>},
      {"defined", plain<is_defined>},
      {"divisibleby", is_divisible_by},
      {"eq", comparison<Operator::kEqual>},
      {"equalto", comparison<Operator::kEqual>},
      {"escaped", plain<is_escaped>},
      {"even", plain<is_even>},
      {"false", plain<is_false>},
      {"filter", plain<is_filter>},
      {"float", plain<is_float>},
      {"ge", comparison<Operator::kGreaterEqual>},
      {"greaterthan", comparison<Operator::kGreater>},
      {"gt", comparison<Operator::kGreater>},
      {"in", comparison<Operator::kIn>},
      {"integer", plain<is_integer>},
      {"iterable", plain<is_iterable>},
      {"le", comparison<Operator::kLessEqual>},
      {"lessthan", comparison<Operator::kLess>},
      {"lower", plain<is_cased<is_lower, is_upper>>},
      {"lt", comparison<Operator::kLess>},
      {"mapping", plain<is_mapping>},
      {"ne", comparison<Operator::kNotEqual>},
      {"none", plain<is_none>},
      {"number", plain<is_number>},
      {"odd", plain<is_odd>},
      {"sameas", is_same_as},
      {"sequence", plain<is_sequence>},
      {"string", plain<is_string>},
      {"test", plain<is_test>},
      {"true", plain<is_true_constant>},
      {"undefined", plain<is_undefined>},
      {"upper", plain<is_cased<is_upper, is_lower>>},
  };
  auto found = kTests.find(name);
  return found != kTests.end() ? found->second : nullptr;
}

}  // namespace sluice::jinja
