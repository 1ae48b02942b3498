#include "graph/run_op.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "graph/ops/convert.h"

namespace sluice::graph {
namespace {

Tensor convert(const Tensor& tensor, ElementType type, const RunContext::Environment& environment) {
  Tensor converted(type, tensor.shape(), environment.buffers);
  ops::convert_elements(tensor, converted, {}, *environment.pool);
  return converted;
}

bool is_half_tensor(const Value* value) {
  return value != nullptr && value->kind == Value::Kind::kTensor && is_half(value->tensor.type());
}

void allocate_known(std::span<const ValueType> types, std::span<Value> outputs,
                    const RunContext::Environment& environment) {
  for (size_t i = 0; i < types.size(); ++i) {
    if (!outputs[i].is_none() || !types[i].is_tensor() || !types[i].dims ||
        types[i].element == ElementType::kUndefined) {
      continue;
    }
    if (const std::optional<Shape> shape = known_shape(*types[i].dims)) {
      outputs[i] = Value(Tensor(types[i].element, *shape, environment.buffers));
    }
  }
}

// An operator that knows no f16 and bf16: it gets f32 in their place, and what it makes is rounded once.
void run_via_float(const Node& node, std::span<const Value* const> inputs, std::span<Value> outputs,
                   std::span<const ValueType> types, const RunContext::Environment& environment) {
  std::vector<Value> wide_inputs;
  wide_inputs.reserve(inputs.size());
  std::vector<const Value*> given(inputs.begin(), inputs.end());
  for (const Value*& input : given) {
    if (!is_half_tensor(input)) continue;
    wide_inputs.emplace_back(convert(input->tensor, ElementType::kF32, environment));
    input = &wide_inputs.back();
  }
  std::vector<ValueType> wide_types(types.begin(), types.end());
  std::vector<Value> wide_outputs(outputs.size());
  for (size_t i = 0; i < types.size(); ++i) {
    if (types[i].is_tensor() && is_half(types[i].element)) wide_types[i].element = ElementType::kF32;
    else wide_outputs[i] = outputs[i];
  }
  if ((node.op->flags & OpInfo::kMakesOutputs) == 0) allocate_known(wide_types, wide_outputs, environment);
  RunContext context(node, given, wide_outputs, wide_types, environment);
  node.op->run(context);
  for (size_t i = 0; i < outputs.size(); ++i) {
    Value& made = wide_outputs[i];
    const bool is_rounded = i < node.outputs.size() && node.outputs[i] != kNoValue && types[i].is_tensor() &&
                            is_half(types[i].element) && made.kind == Value::Kind::kTensor &&
                            made.tensor.type() == ElementType::kF32;
    if (!is_rounded) {
      outputs[i] = std::move(made);
    } else if (!outputs[i].is_none()) {
      ops::convert_elements(made.tensor, outputs[i].tensor, {}, *environment.pool);
    } else {
      outputs[i] = Value(convert(made.tensor, types[i].element, environment));
    }
  }
}

}  // namespace

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

void run_op_typed(const Node& node, std::span<const Value* const> inputs, std::span<Value> outputs,
                  std::span<const ValueType> types, const RunContext::Environment& environment) {
  const OpInfo& op = *node.op;
  if ((op.flags & OpInfo::kViaFloat) != 0) {
    bool has_half = std::any_of(inputs.begin(), inputs.end(), is_half_tensor);
    for (const ValueType& type : types) has_half |= type.is_tensor() && is_half(type.element);
    if (has_half) return run_via_float(node, inputs, outputs, types, environment);
  }
  if ((op.flags & OpInfo::kMakesOutputs) == 0) allocate_known(types, outputs, environment);
  RunContext context(node, inputs, outputs, types, environment);
  op.run(context);
}

void run_op(const Node& node, std::span<const Value* const> inputs, std::span<Value> outputs,
            const RunContext::Environment& environment) {
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
  node.op->infer(infer_context);
  std::vector<ValueType> types(outputs.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    types[i] = std::move(inferred[i].type);
    outputs[i] = Value();
  }
  run_op_typed(node, inputs, outputs, types, environment);
}

}  // namespace sluice::graph
