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

  // Throws now, and not after the measurements, if --save names what cannot be written. Leaves nothing behind.
  void check() const;
  // Prints (with --json) and saves (with --save) the finished report. A file appears whole or not at all.
  void finish(const json::object& report) const;
};
void add_bench_output_flags(CLI::App& command, BenchOutput& output);

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

// What a loaded model did in some time.
struct ModelWork {
  double seconds = 0;
  double prompt_tokens = 0, generated_tokens = 0;
  double num_steps = 0;      // each of which read the weights once; 0: not known
};
// The same as rates beside the limits.
struct ModelRates {
  double weights_per_second = 0;      // bytes: every matrix once a step; 0: the steps are not known
  double operations_per_second = 0;   // two a weight that is multiplied, and token
  double bandwidth_percent = 0;       // 0: bytes or bandwidth are not known
  double peak_percent = 0;
};
// Prompts need no logits but of their last token; of experts a step reads as many as its tokens can choose.
ModelRates compute_rates(const engine::LoadedModel& loaded, const bench::Limits& limits, const ModelWork& work);
// The same where only the size of a model is known: every step reads and every token is multiplied with all of it.
ModelRates compute_rates(double weight_bytes, double num_parameters, const bench::Limits& limits,
                         const ModelWork& work);
// The keys weights_gb_per_second, bandwidth_percent, gflops and peak_percent after `prefix`; null: not known.
void add_rates(json::object& report, const std::string& prefix, const ModelRates& rates);
// "weights 12.1 GB/s (92 % of memory), 515 GFLOP/s (34 % of peak)", without the first half where that is not known.
std::string describe_rates(const ModelRates& rates);
std::string format_percent(double percent);   // "92 %", "-" for 0
std::string format_operations(double per_second);  // "515 GFLOP/s"

void add_bench_serve(CLI::App& bench);
void add_bench_latency(CLI::App& bench);
void add_bench_throughput(CLI::App& bench);
void add_bench_graph(CLI::App& bench);

}  // namespace sluice::cli
