// Runs requests through a whole engine in this process (schedule, forward, sample, hand over) and says how long it
// took. The calling thread waits; sinks run on the engine thread and only count.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/engine.h"

namespace sluice::cli {

struct BenchJob {
  std::vector<int32_t> prompt;
  int64_t num_generated = 1;   // exactly so many: end tokens do not end it
};

struct BenchRun {
  double seconds = 0;          // first submitted to last finished
  double prompt_seconds = 0;   // until the last sequence had its first token
  int64_t prompt_tokens = 0, generated_tokens = 0;
  int64_t decoded_tokens = 0;  // generated after prompt_seconds
  double total_rate() const { return static_cast<double>(prompt_tokens + generated_tokens) / seconds; }
  double output_rate() const { return static_cast<double>(generated_tokens) / seconds; }
  double prompt_rate() const { return static_cast<double>(prompt_tokens) / prompt_seconds; }
  double decode_rate() const { return static_cast<double>(decoded_tokens) / (seconds - prompt_seconds); }
};

// Greedy, all submitted at once. Throws what a request ended with, once none is running any more.
BenchRun run_jobs(engine::Engine& engine, std::vector<BenchJob> jobs);

// `count` random ids below `vocabulary`; another stream, another prompt.
std::vector<int32_t> random_prompt(int64_t count, int64_t vocabulary, uint64_t seed, uint64_t stream);

}  // namespace sluice::cli
