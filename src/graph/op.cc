#include "graph/op.h"

#include <limits>

namespace sluice::graph {
namespace {

// An axis of either context. Throws Error naming the node.
int resolve_axis(const Node& node, int64_t axis, int rank) {
  if (axis < -rank || axis >= rank) {
    fail(Code::kInvalidArgument, "{}: axis {} is outside a tensor of {} dimensions", node.describe(), axis, rank);
  }
  return static_cast<int>(axis < 0 ? axis + rank : axis);
}

[[noreturn]] void fail_missing_input(const Node& node, int i) {
  fail(Code::kInvalidArgument, "{}: input {} is missing", node.describe(), i + 1);
}

}  // namespace

const ValueType& InferContext::type(int i) const {
  if (!has_input(i)) fail_missing_input(node_, i);
  return inputs_[static_cast<size_t>(i)].type;
}

const Tensor* InferContext::constant(int i) const {
  const Value* value = constant_value(i);
  return value != nullptr && value->kind == Value::Kind::kTensor ? &value->tensor : nullptr;
}

std::optional<std::vector<Dim>> InferContext::ints(int i) const {
  if (!has_input(i)) return std::nullopt;
  if (const Tensor* tensor = constant(i); tensor != nullptr) {
    // Of fewer than 8 bits none holds a shape.
    const bool may_be_shape = (is_integer(tensor->type()) && get_info(tensor->type()).packed_bits >= 8) ||
                              tensor->type() == ElementType::kBool;
    if (!may_be_shape) return std::nullopt;
    const std::vector<int64_t> values = to_ints(*tensor);
    return std::vector<Dim>(values.begin(), values.end());
  }
  const std::vector<Dim>* ints = inputs_[static_cast<size_t>(i)].ints;
  return ints == nullptr ? std::nullopt : std::optional(*ints);
}

std::optional<std::vector<int64_t>> InferContext::known_ints(int i) const {
  const std::optional<std::vector<Dim>> dims = ints(i);
  if (!dims) return std::nullopt;
  std::vector<int64_t> values;
  for (const Dim& dim : *dims) {
    if (!dim.is_known()) return std::nullopt;
    values.push_back(dim.value());
  }
  return values;
}

void InferContext::set_type(int i, ValueType type) {
  if (static_cast<size_t>(i) < outputs_.size()) outputs_[static_cast<size_t>(i)].type = std::move(type);
}

void InferContext::set_ints(int i, std::vector<Dim> ints) {
  if (static_cast<size_t>(i) < outputs_.size()) outputs_[static_cast<size_t>(i)].ints = std::move(ints);
}

int InferContext::axis(int64_t axis, int rank) const { return resolve_axis(node_, axis, rank); }
int RunContext::axis(int64_t axis, int rank) const { return resolve_axis(node_, axis, rank); }

const Value& RunContext::input_value(int i) const {
  if (!has_input(i)) fail_missing_input(node_, i);
  return *inputs_[static_cast<size_t>(i)];
}

const Tensor& RunContext::input(int i) const {
  const Value& value = input_value(i);
  if (value.kind != Value::Kind::kTensor) {
    fail("input {} has to be a tensor, not {}", i + 1,
         value.is_none()                   ? "an empty optional"
         : value.kind == Value::Kind::kMap ? "a map"
                                           : "a sequence");
  }
  return value.tensor;
}

Tensor& RunContext::allocate(int i, ElementType type, const Shape& shape) {
  Value& value = outputs_[static_cast<size_t>(i)];
  value = Value(Tensor(type, shape, environment_.buffers));
  return value.tensor;
}

void RunContext::fail_type(int i) const { fail("does not take {} as input {}", name(input(i).type()), i + 1); }

Dims broadcast(const InferContext& context, const Dims& a, const Dims& b) {
  const Dims &longer = a.size() >= b.size() ? a : b, &shorter = a.size() >= b.size() ? b : a;
  Dims result = longer;
  const size_t shift = longer.size() - shorter.size();
  for (size_t i = 0; i < shorter.size(); ++i) {
    Dim& to = result[shift + i];
    const Dim& other = shorter[i];
    if (other == Dim(1) || to == other) continue;
    if (to == Dim(1)) {
      to = other;
    } else if (to.is_known() && other.is_known()) {
      context.fail("shapes {} and {} cannot be broadcast to each other", to_string(a), to_string(b));
    } else if (!to.is_known() && other.is_known()) {
      to = other;  // anything but 1, so the symbol is equal to it, or 1
    } else if (!to.is_known()) {
      to = Dim::unknown();
    }
  }
  return result;
}

void infer_same(InferContext& context) { context.set_type(0, context.type(0)); }

namespace {

void infer_broadcast_as(InferContext& context, ElementType element) {
  Dims dims;
  for (int i = 0; i < context.num_inputs(); ++i) {
    if (!context.has_rank(i)) return context.set_output(0, element);
    dims = i == 0 ? context.dims(0) : broadcast(context, dims, context.dims(i));
  }
  context.set_output(0, element, std::move(dims));
}

}  // namespace

void infer_broadcast(InferContext& context) { infer_broadcast_as(context, context.element(0)); }
void infer_broadcast_bool(InferContext& context) { infer_broadcast_as(context, ElementType::kBool); }

}  // namespace sluice::graph
