#include "graph/import_onnx.h"

#include <google/protobuf/io/coded_stream.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/mmap.h"
#include "graph/executor.h"
#include "graph/infer.h"
#include "graph/onnx_values.h"
#include "graph/op.h"

namespace sluice::graph {
namespace {

constexpr int kNewestOpset = 28;
constexpr size_t kMaxProblemsShown = 20;

std::string_view canonical_domain(std::string_view domain) { return domain == "ai.onnx" ? std::string_view() : domain; }

// Names of one graph to its values; asks the graph around it for those it does not have.
struct Scope {
  Graph* graph;
  Scope* outer;
  std::map<std::string, ValueId, std::less<>> names;
  std::set<std::string> missing;  // already told

  // kNoValue if there is no such name here or outside.
  ValueId find(const std::string& name) {
    if (const auto found = names.find(name); found != names.end()) return found->second;
    if (outer == nullptr) return kNoValue;
    const ValueId outside = outer->find(name);
    if (outside == kNoValue) return kNoValue;
    const GraphValue& value = outer->graph->value(outside);
    const ValueId id = graph->add_value(value.name, value.type);
    graph->captures.push_back({.outer = outside, .inner = id});
    names.emplace(name, id);
    return id;
  }
};

// What a function call gives to the nodes of the function.
struct Call {
  std::string prefix;                                                    // of the names of its nodes and values
  const std::map<std::string, int, std::less<>>* opsets;
  std::map<std::string, const onnx::AttributeProto*, std::less<>> attributes;  // null: neither given nor defaulted
  int depth = 0;
};

class Importer {
 public:
  Importer(std::string name, std::string directory)
      : name_(std::move(name)), directory_(std::move(directory)), pool_(1) {}

  Model import(onnx::ModelProto& proto) {
    Model model;
    if (!proto.has_graph()) fail(Code::kInvalidArgument, "{}: has no graph", name_);
    model.ir_version = ir_version_ = proto.ir_version();
    model.producer = proto.producer_name() + (proto.producer_version().empty() ? "" : " " + proto.producer_version());
    for (const auto& entry : proto.metadata_props()) model.metadata[entry.key()] = entry.value();
    opsets_ = read_opsets(proto.opset_import());
    if (opsets_.empty()) opsets_[""] = 1;
    for (const auto& [domain, version] : opsets_) model.opsets[domain] = version;
    if (const auto found = opsets_.find(""); found != opsets_.end() && found->second > kNewestOpset) {
      fail(Code::kUnimplemented, "{}: needs opset {}; the newest that is known here is {}. Export it with an older one.",
           name_, found->second, kNewestOpset);
    }
    for (const auto& function : proto.functions()) {
      functions_[{std::string(canonical_domain(function.domain())), function.name(), function.overload()}] = &function;
    }
    const Call top = {.prefix = "", .opsets = &opsets_, .attributes = {}};
    Scope scope{&model.graph, nullptr, {}, {}};
    read_graph(*proto.mutable_graph(), scope, top);
    if (problems_.empty()) infer_types(model.graph, problems_);
    if (!problems_.empty()) fail_with_problems();
    return model;
  }

 private:
  using FunctionKey = std::tuple<std::string, std::string, std::string>;

  template <typename... Args>
  void add_problem(fmt::format_string<Args...> format, Args&&... args) {
    problems_.push_back(fmt::format(format, std::forward<Args>(args)...));
  }

  [[noreturn]] void fail_with_problems() const {
    const size_t shown = std::min(problems_.size(), kMaxProblemsShown);
    std::string text;
    for (size_t i = 0; i < shown; ++i) text += (problems_.size() == 1 ? " " : "\n  ") + problems_[i];
    if (shown < problems_.size()) text += fmt::format("\n  and {} more", problems_.size() - shown);
    fail(Code::kInvalidArgument, "{}: this model cannot be run:{}", name_, text);
  }

  template <typename Imports>
  std::map<std::string, int, std::less<>> read_opsets(const Imports& imports) const {
    std::map<std::string, int, std::less<>> opsets;
    for (const auto& import : imports) {
      if (import.version() < 0 || import.version() > 1'000'000) fail(Code::kInvalidArgument, "{}: opset {} of domain '{}' is no version", name_, import.version(), import.domain());
      opsets[std::string(canonical_domain(import.domain()))] = static_cast<int>(import.version());
    }
    return opsets;
  }

  ExternalBytes read_external(const std::string& location, int64_t offset, int64_t num_bytes) {
    namespace fs = std::filesystem;
    if (directory_.empty()) fail(Code::kInvalidArgument, "{}: has external data '{}'; a model from memory may have none", name_, location);
    const fs::path path = fs::path(location).lexically_normal();
    if (location.empty() || path.is_absolute() || *path.begin() == "..") {
      fail(Code::kInvalidArgument, "{}: external data '{}' has to lie beside the model", name_, location);
    }
    auto& file = files_[location];
    if (file == nullptr) file = std::make_shared<MappedFile>((fs::path(directory_) / path).string());
    const auto size = static_cast<int64_t>(file->bytes().size());
    if (offset > size || num_bytes > size - offset) {
      fail(Code::kInvalidArgument, "{}: external data '{}' has {} bytes; {} at {} are needed", name_, location, size, num_bytes, offset);
    }
    return {file->bytes().data() + offset, static_cast<size_t>(num_bytes), file};
  }

  // Initialisers give their memory back as they are read.
  void read_graph(onnx::GraphProto& proto, Scope& scope, const Call& call) {
    Graph& graph = *scope.graph;
    graph.name = proto.name();
    const ReadExternal external = [this](const std::string& location, int64_t offset, int64_t num_bytes) {
      return read_external(location, offset, num_bytes);
    };
    auto add_constant = [&](const std::string& name, Tensor tensor) {
      if (scope.names.contains(name)) return add_problem("initializer '{}' is there twice", name);
      const ValueId id = graph.add_value(name, ValueType::tensor(tensor.type(), to_dims(tensor.shape())));
      graph.value(id).constant = Value(std::move(tensor));
      scope.names.emplace(name, id);
    };
    for (auto& tensor : *proto.mutable_initializer()) {
      add_constant(tensor.name(), read_tensor(tensor, fmt::format("{}: initializer '{}'", name_, tensor.name()), external));
      tensor.Clear();
      std::string().swap(*tensor.mutable_raw_data());
    }
    for (const auto& tensor : proto.sparse_initializer()) {
      const std::string& name = tensor.values().name();
      add_constant(name, read_sparse_tensor(tensor, fmt::format("{}: initializer '{}'", name_, name), external));
    }
    for (const auto& input : proto.input()) {
      const auto found = scope.names.find(input.name());
      const ValueType type = read_type(input.type(), fmt::format("{}: input '{}'", name_, input.name()));
      if (found != scope.names.end()) {
        if (!graph.value(found->second).constant || std::find(graph.inputs.begin(), graph.inputs.end(), found->second) != graph.inputs.end()) {
          add_problem("input '{}' is there twice", input.name());
          continue;
        }
        // Before IR version 4 every initialiser had to be listed as an input too, and nobody meant to replace it.
        if (ir_version_ < 4) continue;
        graph.value(found->second).type = type;
        graph.inputs.push_back(found->second);
      } else {
        const ValueId id = graph.add_value(input.name(), type);
        scope.names.emplace(input.name(), id);
        graph.inputs.push_back(id);
      }
    }
    std::map<std::string, ValueType> declared;
    for (const auto& info : proto.value_info()) {
      declared.emplace(info.name(), read_type(info.type(), fmt::format("{}: value '{}'", name_, info.name())));
    }
    for (const auto& output : proto.output()) {
      declared[output.name()] = read_type(output.type(), fmt::format("{}: output '{}'", name_, output.name()));
    }
    read_nodes(proto.node(), scope, call, &declared);
    for (const auto& output : proto.output()) {
      const ValueId id = scope.find(output.name());
      if (id == kNoValue) {
        add_problem("output '{}' is made by no node", output.name());
      } else {
        graph.outputs.push_back(id);
        graph.output_names.push_back(output.name());
      }
    }
  }

  // Nodes in any order: each is read when all of its inputs are there.
  template <typename Nodes>
  void read_nodes(const Nodes& nodes, Scope& scope, const Call& call, const std::map<std::string, ValueType>* declared) {
    std::map<std::string_view, int, std::less<>> maker;  // name to the node that makes it
    for (int n = 0; n < nodes.size(); ++n) {
      for (const std::string& output : nodes[n].output()) {
        if (output.empty()) continue;
        if (!maker.emplace(output, n).second) add_problem("value '{}' is made by two nodes", output);
      }
    }
    std::vector<int> num_waiting(static_cast<size_t>(nodes.size()), 0);
    std::vector<std::vector<int>> waiting(static_cast<size_t>(nodes.size()));
    for (int n = 0; n < nodes.size(); ++n) {
      std::set<int> makers;
      collect_makers(nodes[n], maker, makers);
      makers.erase(n);
      for (const int m : makers) waiting[static_cast<size_t>(m)].push_back(n);
      num_waiting[static_cast<size_t>(n)] = static_cast<int>(makers.size());
      for (const std::string& input : nodes[n].input()) {
        const auto found = maker.find(input);
        if (found != maker.end() && found->second == n && !input.empty()) add_problem("node {} reads its own output '{}'", label(nodes[n], n), input);
      }
    }
    std::set<int> ready;  // by their place in the file, so that the order stays where it is right
    for (int n = 0; n < nodes.size(); ++n) {
      if (num_waiting[static_cast<size_t>(n)] == 0) ready.insert(n);
    }
    int num_read = 0;
    while (!ready.empty()) {
      const int n = *ready.begin();
      ready.erase(ready.begin());
      ++num_read;
      read_node(nodes[n], n, scope, call, declared);
      for (const int m : waiting[static_cast<size_t>(n)]) {
        if (--num_waiting[static_cast<size_t>(m)] == 0) ready.insert(m);
      }
    }
    if (num_read == nodes.size()) return;
    for (int n = 0; n < nodes.size(); ++n) {
      if (num_waiting[static_cast<size_t>(n)] > 0) {
        add_problem("node {} is part of a cycle, or waits for one", label(nodes[n], n));
        return;
      }
    }
  }

  static std::string label(const onnx::NodeProto& node, int n) {
    return fmt::format("'{}' ({})", node.name().empty() ? fmt::format("{}_{}", node.op_type(), n) : node.name(), node.op_type());
  }

  // The nodes that make what `node` reads, in its bodies too.
  static void collect_makers(const onnx::NodeProto& node, const std::map<std::string_view, int, std::less<>>& maker, std::set<int>& makers) {
    auto add = [&](const std::string& name) {
      if (const auto found = maker.find(name); found != maker.end()) makers.insert(found->second);
    };
    for (const std::string& input : node.input()) add(input);
    for (const auto& attribute : node.attribute()) {
      auto add_graph = [&](const onnx::GraphProto& body) {
        for (const auto& inner : body.node()) collect_makers(inner, maker, makers);
        for (const auto& output : body.output()) add(output.name());
      };
      if (attribute.has_g()) add_graph(attribute.g());
      for (const auto& body : attribute.graphs()) add_graph(body);
    }
  }

  void read_node(const onnx::NodeProto& proto, int index, Scope& scope, const Call& call,
                 const std::map<std::string, ValueType>* declared) {
    if (++num_nodes_ > kMaxNodes) fail(Code::kInvalidArgument, "{}: has more than {} nodes", name_, kMaxNodes);
    Graph& graph = *scope.graph;
    Node node;
    node.op_type = proto.op_type();
    node.domain = canonical_domain(proto.domain());
    node.name = call.prefix + (proto.name().empty() ? fmt::format("{}_{}", proto.op_type(), index) : proto.name());
    const auto opset = call.opsets->find(node.domain);
    const auto top_opset = opsets_.find(node.domain);
    node.opset = opset != call.opsets->end() ? opset->second : top_opset != opsets_.end() ? top_opset->second : 1;

    for (const std::string& input : proto.input()) {
      if (input.empty()) {
        node.inputs.push_back(kNoValue);
        continue;
      }
      const ValueId id = scope.find(input);
      if (id == kNoValue && scope.missing.insert(input).second) {
        add_problem("{}: reads '{}', which nothing makes", node.describe(), input);
      }
      node.inputs.push_back(id);
    }
    while (!node.inputs.empty() && node.inputs.back() == kNoValue) node.inputs.pop_back();

    const auto function = find_function(node.domain, node.op_type, proto.overload());
    if (function != nullptr) return call_function(*function, proto, node, scope, call);

    node.op = find_op(node.domain, node.op_type, node.opset);
    if (node.op == nullptr) add_problem("{}: {}", node.describe(), explain_missing_op(node.domain, node.op_type, node.opset));
    for (const auto& attribute : proto.attribute()) {
      const onnx::AttributeProto* given = &attribute;
      if (!attribute.ref_attr_name().empty()) {
        const auto found = call.attributes.find(attribute.ref_attr_name());
        if (found == call.attributes.end() || found->second == nullptr) continue;  // left out by the caller
        given = found->second;
      }
      read_attribute(attribute.name(), *given, node, scope, call);
    }
    for (const std::string& output : proto.output()) {
      if (output.empty()) {
        node.outputs.push_back(kNoValue);
        continue;
      }
      const auto found = scope.names.find(output);
      ValueId id = found == scope.names.end() ? kNoValue : found->second;
      if (id == kNoValue) {
        id = graph.add_value(call.prefix + output);
        scope.names.emplace(output, id);
      } else if (graph.value(id).constant || std::find(graph.inputs.begin(), graph.inputs.end(), id) != graph.inputs.end()) {
        add_problem("{}: makes '{}', which is an input or an initializer", node.describe(), output);
      }
      if (declared != nullptr && call.depth == 0) {
        if (const auto type = declared->find(output); type != declared->end()) graph.value(id).type = type->second;
      }
      node.outputs.push_back(id);
    }
    if (node.op != nullptr && node.op_type == "Constant" && node.domain.empty() && node.outputs.size() == 1 && node.outputs[0] != kNoValue) {
      try {
        std::vector<Value> made = evaluate(node, {}, pool_);
        GraphValue& value = graph.value(node.outputs[0]);
        const Tensor& tensor = made[0].tensor;
        value.type = ValueType::tensor(tensor.type(), to_dims(tensor.shape()));
        value.constant = std::move(made[0]);
      } catch (const Error& error) {
        add_problem("{}", error.message());
      }
      return;
    }
    graph.nodes.push_back(std::move(node));
  }

  void read_attribute(const std::string& name, const onnx::AttributeProto& proto, Node& node, Scope& scope, const Call& call) {
    Attribute attribute;
    const std::string what = fmt::format("{}: attribute '{}'", node.describe(), name);
    using Kind = Attribute::Kind;
    // Old writers leave out the type; then what is there says it.
    const int type = proto.type() != 0      ? proto.type()
                     : proto.has_f()        ? 1
                     : proto.has_i()        ? 2
                     : proto.has_s()        ? 3
                     : proto.has_t()        ? 4
                     : proto.has_g()        ? 5
                     : proto.floats_size()  ? 6
                     : proto.ints_size()    ? 7
                     : proto.strings_size() ? 8
                                            : 7;
    auto add_graph = [&](const onnx::GraphProto& body) {
      if (call.depth + body_depth_ >= kMaxDepth) fail(Code::kInvalidArgument, "{}: bodies and functions are nested more than {} deep", name_, kMaxDepth);
      auto graph = std::make_shared<Graph>();
      Scope inner{graph.get(), &scope, {}, {}};
      ++body_depth_;
      onnx::GraphProto copy = body;  // read_graph() empties what it reads, and a function may be called again
      read_graph(copy, inner, call);
      --body_depth_;
      attribute.graphs.push_back(std::move(graph));
    };
    const ReadExternal external = [this](const std::string& location, int64_t offset, int64_t num_bytes) {
      return read_external(location, offset, num_bytes);
    };
    switch (type) {
      case 1: attribute.kind = Kind::kFloat, attribute.f = proto.f(); break;
      case 2: attribute.kind = Kind::kInt, attribute.i = proto.i(); break;
      case 3: attribute.kind = Kind::kString, attribute.s = proto.s(); break;
      case 4:
        attribute.kind = Kind::kTensor;
        attribute.tensors.push_back(read_tensor(proto.t(), what, external));
        break;
      case 5: attribute.kind = Kind::kGraph, add_graph(proto.g()); break;
      case 6: attribute.kind = Kind::kFloats, attribute.floats.assign(proto.floats().begin(), proto.floats().end()); break;
      case 7: attribute.kind = Kind::kInts, attribute.ints.assign(proto.ints().begin(), proto.ints().end()); break;
      case 8: attribute.kind = Kind::kStrings, attribute.strings.assign(proto.strings().begin(), proto.strings().end()); break;
      case 9:
        attribute.kind = Kind::kTensors;
        for (const auto& tensor : proto.tensors()) attribute.tensors.push_back(read_tensor(tensor, what, external));
        break;
      case 10:
        attribute.kind = Kind::kGraphs;
        for (const auto& body : proto.graphs()) add_graph(body);
        break;
      case 11:
        attribute.kind = Kind::kTensor;
        attribute.tensors.push_back(read_sparse_tensor(proto.sparse_tensor(), what, external));
        break;
      case 13: attribute.kind = Kind::kType, attribute.type = read_type(proto.tp(), what); break;
      default: return add_problem("{} is of type {}, which is not supported", what, type);
    }
    node.attributes.emplace(name, std::move(attribute));
  }

  const onnx::FunctionProto* find_function(const std::string& domain, const std::string& name, const std::string& overload) const {
    const auto found = functions_.find({domain, name, overload});
    return found == functions_.end() ? nullptr : found->second;
  }

  // The nodes of the function in place of the call: its names get a prefix, its inputs and outputs are the caller's.
  void call_function(const onnx::FunctionProto& function, const onnx::NodeProto& proto, const Node& node, Scope& scope, const Call& call) {
    if (call.depth + body_depth_ >= kMaxDepth) {
      fail(Code::kInvalidArgument, "{}: function '{}' calls itself, or functions are nested more than {} deep", name_, function.name(), kMaxDepth);
    }
    const auto opsets = read_opsets(function.opset_import());
    Call inner = {.prefix = node.name + "/", .opsets = &opsets, .attributes = {}, .depth = call.depth + 1};
    for (const std::string& name : function.attribute()) inner.attributes[name] = nullptr;
    for (const auto& attribute : function.attribute_proto()) inner.attributes[attribute.name()] = &attribute;
    for (const auto& attribute : proto.attribute()) {
      const onnx::AttributeProto* given = &attribute;
      if (!attribute.ref_attr_name().empty()) {
        const auto found = call.attributes.find(attribute.ref_attr_name());
        if (found == call.attributes.end() || found->second == nullptr) continue;
        given = found->second;
      }
      inner.attributes[attribute.name()] = given;
    }
    if (proto.input_size() > function.input_size() || proto.output_size() > function.output_size()) {
      return add_problem("{}: has {} inputs and {} outputs; function '{}' has {} and {}", node.describe(), proto.input_size(),
                         proto.output_size(), function.name(), function.input_size(), function.output_size());
    }
    // The function sees only its own names, but its values belong to the caller's graph.
    Scope body{scope.graph, nullptr, {}, {}};
    for (int i = 0; i < function.input_size(); ++i) {
      const ValueId id = i < static_cast<int>(node.inputs.size()) ? node.inputs[static_cast<size_t>(i)] : kNoValue;
      body.names[function.input(i)] = id;
    }
    for (int i = 0; i < proto.output_size(); ++i) {
      if (proto.output(i).empty() || body.names.contains(function.output(i))) continue;
      auto found = scope.names.find(proto.output(i));
      if (found == scope.names.end()) {
        found = scope.names.emplace(proto.output(i), scope.graph->add_value(call.prefix + proto.output(i))).first;
      }
      body.names[function.output(i)] = found->second;
    }
    for (const std::string& input : function.input()) body.missing.insert(input);  // left out, not wrong
    read_nodes(function.node(), body, inner, nullptr);
    for (int i = 0; i < proto.output_size(); ++i) {
      if (proto.output(i).empty()) continue;
      const bool is_input = std::find(function.input().begin(), function.input().end(), function.output(i)) != function.input().end();
      if (is_input) scope.names[proto.output(i)] = body.names[function.output(i)];  // handed through
    }
  }

  const std::string name_, directory_;
  ThreadPool pool_;
  std::map<std::string, int, std::less<>> opsets_;
  std::map<FunctionKey, const onnx::FunctionProto*> functions_;
  std::map<std::string, std::shared_ptr<MappedFile>> files_;
  std::vector<std::string> problems_;
  int64_t num_nodes_ = 0, ir_version_ = 0;
  int body_depth_ = 0;
};

}  // namespace

Model import_onnx(std::span<const uint8_t> bytes, const std::string& name, const std::string& directory) {
  onnx::ModelProto proto;
  if (bytes.size() > size_t{INT32_MAX}) {
    fail(Code::kInvalidArgument, "{}: is larger than 2 GB, which an ONNX file cannot be; export it with external data", name);
  }
  google::protobuf::io::CodedInputStream stream(bytes.data(), static_cast<int>(bytes.size()));
  if (!proto.ParseFromCodedStream(&stream) || !stream.ConsumedEntireMessage()) {
    fail(Code::kInvalidArgument, "{}: is no ONNX model, or a damaged one", name);
  }
  return Importer(name, directory).import(proto);
}

Model import_onnx(const std::string& path) {
  const MappedFile file(path);
  const std::filesystem::path directory = std::filesystem::path(path).parent_path();
  return import_onnx(file.bytes(), path, directory.empty() ? "." : directory.string());
}

}  // namespace sluice::graph
