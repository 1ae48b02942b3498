#include "graph/export_onnx.h"

#include <algorithm>
#include <set>

#include "base/error.h"
#include "graph/op.h"
#include "graph/passes.h"
#include "onnx.pb.h"

namespace sluice::graph {
namespace {

constexpr int64_t kIrVersion = 8;   // at least: initialisers need not be inputs, optionals are known
constexpr int kIdentityOpset = 16;  // the first whose Identity takes sequences and optionals
constexpr int kSequenceOpset = 11, kOptionalOpset = 15;
constexpr size_t kMaxMessageBytes = INT32_MAX;

// Elements as they lie in a file: several a byte where they are narrower than that, the first in the lowest bits.
std::string pack(const Tensor& tensor) {
  const int bits = get_info(tensor.type()).packed_bits, per_byte = 8 / bits;
  std::string packed(static_cast<size_t>((tensor.count() + per_byte - 1) / per_byte), '\0');
  const auto* from = static_cast<const uint8_t*>(tensor.raw());
  for (int64_t i = 0; i < tensor.count(); ++i) {
    const int code = (from[i] & ((1 << bits) - 1)) << (i % per_byte * bits);
    auto& byte = packed[static_cast<size_t>(i / per_byte)];
    byte = static_cast<char>(static_cast<uint8_t>(byte) | code);
  }
  return packed;
}

class Exporter {
 public:
  Exporter(const Model& model, const ExternalSink& sink) : model_(model), sink_(sink) {}

  std::string run() {
    onnx::ModelProto proto;
    proto.set_ir_version(std::max(model_.ir_version, kIrVersion));
    proto.set_producer_name(model_.producer);
    for (const auto& [key, value] : model_.metadata) {
      auto* entry = proto.add_metadata_props();
      entry->set_key(key);
      entry->set_value(value);
    }
    for (const auto& [domain, version] : model_.opsets) opsets_[domain] = version;
    add_missing_opsets(model_.graph);
    opsets_.try_emplace("", kIdentityOpset);
    for (const ValueId id : model_.graph.inputs) collect_symbols(model_.graph.value(id).type);
    // What the model is called by from outside comes first.
    for (const ValueId id : model_.graph.inputs) names_.insert(model_.graph.value(id).name);
    names_.insert(model_.graph.output_names.begin(), model_.graph.output_names.end());
    write_graph(model_.graph, {}, *proto.mutable_graph(), /*is_top=*/true);
    for (const auto& [domain, version] : opsets_) {
      auto* import = proto.add_opset_import();
      import->set_domain(domain);
      import->set_version(version);
    }
    if (proto.ByteSizeLong() > kMaxMessageBytes) {
      fail(Code::kResourceExhausted,
           "the model is larger than 2 GB, which an ONNX file without external data cannot be");
    }
    return proto.SerializeAsString();
  }

 private:
  // Domains that only passes have brought in.
  void add_missing_opsets(const Graph& graph) {
    for (const Node& node : graph.nodes) {
      if (!model_.opsets.contains(node.domain)) opsets_[node.domain] = std::max(opsets_[node.domain], node.opset);
      for (const auto& [name, attribute] : node.attributes) {
        for (const auto& body : attribute.graphs) add_missing_opsets(*body);
      }
    }
  }

  void collect_symbols(const ValueType& type) {
    if (type.inner != nullptr) collect_symbols(*type.inner);
    if (!type.dims) return;
    for (const Dim& dim : *type.dims) {
      const std::string text = dim.to_string();
      if (!dim.is_known() && !text.starts_with('?') && text.find('(') == std::string::npos &&
          dim == Dim::symbol(text)) {
        symbols_.insert(text);
      }
    }
  }

  std::string unique_name(const std::string& wanted) {
    std::string name = wanted.empty() ? "value" : wanted;
    for (int& number = numbers_[name]; !names_.insert(name).second;) name = fmt::format("{}~{}", wanted, ++number);
    return name;
  }

  // Only names of inputs' dimensions say the same thing when they are read again.
  void write_dims(const Dims& dims, onnx::TensorShapeProto& proto) const {
    for (const Dim& dim : dims) {
      auto* to = proto.add_dim();
      if (dim.is_known()) {
        to->set_dim_value(dim.value());
      } else if (const std::string text = dim.to_string(); symbols_.contains(text)) {
        to->set_dim_param(text);
      }
    }
  }

  void write_type(const ValueType& type, onnx::TypeProto& proto) const {
    switch (type.kind) {
      case ValueType::Kind::kUnknown:
        return;
      case ValueType::Kind::kTensor: {
        auto& tensor = *proto.mutable_tensor_type();
        tensor.set_elem_type(static_cast<int>(type.element));
        if (type.dims) write_dims(*type.dims, *tensor.mutable_shape());
        return;
      }
      case ValueType::Kind::kSequence:
        proto.mutable_sequence_type();
        if (type.inner != nullptr) write_type(*type.inner, *proto.mutable_sequence_type()->mutable_elem_type());
        return;
      case ValueType::Kind::kOptional:
        proto.mutable_optional_type();
        if (type.inner != nullptr) write_type(*type.inner, *proto.mutable_optional_type()->mutable_elem_type());
        return;
      case ValueType::Kind::kMap:
        proto.mutable_map_type()->set_key_type(static_cast<int>(type.key));
        write_type(ValueType::tensor(type.element), *proto.mutable_map_type()->mutable_value_type());
        return;
    }
  }

  void write_tensor(const Tensor& tensor, onnx::TensorProto& proto) {
    proto.set_data_type(static_cast<int>(tensor.type()));
    for (const int64_t dim : tensor.shape()) proto.add_dims(dim);
    if (tensor.type() == ElementType::kString) {
      for (const std::string& text : tensor.values<std::string>()) proto.add_string_data(text);
      return;
    }
    std::string packed;
    std::span<const uint8_t> bytes(static_cast<const uint8_t*>(tensor.raw()), static_cast<size_t>(tensor.bytes()));
    if (get_info(tensor.type()).packed_bits < 8) {
      packed = pack(tensor);
      bytes = {reinterpret_cast<const uint8_t*>(packed.data()), packed.size()};
    }
    if (sink_ == nullptr || static_cast<int64_t>(bytes.size()) <= kMinExternalBytes) {
      proto.set_raw_data(bytes.data(), bytes.size());
      return;
    }
    const ExternalPlace place = sink_(bytes);
    proto.set_data_location(1);
    auto add = [&](const char* key, std::string value) {
      auto* entry = proto.add_external_data();
      entry->set_key(key);
      entry->set_value(std::move(value));
    };
    add("location", place.location);
    add("offset", std::to_string(place.offset));
    add("length", std::to_string(bytes.size()));
  }

  void write_attribute(const std::string& name, const Attribute& attribute, const std::vector<std::string>& names,
                       onnx::AttributeProto& proto) {
    using Kind = Attribute::Kind;
    proto.set_name(name);
    switch (attribute.kind) {
      case Kind::kFloat:
        proto.set_type(1), proto.set_f(attribute.f);
        return;
      case Kind::kInt:
        proto.set_type(2), proto.set_i(attribute.i);
        return;
      case Kind::kString:
        proto.set_type(3), proto.set_s(attribute.s);
        return;
      case Kind::kTensor:
        proto.set_type(4), write_tensor(attribute.tensors[0], *proto.mutable_t());
        return;
      case Kind::kGraph:
        proto.set_type(5), write_graph(*attribute.graphs[0], names, *proto.mutable_g(), false);
        return;
      case Kind::kFloats:
        proto.set_type(6);
        proto.mutable_floats()->Add(attribute.floats.begin(), attribute.floats.end());
        return;
      case Kind::kInts:
        proto.set_type(7);
        proto.mutable_ints()->Add(attribute.ints.begin(), attribute.ints.end());
        return;
      case Kind::kStrings:
        proto.set_type(8);
        for (const std::string& text : attribute.strings) proto.add_strings(text);
        return;
      case Kind::kTensors:
        proto.set_type(9);
        for (const Tensor& tensor : attribute.tensors) write_tensor(tensor, *proto.add_tensors());
        return;
      case Kind::kGraphs:
        proto.set_type(10);
        for (const auto& body : attribute.graphs) write_graph(*body, names, *proto.add_graphs(), false);
        return;
      case Kind::kType:
        proto.set_type(13), write_type(attribute.type, *proto.mutable_tp());
        return;
    }
  }

  void set_opset(const std::string& domain, int opset, onnx::NodeProto& proto) const {
    if (opsets_.at(domain) == opset) return;
    auto* attribute = proto.add_attribute();
    attribute->set_name(kOpsetAttribute);
    attribute->set_type(2);
    attribute->set_i(opset);
  }

  // A node of ai.onnx that no Node of the model stands for.
  onnx::NodeProto& add_node(const char* op, int first_opset, const std::string& output, onnx::GraphProto& proto) const {
    onnx::NodeProto& node = *proto.add_node();
    node.set_op_type(op);
    node.set_name(output + "/" + op);
    node.add_output(output);
    set_opset("", std::max(opsets_.at(""), first_opset), node);
    return node;
  }

  void write_constant(const GraphValue& value, const std::string& name, onnx::GraphProto& proto) {
    const Value& constant = *value.constant;
    if (constant.kind == Value::Kind::kTensor) {
      onnx::TensorProto& tensor = *proto.add_initializer();
      tensor.set_name(name);
      write_tensor(constant.tensor, tensor);
    } else if (constant.kind == Value::Kind::kSequence) {
      write_sequence(value, name, proto);
    } else if (constant.kind == Value::Kind::kNone && value.type.inner != nullptr) {
      onnx::AttributeProto& type = *add_node("Optional", kOptionalOpset, name, proto).add_attribute();
      type.set_name("type");
      type.set_type(13);
      write_type(*value.type.inner, *type.mutable_tp());
    } else {
      fail(Code::kUnimplemented, "constant '{}' is {}, which an ONNX file cannot hold", value.name,
           to_string(value.type));
    }
  }

  void write_sequence(const GraphValue& value, const std::string& name, onnx::GraphProto& proto) {
    const std::vector<Value>& elements = *value.constant->sequence;
    if (elements.empty()) {
      onnx::AttributeProto& type = *add_node("SequenceEmpty", kSequenceOpset, name, proto).add_attribute();
      type.set_name("dtype");
      type.set_type(2);
      type.set_i(static_cast<int>(value.type.inner != nullptr ? value.type.inner->element : ElementType::kF32));
      return;
    }
    std::vector<std::string> parts;
    for (const Value& element : elements) {
      if (element.kind != Value::Kind::kTensor) {
        fail(Code::kUnimplemented, "constant '{}' is a sequence of sequences or maps, which an ONNX file cannot hold",
             value.name);
      }
      parts.push_back(unique_name(name + "/element"));
      onnx::TensorProto& tensor = *proto.add_initializer();
      tensor.set_name(parts.back());
      write_tensor(element.tensor, tensor);
    }
    onnx::NodeProto& node = add_node("SequenceConstruct", kSequenceOpset, name, proto);
    for (const std::string& part : parts) node.add_input(part);
  }

  // `outer`: names of the values of the graph around.
  void write_graph(const Graph& graph, const std::vector<std::string>& outer, onnx::GraphProto& proto, bool is_top) {
    proto.set_name(graph.name.empty() ? "graph" : graph.name);
    std::vector<std::string> names(graph.values.size());
    auto name_of = [&](ValueId id) -> std::string& { return names[static_cast<size_t>(id)]; };
    std::vector<bool> is_used(graph.values.size(), false), is_captured(graph.values.size(), false);
    for (const Capture& capture : graph.captures) {
      name_of(capture.inner) = outer[static_cast<size_t>(capture.outer)];
      is_captured[static_cast<size_t>(capture.inner)] = true;
    }
    std::vector<bool> is_input = mark_inputs(graph), is_made(graph.values.size(), false);
    for (const ValueId id : graph.inputs) {
      name_of(id) = is_top ? graph.value(id).name : unique_name(graph.value(id).name);
    }
    for (const Node& node : graph.nodes) {
      for_each_use(node, [&](ValueId id) { is_used[static_cast<size_t>(id)] = true; });
      for (const ValueId id : node.outputs) {
        if (id != kNoValue) is_made[static_cast<size_t>(id)] = true;
      }
    }
    // An output is called as the value, which something else may be too: then it is an Identity of its own.
    std::vector<std::string> copies(graph.outputs.size());
    for (size_t i = 0; i < graph.outputs.size(); ++i) {
      const ValueId id = graph.outputs[i];
      is_used[static_cast<size_t>(id)] = true;
      const bool is_free = is_made[static_cast<size_t>(id)] && name_of(id).empty();
      const std::string wanted = i < graph.output_names.size() ? graph.output_names[i] : graph.value(id).name;
      const std::string name = is_top ? wanted : unique_name(wanted);
      const bool is_input_itself = is_top && is_input[static_cast<size_t>(id)] && name_of(id) == name;
      if (is_free)
        name_of(id) = name;
      else if (!is_input_itself)
        copies[i] = name;
    }
    for (size_t i = 0; i < graph.values.size(); ++i) {
      const bool is_constant = graph.values[i].constant.has_value() && !is_captured[i] && !is_made[i];
      if (names[i].empty() && (is_made[i] || (is_constant && is_used[i]))) names[i] = unique_name(graph.values[i].name);
      if (is_constant && (is_used[i] || is_input[i])) write_constant(graph.values[i], names[i], proto);
    }
    for (const ValueId id : graph.inputs) {
      onnx::ValueInfoProto& info = *proto.add_input();
      info.set_name(name_of(id));
      write_type(graph.value(id).type, *info.mutable_type());
    }
    for (const Node& node : graph.nodes) write_node(graph, node, names, proto);
    for (size_t i = 0; i < graph.outputs.size(); ++i) {
      const ValueId id = graph.outputs[i];
      if (!copies[i].empty()) {
        const int first_opset = graph.value(id).type.is_tensor() ? 1 : kIdentityOpset;
        add_node("Identity", first_opset, copies[i], proto).add_input(name_of(id));
      }
      onnx::ValueInfoProto& info = *proto.add_output();
      info.set_name(copies[i].empty() ? name_of(id) : copies[i]);
      write_type(graph.value(id).type, *info.mutable_type());
    }
  }

  void write_node(const Graph& graph, const Node& node, const std::vector<std::string>& names,
                  onnx::GraphProto& proto) {
    auto name_of = [&](ValueId id) { return id == kNoValue ? std::string() : names[static_cast<size_t>(id)]; };
    onnx::NodeProto& to = *proto.add_node();
    to.set_op_type(node.op_type);
    to.set_domain(node.domain);
    to.set_name(node.name);
    for (const ValueId id : node.inputs) to.add_input(name_of(id));
    for (const ValueId id : node.outputs) {
      to.add_output(name_of(id));
      if (id == kNoValue || graph.value(id).type.kind == ValueType::Kind::kUnknown) continue;
      const bool is_output = std::find(graph.outputs.begin(), graph.outputs.end(), id) != graph.outputs.end();
      if (is_output) continue;  // declared there
      onnx::ValueInfoProto& info = *proto.add_value_info();
      info.set_name(name_of(id));
      write_type(graph.value(id).type, *info.mutable_type());
    }
    for (const auto& [name, attribute] : node.attributes) write_attribute(name, attribute, names, *to.add_attribute());
    set_opset(node.domain, node.opset, to);
  }

  const Model& model_;
  const ExternalSink& sink_;
  std::map<std::string, int> opsets_;
  std::set<std::string> names_, symbols_;
  std::map<std::string, int> numbers_;  // the last one that was put behind a name
};

}  // namespace

std::string export_onnx(const Model& model, const ExternalSink& sink) { return Exporter(model, sink).run(); }

}  // namespace sluice::graph
