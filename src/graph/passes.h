// Rewrites of a graph that keep what it computes: an ordered list, each pass a file in passes/.
//
// A pass takes a graph with inferred types and leaves one with inferred types; it does not look into bodies, for
// optimise() brings these to it too. Passes know no shapes but what infer() says, so that they hold for every size
// that the model takes. Any pass can be left out (--disable-pass) and looked at (`sluice dump --after`).
#pragma once

#include <span>
#include <string>
#include <vector>

#include "graph/ir.h"

namespace sluice::graph {

struct Pass {
  const char* name;         // "fold-constants"
  const char* meaning;      // a line for --help and docs
  bool (*run)(Graph& graph);  // true if it changed something
};

// In the order in which they run.
std::span<const Pass> list_passes();

struct OptimiseOptions {
  std::vector<std::string> disabled;     // names of passes that do not run
  std::string stop_after;                // the last pass that runs; empty: all of them
};

// Runs the passes over the graph and the bodies in it. Throws Error for a name that is no pass.
void optimise(Model& model, const OptimiseOptions& options = {});

// What passes need. A use is an input of a node, a capture of a body, or an output of the graph.

// Every use of `from` becomes one of `to`.
void replace_uses(Graph& graph, ValueId from, ValueId to);
// How often each value is used.
std::vector<int> count_uses(const Graph& graph);
// Calls body(id) for each value that the node reads, its bodies' captures included.
template <typename Body>
void for_each_use(const Node& node, Body&& body) {
  for (const ValueId id : node.inputs) {
    if (id != kNoValue) body(id);
  }
  for (const auto& [name, attribute] : node.attributes) {
    for (const auto& graph : attribute.graphs) {
      for (const Capture& capture : graph->captures) body(capture.outer);
    }
  }
}
// The node that makes a value: its index in graph.nodes, -1 for inputs, constants and captures.
std::vector<int> find_makers(const Graph& graph);
// Null if the value is not known before run time: a constant, but not the default of an input.
const Tensor* find_constant(const Graph& graph, ValueId id);
bool is_input(const Graph& graph, ValueId id);
bool is_output(const Graph& graph, ValueId id);
// Takes the marked nodes out.
void remove_nodes(Graph& graph, const std::vector<bool>& is_dead);

namespace passes {
bool fold_constants(Graph& graph);
bool remove_identities(Graph& graph);
bool merge_common(Graph& graph);
bool remove_dead(Graph& graph);
}  // namespace passes

}  // namespace sluice::graph
