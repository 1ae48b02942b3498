#include "graph/executor.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/trace.h"
#include "graph/import_onnx.h"
#include "graph/ops/convert.h"
#include "graph/passes.h"

namespace sluice::graph {
namespace {

Tensor convert(const Tensor& tensor, ElementType type, const RunContext::Environment& environment) {
  Tensor converted(type, tensor.shape(), environment.buffers);
  ops::convert_elements(tensor, converted, {}, *environment.pool);
  return converted;
}

ValueType type_of_value(const Value& value) {
  switch (value.kind) {
    case Value::Kind::kTensor:
      return ValueType::tensor(value.tensor.type(), to_dims(value.tensor.shape()));
    case Value::Kind::kSequence:
      return ValueType::sequence(value.sequence->empty() ? ValueType() : type_of_value(value.sequence->front()));
    case Value::Kind::kMap: {
      ValueType type{.kind = ValueType::Kind::kMap};
      type.key = value.map->keys.type();
      type.element = value.map->values.type();
      return type;
    }
    case Value::Kind::kNone:
      return {};
  }
  return {};
}

// The node on values that are all known. `run_graph` may be null if the node has no body.
void run_op(const Node& node, std::span<const Value* const> inputs, std::span<Value> outputs,
            const RunContext::Environment& environment) {
  const OpInfo& op = *node.op;
  std::vector<InferContext::Input> known(inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i] == nullptr) continue;
    known[i] = {.type = type_of_value(*inputs[i]), .value = inputs[i], .ints = nullptr};
  }
  std::vector<InferContext::Output> inferred(outputs.size());
  const InferContext::InferGraph infer_nothing = [](const Graph& body, const std::vector<ValueType>&) {
    return std::vector<ValueType>(body.outputs.size());
  };
  InferContext infer_context(node, known, inferred, &infer_nothing);
  op.infer(infer_context);

  std::vector<Value> wide_inputs;
  std::vector<const Value*> given(inputs.begin(), inputs.end());
  const bool is_via_float = (op.flags & OpInfo::kViaFloat) != 0;
  if (is_via_float) {
    wide_inputs.reserve(inputs.size());
    for (const Value*& input : given) {
      if (input == nullptr || input->kind != Value::Kind::kTensor || !is_half(input->tensor.type())) continue;
      wide_inputs.emplace_back(convert(input->tensor, ElementType::kF32, environment));
      input = &wide_inputs.back();
    }
  }
  std::vector<ValueType> types(outputs.size());
  std::vector<ElementType> half_types(outputs.size(), ElementType::kUndefined);
  for (size_t i = 0; i < outputs.size(); ++i) {
    types[i] = inferred[i].type;
    if (is_via_float && types[i].is_tensor() && is_half(types[i].element)) {
      half_types[i] = std::exchange(types[i].element, ElementType::kF32);
    }
    outputs[i] = Value();
    if ((op.flags & OpInfo::kMakesOutputs) != 0 || !types[i].is_tensor() || !types[i].dims ||
        types[i].element == ElementType::kUndefined) {
      continue;
    }
    if (const std::optional<Shape> shape = known_shape(*types[i].dims)) {
      outputs[i] = Value(Tensor(types[i].element, *shape, environment.buffers));
    }
  }
  RunContext context(node, given, outputs, types, environment);
  op.run(context);
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    if (node.outputs[i] != kNoValue && half_types[i] != ElementType::kUndefined &&
        outputs[i].kind == Value::Kind::kTensor && outputs[i].tensor.type() == ElementType::kF32) {
      outputs[i] = Value(convert(outputs[i].tensor, half_types[i], environment));
    }
  }
}

}  // namespace

struct Executor::Plan {
  std::vector<std::vector<ValueId>> dead_after;  // of each node: values that nobody reads later
};

struct Executor::Frame {
  std::vector<Value> values;
};

Executor::Executor(std::shared_ptr<const Model> model, Options options)
    : model_(std::move(model)),
      options_(options),
      buffers_(std::make_shared<BufferPool>(options.max_bytes)),
      pool_(options.num_threads > 0 ? options.num_threads : num_available_cores()),
      random_(options.seed) {}

Executor::~Executor() = default;

const Executor::Plan& Executor::plan_of(const Graph& graph) {
  std::unique_ptr<Plan>& plan = plans_[&graph];
  if (plan != nullptr) return *plan;
  plan = std::make_unique<Plan>();
  std::vector<int64_t> last_use(graph.values.size(), -1);
  const int64_t num_nodes = static_cast<int64_t>(graph.nodes.size());
  for (int64_t n = 0; n < num_nodes; ++n) {
    const Node& node = graph.nodes[static_cast<size_t>(n)];
    for (const ValueId id : node.outputs) {
      if (id != kNoValue) last_use[static_cast<size_t>(id)] = n;
    }
    for_each_use(node, [&](ValueId id) { last_use[static_cast<size_t>(id)] = n; });
  }
  for (const ValueId id : graph.outputs) last_use[static_cast<size_t>(id)] = num_nodes;
  plan->dead_after.resize(graph.nodes.size());
  for (size_t id = 0; id < last_use.size(); ++id) {
    if (last_use[id] >= 0 && last_use[id] < num_nodes) {
      plan->dead_after[static_cast<size_t>(last_use[id])].push_back(static_cast<ValueId>(id));
    }
  }
  return *plan;
}

void Executor::check_inputs(std::span<const Value> inputs) const {
  const Graph& graph = model_->graph;
  if (inputs.size() != graph.inputs.size()) {
    fail(Code::kInvalidArgument, "the model has {} inputs; {} were given", graph.inputs.size(), inputs.size());
  }
  std::map<std::string, std::pair<int64_t, std::string>> symbols;  // value, and the input that said so
  for (size_t i = 0; i < inputs.size(); ++i) {
    const GraphValue& declared = graph.value(graph.inputs[i]);
    const Value& value = inputs[i];
    const ValueType& type = declared.type;
    if (value.is_none()) {
      if (!declared.constant && type.kind != ValueType::Kind::kOptional) {
        fail(Code::kInvalidArgument, "input '{}' is missing; it has to be {}", declared.name, to_string(type));
      }
      continue;
    }
    if (!type.is_tensor()) continue;  // operators check what is in sequences and maps
    if (value.kind != Value::Kind::kTensor) {
      fail(Code::kInvalidArgument, "input '{}' has to be a tensor, {}", declared.name, to_string(type));
    }
    const Tensor& tensor = value.tensor;
    const bool fits = (type.element == ElementType::kUndefined || tensor.type() == type.element) &&
                      (!type.dims || options_.takes_any_shape || static_cast<int>(type.dims->size()) == tensor.rank());
    if (!fits) {
      fail(Code::kInvalidArgument, "input '{}' is {}; it has to be {}", declared.name, to_string(tensor),
           to_string(type));
    }
    if (!type.dims || options_.takes_any_shape) continue;
    for (int d = 0; d < tensor.rank(); ++d) {
      const Dim& dim = (*type.dims)[static_cast<size_t>(d)];
      if (dim.is_known()) {
        if (dim.value() != tensor.dim(d)) {
          fail(Code::kInvalidArgument, "input '{}' is {}: dimension {} has to be {}, not {}", declared.name,
               to_string(tensor), d, dim.value(), tensor.dim(d));
        }
        continue;
      }
      const auto [found, is_new] = symbols.try_emplace(dim.to_string(), tensor.dim(d), declared.name);
      if (!is_new && found->second.first != tensor.dim(d)) {
        fail(Code::kInvalidArgument, "'{}' is {} in input '{}' and {} in input '{}'; it has to be the same in both",
             found->first, found->second.first, found->second.second, tensor.dim(d), declared.name);
      }
    }
  }
}

bool Executor::takes(std::span<const Value> inputs) const {
  try {
    check_inputs(inputs);
    return true;
  } catch (const Error&) {
    return false;
  }
}

std::vector<Value> Executor::run(std::span<const Value> inputs) {
  TRACE("graph.run");
  check_inputs(inputs);
  const Graph& graph = model_->graph;
  Frame frame;
  frame.values.resize(graph.values.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    const ValueId id = graph.inputs[i];
    const std::optional<Value>& otherwise = graph.value(id).constant;
    frame.values[static_cast<size_t>(id)] = inputs[i].is_none() && otherwise ? *otherwise : inputs[i];
  }
  depth_ = 0;
  return run_frame(graph, frame);
}

// Inputs and captures are in the frame already.
std::vector<Value> Executor::run_frame(const Graph& graph, Frame& frame) {
  const Plan& plan = plan_of(graph);
  for (size_t n = 0; n < graph.nodes.size(); ++n) {
    run_node(graph, graph.nodes[n], frame);
    for (const ValueId id : plan.dead_after[n]) frame.values[static_cast<size_t>(id)] = Value();
  }
  std::vector<Value> outputs;
  for (const ValueId id : graph.outputs) {
    const std::optional<Value>& constant = graph.value(id).constant;
    const Value& value = frame.values[static_cast<size_t>(id)];
    outputs.push_back(value.is_none() && constant ? *constant : value);
  }
  return outputs;
}

void Executor::run_node(const Graph& graph, const Node& node, Frame& frame) {
  auto find = [&](ValueId id) -> const Value* {
    const Value& value = frame.values[static_cast<size_t>(id)];
    const std::optional<Value>& constant = graph.value(id).constant;
    return value.is_none() && constant ? &*constant : &value;
  };
  std::vector<const Value*> inputs(node.inputs.size(), nullptr);
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (node.inputs[i] != kNoValue) inputs[i] = find(node.inputs[i]);
  }
  std::vector<Value> outputs(std::max(node.outputs.size(), kMinOutputs));
  const RunContext::RunGraph run_graph = [&](const Node&, const Graph& body, std::vector<Value> given) {
    CHECK(given.size() == body.inputs.size(), given.size(), body.inputs.size());
    if (++depth_ > kMaxDepth) fail(Code::kInvalidArgument, "bodies are nested more than {} deep", kMaxDepth);
    Frame inner;
    inner.values.resize(body.values.size());
    for (const Capture& capture : body.captures)
      inner.values[static_cast<size_t>(capture.inner)] = *find(capture.outer);
    for (size_t i = 0; i < given.size(); ++i) inner.values[static_cast<size_t>(body.inputs[i])] = std::move(given[i]);
    std::vector<Value> results = run_frame(body, inner);
    --depth_;
    return results;
  };
  try {
    run_op(node, inputs, outputs,
           {.pool = &pool_, .buffers = buffers_.get(), .random = &random_, .run_graph = &run_graph});
  } catch (const Error& error) {
    if (error.message().starts_with("node '")) throw;
    throw Error(error.code(), node.describe() + ": " + error.message(), error.param());
  }
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    if (node.outputs[i] != kNoValue) frame.values[static_cast<size_t>(node.outputs[i])] = std::move(outputs[i]);
  }
}

std::vector<Value> evaluate(const Node& node, std::span<const Value* const> inputs, ThreadPool& pool,
                            BufferPool* buffers) {
  std::vector<Value> outputs(std::max(node.outputs.size(), kMinOutputs));
  Random random(0);
  const RunContext::RunGraph no_bodies = [](const Node& owner, const Graph&, std::vector<Value>) -> std::vector<Value> {
    fail(Code::kUnimplemented, "{}: has a body and is no constant", owner.describe());
  };
  run_op(node, inputs, outputs, {.pool = &pool, .buffers = buffers, .random = &random, .run_graph = &no_bodies});
  return outputs;
}

}  // namespace sluice::graph
