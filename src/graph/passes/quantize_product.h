// sluice.QConv and sluice.QMatMul as nodes that passes make (ops/qfused.cc says what they compute).
#pragma once

#include "graph/passes/quantize_match.h"

namespace sluice::graph::passes {

enum ProductInput : size_t {
  kProductX, kProductXScale, kProductXZero, kProductW, kProductWScale, kProductWZero, kProductB, kProductZ,
  kProductZScale, kProductZZero, kProductYScale, kProductYZero
};

inline bool is_product(const Node& node) {
  return node.domain == kSluice && (node.op_type == "QConv" || node.op_type == "QMatMul");
}
inline bool has_product_input(const Node& node, ProductInput input) {
  return node.inputs.size() > input && node.inputs[input] != kNoValue;
}
// Of a node that is not in the graph yet.
inline void set_product_input(Node& node, ProductInput input, ValueId id) {
  if (node.inputs.size() <= input) node.inputs.resize(input + 1, kNoValue);
  node.inputs[input] = id;
}
// x has one scale, w one or one for each output channel. Constant weights of uint8 become int8, zero point and all.
void set_operands(Rewriter& rewriter, Node& node, const Quantised& x, const Quantised& w);

}  // namespace sluice::graph::passes
