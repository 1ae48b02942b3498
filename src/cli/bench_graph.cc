// sluice bench graph: how fast an ONNX or TFLite model, or a plan, runs: the figures that trtexec prints.
//
// Inputs are made up (floats from [0, 1), integers 1). Runs before --warm-up is over do not count; then it runs until
// both --duration and --iterations are reached. With --layers a second series of runs takes the time of each step, so
// that the clock does not disturb the first.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <map>
#include <memory>

#include "base/error.h"
#include "bench/statistics.h"
#include "cli/bench_interrupt.h"
#include "cli/bench_options.h"
#include "cli/bench_report.h"
#include "cli/commands.h"
#include "cli/graph_inputs.h"
#include "cli/graph_load.h"
#include "graph/executor.h"

namespace sluice::cli {
namespace {

using Clock = std::chrono::steady_clock;

struct Flags {
  std::string model, trace;
  std::vector<std::string> shapes;
  GraphFlags graph;
  double warm_up_ms = 200, duration_s = 3;
  int64_t iterations = 10;
  bool layers = false;
  BenchOutput output;
};

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

// One line of the table of layers: a step, its mean time.
struct Layer {
  graph::StepInfo info;
  double milliseconds = 0;
};

std::vector<Layer> measure_layers(graph::Executor& executor, const std::vector<graph::Value>& inputs, int64_t runs,
                                  const std::vector<graph::StepInfo>& steps) {
  std::vector<Layer> layers;
  for (const graph::StepInfo& step : steps) layers.push_back({.info = step});
  executor.run(inputs);
  for (int64_t i = 0; i < runs; ++i) {
    executor.run(inputs);
    for (size_t s = 0; s < layers.size(); ++s) {
      layers[s].milliseconds += executor.step_seconds()[s] * 1e3 / static_cast<double>(runs);
    }
  }
  return layers;
}

void print_layers(const std::vector<Layer>& layers) {
  double total = 0;
  std::map<std::string, double> by_op;
  for (const Layer& layer : layers) {
    total += layer.milliseconds;
    by_op[layer.info.op] += layer.milliseconds;
  }
  std::printf("\n%9s %6s %9s  %-20s %-20s %-34s %s\n", "ms", "%", "GFLOP/s", "op", "kernel", "output", "node");
  for (const Layer& layer : layers) {
    const std::string rate =
        layer.info.flops > 0 ? fmt::format("{:.0f}", layer.info.flops / layer.milliseconds / 1e6) : "";
    std::printf("%9.4f %6.2f %9s  %-20s %-20s %-34s %s\n", layer.milliseconds, 100 * layer.milliseconds / total,
                rate.c_str(), layer.info.op.c_str(), layer.info.kernel.c_str(), layer.info.outputs.c_str(),
                layer.info.name.c_str());
  }
  std::vector<std::pair<std::string, double>> sums(by_op.begin(), by_op.end());
  std::sort(sums.begin(), sums.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  std::printf("\n%9s %6s  %s\n", "ms", "%", "all of");
  for (const auto& [op, milliseconds] : sums) {
    std::printf("%9.4f %6.2f  %s\n", milliseconds, 100 * milliseconds / total, op.c_str());
  }
}

// Chrome's trace format; opens in Perfetto.
void save_trace(const std::string& path, const std::vector<graph::StepInfo>& steps,
                const std::vector<double>& seconds) {
  json::array events;
  double at = 0;
  for (size_t s = 0; s < steps.size(); ++s) {
    events.push_back(json::object{{"name", steps[s].name}, {"cat", steps[s].op}, {"ph", "X"}, {"pid", 1}, {"tid", 1},
                                  {"ts", at * 1e6}, {"dur", seconds[s] * 1e6},
                                  {"args", json::object{{"op", steps[s].op}, {"kernel", steps[s].kernel},
                                                        {"outputs", steps[s].outputs}, {"flops", steps[s].flops}}}});
    at += seconds[s];
  }
  std::ofstream file(path);
  file << json::serialize(json::object{{"traceEvents", std::move(events)}});
  file.close();
  if (!file) fail(Code::kInvalidArgument, "cannot write {}", path);
}

void run(Flags& flags) {
  flags.output.check();
  const auto load_begin = Clock::now();
  LoadedGraph loaded = load_graph(flags.model, flags.graph);
  const double load_seconds = seconds_since(load_begin);
  graph::Executor executor(loaded.shared, loaded.options);
  const graph::Graph& graph = loaded.shared->model->graph;
  const std::vector<graph::Value> inputs = make_inputs(graph, find_shapes(loaded, flags.shapes));

  const auto compile_begin = Clock::now();
  const graph::Program& program = executor.compile(inputs);
  const double compile_seconds = seconds_since(compile_begin);
  const std::vector<graph::StepInfo> steps = program.steps();
  const InterruptWatch watch;
  const auto warm_begin = Clock::now();
  int64_t num_warm = 0;
  for (; num_warm == 0 || seconds_since(warm_begin) * 1e3 < flags.warm_up_ms; ++num_warm) {
    executor.run(inputs);
    if (watch.is_interrupted()) throw ExitCode{watch.exit_code()};
  }
  std::vector<double> latencies;
  const auto begin = Clock::now();
  double wall = 0;
  while (!watch.is_interrupted() &&
         (static_cast<int64_t>(latencies.size()) < flags.iterations || wall < flags.duration_s)) {
    const auto run_begin = Clock::now();
    executor.run(inputs);
    latencies.push_back(seconds_since(run_begin) * 1e3);
    wall = seconds_since(begin);
  }
  if (latencies.empty()) throw ExitCode{watch.exit_code()};
  const bench::Summary summary = bench::summarize(latencies, {0, 90, 95, 99, 100});
  const double throughput = static_cast<double>(latencies.size()) / wall;
  double flops = 0;
  for (const graph::StepInfo& step : steps) flops += step.flops;

  std::vector<Layer> layers;
  if (flags.layers || !flags.trace.empty()) {
    graph::Executor::Options options = loaded.options;
    options.profiles = true;
    graph::Executor profiled(loaded.shared, options);
    const std::vector<graph::StepInfo> profiled_steps = profiled.compile(inputs).steps();
    const int64_t runs = std::clamp<int64_t>(static_cast<int64_t>(latencies.size()), 3, 50);
    layers = measure_layers(profiled, inputs, runs, profiled_steps);
    if (!flags.trace.empty()) save_trace(flags.trace, profiled_steps, profiled.step_seconds());
  }
  const int64_t activations = program.arena_bytes(), naive = program.bytes_without_reuse();
  if (!flags.output.json) {
    std::printf("model        %s, %s, %d threads, %s\n", flags.model.c_str(), loaded.numbers.c_str(),
                loaded.options.num_threads, graph::kernel_isa().c_str());
    std::printf("inputs       %s%s\n", describe_inputs(graph, inputs).c_str(),
                has_guessed_sizes(graph, loaded, flags.shapes) ? " (sizes that nobody told are 1: see --shapes)" : "");
    std::printf("loaded       in %.3f s, compiled in %.3f s: %zu steps\n", load_seconds, compile_seconds, steps.size());
    std::printf("memory       activations %.2f MB (%.2f MB without reuse), packed weights %.1f MB\n",
                static_cast<double>(activations) / 1e6, static_cast<double>(naive) / 1e6,
                static_cast<double>(loaded.shared->weights.bytes()) / 1e6);
    std::printf("runs         %zu in %.2f s after %lld to warm up%s\n", latencies.size(), wall,
                static_cast<long long>(num_warm), watch.is_interrupted() ? " (interrupted)" : "");
    std::printf("throughput   %.2f qps, %.1f GFLOP/s\n", throughput, flops * throughput / 1e9);
    std::printf("latency      min %.3f ms, max %.3f ms, mean %.3f ms, median %.3f ms, p90 %.3f ms, p95 %.3f ms, "
                "p99 %.3f ms\n",
                summary.percentiles[0], summary.percentiles[4], summary.mean, summary.median, summary.percentiles[1],
                summary.percentiles[2], summary.percentiles[3]);
    if (flags.layers) print_layers(layers);
  }
  json::object report = bench_head_json(loaded.options.num_threads);
  report["model"] = flags.model;
  report["precision"] = loaded.numbers;
  report["inputs"] = describe_inputs(graph, inputs);
  report["load_seconds"] = load_seconds;
  report["compile_seconds"] = compile_seconds;
  report["activation_bytes"] = activations;
  report["activation_bytes_without_reuse"] = naive;
  report["packed_weight_bytes"] = loaded.shared->weights.bytes();
  report["runs"] = latencies.size();
  report["throughput_qps"] = throughput;
  report["gflops"] = flops * throughput / 1e9;
  report["latency_ms"] = json::object{{"min", summary.percentiles[0]}, {"max", summary.percentiles[4]},
                                      {"mean", summary.mean},          {"median", summary.median},
                                      {"p90", summary.percentiles[1]}, {"p95", summary.percentiles[2]},
                                      {"p99", summary.percentiles[3]}};
  report["interrupted"] = watch.is_interrupted();
  if (flags.layers) {
    json::array list;
    for (const Layer& layer : layers) {
      list.push_back(json::object{{"name", layer.info.name}, {"op", layer.info.op}, {"kernel", layer.info.kernel},
                                  {"outputs", layer.info.outputs}, {"flops", layer.info.flops},
                                  {"ms", layer.milliseconds}});
    }
    report["layers"] = std::move(list);
  }
  flags.output.finish(report);
  if (watch.is_interrupted()) throw ExitCode{watch.exit_code()};
}

}  // namespace

void add_bench_graph(CLI::App& bench) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = bench.add_subcommand("graph", "Measure an ONNX or TFLite model, or a plan");
  command->add_option("model", flags->model, "ONNX or TFLite file, or a plan of `sluice optimize`")->required();
  command->add_option("--shapes", flags->shapes, "shapes of inputs, such as input:8x3x224x224,mask:8x128")
      ->type_name("SHAPES")->allow_extra_args(false);
  add_graph_flags(*command, flags->graph);
  command->add_option("--warm-up", flags->warm_up_ms, "milliseconds before runs count")
      ->check(CLI::Range(0.0, 3.6e6))->capture_default_str();
  command->add_option("--duration", flags->duration_s, "seconds to measure, at least")
      ->check(CLI::Range(0.0, 3.6e4))->capture_default_str();
  command->add_option("--iterations", flags->iterations, "runs to measure, at least")
      ->check(whole_number(1, 1'000'000'000))->capture_default_str();
  command->add_flag("--layers", flags->layers, "the time of each step of the program");
  command->add_option("--trace", flags->trace, "write the steps of a run as a trace for Perfetto to this file")
      ->type_name("FILE");
  add_bench_output_flags(*command, flags->output);
  command->footer("`sluice bench model.onnx` is the same as `sluice bench graph model.onnx`. Dimensions that neither\n"
                  "the model nor --shapes tells are 1; floats are random numbers from [0, 1), integers are 1.\n"
                  "Example:\n"
                  "  sluice bench resnet50.onnx --shapes input:8x3x224x224 --layers");
  command->callback([flags] { run(*flags); });
}

}  // namespace sluice::cli
