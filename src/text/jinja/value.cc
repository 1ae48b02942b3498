#include "text/jinja/value.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "text/jinja/python_format.h"
#include "text/jinja/unicode_text.h"

namespace sluice::jinja {
namespace {

constexpr size_t kIndexFrom = 8;  // dicts larger than this get a hash index
constexpr int64_t kValueBytes = sizeof(Value);

int deepest(const std::vector<Value>& items) {
  int depth = 0;
  for (const Value& item : items) depth = std::max(depth, nesting(item));
  return depth;
}

int check_nesting(int depth) {
  if (depth > kMaxNesting) fail(Code::kInvalidArgument, "values are nested more than {} deep", kMaxNesting);
  return depth;
}

std::shared_ptr<List> make_list(std::vector<Value> items) {
  auto list = std::make_shared<List>();
  list->items = std::move(items);
  list->charge.add(static_cast<int64_t>(list->items.capacity()) * kValueBytes + 96);
  list->nesting = check_nesting(1 + deepest(list->items));
  return list;
}

std::string object_type(const Value& v) {
  switch (v.kind()) {
    case Kind::kNone: return "None";
    case Kind::kNamespace: return "jinja2.utils.Namespace object";
    case Kind::kMacro: return "jinja2.runtime.Macro object";
    case Kind::kLoop: return "jinja2.runtime.LoopContext object";
    case Kind::kCycler: return "jinja2.utils.Cycler object";
    case Kind::kJoiner: return "jinja2.utils.Joiner object";
    default: return std::string(type_name(v)) + " object";
  }
}

Value make_undefined(std::string message, std::string name) {
  auto info = std::make_shared<UndefinedInfo>();
  info->message = std::move(message);
  info->name = std::move(name);
  return Value::object(Kind::kUndefined, std::move(info));
}

bool are_equal(const std::vector<Value>& a, const std::vector<Value>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!is_equal(a[i], b[i])) return false;
  }
  return true;
}

bool are_equal(const Dict& a, const Dict& b) {
  if (a.items.size() != b.items.size()) return false;
  for (const auto& [key, value] : a.items) {
    const Value* other = b.find(key);
    if (other == nullptr || !is_equal(value, *other)) return false;
  }
  return true;
}

bool equal_numbers(const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) return a.get_int() == b.get_int();
  return a.get_float() == b.get_float();
}

size_t mix(size_t seed, size_t value) { return seed ^ (value + 0x9E3779B97F4A7C15ull + (seed << 6) + (seed >> 2)); }

}  // namespace

Value Value::string(std::string text, bool is_markup) {
  check_string_size(static_cast<int64_t>(text.size()));
  auto str = std::make_shared<Str>();
  str->text = std::move(text);
  str->num_chars = count_code_points(str->text);
  str->is_markup = is_markup;
  str->charge.add(static_cast<int64_t>(str->text.size()) + 64);
  return object(Kind::kString, std::move(str));
}

Value Value::list(std::vector<Value> items) { return object(Kind::kList, make_list(std::move(items))); }
Value Value::tuple(std::vector<Value> items) { return object(Kind::kTuple, make_list(std::move(items))); }

Value Value::dict(Dict dict) {
  check_nesting(dict.nesting);
  return object(Kind::kDict, std::make_shared<Dict>(std::move(dict)));
}

Value Value::iterator(std::vector<Value> items, const char* type_name) {
  auto iterator = std::make_shared<Iterator>();
  iterator->items = make_list(std::move(items));
  iterator->type_name = type_name;
  return object(Kind::kIterator, std::move(iterator));
}

Value Value::undefined_name(std::string_view name) {
  return make_undefined(fmt::format("'{}' is undefined", name), std::string(name));
}

Value Value::undefined_member(const Value& object, const Value& key) {
  if (key.is_string()) {
    return make_undefined(fmt::format("'{}' has no attribute {}", object_type(object), repr(key)), key.text());
  }
  return make_undefined(fmt::format("{} has no element {}", object_type(object), repr(key)), to_str(key));
}

Value Value::undefined_hint(std::string hint, std::string_view name) {
  return make_undefined(std::move(hint), std::string(name));
}

size_t Dict::find_index(const Value& key, size_t key_hash) const {
  if (index_.empty()) {
    for (size_t i = 0; i < items.size(); ++i) {
      if (is_equal(items[i].first, key)) return i;
    }
    return items.size();
  }
  auto [begin, end] = index_.equal_range(key_hash);
  for (auto it = begin; it != end; ++it) {
    if (is_equal(items[it->second].first, key)) return it->second;
  }
  return items.size();
}

const Value* Dict::find(const Value& key) const {
  size_t position = find_index(key, hash(key));
  return position < items.size() ? &items[position].second : nullptr;
}

const Value* Dict::find(std::string_view key) const {
  if (index_.empty()) {
    for (const auto& [name, value] : items) {
      if (name.is_string() && name.text() == key) return &value;
    }
    return nullptr;
  }
  auto [begin, end] = index_.equal_range(std::hash<std::string_view>{}(key));
  for (auto it = begin; it != end; ++it) {
    const auto& [name, value] = items[it->second];
    if (name.is_string() && name.text() == key) return &value;
  }
  return nullptr;
}

void Dict::set(Value key, Value value) {
  size_t key_hash = hash(key);
  size_t position = find_index(key, key_hash);
  nesting = std::max(nesting, 1 + std::max(jinja::nesting(key), jinja::nesting(value)));
  if (position < items.size()) {
    items[position].second = std::move(value);
    return;
  }
  charge.add(2 * kValueBytes + (items.size() >= kIndexFrom ? 48 : 0));
  items.emplace_back(std::move(key), std::move(value));
  if (!index_.empty()) {
    index_.emplace(key_hash, items.size() - 1);
  } else if (items.size() > kIndexFrom) {
    for (size_t i = 0; i < items.size(); ++i) index_.emplace(hash(items[i].first), i);
  }
}

Value from_json(const json::value& v) {
  switch (v.kind()) {
    case json::kind::null: return Value::none();
    case json::kind::bool_: return Value::boolean(v.get_bool());
    case json::kind::int64: return Value::integer(v.get_int64());
    case json::kind::uint64: return Value::integer(static_cast<Int>(v.get_uint64()));
    case json::kind::double_: return Value::real(v.get_double());
    case json::kind::string: return Value::string(std::string_view(v.get_string().data(), v.get_string().size()));
    case json::kind::array: {
      std::vector<Value> items;
      items.reserve(v.get_array().size());
      for (const json::value& item : v.get_array()) items.push_back(from_json(item));
      return Value::list(std::move(items));
    }
    case json::kind::object: {
      Dict dict;
      dict.items.reserve(v.get_object().size());
      for (const auto& member : v.get_object()) {
        dict.set(Value::string(std::string(member.key())), from_json(member.value()));
      }
      return Value::dict(std::move(dict));
    }
  }
  return Value::none();
}

const char* type_name(const Value& v) {
  switch (v.kind()) {
    case Kind::kUndefined: return "Undefined";
    case Kind::kNone: return "NoneType";
    case Kind::kBool: return "bool";
    case Kind::kInt: return "int";
    case Kind::kFloat: return "float";
    case Kind::kString: return v.str().is_markup ? "Markup" : "str";
    case Kind::kList: return "list";
    case Kind::kTuple: return "tuple";
    case Kind::kDict: return "dict";
    case Kind::kRange: return "range";
    case Kind::kIterator: return v.as<Iterator>().type_name;
    case Kind::kView: {
      View::Part part = v.as<View>().part;
      return part == View::kKeys ? "dict_keys" : part == View::kValues ? "dict_values" : "dict_items";
    }
    case Kind::kNamespace: return "Namespace";
    case Kind::kFunction: return "function";
    case Kind::kMethod: return "builtin_function_or_method";
    case Kind::kMacro: return "Macro";
    case Kind::kLoop: return "LoopContext";
    case Kind::kCycler: return "Cycler";
    case Kind::kJoiner: return "Joiner";
  }
  return "object";
}

int nesting(const Value& v) {
  switch (v.kind()) {
    case Kind::kList:
    case Kind::kTuple: return v.as<const List>().nesting;
    case Kind::kDict: return v.dict().nesting;
    case Kind::kIterator: return 1 + v.as<const Iterator>().items->nesting;
    case Kind::kView: return 1 + nesting(v.as<const View>().dict);
    case Kind::kMethod: return 1 + nesting(v.as<const Method>().self);
    case Kind::kLoop: return 1 + v.as<const Loop>().items->nesting;
    case Kind::kCycler: return 1 + deepest(v.as<const Cycler>().items);
    case Kind::kJoiner: return 1 + nesting(v.as<const Joiner>().separator);
    default: return 0;
  }
}

bool is_true(const Value& v) {
  switch (v.kind()) {
    case Kind::kUndefined:
    case Kind::kNone: return false;
    case Kind::kBool: return v.get_bool();
    case Kind::kInt: return v.get_int() != 0;
    case Kind::kFloat: return v.get_float() != 0;
    case Kind::kString:
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kDict:
    case Kind::kRange:
    case Kind::kView: return find_length(v) != 0;
    default: return true;
  }
}

bool is_identical(const Value& a, const Value& b) {
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::kNone: return true;
    case Kind::kBool:
    case Kind::kInt: return a.get_int() == b.get_int();
    case Kind::kFloat: return a.get_float() == b.get_float();
    case Kind::kString: return a.text() == b.text();
    default: return a.identity() == b.identity();
  }
}

bool is_equal(const Value& a, const Value& b) {
  charge_steps(1);
  if (a.is_number() && b.is_number()) return equal_numbers(a, b);
  if (a.kind() != b.kind()) return false;
  if (a.identity() == b.identity() && a.identity() != nullptr) return true;
  FrameGuard guard;
  switch (a.kind()) {
    case Kind::kUndefined:
    case Kind::kNone: return true;
    case Kind::kString: return a.text() == b.text();
    case Kind::kList:
    case Kind::kTuple: return are_equal(a.items(), b.items());
    case Kind::kDict: return are_equal(a.dict(), b.dict());
    case Kind::kRange: {
      const Range &x = a.as<const Range>(), &y = b.as<const Range>();
      if (x.size != y.size) return false;
      return x.size == 0 || (x.start == y.start && (x.size == 1 || x.step == y.step));
    }
    case Kind::kView: {
      const View &x = a.as<const View>(), &y = b.as<const View>();
      if (x.part != y.part || x.part == View::kValues) return false;
      if (x.part == View::kItems) return are_equal(x.dict.dict(), y.dict.dict());
      if (x.dict.dict().items.size() != y.dict.dict().items.size()) return false;
      for (const auto& [key, value] : x.dict.dict().items) {
        if (y.dict.dict().find(key) == nullptr) return false;
      }
      return true;
    }
    case Kind::kMethod: {
      const Method &x = a.as<const Method>(), &y = b.as<const Method>();
      return x.body == y.body && is_identical(x.self, y.self);
    }
    case Kind::kFunction: return a.as<const Function>().body == b.as<const Function>().body;
    default: return false;
  }
}

bool is_less(const Value& a, const Value& b, const char* symbol) {
  charge_steps(1);
  if (a.is_number() && b.is_number()) {
    if (a.is_integral() && b.is_integral()) return a.get_int() < b.get_int();
    return a.get_float() < b.get_float();
  }
  if (a.is_undefined()) fail_undefined(a);
  if (b.is_undefined()) fail_undefined(b);
  // UTF-8 sorts as its code points do.
  if (a.is_string() && b.is_string()) return a.text() < b.text();
  if (a.is_sequence() && a.kind() == b.kind()) {
    FrameGuard guard;
    const auto &x = a.items(), &y = b.items();
    for (size_t i = 0; i < x.size() && i < y.size(); ++i) {
      if (!is_equal(x[i], y[i])) return is_less(x[i], y[i], symbol);
    }
    return x.size() < y.size();
  }
  fail(Code::kInvalidArgument, "'{}' not supported between instances of '{}' and '{}'", symbol, type_name(a), type_name(b));
}

size_t hash(const Value& v) {
  charge_steps(1);
  switch (v.kind()) {
    case Kind::kBool:
    case Kind::kInt: return std::hash<int64_t>{}(static_cast<int64_t>(v.get_int()));
    case Kind::kFloat: {
      double d = v.get_float();
      if (std::floor(d) == d && std::fabs(d) < 9.0e18) return std::hash<int64_t>{}(static_cast<int64_t>(d));
      return std::hash<double>{}(d);
    }
    case Kind::kString: return std::hash<std::string_view>{}(v.text());
    case Kind::kTuple: {
      FrameGuard guard;
      size_t seed = 17;
      for (const Value& item : v.items()) seed = mix(seed, hash(item));
      return seed;
    }
    case Kind::kList:
    case Kind::kDict:
    case Kind::kView: fail(Code::kInvalidArgument, "unhashable type: '{}'", type_name(v));
    case Kind::kUndefined:
    case Kind::kNone: return static_cast<size_t>(v.kind());
    case Kind::kRange: return static_cast<size_t>(v.as<const Range>().size);
    case Kind::kMethod:
    case Kind::kFunction: return static_cast<size_t>(v.kind());
    default: return std::hash<const void*>{}(v.identity());
  }
}

void fail_undefined(const Value& v) {
  if (v.identity() == nullptr) fail(Code::kInvalidArgument, "a value is undefined");
  fail(Code::kInvalidArgument, "{}", v.as<const UndefinedInfo>().message);
}

int64_t find_length(const Value& v) {
  switch (v.kind()) {
    case Kind::kUndefined: return 0;
    case Kind::kString: return v.str().num_chars;
    case Kind::kList:
    case Kind::kTuple: return static_cast<int64_t>(v.items().size());
    case Kind::kDict: return static_cast<int64_t>(v.dict().items.size());
    case Kind::kRange: return v.as<const Range>().size;
    case Kind::kView: return static_cast<int64_t>(v.as<const View>().dict.dict().items.size());
    case Kind::kLoop: return static_cast<int64_t>(v.as<const Loop>().items->items.size());
    default: return -1;
  }
}

int64_t get_length(const Value& v) {
  int64_t length = find_length(v);
  if (length < 0) fail(Code::kInvalidArgument, "object of type '{}' has no len()", type_name(v));
  return length;
}

bool is_iterable(const Value& v) {
  switch (v.kind()) {
    case Kind::kUndefined:
    case Kind::kString:
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kDict:
    case Kind::kRange:
    case Kind::kIterator:
    case Kind::kView:
    case Kind::kLoop: return true;
    default: return false;
  }
}

std::shared_ptr<const List> iterate(const Value& v) {
  switch (v.kind()) {
    case Kind::kUndefined: return make_list({});
    case Kind::kList:
    case Kind::kTuple: return v.share<const List>();
    case Kind::kString: {
      std::vector<Value> chars;
      check_list_size(v.str().num_chars);
      chars.reserve(static_cast<size_t>(v.str().num_chars));
      for (std::string_view one : split_code_points(v.text())) chars.push_back(Value::string(one));
      return make_list(std::move(chars));
    }
    case Kind::kDict: return iterate(Value::object(Kind::kView, std::make_shared<View>(View{v, View::kKeys})));
    case Kind::kRange: {
      const Range& range = v.as<const Range>();
      std::vector<Value> numbers;
      numbers.reserve(static_cast<size_t>(range.size));
      for (int64_t i = 0; i < range.size; ++i) numbers.push_back(Value::integer(range.start + i * range.step));
      return make_list(std::move(numbers));
    }
    case Kind::kIterator: {
      Iterator& iterator = v.as<Iterator>();
      size_t position = std::exchange(iterator.position, iterator.items->items.size());
      if (position == 0) return iterator.items;
      auto begin = iterator.items->items.begin() + static_cast<std::ptrdiff_t>(position);
      return make_list(std::vector<Value>(begin, iterator.items->items.end()));
    }
    case Kind::kView: {
      const View& view = v.as<const View>();
      std::vector<Value> parts;
      parts.reserve(view.dict.dict().items.size());
      for (const auto& [key, value] : view.dict.dict().items) {
        if (view.part == View::kKeys) parts.push_back(key);
        else if (view.part == View::kValues) parts.push_back(value);
        else parts.push_back(Value::tuple({key, value}));
      }
      return make_list(std::move(parts));
    }
    default: fail(Code::kInvalidArgument, "'{}' object is not iterable", type_name(v));
  }
}

bool contains(const Value& container, const Value& item) {
  switch (container.kind()) {
    case Kind::kString:
      if (item.is_undefined()) fail_undefined(item);
      if (!item.is_string()) {
        fail(Code::kInvalidArgument, "'in <string>' requires string as left operand, not {}", type_name(item));
      }
      charge_steps(static_cast<int64_t>(container.text().size()) / kBytesPerStep);
      return container.text().find(item.text()) != std::string::npos;
    case Kind::kDict: return container.dict().find(item) != nullptr;
    case Kind::kView:
      if (container.as<const View>().part == View::kKeys) return container.as<const View>().dict.dict().find(item) != nullptr;
      break;
    case Kind::kIterator: {
      Iterator& iterator = container.as<Iterator>();
      while (iterator.position < iterator.items->items.size()) {
        if (is_equal(iterator.items->items[iterator.position++], item)) return true;
      }
      return false;
    }
    default:
      if (!is_iterable(container)) {
        fail(Code::kInvalidArgument, "argument of type '{}' is not iterable", type_name(container));
      }
  }
  std::shared_ptr<const List> items = iterate(container);
  return std::any_of(items->items.begin(), items->items.end(), [&](const Value& one) { return is_equal(one, item); });
}

}  // namespace sluice::jinja
