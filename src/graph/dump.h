// A graph as text, one line a node, for people and for the tests of passes.
#pragma once

#include <string>

#include "graph/ir.h"

namespace sluice::graph {

// Inputs, constants, nodes in order, outputs; bodies indented below their node.
std::string dump(const Graph& graph);

}  // namespace sluice::graph
