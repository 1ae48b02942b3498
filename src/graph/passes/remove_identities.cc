// remove-identities: nodes whose output is their input, for every value of it.
//
// Identity, Dropout of a model that is served, Cast to the type that is there, Reshape, Expand, Tile, Slice, Pad,
// Transpose and Concat that change nothing, and arithmetic with a neutral constant (x + 0 only where x is no float, for
// -0 + 0 is 0).
#include <algorithm>
#include <cmath>

#include "graph/op.h"
#include "graph/passes.h"

namespace sluice::graph::passes {
namespace {

// For every value of the symbols.
bool has_same_shape(const ValueType& a, const ValueType& b) {
  return a.is_tensor() && b.is_tensor() && a.element == b.element && a.dims && b.dims && *a.dims == *b.dims;
}

bool all_equal(const Tensor* tensor, double value) {
  if (tensor == nullptr) return false;
  bool is_equal = false;
  dispatch_numbers(tensor->type(), [&](auto zero) {
    using T = decltype(zero);
    const auto values = tensor->values<T>();
    is_equal = std::all_of(values.begin(), values.end(), [&](T element) {
      const double x = static_cast<double>(element);
      return x == value && !std::signbit(x);  // x - (-0) turns -0 into 0
    });
  });
  return is_equal;
}

// The same shape, but perhaps the other way round.
bool keeps_order(const Graph& graph, const std::vector<bool>& is_input, const Node& node) {
  if (node.inputs.size() < 5 || node.inputs[4] == kNoValue) return true;
  return all_equal(find_constant(graph, is_input, node.inputs[4]), 1);
}

// The same shape, but perhaps shifted: one side may lose what the other gets.
bool pads_nothing(const Graph& graph, const std::vector<bool>& is_input, const Node& node) {
  if (node.opset >= 11) {
    return node.inputs.size() >= 2 && all_equal(find_constant(graph, is_input, node.inputs[1]), 0);
  }
  const std::vector<int64_t> pads = node.get_ints(node.opset < 2 ? "paddings" : "pads");
  return std::all_of(pads.begin(), pads.end(), [](int64_t pad) { return pad == 0; });
}

// The input that is the output, or -1.
int find_same(const Graph& graph, const std::vector<bool>& is_input, const Node& node) {
  if (node.inputs.empty() || node.inputs[0] == kNoValue || !node.domain.empty()) return -1;
  const std::string& op = node.op_type;
  const ValueType& from = graph.value(node.inputs[0]).type;
  const ValueType& to = graph.value(node.outputs[0]).type;
  const bool has_others = std::any_of(node.outputs.begin() + 1, node.outputs.end(),
                                      [](ValueId id) { return id != kNoValue; });
  if (has_others) return -1;
  if (op == "Identity") return 0;
  if (op == "Dropout") {
    if (node.opset < 12) return 0;
    if (node.inputs.size() < 3 || node.inputs[2] == kNoValue) return 0;
    const Tensor* is_training = find_constant(graph, is_input, node.inputs[2]);
    if (is_training == nullptr || is_training->type() != ElementType::kBool || is_training->count() != 1) return -1;
    return *is_training->data<bool>() ? -1 : 0;
  }
  if (op == "Cast") {
    return from.is_tensor() && from.element != ElementType::kUndefined && from.element == to.element ? 0 : -1;
  }
  if (op == "Concat" || op == "Sum" || op == "Mean" || op == "Max" || op == "Min") {
    return node.inputs.size() == 1 ? 0 : -1;
  }
  if (op == "Reshape" || op == "Expand" || op == "Tile" || op == "Flatten" || op == "Squeeze" || op == "Unsqueeze") {
    return has_same_shape(from, to) ? 0 : -1;
  }
  if (op == "Slice") return has_same_shape(from, to) && keeps_order(graph, is_input, node) ? 0 : -1;
  if (op == "Pad") return has_same_shape(from, to) && pads_nothing(graph, is_input, node) ? 0 : -1;
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
    if (other == kNoValue || !has_same_shape(graph.value(other).type, to)) return false;
    return all_equal(find_constant(graph, is_input, node.inputs[static_cast<size_t>(constant)]), value);
  };
  if (op == "Mul") return is_neutral(1, 1) ? 0 : is_neutral(0, 1) ? 1 : -1;
  if (op == "Div" || op == "Pow") return is_neutral(1, 1) ? 0 : -1;
  if (op == "Sub") return is_neutral(1, 0) ? 0 : -1;
  if (op == "Add" && is_integer(to.element)) return is_neutral(1, 0) ? 0 : is_neutral(0, 0) ? 1 : -1;
  return -1;
}

}  // namespace

bool remove_identities(Graph& graph, PassState&) {
  const std::vector<bool> is_input = mark_inputs(graph);
  Replacements replacements(graph);
  std::vector<bool> is_dead(graph.nodes.size(), false);
  bool has_changed = false;
  for (size_t n = 0; n < graph.nodes.size(); ++n) {
    Node& node = graph.nodes[n];
    replacements.apply(node);
    if (node.outputs.empty() || node.outputs[0] == kNoValue) continue;
    const int same = find_same(graph, is_input, node);
    if (same < 0) continue;
    replacements.add(node.outputs[0], node.inputs[static_cast<size_t>(same)]);
    is_dead[n] = has_changed = true;
  }
  replacements.apply_to_outputs(graph);
  remove_nodes(graph, is_dead);
  return has_changed;
}

}  // namespace sluice::graph::passes
