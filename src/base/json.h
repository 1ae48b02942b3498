// JSON, the door to Boost.JSON. Everything else says sluice::json.
//
// parse() is safe on hostile input: depth, size and UTF-8 are checked, numbers must be finite, and its Error says the
// byte offset. Decimals may be read one unit in the last place off (Boost.JSON 1.81). The readers below turn a field of the wrong type into an Error whose param() is the field's name.
#pragma once

#include <boost/json.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::json {

using boost::json::array;
using boost::json::kind;
using boost::json::object;
using boost::json::string;
using boost::json::value;

// Throws Error(kInvalidArgument) "... at byte N".
value parse(std::string_view text, int max_depth = 64);
// Compact JSON. Doubles are written in their shortest exact form; NaN and infinities as null.
std::string serialize(const value& v);

// The field if present and not null.
const value* find(const object& o, std::string_view key);

// Readers for request fields: nullopt when absent or null; Error naming the field when of the wrong type, not finite, or
// outside [low, high].
std::optional<bool> read_bool(const object& o, std::string_view key);
std::optional<int64_t> read_int(const object& o, std::string_view key, int64_t low = INT64_MIN, int64_t high = INT64_MAX);
std::optional<double> read_double(const object& o, std::string_view key, double low, double high);
std::optional<std::string> read_string(const object& o, std::string_view key);
// A string or a list of strings.
std::vector<std::string> read_strings(const object& o, std::string_view key, size_t max_count);
std::vector<int64_t> read_ints(const object& o, std::string_view key, size_t max_count);

// "a string", "a number", "null", ...: how errors name what was there.
const char* describe(const value& v);

}  // namespace sluice::json
