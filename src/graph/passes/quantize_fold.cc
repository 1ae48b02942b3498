// fold-dequantized: weights of 8 bits that no product takes as integers become floats once, at load.
//
// fold-constants leaves them alone, so that fuse-qdq sees them; this pass comes behind it. They are four times as large
// afterwards, which counts as what constants may grow by: without room they are dequantised in every run.
#include <memory>

#include "graph/executor.h"
#include "graph/passes/quantize_match.h"

namespace sluice::graph::passes {
namespace {

std::optional<Tensor> evaluate_node(const Graph& graph, const Node& node, ThreadPool& pool) {
  std::vector<const Value*> inputs;
  for (const ValueId id : node.inputs) inputs.push_back(id == kNoValue ? nullptr : &*graph.value(id).constant);
  try {
    return evaluate(node, inputs, pool)[0].tensor;
  } catch (const Error&) {
    return std::nullopt;  // it is told when it is reached
  }
}

}  // namespace

bool is_quantised_constant(const Graph& graph, const Node& node) {
  return node.op_type == "DequantizeLinear" && !node.inputs.empty() && node.inputs[0] != kNoValue &&
         is_byte(graph.value(node.inputs[0]).type.element);
}

bool fold_dequantised(Graph& graph, PassState& state) {
  ThreadPool pool(1);
  Rewriter rewriter(graph, state);
  for (Node& node : graph.nodes) {
    if (rewriter.skips(node) || !is_quantised_constant(graph, node) || node.outputs.size() != 1) continue;
    const bool is_known = std::all_of(node.inputs.begin(), node.inputs.end(), [&](ValueId id) {
      return id == kNoValue || rewriter.constant(id) != nullptr;
    });
    const Tensor* integers = is_known ? rewriter.constant(node.inputs[0]) : nullptr;
    if (integers == nullptr || !rewriter.take_bytes(integers->count() * 4)) continue;
    std::optional<Tensor> real = evaluate_node(graph, node, pool);
    if (!real) continue;
    const std::string name = graph.value(node.outputs[0]).name;
    rewriter.substitute(node.outputs[0], rewriter.add_constant(std::move(*real), name));
  }
  return rewriter.finish();
}

}  // namespace sluice::graph::passes
