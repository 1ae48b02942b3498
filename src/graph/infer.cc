#include "graph/infer.h"

#include <algorithm>
#include <utility>

#include "graph/op.h"
#include "graph/passes.h"

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

// The elements of a sequence share a type in which a symbol may be another size in each of them.
void forget_elements(ValueType& type) {
  if (type.inner == nullptr) return;
  ValueType inner = *type.inner;
  inner.dims.reset();
  forget_elements(inner);
  type.inner = std::make_shared<const ValueType>(std::move(inner));
}

struct Problem {
  size_t node;  // of the graph that it stands in
  int depth;    // 0: in the graph itself; more: in bodies
  std::string text;
};

class Inference {
 public:
  Inference(Declarations declarations, std::vector<Problem>& problems)
      : declarations_(declarations), problems_(problems) {}

  void run(Graph& graph) {
    State state{graph, mark_inputs(graph), {}};
    state.ints.resize(graph.values.size());
    ++depth_;
    for (size_t n = 0; n < graph.nodes.size(); ++n) infer_node(state, n);
    --depth_;
  }

 private:
  struct State {
    Graph& graph;
    std::vector<bool> is_input;
    std::vector<std::optional<std::vector<Dim>>> ints;
  };

  // Null for a default that the caller may replace.
  static const Value* find_known(const State& state, ValueId id) {
    const std::optional<Value>& constant = state.graph.value(id).constant;
    return constant && !state.is_input[static_cast<size_t>(id)] ? &*constant : nullptr;
  }

  // Bodies see what surrounds them through their captures.
  std::vector<ValueType> infer_body(const State& state, Graph& body, const std::vector<ValueType>& types) {
    for (const Capture& capture : body.captures) {
      GraphValue& inner = body.value(capture.inner);
      inner.type = state.graph.value(capture.outer).type;
      if (const Value* known = find_known(state, capture.outer); known != nullptr) inner.constant = *known;
    }
    for (size_t i = 0; i < body.inputs.size() && i < types.size(); ++i) body.value(body.inputs[i]).type = types[i];
    run(body);
    std::vector<ValueType> result;
    for (const ValueId id : body.outputs) result.push_back(body.value(id).type);
    return result;
  }

  void infer_node(State& state, size_t n) {
    Graph& graph = state.graph;
    Node& node = graph.nodes[n];
    std::vector<InferContext::Input> inputs(node.inputs.size());
    for (size_t i = 0; i < inputs.size(); ++i) {
      const ValueId id = node.inputs[i];
      if (id == kNoValue) continue;
      inputs[i].type = graph.value(id).type;
      inputs[i].value = find_known(state, id);
      const auto& known = state.ints[static_cast<size_t>(id)];
      if (known) inputs[i].ints = &*known;
      if (declarations_ == Declarations::kIgnore) forget_elements(inputs[i].type);
    }
    std::vector<InferContext::Output> outputs(std::max(node.outputs.size(), kMinOutputs));
    const InferContext::InferGraph infer_graph = [&](const Graph& body, const std::vector<ValueType>& types) {
      return infer_body(state, const_cast<Graph&>(body), types);  // a body of this very node
    };
    const int depth = depth_;
    try {
      InferContext context(node, inputs, outputs, &infer_graph);
      node.op->infer(context);
    } catch (const Error& error) {
      depth_ = depth;
      outputs.assign(outputs.size(), {});
      const std::string where = node.describe();
      const bool has_name = error.message().starts_with(where);
      problems_.push_back({n, depth_ - 1, has_name ? error.message() : where + ": " + error.message()});
    }
    for (size_t i = 0; i < node.outputs.size(); ++i) {
      const ValueId id = node.outputs[i];
      if (id == kNoValue) continue;
      GraphValue& value = graph.value(id);
      value.type = std::move(outputs[i].type);
      if (declarations_ == Declarations::kFill) value.type = merge(std::move(value.type), value.declared);
      if (outputs[i].ints && outputs[i].ints->size() <= kMaxKnownInts) {
        state.ints[static_cast<size_t>(id)] = std::move(outputs[i].ints);
      }
    }
  }

  const Declarations declarations_;
  std::vector<Problem>& problems_;
  int depth_ = 0;
};

}  // namespace

void infer_types(Graph& graph, std::vector<std::string>& problems, Declarations declarations) {
  std::vector<Problem> found;
  Inference(declarations, found).run(graph);
  for (Problem& problem : found) problems.push_back(std::move(problem.text));
}

std::vector<std::pair<size_t, std::string>> infer_proven_types(Graph& graph) {
  std::vector<Problem> found;
  Inference(Declarations::kIgnore, found).run(graph);
  std::vector<std::pair<size_t, std::string>> problems;
  for (Problem& problem : found) {
    if (problem.depth == 0 && !has_body(graph.nodes[problem.node])) {
      problems.emplace_back(problem.node, std::move(problem.text));
    }
  }
  return problems;
}

}  // namespace sluice::graph
