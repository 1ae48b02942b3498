// A graph from the command line: the model or plan, and how it is to run.
#pragma once

#include <CLI/CLI.hpp>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "graph/executor.h"

namespace sluice::cli {

struct GraphFlags {
  int threads = 0;
  std::string precision = "fp32";
  bool no_tuning = false;
  std::vector<std::string> disabled;
};
// --threads, --precision, --no-tuning, --disable-pass.
void add_graph_flags(CLI::App& command, GraphFlags& flags);

struct LoadedGraph {
  std::shared_ptr<graph::Shared> shared;
  graph::Executor::Options options;
  std::string numbers;  // what it computes with, for people: "fp32", "bf16", "fp16 weights", "int8"
};
// Reads and optimises a model, or loads a plan. Throws Error.
LoadedGraph load_graph(const std::string& path, const GraphFlags& flags);

// The shapes that --shapes tells; without any those that a plan was tuned for. Throws UsageError.
std::map<std::string, graph::Shape> find_shapes(const LoadedGraph& loaded, const std::vector<std::string>& texts);
// Whether there is a size that neither the model nor those shapes tell.
bool has_guessed_sizes(const graph::Graph& graph, const LoadedGraph& loaded, const std::vector<std::string>& texts);

// Whether a path is that of a graph and not of a language model: by its name.
bool is_graph_path(const std::string& path);
// For commands of language models. Throws UsageError if the path is a graph's, saying what takes it.
void refuse_graph(const std::string& path, const std::string& command);

}  // namespace sluice::cli
