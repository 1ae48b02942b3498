// The methods of str, list, tuple, dict, range and of Jinja's helper objects. Those that would change their object are
// absent on purpose: the sandbox makes using them an error.
#include <algorithm>
#include <functional>

#include "text/jinja/access.h"
#include "text/jinja/arguments.h"
#include "text/jinja/unicode_text.h"

namespace sluice::jinja {
namespace {

using Text = std::string_view;

Value make_text(const Value& self, std::string text) { return Value::string(std::move(text), self.str().is_markup); }

// Byte range of self[start:end], for find, count, startswith and their kind.
struct TextRange {
  size_t begin, end;
  bool is_empty_window;  // start is past the end: nothing is found there, not even ""
};

TextRange to_range(const Value& self, const Arguments& args, size_t first) {
  const Str& str = self.str();
  int64_t length = str.num_chars;
  int64_t start = args.has_value(first) ? args.integer(first, 0) : 0;
  int64_t end = args.has_value(first + 1) ? args.integer(first + 1, 0) : length;
  if (start < 0) start = std::max<int64_t>(0, start + length);
  if (end < 0) end = std::max<int64_t>(0, end + length);
  end = std::min(end, length);
  if (start > end) return {0, 0, true};
  return {byte_offset(str.text, start), byte_offset(str.text, end), false};
}

template <Text (*Strip)(Text, const Text*)>
Value strip_with(Interpreter&, const Value& self, const CallArgs& call) {
  Arguments args("strip()", call, {""});
  if (!args.has_value(0)) return make_text(self, std::string(Strip(self.text(), nullptr)));
  Text chars = args.text(0);
  charge_steps(static_cast<int64_t>(chars.size()));
  return make_text(self, std::string(Strip(self.text(), &chars)));
}

template <std::string (*Map)(Text)>
Value map_text(Interpreter&, const Value& self, const CallArgs& call) {
  Arguments("str method", call, {});
  return make_text(self, Map(self.text()));
}

template <bool (*Test)(int32_t)>
Value all_chars(Interpreter&, const Value& self, const CallArgs& call) {
  Arguments("str method", call, {});
  Text text = self.text();
  for (size_t at = 0; at < text.size();) {
    if (!Test(next_code_point(text, at))) return Value::boolean(false);
  }
  return Value::boolean(!text.empty());
}

bool is_decimal(int32_t c) { return is_digit(c) && !(c >= 0x2070 && c <= 0x24FF) && c != 0xB2 && c != 0xB3 && c != 0xB9; }
bool is_numeric(int32_t c) { return is_alnum(c) && !is_alpha(c); }
bool is_ascii_char(int32_t c) { return c < 0x80; }

// isupper and islower: some cased character, and none of the other case.
template <bool (*Wanted)(int32_t), bool (*Other)(int32_t)>
Value cased(Interpreter&, const Value& self, const CallArgs& call) {
  Arguments("str method", call, {});
  Text text = self.text();
  bool found = false;
  for (size_t at = 0; at < text.size();) {
    int32_t c = next_code_point(text, at);
    if (Other(c)) return Value::boolean(false);
    found = found || Wanted(c);
  }
  return Value::boolean(found);
}

Value is_title(Interpreter&, const Value& self, const CallArgs& call) {
  Arguments("istitle()", call, {});
  Text text = self.text();
  bool in_word = false, found = false;
  for (size_t at = 0; at < text.size();) {
    int32_t c = next_code_point(text, at);
    bool upper = is_upper(c), lower = is_lower(c);
    if ((upper && in_word) || (lower && !in_word)) return Value::boolean(false);
    found = found || upper || lower;
    in_word = upper || lower;
  }
  return Value::boolean(found);
}

Value split_whitespace(const Value& self, int64_t limit, bool from_right) {
  std::vector<Value> parts;
  Text rest = self.text();
  while (true) {
    rest = from_right ? strip_right(rest) : strip_left(rest);
    if (rest.empty()) break;
    if (limit >= 0 && static_cast<int64_t>(parts.size()) == limit) {
      parts.push_back(Value::string(rest));  // keeps the white space of its far side
      break;
    }
    if (!from_right) {
      size_t at = 0, end = 0;
      while (at < rest.size()) {
        end = at;
        if (is_space(next_code_point(rest, at))) break;
        end = at;
      }
      parts.push_back(Value::string(rest.substr(0, end)));
      rest.remove_prefix(end);
    } else {
      size_t begin = rest.size();
      while (begin > 0) {
        size_t one = begin - 1;
        while (one > 0 && (static_cast<unsigned char>(rest[one]) & 0xC0) == 0x80) --one;
        size_t at = one;
        if (is_space(next_code_point(rest, at))) break;
        begin = one;
      }
      parts.push_back(Value::string(rest.substr(begin)));
      rest = rest.substr(0, begin);
    }
  }
  if (from_right) std::reverse(parts.begin(), parts.end());
  return Value::list(std::move(parts));
}

template <bool kFromRight>
Value split(Interpreter&, const Value& self, const CallArgs& call) {
  Arguments args("split()", call, {"sep", "maxsplit"});
  int64_t limit = args.integer(1, -1);
  if (!args.has_value(0)) return split_whitespace(self, limit, kFromRight);
  Text separator = args.text(0), rest = self.text();
  if (separator.empty()) fail(Code::kInvalidArgument, "split(): empty separator");
  std::vector<Value> parts;
  while (limit < 0 || static_cast<int64_t>(parts.size()) < limit) {
    size_t found = kFromRight ? rest.rfind(separator) : rest.find(separator);
    if (found == Text::npos) break;
    if (kFromRight) {
      parts.push_back(Value::string(rest.substr(found + separator.size())));
      rest = rest.substr(0, found);
    } else {
      parts.push_back(Value::string(rest.substr(0, found)));
      rest.remove_prefix(found + separator.size());
    }
  }
  parts.push_back(Value::string(rest));
  if (kFromRight) std::reverse(parts.begin(), parts.end());
  return Value::list(std::move(parts));
}

Value splitlines(Interpreter&, const Value& self, const CallArgs& call) {
  Arguments args("splitlines()", call, {"keepends"});
  std::vector<Value> lines;
  for (Text line : split_lines(self.text(), args.boolean(0, false))) lines.push_back(Value::string(line));
  return Value::list(std::move(lines));
}

template <bool kAtEnd>
Value starts_or_ends(Interpreter&, const Value& self, const CallArgs& call) {
  const char* callee = kAtEnd ? "endswith()" : "startswith()";
  Arguments args(callee, call, {"", "", ""}, 1);
  TextRange range = to_range(self, args, 1);
  Text window = Text(self.text()).substr(range.begin, range.end - range.begin);
  auto matches = [&](const Value& affix) {
    if (affix.is_undefined()) fail_undefined(affix);
    if (!affix.is_string()) {
      fail(Code::kInvalidArgument, "{}: a str or a tuple of str is wanted, not {}", callee, type_name(affix));
    }
    if (range.is_empty_window) return false;
    return kAtEnd ? window.ends_with(affix.text()) : window.starts_with(affix.text());
  };
  const Value& affix = *args.get(0);
  if (!affix.is(Kind::kTuple)) return Value::boolean(matches(affix));
  for (const Value& one : affix.items()) {
    if (matches(one)) return Value::boolean(true);
  }
  return Value::boolean(false);
}

template <bool kAddEnd>
Value remove_affix(Interpreter&, const Value& self, const CallArgs& call) {
  Arguments args(kAddEnd ? "removesuffix()" : "removeprefix()", call, {""}, 1);
  Text text = self.text(), affix = args.text(0);
  if (kAddEnd && text.ends_with(affix)) text.remove_suffix(affix.size());
  if (!kAddEnd && text.starts_with(affix)) text.remove_prefix(affix.size());
  return make_text(self, std::string(text));
}

Value replace(Interpreter&, const Value& self, const CallArgs& call) {
  Arguments args("replace()", call, {"", "", "count"}, 2);
  return make_text(self, replace_text(self.text(), args.text(0), args.text(1), args.integer(2, -1)));
}

template <bool kFromRight, bool kMustExist>
Value find(Interpreter&, const Value& self, const CallArgs& call) {
  Arguments args(kMustExist ? "index()" : "find()", call, {"", "", ""}, 1);
  Text wanted = args.text(0), text = self.text();
  TextRange range = to_range(self, args, 1);
  size_t found = Text::npos;
  if (!range.is_empty_window) {
    Text window = text.substr(range.begin, range.end - range.begin);
    found = kFromRight ? window.rfind(wanted) : window.find(wanted);
  }
  if (found == Text::npos) {
    if (kMustExist) fail(Code::kInvalidArgument, "substring not found");
    return Value::integer(-1);
  }
  return Value::integer(count_code_points(text.substr(0, range.begin + found)));
}

Value count_text(Interpreter&, const Value& self, const CallArgs& call) {
  Arguments args("count()", call, {"", "", ""}, 1);
  Text wanted = args.text(0);
  TextRange range = to_range(self, args, 1);
  if (range.is_empty_window) return Value::integer(0);
  Text window = Text(self.text()).substr(range.begin, range.end - range.begin);
  if (wanted.empty()) return Value::integer(count_code_points(window) + 1);
  int64_t count = 0;
  for (size_t at = window.find(wanted); at != Text::npos; at = window.find(wanted, at + wanted.size())) ++count;
  return Value::integer(count);
}

Value join(Interpreter&, const Value& self, const CallArgs& call) {
  Arguments args("join()", call, {""}, 1);
  std::string out;
  std::shared_ptr<const List> items = iterate(*args.get(0));
  for (size_t i = 0; i < items->items.size(); ++i) {
    const Value& item = items->items[i];
    if (!item.is_string()) {
      fail(Code::kInvalidArgument, "sequence item {}: expected str instance, {} found", i, type_name(item));
    }
    if (i > 0) out += self.text();
    out += item.text();
    check_string_size(static_cast<int64_t>(out.size()));
  }
  charge_steps(static_cast<int64_t>(items->items.size()));
  return make_text(self, std::move(out));
}

Value format(Interpreter&, const Value& self, const CallArgs& call) { return make_text(self, brace_format(self.text(), call)); }

Value format_map(Interpreter&, const Value& self, const CallArgs& call) {
  Arguments args("format_map()", call, {""}, 1);
  if (!args.get(0)->is(Kind::kDict)) fail(Code::kInvalidArgument, "format_map() needs a dict");
  CallArgs named;
  for (const auto& [key, value] : args.get(0)->dict().items) {
    if (key.is_string()) named.named.emplace_back(key.text(), value);
  }
  return make_text(self, brace_format(self.text(), named));
}

std::string fill_of(const Arguments& args, int64_t count) {
  Text fill = args.has(1) ? args.text(1) : Text(" ");
  if (count_code_points(fill) != 1) fail(Code::kInvalidArgument, "The fill character must be exactly one character long");
  count = std::max<int64_t>(count, 0);
  check_string_size(count * static_cast<int64_t>(fill.size()));
  std::string out;
  for (int64_t i = 0; i < count; ++i) out += fill;
  return out;
}

Value ljust(Interpreter&, const Value& self, const CallArgs& call) {
  Arguments args("ljust()", call, {"", ""}, 1);
  return make_text(self, self.text() + fill_of(args, args.integer(0, 0) - self.str().num_chars));
}

Value rjust(Interpreter&, const Value& self, const CallArgs& call) {
  Arguments args("rjust()", call, {"", ""}, 1);
  return make_text(self, fill_of(args, args.integer(0, 0) - self.str().num_chars) + self.text());
}

Value center(Interpreter&, const Value& self, const CallArgs& call) {
  Arguments args("center()", call, {"", ""}, 1);
  int64_t width = args.integer(0, 0), missing = std::max<int64_t>(0, width - self.str().num_chars);
  int64_t left = missing / 2 + (missing & width & 1);
  return make_text(self, fill_of(args, left) + self.text() + fill_of(args, missing - left));
}

Value zfill(Interpreter&, const Value& self, const CallArgs& call) {
  Arguments args("zfill()", call, {""}, 1);
  int64_t missing = std::max<int64_t>(0, args.integer(0, 0) - self.str().num_chars);
  check_string_size(missing);
  std::string text = self.text();
  bool has_sign = !text.empty() && (text[0] == '+' || text[0] == '-');
  text.insert(has_sign ? 1 : 0, static_cast<size_t>(missing), '0');
  return make_text(self, std::move(text));
}

template <bool kFromRight>
Value partition(Interpreter&, const Value& self, const CallArgs& call) {
  Arguments args("partition()", call, {""}, 1);
  Text text = self.text(), separator = args.text(0);
  if (separator.empty()) fail(Code::kInvalidArgument, "partition(): empty separator");
  size_t found = kFromRight ? text.rfind(separator) : text.find(separator);
  Value empty = Value::string("");
  if (found == Text::npos) return kFromRight ? Value::tuple({empty, empty, self}) : Value::tuple({self, empty, empty});
  return Value::tuple({Value::string(text.substr(0, found)), Value::string(separator),
                       Value::string(text.substr(found + separator.size()))});
}

Value expandtabs(Interpreter&, const Value& self, const CallArgs& call) {
  Arguments args("expandtabs()", call, {"tabsize"});
  int64_t size = std::clamp<int64_t>(args.integer(0, 8), 0, 1 << 16), column = 0;
  std::string out;
  for (char c : self.text()) {
    if (c == '\t') {
      int64_t spaces = size > 0 ? size - column % size : 0;
      out.append(static_cast<size_t>(spaces), ' ');
      column += spaces;
      check_string_size(static_cast<int64_t>(out.size()));
      continue;
    }
    out.push_back(c);
    if (c == '\n' || c == '\r') column = 0;
    else if ((static_cast<unsigned char>(c) & 0xC0) != 0x80) ++column;
  }
  return make_text(self, std::move(out));
}

Value sequence_index(Interpreter&, const Value& self, const CallArgs& call) {
  Arguments args("index()", call, {"", "", ""}, 1);
  std::shared_ptr<const List> items = iterate(self);
  int64_t length = static_cast<int64_t>(items->items.size());
  int64_t start = args.integer(1, 0), stop = args.integer(2, length);
  if (start < 0) start = std::max<int64_t>(0, start + length);
  if (stop < 0) stop += length;
  for (int64_t i = start; i < std::min(stop, length); ++i) {
    if (is_equal(items->items[static_cast<size_t>(i)], *args.get(0))) return Value::integer(i);
  }
  fail(Code::kInvalidArgument, "{} is not in {}", repr(*args.get(0)), type_name(self));
}

Value sequence_count(Interpreter&, const Value& self, const CallArgs& call) {
  Arguments args("count()", call, {""}, 1);
  int64_t count = 0;
  for (const Value& item : Items(self)) count += is_equal(item, *args.get(0)) ? 1 : 0;
  return Value::integer(count);
}

Value copy_same(Interpreter&, const Value& self, const CallArgs& call) {
  Arguments("copy()", call, {});
  return self;
}

Value dict_get(Interpreter&, const Value& self, const CallArgs& call) {
  Arguments args("get()", call, {"", ""}, 1);
  const Value* found = self.dict().find(*args.get(0));
  return found != nullptr ? *found : args.value(1);
}

template <View::Part kPart>
Value dict_view(Interpreter&, const Value& self, const CallArgs& call) {
  Arguments("dict method", call, {});
  return Value::object(Kind::kView, std::make_shared<View>(View{self, kPart}));
}

Value dict_fromkeys(Interpreter&, const Value&, const CallArgs& call) {
  Arguments args("fromkeys()", call, {"", ""}, 1);
  Dict out;
  for (const Value& key : Items(*args.get(0))) out.set(key, args.value(1));
  return Value::dict(std::move(out));
}

Value loop_cycle(Interpreter&, const Value& self, const CallArgs& call) {
  if (call.positional.empty()) fail(Code::kInvalidArgument, "no items for cycling given");
  int64_t index = self.as<const Loop>().index0 % static_cast<int64_t>(call.positional.size());
  return call.positional[static_cast<size_t>(index)];
}

Value loop_changed(Interpreter&, const Value& self, const CallArgs& call) {
  Loop& loop = self.as<Loop>();
  bool same = loop.changed_before && loop.changed_values.size() == call.positional.size() &&
              std::equal(call.positional.begin(), call.positional.end(), loop.changed_values.begin(), is_equal);
  if (same) return Value::boolean(false);
  loop.changed_before = true;
  loop.changed_values = call.positional;
  return Value::boolean(true);
}

Value cycler_next(Interpreter&, const Value& self, const CallArgs& call) {
  Arguments("next()", call, {});
  Cycler& cycler = self.as<Cycler>();
  Value item = cycler.items[cycler.position];
  cycler.position = (cycler.position + 1) % cycler.items.size();
  return item;
}

Value cycler_reset(Interpreter&, const Value& self, const CallArgs& call) {
  Arguments("reset()", call, {});
  self.as<Cycler>().position = 0;
  return Value::none();
}

Value is_integer(Interpreter&, const Value& self, const CallArgs& call) {
  Arguments("is_integer()", call, {});
  double d = self.get_float();
  return Value::boolean(self.is_integral() || static_cast<double>(static_cast<Int>(std::clamp(d, -1e30, 1e30))) == d);
}

using Methods = std::unordered_map<Text, MethodBody>;

const Methods& methods_of(Kind kind) {
  static const Methods kNone;
  static const Methods kString = {
      {"capitalize", map_text<capitalize>},
      {"casefold", map_text<to_casefold>},
      {"center", center},
      {"count", count_text},
      {"endswith", starts_or_ends<true>},
      {"expandtabs", expandtabs},
      {"find", find<false, false>},
      {"format", format},
      {"format_map", format_map},
      {"index", find<false, true>},
      {"isalnum", all_chars<is_alnum>},
      {"isalpha", all_chars<is_alpha>},
      {"isascii", all_chars<is_ascii_char>},
      {"isdecimal", all_chars<is_decimal>},
      {"isdigit", all_chars<is_digit>},
      {"islower", cased<is_lower, is_upper>},
      {"isnumeric", all_chars<is_numeric>},
      {"isprintable", all_chars<is_printable>},
      {"isspace", all_chars<is_space>},
      {"istitle", is_title},
      {"isupper", cased<is_upper, is_lower>},
      {"join", join},
      {"ljust", ljust},
      {"lower", map_text<to_lower>},
      {"lstrip", strip_with<strip_left>},
      {"partition", partition<false>},
      {"removeprefix", remove_affix<false>},
      {"removesuffix", remove_affix<true>},
      {"replace", replace},
      {"rfind", find<true, false>},
      {"rindex", find<true, true>},
      {"rjust", rjust},
      {"rpartition", partition<true>},
      {"rsplit", split<true>},
      {"rstrip", strip_with<strip_right>},
      {"split", split<false>},
      {"splitlines", splitlines},
      {"startswith", starts_or_ends<false>},
      {"strip", strip_with<strip>},
      {"swapcase", map_text<swap_case>},
      {"title", map_text<title_case>},
      {"upper", map_text<to_upper>},
      {"zfill", zfill},
  };
  static const Methods kList = {{"copy", copy_same}, {"count", sequence_count}, {"index", sequence_index}};
  static const Methods kTuple = {{"count", sequence_count}, {"index", sequence_index}};
  static const Methods kDict = {
      {"copy", copy_same},
      {"fromkeys", dict_fromkeys},
      {"get", dict_get},
      {"items", dict_view<View::kItems>},
      {"keys", dict_view<View::kKeys>},
      {"values", dict_view<View::kValues>},
  };
  static const Methods kLoop = {{"changed", loop_changed}, {"cycle", loop_cycle}};
  static const Methods kCycler = {{"next", cycler_next}, {"reset", cycler_reset}};
  static const Methods kFloat = {{"is_integer", is_integer}};
  switch (kind) {
    case Kind::kString: return kString;
    case Kind::kList: return kList;
    case Kind::kTuple:
    case Kind::kRange: return kTuple;
    case Kind::kDict: return kDict;
    case Kind::kLoop: return kLoop;
    case Kind::kCycler: return kCycler;
    case Kind::kFloat: return kFloat;
    default: return kNone;
  }
}

}  // namespace

MethodBody find_method(Kind kind, std::string_view name) {
  const Methods& methods = methods_of(kind);
  auto found = methods.find(name);
  return found != methods.end() ? found->second : nullptr;
}

bool is_mutating_method(Kind kind, std::string_view name) {
  auto among = [&](std::initializer_list<std::string_view> names) { return std::find(names.begin(), names.end(), name) != names.end(); };
  if (kind == Kind::kList) return among({"append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"});
  if (kind == Kind::kDict) return among({"clear", "pop", "popitem", "setdefault", "update"});
  return false;
}

}  // namespace sluice::jinja
