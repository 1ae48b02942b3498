#include "graph/timings.h"

#include <charconv>
#include <string_view>

#include <fmt/format.h>

#include "base/error.h"

namespace sluice::graph {

std::optional<double> Timings::find(const std::string& key) const {
  const std::lock_guard lock(mutex_);
  const auto found = times_.find(key);
  return found == times_.end() ? std::nullopt : std::optional(found->second);
}

void Timings::put(const std::string& key, double microseconds) {
  const std::lock_guard lock(mutex_);
  times_[key] = microseconds;
}

std::string Timings::to_text() const {
  const std::lock_guard lock(mutex_);
  std::string text;
  for (const auto& [key, microseconds] : times_) text += fmt::format("{:.3f}\t{}\n", microseconds, key);
  return text;
}

void Timings::add_text(const std::string& text, const std::string& source) {
  std::string_view rest = text;
  for (int line_number = 1; !rest.empty(); ++line_number) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (line.empty()) continue;
    double microseconds = 0;
    const auto [after, error] = std::from_chars(line.data(), line.data() + line.size(), microseconds);
    const bool is_line = error == std::errc() && after != line.data() + line.size() && *after == '\t' &&
                         microseconds >= 0 && microseconds < 1e12;
    if (!is_line) {
      fail(Code::kInvalidArgument, "{}:{}: a timing is microseconds, a tab and a key; delete the file to measure anew",
           source, line_number);
    }
    put(std::string(after + 1, line.data() + line.size()), microseconds);
  }
}

size_t Timings::size() const {
  const std::lock_guard lock(mutex_);
  return times_.size();
}

}  // namespace sluice::graph
