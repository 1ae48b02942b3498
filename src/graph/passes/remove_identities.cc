// remove-identities: nodes whose output is their input, for every value of it.
//
// Identity, Dropout of a model that is served, Cast to the type that is there, Reshape, Expand, Tile, Slice, Pad,
// Transpose and Concat that change nothing, and arithmetic with a neutral constant (x + 0 only where x is no float, for
// -0 + 0 is 0).
#include <algorithm>

#include "graph/op.h"
#include "graph/passes.h"

namespace sluice::graph::passes {
namespace {

// Every symbol is the same in both, and there is none that is equal to nothing but itself in one place only.
bool has_same_shape(const ValueType& a, const ValueType& b) {
  return a.is_tensor() && b.is_tensor() && a.element == b.element && a.dims && b.dims && *a.dims == *b.dims;
}

bool all_equal(const Tensor* tensor, double value) {
  if (tensor == nullptr) return false;
  bool is_equal = false;
  dispatch_numbers(tensor->type(), [&](auto zero) {
    using T = decltype(zero);
    const auto values = tensor->values<T>();
    is_equal = std::all_of(values.begin(), values.end(), [&](T x) { return static_cast<double>(x) == value; });
  });
  return is_equal;
}

// The input that is the output, or -1.
int find_same(const Graph& graph, const Node& node) {
  if (node.inputs.empty() || node.inputs[0] == kNoValue || !node.domain.empty()) return -1;
  const std::string& op = node.op_type;
  const ValueType& from = graph.value(node.inputs[0]).type;
  const ValueType& to = graph.value(node.outputs[0]).type;
  const bool has_others = std::any_of(node.outputs.begin() + 1, node.outputs.end(), [](ValueId id) { return id != kNoValue; });
  if (has_others) return -1;
  if (op == "Identity") return 0;
  if (op == "Dropout") {
    if (node.opset < 12) return 0;
    if (node.inputs.size() < 3 || node.inputs[2] == kNoValue) return 0;
    const Tensor* is_training = find_constant(graph, node.inputs[2]);
    return is_training != nullptr && is_training->count() == 1 && !*is_training->data<bool>() ? 0 : -1;
  }
  if (op == "Cast") return from.is_tensor() && from.element != ElementType::kUndefined && from.element == to.element ? 0 : -1;
  if (op == "Concat" || op == "Sum" || op == "Mean" || op == "Max" || op == "Min") return node.inputs.size() == 1 ? 0 : -1;
  if (op == "Reshape" || op == "Expand" || op == "Tile" || op == "Pad" || op == "Flatten") return has_same_shape(from, to) ? 0 : -1;
  if (op == "Squeeze" || op == "Unsqueeze") return has_same_shape(from, to) ? 0 : -1;
  if (op == "Slice") {  // the same shape, but perhaps the other way round
    if (!has_same_shape(from, to)) return -1;
    if (node.inputs.size() < 5 || node.inputs[4] == kNoValue) return 0;
    const Tensor* steps = find_constant(graph, node.inputs[4]);
    return all_equal(steps, 1) ? 0 : -1;
  }
  if (op == "Transpose") {
    const std::vector<int64_t> order = node.get_ints("perm");
    for (size_t i = 0; i < order.size(); ++i) {
      if (order[i] != static_cast<int64_t>(i)) return -1;
    }
    return !order.empty() || (from.dims && from.dims->size() <= 1) ? 0 : -1;
  }
  if (node.inputs.size() != 2) return -1;
  auto is_neutral = [&](int constant, double value) {
    const ValueId other = node.inputs[static_cast<size_t>(1 - constant)];
    return other != kNoValue && all_equal(find_constant(graph, node.inputs[static_cast<size_t>(constant)]), value) &&
           has_same_shape(graph.value(other).type, to);
  };
  if (op == "Mul") return is_neutral(1, 1) ? 0 : is_neutral(0, 1) ? 1 : -1;
  if (op == "Div" || op == "Pow") return is_neutral(1, 1) ? 0 : -1;
  if (op == "Sub") return is_neutral(1, 0) ? 0 : -1;
  if (op == "Add" && is_integer(to.element)) return is_neutral(1, 0) ? 0 : is_neutral(0, 0) ? 1 : -1;
  return -1;
}

}  // namespace

bool remove_identities(Graph& graph) {
  std::vector<bool> is_dead(graph.nodes.size(), false);
  bool has_changed = false;
  for (size_t n = 0; n < graph.nodes.size(); ++n) {
    const Node& node = graph.nodes[n];
    if (node.outputs.empty() || node.outputs[0] == kNoValue) continue;
    const int same = find_same(graph, node);
    if (same < 0) continue;
    replace_uses(graph, node.outputs[0], node.inputs[static_cast<size_t>(same)]);
    is_dead[n] = has_changed = true;
  }
  remove_nodes(graph, is_dead);
  return has_changed;
}

}  // namespace sluice::graph::passes
