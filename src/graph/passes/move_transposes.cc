// move-transposes: pairs of transpositions cancel, also across what stands between them.
//
// Models of channels-last frameworks transpose in front of and behind every convolution; PyTorch's attention swaps
// batch and length. From a Transpose on, a region is grown forward over operators that do not care in which order the
// axes come, if their axes are renamed: by the element, sums and softmaxes along axes, concatenation, slices, pads,
// products with a matrix and normalisations along the last axis. At its border stand transpositions, which vanish or
// merge, and other readers, which need one. If fewer remain than there are, the region is computed on what was there
// before the Transpose. Each such step takes at least one away, so that the pass ends. A Transpose of a Transpose
// becomes one; that those which keep the order of the elements are reshapes is simplify-shapes' business.
#include <algorithm>
#include <map>
#include <set>

#include "graph/passes/match.h"

namespace sluice::graph::passes {
namespace {

constexpr size_t kMaxRegion = 64;
constexpr int kMaxSteps = 32;  // of one run of the pass
constexpr int64_t kMaxConstantBytes = 1 << 20;

using Order = std::vector<int64_t>;  // output axis i is axis order[i]

Order inverse(const Order& order) {
  Order result(order.size());
  for (size_t i = 0; i < order.size(); ++i) result[static_cast<size_t>(order[i])] = static_cast<int64_t>(i);
  return result;
}
bool is_identity(const Order& order) {
  for (size_t i = 0; i < order.size(); ++i) {
    if (order[i] != static_cast<int64_t>(i)) return false;
  }
  return true;
}

// Of a Transpose whose rank is known; nullopt if it is none or is wrong.
std::optional<Order> order_of(const Rewriter& rewriter, const Node& node) {
  if (node.op_type != "Transpose" || !node.domain.empty() || !rewriter.has_rank(node.inputs[0])) return std::nullopt;
  const auto rank = static_cast<size_t>(rewriter.rank(node.inputs[0]));
  Order order = node.get_ints("perm");
  if (order.empty()) {
    for (size_t i = 0; i < rank; ++i) order.push_back(static_cast<int64_t>(rank - 1 - i));
  }
  std::vector<bool> seen(rank, false);
  if (order.size() != rank) return std::nullopt;
  for (const int64_t axis : order) {
    if (axis < 0 || axis >= static_cast<int64_t>(rank) || seen[static_cast<size_t>(axis)]) return std::nullopt;
    seen[static_cast<size_t>(axis)] = true;
  }
  return order;
}

Dims permute(const Dims& dims, const Order& order) {
  Dims result;
  for (const int64_t axis : order) result.push_back(dims[static_cast<size_t>(axis)]);
  return result;
}

// A small constant with its axes in another order.
Tensor permute(const Tensor& tensor, const Order& order) {
  Shape shape;
  const Shape strides = strides_of(tensor.shape());
  for (const int64_t axis : order) shape.push_back(tensor.dim(static_cast<int>(axis)));
  Tensor made(tensor.type(), shape);
  const auto bytes = static_cast<size_t>(get_info(tensor.type()).bytes);
  const auto* from = static_cast<const uint8_t*>(tensor.raw());
  auto* to = static_cast<uint8_t*>(made.raw());
  for (int64_t i = 0; i < made.count(); ++i) {
    int64_t rest = i, offset = 0;
    for (int axis = shape.rank() - 1; axis >= 0; --axis) {
      offset += rest % shape[axis] * strides[static_cast<int>(order[static_cast<size_t>(axis)])];
      rest /= shape[axis];
    }
    std::memcpy(to + static_cast<size_t>(i) * bytes, from + static_cast<size_t>(offset) * bytes, bytes);
  }
  return made;
}

bool is_in(const std::string& op, std::initializer_list<const char*> names) {
  return std::any_of(names.begin(), names.end(), [&](const char* name) { return op == name; });
}

// By the element of one tensor; other inputs are numbers.
bool is_unary(const std::string& op) {
  return is_in(op, {"Relu",    "LeakyRelu",   "Elu",       "Selu",     "Celu",
                    "Sigmoid", "HardSigmoid", "HardSwish", "Swish",    "Mish",
                    "Gelu",    "Tanh",        "Softplus",  "Softsign", "ThresholdedRelu",
                    "Shrink",  "Clip",        "Cast",      "Identity", "Abs",
                    "Neg",     "Sign",        "Ceil",      "Floor",    "Round",
                    "Sqrt",    "Reciprocal",  "Exp",       "Log",      "Erf",
                    "Sin",     "Cos",         "Not",       "IsNaN",    "IsInf"});
}
// By the element of several that broadcast.
bool is_broadcasting(const std::string& op) {
  return is_in(op, {"Add",  "Sub",   "Mul",   "Div",   "Pow",  "Min",         "Max",     "Sum",
                    "Mean", "Where", "PRelu", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual",
                    "And",  "Or",    "Xor",   "Mod"});
}
bool is_reduction(const std::string& op) {
  return is_in(op, {"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
                    "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"});
}

class Region {
 public:
  Region(Rewriter& rewriter, Node& transpose, Order order)
      : rewriter_(rewriter), transpose_(transpose), order_(std::move(order)) {}

  // True if it was computed without the Transpose.
  bool run() {
    const ValueId start = transpose_.outputs[0];
    members_.insert(start);
    pending_.push_back(start);
    while (!pending_.empty()) {
      const ValueId id = pending_.back();
      pending_.pop_back();
      if (!look_at_readers(id)) return false;
    }
    // The Transpose itself goes; it comes back where it is needed.
    if (gain_ + 1 <= static_cast<int>(borders_.size()) || !rewriter_.take_bytes(bytes_)) return false;
    apply();
    return true;
  }

 private:
  size_t rank() const { return order_.size(); }
  bool is_member(ValueId id) const { return members_.contains(id); }

  bool look_at_readers(ValueId id) {
    if (rewriter_.is_output(id)) borders_.insert(id);
    for (Node* node : rewriter_.users(id)) {
      if (nodes_.contains(node)) continue;
      if (rewriter_.is_inserted(*node)) return false;  // the next step sees it in its place
      if (rewriter_.skips(*node)) {
        borders_.insert(id);
      } else if (const auto order = order_of(rewriter_, *node); order && node->inputs[0] == id) {
        nodes_.insert(node);
        if (is_identity(compose(*order))) ++gain_;
      } else if (may_take(*node, id)) {
        nodes_.insert(node);
        if (nodes_.size() > kMaxRegion) return false;
        for (const ValueId output : node->outputs) {
          if (output == kNoValue || leaves_[node]) continue;
          members_.insert(output);
          pending_.push_back(output);
        }
      } else {
        borders_.insert(id);
      }
    }
    return true;
  }

  // Of what was there before: first order_, then `next`.
  Order compose(const Order& next) const {
    Order result;
    for (const int64_t axis : next) result.push_back(order_[static_cast<size_t>(axis)]);
    return result;
  }
  bool keeps_last() const { return order_.back() == static_cast<int64_t>(rank()) - 1; }
  std::optional<int64_t> map_axis(int64_t axis) const {
    const auto count = static_cast<int64_t>(rank());
    if (axis < 0) axis += count;
    if (axis < 0 || axis >= count) return std::nullopt;
    return order_[static_cast<size_t>(axis)];
  }

  // An input that can be had in the order that was before.
  bool may_read(ValueId id) {
    if (is_member(id)) return true;
    if (const Tensor* tensor = rewriter_.constant(id); tensor != nullptr) {
      return tensor->rank() <= static_cast<int>(rank()) && tensor->type() != ElementType::kString &&
             get_info(tensor->type()).packed_bits >= 8 && add_bytes(tensor->bytes());
    }
    if (!rewriter_.has_rank(id)) return false;
    if (rewriter_.rank(id) == 0) return true;
    if (rewriter_.rank(id) != static_cast<int>(rank())) return false;
    Node* other = rewriter_.producer(id);
    const auto order = other == nullptr ? std::nullopt : order_of(rewriter_, *other);
    if (order && *order == order_) {
      if (rewriter_.has_one_use(id)) ++gain_;
      return true;
    }
    --gain_;  // it has to be transposed
    return true;
  }

  bool add_bytes(int64_t bytes) {
    bytes_ += bytes;
    return bytes <= kMaxConstantBytes;
  }

  bool may_take(Node& node, ValueId id) {
    const bool is_ours = node.domain == kSluice || (node.domain == kMicrosoft && node.op_type != "FusedMatMul");
    if ((!node.domain.empty() && !is_ours) || has_body(node) || node.opset < 7) {
      if (node.domain != kSluice) return false;
    }
    for (const ValueId output : node.outputs) {
      if (output != kNoValue && (!rewriter_.has_rank(output))) return false;
    }
    const std::string& op = node.op_type;
    const size_t out_rank = static_cast<size_t>(rewriter_.rank(node.outputs[0]));
    if (op == "FusedMatMul" || op == "MatMul") {
      const bool is_right = node.domain == kSluice || (node.domain.empty() && op == "MatMul");
      if (!is_right || node.inputs[0] != id || out_rank != rank() || !keeps_last()) return false;
      if (node.get_int("transA", 0) != 0 || rewriter_.constant(node.inputs[1]) == nullptr) return false;
      if (rewriter_.rank(node.inputs[1]) != 2) return false;
      return node.inputs.size() < 4 || node.inputs[3] == kNoValue || may_read(node.inputs[3]);
    }
    if (!node.domain.empty() || out_rank != rank()) return node.domain.empty() && may_reduce(node, id);
    if (is_unary(op)) {
      for (size_t i = 1; i < node.inputs.size(); ++i) {
        if (node.inputs[i] == id) return false;
      }
      return node.inputs[0] == id;
    }
    if (is_broadcasting(op)) {
      if (op == "PRelu" && node.inputs[0] != id) return false;
      const int before = gain_;
      for (const ValueId input : node.inputs) {
        if (input == kNoValue || !may_read(input)) {
          gain_ = before;
          return false;
        }
      }
      return true;
    }
    if (op == "LayerNormalization" || op == "RMSNormalization") {
      const int64_t axis = node.get_int("axis", -1);
      const bool is_last = axis == -1 || axis == static_cast<int64_t>(rank()) - 1;
      return node.inputs[0] == id && is_last && keeps_last() && node.outputs.size() == 1;
    }
    if (op == "Concat") {
      if (!node.has("axis") || !map_axis(node.get_int("axis", 0))) return false;
      const int before = gain_;
      for (const ValueId input : node.inputs) {
        const bool fits = input != kNoValue && rewriter_.has_rank(input) &&
                          rewriter_.rank(input) == static_cast<int>(rank()) && may_read(input);
        if (fits) continue;
        gain_ = before;
        return false;
      }
      return true;
    }
    if (op == "Softmax" || op == "LogSoftmax") {
      return node.opset >= 13 && map_axis(node.get_int("axis", -1)).has_value();
    }
    if (op == "Split") return node.inputs[0] == id && map_axis(node.get_int("axis", 0)).has_value();
    if (op == "Slice") return may_slice(node, id);
    if (op == "Pad") return may_pad(node, id);
    return may_reduce(node, id);
  }

  std::optional<Order> known_axes(const Node& node, size_t input) const {
    Order axes = node.get_ints("axes");
    if (input < node.inputs.size() && node.inputs[input] != kNoValue) {
      const Tensor* tensor = rewriter_.constant(node.inputs[input]);
      if (tensor == nullptr || !is_integer(tensor->type()) || tensor->count() > kMaxRank) return std::nullopt;
      axes = to_ints(*tensor);
    }
    for (int64_t& axis : axes) {
      const auto mapped = map_axis(axis);
      if (!mapped) return std::nullopt;
      axis = *mapped;
    }
    return axes;
  }

  bool may_slice(const Node& node, ValueId id) const {
    if (node.opset < 10 || node.inputs.size() < 4 || node.inputs[0] != id) return false;
    const auto axes = known_axes(node, 3);
    return axes && !axes->empty();
  }

  bool may_pad(const Node& node, ValueId id) const {
    if (node.opset < 11 || node.inputs.size() < 2 || node.inputs[0] != id) return false;
    if (node.inputs.size() > 3 && node.inputs[3] != kNoValue) return false;
    const Tensor* pads = rewriter_.constant(node.inputs[1]);
    return pads != nullptr && pads->type() == ElementType::kI64 && pads->count() == 2 * static_cast<int64_t>(rank());
  }

  // A reduction that keeps its axes stays in the region. One that drops them leaves it, if the others are in order.
  bool may_reduce(const Node& node, ValueId id) {
    if (!is_reduction(node.op_type) || node.inputs[0] != id) return false;
    const auto axes = known_axes(node, 1);
    if (!axes || axes->empty()) return false;
    if (node.get_int("keepdims", 1) != 0) return true;
    Order rest;
    for (const int64_t axis : order_) {
      if (std::find(axes->begin(), axes->end(), axis) == axes->end()) rest.push_back(axis);
    }
    if (!std::is_sorted(rest.begin(), rest.end())) return false;
    leaves_[&node] = true;
    return true;
  }

  // What was there before a member was transposed.
  ValueId read(Node& node, ValueId id) {
    if (const auto found = before_.find(id); found != before_.end()) return found->second;
    const Tensor* tensor = rewriter_.constant(id);
    if (tensor != nullptr) {
      if (tensor->rank() == 0) return id;
      Shape full;
      for (int i = tensor->rank(); i < static_cast<int>(rank()); ++i) full.push_back(1);
      for (const int64_t dim : tensor->shape()) full.push_back(dim);
      const std::string name = rewriter_.graph().value(id).name + "/transposed";
      return before_[id] = rewriter_.add_constant(permute(tensor->reshaped(full), inverse(order_)), name);
    }
    if (rewriter_.rank(id) == 0) return id;
    Node* other = rewriter_.producer(id);
    const auto order = other == nullptr ? std::nullopt : order_of(rewriter_, *other);
    if (order && *order == order_ && !before_.contains(other->inputs[0])) return other->inputs[0];
    const Order back = inverse(order_);
    ValueType type = rewriter_.type(id);
    type.dims = permute(*type.dims, back);
    const std::string name = rewriter_.graph().value(id).name + "/transposed";
    Node made = make_node("", "Transpose", 13, node, {id}, {{"perm", make_ints(back)}});
    return before_[id] = rewriter_.insert_before(node, std::move(made), std::move(type), name);
  }

  void apply() {
    before_[transpose_.outputs[0]] = transpose_.inputs[0];
    for (Node* node : nodes_) {  // in the order of the graph: by address, for they lie in one row
      if (order_of(rewriter_, *node) && before_.contains(node->inputs[0]))
        move_transpose(*node);
      else
        move(*node);
    }
  }

  void move_transpose(Node& node) {
    const Order order = compose(*order_of(rewriter_, node));
    const ValueId from = before_.at(node.inputs[0]);
    if (is_identity(order))
      rewriter_.substitute(node.outputs[0], from);
    else
      rewriter_.replace(node, make_node("", "Transpose", 13, node, {from}, {{"perm", make_ints(order)}}));
  }

  void move(Node& node) {
    Node made = node;
    const std::string& op = node.op_type;
    const std::string name = rewriter_.graph().value(node.outputs[0]).name;
    const bool reads_all = is_broadcasting(op) || op == "Concat";
    for (size_t i = 0; i < made.inputs.size(); ++i) {
      const bool is_tensor = i == 0 || reads_all || (op == "FusedMatMul" && i == 3);
      if (is_tensor && made.inputs[i] != kNoValue) made.inputs[i] = read(node, made.inputs[i]);
    }
    if (op == "Concat" || op == "Softmax" || op == "LogSoftmax" || op == "Split") {
      made.attributes["axis"] = make_int(*map_axis(node.get_int("axis", op == "Split" ? 0 : -1)));
    } else if (op == "Slice" || is_reduction(op)) {
      const size_t input = op == "Slice" ? 3 : 1;
      const Order axes = *known_axes(node, input);
      if (input < node.inputs.size()) {
        made.inputs[input] = rewriter_.add_constant(Tensor::vector<int64_t>(axes), name + "/axes");
      } else {
        made.attributes["axes"] = make_ints(axes);
      }
    } else if (op == "Pad") {
      const Order pads = to_ints(*rewriter_.constant(node.inputs[1]));
      Order moved(pads.size());
      for (size_t i = 0; i < rank(); ++i) {
        const auto axis = static_cast<size_t>(order_[i]);
        moved[axis] = pads[i];
        moved[axis + rank()] = pads[i + rank()];
      }
      made.inputs[1] = rewriter_.add_constant(Tensor::vector<int64_t>(moved), name + "/pads");
    }
    if (leaves_[&node]) {
      rewriter_.replace(node, std::move(made));
      return;
    }
    const std::vector<ValueId> outputs = node.outputs;
    for (ValueId& output : made.outputs) {
      if (output == kNoValue) continue;
      ValueType type = rewriter_.type(output);
      type.dims = permute(*type.dims, inverse(order_));
      const ValueId old = output;
      output = rewriter_.add_value(std::move(type), rewriter_.graph().value(old).name + "/moved");
      before_[old] = output;
    }
    rewriter_.insert_before(node, std::move(made));
    for (const ValueId output : outputs) {
      if (output == kNoValue || !borders_.contains(output)) continue;
      Node back = make_node("", "Transpose", 13, node, {before_.at(output)}, {{"perm", make_ints(order_)}});
      back.outputs = {output};
      rewriter_.insert_before(node, std::move(back));
    }
    rewriter_.remove(node);
  }

  Rewriter& rewriter_;
  Node& transpose_;
  const Order order_;
  std::set<ValueId> members_, borders_;
  std::vector<ValueId> pending_;
  std::set<Node*> nodes_;  // that read members and move
  std::map<const Node*, bool> leaves_;
  std::map<ValueId, ValueId> before_;
  int64_t bytes_ = 0;  // of constants in another order
  int gain_ = 0;       // transpositions that go at the border less those that come at inputs
};

bool merge(Rewriter& rewriter, Node& node, const Order& order) {
  const Node* before = rewriter.producer(node.inputs[0]);
  const auto first = before == nullptr ? std::nullopt : order_of(rewriter, *before);
  if (!first) return false;
  Order both;
  for (const int64_t axis : order) both.push_back((*first)[static_cast<size_t>(axis)]);
  if (is_identity(both))
    rewriter.substitute(node.outputs[0], before->inputs[0]);
  else
    rewriter.replace(node, make_node("", "Transpose", 13, node, {before->inputs[0]}, {{"perm", make_ints(both)}}));
  return true;
}

// All that can be done without seeing what was made; false if that is nothing.
bool step(Graph& graph, PassState& state) {
  Rewriter rewriter(graph, state);
  bool has_changed = false;
  for (Node& node : graph.nodes) {
    if (rewriter.skips(node) || rewriter.num_uses(node.outputs[0]) == 0) continue;
    const auto order = order_of(rewriter, node);
    if (order && merge(rewriter, node, *order)) has_changed = true;
  }
  if (has_changed) return rewriter.finish();
  for (Node& node : graph.nodes) {
    if (rewriter.skips(node) || rewriter.num_uses(node.outputs[0]) == 0) continue;
    const auto order = order_of(rewriter, node);
    if (order) Region(rewriter, node, *order).run();
  }
  return rewriter.finish();
}

}  // namespace

bool move_transposes(Graph& graph, PassState& state) {
  bool has_changed = false;
  for (int i = 0; i < kMaxSteps && step(graph, state); ++i) has_changed = true;
  return has_changed;
}

}  // namespace sluice::graph::passes
