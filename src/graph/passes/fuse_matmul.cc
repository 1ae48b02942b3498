// fuse-matmul: a product of matrices with what stands around it becomes one sluice.FusedMatMul,
// y = activation(alpha * op(A) * op(B) + bias + Z).
//
// Around it: Transpose of the last two axes of an operand, factors that are constants, a factor or a bias of one value
// a column (as a BatchNormalization of rows is both; factors go into constant weights), the addition of a tensor of the
// output's very shape, an activation. Gemm is a FusedMatMul where its C fits. A node that is made grows while the pass
// walks on: each step replaces the last node of what is fused so far. A product alone stays MatMul. Operands are read
// from before a Transpose even where that has other readers; everything else that is fused has no other reader.
#include <cmath>

#include "graph/passes/match.h"

namespace sluice::graph::passes {
namespace {

enum Input : size_t { kA, kB, kBias, kZ, kNumInputs };

bool has(const Node& node, size_t input) { return input < node.inputs.size() && node.inputs[input] != kNoValue; }

// What is a product of f32 matrices already, as a FusedMatMul; nullopt for everything else.
std::optional<Node> as_fused(const Rewriter& rewriter, const Node& node) {
  if (node.op_type == "FusedMatMul" && node.domain == kSluice) return node;
  if (node.op_type != "MatMul" || !node.domain.empty() || node.inputs.size() != 2) return std::nullopt;
  for (const ValueId id : node.inputs) {
    if (!rewriter.is_f32(id) || !rewriter.has_rank(id) || rewriter.rank(id) < 2) return std::nullopt;
  }
  return make_node(kSluice, "FusedMatMul", 1, node, node.inputs);
}

// The product that makes a value which nothing else reads, up to (not with) an activation.
std::optional<Node> find_open_product(const Rewriter& rewriter, ValueId id) {
  if (id == kNoValue || !rewriter.has_one_use(id) || rewriter.producer(id) == nullptr) return std::nullopt;
  std::optional<Node> product = as_fused(rewriter, *rewriter.producer(id));
  if (product && !product->get_string("activation", "").empty()) return std::nullopt;
  return product;
}

void set_number(Node& node, const char* name, double value, double otherwise) {
  if (value == otherwise)
    node.attributes.erase(name);
  else
    node.attributes[name] = make_float(static_cast<float>(value));
}

bool swaps_last_two(const Node& node, int rank) {
  const std::vector<int64_t> order = node.get_ints("perm");
  if (order.empty()) return rank == 2;
  if (static_cast<int>(order.size()) != rank || rank < 2) return false;
  for (int i = 0; i < rank - 2; ++i) {
    if (order[static_cast<size_t>(i)] != i) return false;
  }
  return order[static_cast<size_t>(rank - 1)] == rank - 2;
}

// Operands from before a transposition or a factor.
bool take_operands(Rewriter& rewriter, Node& node) {
  std::optional<Node> product = as_fused(rewriter, node);
  if (!product) return false;
  bool has_changed = false;
  for (const size_t i : {size_t{kA}, size_t{kB}}) {
    const char* flag = i == kA ? "transA" : "transB";
    const ValueId id = product->inputs[i];
    if (const Node* transpose = rewriter.made_by(id, "Transpose");
        transpose != nullptr && rewriter.has_rank(id) && swaps_last_two(*transpose, rewriter.rank(id))) {
      product->inputs[i] = transpose->inputs[0];
      if (product->get_int(flag, 0) != 0)
        product->attributes.erase(flag);
      else
        product->attributes[flag] = make_int(1);
      has_changed = true;
      continue;
    }
    Node* factor = rewriter.only_made_by(id, "Mul");
    if (factor == nullptr) factor = rewriter.only_made_by(id, "Div");
    const auto scaled = factor == nullptr ? std::nullopt : rewriter.with_scalar(*factor);
    const bool is_division = factor != nullptr && factor->op_type == "Div";
    if (!scaled || (is_division && (!scaled->is_second || scaled->number == 0))) continue;
    if (!rewriter.is_f32(scaled->value)) continue;
    product->inputs[i] = scaled->value;
    const double number = is_division ? 1 / scaled->number : scaled->number;
    set_number(*product, "alpha", product->get_float("alpha", 1) * number, 1);
    has_changed = true;
  }
  if (!has_changed) return false;
  rewriter.replace(node, std::move(*product));
  return true;
}

// A constant as the bias [N] of an output of these dimensions; null if it is none.
std::optional<Tensor> read_bias(const Tensor* tensor, const Dims& out) {
  if (tensor == nullptr || out.empty() || tensor->rank() > static_cast<int>(out.size())) return std::nullopt;
  if (tensor->count() == 1) return tensor->reshaped(Shape{1});
  const Dim& columns = out.back();
  if (tensor->rank() < 1 || !columns.is_known() || tensor->shape().back() != columns.value() ||
      tensor->count() != columns.value()) {
    return std::nullopt;
  }
  return tensor->reshaped(Shape{tensor->count()});
}

bool add_bias(Rewriter& rewriter, Node& node, size_t i) {
  const Tensor* tensor = rewriter.f32_constant(node.inputs[1 - i]);
  if (tensor == nullptr || !rewriter.has_rank(node.inputs[i])) return false;
  std::optional<Node> product = find_open_product(rewriter, node.inputs[i]);
  if (!product || has(*product, kBias) || has(*product, kZ)) return false;
  const std::optional<Tensor> bias = read_bias(tensor, rewriter.dims(node.inputs[i]));
  if (!bias) return false;
  product->inputs.resize(std::max<size_t>(product->inputs.size(), kBias + 1), kNoValue);
  const ValueId old = node.inputs[1 - i];
  product->inputs[kBias] =
      tensor->rank() == 1 ? old : rewriter.add_constant(*bias, rewriter.graph().value(old).name + "/bias");
  rewriter.replace(node, std::move(*product));
  return true;
}

bool add_tensor(Rewriter& rewriter, Node& node) {
  const ValueId terms[2] = {node.inputs[0], node.inputs[1]};
  if (terms[0] == terms[1] || !rewriter.has_same_dims(terms[0], terms[1])) return false;
  std::optional<Node> products[2];
  for (size_t i = 0; i < 2; ++i) {
    products[i] = find_open_product(rewriter, terms[i]);
    if (products[i] && has(*products[i], kZ)) products[i].reset();
  }
  const bool takes_second = products[1] && (!products[0] || rewriter.producer(terms[0]) < rewriter.producer(terms[1]));
  const size_t i = takes_second ? 1 : 0;
  if (!products[i] || !rewriter.is_f32(terms[1 - i]) || rewriter.constant(terms[1 - i]) != nullptr) return false;
  products[i]->inputs.resize(kNumInputs, kNoValue);
  products[i]->inputs[kZ] = terms[1 - i];
  rewriter.replace(node, std::move(*products[i]));
  return true;
}

bool add(Rewriter& rewriter, Node& node) {
  if (node.op_type != "Add" || node.opset < 7 || node.inputs.size() != 2) return false;
  return add_bias(rewriter, node, 0) || add_bias(rewriter, node, 1) || add_tensor(rewriter, node);
}

// A factor behind: of the product, and of its bias.
bool scale(Rewriter& rewriter, Node& node) {
  const bool is_division = node.op_type == "Div";
  if ((node.op_type != "Mul" && !is_division) || node.opset < 7) return false;
  const auto scaled = rewriter.with_scalar(node);
  if (!scaled || (is_division && (!scaled->is_second || scaled->number == 0))) return false;
  std::optional<Node> product = find_open_product(rewriter, scaled->value);
  if (!product || has(*product, kZ)) return false;
  const double number = is_division ? 1 / scaled->number : scaled->number;
  if (has(*product, kBias)) {
    const Tensor* bias = rewriter.f32_constant(product->inputs[kBias]);
    if (bias == nullptr) return false;
    Tensor made = bias->copy();
    for (int64_t j = 0; j < made.count(); ++j) {
      made.data<float>()[j] = static_cast<float>(made.data<float>()[j] * number);
    }
    const std::string name = rewriter.graph().value(product->inputs[kBias]).name;
    product->inputs[kBias] = rewriter.add_constant(std::move(made), name + "/scaled");
  }
  set_number(*product, "alpha", product->get_float("alpha", 1) * number, 1);
  rewriter.replace(node, std::move(*product));
  return true;
}

// What each column is multiplied by and what is added, of a Mul or Div by a constant row or a BatchNormalization.
struct Columns {
  size_t input;  // which of the node's is the product
  std::vector<double> scale, shift;
};
std::optional<Columns> read_columns(const Rewriter& rewriter, const Node& node) {
  if (node.op_type == "BatchNormalization") {
    if (node.inputs.size() != 5 || node.outputs.size() != 1 || node.opset < 7) return std::nullopt;
    if (node.get_int("training_mode", 0) != 0 || !rewriter.has_rank(node.inputs[0])) return std::nullopt;
    if (rewriter.rank(node.inputs[0]) != 2) return std::nullopt;  // its channels are axis 1
    std::vector<double> numbers[4];
    for (size_t i = 0; i < 4; ++i) {
      const Tensor* tensor = rewriter.f32_constant(node.inputs[i + 1]);
      if (tensor == nullptr) return std::nullopt;
      numbers[i] = *to_doubles(*tensor);
      if (numbers[i].size() != numbers[0].size()) return std::nullopt;
    }
    Columns columns{0, {}, {}};
    for (size_t c = 0; c < numbers[0].size(); ++c) {
      columns.scale.push_back(numbers[0][c] / std::sqrt(numbers[3][c] + node.get_float("epsilon", 1e-5f)));
      columns.shift.push_back(numbers[1][c] - columns.scale[c] * numbers[2][c]);
    }
    return columns;
  }
  if ((node.op_type != "Mul" && node.op_type != "Div") || node.opset < 7 || node.inputs.size() != 2)
    return std::nullopt;
  const bool is_division = node.op_type == "Div";
  for (const size_t i : {size_t{1}, size_t{0}}) {
    const Tensor* tensor = rewriter.f32_constant(node.inputs[i]);
    if (tensor == nullptr || tensor->rank() != 1 || (is_division && i == 0)) continue;
    Columns columns{1 - i, *to_doubles(*tensor), std::vector<double>(static_cast<size_t>(tensor->count()), 0)};
    for (double& by : columns.scale) by = is_division ? 1 / by : by;
    return columns;
  }
  return std::nullopt;
}

bool scale_columns(Rewriter& rewriter, Node& node) {
  const std::optional<Columns> columns = read_columns(rewriter, node);
  if (!columns) return false;
  for (const double by : columns->scale) {
    if (!std::isfinite(by)) return false;
  }
  std::optional<Node> product = find_open_product(rewriter, node.inputs[columns->input]);
  if (!product || has(*product, kZ)) return false;
  const Tensor* weights = rewriter.f32_constant(product->inputs[kB]);
  const Tensor* bias = has(*product, kBias) ? rewriter.f32_constant(product->inputs[kBias]) : nullptr;
  const auto count = static_cast<int64_t>(columns->scale.size());
  const bool is_transposed = product->get_int("transB", 0) != 0;
  if (weights == nullptr || weights->rank() != 2 || weights->dim(is_transposed ? 0 : 1) != count) return false;
  if (has(*product, kBias) && (bias == nullptr || (bias->count() != count && bias->count() != 1))) return false;
  if (!rewriter.has_one_use(product->inputs[kB]) && !rewriter.take_bytes(weights->bytes())) return false;
  Tensor scaled = weights->copy(), shift(ElementType::kF32, Shape{count});
  const int64_t row = scaled.dim(1);
  for (int64_t i = 0; i < scaled.count(); ++i) {
    const auto column = static_cast<size_t>(is_transposed ? i / row : i % row);
    scaled.data<float>()[i] = static_cast<float>(scaled.data<float>()[i] * columns->scale[column]);
  }
  for (int64_t j = 0; j < count; ++j) {
    const auto at = static_cast<size_t>(j);
    const double old = bias == nullptr ? 0 : bias->data<float>()[bias->count() == 1 ? 0 : j];
    shift.data<float>()[j] = static_cast<float>(old * columns->scale[at] + columns->shift[at]);
  }
  const std::string name = rewriter.graph().value(product->inputs[kB]).name;
  const bool has_shift = bias != nullptr || node.op_type == "BatchNormalization";
  product->inputs[kB] = rewriter.add_constant(std::move(scaled), name + "/scaled");
  if (has_shift) {
    product->inputs.resize(std::max<size_t>(product->inputs.size(), kBias + 1), kNoValue);
    product->inputs[kBias] = rewriter.add_constant(std::move(shift), name + "/shift");
  }
  rewriter.replace(node, std::move(*product));
  return true;
}

bool activate(Rewriter& rewriter, Node& node) {
  const std::optional<Activation> activation = find_activation(rewriter, node);
  if (!activation) return false;
  std::optional<Node> product = find_open_product(rewriter, node.inputs[0]);
  if (!product) return false;
  set_activation(*product, *activation);
  rewriter.replace(node, std::move(*product));
  return true;
}

bool take_gemm(Rewriter& rewriter, Node& node) {
  if (node.op_type != "Gemm" || !rewriter.is_f32(node.outputs[0]) || !rewriter.has_rank(node.outputs[0])) return false;
  const Dims& out = rewriter.dims(node.outputs[0]);
  const double beta = node.get_float("beta", 1);
  Node made = make_node(kSluice, "FusedMatMul", 1, node, {node.inputs[0], node.inputs[1]});
  for (const char* flag : {"transA", "transB"}) {
    if (node.get_int(flag, 0) != 0) made.attributes[flag] = make_int(1);
  }
  set_number(made, "alpha", node.get_float("alpha", 1), 1);
  if (has(node, 2) && beta != 0) {
    const ValueId c = node.inputs[2];
    const std::string name = rewriter.graph().value(c).name;
    if (const Tensor* constant = rewriter.f32_constant(c); constant != nullptr) {
      std::optional<Tensor> bias = read_bias(constant, out);
      if (!bias) return false;
      if (beta != 1) {
        bias = bias->copy();
        for (int64_t j = 0; j < bias->count(); ++j) {
          bias->data<float>()[j] = static_cast<float>(bias->data<float>()[j] * beta);
        }
      }
      const bool is_same = beta == 1 && constant->rank() == 1;
      made.inputs.push_back(is_same ? c : rewriter.add_constant(std::move(*bias), name + "/bias"));
    } else if (beta != 1 || !rewriter.has_rank(c)) {
      return false;
    } else if (rewriter.rank(c) == 1 && rewriter.dims(c)[0] == out.back()) {
      made.inputs.push_back(c);
    } else if (rewriter.dims(c) == out) {
      made.inputs.insert(made.inputs.end(), {kNoValue, c});
    } else {
      return false;
    }
  }
  rewriter.replace(node, std::move(made));
  return true;
}

}  // namespace

bool fuse_matmul(Graph& graph, PassState& state) {
  Rewriter rewriter(graph, state);
  for (Node& node : graph.nodes) {
    if (rewriter.skips(node)) continue;
    const bool is_standard = node.domain.empty();
    if (is_standard && take_gemm(rewriter, node)) {
      take_operands(rewriter, node);
      continue;
    }
    if (take_operands(rewriter, node) || !is_standard) continue;
    if (!add(rewriter, node) && !scale(rewriter, node) && !scale_columns(rewriter, node)) activate(rewriter, node);
  }
  return rewriter.finish();
}

}  // namespace sluice::graph::passes
