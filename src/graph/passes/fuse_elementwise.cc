// fuse-elementwise: what is left of operators that work by the element is computed in one go, as sluice.Elementwise.
//
// A group grows backwards from its last node: a node joins if all that read it are in the group and what it makes has
// the very shape of the group's result, so that nothing is computed more often than before; what is smaller and
// broadcasts, or has other readers, is an input. f32 only; casts and integers stay outside, conditions may come from
// there. A BatchNormalization with known numbers takes part as a product and a sum. This runs when nothing else finds
// anything to do, for inside a program no pattern is seen any more.
#include <cmath>
#include <queue>
#include <set>

#include <fmt/format.h>

#include "graph/ops/elementwise_program.h"
#include "graph/passes/match.h"

namespace sluice::graph::passes {
namespace {

using ops::ElementwiseProgram;
constexpr size_t kMaxGroup = 24;  // nodes
constexpr size_t kMaxOperands = 12;

bool is_constant_norm(const Rewriter& rewriter, const Node& node) {
  if (node.op_type != "BatchNormalization" || node.outputs.size() != 1 || node.opset < 7) return false;
  if (node.get_int("training_mode", 0) != 0 || !rewriter.has_rank(node.inputs[0])) return false;
  const auto channels = rewriter.known_dim(node.inputs[0], 1);
  for (size_t i = 1; i < 5; ++i) {
    const Tensor* tensor = rewriter.f32_constant(node.inputs[i]);
    if (tensor == nullptr || tensor->count() != channels) return false;
  }
  return true;
}

// Of two inputs or more, as many steps.
bool is_variadic(const Node& node) { return node.op_type == "Sum" || node.op_type == "Min" || node.op_type == "Max"; }

bool gives_bool(const std::string& op) {
  return op == "Equal" || op == "Less" || op == "LessOrEqual" || op == "Greater" || op == "GreaterOrEqual" ||
         op == "And" || op == "Or" || op == "Not";
}

bool is_bool(const Rewriter& rewriter, ValueId id) {
  return id != kNoValue && rewriter.type(id).is_tensor() && rewriter.type(id).element == ElementType::kBool;
}

// Whether the node can be steps of a program.
bool can_join(const Rewriter& rewriter, const Node& node) {
  if (rewriter.skips(node) || !node.domain.empty() || node.outputs.size() != 1 || node.opset < 7) return false;
  const ValueId y = node.outputs[0];
  const std::string& op = node.op_type;
  if (!rewriter.has_rank(y) || !(gives_bool(op) ? is_bool(rewriter, y) : rewriter.is_f32(y))) return false;
  if (op == "BatchNormalization") return is_constant_norm(rewriter, node);
  if (op == "Pow") {
    const auto power = rewriter.scalar(node.inputs[1]);
    return rewriter.is_f32(node.inputs[0]) && rewriter.constant(node.inputs[1]) != nullptr &&
           rewriter.constant(node.inputs[1])->rank() <= rewriter.rank(y) && (power == 2.0 || power == 0.5);
  }
  if (op == "Clip") return find_activation(rewriter, node).has_value();
  const size_t num_operands =
      op == "Sum" || op == "Gelu" ? 1 : static_cast<size_t>(ElementwiseProgram::num_operands(op));
  if (num_operands == 0) return false;
  const bool takes_numbers = op == "LeakyRelu" || op == "Elu" || op == "Swish" || op == "HardSigmoid";
  const size_t num_inputs = takes_numbers || op == "Gelu" ? 1 : num_operands;
  if (is_variadic(node) ? node.inputs.empty() || node.inputs.size() > 4 : node.inputs.size() != num_inputs)
    return false;
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    const ValueId id = node.inputs[i];
    const bool wants_bool = op == "Not" || op == "And" || op == "Or" || (op == "Where" && i == 0);
    if (!(wants_bool ? is_bool(rewriter, id) : rewriter.is_f32(id))) return false;
    if (rewriter.has_rank(id) && rewriter.rank(id) > rewriter.rank(y)) return false;
  }
  return true;
}

class Group {
 public:
  Group(Rewriter& rewriter, Node& root) : rewriter_(rewriter), root_(root), dims_(rewriter.dims(root.outputs[0])) {}

  bool run() {
    gather();
    if (nodes_.size() < 2) return false;
    for (Node* node : nodes_) {  // in the order of the graph: by address
      if (!write(*node)) return false;
    }
    if (steps_.size() > ElementwiseProgram::kMaxSteps || inputs_.size() > kMaxOperands || inputs_.empty()) return false;
    if (!gives_result()) return false;
    add_constants();
    Node made = make_node(kSluice, "Elementwise", 1, root_, inputs_);
    made.attributes["program"] = make_strings(steps_);
    rewriter_.replace(root_, std::move(made));
    return true;
  }

 private:
  void gather() {
    std::priority_queue<Node*> candidates;  // the last one in the graph first: all its readers have been asked by then
    auto add_producers = [&](const Node& node) {
      for (const ValueId id : node.inputs) {
        Node* before = rewriter_.producer(id);
        if (before != nullptr && !rewriter_.is_inserted(*before)) candidates.push(before);
      }
    };
    nodes_.insert(&root_);
    add_producers(root_);
    while (!candidates.empty() && nodes_.size() < kMaxGroup) {
      Node* node = candidates.top();
      candidates.pop();
      if (nodes_.contains(node) || !can_join(rewriter_, *node)) continue;
      const ValueId y = node->outputs[0];
      if (rewriter_.is_output(y) || !(rewriter_.dims(y) == dims_)) continue;
      const std::vector<Node*> users = rewriter_.users(y);
      const bool is_ours = std::all_of(users.begin(), users.end(), [&](Node* user) { return nodes_.contains(user); });
      if (!is_ours) continue;
      nodes_.insert(node);
      add_producers(*node);
    }
  }

  // Whether the inputs, broadcast, give the shape of the result.
  bool gives_result() const {
    for (const ValueId id : inputs_) {
      if (id != kNoValue && rewriter_.has_rank(id) && rewriter_.dims(id) == dims_) return true;
    }
    // Not one has it: then dimension by dimension.
    std::vector<bool> is_given(dims_.size(), false);
    for (const ValueId id : inputs_) {
      if (id == kNoValue || !rewriter_.has_rank(id)) continue;
      const Dims& dims = rewriter_.dims(id);
      for (size_t i = 0; i < dims.size() && dims.size() <= dims_.size(); ++i) {
        const size_t at = dims_.size() - dims.size() + i;
        if (dims[i] == dims_[at]) is_given[at] = true;
      }
    }
    return std::all_of(is_given.begin(), is_given.end(), [](bool given) { return given; });
  }

  std::string number(double value) const { return fmt::format("={}", static_cast<float>(value)); }

  std::string operand(ValueId id) {
    if (const auto found = values_.find(id); found != values_.end()) return found->second;
    if (const Tensor* tensor = rewriter_.constant(id);
        tensor != nullptr && tensor->count() == 1 && tensor->type() == ElementType::kF32) {
      return number(tensor->data<float>()[0]);
    }
    auto at = std::find(inputs_.begin(), inputs_.end(), id);
    if (at == inputs_.end()) at = inputs_.insert(inputs_.end(), id);
    return fmt::format("x{}", at - inputs_.begin());
  }

  std::string add_step(const std::string& step) {
    steps_.push_back(step);
    return fmt::format("t{}", steps_.size() - 1);
  }

  bool write(const Node& node) {
    const std::string& op = node.op_type;
    const std::string x = operand(node.inputs[0]);
    std::string& y = values_[node.outputs[0]];
    if (op == "BatchNormalization") {
      y = write_norm(node, x);
    } else if (op == "Pow") {
      y = add_step(rewriter_.scalar(node.inputs[1]) == 2.0 ? fmt::format("Mul {} {}", x, x) : "Sqrt " + x);
    } else if (op == "Sum" || op == "Min" || op == "Max") {
      y = x;
      for (size_t i = 1; i < node.inputs.size(); ++i) {
        y = add_step(fmt::format("{} {} {}", op == "Sum" ? "Add" : op, y, operand(node.inputs[i])));
      }
    } else if (const auto activation = find_activation(rewriter_, node)) {
      std::string step = activation->name + " " + x;
      for (const float parameter : activation->parameters) step += " " + number(parameter);
      y = add_step(step);
    } else {
      std::string step = op + " " + x;
      for (size_t i = 1; i < node.inputs.size(); ++i) step += " " + operand(node.inputs[i]);
      y = add_step(step);
    }
    return y[0] == 't';
  }

  // Two constants of the shape [channels, 1, ...], made when the group is.
  std::string write_norm(const Node& node, const std::string& x) {
    auto numbers = [&](size_t i) { return rewriter_.f32_constant(node.inputs[i])->values<float>(); };
    const auto scale = numbers(1), bias = numbers(2), mean = numbers(3), variance = numbers(4);
    const double epsilon = node.get_float("epsilon", 1e-5f);
    Shape shape{static_cast<int64_t>(scale.size())};
    for (size_t i = 2; i < dims_.size(); ++i) shape.push_back(1);
    Tensor factor(ElementType::kF32, shape), shift(ElementType::kF32, shape);
    for (size_t c = 0; c < scale.size(); ++c) {
      const double by = scale[c] / std::sqrt(variance[c] + epsilon);
      factor.data<float>()[c] = static_cast<float>(by);
      shift.data<float>()[c] = static_cast<float>(bias[c] - by * mean[c]);
    }
    const std::string product = add_step(fmt::format("Mul {} {}", x, promise(std::move(factor))));
    return add_step(fmt::format("Add {} {}", product, promise(std::move(shift))));
  }

  std::string promise(Tensor tensor) {
    constants_.emplace_back(inputs_.size(), std::move(tensor));
    inputs_.push_back(kNoValue);
    return fmt::format("x{}", inputs_.size() - 1);
  }

  void add_constants() {
    const std::string name = rewriter_.graph().value(root_.outputs[0]).name + "/norm";
    for (auto& [input, tensor] : constants_) inputs_[input] = rewriter_.add_constant(std::move(tensor), name);
  }

  Rewriter& rewriter_;
  Node& root_;
  const Dims dims_;
  std::set<Node*> nodes_;
  std::vector<ValueId> inputs_;
  std::vector<std::string> steps_;
  std::map<ValueId, std::string> values_;
  std::vector<std::pair<size_t, Tensor>> constants_;
};

}  // namespace

bool fuse_elementwise(Graph& graph, PassState& state) {
  Rewriter rewriter(graph, state);
  for (size_t n = graph.nodes.size(); n-- > 0;) {  // from the end: the last node of a group finds it
    Node& node = graph.nodes[n];
    if (!can_join(rewriter, node) || !rewriter.is_f32(node.outputs[0])) continue;
    if (rewriter.num_uses(node.outputs[0]) > 0) Group(rewriter, node).run();
  }
  return rewriter.finish();
}

}  // namespace sluice::graph::passes
