// Runs requests through a whole engine in this process (schedule, forward, sample, hand over) and says how long it
// took. The calling thread waits; sinks run on the engine thread and only count. A run can be stopped early: then it
// says what was done until then.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "engine/engine.h"

namespace sluice::cli {

struct BenchJob {
  std::vector<int32_t> prompt;
  int64_t num_generated = 1;   // exactly so many: end tokens do not end it
};

struct BenchRun {
  double seconds = 0;          // first submitted to last token
  double prompt_seconds = 0;   // until the last sequence had its first token
  int64_t num_finished = 0;    // jobs; less than were given if the run was stopped
  int64_t prompt_tokens = 0;   // of jobs that had their first token
  int64_t generated_tokens = 0;
  int64_t decoded_tokens = 0;  // generated after prompt_seconds
  int64_t num_steps = 0;       // each of which reads the weights once
  int64_t num_decode_steps = 0;  // after prompt_seconds
  bool is_stopped = false;     // before all jobs were done

  double decode_seconds() const { return seconds - prompt_seconds; }
  double total_rate() const { return rate(prompt_tokens + generated_tokens, seconds); }
  double output_rate() const { return rate(generated_tokens, seconds); }
  double prompt_rate() const { return rate(prompt_tokens, prompt_seconds); }
  double decode_rate() const { return rate(decoded_tokens, decode_seconds()); }

 private:
  static double rate(int64_t count, double seconds) { return seconds > 0 ? static_cast<double>(count) / seconds : 0; }
};

// Greedy, all submitted at once. With `decode_steps` only so many steps after the last sequence's first token count as
// decoding; jobs long enough for the sequences that began first are then all there in each of them. `should_stop`, which may be empty, is asked every few hundredths of a second; true
// cancels what is not done. Throws what a request ended with, once none is running any more.
BenchRun run_jobs(engine::Engine& engine, std::vector<BenchJob> jobs, const std::function<bool()>& should_stop = {},
                  int64_t decode_steps = 0);

// `count` random ids below `vocabulary`; another stream, another prompt.
std::vector<int32_t> random_prompt(int64_t count, int64_t vocabulary, uint64_t seed, uint64_t stream);

}  // namespace sluice::cli
