// Reading recorded loads; see workload.h.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "base/error.h"
#include "bench/workload.h"

namespace sluice::bench {
namespace {

constexpr int64_t kTokensMax = 1 << 24;  // of a request; a larger number is a mistake, not a load

std::string_view trim(std::string_view text) {
  auto is_blank = [](char c) { return c == ' ' || c == '\t' || c == '\r' || c == '"'; };
  while (!text.empty() && is_blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_blank(text.back())) text.remove_suffix(1);
  return text;
}

std::vector<std::string_view> split(std::string_view line) {
  std::vector<std::string_view> cells;
  for (;;) {
    size_t comma = line.find(',');
    cells.push_back(trim(line.substr(0, comma)));
    if (comma == std::string_view::npos) return cells;
    line.remove_prefix(comma + 1);
  }
}

template <typename Number>
std::optional<Number> find_number(std::string_view text) {
  Number number{};
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

// Days since 1970-01-01 of a date of the Gregorian calendar, by counting leap years from March.
int64_t days_from_date(int64_t year, int64_t month, int64_t day) {
  year -= month <= 2 ? 1 : 0;
  const int64_t era = (year >= 0 ? year : year - 399) / 400, year_of_era = year - era * 400;
  const int64_t day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
  return era * 146'097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719'468;
}

// Takes "Z", "+01:00" or "-0530" off the end of a time of day; returns its seconds east of UTC.
std::optional<int64_t> take_zone(std::string_view& text) {
  if (text.ends_with('Z')) {
    text.remove_suffix(1);
    return 0;
  }
  const size_t sign = text.find_first_of("+-");
  if (sign == std::string_view::npos) return 0;
  const std::string_view zone = text.substr(sign + 1);
  const bool has_colon = zone.size() == 5 && zone[2] == ':';
  if (zone.size() != 4 && !has_colon) return std::nullopt;
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  const std::string_view minute_part = zone.substr(has_colon ? 3 : 2);
  if (!is_digit(zone[0]) || !is_digit(zone[1]) || !is_digit(minute_part[0]) || !is_digit(minute_part[1])) {
    return std::nullopt;
  }
  const int64_t hours = (zone[0] - '0') * 10 + zone[1] - '0';
  const int64_t minutes = (minute_part[0] - '0') * 10 + minute_part[1] - '0';
  if (hours > 23 || minutes > 59) return std::nullopt;
  const int64_t seconds = (hours * 60 + minutes) * 60;
  const bool is_west = text[sign] == '-';
  text = text.substr(0, sign);
  return is_west ? -seconds : seconds;
}

// "1700158546.25", or "2023-11-16 18:15:46.6805900" (also with T and a time zone), in seconds.
std::optional<double> find_time(std::string_view text) {
  if (std::optional<double> seconds = find_number<double>(text)) {
    return std::isfinite(*seconds) ? seconds : std::nullopt;
  }
  if (text.size() < 19 || text[4] != '-' || text[7] != '-' || (text[10] != ' ' && text[10] != 'T') || text[13] != ':' ||
      text[16] != ':') {
    return std::nullopt;
  }
  auto year = find_number<int64_t>(text.substr(0, 4)), month = find_number<int64_t>(text.substr(5, 2)),
       day = find_number<int64_t>(text.substr(8, 2)), hour = find_number<int64_t>(text.substr(11, 2)),
       minute = find_number<int64_t>(text.substr(14, 2));
  std::string_view rest = text.substr(17);
  const std::optional<int64_t> zone = take_zone(rest);
  const auto second = find_number<double>(rest);
  if (!zone || !year || !month || !day || !hour || !minute || !second) return std::nullopt;
  if (*month < 1 || *month > 12 || *day < 1 || *day > 31 || *hour < 0 || *hour > 23 || *minute < 0 || *minute > 59 ||
      !(*second >= 0 && *second < 61)) {
    return std::nullopt;
  }
  const int64_t minutes = (days_from_date(*year, *month, *day) * 24 + *hour) * 60 + *minute;
  return static_cast<double>(minutes * 60 - *zone) + *second;
}

struct Columns {
  size_t time = 0, input = 0, output = 0;
};

Columns find_columns(std::string_view line, const std::string& path) {
  std::vector<std::string_view> cells = split(line);
  auto find = [&](std::initializer_list<std::string_view> names, const char* meaning) {
    for (size_t i = 0; i < cells.size(); ++i) {
      std::string lower(cells[i]);
      for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
      if (std::find(names.begin(), names.end(), lower) != names.end()) return i;
    }
    fail(Code::kInvalidArgument,
         "{}:1: no column with {}; the first line names the columns, such as "
         "TIMESTAMP,ContextTokens,GeneratedTokens",
         path, meaning);
  };
  return {
      .time = find({"timestamp", "arrival_time", "arrived_at", "time"}, "the arrival time"),
      .input = find({"contexttokens", "input_tokens", "prompt_tokens", "num_prefill_tokens"}, "the prompt's tokens"),
      .output =
          find({"generatedtokens", "output_tokens", "completion_tokens", "num_decode_tokens"}, "the generated tokens")};
}

}  // namespace

std::vector<PlannedRequest> parse_trace(std::string_view text, const std::string& path, double speed, int64_t num_max) {
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);  // a byte order mark
  std::vector<PlannedRequest> requests;
  std::optional<Columns> columns;
  for (int64_t line_number = 1; !text.empty(); ++line_number) {
    size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = trim(text.substr(0, end));
    text.remove_prefix(std::min(text.size(), end + 1));
    if (!columns) {
      columns = find_columns(line, path);
      continue;
    }
    if (line.empty()) continue;
    std::vector<std::string_view> cells = split(line);
    if (cells.size() <= std::max({columns->time, columns->input, columns->output})) {
      fail(Code::kInvalidArgument, "{}:{}: {} columns where the first line has more: '{}'", path, line_number,
           cells.size(), line.substr(0, 80));
    }
    auto tokens = [&](size_t column, const char* what) {
      std::optional<int64_t> count = find_number<int64_t>(cells[column]);
      if (!count || *count < 1 || *count > kTokensMax) {
        fail(Code::kInvalidArgument, "{}:{}: '{}' is no number of {} tokens (1 to {})", path, line_number,
             cells[column].substr(0, 40), what, kTokensMax);
      }
      return *count;
    };
    std::optional<double> time = find_time(cells[columns->time]);
    if (!time) {
      fail(Code::kInvalidArgument, "{}:{}: '{}' is no arrival time; write seconds or 2023-11-16 18:15:46.68", path,
           line_number, cells[columns->time].substr(0, 40));
    }
    requests.push_back({.arrival_seconds = *time,
                        .prompt_tokens = tokens(columns->input, "prompt"),
                        .output_tokens = tokens(columns->output, "generated")});
  }
  if (requests.empty()) fail(Code::kInvalidArgument, "{}: no requests in it", path);
  std::stable_sort(requests.begin(), requests.end(), [](const PlannedRequest& a, const PlannedRequest& b) {
    return a.arrival_seconds < b.arrival_seconds;
  });
  if (num_max > 0 && static_cast<size_t>(num_max) < requests.size()) requests.resize(static_cast<size_t>(num_max));
  const double first = requests.front().arrival_seconds;
  for (PlannedRequest& request : requests) request.arrival_seconds = (request.arrival_seconds - first) / speed;
  return requests;
}

}  // namespace sluice::bench
