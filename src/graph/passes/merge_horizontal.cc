// merge-horizontal: products of one tensor with several constant matrices become one product with all of them side by
// side, and a Split.
//
// The queries, keys and values of attention, the gates of a cell: each alone is too narrow to fill the registers, and
// each packs or reads the same rows again. The Split copies what the products have made, so wide ones, which lose
// little on their own, stay apart. Biases are joined too; scale and activation have to be the same.
#include <algorithm>

#include "graph/passes/match.h"

namespace sluice::graph::passes {
namespace {

// Of each product. Measured: at 384 columns and 128 rows the copies cost what the product saves.
constexpr int64_t kMaxColumns = 256;
constexpr size_t kMaxProducts = 16;

struct Product {
  Node* node;
  const Tensor* weights;
  const Tensor* bias;  // null: none
  int64_t rows, columns;
  bool is_transposed;
};

std::optional<Product> read_product(const Rewriter& rewriter, Node& node) {
  const bool is_plain = node.domain.empty() && node.op_type == "MatMul";
  if (!is_plain && !(node.domain == kSluice && node.op_type == "FusedMatMul")) return std::nullopt;
  const Tensor* weights = rewriter.f32_constant(node.inputs[1]);
  if (weights == nullptr || weights->rank() != 2 || !rewriter.is_f32(node.inputs[0])) return std::nullopt;
  if (!rewriter.has_rank(node.inputs[0]) || rewriter.rank(node.inputs[0]) < 2) return std::nullopt;
  if (rewriter.constant(node.inputs[0]) != nullptr || node.get_int("transA", 0) != 0) return std::nullopt;
  const bool is_transposed = node.get_int("transB", 0) != 0;
  const int64_t rows = weights->dim(is_transposed ? 1 : 0), columns = weights->dim(is_transposed ? 0 : 1);
  if (rows < 1 || columns < 1 || columns > kMaxColumns) return std::nullopt;
  const Tensor* bias = nullptr;
  if (node.inputs.size() > 2 && node.inputs[2] != kNoValue) {
    bias = rewriter.f32_constant(node.inputs[2]);
    if (bias == nullptr || (bias->count() != columns && bias->count() != 1)) return std::nullopt;
  }
  if (node.inputs.size() > 3 && node.inputs[3] != kNoValue) return std::nullopt;
  return Product{&node, weights, bias, rows, columns, is_transposed};
}

bool goes_with(const Product& a, const Product& b) {
  return a.rows == b.rows && a.node->get_float("alpha", 1) == b.node->get_float("alpha", 1) &&
         a.node->get_string("activation", "") == b.node->get_string("activation", "") &&
         a.node->get_floats("activation_params") == b.node->get_floats("activation_params");
}

bool merge(Rewriter& rewriter, const std::vector<Product>& products) {
  int64_t columns = 0, bytes = 0;
  bool has_bias = false;
  for (const Product& product : products) {
    columns += product.columns;
    has_bias |= product.bias != nullptr;
    if (!rewriter.has_one_use(product.node->inputs[1])) bytes += product.weights->bytes();
  }
  if (!rewriter.take_bytes(bytes)) return false;
  Node& first = *products[0].node;
  const int64_t rows = products[0].rows;
  Tensor weights(ElementType::kF32, Shape{rows, columns}), bias(ElementType::kF32, Shape{columns});
  std::vector<int64_t> sizes;
  int64_t at = 0;
  for (const Product& product : products) {
    const float* from = product.weights->data<float>();
    for (int64_t k = 0; k < rows; ++k) {
      for (int64_t j = 0; j < product.columns; ++j) {
        weights.data<float>()[k * columns + at + j] =
            from[product.is_transposed ? j * rows + k : k * product.columns + j];
      }
    }
    for (int64_t j = 0; j < product.columns; ++j) {
      const bool is_one = product.bias != nullptr && product.bias->count() == 1;
      bias.data<float>()[at + j] = product.bias == nullptr ? 0 : product.bias->data<float>()[is_one ? 0 : j];
    }
    sizes.push_back(product.columns);
    at += product.columns;
  }
  const std::string name = rewriter.graph().value(first.outputs[0]).name;
  Node made = make_node(kSluice, "FusedMatMul", 1, first,
                        {first.inputs[0], rewriter.add_constant(std::move(weights), name + "/weights")});
  if (has_bias) made.inputs.push_back(rewriter.add_constant(std::move(bias), name + "/bias"));
  for (const char* attribute : {"alpha", "activation", "activation_params"}) {
    if (const Attribute* value = first.find(attribute); value != nullptr) made.attributes[attribute] = *value;
  }
  Dims dims = rewriter.dims(first.inputs[0]);
  dims.back() = columns;
  const ValueId all = rewriter.insert_before(first, std::move(made),
                                             ValueType::tensor(ElementType::kF32, std::move(dims)), name + "/all");
  Node split =
      make_node("", "Split", 13, first, {all, rewriter.add_constant(Tensor::vector<int64_t>(sizes), name + "/sizes")},
                {{"axis", make_int(-1)}});
  for (const Product& product : products) split.outputs.push_back(product.node->outputs[0]);
  rewriter.insert_before(first, std::move(split));
  for (const Product& product : products) rewriter.remove(*product.node);
  return true;
}

}  // namespace

bool merge_horizontal(Graph& graph, PassState& state) {
  Rewriter rewriter(graph, state);
  std::map<ValueId, std::vector<Product>> by_input;
  for (Node& node : graph.nodes) {
    if (rewriter.skips(node)) continue;
    if (const auto product = read_product(rewriter, node)) by_input[node.inputs[0]].push_back(*product);
  }
  for (auto& [input, products] : by_input) {
    while (products.size() >= 2) {
      std::vector<Product> group = {products[0]}, rest;
      for (size_t i = 1; i < products.size(); ++i) {
        const bool fits = goes_with(products[0], products[i]) && group.size() < kMaxProducts;
        (fits ? group : rest).push_back(products[i]);
      }
      if (group.size() >= 2) merge(rewriter, group);
      products = std::move(rest);
    }
  }
  return rewriter.finish();
}

}  // namespace sluice::graph::passes
