// LayerNormalization and RMSNormalization, whose last axes are normalised, and the pieces of them that the fused
// operators of com.microsoft share.
#pragma once

#include <vector>

#include "graph/op.h"

namespace sluice::graph::ops {

// Y as X; Mean and InvStdDev with 1 in place of the normalised dimensions.
void infer_layer_norm(InferContext& context);
void run_layer_norm(RunContext& context);
// Without a mean. The second output, where there is one, is the inverse of the root.
void infer_rms_norm(InferContext& context);
void run_rms_norm(RunContext& context);

}  // namespace sluice::graph::ops
