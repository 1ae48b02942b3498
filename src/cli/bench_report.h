// What every mode of `sluice bench` has in common: the head of its report, the shares of what the machine can do, and
// where the report goes. A command owns one BenchOutput, which its flags fill.
#pragma once

#include <CLI/CLI.hpp>

#include <string>

#include "base/json.h"
#include "bench/limits.h"
#include "cli/flags.h"
#include "engine/load.h"

namespace sluice::cli {

struct BenchOutput {
  bool json = false;
  std::string save;

  // Throws now, and not after the measurements, if --save names what cannot be written.
  void check() const;
  // Prints (with --json) and saves (with --save) the finished report.
  void finish(const json::object& report) const;
};
void add_bench_output_flags(CLI::App& command, BenchOutput& output);
void add_bench_model_option(CLI::App& command, std::string& model);

// How long a sequence may be: what the checkpoint states, or --max-model-len if that is less.
int64_t find_max_positions(const engine::LoadedModel& loaded, const EngineFlags& flags);
// Throws if `what` ("the batch") needs more; `advice` names the options to lower.
void require_positions(const engine::LoadedModel& loaded, const EngineFlags& flags, int64_t needed,
                       const std::string& what, const std::string& advice);

// commit, build, cpu, isa, threads.
json::object bench_head_json(int num_threads);
// The same and the model, whether its weights were repacked, its load time and the limits of the machine.
json::object bench_head_json(const std::string& model, const engine::LoadedModel& loaded, const bench::Limits& limits);
void print_bench_head(const std::string& model, const engine::LoadedModel& loaded, const bench::Limits& limits);

// A rate of a loaded model beside the limits.
struct ModelRates {
  double weights_per_second = 0;      // bytes: every matrix once a step; 0: not told by steps
  double operations_per_second = 0;   // two a weight that is multiplied, and token
  double bandwidth_percent = 0;       // 0: the bandwidth is not known
  double peak_percent = 0;
};
// Tokens/s of prompts, which need no logits but of their last token, and of generated tokens. `batch`: sequences that
// get a token each in one step; 0 where that is not known.
ModelRates compute_rates(const engine::LoadedModel& loaded, const bench::Limits& limits, double prompt_rate,
                         double decode_rate, int64_t batch);
std::string format_percent(double percent);   // "92 %", "-" for 0
std::string format_operations(double per_second);  // "515 GFLOP/s"

// Options of `sluice bench` itself say nothing to its modes: throws UsageError if one was given.
void reject_grid_options(const CLI::App& mode);

void add_bench_serve(CLI::App& bench);
void add_bench_latency(CLI::App& bench);
void add_bench_throughput(CLI::App& bench);

}  // namespace sluice::cli
