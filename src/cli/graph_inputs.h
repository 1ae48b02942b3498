// Shapes of a graph's inputs as people write them, and inputs of such shapes.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "graph/ir.h"

namespace sluice::cli {

// "input:8x3x224x224,mask:8x128", several of them; "name:" alone is a scalar. Throws UsageError naming `option`.
std::map<std::string, graph::Shape> parse_shapes(const std::vector<std::string>& texts, const std::string& option);

// Throws Error for a name that is no input, and for a rank that the input has not.
void check_shapes(const graph::Graph& graph, const std::map<std::string, graph::Shape>& shapes);

// Numbers for every input that has no default: floats drawn from [0, 1), integers and bools 1. Dimensions that neither
// the model nor `shapes` tells are 1, and symbols that a shape tells hold for all inputs. Throws Error for a name that
// is no input, and for a shape that the model does not take.
std::vector<graph::Value> make_inputs(const graph::Graph& graph, const std::map<std::string, graph::Shape>& shapes,
                                      uint64_t seed = 1);

// "input float32 1x3x224x224, mask int64 1x128"
std::string describe_inputs(const graph::Graph& graph, const std::vector<graph::Value>& inputs);

}  // namespace sluice::cli
