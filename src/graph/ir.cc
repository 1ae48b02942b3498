#include <fmt/format.h>

#include "base/error.h"
#include "graph/ir.h"

namespace sluice::graph {
namespace {

const char* name_of(Attribute::Kind kind) {
  switch (kind) {
    case Attribute::Kind::kFloat: return "a float";
    case Attribute::Kind::kInt: return "an int";
    case Attribute::Kind::kString: return "a string";
    case Attribute::Kind::kTensor: return "a tensor";
    case Attribute::Kind::kGraph: return "a graph";
    case Attribute::Kind::kFloats: return "floats";
    case Attribute::Kind::kInts: return "ints";
    case Attribute::Kind::kStrings: return "strings";
    case Attribute::Kind::kTensors: return "tensors";
    case Attribute::Kind::kGraphs: return "graphs";
    case Attribute::Kind::kType: return "a type";
  }
  return "unknown";
}

const Attribute* find_of_kind(const Node& node, std::string_view name, Attribute::Kind kind) {
  const Attribute* found = node.find(name);
  if (found != nullptr && found->kind != kind) {
    fail(Code::kInvalidArgument, "{}: attribute '{}' is {}; it has to be {}", node.describe(), name,
         name_of(found->kind), name_of(kind));
  }
  return found;
}

}  // namespace

std::string to_string(const ValueType& type) {
  switch (type.kind) {
    case ValueType::Kind::kUnknown: return "unknown";
    case ValueType::Kind::kTensor:
      return fmt::format("{} [{}]", name(type.element), type.dims ? to_string(*type.dims) : "?");
    case ValueType::Kind::kSequence: return "sequence of " + to_string(*type.inner);
    case ValueType::Kind::kOptional: return "optional " + to_string(*type.inner);
    case ValueType::Kind::kMap: return fmt::format("map from {} to {}", name(type.key), name(type.element));
  }
  return "unknown";
}

const Attribute* Node::find(std::string_view name) const {
  const auto found = attributes.find(name);
  return found == attributes.end() ? nullptr : &found->second;
}

int64_t Node::get_int(std::string_view name, int64_t otherwise) const {
  const Attribute* found = find_of_kind(*this, name, Attribute::Kind::kInt);
  return found == nullptr ? otherwise : found->i;
}

float Node::get_float(std::string_view name, float otherwise) const {
  const Attribute* found = find_of_kind(*this, name, Attribute::Kind::kFloat);
  return found == nullptr ? otherwise : found->f;
}

std::string Node::get_string(std::string_view name, const std::string& otherwise) const {
  const Attribute* found = find_of_kind(*this, name, Attribute::Kind::kString);
  return found == nullptr ? otherwise : found->s;
}

std::vector<int64_t> Node::get_ints(std::string_view name, std::vector<int64_t> otherwise) const {
  const Attribute* found = find_of_kind(*this, name, Attribute::Kind::kInts);
  return found == nullptr ? otherwise : found->ints;
}

std::vector<float> Node::get_floats(std::string_view name, std::vector<float> otherwise) const {
  const Attribute* found = find_of_kind(*this, name, Attribute::Kind::kFloats);
  return found == nullptr ? otherwise : found->floats;
}

std::vector<std::string> Node::get_strings(std::string_view name) const {
  const Attribute* found = find_of_kind(*this, name, Attribute::Kind::kStrings);
  return found == nullptr ? std::vector<std::string>() : found->strings;
}

const Tensor* Node::find_tensor(std::string_view name) const {
  const Attribute* found = find_of_kind(*this, name, Attribute::Kind::kTensor);
  return found == nullptr ? nullptr : &found->tensors[0];
}

const Graph& Node::get_graph(std::string_view name) const {
  const Attribute* found = find_of_kind(*this, name, Attribute::Kind::kGraph);
  if (found == nullptr) fail(Code::kInvalidArgument, "{}: has no attribute '{}'", describe(), name);
  return *found->graphs[0];
}

std::string Node::describe() const {
  return domain.empty() ? fmt::format("node '{}' ({}, opset {})", name, op_type, opset)
                        : fmt::format("node '{}' ({}.{}, opset {})", name, domain, op_type, opset);
}

ValueId Graph::add_value(std::string name, ValueType type) {
  values.push_back({std::move(name), std::move(type), std::nullopt, {}});
  return static_cast<ValueId>(values.size() - 1);
}

Graph copy_graph(const Graph& graph) {
  Graph copy = graph;
  for (Node& node : copy.nodes) {
    for (auto& [name, attribute] : node.attributes) {
      for (auto& body : attribute.graphs) body = std::make_shared<Graph>(copy_graph(*body));
    }
  }
  return copy;
}

Model copy_model(const Model& model) {
  Model copy = model;
  copy.graph = copy_graph(model.graph);
  return copy;
}

}  // namespace sluice::graph
