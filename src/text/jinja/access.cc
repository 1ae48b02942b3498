#include "text/jinja/access.h"

#include <algorithm>

#include "text/jinja/macro.h"
#include "text/jinja/python_format.h"
#include "text/jinja/unicode_text.h"

namespace sluice::jinja {
namespace {

bool is_hashable(const Value& v) {
  if (v.is(Kind::kTuple)) return std::all_of(v.items().begin(), v.items().end(), is_hashable);
  return !v.is(Kind::kList) && !v.is(Kind::kDict) && !v.is(Kind::kView);
}

Value make_method(const Value& self, std::string_view name, MethodBody body) {
  return Value::object(Kind::kMethod, std::make_shared<Method>(Method{self, std::string(name), body}));
}

bool find_loop_attribute(const Value& v, std::string_view name, Value& out) {
  const Loop& loop = v.as<const Loop>();
  int64_t size = static_cast<int64_t>(loop.items->items.size());
  auto integer = [](int64_t i) { return Value::integer(i); };
  if (name == "index") out = integer(loop.index0 + 1);
  else if (name == "index0") out = integer(loop.index0);
  else if (name == "revindex") out = integer(size - loop.index0);
  else if (name == "revindex0") out = integer(size - loop.index0 - 1);
  else if (name == "first") out = Value::boolean(loop.index0 == 0);
  else if (name == "last") out = Value::boolean(loop.index0 + 1 == size);
  else if (name == "length") out = integer(size);
  else if (name == "depth") out = integer(loop.depth0 + 1);
  else if (name == "depth0") out = integer(loop.depth0);
  else if (name == "previtem") {
    out = loop.index0 > 0 ? loop.items->items[static_cast<size_t>(loop.index0 - 1)]
                          : Value::undefined_hint("there is no previous item");
  } else if (name == "nextitem") {
    out = loop.index0 + 1 < size ? loop.items->items[static_cast<size_t>(loop.index0 + 1)]
                                 : Value::undefined_hint("there is no next item");
  } else return false;
  return true;
}

bool find_attribute(const Value& object, std::string_view name, Value& out) {
  switch (object.kind()) {
    case Kind::kNamespace: {
      const Value* found = object.as<const Namespace>().variables.find(name);
      if (found == nullptr) return false;
      out = *found;
      return true;
    }
    case Kind::kLoop:
      if (find_loop_attribute(object, name, out)) return true;
      break;
    case Kind::kCycler:
      if (name == "current") {
        const Cycler& cycler = object.as<const Cycler>();
        out = cycler.items[cycler.position];
        return true;
      }
      break;
    case Kind::kMacro:
      if (name == "name") {
        out = Value::string(get_macro_name(object));
        return true;
      }
      break;
    case Kind::kTuple:
      if (object.as<const List>().is_group && (name == "grouper" || name == "list")) {
        out = object.items()[name == "grouper" ? 0 : 1];
        return true;
      }
      break;
    case Kind::kRange: {
      const Range& range = object.as<const Range>();
      if (name == "start" || name == "stop" || name == "step") {
        out = Value::integer(name == "start" ? range.start : name == "stop" ? range.stop : range.step);
        return true;
      }
      break;
    }
    default: break;
  }
  bool is_special = name.size() > 4 && name.substr(0, 2) == "__" && name.substr(name.size() - 2) == "__";
  if (is_special || is_mutating_method(object.kind(), name)) {
    out = Value::undefined_hint(
        fmt::format("access to attribute '{}' of '{}' object is unsafe.", name, type_name(object)), name);
    return true;
  }
  MethodBody body = find_method(object.kind(), name);
  if (body == nullptr) return false;
  out = make_method(object, name, body);
  return true;
}

Value string_at(const Str& str, int64_t index) {
  std::string_view text = str.text;
  if (str.is_ascii()) return Value::string(text.substr(static_cast<size_t>(index), 1));
  size_t begin = byte_offset(text, index), end = begin;
  next_code_point(text, end);
  return Value::string(text.substr(begin, end - begin));
}

bool find_item(const Value& object, const Value& key, Value& out) {
  switch (object.kind()) {
    case Kind::kDict: {
      if (!is_hashable(key)) return false;
      const Value* found = object.dict().find(key);
      if (found == nullptr) return false;
      out = *found;
      return true;
    }
    case Kind::kString:
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kRange: {
      if (!key.is_integral()) return false;
      Int index = key.get_int();
      int64_t length = find_length(object);
      if (index < 0) index += length;
      if (index < 0 || index >= length) return false;
      int64_t at = static_cast<int64_t>(index);
      if (object.is_string()) out = string_at(object.str(), at);
      else if (object.is(Kind::kRange)) out = Value::integer(object.as<const Range>().start + at * object.as<const Range>().step);
      else out = object.items()[static_cast<size_t>(at)];
      return true;
    }
    default: return false;
  }
}

// A slice bound as Python clamps it.
int64_t clamp_bound(const Value& bound, int64_t length, int64_t step, bool is_start) {
  int64_t low = step > 0 ? 0 : -1, high = step > 0 ? length : length - 1;
  if (bound.is_none()) return (step > 0) == is_start ? low : high;
  if (bound.is_undefined()) fail_undefined(bound);
  if (!bound.is_integral()) fail(Code::kInvalidArgument, "slice indices must be integers or None, not {}", type_name(bound));
  Int index = bound.get_int();
  if (index < 0) index += length;
  return static_cast<int64_t>(std::clamp<Int>(index, low, high));
}

}  // namespace

Value get_own_attribute(const Value& object, std::string_view name) {
  if (object.is_undefined()) fail_undefined(object);
  Value out;
  return find_attribute(object, name, out) ? out : Value::undefined_member(object, Value::string(name));
}

Value get_attribute(const Value& object, std::string_view name) {
  if (object.is_undefined()) fail_undefined(object);
  Value out;
  if (find_attribute(object, name, out)) return out;
  if (object.is(Kind::kDict)) {
    const Value* found = object.dict().find(name);
    if (found != nullptr) return *found;
  }
  return Value::undefined_member(object, Value::string(name));
}

Value get_item(const Value& object, const Value& key) {
  if (object.is_undefined()) fail_undefined(object);
  Value out;
  if (find_item(object, key, out)) return out;
  if (key.is_string() && find_attribute(object, key.text(), out)) return out;
  return Value::undefined_member(object, key);
}

Value get_slice(const Value& object, const Value& start, const Value& stop, const Value& step_value) {
  if (object.is_undefined()) fail_undefined(object);
  if (!object.is_string() && !object.is_sequence() && !object.is(Kind::kRange)) {
    fail(Code::kInvalidArgument, "'{}' object cannot be sliced", type_name(object));
  }
  Int wide_step = 1;
  if (!step_value.is_none()) {
    if (step_value.is_undefined()) fail_undefined(step_value);
    if (!step_value.is_integral()) fail(Code::kInvalidArgument, "slice indices must be integers or None, not {}", type_name(step_value));
    wide_step = step_value.get_int();
    if (wide_step == 0) fail(Code::kInvalidArgument, "slice step cannot be zero");
  }
  // A step longer than anything there is takes one element, whatever its size.
  int64_t step = static_cast<int64_t>(std::clamp<Int>(wide_step, -(Int{1} << 40), Int{1} << 40));
  int64_t length = get_length(object);
  int64_t first = clamp_bound(start, length, step, true), last = clamp_bound(stop, length, step, false);
  if (object.is_string()) {
    const Str& str = object.str();
    if (step == 1) {
      if (last <= first) return Value::string(std::string(), str.is_markup);
      std::string_view text = str.text;
      size_t begin = str.is_ascii() ? static_cast<size_t>(first) : byte_offset(text, first);
      size_t size = str.is_ascii() ? static_cast<size_t>(last - first) : byte_offset(text.substr(begin), last - first);
      charge_steps(static_cast<int64_t>(begin) / kBytesPerStep);
      return Value::string(std::string(text.substr(begin, size)), str.is_markup);
    }
    std::vector<std::string_view> chars = split_code_points(str.text);
    charge_steps(length / 8);
    std::string out;
    for (int64_t i = first; step > 0 ? i < last : i > last; i += step) out += chars[static_cast<size_t>(i)];
    return Value::string(std::move(out), str.is_markup);
  }
  if (object.is(Kind::kRange)) {
    const Range& range = object.as<const Range>();
    int64_t count = step > 0 ? (last > first ? (last - first - 1) / step + 1 : 0) : (first > last ? (first - last - 1) / -step + 1 : 0);
    Int new_step = Int{range.step} * step;
    if (new_step > INT32_MAX || new_step < INT32_MIN) fail(Code::kInvalidArgument, "the slice step is too large");
    Range out{range.start + first * range.step, range.start + last * range.step, static_cast<int64_t>(new_step), count};
    return Value::object(Kind::kRange, std::make_shared<Range>(out));
  }
  std::vector<Value> out;
  for (int64_t i = first; step > 0 ? i < last : i > last; i += step) out.push_back(object.items()[static_cast<size_t>(i)]);
  charge_steps(static_cast<int64_t>(out.size()));
  return object.is(Kind::kList) ? Value::list(std::move(out)) : Value::tuple(std::move(out));
}

}  // namespace sluice::jinja
