#include "optimize/quantize.h"

#include <algorithm>
#include <map>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "graph/infer.h"
#include "optimize/quantize_numbers.h"
#include "optimize/quantize_plan.h"

namespace sluice::optimize {
namespace {

using graph::Attribute;
using graph::ElementType;
using graph::Graph;
using graph::kNoValue;
using graph::Node;
using graph::Tensor;
using graph::ValueId;
using graph::ValueType;

Node make_node(const char* domain, const char* op, int opset, const std::string& name, std::vector<ValueId> inputs,
               std::vector<ValueId> outputs) {
  Node node;
  node.domain = domain;
  node.op_type = op;
  node.opset = opset;
  node.name = name;
  node.inputs = std::move(inputs);
  node.outputs = std::move(outputs);
  node.op = graph::find_op(domain, op, opset);
  CHECK(node.op != nullptr, domain, op);
  return node;
}

class Quantizer {
 public:
  Quantizer(const graph::Model& model, const Ranges& ranges, const QuantizeOptions& options)
      : view_(model.graph),
        ranges_(ranges),
        options_(options),
        model_(graph::copy_model(model)),
        graph_(model_.graph) {}

  graph::Model run() {
    const auto found = model_.opsets.find("");
    if (found != model_.opsets.end()) opset_ = std::max(opset_, found->second);
    plan_ = make_plan(view_, ranges_, options_);
    std::vector<bool> is_product(graph_.nodes.size(), false);
    for (const size_t n : plan_.products) is_product[n] = true;
    std::vector<Node> nodes = std::exchange(graph_.nodes, {});
    find_group_parameters();
    for (const ValueId id : graph_.inputs) quantise_value(id);
    for (size_t n = 0; n < nodes.size(); ++n) {
      Node& node = nodes[n];
      const std::vector<ValueId> outputs = node.outputs;
      if (is_product[n] && options_.is_dynamic) {
        make_dynamic(std::move(node), view_.node(n));
      } else {
        if (is_product[n]) quantise_operands(node, view_.node(n));
        if (plan_.readers.contains(n)) {
          for (ValueId& id : node.inputs) id = find_dequantised(id);
        }
        graph_.nodes.push_back(std::move(node));
      }
      for (const ValueId id : outputs) quantise_value(id);
    }
    std::vector<std::string> problems;
    graph::infer_types(graph_, problems);
    if (!problems.empty()) fail(Code::kInternal, "the quantised model is not consistent: {}", problems.front());
    return std::move(model_);
  }

 private:
  ValueId find_dequantised(ValueId id) const {
    const auto found = dequantised_.find(id);
    return found == dequantised_.end() ? id : found->second;
  }

  ValueId add_constant(const std::string& name, Tensor tensor) {
    const ValueId id = graph_.add_value(name, ValueType::tensor(tensor.type(), graph::to_dims(tensor.shape())));
    graph_.value(id).constant = graph::Value(std::move(tensor));
    return id;
  }

  // Members of a group share the range that holds all of theirs.
  void find_group_parameters() {
    std::map<int, Range> ranges;
    for (const auto& [id, group] : plan_.groups) {
      const Range range = ranges_.at(id);
      const auto [found, is_new] = ranges.emplace(group, range);
      if (is_new) continue;
      found->second.low = std::min(found->second.low, range.low);
      found->second.high = std::max(found->second.high, range.high);
    }
    for (const auto& [id, group] : plan_.groups)
      parameters_[id] = find_parameters(ranges.at(group), options_.is_symmetric);
  }

  // Behind what makes the value.
  void quantise_value(ValueId id) {
    const auto found = parameters_.find(id);
    if (id == kNoValue || found == parameters_.end()) return;
    const Parameters& parameters = found->second;
    const std::string name = graph_.value(id).name;
    const ElementType type = options_.is_symmetric ? ElementType::kI8 : ElementType::kU8;
    const ValueId scale = add_constant(name + "_scale", Tensor::scalar(parameters.scale));
    const ValueId zero = add_constant(name + "_zero_point",
                                      options_.is_symmetric ? Tensor::scalar(static_cast<int8_t>(parameters.zero))
                                                            : Tensor::scalar(static_cast<uint8_t>(parameters.zero)));
    const ValueId integers = graph_.add_value(name + "_quantized", ValueType::tensor(type));
    const ValueId real = graph_.add_value(name + "_dequantized", ValueType::tensor(ElementType::kF32));
    graph_.nodes.push_back(
        make_node("", "QuantizeLinear", opset_, name + "_QuantizeLinear", {id, scale, zero}, {integers}));
    graph_.nodes.push_back(
        make_node("", "DequantizeLinear", opset_, name + "_DequantizeLinear", {integers, scale, zero}, {real}));
    dequantised_[id] = real;
  }

  // Weights that several products share are quantised once.
  struct Weights {
    ValueId integers = kNoValue, scales = kNoValue, real = kNoValue;
  };
  const Weights& find_weights(ValueId id, int axis) {
    Weights& weights = weights_[{id, axis}];
    if (weights.integers != kNoValue) return weights;
    const std::string name = graph_.value(id).name;
    QuantisedWeights made = quantise_weights(graph_.value(id).constant->tensor, axis);
    weights.integers = add_constant(name + "_quantized", std::move(made.integers));
    weights.scales = add_constant(name + "_scale", std::move(made.scales));
    return weights;
  }

  ValueId dequantise(ValueId integers, ValueId scales, const std::string& name, int axis) {
    const ValueId real = graph_.add_value(name + "_dequantized", ValueType::tensor(ElementType::kF32));
    Node node = make_node("", "DequantizeLinear", opset_, name + "_DequantizeLinear", {integers, scales}, {real});
    if (axis >= 0) {
      Attribute attribute;
      attribute.i = axis;
      node.attributes["axis"] = attribute;
    }
    graph_.nodes.push_back(std::move(node));
    return real;
  }

  // The weights and the bias; what is multiplied comes with the plan's readers.
  void quantise_operands(Node& node, const Node& original) {
    const Product product = *find_product(view_, original);
    const int axis = options_.is_per_channel ? product.channel_axis : -1;
    const Weights& weights = find_weights(product.weights, axis);
    if (weights.real == kNoValue) {
      const std::string name = graph_.value(product.weights).name;
      weights_[{product.weights, axis}].real = dequantise(weights.integers, weights.scales, name, axis);
    }
    node.inputs[1] = weights.real;
    if (product.bias == kNoValue || !options_.has_integer_bias) return;
    const Tensor& bias = graph_.value(product.bias).constant->tensor;
    Tensor scales = bias_scales(parameters_.at(product.x).scale, graph_.value(weights.scales).constant->tensor,
                                bias.count());
    Tensor integers = quantise_bias(bias, scales);
    if (integers.is_null()) return;
    const std::string name = graph_.value(product.bias).name + "_of_" + node.name;
    const ValueId quantised = add_constant(name + "_quantized", std::move(integers));
    node.inputs[2] = dequantise(quantised, add_constant(name + "_scale", std::move(scales)), name, 0);
  }

  // A row of numbers for all rows of the product, or one number; null if C is something else.
  Tensor find_row(const Node& node, int64_t channels) const {
    const Tensor* c = node.inputs.size() > 2 ? view_.find_constant(node.inputs[2]) : nullptr;
    if (c == nullptr || c->type() != ElementType::kF32 || (c->count() != channels && c->count() != 1)) return {};
    if (c->rank() > 2 || (c->rank() == 2 && c->dim(0) != 1)) return {};
    Tensor row = c->reshaped(graph::Shape{c->count()}).copy();
    const float beta = node.get_float("beta", 1);
    for (int64_t i = 0; i < row.count(); ++i) row.data<float>()[i] *= beta;
    return row;
  }

  struct Dynamic {
    ValueId integers = kNoValue, scale = kNoValue, zero = kNoValue;
  };
  const Dynamic& find_dynamic(ValueId x) {
    Dynamic& dynamic = dynamic_[x];
    if (dynamic.integers != kNoValue) return dynamic;
    const std::string name = graph_.value(x).name;
    dynamic.integers = graph_.add_value(name + "_quantized", ValueType::tensor(ElementType::kU8));
    dynamic.scale = graph_.add_value(name + "_scale", ValueType::tensor(ElementType::kF32));
    dynamic.zero = graph_.add_value(name + "_zero_point", ValueType::tensor(ElementType::kU8));
    graph_.nodes.push_back(make_node("", "DynamicQuantizeLinear", opset_, name + "_DynamicQuantizeLinear", {x},
                                     {dynamic.integers, dynamic.scale, dynamic.zero}));
    return dynamic;
  }

  // A matrix turned around.
  static Tensor transpose(const Tensor& matrix) {
    const int64_t rows = matrix.dim(0), columns = matrix.dim(1);
    Tensor turned(matrix.type(), graph::Shape{columns, rows});
    const int8_t* from = matrix.data<int8_t>();
    int8_t* to = turned.data<int8_t>();
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) to[c * rows + r] = from[r * columns + c];
    }
    return turned;
  }

  // DynamicQuantizeLinear, MatMulInteger, Cast, Mul by both scales, Add: what other runtimes know, and what the pass
  // fuse-integer makes one node of.
  void make_dynamic(Node node, const Node& original) {
    const Product product = *find_product(view_, original);
    const bool is_gemm = node.op_type == "Gemm";
    const Tensor& tensor = graph_.value(product.weights).constant->tensor;
    const int64_t channels = tensor.dim(product.channel_axis);
    const bool has_c =
        is_gemm && node.inputs.size() > 2 && node.inputs[2] != kNoValue && node.get_float("beta", 1) != 0;
    Tensor row = has_c ? find_row(original, channels) : Tensor();
    if ((has_c && row.is_null()) || (is_gemm && node.get_int("transA", 0) != 0)) {
      graph_.nodes.push_back(std::move(node));
      return;
    }
    QuantisedWeights weights = quantise_weights(tensor, options_.is_per_channel ? product.channel_axis : -1);
    if (is_gemm && node.get_int("transB", 0) != 0) weights.integers = transpose(weights.integers);
    const float alpha = is_gemm ? node.get_float("alpha", 1) : 1;
    for (int64_t i = 0; i < weights.scales.count(); ++i) weights.scales.data<float>()[i] *= alpha;

    const Dynamic& x = find_dynamic(product.x);
    const std::string& name = node.name;
    auto add_node = [&](const char* op, const char* suffix, std::vector<ValueId> inputs, ElementType type) {
      const ValueId id = graph_.add_value(name + suffix, ValueType::tensor(type));
      graph_.nodes.push_back(make_node("", op, opset_, name + suffix, std::move(inputs), {id}));
      return id;
    };
    const ValueId integers = add_constant(name + "_weights_quantized", std::move(weights.integers));
    const ValueId sums = add_node("MatMulInteger", "_integer", {x.integers, integers, x.zero}, ElementType::kI32);
    const ValueId real = add_node("Cast", "_cast", {sums}, ElementType::kF32);
    Attribute to;
    to.i = static_cast<int64_t>(ElementType::kF32);
    graph_.nodes.back().attributes["to"] = to;
    const ValueId w_scales = add_constant(name + "_weights_scale", std::move(weights.scales));
    const ValueId scales = add_node("Mul", "_scales", {x.scale, w_scales}, ElementType::kF32);
    if (!has_c) {
      graph_.nodes.push_back(make_node("", "Mul", opset_, name, {real, scales}, node.outputs));
      return;
    }
    const ValueId scaled = add_node("Mul", "_scaled", {real, scales}, ElementType::kF32);
    const ValueId bias = add_constant(name + "_bias", std::move(row));
    graph_.nodes.push_back(make_node("", "Add", opset_, name, {scaled, bias}, node.outputs));
  }

  const GraphView view_;  // of the original
  const Ranges& ranges_;
  const QuantizeOptions& options_;
  graph::Model model_;
  Graph& graph_;
  int opset_ = 13;  // of the nodes that are made: the model's, but axes came with 13
  QuantizePlan plan_;
  std::map<ValueId, Parameters> parameters_;
  std::map<ValueId, ValueId> dequantised_;
  std::map<std::pair<ValueId, int>, Weights> weights_;
  std::map<ValueId, Dynamic> dynamic_;
};

}  // namespace

graph::Model quantize(const graph::Model& model, const Ranges& ranges, const QuantizeOptions& options) {
  list_quantisable(model, options);  // excluded names that nothing has are told
  return Quantizer(model, ranges, options).run();
}

}  // namespace sluice::optimize
