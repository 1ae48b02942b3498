// simplify-shapes: computations of shapes become constants where the shapes are known well enough.
//
// Models compute the targets of Reshape and Expand from the sizes of other tensors. Such a computation is followed with
// symbols, as inference does: integers that turn out to be known become constants, and a target that the types of input
// and output tell becomes one of numbers, 0 (as the input has it) and -1. A reshape of a reshape reads what that one
// read, and a run of reshapes and transpositions in which the elements keep their order is one Reshape. What then
// changes nothing remove-identities takes out. A product of a matrix of rows that was reshaped to it and is reshaped
// back works on the tensor as it is.
#include <algorithm>

#include "base/error.h"
#include "graph/passes/axis_trace.h"
#include "graph/passes/match.h"

namespace sluice::graph::passes {
namespace {

constexpr size_t kMaxInts = 64;
constexpr size_t kMaxSteps = 8;

bool is_view(const Node& node) {
  if (!node.domain.empty()) return false;
  const std::string& op = node.op_type;
  return op == "Reshape" || op == "Flatten" || op == "Squeeze" || op == "Unsqueeze";
}

// Small integers along the nodes, each as an integer or a formula.
class KnownInts {
 public:
  explicit KnownInts(Rewriter& rewriter) : rewriter_(rewriter), ints_(rewriter.graph().values.size()) {}

  // Gives the first output's integers if all of them are plain numbers.
  std::optional<std::vector<int64_t>> follow(const Node& node) {
    if (node.outputs.empty() || node.outputs[0] == kNoValue || has_body(node)) return std::nullopt;
    const ValueType& type = rewriter_.type(node.outputs[0]);
    const bool is_shape = type.is_tensor() && type.has_rank() && type.rank() <= 1 &&
                          (type.element == ElementType::kI64 || type.element == ElementType::kI32);
    if (!is_shape || (node.op->flags & OpInfo::kImpure) != 0) return std::nullopt;
    std::vector<InferContext::Input> inputs(node.inputs.size());
    for (size_t i = 0; i < inputs.size(); ++i) {
      const ValueId id = node.inputs[i];
      if (id == kNoValue) continue;
      inputs[i].type = rewriter_.type(id);
      if (rewriter_.constant(id) != nullptr) inputs[i].value = &*rewriter_.graph().value(id).constant;
      if (known(id)) inputs[i].ints = &*ints_[static_cast<size_t>(id)];
    }
    std::vector<InferContext::Output> outputs(std::max(node.outputs.size(), kMinOutputs));
    const InferContext::InferGraph no_graph = [](const Graph&, const std::vector<ValueType>&) {
      return std::vector<ValueType>();
    };
    try {
      InferContext context(node, inputs, outputs, &no_graph);
      node.op->infer(context);
    } catch (const Error&) {
      return std::nullopt;  // told when types are inferred
    }
    if (!outputs[0].ints || outputs[0].ints->size() > kMaxInts) return std::nullopt;
    std::vector<int64_t> numbers;
    for (const Dim& dim : *outputs[0].ints) {
      if (dim.is_known()) numbers.push_back(dim.value());
    }
    const bool is_number = numbers.size() == outputs[0].ints->size();
    const auto id = static_cast<size_t>(node.outputs[0]);
    if (id < ints_.size()) ints_[id] = std::move(outputs[0].ints);
    return is_number ? std::optional(numbers) : std::nullopt;
  }

 private:
  bool known(ValueId id) const {
    return static_cast<size_t>(id) < ints_.size() && ints_[static_cast<size_t>(id)].has_value();
  }
  Rewriter& rewriter_;
  std::vector<std::optional<std::vector<Dim>>> ints_;
};

Tensor make_ints(ElementType element, int rank, const std::vector<int64_t>& numbers) {
  const auto count = static_cast<int64_t>(numbers.size());
  Tensor tensor(element, rank == 0 ? Shape() : Shape{count});
  for (int64_t i = 0; i < count; ++i) {
    const int64_t number = numbers[static_cast<size_t>(i)];
    if (element == ElementType::kI64)
      tensor.data<int64_t>()[i] = number;
    else
      tensor.data<int32_t>()[i] = static_cast<int32_t>(number);
  }
  return tensor;
}

bool is_constant_free(const Rewriter& rewriter, const Node& node) {
  return node.inputs.size() == 2 && node.inputs[1] != kNoValue && rewriter.constant(node.inputs[1]) == nullptr;
}

// The known target of a Reshape or an Expand that computes it.
void set_target(Rewriter& rewriter, Node& node) {
  if (!is_constant_free(rewriter, node) || node.get_int("allowzero", 0) != 0) return;
  const ValueId x = node.inputs[0], y = node.outputs[0];
  if (!rewriter.has_rank(x) || !rewriter.has_rank(y)) return;
  std::optional<std::vector<int64_t>> target;
  if (node.op_type == "Reshape") {
    target = find_reshape_target(rewriter.dims(x), rewriter.dims(y));
  } else {
    const Dims &from = rewriter.dims(x), &to = rewriter.dims(y);
    target.emplace();
    for (size_t i = 0; i < to.size() && target; ++i) {
      const size_t added = to.size() - from.size();
      if (to[i].is_known())
        target->push_back(to[i].value());
      else if (i >= added && from[i - added] == to[i])
        target->push_back(1);  // the input's stays
      else
        target.reset();
    }
  }
  if (!target) return;
  const std::string name = rewriter.graph().value(y).name + "/target";
  rewriter.set_input(node, 1, rewriter.add_constant(Tensor::vector<int64_t>(*target), name));
}

// An operand that is the same number everywhere, where another has the shape of the result: the number will do.
void shrink_fill(Rewriter& rewriter, Node& node) {
  const ValueId y = node.outputs[0];
  const bool broadcasts =
      node.op_type == "Where" || (node.inputs.size() == 2 && node.opset >= 7 &&
                                  (node.op_type == "Add" || node.op_type == "Sub" || node.op_type == "Mul" ||
                                   node.op_type == "Div" || node.op_type == "Equal"));
  if (!broadcasts || !rewriter.has_rank(y)) return;
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    const Node* fill = rewriter.made_by(node.inputs[i], "ConstantOfShape");
    if (fill == nullptr || fill->outputs[0] != node.inputs[i]) continue;
    bool keeps_shape = false;
    for (size_t j = 0; j < node.inputs.size(); ++j) keeps_shape |= j != i && rewriter.has_same_dims(node.inputs[j], y);
    const Tensor* value = fill->find_tensor("value");
    if (!keeps_shape || (value != nullptr && value->count() != 1)) continue;
    const Tensor number = value != nullptr ? value->reshaped(Shape()) : Tensor::scalar<float>(0);
    rewriter.set_input(node, i, rewriter.add_constant(number, rewriter.graph().value(y).name + "/fill"));
  }
}

// A run that keeps the order of the elements: one Reshape of where it began, or nothing at all.
bool merge_run(Rewriter& rewriter, Node& node) {
  const ValueId y = node.outputs[0];
  if (!rewriter.has_rank(y)) return false;
  struct Step {
    const Node* node;
    ValueId from, to;
  };
  std::vector<Step> steps = {{&node, node.inputs[0], y}};
  while (steps.size() < kMaxSteps) {
    const ValueId id = steps.back().from;
    const Node* before = rewriter.producer(id);
    const bool moves =
        before != nullptr && (is_view(*before) || (before->domain.empty() && before->op_type == "Transpose"));
    if (!moves || !rewriter.has_rank(id)) break;
    steps.push_back({before, before->inputs[0], id});
  }
  for (size_t first = steps.size(); first > 0; --first) {
    const ValueId base = steps[first - 1].from;
    const bool is_same = rewriter.has_same_dims(base, y);
    if (!rewriter.has_rank(base) || (first == 1 && !is_same && node.op_type != "Transpose")) continue;
    AxisTrace trace(rewriter.dims(base));
    bool fits = true;
    for (size_t i = first; i-- > 0 && fits;) {
      if (steps[i].node->op_type == "Transpose")
        fits = trace.transpose(steps[i].node->get_ints("perm"));
      else
        fits = trace.reshape(rewriter.dims(steps[i].to));
    }
    if (!fits || !trace.keeps_order()) continue;
    if (is_same) {
      rewriter.substitute(y, base);
      return true;
    }
    const auto target = find_reshape_target(rewriter.dims(base), rewriter.dims(y));
    if (!target) continue;
    const ValueId shape =
        rewriter.add_constant(Tensor::vector<int64_t>(*target), rewriter.graph().value(y).name + "/target");
    rewriter.replace(node, make_node("", "Reshape", 13, node, {base, shape}));
    return true;
  }
  return false;
}

// Reshape(product(Reshape(x)) [+ bias]) where x has the leading dimensions that the result has.
bool lift_product(Rewriter& rewriter, Node& node) {
  const ValueId y = node.outputs[0];
  if (node.op_type != "Reshape" || !rewriter.has_rank(y)) return false;
  ValueId id = node.inputs[0], bias = kNoValue;
  if (const Node* sum = rewriter.only_made_by(id, "Add"); sum != nullptr && sum->opset >= 7) {
    const size_t i = rewriter.constant(sum->inputs[0]) != nullptr ? 0 : 1;
    const Tensor* tensor = rewriter.f32_constant(sum->inputs[i]);
    if (tensor == nullptr || tensor->rank() != 1) return false;
    bias = sum->inputs[i];
    id = sum->inputs[1 - i];
  }
  const Node* product = rewriter.producer(id);
  if (product == nullptr || !rewriter.has_one_use(id) || product->inputs.size() < 2) return false;
  const bool is_gemm = product->domain.empty() && product->op_type == "Gemm";
  if (!is_gemm && !(product->domain.empty() && product->op_type == "MatMul")) return false;
  if (product->get_int("transA", 0) != 0 || rewriter.f32_constant(product->inputs[1]) == nullptr) return false;
  const Node* rows = rewriter.made_by(product->inputs[0], "Reshape");
  if (rows == nullptr || !rewriter.has_rank(rows->inputs[0]) || rewriter.rank(product->inputs[1]) != 2) return false;
  if (!rewriter.has_rank(product->inputs[0]) || rewriter.rank(product->inputs[0]) != 2) return false;
  const Dims &x = rewriter.dims(rows->inputs[0]), &out = rewriter.dims(y);
  if (x.size() < 3 || out.size() != x.size() || !(x.back() == rewriter.dims(product->inputs[0])[1])) return false;
  if (!std::equal(x.begin(), x.end() - 1, out.begin()) || !(out.back() == rewriter.dims(id)[1])) return false;
  Node made = make_node(kSluice, "FusedMatMul", 1, *product, {rows->inputs[0], product->inputs[1]});
  if (is_gemm) {
    const bool has_c =
        product->inputs.size() > 2 && product->inputs[2] != kNoValue && product->get_float("beta", 1) != 0;
    if (has_c) {
      const Tensor* c = rewriter.f32_constant(product->inputs[2]);
      if (c == nullptr || c->rank() != 1 || product->get_float("beta", 1) != 1 || bias != kNoValue) return false;
      bias = product->inputs[2];
    }
    if (product->get_int("transB", 0) != 0) made.attributes["transB"] = passes::make_int(1);
    if (const float alpha = product->get_float("alpha", 1); alpha != 1) made.attributes["alpha"] = make_float(alpha);
  }
  if (bias != kNoValue) made.inputs.push_back(bias);
  rewriter.replace(node, std::move(made));
  return true;
}

}  // namespace

bool simplify_shapes(Graph& graph, PassState& state) {
  Rewriter rewriter(graph, state);
  KnownInts ints(rewriter);
  for (Node& node : graph.nodes) {
    if (rewriter.skips(node)) continue;
    if (const auto numbers = ints.follow(node)) {
      const ValueType type = rewriter.type(node.outputs[0]);
      const std::string name = graph.value(node.outputs[0]).name + "/known";
      if (rewriter.num_uses(node.outputs[0]) == 0) continue;
      rewriter.substitute(node.outputs[0], rewriter.add_constant(make_ints(type.element, type.rank(), *numbers), name));
      continue;
    }
    if (!node.domain.empty() || node.outputs.empty() || node.inputs.empty() || node.inputs[0] == kNoValue) continue;
    shrink_fill(rewriter, node);
    const bool is_reshape = node.op_type == "Reshape" && node.opset >= 5;
    if (is_reshape || node.op_type == "Expand") set_target(rewriter, node);
    if (is_reshape && lift_product(rewriter, node)) continue;
    const bool may_merge = is_reshape || node.op_type == "Transpose" || node.op_type == "Flatten" ||
                           node.op_type == "Squeeze" || node.op_type == "Unsqueeze";
    if (may_merge && rewriter.num_uses(node.outputs[0]) > 0) merge_run(rewriter, node);
  }
  return rewriter.finish();
}

}  // namespace sluice::graph::passes
