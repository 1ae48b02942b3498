#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/error.h"
#include "base/json.h"
#include "fuzz/fuzz.h"

namespace sluice::fuzz {
namespace {

// Equal, doubles to 14 digits: Boost.JSON 1.81 reads some decimals one unit in the last place off.
bool is_same(const json::value& a, const json::value& b) {
  if (a.kind() != b.kind()) return false;
  if (a.is_double()) {
    double difference = std::fabs(a.get_double() - b.get_double());
    return difference <= 1e-14 * std::fabs(a.get_double()) + 1e-307;
  }
  if (a.is_array()) {
    const json::array &x = a.get_array(), &y = b.get_array();
    return x.size() == y.size() && std::equal(x.begin(), x.end(), y.begin(), is_same);
  }
  if (a.is_object()) {
    const json::object &x = a.get_object(), &y = b.get_object();
    return x.size() == y.size() && std::all_of(x.begin(), x.end(), [&](const auto& member) {
             const json::value* other = y.if_contains(member.key());
             return other != nullptr && is_same(member.value(), *other);
           });
  }
  return a == b;
}

}  // namespace

bool reads_back(const json::value& value) {
  std::string written = json::serialize(value);
  return is_same(value, json::parse(written));
}

std::vector<std::string> make_seeds() {
  return {"{}",
          "[]",
          "null",
          "\"text\"",
          "-12.5e-3",
          R"({"a":[1,2.5,true,null,"\u00e9\ud83d\ude00\n"],"b":{"c":{"d":[]}}})",
          "[18446744073709551615,-9223372036854775808,1e308,0.1]"};
}

std::vector<std::string> make_dictionary() {
  return {"{",   "}",        "[",        "]",       ",",    ":",        "\"",
          "\\u", "\\ud800",  "\\",       "true",    "null", "1e400",    "-0",
          "NaN", "Infinity", "[[[[[[[[", "{\"a\":", "\xff", "\xc0\x80", "\xef\xbb\xbf"};
}

std::string mutate_structure(const std::string& input, uint64_t) { return input; }

}  // namespace sluice::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sluice;
  std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    json::value value = json::parse(text);
    CHECK(fuzz::reads_back(value), json::serialize(value));
    if (value.is_object()) {
      const json::object& object = value.get_object();
      for (const auto& member : object) {
        for (auto read :
             {+[](const json::object&o, std::string_view key) { json::read_int(o, key, -5, 5); },
              +[](const json::object&o, std::string_view key) { json::read_double(o, key, -1.0, 1.0); },
              +[](const json::object&o, std::string_view key) { json::read_strings(o, key, 4); },
              +[](const json::object&o, std::string_view key) { json::read_ints(o, key, 4); }}) {
          try {
            read(object, member.key());
          } catch (const Error& error) {
            // The field is named.
            CHECK(error.param() == std::string_view(member.key()) || member.key().empty(), error.message());
          }
        }
      }
    }
    return 0;
  } catch (const Error&) {
    return -1;
  }
}
