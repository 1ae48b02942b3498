// Narrower numbers inside a model: bf16 where products are, float32 at its edges.
#pragma once

#include <string>

#include "graph/ir.h"
#include "graph/kernels/kernel.h"

namespace sluice::graph {

enum class Precision : uint8_t { kF32, kBF16 };
const char* name(Precision precision);  // "fp32", "bf16"
// Throws Error.
Precision parse_precision(const std::string& text);

// Rewrites the graph so that what its products, and the elementwise operators, norms and moves between them, compute
// is bf16, constants included; inputs, outputs and everything else stays as it is, with Casts between. Sums inside the
// kernels stay float32. Converted constants are kept in `weights`. REQUIRES: inferred types; leaves new values with
// types.
void lower_precision(Graph& graph, PackedWeights& weights);

// The other way for models of float16, which no kernel computes in: float32 where products are and between them.
void widen_halves(Graph& graph, PackedWeights& weights);

}  // namespace sluice::graph
