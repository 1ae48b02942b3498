// Filters over text. Whatever is not a string is printed first, as Jinja does.
#include <algorithm>

#include "text/jinja/arguments.h"
#include "text/jinja/filters.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/python_format.h"
#include "text/jinja/unicode_text.h"

namespace sluice::jinja {
namespace {

using Text = std::string_view;

bool is_markup(const Value& v) { return v.is_string() && v.str().is_markup; }

template <std::string (*Map)(Text)>
Value filter_mapped(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments("the filter", call, {});
  return Value::string(Map(to_str(input)), is_markup(input));
}

Value filter_trim(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments args("trim", call, {"chars"});
  std::string text = to_str(input);
  if (!args.has_value(0)) return Value::string(std::string(strip(text)), is_markup(input));
  Text chars = args.text(0);
  return Value::string(std::string(strip(text, &chars)), is_markup(input));
}

Value filter_center(Interpreter& interpreter, const Value& input, const CallArgs& call) {
  Arguments args("center", call, {"width"});
  Value text = Value::string(to_str(input), is_markup(input));
  return find_method(Kind::kString, "center")(interpreter, text, CallArgs{{Value::integer(args.integer(0, 80))}, {}});
}

Value filter_replace(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments args("replace", call, {"old", "new", "count"}, 2);
  int64_t count = args.has_value(2) ? args.integer(2, -1) : -1;
  return Value::string(replace_text(to_str(input), to_str(*args.get(0)), to_str(*args.get(1)), count));
}

Value filter_format(Interpreter&, const Value& input, const CallArgs& call) {
  if (!call.positional.empty() && !call.named.empty()) {
    fail(Code::kInvalidArgument, "format can't handle positional and keyword arguments at the same time");
  }
  if (call.named.empty()) return Value::string(percent_format(to_str(input), Value::tuple(call.positional)), is_markup(input));
  Dict named;
  for (const auto& [name, value] : call.named) named.set(Value::string(name), value);
  return Value::string(percent_format(to_str(input), Value::dict(std::move(named))), is_markup(input));
}

Value filter_escape(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments("escape", call, {});
  return is_markup(input) ? input : Value::string(escape_html(to_str(input)), true);
}

Value filter_forceescape(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments("forceescape", call, {});
  return Value::string(escape_html(to_str(input)), true);
}

Value filter_safe(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments("safe", call, {});
  return Value::string(to_str(input), true);
}

Value filter_indent(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments args("indent", call, {"width", "first", "blank"});
  if (input.is_undefined()) fail_undefined(input);
  if (!input.is_string()) fail(Code::kInvalidArgument, "indent: a str is wanted, not {}", type_name(input));
  std::string indention;
  if (args.has(0) && args.get(0)->is_string()) {
    indention = args.get(0)->text();
  } else {
    int64_t width = std::max<int64_t>(0, args.integer(0, 4));
    check_string_size(width);
    indention.assign(static_cast<size_t>(width), ' ');
  }
  bool indents_first = args.boolean(1, false), indents_blank = args.boolean(2, false);
  std::string text = input.text() + "\n", out;
  if (indents_first) out = indention;
  bool is_first = true;
  for (Text line : split_lines(text, false)) {
    if (!std::exchange(is_first, false)) {
      out += "\n";
      if (indents_blank || !line.empty()) out += indention;
    }
    out += line;
    check_string_size(static_cast<int64_t>(out.size()));
  }
  return Value::string(std::move(out), is_markup(input));
}

Value filter_truncate(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments args("truncate", call, {"length", "killwords", "end", "leeway"});
  int64_t length = args.integer(0, 255), leeway = args.has_value(3) ? args.integer(3, 5) : 5;
  Text end = args.text(2, "...");
  int64_t end_length = count_code_points(end);
  if (length < end_length) fail(Code::kInvalidArgument, "truncate: expected length >= {}, got {}", end_length, length);
  if (leeway < 0) fail(Code::kInvalidArgument, "truncate: expected leeway >= 0, got {}", leeway);
  if (get_length(input) <= length + leeway) return input;
  if (!input.is_string()) fail(Code::kInvalidArgument, "truncate: a str is wanted, not {}", type_name(input));
  std::string kept = input.text().substr(0, byte_offset(input.text(), length - end_length));
  if (!args.boolean(1, false)) kept.resize(std::min(kept.rfind(' '), kept.size()));
  return Value::string(kept + std::string(end));
}

Value filter_title(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments("title", call, {});
  // Words begin at the text's start and after runs of these.
  auto is_separator = [](int32_t c) { return is_space(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<'; };
  std::string text = to_str(input), out;
  for (size_t at = 0; at < text.size();) {
    size_t begin = at, first_end = 0;
    bool separates = false;
    for (bool first = true; at < text.size(); first = false) {
      size_t next = at;
      int32_t c = next_code_point(text, next);
      if (first) {
        separates = is_separator(c);
        first_end = next;
      } else if (is_separator(c) != separates) {
        break;
      }
      at = next;
    }
    Text run = Text(text).substr(begin, at - begin);
    out += to_upper(run.substr(0, first_end - begin));
    out += to_lower(run.substr(first_end - begin));
  }
  return Value::string(std::move(out));
}

Value filter_wordcount(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments("wordcount", call, {});
  std::string text = to_str(input);
  int64_t count = 0;
  bool in_word = false;
  for (size_t at = 0; at < text.size();) {
    bool word = is_word(next_code_point(text, at));
    count += word && !in_word ? 1 : 0;
    in_word = word;
  }
  return Value::integer(count);
}

Value filter_wordwrap(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments args("wordwrap", call, {"width", "break_long_words", "wrapstring", "break_on_hyphens"});
  if (input.is_undefined()) fail_undefined(input);
  if (!input.is_string()) fail(Code::kInvalidArgument, "wordwrap: a str is wanted, not {}", type_name(input));
  int64_t width = args.integer(0, 79);
  Text separator = args.has_value(2) ? args.text(2) : Text("\n");
  std::string out;
  bool first_line = true;
  charge_steps(static_cast<int64_t>(input.text().size()));
  for (Text line : split_lines(input.text(), false)) {
    if (!std::exchange(first_line, false)) out += separator;
    bool first_part = true;
    for (const std::string& part : wrap_line(line, width, args.boolean(1, true), args.boolean(3, true))) {
      if (!std::exchange(first_part, false)) out += separator;
      out += part;
      check_string_size(static_cast<int64_t>(out.size()));
    }
  }
  return Value::string(std::move(out));
}

std::string unescape_html(Text text) {
  static constexpr std::pair<Text, Text> kNames[] = {{"amp", "&"}, {"lt", "<"},   {"gt", ">"},
                                                     {"quot", "\""}, {"apos", "'"}, {"nbsp", "\xC2\xA0"}};
  std::string out;
  for (size_t at = 0; at < text.size();) {
    size_t end = text[at] == '&' ? text.find(';', at) : Text::npos;
    if (end == Text::npos || end - at > 12) {
      out.push_back(text[at++]);
      continue;
    }
    Text name = text.substr(at + 1, end - at - 1);
    Int code = 0;
    bool is_hex = name.size() > 2 && name[0] == '#' && (name[1] | 0x20) == 'x';
    auto known = std::find_if(std::begin(kNames), std::end(kNames), [&](const auto& one) { return one.first == name; });
    if (known != std::end(kNames)) {
      out += known->second;
    } else if (name.size() > 1 && name[0] == '#' && parse_int(name.substr(is_hex ? 2 : 1), is_hex ? 16 : 10, code) &&
               code > 0 && code < 0x110000 && (code < 0xD800 || code > 0xDFFF)) {
      append_code_point(out, static_cast<int32_t>(code));
    } else {
      out.push_back(text[at++]);
      continue;
    }
    at = end + 1;
  }
  return out;
}

Value filter_striptags(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments("striptags", call, {});
  std::string text = to_str(input), plain;
  for (size_t at = 0; at < text.size();) {
    if (text[at] != '<') {
      plain.push_back(text[at++]);
      continue;
    }
    bool is_comment = text.compare(at, 4, "<!--") == 0;
    size_t close = is_comment ? text.find("-->", at + 4) : Text::npos;
    if (close != Text::npos) {
      at = close + 3;
      continue;
    }
    close = text.find('>', at);
    if (close == Text::npos) {
      plain += text.substr(at);
      break;
    }
    at = close + 1;
  }
  std::string out;
  for (size_t at = 0; at < plain.size();) {
    size_t begin = at;
    int32_t c = next_code_point(plain, at);
    if (!is_space(c)) out += Text(plain).substr(begin, at - begin);
    else if (!out.empty() && out.back() != ' ') out.push_back(' ');
  }
  if (!out.empty() && out.back() == ' ') out.pop_back();
  return Value::string(unescape_html(out));
}

std::string quote_url(Text text, bool is_query) {
  std::string out;
  for (char c : text) {
    bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                 Text("_.-~").find(c) != Text::npos || (!is_query && c == '/');
    if (plain) out.push_back(c);
    else if (is_query && c == ' ') out.push_back('+');
    else out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return out;
}

Value filter_urlencode(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments("urlencode", call, {});
  if (input.is_string() || !is_iterable(input)) return Value::string(quote_url(to_str(input), false));
  std::string out;
  Value pairs = input.is(Kind::kDict) ? Value::object(Kind::kView, std::make_shared<View>(View{input, View::kItems})) : input;
  for (const Value& pair : Items(pairs)) {
    std::shared_ptr<const List> parts = iterate(pair);
    if (parts->items.size() != 2) fail(Code::kInvalidArgument, "urlencode: pairs are wanted");
    if (!out.empty()) out += "&";
    out += quote_url(to_str(parts->items[0]), true) + "=" + quote_url(to_str(parts->items[1]), true);
    check_string_size(static_cast<int64_t>(out.size()));
  }
  return Value::string(std::move(out));
}

Value filter_xmlattr(Interpreter&, const Value& input, const CallArgs& call) {
  Arguments args("xmlattr", call, {"autospace"});
  if (input.is_undefined()) fail_undefined(input);
  if (!input.is(Kind::kDict)) fail(Code::kInvalidArgument, "xmlattr: a dict is wanted, not {}", type_name(input));
  std::string out;
  for (const auto& [key, value] : input.dict().items) {
    if (value.is_none() || value.is_undefined()) continue;
    std::string name = to_str(key);
    if (name.find_first_of(" \t\n\f\v\r/>=") != std::string::npos) {
      fail(Code::kInvalidArgument, "xmlattr: invalid character in attribute name {}", repr(key));
    }
    if (!out.empty()) out += " ";
    out += escape_html(name) + "=\"" + (is_markup(value) ? value.text() : escape_html(to_str(value))) + "\"";
    check_string_size(static_cast<int64_t>(out.size()));
  }
  if (args.boolean(0, true) && !out.empty()) out.insert(0, " ");
  return Value::string(std::move(out));
}

}  // namespace

const std::vector<NamedFilter>& text_filters() {
  static const std::vector<NamedFilter> kFilters = {
      {"capitalize", filter_mapped<capitalize>},
      {"center", filter_center},
      {"e", filter_escape},
      {"escape", filter_escape},
      {"forceescape", filter_forceescape},
      {"format", filter_format},
      {"indent", filter_indent},
      {"lower", filter_mapped<to_lower>},
      {"replace", filter_replace},
      {"safe", filter_safe},
      {"striptags", filter_striptags},
      {"title", filter_title},
      {"trim", filter_trim},
      {"truncate", filter_truncate},
      {"upper", filter_mapped<to_upper>},
      {"urlencode", filter_urlencode},
      {"wordcount", filter_wordcount},
      {"wordwrap", filter_wordwrap},
      {"xmlattr", filter_xmlattr},
  };
  return kFilters;
}

}  // namespace sluice::jinja
