#include "bench/serve_report.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>

#include "base/error.h"

namespace sluice::bench {
namespace {

constexpr double kLateSeconds = 0.010;
constexpr size_t kFailuresShown = 10;

// Errors that differ in numbers only are of one kind.
std::string without_numbers(const std::string& message) {
  std::string kind;
  for (size_t i = 0; i < message.size(); ++i) {
    bool is_digit = message[i] >= '0' && message[i] <= '9';
    // "HTTP 429" keeps its number.
    if (!is_digit || (i < 8 && message.starts_with("HTTP "))) {
      kind += message[i];
    } else if (kind.empty() || kind.back() != '#') {
      kind += '#';
    }
  }
  return kind;
}

std::vector<FailureKind> count_failures(const std::vector<RequestRecord>& records) {
  std::map<std::string, FailureKind> kinds;
  for (const RequestRecord& record : records) {
    if (record.error.empty()) continue;
    FailureKind& kind = kinds[without_numbers(record.error)];
    if (kind.count++ == 0) kind.message = record.error;
  }
  std::vector<FailureKind> list;
  for (auto& [key, kind] : kinds) list.push_back(std::move(kind));
  std::stable_sort(list.begin(), list.end(),
                   [](const FailureKind& a, const FailureKind& b) { return a.count > b.count; });
  return list;
}

int64_t find_peak_concurrency(const std::vector<RequestRecord>& records) {
  std::vector<std::pair<double, int>> changes;  // ends sort before beginnings at the same time
  for (const RequestRecord& record : records) {
    if (!record.ok()) continue;
    changes.emplace_back(record.start_seconds, 1);
    changes.emplace_back(record.start_seconds + record.e2el(), -1);
  }
  std::sort(changes.begin(), changes.end());
  int64_t now = 0, peak = 0;
  for (const auto& [time, change] : changes) peak = std::max(peak, now += change);
  return peak;
}

// Of the seconds counted from the start, the last one perhaps not whole. A piece stands for its share of the request's
// tokens.
double find_peak_output(const std::vector<RequestRecord>& records) {
  std::map<int64_t, double> seconds;
  for (const RequestRecord& record : records) {
    if (!record.ok()) continue;
    double share = static_cast<double>(record.output_tokens) / static_cast<double>(record.piece_seconds.size());
    for (double at : record.piece_seconds) seconds[static_cast<int64_t>(record.start_seconds + at)] += share;
  }
  double peak = 0;
  for (const auto& [second, tokens] : seconds) peak = std::max(peak, tokens);
  return peak;
}

bool is_good(const RequestRecord& record, const Goodput& goodput) {
  auto keeps = [](const std::optional<double>& limit_ms, double seconds) {
    return !limit_ms || seconds * 1e3 <= *limit_ms;
  };
  double tpot = record.output_tokens > 1 ? record.tpot() : 0;
  return keeps(goodput.ttft_ms, record.ttft()) && keeps(goodput.tpot_ms, tpot) && keeps(goodput.e2el_ms, record.e2el());
}

std::string percent_name(double percent) { return fmt::format("P{:g}", percent); }

std::string rule(const std::string& title, char with) {
  size_t rest = 50 - title.size(), left = rest / 2;
  return std::string(left, with) + title + std::string(rest - left, with) + '\n';
}

std::string line(const std::string& label, const std::string& value) {
  return fmt::format("{:<40} {:<10}\n", label, value);
}
std::string line(const std::string& label, int64_t value) { return line(label, fmt::format("{}", value)); }
std::string line(const std::string& label, double value) { return line(label, fmt::format("{:.2f}", value)); }

struct Latency {
  const char* name;
  const char* title;
  const Summary& summary;
};

std::vector<Latency> latencies(const ServeMetrics& metrics) {
  return {{"TTFT", "Time to First Token", metrics.ttft_ms},
          {"TPOT", "Time per Output Token (excl. 1st token)", metrics.tpot_ms},
          {"ITL", "Inter-token Latency", metrics.itl_ms},
          {"E2EL", "End-to-end Latency", metrics.e2el_ms}};
}

}  // namespace

Goodput parse_goodput(const std::vector<std::string>& parts) {
  Goodput goodput;
  for (const std::string& part : parts) {
    size_t colon = part.find(':');
    std::string name = part.substr(0, colon);
    std::optional<double>* limit = name == "ttft"   ? &goodput.ttft_ms
                                   : name == "tpot" ? &goodput.tpot_ms
                                   : name == "e2el" ? &goodput.e2el_ms
                                                    : nullptr;
    double value = 0;
    const char* begin = part.data() + (colon == std::string::npos ? part.size() : colon + 1);
    const char* end = part.data() + part.size();
    auto [used, error] = std::from_chars(begin, end, value);
    if (limit == nullptr || error != std::errc() || used != end || !std::isfinite(value) || value < 0) {
      fail(Code::kInvalidArgument, "--goodput: '{}' is not NAME:MILLISECONDS with ttft, tpot or e2el, such as ttft:200",
           part);
    }
    if (*limit) fail(Code::kInvalidArgument, "--goodput: {} is given twice", name);
    *limit = value;
  }
  return goodput;
}

ServeMetrics compute_metrics(const std::vector<RequestRecord>& records, double duration_seconds, const Goodput& goodput,
                             const std::vector<double>& percents) {
  ServeMetrics metrics;
  metrics.duration_seconds = duration_seconds;
  std::vector<double> ttft, tpot, itl, e2el;
  int64_t num_good = 0;
  for (const RequestRecord& record : records) {
    if (record.is_unfinished) {
      ++metrics.num_unfinished;
      continue;
    }
    metrics.num_late += record.late_seconds > kLateSeconds ? 1 : 0;
    metrics.late_seconds_max = std::max(metrics.late_seconds_max, record.late_seconds);
    if (!record.ok()) {
      ++metrics.num_failed;
      continue;
    }
    ++metrics.num_completed;
    metrics.input_tokens += record.prompt_tokens;
    metrics.output_tokens += record.output_tokens;
    if (record.cached_tokens) metrics.cached_tokens = metrics.cached_tokens.value_or(0) + *record.cached_tokens;
    metrics.num_without_usage += record.has_usage ? 0 : 1;
    metrics.num_short += record.is_short() ? 1 : 0;
    num_good += is_good(record, goodput) ? 1 : 0;
    ttft.push_back(record.ttft() * 1e3);
    e2el.push_back(record.e2el() * 1e3);
    if (record.output_tokens > 1) tpot.push_back(record.tpot() * 1e3);
    for (size_t i = 1; i < record.piece_seconds.size(); ++i) {
      itl.push_back((record.piece_seconds[i] - record.piece_seconds[i - 1]) * 1e3);
    }
  }
  if (duration_seconds > 0) {
    metrics.requests_per_second = static_cast<double>(metrics.num_completed) / duration_seconds;
    metrics.goodput_per_second = static_cast<double>(num_good) / duration_seconds;
    metrics.output_per_second = static_cast<double>(metrics.output_tokens) / duration_seconds;
    metrics.tokens_per_second = static_cast<double>(metrics.input_tokens + metrics.output_tokens) / duration_seconds;
  }
  // A run shorter than a second has no whole one: what it made in it says less than what it made a second.
  metrics.peak_output_per_second = std::max(find_peak_output(records), metrics.output_per_second);
  metrics.peak_concurrency = find_peak_concurrency(records);
  metrics.ttft_ms = summarize(std::move(ttft), percents);
  metrics.tpot_ms = summarize(std::move(tpot), percents);
  metrics.itl_ms = summarize(std::move(itl), percents);
  metrics.e2el_ms = summarize(std::move(e2el), percents);
  metrics.failures = count_failures(records);
  return metrics;
}

std::string format_metrics(const ServeMetrics& metrics, const LoadDescription& load, bool with_goodput,
                           const std::vector<double>& percents) {
  std::string text =
      rule(metrics.num_unfinished > 0 ? " Serving Benchmark Result, interrupted " : " Serving Benchmark Result ", '=');
  text += line("Successful requests:", metrics.num_completed);
  text += line("Failed requests:", metrics.num_failed);
  if (load.max_concurrency > 0) text += line("Maximum request concurrency:", load.max_concurrency);
  if (load.request_rate > 0) text += line("Request rate configured (RPS):", load.request_rate);
  text += line("Benchmark duration (s):", metrics.duration_seconds);
  text += line("Total input tokens:", metrics.input_tokens);
  text += line("Input tokens from the prefix cache:",
               metrics.cached_tokens ? fmt::format("{}", *metrics.cached_tokens) : std::string("unknown"));
  text += line("Total generated tokens:", metrics.output_tokens);
  text += line("Request throughput (req/s):", metrics.requests_per_second);
  if (with_goodput) text += line("Request goodput (req/s):", metrics.goodput_per_second);
  text += line("Output token throughput (tok/s):", metrics.output_per_second);
  text += line("Peak output token throughput (tok/s):", metrics.peak_output_per_second);
  text += line("Peak concurrent requests:", metrics.peak_concurrency);
  text += line("Total token throughput (tok/s):", metrics.tokens_per_second);
  for (const Latency& latency : latencies(metrics)) {
    text += rule(latency.title, '-');
    text += line(fmt::format("Mean {} (ms):", latency.name), latency.summary.mean);
    text += line(fmt::format("Median {} (ms):", latency.name), latency.summary.median);
    for (size_t i = 0; i < percents.size(); ++i) {
      text += line(fmt::format("{} {} (ms):", percent_name(percents[i]), latency.name), latency.summary.percentiles[i]);
    }
  }
  text += rule("", '=');
  if (metrics.num_unfinished > 0) {
    text += fmt::format("Interrupted: {} of {} requests were cut off or not sent; they count nowhere above.\n",
                        metrics.num_unfinished, metrics.num_completed + metrics.num_failed + metrics.num_unfinished);
  }
  if (metrics.num_short > 0) {
    text += fmt::format("Note: {} of {} answers ended before the tokens asked for; {}.\n", metrics.num_short,
                        metrics.num_completed,
                        load.ignores_eos ? "although --ignore-eos was sent along"
                                         : "--ignore-eos asks the server to go on after end tokens");
  }
  if (metrics.num_without_usage > 0) {
    text += fmt::format("Note: {} answers came without a usage count; their streamed pieces were counted as tokens.\n",
                        metrics.num_without_usage);
  }
  if (metrics.num_late > 0) {
    text += fmt::format(
        "Note: {} requests were sent later than planned, {:.2f} s at most, {}; the times above do not "
        "include that.\n",
        metrics.num_late, metrics.late_seconds_max,
        load.max_concurrency > 0 ? "since the limit on concurrent requests held them back"
                                 : "since this machine was too busy");
  }
  for (size_t i = 0; i < metrics.failures.size(); ++i) {
    if (i == kFailuresShown) {
      text += fmt::format("Failed: {} more kinds of failure\n", metrics.failures.size() - i);
      break;
    }
    text += fmt::format("Failed, {} times: {}\n", metrics.failures[i].count, metrics.failures[i].message);
  }
  return text;
}

json::object metrics_json(const ServeMetrics& metrics, bool with_goodput, const std::vector<double>& percents) {
  json::object object{
      {"duration", metrics.duration_seconds},
      {"completed", metrics.num_completed},
      {"failed", metrics.num_failed},
      {"interrupted", metrics.num_unfinished > 0},
      {"unfinished", metrics.num_unfinished},
      {"total_input_tokens", metrics.input_tokens},
      {"total_output_tokens", metrics.output_tokens},
      {"cached_input_tokens", metrics.cached_tokens ? json::value(*metrics.cached_tokens) : json::value(nullptr)},
      {"request_throughput", metrics.requests_per_second},
      {"request_goodput", with_goodput ? json::value(metrics.goodput_per_second) : json::value(nullptr)},
      {"output_throughput", metrics.output_per_second},
      {"total_token_throughput", metrics.tokens_per_second},
      {"max_output_tokens_per_s", metrics.peak_output_per_second},
      {"max_concurrent_requests", metrics.peak_concurrency},
      {"late_requests", metrics.num_late},
      {"late_seconds_max", metrics.late_seconds_max},
      {"answers_without_usage", metrics.num_without_usage},
      {"short_answers", metrics.num_short}};
  for (const Latency& latency : latencies(metrics)) {
    std::string name(latency.name);
    for (char& c : name) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
    object["mean_" + name + "_ms"] = latency.summary.mean;
    object["median_" + name + "_ms"] = latency.summary.median;
    object["std_" + name + "_ms"] = latency.summary.deviation;
    for (size_t i = 0; i < percents.size(); ++i) {
      object[fmt::format("p{:g}_{}_ms", percents[i], name)] = latency.summary.percentiles[i];
    }
  }
  json::array failures;
  for (const FailureKind& kind : metrics.failures) {
    failures.push_back(json::object{{"message", kind.message}, {"count", kind.count}});
  }
  object["errors"] = std::move(failures);
  return object;
}

}  // namespace sluice::bench
