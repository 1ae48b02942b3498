// A model of floats to one of 8-bit integers, as QuantizeLinear and DequantizeLinear around what is to be computed on
// integers (QDQ): the form that other runtimes read too. The passes of graph/ make integer products of it.
//
// Quantised are Conv, MatMul and Gemm with constant weights, and between them what would otherwise make floats of the
// integers and integers of the floats again: additions of residuals, pools, products with gates, joins and moves. The
// model should be simplified before (batch normalisation folded into the convolutions).
#pragma once

#include <set>
#include <string>
#include <vector>

#include "graph/ir.h"
#include "optimize/ranges.h"

namespace sluice::optimize {

struct QuantizeOptions {
  // MatMul and Gemm quantise their left operand by its range in each run (DynamicQuantizeLinear); needs no ranges.
  bool is_dynamic = false;
  bool is_symmetric = false;    // activations are int8 around 0; otherwise uint8 with a zero point
  bool is_per_channel = true;   // weights have a scale for each output channel; otherwise one
  bool has_integer_bias = true;  // biases become int32 with the product's scale, which some runtimes insist on
  bool keeps_first = false, keeps_last = false;  // the first or last product stays in floats
  std::vector<std::string> excluded;             // names of nodes, or operators ("Gemm"), that stay in floats
  std::set<size_t> float_nodes;                  // the same by index in graph.nodes
};

// Nodes that would be quantised, by index in graph.nodes. Throws Error for an excluded name that nothing has.
std::vector<size_t> list_quantisable(const graph::Model& model, const QuantizeOptions& options);

// The values whose ranges quantize() may ask for, whatever stays in floats.
std::vector<graph::ValueId> list_observed(const graph::Model& model);

// `ranges` are of this model; a value without a range stays in floats, and what would need it.
graph::Model quantize(const graph::Model& model, const Ranges& ranges, const QuantizeOptions& options);

}  // namespace sluice::optimize
