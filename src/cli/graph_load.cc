#include "cli/graph_load.h"

#include <set>

#include <fmt/format.h>

#include "base/thread_pool.h"
#include "cli/commands.h"
#include "cli/graph_flags.h"
#include "cli/graph_inputs.h"
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

namespace {

std::string describe_numbers(const graph::Model& model, const graph::Executor::Options& options) {
  for (const graph::Node& node : model.graph.nodes) {
    if (node.op_type == "QConv" || node.op_type == "QMatMul") return "int8";
  }
  return graph::name(options.precision);
}

}  // namespace

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
    loaded.numbers = plan.info.stores_halves ? "fp16 weights" : describe_numbers(*loaded.shared->model, options);
    return loaded;
  }
  options.num_threads = flags.threads > 0 ? flags.threads : num_available_cores();
  options.precision = graph::parse_precision(flags.precision);
  options.tuning = flags.no_tuning ? graph::Tuning::kNone : graph::Tuning::kMeasure;
  options.disabled_passes = resolve_disabled(flags.disabled);
  auto model = std::make_shared<graph::Model>(graph::import_model(path));
  graph::optimise(*model, {.disabled = options.disabled_passes, .stop_after = {}});
  loaded.shared = std::make_shared<graph::Shared>();
  loaded.numbers = describe_numbers(*model, options);
  loaded.shared->model = std::move(model);
  return loaded;
}

std::map<std::string, graph::Shape> find_shapes(const LoadedGraph& loaded, const std::vector<std::string>& texts) {
  if (texts.empty() && !loaded.shared->profiles.empty()) return loaded.shared->profiles[0].opt;
  return parse_shapes(texts, "--shapes");
}

bool has_guessed_sizes(const graph::Graph& graph, const LoadedGraph& loaded, const std::vector<std::string>& texts) {
  const auto shapes = find_shapes(loaded, texts);
  std::set<std::string> told;
  for (const bool adds : {true, false}) {  // symbols that a shape tells hold for other inputs too
    for (const graph::ValueId id : graph.inputs) {
      const graph::GraphValue& input = graph.value(id);
      if (!input.type.has_rank() || input.constant) continue;
      const bool is_told = shapes.contains(input.name);
      for (const graph::Dim& dim : *input.type.dims) {
        if (dim.is_known()) continue;
        if (adds && is_told) told.insert(dim.to_string());
        if (!adds && !is_told && !told.contains(dim.to_string())) return true;
      }
    }
  }
  return false;
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
