// Which values of a model become integers, and which nodes read them as such.
#pragma once

#include <map>
#include <set>
#include <vector>

#include "graph/ir.h"
#include "graph/op.h"
#include "optimize/quantize.h"

namespace sluice::optimize {

// A graph's values: who makes and who reads them.
class GraphView {
 public:
  explicit GraphView(const graph::Graph& graph);

  const graph::Graph& graph() const { return graph_; }
  const graph::Node& node(size_t n) const { return graph_.nodes[n]; }
  int find_maker(graph::ValueId id) const { return id == graph::kNoValue ? -1 : maker_[static_cast<size_t>(id)]; }
  bool has_one_use(graph::ValueId id) const { return uses_[static_cast<size_t>(id)] == 1; }
  const graph::Tensor* find_constant(graph::ValueId id) const;
  bool is_float(graph::ValueId id) const;  // float32, and not a constant

 private:
  const graph::Graph& graph_;
  std::vector<int> maker_, uses_;
  std::vector<bool> is_input_;
};

// A product with constant weights: what its node reads, and how the weights lie.
struct Product {
  graph::ValueId x = graph::kNoValue;
  graph::ValueId weights = graph::kNoValue, bias = graph::kNoValue;  // constants; no bias: none, or one to leave alone
  int channel_axis = 0;  // of the weights
};
// For a node that can be quantised.
std::optional<Product> find_product(const GraphView& view, const graph::Node& node);

struct QuantizePlan {
  std::vector<size_t> products;
  // Values to quantise, with the number of the group whose members share a range.
  std::map<graph::ValueId, int> groups;
  std::set<size_t> readers;  // nodes that read those values as integers
};
QuantizePlan make_plan(const GraphView& view, const Ranges& ranges, const QuantizeOptions& options);

// Operators that are computed on integers between products, or only move them.
bool is_glue(const graph::Node& node);

}  // namespace sluice::optimize
