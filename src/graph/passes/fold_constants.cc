// fold-constants: a node whose inputs are all known is run now, and its outputs become constants.
//
// Not for random numbers, not for bodies, and not where a small input makes a large output (a constant that is spread
// to megabytes is cheaper to make again than to read and to store).
#include <algorithm>

#include "base/error.h"
#include "graph/executor.h"
#include "graph/passes.h"

namespace sluice::graph::passes {
namespace {

constexpr int64_t kMaxGrowth = 1 << 20;  // bytes that outputs may have more than inputs

bool has_body(const Node& node) {
  return std::any_of(node.attributes.begin(), node.attributes.end(), [](const auto& entry) { return !entry.second.graphs.empty(); });
}

int64_t bytes_of(const ValueType& type) {
  if (!type.is_tensor() || !type.dims) return 0;
  const Dim count = product(*type.dims);
  return count.is_known() ? count.value() * get_info(type.element).bytes : 0;
}

}  // namespace

bool fold_constants(Graph& graph) {
  ThreadPool pool(1);
  std::vector<bool> is_dead(graph.nodes.size(), false);
  std::vector<bool> is_known(graph.values.size());
  for (size_t id = 0; id < graph.values.size(); ++id) {
    is_known[id] = graph.values[id].constant && !is_input(graph, static_cast<ValueId>(id));
  }
  bool has_changed = false;
  for (size_t n = 0; n < graph.nodes.size(); ++n) {
    const Node& node = graph.nodes[n];
    const bool can_fold = (node.op->flags & OpInfo::kImpure) == 0 && !has_body(node) &&
                          std::all_of(node.inputs.begin(), node.inputs.end(), [&](ValueId id) { return id == kNoValue || is_known[static_cast<size_t>(id)]; });
    if (!can_fold) continue;
    std::vector<const Value*> inputs;
    int64_t growth = 0;
    for (const ValueId id : node.inputs) {
      inputs.push_back(id == kNoValue ? nullptr : &*graph.value(id).constant);
      if (id != kNoValue) growth -= bytes_of(graph.value(id).type);
    }
    for (const ValueId id : node.outputs) growth += id == kNoValue ? 0 : bytes_of(graph.value(id).type);
    if (growth > kMaxGrowth) continue;
    std::vector<Value> outputs;
    try {
      outputs = evaluate(node, inputs, pool);
    } catch (const Error&) {
      continue;  // it fails when it is reached, if it is
    }
    for (size_t i = 0; i < node.outputs.size(); ++i) {
      const ValueId id = node.outputs[i];
      if (id == kNoValue) continue;
      GraphValue& value = graph.value(id);
      if (outputs[i].kind == Value::Kind::kTensor) {
        value.type = ValueType::tensor(outputs[i].tensor.type(), to_dims(outputs[i].tensor.shape()));
      }
      value.constant = std::move(outputs[i]);
      is_known[static_cast<size_t>(id)] = true;
    }
    is_dead[n] = has_changed = true;
  }
  remove_nodes(graph, is_dead);
  return has_changed;
}

}  // namespace sluice::graph::passes
