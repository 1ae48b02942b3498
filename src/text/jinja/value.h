// A value of the template language: Python's None, bool, int, float, str, list, tuple, dict, and the few objects Jinja adds.
//
// Values are cheap to copy: small ones are stored in place, the rest are shared. Strings, lists, tuples and dicts never
// change once made (the sandbox forbids their mutating methods), so sharing cannot be seen; namespaces, iterators, loops,
// cyclers and joiners do change and belong to one rendering. Integers have 128 bits: what Python computes exactly is
// exact here or an Error, never wrapped. Containers know their nesting depth, which is bounded (budget.h).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "text/jinja/budget.h"

namespace sluice::jinja {

using Int = __int128;

enum class Kind : uint8_t {
  kUndefined, kNone, kBool, kInt, kFloat, kString, kList, kTuple, kDict,
  kRange, kIterator, kView, kNamespace, kFunction, kMethod, kMacro, kLoop, kCycler, kJoiner,
};

struct Str;
struct List;
struct Dict;
struct UndefinedInfo;
struct Range;
struct Iterator;
struct View;
struct Namespace;
struct Function;
struct Method;
struct Macro;
struct Loop;
struct Cycler;
struct Joiner;

class Value {
 public:
  Value() : kind_(Kind::kUndefined), int_(0) {}
  static Value none() { return Value(Kind::kNone); }
  static Value boolean(bool b) {
    Value v(Kind::kBool);
    v.bool_ = b;
    return v;
  }
  static Value integer(Int i) {
    Value v(Kind::kInt);
    v.int_ = i;
    return v;
  }
  static Value real(double d) {
    Value v(Kind::kFloat);
    v.float_ = d;
    return v;
  }
  static Value string(std::string text, bool is_markup = false);
  static Value string(std::string_view text) { return string(std::string(text)); }
  static Value string(const char* text) { return string(std::string(text)); }
  static Value list(std::vector<Value> items);
  static Value tuple(std::vector<Value> items);
  static Value dict(Dict dict);
  static Value iterator(std::vector<Value> items, const char* type_name = "generator");
  // Undefined variants, whose message appears when they are used where a value is needed.
  static Value undefined_name(std::string_view name);
  static Value undefined_member(const Value& object, const Value& key);
  static Value undefined_hint(std::string hint, std::string_view name = "");
  template <typename T>
  static Value object(Kind kind, std::shared_ptr<T> object) {
    Value v(kind);
    v.object_ = std::const_pointer_cast<std::remove_const_t<T>>(std::move(object));
    return v;
  }

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool is_undefined() const { return kind_ == Kind::kUndefined; }
  bool is_none() const { return kind_ == Kind::kNone; }
  bool is_string() const { return kind_ == Kind::kString; }
  bool is_integral() const { return kind_ == Kind::kInt || kind_ == Kind::kBool; }
  bool is_number() const { return is_integral() || kind_ == Kind::kFloat; }
  bool is_sequence() const { return kind_ == Kind::kList || kind_ == Kind::kTuple; }

  // REQUIRES: the kind fits.
  bool get_bool() const { return bool_; }
  Int get_int() const { return kind_ == Kind::kBool ? Int{bool_} : int_; }
  double get_float() const { return kind_ == Kind::kFloat ? float_ : static_cast<double>(get_int()); }
  const Str& str() const { return *static_cast<const Str*>(object_.get()); }
  const std::string& text() const;
  const std::vector<Value>& items() const;  // lists and tuples
  const Dict& dict() const { return *static_cast<const Dict*>(object_.get()); }
  template <typename T>
  T& as() const {
    return *static_cast<T*>(object_.get());
  }
  template <typename T>
  std::shared_ptr<T> share() const {
    return std::static_pointer_cast<T>(object_);
  }
  const void* identity() const { return object_.get(); }

 private:
  explicit Value(Kind kind) : kind_(kind), int_(0) {}

  Kind kind_;
  union {
    bool bool_;
    Int int_;
    double float_;
  };
  std::shared_ptr<void> object_;
};

// Bytes an object has charged to the budget; refunds them when it goes.
struct Charge {
  Charge() = default;
  Charge(Charge&& other) noexcept : bytes(std::exchange(other.bytes, 0)) {}
  Charge& operator=(Charge&& other) noexcept {
    std::swap(bytes, other.bytes);
    return *this;
  }
  ~Charge() { refund_bytes(bytes); }
  void add(int64_t more) {
    if (current_budget() == nullptr) return;
    bytes += more;
    charge_bytes(more);
  }
  int64_t bytes = 0;
};

struct Str {
  std::string text;      // UTF-8
  int64_t num_chars = 0;
  bool is_markup = false;  // made by |safe or |escape: joined with plain text, it escapes that
  Charge charge;
  bool is_ascii() const { return num_chars == static_cast<int64_t>(text.size()); }
};

struct List {
  std::vector<Value> items;
  int nesting = 1;
  bool is_group = false;  // the (grouper, list) pairs of |groupby
  Charge charge;
};

// Insertion-ordered, keys compared as Python does (1, 1.0 and true are one key).
struct Dict {
  std::vector<std::pair<Value, Value>> items;
  int nesting = 1;
  Charge charge;

  const Value* find(const Value& key) const;  // throws on an unhashable key
  const Value* find(std::string_view key) const;
  void set(Value key, Value value);

 private:
  size_t find_index(const Value& key, size_t hash) const;
  std::unordered_multimap<size_t, size_t> index_;  // hash to position, once there are more than a few
};

struct UndefinedInfo {
  std::string message;
  std::string name;
};

struct Range {
  int64_t start, stop, step, size;
};

struct Iterator {
  std::shared_ptr<const List> items;
  size_t position = 0;
  const char* type_name;
};

struct View {
  enum Part { kKeys, kValues, kItems };
  Value dict;
  Part part;
};

struct Namespace {
  Dict variables;
};

struct CallArgs {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

class Interpreter;
using FunctionBody = Value (*)(Interpreter&, const CallArgs&);
using MethodBody = Value (*)(Interpreter&, const Value& self, const CallArgs&);

struct Function {
  const char* name;
  FunctionBody body;
};

struct Method {
  Value self;
  std::string name;
  MethodBody body;
};

struct Loop {
  std::shared_ptr<const List> items;
  int64_t index0 = 0;
  int depth0 = 0;
  bool changed_before = false;
  std::vector<Value> changed_values;
  const void* statement = nullptr;  // the recursive for statement, null if it is not one
  std::shared_ptr<void> scope;      // where that statement stands
};

struct Cycler {
  std::vector<Value> items;
  size_t position = 0;
};

struct Joiner {
  Value separator;
  bool used = false;
};

inline const std::string& Value::text() const { return str().text; }
inline const std::vector<Value>& Value::items() const { return static_cast<const List*>(object_.get())->items; }

Value from_json(const json::value& v);

const char* type_name(const Value& v);  // Python's: "str", "NoneType", "builtin_function_or_method"
int nesting(const Value& v);
bool is_true(const Value& v);
bool is_equal(const Value& a, const Value& b);
bool is_identical(const Value& a, const Value& b);
// a < b; throws for types that have no order.
bool is_less(const Value& a, const Value& b, const char* symbol = "<");
size_t hash(const Value& v);  // throws "unhashable type"
// Throws what using an undefined value throws.
[[noreturn]] void fail_undefined(const Value& v);
// len(); -1 when the type has none.
int64_t find_length(const Value& v);
int64_t get_length(const Value& v);
bool is_iterable(const Value& v);
// Everything that iterating gives; shares the list where there is one, exhausts an iterator.
std::shared_ptr<const List> iterate(const Value& v);
// The same for a range-based for, which keeps the list alive: for (const Value& item : Items(v)).
class Items {
 public:
  explicit Items(const Value& v) : list_(iterate(v)) {}
  auto begin() const { return list_->items.begin(); }
  auto end() const { return list_->items.end(); }

 private:
  std::shared_ptr<const List> list_;
};
bool contains(const Value& container, const Value& item);

}  // namespace sluice::jinja
