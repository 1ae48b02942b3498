// Types and shapes of all values of a graph, as far as they can be known before it runs: each node's infer() in order.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "graph/ir.h"

namespace sluice::graph {

// What becomes of GraphValue::declared.
enum class Declarations : uint8_t {
  kFill,    // it says what could not be inferred: for people, and for a rough idea of sizes
  kIgnore,  // what is inferred holds whatever the file says, so that a rewrite may rely on it
};

// Writes the types of node outputs; those of inputs and constants stay. What is wrong is added to `problems`, one line
// each, and the outputs of that node stay unknown.
void infer_types(Graph& graph, std::vector<std::string>& problems, Declarations declarations = Declarations::kFill);
// The nodes of the graph itself, not of bodies, for which there is no type: by their index, and what is wrong. Nodes
// with bodies are left out, for a branch that is never taken may be what is wrong.
std::vector<std::pair<size_t, std::string>> infer_proven_types(Graph& graph);

}  // namespace sluice::graph
