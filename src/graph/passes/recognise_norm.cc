// recognise-norm: layer normalisation and RMS normalisation that are spelled out become LayerNormalization (opset 17)
// and RMSNormalization (opset 23).
//
//   d = x - mean(x);  y = d / sqrt(mean(d * d) + epsilon) [* scale] [+ bias]
//   y = x / sqrt(mean(x * x) + epsilon) [* scale]
//
// The means are over the last axis or several last ones, kept as 1; squares are Pow by 2 or products; the root divides
// or its reciprocal multiplies. The normalisation is recognised first, with a scale of ones, and takes in a Mul and an
// Add that follow at their turn, so that those of a LayerNormalization which the model has already are taken in too.
// TensorFlow's batch_normalization, x * m + (bias - mean * m) with m = scale / root, is the same in another order.
#include <algorithm>

#include "graph/passes/match.h"

namespace sluice::graph::passes {
namespace {

constexpr int64_t kMaxSize = 1 << 20;  // elements that are normalised together

// The operand of a ReduceMean over the last `count` axes of it that keeps them as 1.
struct Mean {
  ValueId of;
  int axis;  // the first of them
};
std::optional<Mean> read_mean(const Rewriter& rewriter, ValueId id) {
  const Node* node = rewriter.made_by(id, "ReduceMean");
  if (node == nullptr || node->get_int("keepdims", 1) != 1 || !rewriter.has_rank(node->inputs[0])) return std::nullopt;
  const int rank = rewriter.rank(node->inputs[0]);
  std::vector<int64_t> axes = node->get_ints("axes");
  if (node->inputs.size() > 1 && node->inputs[1] != kNoValue) {
    const Tensor* tensor = rewriter.constant(node->inputs[1]);
    if (tensor == nullptr || !is_integer(tensor->type())) return std::nullopt;
    axes = to_ints(*tensor);
  }
  if (axes.empty()) return std::nullopt;
  for (int64_t& axis : axes) axis += axis < 0 ? rank : 0;
  std::sort(axes.begin(), axes.end());
  for (size_t i = 0; i < axes.size(); ++i) {
    if (axes[i] != rank - static_cast<int64_t>(axes.size() - i) || axes[i] < 0) return std::nullopt;
  }
  return Mean{node->inputs[0], static_cast<int>(axes[0])};
}

// What is squared.
ValueId find_squared(const Rewriter& rewriter, ValueId id) {
  if (const Node* power = rewriter.made_by(id, "Pow"); power != nullptr) {
    return rewriter.scalar(power->inputs[1]) == 2.0 ? power->inputs[0] : kNoValue;
  }
  const Node* product = rewriter.made_by(id, "Mul");
  return product != nullptr && product->inputs[0] == product->inputs[1] ? product->inputs[0] : kNoValue;
}

// sqrt(mean(square) + epsilon)
struct Root {
  ValueId squared;
  int axis;
  float epsilon;
};
std::optional<Root> read_sum(const Rewriter& rewriter, ValueId id) {
  const Node* sum = rewriter.made_by(id, "Add");
  const auto parts = sum == nullptr ? std::nullopt : rewriter.with_scalar(*sum);
  const auto mean = parts ? read_mean(rewriter, parts->value) : std::nullopt;
  const ValueId squared = mean ? find_squared(rewriter, mean->of) : kNoValue;
  if (squared == kNoValue) return std::nullopt;
  return Root{squared, mean->axis, static_cast<float>(parts->number)};
}
std::optional<Root> read_root(const Rewriter& rewriter, ValueId id) {
  if (const Node* root = rewriter.made_by(id, "Sqrt"); root != nullptr) return read_sum(rewriter, root->inputs[0]);
  const Node* power = rewriter.made_by(id, "Pow");
  if (power == nullptr || rewriter.scalar(power->inputs[1]) != 0.5) return std::nullopt;
  return read_sum(rewriter, power->inputs[0]);
}
std::optional<Root> read_inverse_root(const Rewriter& rewriter, ValueId id) {
  if (const Node* inverse = rewriter.made_by(id, "Reciprocal"); inverse != nullptr) {
    return read_root(rewriter, inverse->inputs[0]);
  }
  if (const Node* quotient = rewriter.made_by(id, "Div"); quotient != nullptr) {
    return rewriter.scalar(quotient->inputs[0]) == 1.0 ? read_root(rewriter, quotient->inputs[1]) : std::nullopt;
  }
  const Node* power = rewriter.made_by(id, "Pow");
  if (power == nullptr || rewriter.scalar(power->inputs[1]) != -0.5) return std::nullopt;
  return read_sum(rewriter, power->inputs[0]);
}

// x if the value is x - mean(x) over the same axes.
ValueId find_centred(const Rewriter& rewriter, ValueId id, int axis) {
  const Node* difference = rewriter.made_by(id, "Sub");
  if (difference == nullptr) return kNoValue;
  const auto mean = read_mean(rewriter, difference->inputs[1]);
  return mean && mean->of == difference->inputs[0] && mean->axis == axis ? mean->of : kNoValue;
}

// The sizes of the axes from `axis` on; nullopt if they are not known.
std::optional<Shape> sizes_from(const Rewriter& rewriter, ValueId x, int axis) {
  Shape shape;
  for (int i = axis; i < rewriter.rank(x); ++i) {
    const std::optional<int64_t> dim = rewriter.known_dim(x, i);
    if (!dim || *dim < 1 || *dim > kMaxSize / shape.count()) return std::nullopt;
    shape.push_back(*dim);
  }
  return shape;
}

// A constant of exactly these sizes from one that broadcasts to them; nullopt if it has others.
std::optional<Tensor> fit(const Tensor* tensor, const Shape& sizes) {
  if (tensor == nullptr) return std::nullopt;
  if (tensor->count() == 1 && tensor->rank() <= sizes.rank()) {
    Tensor spread(ElementType::kF32, sizes);
    std::fill_n(spread.data<float>(), spread.count(), tensor->data<float>()[0]);
    return spread;
  }
  if (tensor->count() != sizes.count() || tensor->rank() < sizes.rank()) return std::nullopt;
  for (int i = 1; i <= sizes.rank(); ++i) {
    if (tensor->dim(tensor->rank() - i) != sizes[sizes.rank() - i]) return std::nullopt;
  }
  return tensor->reshaped(sizes);
}

Tensor ones(const Shape& sizes) {
  Tensor tensor(ElementType::kF32, sizes);
  std::fill_n(tensor.data<float>(), tensor.count(), 1.0f);
  return tensor;
}
bool is_ones(const Tensor& tensor) {
  const auto values = tensor.values<float>();
  return std::all_of(values.begin(), values.end(), [](float value) { return value == 1; });
}

// A normalisation of x in place of `node`.
bool make_norm(Rewriter& rewriter, Node& node, ValueId x, const Root& root, bool is_centred) {
  if (!rewriter.is_f32(x)) return false;
  const std::optional<Shape> sizes = sizes_from(rewriter, x, root.axis);
  if (!sizes) return false;
  const std::string name = rewriter.graph().value(node.outputs[0]).name + "/scale";
  const ValueId scale = rewriter.add_constant(ones(*sizes), name);
  rewriter.replace(
      node,
      make_node("", is_centred ? "LayerNormalization" : "RMSNormalization", is_centred ? 17 : 23, node, {x, scale},
                {{"axis", make_int(root.axis - rewriter.rank(x))}, {"epsilon", make_float(root.epsilon)}}));
  return true;
}

bool recognise(Rewriter& rewriter, Node& node) {
  const bool divides = node.op_type == "Div";
  if ((!divides && node.op_type != "Mul") || node.inputs.size() != 2) return false;
  for (const size_t i : {size_t{1}, size_t{0}}) {
    if (divides && i == 0) continue;
    const ValueId numerator = node.inputs[1 - i];
    const auto root = divides ? read_root(rewriter, node.inputs[i]) : read_inverse_root(rewriter, node.inputs[i]);
    if (!root || !rewriter.has_rank(numerator)) continue;
    // Exporters may write the difference twice: what counts is that both are of the same x.
    const ValueId x = find_centred(rewriter, root->squared, root->axis);
    if (x != kNoValue && (numerator == root->squared || find_centred(rewriter, numerator, root->axis) == x)) {
      return make_norm(rewriter, node, x, *root, true);
    }
    if (numerator == root->squared) return make_norm(rewriter, node, numerator, *root, false);
  }
  return false;
}

// x * m + (bias - mean * m), m = [scale *] inverse root
bool recognise_reordered(Rewriter& rewriter, Node& node) {
  if (node.op_type != "Add" || node.inputs.size() != 2) return false;
  for (const size_t i : {size_t{0}, size_t{1}}) {
    const Node* product = rewriter.only_made_by(node.inputs[i], "Mul");
    const Node* rest = rewriter.only_made_by(node.inputs[1 - i], "Sub");
    const Node* shift = rest == nullptr ? nullptr : rewriter.only_made_by(rest->inputs[1], "Mul");
    if (product == nullptr || shift == nullptr) continue;
    for (const size_t j : {size_t{0}, size_t{1}}) {
      const ValueId x = product->inputs[j], factor = product->inputs[1 - j];
      if (!rewriter.is_f32(x) || !rewriter.has_rank(x)) continue;
      const size_t m = shift->inputs[0] == factor ? 0 : 1;
      if (shift->inputs[m] != factor) continue;
      const auto mean = read_mean(rewriter, shift->inputs[1 - m]);
      if (!mean || mean->of != x) continue;
      ValueId inverse = factor;
      const Tensor* scale = nullptr;
      if (const Node* scaled = rewriter.made_by(factor, "Mul"); scaled != nullptr) {
        const size_t s = rewriter.f32_constant(scaled->inputs[0]) != nullptr ? 0 : 1;
        scale = rewriter.f32_constant(scaled->inputs[s]);
        inverse = scaled->inputs[1 - s];
      }
      const auto root = read_inverse_root(rewriter, inverse);
      if (!root || root->axis != mean->axis || find_centred(rewriter, root->squared, root->axis) != x) continue;
      const auto sizes = sizes_from(rewriter, x, root->axis);
      if (!sizes) continue;
      const auto bias = fit(rewriter.f32_constant(rest->inputs[0]), *sizes);
      const auto spread = inverse == factor ? std::optional(ones(*sizes)) : fit(scale, *sizes);
      if (!bias || !spread) continue;
      const std::string name = rewriter.graph().value(node.outputs[0]).name;
      rewriter.replace(
          node,
          make_node("", "LayerNormalization", 17, node,
                    {x, rewriter.add_constant(*spread, name + "/scale"), rewriter.add_constant(*bias, name + "/bias")},
                    {{"axis", make_int(root->axis - rewriter.rank(x))}, {"epsilon", make_float(root->epsilon)}}));
      return true;
    }
  }
  return false;
}

// A constant scale or bias behind a normalisation that has none.
bool take_parameter(Rewriter& rewriter, Node& node) {
  const bool is_scale = node.op_type == "Mul";
  if ((!is_scale && node.op_type != "Add") || node.inputs.size() != 2) return false;
  for (const size_t i : {size_t{0}, size_t{1}}) {
    Node* norm = rewriter.only_made_by(node.inputs[i], "LayerNormalization");
    if (norm == nullptr && is_scale) norm = rewriter.only_made_by(node.inputs[i], "RMSNormalization");
    if (norm == nullptr || norm->inputs.size() < 2 || !rewriter.has_rank(norm->inputs[0])) continue;
    const bool has_bias = norm->inputs.size() > 2 && norm->inputs[2] != kNoValue;
    const bool has_statistics =
        std::any_of(norm->outputs.begin() + 1, norm->outputs.end(), [](ValueId id) { return id != kNoValue; });
    const Tensor* scale = rewriter.f32_constant(norm->inputs[1]);
    if (has_bias || has_statistics || (is_scale && (scale == nullptr || !is_ones(*scale)))) continue;
    int axis = static_cast<int>(norm->get_int("axis", -1));
    if (axis < 0) axis += rewriter.rank(norm->inputs[0]);
    const auto sizes = axis < 0 ? std::nullopt : sizes_from(rewriter, norm->inputs[0], axis);
    const ValueId parameter = node.inputs[1 - i];
    const Tensor* tensor = rewriter.f32_constant(parameter);
    if (!sizes || tensor == nullptr || tensor->rank() > rewriter.rank(norm->inputs[0])) continue;
    const auto fitted = fit(tensor, *sizes);
    if (!fitted) continue;
    Node made = *norm;
    made.inputs.resize(is_scale ? 2 : 3);
    const bool is_same = tensor->shape() == fitted->shape();
    const std::string name = rewriter.graph().value(parameter).name;
    made.inputs[is_scale ? 1 : 2] = is_same ? parameter : rewriter.add_constant(*fitted, name + "/fitted");
    made.outputs.clear();
    rewriter.replace(node, std::move(made));
    return true;
  }
  return false;
}

}  // namespace

bool recognise_norm(Graph& graph, PassState& state) {
  Rewriter rewriter(graph, state);
  for (Node& node : graph.nodes) {
    if (rewriter.skips(node) || !node.domain.empty() || node.opset < 7) continue;
    if (node.outputs.empty() || !rewriter.is_f32(node.outputs[0])) continue;
    if (!recognise(rewriter, node) && !recognise_reordered(rewriter, node)) take_parameter(rewriter, node);
  }
  return rewriter.finish();
}

}  // namespace sluice::graph::passes
