// Filters over sequences and mappings. Those that are generators in Jinja give an iterator here too: it can be walked once,
// has no length and is always true.
#include <algorithm>

#include "text/jinja/arguments.h"
#include "text/jinja/filters.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/python_format.h"
#include "text/jinja/unicode_text.h"

namespace sluice::jinja {
namespace {

Value ignore_case(const Value& v) { return v.is_string() ? Value::string(to_lower(v.text())) : v; }

// "a.b.0" as the keys to follow, integers where they are digits.
std::vector<Value> parse_path(const Value& attribute) {
  std::vector<Value> path;
  if (attribute.is_none()) return path;
  if (!attribute.is_string()) return {attribute};
  std::string_view rest = attribute.text();
  while (true) {
    size_t dot = rest.find('.');
    std::string_view part = rest.substr(0, dot);
    bool is_number = !part.empty() && std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
    Int index = 0;
    if (is_number && parse_int(part, 10, index)) path.push_back(Value::integer(index));
    else path.push_back(Value::string(part));
    if (dot == std::string_view::npos) return path;
    rest.remove_prefix(dot + 1);
  }
}

Value follow(const std::vector<Value>& path, Value v, const Value& otherwise = Value::none()) {
  for (const Value& key : path) {
    charge_steps(1);
    v = get_item(v, key);
    if (v.is_undefined() && !otherwise.is_none()) v = otherwise;
  }
  return v;
}

// The sort key for "a,b.c": a list of what each path leads to.
std::vector<std::vector<Value>> parse_paths(const Value& attribute) {
  if (!attribute.is_string()) return {parse_path(attribute)};
  std::vector<std::vector<Value>> paths;
  std::string_view rest = attribute.text();
  while (true) {
    size_t comma = rest.find(',');
    paths.push_back(parse_path(Value::string(rest.substr(0, comma))));
    if (comma == std::string_view::npos) return paths;
    rest.remove_prefix(comma + 1);
  }
}

struct Keyed {
  Value key, item;
};

void sort_by_key(std::vector<Keyed>& keyed, bool reverse) {
  charge_steps(static_cast<int64_t>(keyed.size()));
  std::stable_sort(keyed.begin(), keyed.end(), [&](const Keyed& a, const Keyed& b) {
    return reverse ? is_less(b.key, a.key) : is_less(a.key, b.key);
  });
}

Value filter_sort(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments args("sort", call, {"reverse", "case_sensitive", "attribute"});
  auto paths = parse_paths(args.value(2));
  std::vector<Keyed> keyed;
  for (const Value& item : Items(input)) {
    std::vector<Value> key;
    for (const auto& path : paths) {
      Value part = follow(path, item);
      key.push_back(args.boolean(1, false) ? part : ignore_case(part));
    }
    keyed.push_back({key.size() == 1 ? key[0] : Value::list(std::move(key)), item});
  }
  sort_by_key(keyed, args.boolean(0, false));
  std::vector<Value> out;
  for (Keyed& one : keyed) out.push_back(std::move(one.item));
  return Value::list(std::move(out));
}

Value filter_dictsort(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments args("dictsort", call, {"case_sensitive", "by", "reverse"});
  std::string_view by = args.text(1, "key");
  if (by != "key" && by != "value") fail(Code::kInvalidArgument, "you can only sort by either \"key\" or \"value\"");
  if (input.is_undefined()) fail_undefined(input);
  if (!input.is(Kind::kDict)) fail(Code::kInvalidArgument, "'{}' object has no attribute 'items'", type_name(input));
  std::vector<Keyed> keyed;
  for (const auto& [key, value] : input.dict().items) {
    const Value& wanted = by == "key" ? key : value;
    keyed.push_back({args.boolean(0, false) ? wanted : ignore_case(wanted), Value::tuple({key, value})});
  }
  sort_by_key(keyed, args.boolean(2, false));
  std::vector<Value> out;
  for (Keyed& one : keyed) out.push_back(std::move(one.item));
  return Value::list(std::move(out));
}

Value filter_groupby(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments args("groupby", call, {"attribute", "default", "case_sensitive"}, 1);
  std::vector<Value> path = parse_path(*args.get(0));
  bool case_sensitive = args.boolean(2, false);
  std::vector<Keyed> keyed;
  for (const Value& item : Items(input)) {
    Value key = follow(path, item, args.value(1));
    keyed.push_back({case_sensitive ? key : ignore_case(key), item});
  }
  sort_by_key(keyed, false);
  std::vector<Value> groups;
  for (size_t begin = 0, end; begin < keyed.size(); begin = end) {
    std::vector<Value> members;
    for (end = begin; end < keyed.size() && is_equal(keyed[end].key, keyed[begin].key); ++end) members.push_back(keyed[end].item);
    if (end == begin) members.push_back(keyed[end++].item);  // a key that differs from itself, such as NaN
    Value grouper = case_sensitive ? keyed[begin].key : follow(path, members[0], args.value(1));
    Value group = Value::tuple({grouper, Value::list(std::move(members))});
    group.as<List>().is_group = true;
    groups.push_back(group);
  }
  return Value::list(std::move(groups));
}

Value filter_unique(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments args("unique", call, {"case_sensitive", "attribute"});
  std::vector<Value> path = parse_path(args.value(1));
  Dict seen;
  std::vector<Value> out;
  for (const Value& item : Items(input)) {
    Value key = follow(path, item);
    if (!args.boolean(0, false)) key = ignore_case(key);
    if (seen.find(key) != nullptr) continue;
    seen.set(key, Value::none());
    out.push_back(item);
  }
  return Value::iterator(std::move(out));
}

template <bool kMax>
Value filter_extreme(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments args(kMax ? "max" : "min", call, {"case_sensitive", "attribute"});
  std::vector<Value> path = parse_path(args.value(1));
  std::shared_ptr<const List> items = iterate(input);
  if (items->items.empty()) return Value::undefined_hint("No aggregated item, sequence was empty.");
  Value best, best_key;
  for (size_t i = 0; i < items->items.size(); ++i) {
    Value key = follow(path, items->items[i]);
    if (!args.boolean(0, false)) key = ignore_case(key);
    bool better = i == 0 || (kMax ? is_less(best_key, key, ">") : is_less(key, best_key));
    if (better) best = items->items[i], best_key = key;
  }
  return best;
}

Value filter_sum(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments args("sum", call, {"attribute", "start"});
  std::vector<Value> path = parse_path(args.value(0));
  Value total = args.value(1, Value::integer(0));
  if (total.is_string()) fail(Code::kInvalidArgument, "sum() can't sum strings; use the join filter");
  for (const Value& item : Items(input)) total = calculate(Operator::kAdd, total, follow(path, item));
  return total;
}

Value filter_first(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments("first", call, {});
  if (input.is(Kind::kIterator)) {
    Iterator& iterator = input.as<Iterator>();
    if (iterator.position < iterator.items->items.size()) return iterator.items->items[iterator.position++];
  } else {
    std::shared_ptr<const List> items = iterate(input);
    if (!items->items.empty()) return items->items.front();
  }
  return Value::undefined_hint("No first item, sequence was empty.");
}

Value filter_last(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments("last", call, {});
  if (input.is(Kind::kIterator)) fail(Code::kInvalidArgument, "'{}' object is not reversible", type_name(input));
  std::shared_ptr<const List> items = iterate(input);
  return items->items.empty() ? Value::undefined_hint("No last item, sequence was empty.") : items->items.back();
}

Value filter_length(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments("length", call, {});
  return Value::integer(get_length(input));
}

Value filter_list(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments("list", call, {});
  return Value::list(iterate(input)->items);
}

Value filter_reverse(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments("reverse", call, {});
  if (input.is_string()) return get_slice(input, Value::none(), Value::none(), Value::integer(-1));
  std::vector<Value> items = iterate(input)->items;
  std::reverse(items.begin(), items.end());
  if (input.is(Kind::kIterator)) return Value::list(std::move(items));
  return Value::iterator(std::move(items), input.is(Kind::kList) ? "list_reverseiterator" : "reversed");
}

Value filter_join(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments args("join", call, {"d", "attribute"});
  std::string separator = args.has(0) ? to_str(*args.get(0)) : "";
  std::vector<Value> path = parse_path(args.value(1));
  std::string out;
  bool first = true;
  for (const Value& item : Items(input)) {
    charge_steps(1);
    if (!std::exchange(first, false)) out += separator;
    out += to_str(follow(path, item));
    check_string_size(static_cast<int64_t>(out.size()));
  }
  return Value::string(std::move(out));
}

Value filter_items(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments("items", call, {});
  if (input.is_undefined()) return Value::iterator({});
  if (!input.is(Kind::kDict)) fail(Code::kInvalidArgument, "can only get item pairs from a mapping, not {}", type_name(input));
  std::vector<Value> items;
  for (const auto& [key, value] : input.dict().items) items.push_back(Value::tuple({key, value}));
  return Value::iterator(std::move(items));
}

Value filter_batch(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments args("batch", call, {"linecount", "fill_with"}, 1);
  int64_t count = args.integer(0, 0);
  std::vector<Value> rows, row;
  for (const Value& item : Items(input)) {
    if (static_cast<int64_t>(row.size()) == count) {
      rows.push_back(Value::list(std::move(row)));
      row.clear();
    }
    row.push_back(item);
  }
  if (!row.empty()) {
    if (args.has_value(1)) {
      check_list_size(count);
      while (static_cast<int64_t>(row.size()) < count) row.push_back(*args.get(1));
    }
    rows.push_back(Value::list(std::move(row)));
  }
  return Value::iterator(std::move(rows));
}

Value filter_slice(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments args("slice", call, {"slices", "fill_with"}, 1);
  int64_t slices = args.integer(0, 0);
  if (slices == 0) fail(Code::kInvalidArgument, "integer division or modulo by zero");
  std::shared_ptr<const List> items = iterate(input);
  std::vector<Value> out;
  if (slices < 0) return Value::iterator({});
  check_list_size(slices);
  charge_steps(slices);
  int64_t length = static_cast<int64_t>(items->items.size()), each = length / slices, longer = length % slices, at = 0;
  for (int64_t i = 0; i < slices; ++i) {
    int64_t end = at + each + (i < longer ? 1 : 0);
    std::vector<Value> part(items->items.begin() + at, items->items.begin() + end);
    if (args.has_value(1) && i >= longer) part.push_back(*args.get(1));
    out.push_back(Value::list(std::move(part)));
    at = end;
  }
  return Value::iterator(std::move(out));
}

CallArgs arguments_after(const CallArgs& call, size_t skip) {
  CallArgs rest;
  rest.positional.assign(call.positional.begin() + static_cast<std::ptrdiff_t>(skip), call.positional.end());
  rest.named = call.named;
  return rest;
}

Value filter_map(Interpreter& interpreter, const Value& input, const CallArgs& call) {
  std::vector<Value> out;
  if (!is_true(input)) return Value::iterator({});
  if (call.positional.empty() && !call.named.empty()) {
    Arguments args("map", call, {"attribute", "default"});
    if (!args.has(0)) fail(Code::kInvalidArgument, "map requires a filter argument");
    std::vector<Value> path = parse_path(*args.get(0));
    for (const Value& item : Items(input)) out.push_back(follow(path, item, args.value(1)));
    return Value::iterator(std::move(out));
  }
  if (call.positional.empty()) fail(Code::kInvalidArgument, "map requires a filter argument");
  std::string name = to_str(call.positional[0]);
  Filter filter = find_filter(name);
  if (filter == nullptr) fail(Code::kInvalidArgument, "no filter named '{}'", name);
  CallArgs args = arguments_after(call, 1);
  FrameGuard guard;
  for (const Value& item : Items(input)) {
    charge_steps(1 + (item.is_string() ? static_cast<int64_t>(item.text().size()) / kBytesPerStep : 0));
    out.push_back(filter(interpreter, item, args));
  }
  return Value::iterator(std::move(out));
}

// select, reject, selectattr and rejectattr.
template <bool kByAttribute, bool kKeep>
Value filter_select(Interpreter& interpreter, const Value& input, const CallArgs& call) {
  if (!is_true(input)) return Value::iterator({});
  size_t used = kByAttribute ? 1 : 0;
  if (call.positional.size() < used) fail(Code::kInvalidArgument, "missing parameter for attribute name");
  std::vector<Value> path;
  if (kByAttribute) path = parse_path(call.positional[0]);
  Test test = nullptr;
  CallArgs args;
  if (call.positional.size() > used) {
    std::string name = to_str(call.positional[used]);
    test = find_test(name);
    if (test == nullptr) fail(Code::kInvalidArgument, "no test named '{}'", name);
    args = arguments_after(call, used + 1);
  }
  std::vector<Value> out;
  for (const Value& item : Items(input)) {
    charge_steps(1);
    Value subject = follow(path, item);
    bool passes = test != nullptr ? test(interpreter, subject, args) : is_true(subject);
    if (passes == kKeep) out.push_back(item);
  }
  return Value::iterator(std::move(out));
}

}  // namespace

const std::vector<NamedFilter>& sequence_filters() {
  static const std::vector<NamedFilter> kFilters = {
      {"batch", filter_batch},
      {"count", filter_length},
      {"dictsort", filter_dictsort},
      {"first", filter_first},
      {"groupby", filter_groupby},
      {"items", filter_items},
      {"join", filter_join},
      {"last", filter_last},
      {"length", filter_length},
      {"list", filter_list},
      {"map", filter_map},
      {"max", filter_extreme<true>},
      {"min", filter_extreme<false>},
      {"reject", filter_select<false, false>},
      {"rejectattr", filter_select<true, false>},
      {"reverse", filter_reverse},
      {"select", filter_select<false, true>},
      {"selectattr", filter_select<true, true>},
      {"slice", filter_slice},
      {"sort", filter_sort},
      {"sum", filter_sum},
      {"unique", filter_unique},
  };
  return kFilters;
}

}  // namespace sluice::jinja
