#include "graph/dump.h"

#include <fmt/format.h>

#include <map>

#include "graph/passes.h"

namespace sluice::graph {
namespace {

constexpr size_t kMaxListed = 16;  // elements of an attribute
constexpr int kMaxValues = 8;      // of a constant

std::string quote(const std::string& text) { return "\"" + (text.size() > 60 ? text.substr(0, 57) + "..." : text) + "\""; }

template <typename List, typename Format>
std::string list(const List& values, Format format) {
  std::string text;
  for (size_t i = 0; i < values.size() && i < kMaxListed; ++i) text += (i == 0 ? "" : ",") + format(values[i]);
  return "[" + text + (values.size() > kMaxListed ? fmt::format(",... {} in all", values.size()) : "") + "]";
}

std::string print_attribute(const Attribute& a) {
  switch (a.kind) {
    case Attribute::Kind::kFloat: return fmt::format("{}", a.f);
    case Attribute::Kind::kInt: return fmt::format("{}", a.i);
    case Attribute::Kind::kString: return quote(a.s);
    case Attribute::Kind::kTensor: return to_string(a.tensors[0], kMaxValues);
    case Attribute::Kind::kFloats: return list(a.floats, [](float x) { return fmt::format("{}", x); });
    case Attribute::Kind::kInts: return list(a.ints, [](int64_t x) { return fmt::format("{}", x); });
    case Attribute::Kind::kStrings: return list(a.strings, quote);
    case Attribute::Kind::kTensors: return fmt::format("{} tensors", a.tensors.size());
    case Attribute::Kind::kType: return to_string(a.type);
    case Attribute::Kind::kGraph:
    case Attribute::Kind::kGraphs: return "below";
  }
  return "";
}

void dump_into(const Graph& graph, const std::string& indent, std::string& text) {
  auto name_of = [&](ValueId id) -> std::string { return id == kNoValue ? "-" : graph.value(id).name; };
  auto join = [&](const std::vector<ValueId>& ids) {
    std::string names;
    for (const ValueId id : ids) names += (names.empty() ? "" : ", ") + name_of(id);
    return names;
  };
  for (const ValueId id : graph.inputs) {
    const GraphValue& value = graph.value(id);
    text += fmt::format("{}input {}: {}{}\n", indent, value.name, to_string(value.type),
                        value.constant ? " = " + to_string(value.constant->tensor, kMaxValues) : "");
  }
  for (const Capture& capture : graph.captures) {
    text += fmt::format("{}captured {}: {}\n", indent, name_of(capture.inner), to_string(graph.value(capture.inner).type));
  }
  const std::vector<int> uses = count_uses(graph);
  for (size_t id = 0; id < graph.values.size(); ++id) {
    const Tensor* tensor = find_constant(graph, static_cast<ValueId>(id));
    if (tensor == nullptr || uses[id] == 0) continue;
    text += fmt::format("{}constant {}: {}\n", indent, graph.values[id].name, to_string(*tensor, tensor->count() <= kMaxValues ? kMaxValues : 0));
  }
  for (const Node& node : graph.nodes) {
    std::string attributes;
    for (const auto& [name, attribute] : node.attributes) {
      attributes += fmt::format("{}{}={}", attributes.empty() ? " {" : ", ", name, print_attribute(attribute));
    }
    if (!attributes.empty()) attributes += "}";
    std::string types;
    for (const ValueId id : node.outputs) types += (types.empty() ? "" : ", ") + (id == kNoValue ? std::string("-") : to_string(graph.value(id).type));
    text += fmt::format("{}{} = {}{}({}){}: {}\n", indent, join(node.outputs), node.domain.empty() ? "" : node.domain + ".",
                        node.op_type, join(node.inputs), attributes, types);
    for (const auto& [name, attribute] : node.attributes) {
      for (const auto& body : attribute.graphs) {
        text += fmt::format("{}  {}:\n", indent, name);
        dump_into(*body, indent + "    ", text);
      }
    }
  }
  for (size_t i = 0; i < graph.outputs.size(); ++i) {
    const std::string value = name_of(graph.outputs[i]);
    text += fmt::format("{}output {}{}\n", indent, graph.output_names[i], value == graph.output_names[i] ? "" : " = " + value);
  }
}

}  // namespace

std::string dump(const Graph& graph) {
  std::string text;
  dump_into(graph, "", text);
  return text;
}

}  // namespace sluice::graph
