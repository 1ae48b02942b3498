// One node on values: what the executor does where no kernel was made, and passes do with constants.
#pragma once

#include <span>
#include <vector>

#include "graph/op.h"

namespace sluice::graph {

// Asks infer(), allocates what it told, runs. `outputs` has room for at least kMinOutputs. Throws Error.
void run_op(const Node& node, std::span<const Value* const> inputs, std::span<Value> outputs,
            const RunContext::Environment& environment);

// The same where the types of the outputs are known: `types` is what infer() says, with all dimensions known. Outputs
// that are there already are written to, unless the operator makes its own; others are allocated.
void run_op_typed(const Node& node, std::span<const Value* const> inputs, std::span<Value> outputs,
                  std::span<const ValueType> types, const RunContext::Environment& environment);

// "float32 [1 x 3]" of a value that is there.
ValueType type_of_value(const Value& value);

}  // namespace sluice::graph
