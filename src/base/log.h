// Logging, the door to spdlog. LOG(info, "model {} loaded in {} ms", name, ms);
//
// One line an event on standard error, as text or as JSON objects; libraries never write to standard output. Any thread
// may log. The message is formatted only when its level is on.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace sluice::log {

enum class Level { kDebug, kInfo, kWarning, kError, kOff };
enum class Format { kText, kJson };

// "debug", "info", "warning", "error", "off"; throws Error otherwise.
Level parse_level(std::string_view name);

void configure(Level level, Format format);
bool is_on(Level level);
void write(Level level, const std::string& message);
// What the message says, for machines: members of the JSON object. Text lines leave them out. Doubles may be NaN: null.
using Field = std::pair<const char*, std::variant<int64_t, double, std::string_view>>;
void write(Level level, const std::string& message, std::initializer_list<Field> fields);

namespace names {
inline constexpr Level debug = Level::kDebug, info = Level::kInfo, warning = Level::kWarning, error = Level::kError;
}

}  // namespace sluice::log

#define LOG(level, ...)                                                                          \
  do {                                                                                           \
    if (::sluice::log::is_on(::sluice::log::names::level))                                       \
      ::sluice::log::write(::sluice::log::names::level, ::fmt::format(__VA_ARGS__));             \
  } while (false)
