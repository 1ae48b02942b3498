// recognise-activation: activations that an exporter has spelled out become the operator they are.
//
//   x * sigmoid(a * x)                              Swish (SiLU; with 1.702 the quick form of Gelu)
//   x / 2 * (1 + erf(x / sqrt(2)))                  Gelu
//   x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))   Gelu with tanh
//   x * tanh(softplus(x))                           Mish
//   x * clip(x + 3, 0, 6) / 6, x * hardsigmoid(x)   HardSwish
//   clip(x + b, 0, m) / m                           HardSigmoid
//   1 / (1 + exp(-x))                               Sigmoid
//   log(1 + exp(x))                                 Softplus
//   min(max(x, a), b), PRelu by one slope           Clip, LeakyRelu
//
// Exporters write the factors in every order and grouping, so a product is taken apart first: into one number and a
// list of values. What a function is applied to is compared as a polynomial in x, of degree 3 at most, in which it does
// not matter how the terms were written. Coefficients may be off by a thousandth, for they are rounded decimals.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "graph/passes/match.h"

namespace sluice::graph::passes {
namespace {

constexpr int kMaxDepth = 8;
constexpr size_t kMaxFactors = 4;
using Polynomial = std::array<double, 4>;  // by power of x

std::optional<Polynomial> multiply(const Polynomial& a, const Polynomial& b) {
  Polynomial product{};
  for (size_t i = 0; i < a.size(); ++i) {
    for (size_t j = 0; j < b.size(); ++j) {
      if (a[i] == 0 || b[j] == 0) continue;
      if (i + j >= product.size()) return std::nullopt;
      product[i + j] += a[i] * b[j];
    }
  }
  return product;
}

// What a value is as a polynomial in x; nullopt if it is none. `budget` bounds what is looked at.
std::optional<Polynomial> read_polynomial(const Rewriter& rewriter, ValueId id, ValueId x, int depth, int& budget) {
  if (id == x) return Polynomial{0, 1, 0, 0};
  if (const std::optional<double> number = rewriter.scalar(id)) return Polynomial{*number, 0, 0, 0};
  const Node* node = rewriter.producer(id);
  if (node == nullptr || !node->domain.empty() || depth == 0 || --budget < 0 || node->inputs.empty()) {
    return std::nullopt;
  }
  const auto a = read_polynomial(rewriter, node->inputs[0], x, depth - 1, budget);
  if (!a) return std::nullopt;
  const std::string& op = node->op_type;
  if (op == "Neg") return multiply(*a, {-1, 0, 0, 0});
  if (node->inputs.size() != 2 || node->opset < 7) return std::nullopt;
  if (op == "Pow") {
    const std::optional<double> power = rewriter.scalar(node->inputs[1]);
    if (!power || (*power != 2 && *power != 3)) return std::nullopt;
    const auto square = multiply(*a, *a);
    return *power == 2 || !square ? square : multiply(*square, *a);
  }
  const auto b = read_polynomial(rewriter, node->inputs[1], x, depth - 1, budget);
  if (!b) return std::nullopt;
  if (op == "Mul") return multiply(*a, *b);
  const bool is_number = (*b)[1] == 0 && (*b)[2] == 0 && (*b)[3] == 0;
  if (op == "Div" && is_number && (*b)[0] != 0) return multiply(*a, {1 / (*b)[0], 0, 0, 0});
  if (op != "Add" && op != "Sub") return std::nullopt;
  Polynomial sum = *a;
  for (size_t i = 0; i < sum.size(); ++i) sum[i] += op == "Add" ? (*b)[i] : -(*b)[i];
  return sum;
}

std::optional<Polynomial> polynomial(const Rewriter& rewriter, ValueId id, ValueId x) {
  int budget = 32;
  return read_polynomial(rewriter, id, x, kMaxDepth, budget);
}

bool is_polynomial(const Rewriter& rewriter, ValueId id, ValueId x, const Polynomial& expected) {
  const auto found = polynomial(rewriter, id, x);
  if (!found) return false;
  for (size_t i = 0; i < expected.size(); ++i) {
    if (expected[i] == 0 ? (*found)[i] != 0 : !is_close((*found)[i], expected[i])) return false;
  }
  return true;
}

// x's factor if the value is a * x.
std::optional<double> slope_of(const Rewriter& rewriter, ValueId id, ValueId x) {
  const auto found = polynomial(rewriter, id, x);
  if (!found || (*found)[0] != 0 || (*found)[1] == 0 || (*found)[2] != 0 || (*found)[3] != 0) return std::nullopt;
  return (*found)[1];
}

// The other term of 1 + value; kNoValue if there is none.
ValueId find_one_plus(const Rewriter& rewriter, ValueId id) {
  const Node* sum = rewriter.only_made_by(id, "Add");
  const auto parts = sum == nullptr ? std::nullopt : rewriter.with_scalar(*sum);
  return parts && parts->number == 1 ? parts->value : kNoValue;
}

ValueId argument(const Rewriter& rewriter, ValueId id, std::string_view op) {
  const Node* node = id == kNoValue ? nullptr : rewriter.only_made_by(id, op);
  return node == nullptr ? kNoValue : node->inputs[0];
}

// A product as number * factors[0] * factors[1] ...
struct Product {
  double number = 1;
  std::vector<ValueId> factors;
};
void take_apart(const Rewriter& rewriter, const Node& node, int depth, Product& product) {
  auto add = [&](ValueId id) {
    const Node* inner = depth > 0 && rewriter.is_f32(id) ? rewriter.only_made_by(id, "Mul") : nullptr;
    if (inner == nullptr && depth > 0) inner = rewriter.only_made_by(id, "Div");
    if (inner != nullptr && inner->op_type == "Div" && !rewriter.with_scalar(*inner)) inner = nullptr;
    if (inner != nullptr && inner->opset >= 7 && product.factors.size() < kMaxFactors) {
      take_apart(rewriter, *inner, depth - 1, product);
    } else {
      product.factors.push_back(id);
    }
  };
  if (const auto scaled = rewriter.with_scalar(node); scaled && (node.op_type == "Mul" || scaled->is_second)) {
    product.number *= node.op_type == "Mul" ? scaled->number : 1 / scaled->number;
    return add(scaled->value);
  }
  if (node.op_type == "Div") {  // by something that is no number
    product.factors.push_back(kNoValue);
    return;
  }
  for (const ValueId id : node.inputs) add(id);
}

bool has_bounds(const Rewriter& rewriter, const Node& clip, double lower, double upper) {
  const auto bounds = find_activation(rewriter, clip);
  return bounds && bounds->name == "Clip" && bounds->parameters[0] == static_cast<float>(lower) &&
         bounds->parameters[1] == static_cast<float>(upper);
}

std::optional<Node> find_product(const Rewriter& rewriter, const Node& node, double number, ValueId x, ValueId gate) {
  auto made = [&](const char* op, int opset) { return make_node("", op, opset, node, {x}); };
  if (is_close(number, 0.5)) {
    const ValueId inner = find_one_plus(rewriter, gate);
    if (const ValueId erf = argument(rewriter, inner, "Erf"); erf != kNoValue) {
      if (is_polynomial(rewriter, erf, x, {0, std::sqrt(0.5), 0, 0})) return made("Gelu", 20);
    }
    if (const ValueId tanh = argument(rewriter, inner, "Tanh"); tanh != kNoValue) {
      const double k = std::sqrt(2 / 3.14159265358979);
      if (is_polynomial(rewriter, tanh, x, {0, k, 0, k * 0.044715})) {
        Node gelu = made("Gelu", 20);
        gelu.attributes["approximate"] = make_string("tanh");
        return gelu;
      }
    }
  }
  if (is_close(number, 1.0 / 6)) {
    const Node* clip = rewriter.only_made_by(gate, "Clip");
    if (clip != nullptr && has_bounds(rewriter, *clip, 0, 6) &&
        is_polynomial(rewriter, clip->inputs[0], x, {3, 1, 0, 0})) {
      return made("HardSwish", 14);
    }
  }
  if (number != 1) return std::nullopt;
  if (const ValueId sigmoid = argument(rewriter, gate, "Sigmoid"); sigmoid != kNoValue) {
    if (const auto alpha = slope_of(rewriter, sigmoid, x)) {
      Node swish = made("Swish", 24);
      swish.attributes["alpha"] = make_float(static_cast<float>(*alpha));
      return swish;
    }
  }
  if (const Node* hard = rewriter.only_made_by(gate, "HardSigmoid"); hard != nullptr && hard->inputs[0] == x) {
    const bool fits = is_close(hard->get_float("alpha", 0.2f), 1.0 / 6) && hard->get_float("beta", 0.5f) == 0.5f;
    if (fits) return made("HardSwish", 14);
  }
  if (const ValueId tanh = argument(rewriter, gate, "Tanh"); tanh != kNoValue) {
    if (argument(rewriter, tanh, "Softplus") == x) return made("Mish", 18);
  }
  return std::nullopt;
}

// clip(p(x), 0, m) * c with c * m = 1
std::optional<Node> find_hard_sigmoid(const Rewriter& rewriter, const Node& node, double number, ValueId id) {
  const Node* clip = rewriter.only_made_by(id, "Clip");
  const auto bounds = clip == nullptr ? std::nullopt : find_activation(rewriter, *clip);
  if (!bounds || bounds->parameters[0] != 0 || !is_close(bounds->parameters[1] * number, 1)) return std::nullopt;
  const Node* sum = rewriter.only_made_by(clip->inputs[0], "Add");
  const auto shifted = sum == nullptr ? std::nullopt : rewriter.with_scalar(*sum);
  if (!shifted) return std::nullopt;
  return make_node("", "HardSigmoid", 22, node, {shifted->value},
                   {{"alpha", make_float(static_cast<float>(number))},
                    {"beta", make_float(static_cast<float>(number * shifted->number))}});
}

std::optional<Node> find_in_product(const Rewriter& rewriter, const Node& node) {
  Product product;
  take_apart(rewriter, node, 3, product);
  if (product.factors.size() == 1) return find_hard_sigmoid(rewriter, node, product.number, product.factors[0]);
  if (product.factors.size() != 2) return std::nullopt;
  const ValueId a = product.factors[0], b = product.factors[1];
  if (!rewriter.is_f32(a) || !rewriter.is_f32(b)) return std::nullopt;
  std::optional<Node> found = find_product(rewriter, node, product.number, a, b);
  return found ? found : find_product(rewriter, node, product.number, b, a);
}

std::optional<Node> find_sigmoid(const Rewriter& rewriter, const Node& node) {
  const bool is_reciprocal = node.op_type == "Reciprocal";
  if (!is_reciprocal && (node.op_type != "Div" || rewriter.scalar(node.inputs[0]) != 1.0)) return std::nullopt;
  if (!is_reciprocal && rewriter.constant(node.inputs[0])->rank() > 0) return std::nullopt;
  const ValueId exp = argument(rewriter, find_one_plus(rewriter, node.inputs[is_reciprocal ? 0 : 1]), "Exp");
  if (exp == kNoValue) return std::nullopt;
  const Node* neg = rewriter.made_by(exp, "Neg");
  if (neg != nullptr) return make_node("", "Sigmoid", 13, node, {neg->inputs[0]});
  const Node* product = rewriter.made_by(exp, "Mul");
  const auto scaled = product == nullptr ? std::nullopt : rewriter.with_scalar(*product);
  if (!scaled || scaled->number != -1) return std::nullopt;
  return make_node("", "Sigmoid", 13, node, {scaled->value});
}

// min(max(x, a), b) in either order, Relu counting as max(x, 0), for constants a <= b.
std::optional<Node> find_clip(Rewriter& rewriter, Node& node) {
  auto split = [&](const Node& n) -> std::optional<Rewriter::WithScalar> {
    if (n.op_type == "Relu") return Rewriter::WithScalar{n.inputs[0], 0, true};
    return n.op_type == "Max" || n.op_type == "Min" ? rewriter.with_scalar(n) : std::nullopt;
  };
  if (node.op_type == "Clip") {  // of what has been cut already, where the two leave something
    const Node* first = rewriter.only_made_by(node.inputs[0], "Relu");
    if (first == nullptr) first = rewriter.only_made_by(node.inputs[0], "Clip");
    const auto outside = first == nullptr ? std::nullopt : find_activation(rewriter, node);
    const auto inside = outside ? find_activation(rewriter, *first) : std::nullopt;
    if (!inside) return std::nullopt;
    const bool is_relu = inside->parameters.empty();
    const float bounds[2] = {is_relu ? 0 : inside->parameters[0],
                             is_relu ? std::numeric_limits<float>::max() : inside->parameters[1]};
    const float lowest = std::max(bounds[0], outside->parameters[0]);
    const float highest = std::min(bounds[1], outside->parameters[1]);
    if (!(lowest <= highest)) return std::nullopt;
    const std::string clip = rewriter.graph().value(node.outputs[0]).name;
    const ValueId low = rewriter.add_constant(Tensor::scalar<float>(lowest), clip + "/min");
    const ValueId high = rewriter.add_constant(Tensor::scalar<float>(highest), clip + "/max");
    return make_node("", "Clip", 13, node, {first->inputs[0], low, high});
  }
  const auto outer = split(node);
  const Node* before = outer && rewriter.has_one_use(outer->value) ? rewriter.producer(outer->value) : nullptr;
  if (before == nullptr || !before->domain.empty()) return std::nullopt;
  const auto inner = split(*before);
  const bool outer_is_min = node.op_type == "Min";
  if (!inner || (before->op_type == "Min") == outer_is_min) return std::nullopt;
  const double lower = outer_is_min ? inner->number : outer->number;
  const double upper = outer_is_min ? outer->number : inner->number;
  if (lower > upper || std::isnan(lower) || std::isnan(upper)) return std::nullopt;
  const std::string name = rewriter.graph().value(node.outputs[0]).name;
  const ValueId low = rewriter.add_constant(Tensor::scalar<float>(static_cast<float>(lower)), name + "/min");
  const ValueId high = rewriter.add_constant(Tensor::scalar<float>(static_cast<float>(upper)), name + "/max");
  return make_node("", "Clip", 13, node, {inner->value, low, high});
}

std::optional<Node> find_other(Rewriter& rewriter, Node& node) {
  const std::string& op = node.op_type;
  if (op == "Reciprocal" || op == "Div") {
    if (auto sigmoid = find_sigmoid(rewriter, node)) return sigmoid;
  }
  if (op == "Log") {
    const ValueId exp = argument(rewriter, find_one_plus(rewriter, node.inputs[0]), "Exp");
    if (exp != kNoValue) return make_node("", "Softplus", 22, node, {exp});
  }
  if (op == "PRelu") {
    const std::optional<double> slope = rewriter.scalar(node.inputs[1]);
    if (!slope) return std::nullopt;
    return make_node("", "LeakyRelu", 16, node, {node.inputs[0]}, {{"alpha", make_float(static_cast<float>(*slope))}});
  }
  if (op == "Min" || op == "Max" || op == "Relu" || op == "Clip") return find_clip(rewriter, node);
  return std::nullopt;
}

// A number with axes of its own, [1, 1, 1] say, gives what it is computed with more of them: then the result is not of
// the shape of x.
bool keeps_rank(const Rewriter& rewriter, const Node& found, ValueId y) {
  const ValueId x = found.inputs[0];
  return !rewriter.has_rank(x) || !rewriter.has_rank(y) || rewriter.rank(x) == rewriter.rank(y);
}

}  // namespace

bool recognise_activation(Graph& graph, PassState& state) {
  Rewriter rewriter(graph, state);
  for (Node& node : graph.nodes) {
    if (rewriter.skips(node) || !node.domain.empty() || node.inputs.empty()) continue;
    if (node.outputs.empty() || !rewriter.is_f32(node.outputs[0])) continue;
    std::optional<Node> found = find_other(rewriter, node);
    const bool is_product = (node.op_type == "Mul" || node.op_type == "Div") && node.opset >= 7;
    if (!found && is_product) found = find_in_product(rewriter, node);
    if (found && keeps_rank(rewriter, *found, node.outputs[0])) rewriter.replace(node, std::move(*found));
  }
  return rewriter.finish();
}

}  // namespace sluice::graph::passes
