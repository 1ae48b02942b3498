// Which requests a load consists of and when each is due: lengths by a seed or from a trace, arrivals by a seed. Plain
// numbers; what the prompts say is prompts.h's matter. Everything here is a pure function of its arguments: the same
// seed gives the same load on every machine.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::bench {

struct PlannedRequest {
  double arrival_seconds = 0;   // after the start of the run
  int64_t prompt_tokens = 1;    // the prefix included
  int64_t prefix_tokens = 0;    // the first so many are those of prefix_index
  int64_t prefix_index = 0;
  int64_t output_tokens = 1;
};

struct RandomLengths {
  int64_t num_requests = 0;
  int64_t input_tokens = 128, output_tokens = 64;  // means
  double range_ratio = 0;       // lengths are uniform in [mean * (1 - ratio), mean * (1 + ratio)]
  int64_t prefix_tokens = 0;    // come on top of the input
  int64_t num_prefixes = 1;     // requests take them in turn
  uint64_t seed = 0;
};
std::vector<PlannedRequest> plan_random(const RandomLengths& lengths);

// Sets the arrivals: intervals drawn from a gamma distribution of mean 1/rate and shape `burstiness`. 1 is a Poisson
// process, less comes in bursts, more is more even. An infinite rate makes all arrive at once. REQUIRES: rate > 0,
// burstiness > 0.
void plan_arrivals(std::vector<PlannedRequest>& requests, double rate, double burstiness, uint64_t seed);

// A recorded load, one request a line: when it came, how many tokens it brought and how many were generated. The first
// line names the columns: TIMESTAMP, ContextTokens, GeneratedTokens as in Azure's published traces, or timestamp/
// arrival_time, input_tokens/prompt_tokens, output_tokens/completion_tokens. Times are seconds or
// "2023-11-16 18:15:46.6805900". Arrivals are counted from the first and divided by `speed`; lines out of order are
// put in order. `num_max` > 0 keeps only the first so many. Throws Error "FILE:LINE: what".
std::vector<PlannedRequest> parse_trace(std::string_view text, const std::string& path, double speed, int64_t num_max);

}  // namespace sluice::bench
