#include "cli/graph_load.h"

#include "base/thread_pool.h"
#include "cli/flags.h"
#include "cli/graph_flags.h"
#include "graph/import_model.h"
#include "graph/passes.h"

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
  options.num_threads = flags.threads > 0 ? flags.threads : num_available_cores();
  options.precision = graph::parse_precision(flags.precision);
  options.measures = !flags.no_tuning;
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

}  // namespace sluice::cli
