// Einsum's two functions; its line is in matmul.cc.
#pragma once

#include "graph/op.h"

namespace sluice::graph::ops {

void infer_einsum(InferContext& context);
void run_einsum(RunContext& context);

}  // namespace sluice::graph::ops
