#include "graph/dump.h"

#include <fmt/format.h>

#include <map>
#include <string_view>

#include "graph/passes.h"

namespace sluice::graph {
namespace {

constexpr size_t kMaxListed = 16;  // elements of an attribute
constexpr int kMaxValues = 8;      // of a constant

// A model's text for a terminal: nothing in it moves the cursor or changes a colour, and a line stays one.
std::string escape(std::string_view text) {
  std::string escaped;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    // 0xc2 0x80 to 0xc2 0x9f are control characters too, in UTF-8.
    const bool is_c1 = c == 0xc2 && i + 1 < text.size() && (static_cast<unsigned char>(text[i + 1]) & 0xe0) == 0x80;
    // A terminal without UTF-8 takes such a byte for one where no character is begun.
    const bool is_stray = c >= 0x80 && c < 0xa0 && (i == 0 || static_cast<unsigned char>(text[i - 1]) < 0x80);
    if (c < 0x20 || c == 0x7f || is_c1 || is_stray) {
      escaped += fmt::format("\\x{:02x}", c);
      if (is_c1) escaped += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[++i]));
    } else {
      escaped += text[i];
    }
  }
  return escaped;
}

std::string quote(const std::string& text) {
  std::string shown = text;
  if (shown.size() > 60) shown.replace(57, std::string::npos, "...");
  return "\"" + escape(shown) + "\"";
}

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
    case Attribute::Kind::kTensor: return escape(to_string(a.tensors[0], kMaxValues));
    case Attribute::Kind::kFloats: return list(a.floats, [](float x) { return fmt::format("{}", x); });
    case Attribute::Kind::kInts: return list(a.ints, [](int64_t x) { return fmt::format("{}", x); });
    case Attribute::Kind::kStrings: return list(a.strings, quote);
    case Attribute::Kind::kTensors: return fmt::format("{} tensors", a.tensors.size());
    case Attribute::Kind::kType: return escape(to_string(a.type));
    case Attribute::Kind::kGraph:
    case Attribute::Kind::kGraphs: return "below";
  }
  return "";
}

void dump_into(const Graph& graph, const std::string& indent, std::string& text) {
  auto name_of = [&](ValueId id) -> std::string {
    return id == kNoValue ? "-" : escape(graph.value(id).name);
  };
  auto type_of = [&](ValueId id) -> std::string {
    return id == kNoValue ? "-" : escape(to_string(graph.value(id).type));
  };
  auto join = [&](const std::vector<ValueId>& ids) {
    std::string names;
    for (const ValueId id : ids) names += (names.empty() ? "" : ", ") + name_of(id);
    return names;
  };
  for (const ValueId id : graph.inputs) {
    const GraphValue& value = graph.value(id);
    text += fmt::format("{}input {}: {}{}\n", indent, name_of(id), type_of(id),
                        value.constant ? " = " + escape(to_string(value.constant->tensor, kMaxValues)) : "");
  }
  for (const Capture& capture : graph.captures) {
    text += fmt::format("{}captured {}: {}\n", indent, name_of(capture.inner), type_of(capture.inner));
  }
  const std::vector<int> uses = count_uses(graph);
  const std::vector<bool> is_input = mark_inputs(graph);
  for (size_t id = 0; id < graph.values.size(); ++id) {
    const auto constant = static_cast<ValueId>(id);
    const Tensor* tensor = find_constant(graph, is_input, constant);
    if (tensor == nullptr || uses[id] == 0) continue;
    const int num_shown = tensor->count() <= kMaxValues ? kMaxValues : 0;
    text += fmt::format("{}constant {}: {}\n", indent, name_of(constant), escape(to_string(*tensor, num_shown)));
  }
  for (const Node& node : graph.nodes) {
    std::string attributes;
    for (const auto& [name, attribute] : node.attributes) {
      attributes += fmt::format("{}{}={}", attributes.empty() ? " {" : ", ", escape(name), print_attribute(attribute));
    }
    if (!attributes.empty()) attributes += "}";
    std::string types;
    for (const ValueId id : node.outputs) types += (types.empty() ? "" : ", ") + type_of(id);
    text += fmt::format("{}{} = {}{}({}){}: {}\n", indent, join(node.outputs),
                        node.domain.empty() ? "" : escape(node.domain) + ".", escape(node.op_type), join(node.inputs),
                        attributes, types);
    for (const auto& [name, attribute] : node.attributes) {
      for (const auto& body : attribute.graphs) {
        text += fmt::format("{}  {}:\n", indent, escape(name));
        dump_into(*body, indent + "    ", text);
      }
    }
  }
  for (size_t i = 0; i < graph.outputs.size(); ++i) {
    const std::string value = name_of(graph.outputs[i]);
    const std::string name = i < graph.output_names.size() ? escape(graph.output_names[i]) : value;
    text += fmt::format("{}output {}{}\n", indent, name, value == name ? "" : " = " + value);
  }
}

}  // namespace

std::string dump(const Graph& graph) {
  std::string text;
  dump_into(graph, "", text);
  return text;
}

}  // namespace sluice::graph
