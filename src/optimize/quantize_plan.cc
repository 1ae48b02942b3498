// The plan begins with what products read. From each such value it goes up through activations (which are fused) and
// nodes that move elements, to where the value is computed: the other operand of an addition, what a pool reads, the
// parts of a join then become integers too, if they come from products themselves, and so on from there.
#include "optimize/quantize_plan.h"

#include <algorithm>
#include <string_view>

#include "base/error.h"
#include "graph/passes.h"

namespace sluice::optimize {
namespace {

using graph::Graph;
using graph::kNoValue;
using graph::Node;
using graph::Tensor;
using graph::ValueId;

constexpr std::string_view kActivations[] = {"Relu",      "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid",
                                             "HardSwish", "Elu",  "Gelu",      "Swish",   "Mish"};
constexpr std::string_view kMovers[] = {"MaxPool",   "Reshape",  "Flatten",      "Transpose",    "Squeeze",
                                        "Unsqueeze", "Identity", "DepthToSpace", "SpaceToDepth", "Slice",
                                        "Pad",       "Resize",   "Upsample",     "Split"};

template <size_t n>
bool is_one_of(const Node& node, const std::string_view (&names)[n]) {
  return node.domain.empty() && std::find(std::begin(names), std::end(names), node.op_type) != std::end(names);
}
bool is(const Node& node, std::string_view op) { return node.domain.empty() && node.op_type == op; }
bool is_pool(const Node& node) { return is(node, "GlobalAveragePool") || is(node, "AveragePool"); }
bool is_mover(const Node& node) {
  const bool interpolates =
      (is(node, "Resize") || is(node, "Upsample")) && node.get_string("mode", "nearest") != "nearest";
  return is_one_of(node, kMovers) && !interpolates;
}

class Planner {
 public:
  Planner(const GraphView& view, const Ranges& ranges, const QuantizeOptions& options)
      : view_(view), ranges_(ranges), options_(options), is_product_(view.graph().nodes.size(), false) {}

  QuantizePlan run() {
    plan_.products = list_products();
    // Without a range for what it reads a product stays as it is.
    std::erase_if(plan_.products, [&](size_t n) {
      return !options_.is_dynamic && !ranges_.contains(find_product(view_, view_.node(n))->x);
    });
    if (options_.is_dynamic) return std::move(plan_);
    for (const size_t n : plan_.products) is_product_[n] = true;
    mark_made();
    for (const size_t n : plan_.products) {
      plan_.readers.insert(n);
      quantise(find_product(view_, view_.node(n))->x);
    }
    while (!pending_.empty()) {
      const ValueId next = pending_.back();
      pending_.pop_back();
      climb(next, next);
    }
    return std::move(plan_);
  }

  std::vector<size_t> list_products() const {
    std::vector<size_t> products;
    for (size_t n = 0; n < view_.graph().nodes.size(); ++n) {
      const Node& node = view_.node(n);
      const bool is_excluded = std::any_of(options_.excluded.begin(), options_.excluded.end(), [&](const auto& name) {
        return node.name == name || node.op_type == name;
      });
      if (is_excluded || options_.float_nodes.contains(n) || (options_.is_dynamic && is(node, "Conv"))) continue;
      if (find_product(view_, node)) products.push_back(n);
    }
    if (options_.keeps_first && !products.empty()) products.erase(products.begin());
    if (options_.keeps_last && !products.empty()) products.pop_back();
    return products;
  }

 private:
  // By value: whether products and what is computed on their integers make it.
  void mark_made() {
    is_made_.assign(view_.graph().values.size(), false);
    for (size_t n = 0; n < view_.graph().nodes.size(); ++n) {
      const Node& node = view_.node(n);
      bool is_made = is_product_[n];
      if (is_glue(node) || is_one_of(node, kActivations)) {
        is_made = std::any_of(node.inputs.begin(), node.inputs.end(),
                              [&](ValueId id) { return id != kNoValue && is_made_[static_cast<size_t>(id)]; });
      }
      for (const ValueId id : node.outputs) {
        if (id != kNoValue) is_made_[static_cast<size_t>(id)] = is_made;
      }
    }
  }

  bool is_eligible(ValueId id) const {
    return view_.is_float(id) && ranges_.contains(id) &&
           (is_made_[static_cast<size_t>(id)] || plan_.groups.contains(id));
  }

  void quantise(ValueId id) {
    if (plan_.groups.emplace(id, num_groups_).second) {
      ++num_groups_;
      pending_.push_back(id);
    }
  }
  void join_groups(ValueId a, ValueId b) {
    const int from = plan_.groups.at(b), to = plan_.groups.at(a);
    for (auto& [id, group] : plan_.groups) {
      if (group == from) group = to;
    }
  }

  // From `id`, which is computed like `quantised` but for activations and moves, to what makes it.
  void climb(ValueId id, ValueId quantised) {
    for (;;) {
      const int maker = view_.find_maker(id);
      if (maker < 0 || is_product_[static_cast<size_t>(maker)]) return;
      const auto n = static_cast<size_t>(maker);
      const Node& node = view_.node(n);
      if (node.inputs.empty()) return;
      const ValueId input = node.inputs[0];
      if (is_one_of(node, kActivations) || is_mover(node)) {
        const bool moves = is_mover(node);
        if (!view_.is_float(input)) return;
        if (view_.has_one_use(input) && !is(node, "Split")) {
          id = input;
          continue;
        }
        if (!moves || !is_eligible(input)) return;
        // Others read it too: as integers of the same scale it is moved as it is.
        plan_.readers.insert(n);
        quantise(input);
        join_groups(quantised, input);
        return;
      }
      if (is(node, "Add") || is(node, "Mul")) return combine(n, is(node, "Add"));
      if (is_pool(node)) {
        if (!is_eligible(input)) return;
        plan_.readers.insert(n);
        return quantise(input);
      }
      if (is(node, "Concat")) join(n, quantised);
      return;
    }
  }

  void combine(size_t n, bool is_sum) {
    const Node& node = view_.node(n);
    if (node.inputs.size() != 2 || node.inputs[0] == node.inputs[1]) return;
    const ValueId a = node.inputs[0], b = node.inputs[1];
    if (!view_.is_float(a) || !view_.is_float(b)) return;
    const auto &x = view_.graph().value(a).type.dims, &y = view_.graph().value(b).type.dims;
    const bool has_same_dims = x && y && *x == *y;
    // A product takes the sum in: the later one, of two.
    auto place_of_open = [&](ValueId id) {
      const int maker = view_.find_maker(id);
      return maker >= 0 && is_product_[static_cast<size_t>(maker)] && view_.has_one_use(id) ? maker : -1;
    };
    const int first = place_of_open(a), second = place_of_open(b);
    if (is_sum && has_same_dims && std::max(first, second) >= 0) {
      const ValueId other = first > second ? b : a;
      if (!is_eligible(other)) return;
      plan_.readers.insert(n);
      return quantise(other);
    }
    if (!is_eligible(a) || !is_eligible(b)) return;
    plan_.readers.insert(n);
    quantise(a);
    quantise(b);
  }

  void join(size_t n, ValueId quantised) {
    const Node& node = view_.node(n);
    for (const ValueId id : node.inputs) {
      if (!is_eligible(id)) return;
    }
    for (const ValueId id : node.inputs) {
      if (view_.has_one_use(id)) {
        climb(id, quantised);
        continue;
      }
      plan_.readers.insert(n);
      quantise(id);
      join_groups(quantised, id);
    }
  }

  const GraphView& view_;
  const Ranges& ranges_;
  const QuantizeOptions& options_;
  QuantizePlan plan_;
  std::vector<bool> is_product_, is_made_;
  std::vector<ValueId> pending_;
  int num_groups_ = 0;
};

}  // namespace

bool is_glue(const Node& node) {
  return is_mover(node) || is_pool(node) || is(node, "Add") || is(node, "Mul") || is(node, "Concat");
}

GraphView::GraphView(const Graph& graph)
    : graph_(graph),
      maker_(graph.values.size(), -1),
      uses_(graph::count_uses(graph)),
      is_input_(graph::mark_inputs(graph)) {
  for (size_t n = 0; n < graph.nodes.size(); ++n) {
    for (const ValueId id : graph.nodes[n].outputs) {
      if (id != kNoValue) maker_[static_cast<size_t>(id)] = static_cast<int>(n);
    }
  }
}

const Tensor* GraphView::find_constant(ValueId id) const { return graph::find_constant(graph_, is_input_, id); }

bool GraphView::is_float(ValueId id) const {
  if (id == kNoValue || find_constant(id) != nullptr) return false;
  const graph::ValueType& type = graph_.value(id).type;
  return type.is_tensor() && type.element == graph::ElementType::kF32;
}

std::optional<Product> find_product(const GraphView& view, const Node& node) {
  const bool is_conv = is(node, "Conv"), is_gemm = is(node, "Gemm");
  if ((!is_conv && !is_gemm && !is(node, "MatMul")) || node.inputs.size() < 2) return std::nullopt;
  Product product{.x = node.inputs[0], .weights = node.inputs[1]};
  const Tensor* weights = view.find_constant(product.weights);
  if (!view.is_float(product.x) || weights == nullptr || weights->type() != graph::ElementType::kF32 ||
      weights->rank() < 2 || weights->count() == 0) {
    return std::nullopt;
  }
  if (is_conv) product.channel_axis = 0;
  else if (is_gemm) product.channel_axis = node.get_int("transB", 0) != 0 ? 0 : 1;
  else product.channel_axis = weights->rank() - 1;
  const int64_t channels = weights->dim(product.channel_axis);
  const ValueId bias = node.inputs.size() > 2 ? node.inputs[2] : kNoValue;
  const Tensor* added = view.find_constant(bias);
  const bool fits = added != nullptr && added->type() == graph::ElementType::kF32 && added->rank() == 1 &&
                    added->count() == channels && node.get_float("alpha", 1) == 1 && node.get_float("beta", 1) == 1;
  if (fits) product.bias = bias;
  return product;
}

QuantizePlan make_plan(const GraphView& view, const Ranges& ranges, const QuantizeOptions& options) {
  return Planner(view, ranges, options).run();
}

std::vector<size_t> list_quantisable(const graph::Model& model, const QuantizeOptions& options) {
  for (const std::string& name : options.excluded) {
    const bool is_known = std::any_of(model.graph.nodes.begin(), model.graph.nodes.end(), [&](const Node& node) {
      return node.name == name || node.op_type == name;
    });
    if (!is_known)
      fail(Code::kInvalidArgument, "'{}' is to be excluded, but is no node and no operator of the model", name);
  }
  const GraphView view(model.graph);
  const Ranges none;
  return Planner(view, none, options).list_products();
}

std::vector<ValueId> list_observed(const graph::Model& model) {
  const GraphView view(model.graph);
  std::set<ValueId> observed;
  for (const Node& node : model.graph.nodes) {
    if (const std::optional<Product> product = find_product(view, node)) observed.insert(product->x);
    if (!is_glue(node)) continue;
    for (const ValueId id : node.inputs) {
      if (view.is_float(id)) observed.insert(id);
    }
  }
  return {observed.begin(), observed.end()};
}

}  // namespace sluice::optimize
