#include "graph/infer.h"

#include <algorithm>

#include "graph/op.h"

namespace sluice::graph {
namespace {

constexpr size_t kMaxKnownInts = 1024;  // elements of a shape computation that are followed

// What is declared fills what could not be inferred.
ValueType merge(ValueType inferred, const ValueType& declared) {
  if (inferred.kind == ValueType::Kind::kUnknown) return declared;
  if (inferred.kind != declared.kind || !inferred.is_tensor()) return inferred;
  if (inferred.element == ElementType::kUndefined) inferred.element = declared.element;
  if (!inferred.dims) {
    inferred.dims = declared.dims;
  } else if (declared.dims && declared.dims->size() == inferred.dims->size()) {
    for (size_t i = 0; i < inferred.dims->size(); ++i) {
      const std::string text = (*inferred.dims)[i].to_string();
      // Only a symbol of our own is less than what the file says.
      if (text.starts_with('?')) (*inferred.dims)[i] = (*declared.dims)[i];
    }
  }
  return inferred;
}

class Inference {
 public:
  explicit Inference(std::vector<std::string>& problems) : problems_(problems) {}

  void run(Graph& graph) {
    std::vector<std::optional<std::vector<Dim>>> ints(graph.values.size());
    for (Node& node : graph.nodes) infer_node(graph, node, ints);
  }

 private:
  void infer_node(Graph& graph, Node& node, std::vector<std::optional<std::vector<Dim>>>& ints) {
    std::vector<InferContext::Input> inputs(node.inputs.size());
    for (size_t i = 0; i < inputs.size(); ++i) {
      const ValueId id = node.inputs[i];
      if (id == kNoValue) continue;
      GraphValue& value = graph.value(id);
      inputs[i].type = value.type;
      // A default that the caller may replace is not known.
      const bool is_input = std::find(graph.inputs.begin(), graph.inputs.end(), id) != graph.inputs.end();
      if (value.constant && !is_input) inputs[i].value = &*value.constant;
      const auto& known = ints[static_cast<size_t>(id)];
      if (known) inputs[i].ints = &*known;
    }
    std::vector<InferContext::Output> outputs(std::max(node.outputs.size(), kMinOutputs));
    // Bodies see what surrounds them through their captures.
    const InferContext::InferGraph infer_graph = [&](const Graph& body, const std::vector<ValueType>& types) {
      Graph& inner = const_cast<Graph&>(body);  // one that belongs to this very node
      for (const Capture& capture : inner.captures) {
        const GraphValue& outer = graph.value(capture.outer);
        inner.value(capture.inner).type = outer.type;
        const bool is_input = std::find(graph.inputs.begin(), graph.inputs.end(), capture.outer) != graph.inputs.end();
        if (outer.constant && !is_input) inner.value(capture.inner).constant = outer.constant;
      }
      for (size_t i = 0; i < inner.inputs.size() && i < types.size(); ++i) inner.value(inner.inputs[i]).type = types[i];
      run(inner);
      std::vector<ValueType> result;
      for (const ValueId id : inner.outputs) result.push_back(inner.value(id).type);
      return result;
    };
    try {
      InferContext context(node, inputs, outputs, &infer_graph);
      node.op->infer(context);
    } catch (const Error& error) {
      const std::string where = node.describe();
      problems_.push_back(error.message().starts_with(where) ? error.message() : where + ": " + error.message());
    }
    for (size_t i = 0; i < node.outputs.size(); ++i) {
      const ValueId id = node.outputs[i];
      if (id == kNoValue) continue;
      graph.value(id).type = merge(std::move(outputs[i].type), graph.value(id).type);
      if (outputs[i].ints && outputs[i].ints->size() <= kMaxKnownInts) ints[static_cast<size_t>(id)] = std::move(outputs[i].ints);
    }
  }

  std::vector<std::string>& problems_;
};

}  // namespace

void infer_types(Graph& graph, std::vector<std::string>& problems) { Inference(problems).run(graph); }

}  // namespace sluice::graph
