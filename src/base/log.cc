#include "base/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <atomic>

#include "base/error.h"
#include "base/json.h"

namespace sluice::log {
namespace {

std::atomic<Level> g_level{Level::kInfo};
std::atomic<Format> g_format{Format::kText};

spdlog::logger& logger() {
  // Never destroyed: threads may still log while the process exits.
  static spdlog::logger* const instance = [] {
    auto* made = new spdlog::logger("sluice", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made->set_level(spdlog::level::trace);
    made->set_pattern("%Y-%m-%dT%H:%M:%S.%e %L %v");
    made->flush_on(spdlog::level::trace);
    return made;
  }();
  return *instance;
}

spdlog::level::level_enum to_spdlog(Level level) {
  switch (level) {
    case Level::kDebug: return spdlog::level::debug;
    case Level::kInfo: return spdlog::level::info;
    case Level::kWarning: return spdlog::level::warn;
    default: return spdlog::level::err;
  }
}

}  // namespace

Level parse_level(std::string_view name) {
  if (name == "debug") return Level::kDebug;
  if (name == "info") return Level::kInfo;
  if (name == "warning" || name == "warn") return Level::kWarning;
  if (name == "error") return Level::kError;
  if (name == "off") return Level::kOff;
  fail(Code::kInvalidArgument, "unknown log level '{}': use debug, info, warning, error or off", name);
}

void configure(Level level, Format format) {
  g_level = level;
  g_format = format;
  logger().set_pattern(format == Format::kJson ? R"({"time":"%Y-%m-%dT%H:%M:%S.%f%z","level":"%l",%v})"
                                               : "%Y-%m-%dT%H:%M:%S.%e %L %v");
}

bool is_on(Level level) { return level >= g_level.load(std::memory_order_relaxed); }

void write(Level level, const std::string& message) { write(level, message, {}); }

void write(Level level, const std::string& message, std::initializer_list<Field> fields) {
  if (g_format.load(std::memory_order_relaxed) != Format::kJson) {
    logger().log(to_spdlog(level), message);
    return;
  }
  std::string members = "\"message\":" + json::serialize(json::value(message));
  for (const auto& [name, value] : fields) {
    members += fmt::format(",\"{}\":", name);
    members += std::visit([](auto v) { return json::serialize(json::value(v)); }, value);
  }
  logger().log(to_spdlog(level), members);
}

}  // namespace sluice::log
