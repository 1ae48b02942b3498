#include "graph/precision.h"

#include <algorithm>
#include <map>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/thread_pool.h"
#include "graph/op.h"
#include "graph/ops/convert.h"

namespace sluice::graph {
namespace {

using NameSet = std::set<std::string_view>;

// They are what narrow numbers are for.
bool is_product(const Node& node) {
  static const NameSet kNames = {"Conv", "FusedConv", "MatMul", "FusedMatMul", "Gemm"};
  return kNames.contains(node.op_type) && (node.domain.empty() || node.domain == "sluice" || node.domain == kMicrosoft);
}

// They compute in bf16 what comes in bf16: what they lose is no more than what the products around them lose.
bool follows(const Node& node) {
  static const NameSet kNames = {
      "Add", "Attention", "AveragePool", "Clip", "Concat", "Elementwise", "Elu", "Expand", "Flatten", "Gather", "Gelu",
      "GlobalAveragePool", "HardSigmoid", "HardSwish", "Identity", "LayerNormalization", "LeakyRelu", "Max", "MaxPool",
      "Min", "Mish", "Mul", "Pad", "PRelu", "Relu", "Reshape", "Sigmoid", "Slice", "Softmax", "Split", "Squeeze",
      "Sub", "Swish", "Tanh", "Transpose", "Unsqueeze"};
  return kNames.contains(node.op_type) && (node.domain.empty() || node.domain == "sluice");
}

// Inputs that are converted; others (biases, scales, shapes) stay as they are. The operators take both.
bool is_narrowed(const Node& node, size_t input) {
  if (is_product(node)) return input != 2 || node.op_type == "Gemm";
  // A mask's lowest float would round to an infinity, which hides a key for good.
  if (node.op_type == "Attention") return input != 3;
  static const NameSet kFirstOnly = {"Clip", "Expand", "Flatten", "Gather", "LayerNormalization", "Pad", "PRelu",
                                     "Reshape", "Slice", "Split", "Squeeze", "Unsqueeze"};
  return input == 0 || !kFirstOnly.contains(node.op_type);
}

Tensor convert(const Tensor& tensor, ElementType type) {
  Tensor converted(type, tensor.shape());
  ThreadPool pool(1);
  ops::convert_elements(tensor, converted, {}, pool);
  return converted;
}

// Moves what products compute, and what follows them, from one type to another.
class Retyping {
 public:
  Retyping(Graph& graph, PackedWeights& weights, ElementType from, ElementType to)
      : graph_(graph), weights_(weights), from_(from), to_(to) {}

  void run() {
    std::vector<Node> nodes = std::move(graph_.nodes);
    graph_.nodes.clear();
    for (Node& node : nodes) add(std::move(node));
    for (ValueId& id : graph_.outputs) id = as(id, from_);
  }

 private:
  bool is_float_tensor(ValueId id, ElementType element) const {
    if (id == kNoValue) return false;
    const GraphValue& value = graph_.value(id);
    if (value.constant) {
      return value.constant->kind == Value::Kind::kTensor && value.constant->tensor.type() == element;
    }
    return value.type.is_tensor() && value.type.element == element;
  }

  void add(Node node) {
    bool moves = is_product(node);
    if (follows(node)) {
      for (const ValueId id : node.inputs) moves |= moved_.contains(id);
    }
    moves = moves && !node.inputs.empty() &&
            (is_float_tensor(node.inputs[0], from_) || moved_.contains(node.inputs[0]));
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      // Biases and the like may stay wider than the rest, but not narrower.
      const bool wants_new = moves && (to_ == ElementType::kF32 || is_narrowed(node, i));
      if (node.inputs[i] != kNoValue) node.inputs[i] = as(node.inputs[i], wants_new ? to_ : from_);
    }
    for (auto& [name, attribute] : node.attributes) {
      for (auto& body : attribute.graphs) {
        for (Capture& capture : body->captures) capture.outer = as(capture.outer, from_);
      }
    }
    if (moves) {
      // What LayerNormalization tells beside its output is float32 whatever comes in.
      const bool is_norm = node.op_type == "LayerNormalization";
      const size_t num_moved = is_norm ? std::min<size_t>(1, node.outputs.size()) : node.outputs.size();
      for (size_t i = 0; i < num_moved; ++i) {
        const ValueId id = node.outputs[i];
        if (!is_float_tensor(id, from_)) continue;
        graph_.value(id).type.element = to_;
        moved_.insert(id);
      }
    }
    graph_.nodes.push_back(std::move(node));
  }

  // The value in that type, by a Cast if it has the other of the two; what is neither stays.
  ValueId as(ValueId id, ElementType element) {
    const bool has_moved = moved_.contains(id);
    const ElementType now = has_moved ? to_ : from_;
    if (now == element || (!has_moved && !is_float_tensor(id, from_))) return id;
    const auto [found, is_new] = converted_.try_emplace({id, element}, kNoValue);
    if (!is_new) return found->second;
    const GraphValue& from = graph_.value(id);
    ValueType type = from.type;
    type.element = element;
    const std::string name = from.name + "." + graph::name(element);
    if (from.constant) {
      const Tensor& wide = from.constant->tensor;
      Tensor made =
          weights_.get(wide, graph::name(element), element, wide.shape(), [&] { return convert(wide, element); });
      const ValueId to = graph_.add_value(name, ValueType::tensor(element, to_dims(made.shape())));
      graph_.value(to).constant = Value(std::move(made));
      return found->second = to;
    }
    const ValueId to = graph_.add_value(name, std::move(type));
    Node cast{.op_type = "Cast", .name = name, .opset = 13, .inputs = {id}, .outputs = {to}};
    cast.attributes["to"] = {.kind = Attribute::Kind::kInt, .i = static_cast<int64_t>(element)};
    cast.op = find_op("", "Cast", cast.opset);
    graph_.nodes.push_back(std::move(cast));
    return found->second = to;
  }

  Graph& graph_;
  PackedWeights& weights_;
  const ElementType from_, to_;
  std::set<ValueId> moved_;  // what has the other type now
  std::map<std::pair<ValueId, ElementType>, ValueId> converted_;
};

}  // namespace

const char* name(Precision precision) { return precision == Precision::kBF16 ? "bf16" : "fp32"; }

Precision parse_precision(const std::string& text) {
  if (text == "fp32") return Precision::kF32;
  if (text == "bf16") return Precision::kBF16;
  fail(Code::kInvalidArgument, "precision has to be fp32 or bf16, not '{}'", text);
}

void lower_precision(Graph& graph, PackedWeights& weights) {
  Retyping(graph, weights, ElementType::kF32, ElementType::kBF16).run();
}

void widen_halves(Graph& graph, PackedWeights& weights) {
  Retyping(graph, weights, ElementType::kF16, ElementType::kF32).run();
}

}  // namespace sluice::graph
