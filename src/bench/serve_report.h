// The report of `sluice bench serve`: what a list of request records amounts to, in the words and with the JSON keys
// that people know from vLLM's benchmark. Times are in milliseconds, of successful requests only; requests that were
// not finished when the run was stopped count nowhere. Pure functions.
//
// TTFT is from sending a request to its first token, E2EL to its last, TPOT the time per token after the first of one
// request, ITL the time between two pieces of a stream (a piece may hold several tokens).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "bench/request_record.h"
#include "bench/statistics.h"

namespace sluice::bench {

// What a request must keep to for it to count as good, in milliseconds.
struct Goodput {
  std::optional<double> ttft_ms, tpot_ms, e2el_ms;
  bool is_wanted() const { return ttft_ms || tpot_ms || e2el_ms; }
};
// {"ttft:200", "tpot:50"}; throws Error naming the part that is wrong.
Goodput parse_goodput(const std::vector<std::string>& parts);

struct FailureKind {
  std::string message;  // of the first; others of the kind may have other numbers in it
  int64_t count = 0;
};

struct ServeMetrics {
  int64_t num_completed = 0, num_failed = 0, num_unfinished = 0;
  double duration_seconds = 0;          // from the start of the run until the last answer ends
  int64_t input_tokens = 0, output_tokens = 0;
  std::optional<int64_t> cached_tokens;  // of the input; nothing if no answer told
  int64_t num_without_usage = 0;        // tokens of these were counted by pieces
  int64_t num_short = 0;                // answers that ended before the tokens asked for
  int64_t num_late = 0;                 // sent more than 10 ms behind plan
  double late_seconds_max = 0;
  double requests_per_second = 0, goodput_per_second = 0;
  double output_per_second = 0, tokens_per_second = 0;
  double peak_output_per_second = 0;    // in the best of the seconds from the start; at least output_per_second
  int64_t peak_concurrency = 0;
  Summary ttft_ms, tpot_ms, itl_ms, e2el_ms;
  std::vector<FailureKind> failures;    // most frequent first
};

ServeMetrics compute_metrics(const std::vector<RequestRecord>& records, double duration_seconds, const Goodput& goodput,
                             const std::vector<double>& percents);

// How the load was made; shown with the figures.
struct LoadDescription {
  double request_rate = 0;      // 0: closed loop, or the trace's; infinity: all at once
  int64_t max_concurrency = 0;  // 0: none
  bool ignores_eos = false;
};
std::string format_metrics(const ServeMetrics& metrics, const LoadDescription& load, bool with_goodput,
                           const std::vector<double>& percents);
json::object metrics_json(const ServeMetrics& metrics, bool with_goodput, const std::vector<double>& percents);

}  // namespace sluice::bench
