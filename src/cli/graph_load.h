// A graph from the command line: the model or plan, and how it is to run.
#pragma once

#include <CLI/CLI.hpp>

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
};
// Reads and optimises a model, or loads a plan. Throws Error.
LoadedGraph load_graph(const std::string& path, const GraphFlags& flags);

// Whether a path is that of a graph and not of a language model: by its name.
bool is_graph_path(const std::string& path);
// For commands of language models. Throws UsageError if the path is a graph's, saying what takes it.
void refuse_graph(const std::string& path, const std::string& command);

}  // namespace sluice::cli
