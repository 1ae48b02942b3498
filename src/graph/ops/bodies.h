// What If, Loop, Scan and SequenceMap share about the types of what their bodies take and give.
#pragma once

#include "graph/op.h"

namespace sluice::graph::ops {

// What holds for both: dimensions and ranks that differ are unknown. Throws Error if there is no such type.
ValueType join_types(const InferContext& context, int output, const ValueType& a, const ValueType& b);
// True if they are the same, dimension by dimension.
bool are_equal(const ValueType& a, const ValueType& b);
// Throws Error unless the body has so many inputs and outputs.
void check_body(const Node& node, const Graph& body, int64_t num_inputs, int64_t num_outputs);
// Levels of bodies inside this one; 0 if there are none.
int depth_of(const Graph& body);

}  // namespace sluice::graph::ops
