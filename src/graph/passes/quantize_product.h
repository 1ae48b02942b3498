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
// x has one scale, w one or one for each output channel.
inline void set_operands(Rewriter& rewriter, Node& node, const Quantised& x, const Quantised& w) {
  set_product_input(node, kProductX, x.integers);
  set_product_input(node, kProductXScale, x.scale);
  set_product_input(node, kProductXZero, get_zero(rewriter, x));
  set_product_input(node, kProductW, w.integers);
  set_product_input(node, kProductWScale, w.scale);
  set_product_input(node, kProductWZero, get_zero(rewriter, w));
}

}  // namespace sluice::graph::passes
