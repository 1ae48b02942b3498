// Types and shapes of all values of a graph, as far as they can be known before it runs: each node's infer() in order.
#pragma once

#include <string>
#include <vector>

#include "graph/ir.h"

namespace sluice::graph {

// Writes the types of node outputs; those of inputs and constants stay. What is wrong is added to `problems`, one line
// each, and the outputs of that node stay unknown. Values that are declared to be more than can be inferred keep what
// the file says of them.
void infer_types(Graph& graph, std::vector<std::string>& problems);

}  // namespace sluice::graph
