#include "cli/graph_load.h"

#include <fmt/format.h>

#include "base/thread_pool.h"
#include "cli/commands.h"
#include "cli/graph_flags.h"
#include "graph/import_model.h"
#include "graph/passes.h"
#include "graph/plan_file.h"

namespace sluice::cli {

void add_graph_flags(CLI::App& command, GraphFlags& flags) {
  command.add_option("-t,--threads", flags.threads, "threads that compute (default: one for each core)")
      ->check(CLI::Range(1, 1024));
  command.add_option("--precision", flags.precision, "of products: fp32, or bf16")
      ->check(CLI::IsMember({"fp32", "bf16"}))->capture_default_str();
  command.add_flag("--no-tuning", flags.no_tuning, "choose kernels without measuring them");
  add_disable_pass(command, flags.disabled);
}

LoadedGraph load_graph(const std::string& path, const GraphFlags& flags) {
  LoadedGraph loaded;
  graph::Executor::Options& options = loaded.options;
  if (graph::is_plan(path)) {
    if (!flags.disabled.empty() || flags.precision != "fp32" || flags.no_tuning) {
      throw UsageError{path + " is a plan: --precision, --no-tuning and --disable-pass belong to `sluice optimize`"};
    }
    graph::Plan plan = graph::load_plan(path);
    options.num_threads = flags.threads > 0 ? flags.threads : plan.info.num_threads;
    options.precision = plan.info.precision;
    options.tuning = graph::Tuning::kKnown;
    options.disabled_passes = plan.info.disabled_passes;
    loaded.shared = std::move(plan.shared);
    return loaded;
  }
  options.num_threads = flags.threads > 0 ? flags.threads : num_available_cores();
  options.precision = graph::parse_precision(flags.precision);
  options.tuning = flags.no_tuning ? graph::Tuning::kNone : graph::Tuning::kMeasure;
  options.disabled_passes = resolve_disabled(flags.disabled);
  auto model = std::make_shared<graph::Model>(graph::import_model(path));
  graph::optimise(*model, {.disabled = options.disabled_passes, .stop_after = {}});
  loaded.shared = std::make_shared<graph::Shared>();
  loaded.shared->model = std::move(model);
  return loaded;
}

bool is_graph_path(const std::string& path) {
  return path.ends_with(".onnx") || path.ends_with(".tflite") || path.ends_with(".plan");
}

void refuse_graph(const std::string& path, const std::string& command) {
  if (!is_graph_path(path)) return;
  const char* kind = path.ends_with(".plan") ? "a plan" : path.ends_with(".onnx") ? "an ONNX model" : "a TFLite model";
  throw UsageError{fmt::format("{} is {}, and `sluice {}` is for language models: `sluice bench`, `sluice verify`, "
                               "`sluice dump` and `sluice optimize` take it", path, kind, command)};
}

}  // namespace sluice::cli
