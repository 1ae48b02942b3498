#include "graph/import_onnx.h"

#include <google/protobuf/io/coded_stream.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <queue>
#include <set>
#include <unordered_map>
#include <utility>

#include "base/error.h"
#include "base/mmap.h"
#include "graph/executor.h"
#include "graph/export_onnx.h"
#include "graph/infer.h"
#include "graph/onnx_values.h"
#include "graph/op.h"

namespace sluice::graph {
namespace {

constexpr int kNewestOpset = 28;
constexpr size_t kMaxProblemsShown = 20;

using Nodes = google::protobuf::RepeatedPtrField<onnx::NodeProto>;

std::string_view canonical_domain(std::string_view domain) { return domain == "ai.onnx" ? std::string_view() : domain; }

// Calls body(name) for each value that the node, or a body in it, reads of the graph that the node stands in. What a
// body defines itself hides what has the same name outside, so `hidden` counts the bodies around that define a name.
template <typename Body>
void for_each_read(const onnx::NodeProto& node, std::unordered_map<std::string_view, int>& hidden, const Body& body) {
  auto read = [&](const std::string& name) {
    const auto found = hidden.find(name);
    if (!name.empty() && (found == hidden.end() || found->second == 0)) body(name);
  };
  for (const std::string& input : node.input()) read(input);
  auto read_graph = [&](const onnx::GraphProto& graph) {
    auto count = [&](int step) {
      for (const auto& input : graph.input()) hidden[input.name()] += step;
      for (const auto& tensor : graph.initializer()) hidden[tensor.name()] += step;
      for (const auto& tensor : graph.sparse_initializer()) hidden[tensor.values().name()] += step;
      for (const auto& inner : graph.node()) {
        for (const std::string& output : inner.output()) hidden[output] += step;
      }
    };
    count(+1);
    for (const auto& inner : graph.node()) for_each_read(inner, hidden, body);
    for (const auto& output : graph.output()) read(output.name());
    count(-1);
  };
  for (const auto& attribute : node.attribute()) {
    if (attribute.has_g()) read_graph(attribute.g());
    for (const auto& graph : attribute.graphs()) read_graph(graph);
  }
}

// Bytes that the calls of functions copy: a call of a few bytes puts a whole function in its place.
class CopyBudget {
 public:
  explicit CopyBudget(const std::string& model) : model_(model) {}
  void spend(size_t bytes) {
    spent_ += bytes;
    if (spent_ <= kMaxCopiedBytes) return;
    fail(Code::kInvalidArgument, "{}: its functions, put in place of their calls, need more than {} bytes", model_,
         kMaxCopiedBytes);
  }

 private:
  const std::string& model_;
  size_t spent_ = 0;
};

// Names of one graph to its values; asks the graph around it for those it does not have.
struct Scope {
  Graph* graph;
  Scope* outer;
  CopyBudget* budget;  // null: what is read comes from the file once
  std::map<std::string, ValueId, std::less<>> names = {};  // kNoValue: an input of a function that the caller left out
  std::set<std::string> given = {};                        // names that are inputs or initialisers: no node makes them
  std::set<std::string> missing = {};                      // already told

  // kNoValue if there is no such name here or outside, or if it was left out.
  ValueId find(const std::string& name) {
    if (const auto found = names.find(name); found != names.end()) return found->second;
    if (outer == nullptr) return kNoValue;
    const ValueId outside = outer->find(name);
    if (outside == kNoValue) return kNoValue;
    const GraphValue& value = outer->graph->value(outside);
    if (budget != nullptr) budget->spend(sizeof(GraphValue) + value.name.size() + name.size());
    const ValueId id = graph->add_value(value.name, value.type);
    graph->captures.push_back({.outer = outside, .inner = id});
    names.emplace(name, id);
    return id;
  }
  bool declares(const std::string& name) const {
    return names.contains(name) || (outer != nullptr && outer->declares(name));
  }
};

// A function of the model, and what is the same for all of its calls.
struct Function {
  const onnx::FunctionProto* proto = nullptr;
  bool is_read = false;
  std::map<std::string, int, std::less<>> opsets;
  std::map<std::string_view, const onnx::AttributeProto*> defaults;
};

// What a function call gives to the nodes of the function.
struct Call {
  std::string prefix;  // of the names of its nodes and values
  const std::map<std::string, int, std::less<>>* opsets;
  const Function* function = nullptr;  // null: the graph of the model
  std::map<std::string_view, const onnx::AttributeProto*> attributes = {};
  int depth = 0;

  // Null if it was neither given nor has a default.
  const onnx::AttributeProto* find_attribute(const std::string& name) const {
    if (const auto found = attributes.find(name); found != attributes.end()) return found->second;
    if (function == nullptr) return nullptr;
    const auto found = function->defaults.find(name);
    return found == function->defaults.end() ? nullptr : found->second;
  }
};

class Importer {
 public:
  // `read`: where external data is; null: in files of the directory.
  Importer(std::string name, std::string directory, const ReadExternal& read = nullptr)
      : name_(std::move(name)), directory_(std::move(directory)), pool_(1), budget_(name_) {
    if (read != nullptr) external_ = read;
  }

  // Gives the memory of weights in `proto` back as they are read.
  Model import(onnx::ModelProto& proto) {
    Model model;
    if (!proto.has_graph()) fail(Code::kInvalidArgument, "{}: has no graph", name_);
    model.ir_version = ir_version_ = proto.ir_version();
    model.producer = proto.producer_name() + (proto.producer_version().empty() ? "" : " " + proto.producer_version());
    for (const auto& entry : proto.metadata_props()) model.metadata[entry.key()] = entry.value();
    opsets_ = read_opsets(proto.opset_import(), "");
    if (opsets_.empty()) opsets_[""] = 1;
    for (const auto& [domain, version] : opsets_) model.opsets[domain] = version;
    if (const auto found = opsets_.find(""); found != opsets_.end() && found->second > kNewestOpset) {
      fail(Code::kUnimplemented,
           "{}: needs opset {}; the newest that is known here is {}. Export it with an older one.", name_,
           found->second, kNewestOpset);
    }
    for (const auto& function : proto.functions()) {
      const FunctionKey key{canonical_domain(function.domain()), function.name(), function.overload()};
      if (!functions_.emplace(key, Function{.proto = &function, .opsets = {}, .defaults = {}}).second) {
        add_problem("function '{}' is there twice", function.name());
      }
    }
    const Call top = {.prefix = "", .opsets = &opsets_};
    Scope scope{&model.graph, nullptr, nullptr};
    read_graph(*proto.mutable_graph(), scope, top);
    if (num_problems_ == 0) {
      infer_types(model.graph, problems_);
      num_problems_ = problems_.size();
    }
    if (num_problems_ > 0) fail_with_problems();
    return model;
  }

 private:
  using FunctionKey = std::tuple<std::string, std::string, std::string>;

  // Only those that will be shown are kept: calls of functions may repeat one very often.
  template <typename... Args>
  void add_problem(fmt::format_string<Args...> format, Args&&... args) {
    if (++num_problems_ <= kMaxProblemsShown) problems_.push_back(fmt::format(format, std::forward<Args>(args)...));
  }

  [[noreturn]] void fail_with_problems() const {
    const size_t shown = std::min(problems_.size(), kMaxProblemsShown);
    std::string text;
    for (size_t i = 0; i < shown; ++i) text += (num_problems_ == 1 ? " " : "\n  ") + problems_[i];
    if (shown < num_problems_) text += fmt::format("\n  and {} more", num_problems_ - shown);
    fail(Code::kInvalidArgument, "{}: this model cannot be run:{}", name_, text);
  }

  template <typename Imports>
  std::map<std::string, int, std::less<>> read_opsets(const Imports& imports, const std::string& where) const {
    std::map<std::string, int, std::less<>> opsets;
    for (const auto& import : imports) {
      if (import.version() < 0 || import.version() > 1'000'000) {
        fail(Code::kInvalidArgument, "{}: {}opset {} of domain '{}' is no version", name_, where, import.version(),
             import.domain());
      }
      const int version = static_cast<int>(import.version());
      const auto [found, is_new] = opsets.emplace(canonical_domain(import.domain()), version);
      if (!is_new && found->second != version) {
        fail(Code::kInvalidArgument, "{}: {}imports opsets {} and {} of domain '{}'", name_, where, found->second,
             version, import.domain());
      }
    }
    return opsets;
  }

  // Links are followed, but only to a file that lies in the folder of the model, or in the `blobs` beside the
  // `snapshots` that the folder is in: the layout of Hugging Face's cache.
  std::string resolve_external(const std::string& location) const {
    namespace fs = std::filesystem;
    const fs::path path = fs::path(location).lexically_normal();
    if (location.empty() || path.is_absolute() || *path.begin() == "..") {
      fail(Code::kInvalidArgument, "{}: external data '{}' has to lie beside the model", name_, location);
    }
    std::error_code no_folder, no_target;
    const fs::path folder = fs::canonical(directory_, no_folder);
    const fs::path target = fs::canonical(fs::path(directory_) / path, no_target);
    if (no_folder || no_target) {
      fail(Code::kNotFound, "{}: cannot open external data '{}': {}", name_, location,
           (no_folder ? no_folder : no_target).message());
    }
    auto is_in = [&](const fs::path& parent) {
      return std::mismatch(parent.begin(), parent.end(), target.begin(), target.end()).first == parent.end();
    };
    if (is_in(folder)) return target.string();
    for (fs::path above = folder; above.has_relative_path(); above = above.parent_path()) {
      if (above.filename() == "snapshots" && is_in(above.parent_path() / "blobs")) return target.string();
    }
    fail(Code::kPermissionDenied, "{}: external data '{}' is a link to a file outside the model's folder", name_,
         location);
  }

  ExternalBytes read_external(const std::string& location, int64_t offset, int64_t num_bytes) {
    if (directory_.empty()) {
      fail(Code::kInvalidArgument, "{}: has external data '{}'; a model from memory may have none", name_, location);
    }
    auto& file = files_[location];
    if (file == nullptr) file = std::make_shared<MappedFile>(resolve_external(location));
    const auto size = static_cast<int64_t>(file->bytes().size());
    if (offset > size || num_bytes > size - offset) {
      fail(Code::kInvalidArgument, "{}: external data '{}' has {} bytes; {} at {} are needed", name_, location, size,
           num_bytes, offset);
    }
    return {file->bytes().data() + offset, static_cast<size_t>(num_bytes), file};
  }

  // What stands in the graph of the model and the bodies there is read once, and its memory given back; what stands in
  // a function, or is given to one, is read at the first call and shared by all.
  template <typename Proto, typename Read>
  Tensor read_once(const Proto& proto, const Call& call, const Read& read) {
    if (call.depth == 0) {
      Tensor tensor = read();
      Proto().Swap(const_cast<Proto*>(&proto));  // part of the message that import() may change
      return tensor;
    }
    auto& kept = tensors_[&proto];
    if (kept.is_null()) kept = read();
    return kept;
  }
  Tensor read(const onnx::TensorProto& proto, const std::string& what, const Call& call) {
    return read_once(proto, call, [&] { return read_tensor(proto, what, external_); });
  }
  Tensor read(const onnx::SparseTensorProto& proto, const std::string& what, const Call& call) {
    return read_once(proto, call, [&] { return read_sparse_tensor(proto, what, external_); });
  }

  void spend(const Call& call, size_t bytes) {
    if (call.depth > 0) budget_.spend(bytes);
  }

  void read_graph(const onnx::GraphProto& proto, Scope& scope, const Call& call) {
    Graph& graph = *scope.graph;
    graph.name = proto.name();
    spend(call, sizeof(Graph) + graph.name.size());
    auto add_given = [&](const std::string& name, ValueType type) {
      spend(call, sizeof(GraphValue) + 2 * name.size());
      const ValueId id = graph.add_value(name, std::move(type));
      scope.names.emplace(name, id);
      scope.given.insert(name);
      return id;
    };
    auto add_constant = [&](const std::string& name, const auto& tensor_proto) {
      Tensor tensor = read(tensor_proto, fmt::format("{}: initializer '{}'", name_, name), call);
      if (scope.names.contains(name)) return add_problem("initializer '{}' is there twice", name);
      const ValueId id = add_given(name, ValueType::tensor(tensor.type(), to_dims(tensor.shape())));
      graph.value(id).constant = Value(std::move(tensor));
    };
    for (const auto& tensor : proto.initializer()) add_constant(std::string(tensor.name()), tensor);
    for (const auto& tensor : proto.sparse_initializer()) add_constant(std::string(tensor.values().name()), tensor);
    std::set<std::string_view> input_names;
    for (const auto& input : proto.input()) {
      const ValueType type = read_type(input.type(), fmt::format("{}: input '{}'", name_, input.name()));
      if (!input_names.insert(input.name()).second) {
        add_problem("input '{}' is there twice", input.name());
        continue;
      }
      const auto found = scope.names.find(input.name());
      if (found == scope.names.end()) {
        graph.inputs.push_back(add_given(input.name(), type));
      } else if (ir_version_ >= 4) {
        graph.value(found->second).type = type;
        graph.inputs.push_back(found->second);
      }  // before IR version 4 every initialiser had to be listed as an input too, and nobody meant to replace it
    }
    std::map<std::string, ValueType> declared;
    if (call.depth == 0) {
      for (const auto& info : proto.value_info()) {
        declared.emplace(info.name(), read_type(info.type(), fmt::format("{}: value '{}'", name_, info.name())));
      }
      for (const auto& output : proto.output()) {
        declared[output.name()] = read_type(output.type(), fmt::format("{}: output '{}'", name_, output.name()));
      }
    }
    read_nodes(proto.node(), scope, call, declared);
    for (const auto& output : proto.output()) {
      spend(call, sizeof(std::string) + output.name().size());
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
  void read_nodes(const Nodes& nodes, Scope& scope, const Call& call,
                  const std::map<std::string, ValueType>& declared) {
    if (call.depth == 0) {
      for (const int n : sort_nodes(nodes)) read_node(nodes[n], n, scope, call, declared);
      return;
    }
    auto found = orders_.find(&nodes);
    if (found == orders_.end()) found = orders_.emplace(&nodes, sort_nodes(nodes)).first;
    for (const int n : found->second) read_node(nodes[n], n, scope, call, declared);
  }

  // Every node after those that make what it reads, otherwise as in the file. Nodes of cycles are left out, and told.
  std::vector<int> sort_nodes(const Nodes& nodes) {
    std::map<std::string_view, int> maker;  // name to the node that makes it
    for (int n = 0; n < nodes.size(); ++n) {
      for (const std::string& output : nodes[n].output()) {
        if (output.empty()) continue;
        if (!maker.emplace(output, n).second) add_problem("value '{}' is made by two nodes", output);
      }
    }
    std::vector<int> num_waiting(static_cast<size_t>(nodes.size()), 0);
    std::vector<std::vector<int>> waiting(static_cast<size_t>(nodes.size()));
    std::unordered_map<std::string_view, int> hidden;
    for (int n = 0; n < nodes.size(); ++n) {
      std::set<int> makers;
      for_each_read(nodes[n], hidden, [&](const std::string& name) {
        const auto found = maker.find(name);
        if (found == maker.end() || !makers.insert(found->second).second || found->second != n) return;
        add_problem("node {} reads its own output '{}'", label(nodes[n], n), name);
      });
      makers.erase(n);
      for (const int m : makers) waiting[static_cast<size_t>(m)].push_back(n);
      num_waiting[static_cast<size_t>(n)] = static_cast<int>(makers.size());
    }
    std::priority_queue<int, std::vector<int>, std::greater<>> ready;
    for (int n = 0; n < nodes.size(); ++n) {
      if (num_waiting[static_cast<size_t>(n)] == 0) ready.push(n);
    }
    std::vector<int> order;
    while (!ready.empty()) {
      const int n = ready.top();
      ready.pop();
      order.push_back(n);
      for (const int m : waiting[static_cast<size_t>(n)]) {
        if (--num_waiting[static_cast<size_t>(m)] == 0) ready.push(m);
      }
    }
    const auto stuck = std::find_if(num_waiting.begin(), num_waiting.end(), [](int left) { return left > 0; });
    if (stuck != num_waiting.end()) {
      const int n = static_cast<int>(stuck - num_waiting.begin());
      add_problem("node {} is part of a cycle, or waits for one", label(nodes[n], n));
    }
    return order;
  }

  static std::string label(const onnx::NodeProto& node, int n) {
    return fmt::format("'{}' ({})", node.name().empty() ? fmt::format("{}_{}", node.op_type(), n) : node.name(),
                       node.op_type());
  }

  // Gives the name a value of the graph, of the type that the file declares. kNoValue, and a problem, if it is taken.
  ValueId add_output(const std::string& name, const Node& node, Scope& scope, const Call& call,
                     const std::map<std::string, ValueType>& declared) {
    if (scope.given.contains(name)) {
      add_problem("{}: makes '{}', which is an input or an initializer", node.describe(), name);
      return kNoValue;
    }
    // The outputs of a function are there before its nodes: they are the caller's.
    if (const auto found = scope.names.find(name); found != scope.names.end()) return found->second;
    spend(call, sizeof(GraphValue) + call.prefix.size() + 2 * name.size());
    const ValueId id = scope.graph->add_value(call.prefix + name);
    if (const auto type = declared.find(name); type != declared.end()) scope.graph->value(id).declared = type->second;
    scope.names.emplace(name, id);
    return id;
  }

  // Calls body(name, attribute) for each attribute of a node; one that refers to an attribute of the function around is
  // what the caller gave for that, and not there if he gave none.
  template <typename Body>
  void for_each_attribute(const onnx::NodeProto& proto, const Node& node, const Call& call, const Body& body) {
    std::set<std::string_view> names;
    for (const auto& attribute : proto.attribute()) {
      if (attribute.name() == kOpsetAttribute) continue;
      if (!names.insert(attribute.name()).second) {
        add_problem("{}: attribute '{}' is there twice", node.describe(), attribute.name());
        continue;
      }
      const bool is_reference = !attribute.ref_attr_name().empty();
      const onnx::AttributeProto* given = is_reference ? call.find_attribute(attribute.ref_attr_name()) : &attribute;
      if (given != nullptr) body(attribute.name(), *given);
    }
  }

  // A version of the node's own, which only export_onnx() writes.
  int read_opset(const onnx::NodeProto& proto, const Node& node) {
    for (const auto& attribute : proto.attribute()) {
      if (attribute.name() != kOpsetAttribute) continue;
      if (attribute.i() >= 1 && attribute.i() <= (node.domain.empty() ? kNewestOpset : INT16_MAX)) {
        return static_cast<int>(attribute.i());
      }
      add_problem("{}: its opset {} is not known", node.describe(), attribute.i());
    }
    return node.opset;
  }

  void read_node(const onnx::NodeProto& proto, int index, Scope& scope, const Call& call,
                 const std::map<std::string, ValueType>& declared) {
    if (++num_nodes_ > kMaxNodes) {
      fail(Code::kInvalidArgument, "{}: has more than {} nodes and calls of functions", name_, kMaxNodes);
    }
    Graph& graph = *scope.graph;
    Node node;
    node.op_type = proto.op_type();
    node.domain = canonical_domain(proto.domain());
    node.name = call.prefix + (proto.name().empty() ? fmt::format("{}_{}", proto.op_type(), index) : proto.name());
    spend(call, sizeof(Node) + node.op_type.size() + node.domain.size() + node.name.size() +
                    8 * static_cast<size_t>(proto.input_size() + proto.output_size()));
    const auto opset = call.opsets->find(node.domain);
    const auto top_opset = opsets_.find(node.domain);
    node.opset = opset != call.opsets->end() ? opset->second : top_opset != opsets_.end() ? top_opset->second : 1;
    node.opset = read_opset(proto, node);

    for (const std::string& input : proto.input()) {
      const ValueId id = input.empty() ? kNoValue : scope.find(input);
      if (!input.empty() && id == kNoValue && !scope.declares(input) && scope.missing.insert(input).second) {
        add_problem("{}: reads '{}', which nothing makes", node.describe(), input);
      }
      node.inputs.push_back(id);
    }
    while (!node.inputs.empty() && node.inputs.back() == kNoValue) node.inputs.pop_back();

    if (const auto found = functions_.find({node.domain, node.op_type, proto.overload()}); found != functions_.end()) {
      return call_function(found->second, proto, node, scope, call, declared);
    }

    node.op = find_op(node.domain, node.op_type, node.opset);
    if (node.op == nullptr) {
      add_problem("{}: {}", node.describe(), explain_missing_op(node.domain, node.op_type, node.opset));
    }
    for (const std::string& output : proto.output()) {
      node.outputs.push_back(output.empty() ? kNoValue : add_output(output, node, scope, call, declared));
    }
    const bool is_constant = node.op != nullptr && node.op_type == "Constant" && node.domain.empty() &&
                             node.outputs.size() == 1 && node.outputs[0] != kNoValue;
    if (is_constant) {
      const auto kept = constants_.find(&proto);
      if (kept != constants_.end()) return set_constant(graph.value(node.outputs[0]), kept->second);
    }
    for_each_attribute(proto, node, call, [&](const std::string& name, const onnx::AttributeProto& attribute) {
      read_attribute(name, attribute, node, scope, call);
    });
    if (!is_constant) {
      graph.nodes.push_back(std::move(node));
      return;
    }
    try {
      const std::vector<Value> made = evaluate(node, {}, pool_);
      set_constant(graph.value(node.outputs[0]), made[0]);
      const bool is_same_for_all = std::none_of(proto.attribute().begin(), proto.attribute().end(),
                                                [](const auto& attribute) { return attribute.has_ref_attr_name(); });
      if (call.depth > 0 && is_same_for_all) constants_.emplace(&proto, made[0]);
    } catch (const Error& error) {
      add_problem("{}", error.message());
    }
  }

  static void set_constant(GraphValue& value, const Value& constant) {
    value.type = ValueType::tensor(constant.tensor.type(), to_dims(constant.tensor.shape()));
    value.constant = constant;
  }

  void read_attribute(const std::string& name, const onnx::AttributeProto& proto, Node& node, Scope& scope,
                      const Call& call) {
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
      if (call.depth + body_depth_ >= kMaxDepth) {
        fail(Code::kInvalidArgument, "{}: bodies and functions are nested more than {} deep", name_, kMaxDepth);
      }
      auto graph = std::make_shared<Graph>();
      Scope inner{graph.get(), &scope, call.depth > 0 ? &budget_ : nullptr};
      ++body_depth_;
      read_graph(body, inner, call);
      --body_depth_;
      attribute.graphs.push_back(std::move(graph));
    };
    spend(call, sizeof(Attribute) + name.size() + proto.s().size() + 4 * static_cast<size_t>(proto.floats_size()) +
                    8 * static_cast<size_t>(proto.ints_size()) +
                    sizeof(Tensor) * static_cast<size_t>(proto.tensors_size()));
    switch (type) {
      case 1: attribute.kind = Kind::kFloat, attribute.f = proto.f(); break;
      case 2: attribute.kind = Kind::kInt, attribute.i = proto.i(); break;
      case 3: attribute.kind = Kind::kString, attribute.s = proto.s(); break;
      case 4:
        attribute.kind = Kind::kTensor;
        attribute.tensors.push_back(read(proto.t(), what, call));
        break;
      case 5: attribute.kind = Kind::kGraph, add_graph(proto.g()); break;
      case 6:
        attribute.kind = Kind::kFloats;
        attribute.floats.assign(proto.floats().begin(), proto.floats().end());
        break;
      case 7: attribute.kind = Kind::kInts, attribute.ints.assign(proto.ints().begin(), proto.ints().end()); break;
      case 8:
        attribute.kind = Kind::kStrings;
        for (const std::string& text : proto.strings()) spend(call, sizeof(std::string) + text.size());
        attribute.strings.assign(proto.strings().begin(), proto.strings().end());
        break;
      case 9:
        attribute.kind = Kind::kTensors;
        for (const auto& tensor : proto.tensors()) attribute.tensors.push_back(read(tensor, what, call));
        break;
      case 10:
        attribute.kind = Kind::kGraphs;
        for (const auto& body : proto.graphs()) add_graph(body);
        break;
      case 11:
        attribute.kind = Kind::kTensor;
        attribute.tensors.push_back(read(proto.sparse_tensor(), what, call));
        break;
      case 13: attribute.kind = Kind::kType, attribute.type = read_type(proto.tp(), what); break;
      default: return add_problem("{} is of type {}, which is not supported", what, type);
    }
    node.attributes.emplace(name, std::move(attribute));
  }

  // What all calls share, and what is wrong with the function whoever calls it.
  void prepare(Function& function) {
    if (std::exchange(function.is_read, true)) return;
    const onnx::FunctionProto& proto = *function.proto;
    function.opsets = read_opsets(proto.opset_import(), fmt::format("function '{}' ", proto.name()));
    if (const auto found = function.opsets.find(""); found != function.opsets.end() && found->second > kNewestOpset) {
      add_problem("function '{}' needs opset {}; the newest that is known here is {}", proto.name(), found->second,
                  kNewestOpset);
    }
    for (const auto& attribute : proto.attribute_proto()) {
      if (!function.defaults.emplace(attribute.name(), &attribute).second) {
        add_problem("function '{}': attribute '{}' is there twice", proto.name(), attribute.name());
      }
    }
    std::set<std::string_view> known;
    for (const std::string& input : proto.input()) {
      if (!known.insert(input).second) add_problem("function '{}': input '{}' is there twice", proto.name(), input);
    }
    for (const auto& node : proto.node()) known.insert(node.output().begin(), node.output().end());
    for (const std::string& output : proto.output()) {
      if (!known.contains(output)) {
        add_problem("function '{}': output '{}' is made by no node", proto.name(), output);
      }
    }
  }

  // The nodes of the function in place of the call: its names get a prefix, its inputs and outputs are the caller's.
  void call_function(Function& function, const onnx::NodeProto& call_proto, const Node& node, Scope& scope,
                     const Call& call, const std::map<std::string, ValueType>& declared) {
    const onnx::FunctionProto& proto = *function.proto;
    if (call.depth + body_depth_ >= kMaxDepth) {
      fail(Code::kInvalidArgument, "{}: function '{}' calls itself, or functions are nested more than {} deep", name_,
           proto.name(), kMaxDepth);
    }
    prepare(function);
    if (call_proto.input_size() > proto.input_size() || call_proto.output_size() > proto.output_size()) {
      return add_problem("{}: has {} inputs and {} outputs; function '{}' has {} and {}", node.describe(),
                         call_proto.input_size(), call_proto.output_size(), proto.name(), proto.input_size(),
                         proto.output_size());
    }
    Call inner = {
        .prefix = node.name + "/", .opsets = &function.opsets, .function = &function, .depth = call.depth + 1};
    for_each_attribute(call_proto, node, call, [&](const std::string& name, const onnx::AttributeProto& attribute) {
      spend(inner, sizeof(attribute));
      inner.attributes.emplace(name, &attribute);
    });
    // The function sees only its own names, but its values belong to the caller's graph.
    Scope body{scope.graph, nullptr, &budget_};
    for (int i = 0; i < proto.input_size(); ++i) {
      const ValueId id = i < static_cast<int>(node.inputs.size()) ? node.inputs[static_cast<size_t>(i)] : kNoValue;
      spend(inner, 2 * (sizeof(std::string) + proto.input(i).size()));
      body.names.emplace(proto.input(i), id);
      body.given.insert(proto.input(i));
    }
    for (int i = 0; i < call_proto.output_size(); ++i) {
      const std::string& output = call_proto.output(i);
      if (output.empty()) continue;
      if (scope.given.contains(output)) {
        add_problem("{}: makes '{}', which is an input or an initializer", node.describe(), output);
      } else if (const auto found = body.names.find(proto.output(i)); found != body.names.end()) {
        scope.names.emplace(output, found->second);  // an input handed through, or an output that is there twice
      } else {
        body.names.emplace(proto.output(i), add_output(output, node, scope, call, declared));
      }
    }
    read_nodes(proto.node(), body, inner, {});
  }

  const std::string name_, directory_;
  ThreadPool pool_;
  CopyBudget budget_;
  ReadExternal external_ = [this](const std::string& location, int64_t offset, int64_t num_bytes) {
    return read_external(location, offset, num_bytes);
  };
  std::map<std::string, int, std::less<>> opsets_;
  std::map<FunctionKey, Function> functions_;
  std::map<std::string, std::shared_ptr<MappedFile>> files_;
  // Of functions, for their later calls.
  std::unordered_map<const void*, Tensor> tensors_;              // by TensorProto or SparseTensorProto
  std::unordered_map<const onnx::NodeProto*, Value> constants_;  // of Constant nodes
  std::unordered_map<const Nodes*, std::vector<int>> orders_;
  std::vector<std::string> problems_;
  size_t num_problems_ = 0;
  int64_t num_nodes_ = 0, ir_version_ = 0;
  int body_depth_ = 0;
};

onnx::ModelProto parse(std::span<const uint8_t> bytes, const std::string& name) {
  onnx::ModelProto proto;
  if (bytes.size() > size_t{INT32_MAX}) {
    fail(Code::kInvalidArgument, "{}: is larger than 2 GB, which an ONNX file cannot be; export it with external data",
         name);
  }
  google::protobuf::io::CodedInputStream stream(bytes.data(), static_cast<int>(bytes.size()));
  if (!proto.ParseFromCodedStream(&stream) || !stream.ConsumedEntireMessage()) {
    fail(Code::kInvalidArgument, "{}: is no ONNX model, or a damaged one", name);
  }
  return proto;
}

}  // namespace

Model import_onnx(std::span<const uint8_t> bytes, const std::string& name, const std::string& directory) {
  onnx::ModelProto proto = parse(bytes, name);
  return Importer(name, directory).import(proto);
}

Model import_onnx(std::span<const uint8_t> bytes, const std::string& name, const ReadExternal& read) {
  onnx::ModelProto proto = parse(bytes, name);
  return Importer(name, "", read).import(proto);
}

Model import_onnx(const std::string& path) {
  const MappedFile file(path);
  const std::filesystem::path directory = std::filesystem::path(path).parent_path();
  return import_onnx(file.bytes(), path, directory.empty() ? "." : directory.string());
}

}  // namespace sluice::graph
