// Tiny graphs in code, for tests of operators: values, nodes and bodies one line each, and a run of the whole.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "graph/executor.h"
#include "graph/infer.h"
#include "sluice/error.h"

namespace sluice::graph::for_test {

using Attributes = std::map<std::string, Attribute, std::less<>>;

inline Attribute integer(int64_t value) { Attribute a; a.kind = Attribute::Kind::kInt; a.i = value; return a; }
inline Attribute real(float value) { Attribute a; a.kind = Attribute::Kind::kFloat; a.f = value; return a; }
inline Attribute text(std::string value) {
  Attribute a;
  a.kind = Attribute::Kind::kString;
  a.s = std::move(value);
  return a;
}
inline Attribute integers(std::vector<int64_t> values) {
  Attribute a;
  a.kind = Attribute::Kind::kInts;
  a.ints = std::move(values);
  return a;
}
inline Attribute reals(std::vector<float> values) {
  Attribute a;
  a.kind = Attribute::Kind::kFloats;
  a.floats = std::move(values);
  return a;
}
inline Attribute texts(std::vector<std::string> values) {
  Attribute a;
  a.kind = Attribute::Kind::kStrings;
  a.strings = std::move(values);
  return a;
}
inline Attribute tensor(Tensor value) {
  Attribute a;
  a.kind = Attribute::Kind::kTensor;
  a.tensors = {std::move(value)};
  return a;
}
inline Attribute body(Graph graph) {
  Attribute a;
  a.kind = Attribute::Kind::kGraph;
  a.graphs = {std::make_shared<Graph>(std::move(graph))};
  return a;
}

class Builder {
 public:
  ValueId input(ValueType type = {}) {
    const ValueId id = graph.add_value("in" + std::to_string(graph.values.size()), std::move(type));
    graph.inputs.push_back(id);
    return id;
  }
  ValueId constant(Value value) {
    const ValueId id = graph.add_value("constant" + std::to_string(graph.values.size()));
    if (value.kind == Value::Kind::kTensor) {
      graph.value(id).type = ValueType::tensor(value.tensor.type(), to_dims(value.tensor.shape()));
    }
    graph.value(id).constant = std::move(value);
    return id;
  }
  // A value of `outer`, the graph around this one.
  ValueId capture(ValueId outer) {
    const ValueId id = graph.add_value("captured" + std::to_string(graph.values.size()));
    graph.captures.push_back({outer, id});
    return id;
  }
  std::vector<ValueId> nodes(const std::string& op, std::vector<ValueId> inputs, int num_outputs,
                             Attributes attributes = {}, int opset = 20, const std::string& domain = "") {
    Node node;
    node.op_type = op;
    node.domain = domain;
    node.name = op;
    node.opset = opset;
    node.attributes = std::move(attributes);
    node.inputs = std::move(inputs);
    for (int i = 0; i < num_outputs; ++i) {
      node.outputs.push_back(graph.add_value("out" + std::to_string(graph.values.size())));
    }
    node.op = find_op(domain, op, opset);
    if (node.op == nullptr) fail(Code::kInvalidArgument, "{}", explain_missing_op(domain, op, opset));
    graph.nodes.push_back(node);
    return graph.nodes.back().outputs;
  }
  ValueId node(const std::string& op, std::vector<ValueId> inputs, Attributes attributes = {}, int opset = 20,
               const std::string& domain = "") {
    return nodes(op, std::move(inputs), 1, std::move(attributes), opset, domain)[0];
  }
  Graph finish(std::vector<ValueId> outputs) {
    graph.outputs = std::move(outputs);
    return std::move(graph);
  }

  Graph graph;
};

// Infers and runs, as a loaded model is. Throws what is wrong.
inline std::vector<Value> run(Graph graph, const std::vector<Value>& inputs = {}) {
  auto model = std::make_shared<Model>();
  model->graph = std::move(graph);
  std::vector<std::string> problems;
  infer_types(model->graph, problems);
  if (!problems.empty()) fail(Code::kInvalidArgument, "{}", problems.front());
  Executor executor(model, {.num_threads = 2, .compiles = false});  // the operators themselves
  return executor.run(inputs);
}

// A model of one node.
inline std::vector<Value> run_node(const std::string& op, const std::vector<Value>& inputs, int num_outputs = 1,
                                   Attributes attributes = {}, int opset = 20, const std::string& domain = "") {
  Builder builder;
  std::vector<ValueId> ids;
  std::vector<Value> given;
  for (const Value& value : inputs) {
    if (value.is_none()) {
      ids.push_back(kNoValue);
      continue;
    }
    const bool is_tensor = value.kind == Value::Kind::kTensor;
    ids.push_back(
        builder.input(is_tensor ? ValueType::tensor(value.tensor.type(), to_dims(value.tensor.shape())) : ValueType()));
    given.push_back(value);
  }
  const std::vector<ValueId> outputs = builder.nodes(op, ids, num_outputs, std::move(attributes), opset, domain);
  return run(builder.finish(outputs), given);
}

template <typename T>
std::vector<T> elements(const Value& value) {
  const auto values = value.tensor.values<T>();
  return {values.begin(), values.end()};
}

// The message of the Error that `action` throws; "" if it throws none.
template <typename Action>
std::string message_of(Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.message();
  }
  return "";
}

}  // namespace sluice::graph::for_test
