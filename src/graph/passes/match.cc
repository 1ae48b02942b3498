#include "graph/passes/match.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace sluice::graph::passes {

Attribute make_int(int64_t value) {
  Attribute a;
  a.kind = Attribute::Kind::kInt;
  a.i = value;
  return a;
}
Attribute make_ints(std::vector<int64_t> values) {
  Attribute a;
  a.kind = Attribute::Kind::kInts;
  a.ints = std::move(values);
  return a;
}
Attribute make_float(float value) {
  Attribute a;
  a.kind = Attribute::Kind::kFloat;
  a.f = value;
  return a;
}
Attribute make_floats(std::vector<float> values) {
  Attribute a;
  a.kind = Attribute::Kind::kFloats;
  a.floats = std::move(values);
  return a;
}
Attribute make_string(std::string value) {
  Attribute a;
  a.kind = Attribute::Kind::kString;
  a.s = std::move(value);
  return a;
}
Attribute make_strings(std::vector<std::string> values) {
  Attribute a;
  a.kind = Attribute::Kind::kStrings;
  a.strings = std::move(values);
  return a;
}

Node make_node(std::string_view domain, std::string_view op_type, int opset, const Node& named_after,
               std::vector<ValueId> inputs, std::map<std::string, Attribute, std::less<>> attributes) {
  Node node;
  node.op_type = op_type;
  node.domain = domain;
  node.name = named_after.name;
  node.opset = opset;
  node.inputs = std::move(inputs);
  node.attributes = std::move(attributes);
  node.op = find_op(domain, op_type, opset);
  CHECK(node.op != nullptr, domain, op_type, opset);
  return node;
}

bool Rewriter::is_whole(const Node& node) {
  static const std::unordered_map<std::string_view, size_t> kNeeded = {{"Add", 2},
                                                                       {"Sub", 2},
                                                                       {"Mul", 2},
                                                                       {"Div", 2},
                                                                       {"Pow", 2},
                                                                       {"Where", 3},
                                                                       {"Conv", 2},
                                                                       {"MatMul", 2},
                                                                       {"ConvTranspose", 2},
                                                                       {"LayerNormalization", 2},
                                                                       {"Gemm", 2},
                                                                       {"PRelu", 2},
                                                                       {"Expand", 2},
                                                                       {"FusedMatMul", 2},
                                                                       {"RMSNormalization", 2},
                                                                       {"And", 2},
                                                                       {"Or", 2},
                                                                       {"FusedConv", 2},
                                                                       {"Gather", 2},
                                                                       {"BatchNormalization", 5},
                                                                       {"Equal", 2},
                                                                       {"Less", 2},
                                                                       {"Greater", 2},
                                                                       {"LessOrEqual", 2},
                                                                       {"GreaterOrEqual", 2},
                                                                       {"Tile", 2},
                                                                       {"QuantizeLinear", 2},
                                                                       {"DequantizeLinear", 2},
                                                                       {"Attention", 3}};
  size_t needed = 1;
  if (const auto found = kNeeded.find(node.op_type); found != kNeeded.end())
    needed = found->second;
  else if (node.op_type == "Reshape")
    needed = node.opset >= 5 ? 2 : 1;
  if (node.inputs.size() < needed || node.outputs.empty() || node.outputs[0] == kNoValue) return false;
  return std::none_of(node.inputs.begin(), node.inputs.begin() + static_cast<std::ptrdiff_t>(needed),
                      [](ValueId id) { return id == kNoValue; });
}

Rewriter::Rewriter(Graph& graph, PassState& state)
    : graph_(graph),
      state_(state),
      is_input_(mark_inputs(graph)),
      is_output_(graph.values.size(), false),
      producer_(graph.values.size(), nullptr),
      uses_(graph.values.size(), 0),
      users_(graph.values.size()) {
  for (Node& node : graph.nodes) {
    const bool can_match = is_whole(node);
    for (const ValueId id : node.outputs) {
      if (id != kNoValue && can_match) producer_[static_cast<size_t>(id)] = &node;
    }
    add_uses(node, &node);
  }
  for (const ValueId id : graph.outputs) {
    ++uses_[static_cast<size_t>(id)];
    is_output_[static_cast<size_t>(id)] = true;
  }
}

Node* Rewriter::made_by(ValueId id, std::string_view op_type, std::string_view domain) const {
  Node* node = producer(id);
  return node != nullptr && node->op_type == op_type && node->domain == domain && node->outputs[0] == id ? node
                                                                                                         : nullptr;
}

std::vector<Node*> Rewriter::users(ValueId id) const {
  std::vector<Node*> users;
  for (Node* node : users_[static_cast<size_t>(id)]) {
    bool reads = false;
    if (!is_dead(*node)) for_each_use(*node, [&](ValueId used) { reads |= used == id; });
    if (reads && std::find(users.begin(), users.end(), node) == users.end()) users.push_back(node);
  }
  return users;
}

std::optional<int64_t> Rewriter::known_dim(ValueId id, int axis) const {
  if (!has_rank(id)) return std::nullopt;
  if (axis < 0) axis += rank(id);
  return axis < 0 || axis >= rank(id) ? std::nullopt : dims(id)[static_cast<size_t>(axis)].known();
}

const Tensor* Rewriter::f32_constant(ValueId id) const {
  const Tensor* tensor = constant(id);
  return tensor != nullptr && tensor->type() == ElementType::kF32 ? tensor : nullptr;
}

std::optional<std::vector<double>> to_doubles(const Tensor& tensor) {
  std::vector<double> values;
  auto copy = [&](auto zero) {
    for (const auto value : tensor.values<decltype(zero)>()) values.push_back(static_cast<double>(value));
    return values;
  };
  switch (tensor.type()) {
    case ElementType::kF32:
      return copy(float{});
    case ElementType::kF64:
      return copy(double{});
    case ElementType::kI32:
      return copy(int32_t{});
    case ElementType::kI64:
      return copy(int64_t{});
    default:
      return std::nullopt;
  }
}

std::optional<double> Rewriter::scalar(ValueId id) const {
  const Tensor* tensor = constant(id);
  if (tensor == nullptr || tensor->count() != 1) return std::nullopt;
  const auto values = to_doubles(*tensor);
  return values ? std::optional((*values)[0]) : std::nullopt;
}

std::optional<Rewriter::WithScalar> Rewriter::with_scalar(const Node& node) const {
  if (node.inputs.size() != 2) return std::nullopt;
  for (const size_t i : {size_t{1}, size_t{0}}) {
    const ValueId other = node.inputs[1 - i];
    const std::optional<double> number = scalar(node.inputs[i]);
    if (!number || other == kNoValue) continue;
    const int rank_of_number = constant(node.inputs[i])->rank();
    if (rank_of_number > 0 && (!has_rank(other) || rank(other) < rank_of_number)) continue;
    return WithScalar{other, *number, i == 1};
  }
  return std::nullopt;
}

bool Rewriter::take_bytes(int64_t bytes) {
  if (bytes > state_.bytes_left) return false;
  state_.bytes_left -= bytes;
  return true;
}

ValueId Rewriter::grow(ValueId id) {
  const auto size = static_cast<size_t>(id) + 1;
  is_input_.resize(size, false);
  is_output_.resize(size, false);
  producer_.resize(size, nullptr);
  uses_.resize(size, 0);
  users_.resize(size);
  return id;
}

ValueId Rewriter::add_constant(Tensor tensor, const std::string& name) {
  const ValueId id = add_value(ValueType::tensor(tensor.type(), to_dims(tensor.shape())), name);
  graph_.value(id).constant = Value(std::move(tensor));
  return id;
}

void Rewriter::add_uses(const Node& node, Node* as) {
  for_each_use(node, [&](ValueId id) {
    ++uses_[static_cast<size_t>(id)];
    users_[static_cast<size_t>(id)].push_back(as);
  });
}

void Rewriter::drop_use(ValueId first) {
  std::vector<ValueId> dropped = {first};
  while (!dropped.empty()) {
    const ValueId id = dropped.back();
    dropped.pop_back();
    if (--uses_[static_cast<size_t>(id)] > 0) continue;
    Node* node = producer(id);
    if (node == nullptr || is_dead(*node)) continue;
    const bool is_used = std::any_of(node->outputs.begin(), node->outputs.end(),
                                     [&](ValueId output) { return output != kNoValue && num_uses(output) > 0; });
    if (is_used) continue;
    for_each_use(*node, [&](ValueId input) { dropped.push_back(input); });
    node->op = nullptr;  // what marks a dead node
  }
}

void Rewriter::drop_uses(const Node& node) {
  std::vector<ValueId> inputs;
  for_each_use(node, [&](ValueId id) { inputs.push_back(id); });
  for (const ValueId id : inputs) drop_use(id);
}

Node& Rewriter::replace(Node& node, Node made) {
  has_changed_ = true;
  made.outputs = node.outputs;
  add_uses(made, &node);  // before the old ones go, which may be the same
  const Node old = std::exchange(node, std::move(made));
  drop_uses(old);
  return node;
}

Node& Rewriter::insert_before(Node& node, Node made) {
  has_changed_ = true;
  Node& inserted = inserted_.emplace_back(std::move(made));
  before_[&node].push_back(&inserted);
  for (const ValueId id : inserted.outputs) {
    if (id != kNoValue) producer_[static_cast<size_t>(id)] = &inserted;
  }
  add_uses(inserted, &inserted);
  return inserted;
}

ValueId Rewriter::insert_before(Node& node, Node made, ValueType type, const std::string& name) {
  const ValueId id = add_value(std::move(type), name);
  made.outputs = {id};
  insert_before(node, std::move(made));
  return id;
}

void Rewriter::remove(Node& node) {
  has_changed_ = true;
  const Node old = node;
  node.op = nullptr;
  drop_uses(old);
}

void Rewriter::set_input(Node& node, size_t i, ValueId id) {
  has_changed_ = true;
  const ValueId old = std::exchange(node.inputs[i], id);
  if (id != kNoValue) {
    ++uses_[static_cast<size_t>(id)];
    users_[static_cast<size_t>(id)].push_back(&node);
  }
  if (old != kNoValue) drop_use(old);
}

void Rewriter::substitute(ValueId from, ValueId to) {
  has_changed_ = true;
  for (Node* node : users(from)) {
    for (ValueId& id : node->inputs) {
      if (id == from) id = to;
    }
    for (auto& [name, attribute] : node->attributes) {
      for (auto& body : attribute.graphs) {
        for (Capture& capture : body->captures) {
          if (capture.outer == from) capture.outer = to;
        }
      }
    }
    users_[static_cast<size_t>(to)].push_back(node);
  }
  for (ValueId& id : graph_.outputs) {
    if (id != from) continue;
    id = to;
    is_output_[static_cast<size_t>(to)] = true;
  }
  is_output_[static_cast<size_t>(from)] = false;
  // Exact counts of the two values, from those who read them.
  uses_[static_cast<size_t>(to)] = static_cast<int>(std::count(graph_.outputs.begin(), graph_.outputs.end(), to));
  for (Node* node : users(to)) {
    for_each_use(*node, [&](ValueId id) { uses_[static_cast<size_t>(to)] += id == to ? 1 : 0; });
  }
  uses_[static_cast<size_t>(from)] = 1;
  drop_use(from);
}

bool Rewriter::finish() {
  if (!has_changed_) return false;
  std::vector<Node> nodes;
  nodes.reserve(graph_.nodes.size() + inserted_.size());
  auto add = [&](auto&& self, Node& node) -> void {
    if (const auto found = before_.find(&node); found != before_.end()) {
      for (Node* inserted : found->second) self(self, *inserted);
    }
    if (!is_dead(node)) nodes.push_back(std::move(node));
  };
  for (Node& node : graph_.nodes) add(add, node);
  graph_.nodes = std::move(nodes);
  return true;
}

bool is_close(double a, double b, double relative) { return std::abs(a - b) <= relative * std::abs(b); }

std::optional<Activation> find_activation(const Rewriter& rewriter, const Node& node) {
  if (!node.domain.empty() || node.inputs.empty() || !rewriter.is_f32(node.inputs[0])) return std::nullopt;
  const std::string& op = node.op_type;
  if (op == "Relu" || op == "Sigmoid" || op == "Tanh" || op == "HardSwish" || op == "Mish") return Activation{op, {}};
  if (op == "LeakyRelu") return Activation{op, {node.get_float("alpha", 0.01f)}};
  if (op == "Elu") return Activation{op, {node.get_float("alpha", 1.0f)}};
  if (op == "Swish") return Activation{op, {node.get_float("alpha", 1.0f)}};
  if (op == "HardSigmoid") return Activation{op, {node.get_float("alpha", 0.2f), node.get_float("beta", 0.5f)}};
  if (op == "Gelu") {
    return Activation{node.get_string("approximate", "none") == "tanh" ? "GeluTanh" : "Gelu", {}};
  }
  if (op == "Clip") {
    float bounds[2] = {std::numeric_limits<float>::lowest(), std::numeric_limits<float>::max()};
    if (node.opset < 11) {
      bounds[0] = node.get_float("min", bounds[0]);
      bounds[1] = node.get_float("max", bounds[1]);
    }
    for (size_t i = 1; node.opset >= 11 && i < 3 && i < node.inputs.size(); ++i) {
      if (node.inputs[i] == kNoValue) continue;
      const std::optional<double> bound = rewriter.scalar(node.inputs[i]);
      if (!bound) return std::nullopt;
      bounds[i - 1] = static_cast<float>(*bound);
    }
    return Activation{op, {bounds[0], bounds[1]}};
  }
  return std::nullopt;
}

void set_activation(Node& node, const Activation& activation) {
  node.attributes["activation"] = make_string(activation.name);
  if (!activation.parameters.empty()) node.attributes["activation_params"] = make_floats(activation.parameters);
}

std::optional<std::vector<int64_t>> find_reshape_target(const Dims& from, const Dims& to) {
  std::vector<int64_t> target;
  bool has_rest = false;
  for (size_t i = 0; i < to.size(); ++i) {
    if (to[i].is_known() && to[i].value() > 0) {
      target.push_back(to[i].value());
    } else if (i < from.size() && from[i] == to[i]) {
      target.push_back(0);
    } else if (!has_rest && !to[i].is_known()) {
      target.push_back(-1);
      has_rest = true;
    } else {
      return std::nullopt;
    }
  }
  return target;
}

}  // namespace sluice::graph::passes
