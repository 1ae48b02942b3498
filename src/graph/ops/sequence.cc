// Sequences and optionals (ONNX operator specification, opsets 11 to 24). Their elements are values that share memory
// with whatever they came from; a new sequence is a new list of references. An optional that holds something is that
// something, so Optional and OptionalGetElement pass values through. Pieces of SplitToSequence along the outermost
// axis are views. A position may be negative, from the back.
#include <numeric>

#include "graph/ops/bodies.h"
#include "graph/ops/move.h"
#include "graph/ops/ops.h"
#include "graph/ops/pieces.h"

namespace sluice::graph::ops {
namespace {

using Kind = ValueType::Kind;

// What an input's elements are; unknown if nothing is known of it.
ValueType get_element_type(const InferContext& context, int i) {
  const ValueType& type = context.type(i);
  if (type.kind == Kind::kUnknown) return {};
  const ValueType& sequence = type.kind == Kind::kOptional && type.inner != nullptr ? *type.inner : type;
  if (sequence.kind == Kind::kUnknown) return {};
  if (sequence.kind != Kind::kSequence) context.fail("input {} is {}; it has to be a sequence", i + 1, to_string(type));
  return sequence.inner == nullptr ? ValueType() : *sequence.inner;
}

const std::vector<Value>& get_sequence(const RunContext& context, int i) {
  const Value& value = context.input_value(i);
  if (value.kind != Value::Kind::kSequence) context.fail("input {} has to be a sequence", i + 1);
  return *value.sequence;
}

// An index below `limit`; `otherwise` if the input is left out.
size_t get_position(const RunContext& context, int i, size_t limit, size_t num_elements, size_t otherwise) {
  if (!context.has_input(i)) return otherwise;
  const std::vector<int64_t> values = to_ints(context.input(i));
  if (values.size() != 1) context.fail("its position has {} elements and has to be one", values.size());
  const int64_t count = static_cast<int64_t>(num_elements);
  const int64_t position = values[0] < 0 && values[0] >= -count ? values[0] + count : values[0];
  if (position < 0 || position >= static_cast<int64_t>(limit)) {
    context.fail("position {} is outside a sequence of {} elements", values[0], count);
  }
  return static_cast<size_t>(position);
}

void infer_empty(InferContext& context) {
  const int64_t type = context.node().get_int("dtype", static_cast<int64_t>(ElementType::kF32));
  if (type <= 0 || type >= kNumElementTypes) context.fail("dtype {} is no element type", type);
  context.set_type(0, ValueType::sequence(ValueType::tensor(static_cast<ElementType>(type))));
}

void run_empty(RunContext& context) { context.set(0, Value(std::vector<Value>())); }

void infer_construct(InferContext& context) {
  ValueType type = context.type(0);
  for (int i = 1; i < context.num_inputs(); ++i) type = join_types(context, 0, type, context.type(i));
  context.set_type(0, ValueType::sequence(std::move(type)));
}

void run_construct(RunContext& context) {
  std::vector<Value> elements;
  for (int i = 0; i < context.num_inputs(); ++i) elements.push_back(context.input_value(i));
  context.set(0, Value(std::move(elements)));
}

void infer_insert(InferContext& context) {
  const ValueType element = get_element_type(context, 0);
  // An empty sequence says nothing of its elements.
  const ValueType& tensor = context.type(1);
  context.set_type(
      0, ValueType::sequence(element.kind == Kind::kUnknown ? tensor : join_types(context, 0, element, tensor)));
}

void run_insert(RunContext& context) {
  std::vector<Value> elements;
  const std::vector<Value>& old = get_sequence(context, 0);
  const size_t position = get_position(context, 2, old.size() + 1, old.size(), old.size());
  elements.reserve(old.size() + 1);
  elements = old;
  elements.insert(elements.begin() + static_cast<std::ptrdiff_t>(position), context.input(1));
  context.set(0, Value(std::move(elements)));
}

void infer_erase(InferContext& context) { context.set_type(0, ValueType::sequence(get_element_type(context, 0))); }

void run_erase(RunContext& context) {
  std::vector<Value> elements = get_sequence(context, 0);
  const size_t position = get_position(context, 1, elements.size(), elements.size(), elements.size() - 1);
  if (elements.empty()) context.fail("the sequence is empty");
  elements.erase(elements.begin() + static_cast<std::ptrdiff_t>(position));
  context.set(0, Value(std::move(elements)));
}

void infer_at(InferContext& context) { context.set_type(0, get_element_type(context, 0)); }

void run_at(RunContext& context) {
  const std::vector<Value>& elements = get_sequence(context, 0);
  context.set(0, elements[get_position(context, 1, elements.size(), elements.size(), 0)]);
}

void infer_length(InferContext& context) {
  get_element_type(context, 0);
  context.set_output(0, ElementType::kI64, Dims{});
}

void run_length(RunContext& context) {
  context.output_data<int64_t>(0)[0] = static_cast<int64_t>(get_sequence(context, 0).size());
}

void infer_split(InferContext& context) {
  const ValueType& type = context.type(0);
  if (!type.is_tensor()) return;
  if (!type.has_rank()) return context.set_type(0, ValueType::sequence(ValueType::tensor(type.element)));
  const int axis = context.axis(context.node().get_int("axis", 0), type.rank());
  Dims dims = *type.dims;
  if (context.has_input(1)) {
    const auto lengths = context.known_ints(1);
    const bool are_alike =
        lengths && !lengths->empty() && context.has_rank(1) && context.rank(1) == 1 &&
        std::all_of(lengths->begin(), lengths->end(), [&](int64_t n) { return n == lengths->front(); });
    dims[static_cast<size_t>(axis)] = are_alike ? Dim(lengths->front()) : Dim::unknown();
  } else if (context.node().get_int("keepdims", 1) != 0) {
    dims[static_cast<size_t>(axis)] = 1;
  } else {
    dims.erase(dims.begin() + axis);
  }
  context.set_type(0, ValueType::sequence(ValueType::tensor(type.element, std::move(dims))));
}

void run_split(RunContext& context) {
  const Tensor& whole = context.input(0);
  const int axis = context.axis(context.node().get_int("axis", 0), whole.rank());
  const int64_t length = whole.dim(axis);
  const bool drops_axis = !context.has_input(1) && context.node().get_int("keepdims", 1) == 0;
  const bool has_list = context.has_input(1) && context.input(1).rank() == 1;
  std::vector<int64_t> split = context.has_input(1) ? to_ints(context.input(1)) : std::vector<int64_t>{1};
  if (has_list) {
    int64_t sum = 0;
    for (const int64_t part : split) {
      if (part < 0 || part > length - sum) context.fail("its parts do not fit into dimension {} of {}", axis, length);
      sum += part;
    }
    if (sum != length) context.fail("its parts add up to {}; dimension {} is {}", sum, axis, length);
  } else {
    if (split.size() != 1 || split[0] < 1) context.fail("split has to be a list of sizes or one positive size");
    const int64_t size = split[0], num_parts = length / size + (length % size != 0 ? 1 : 0);
    constexpr int64_t kMaxEmptyParts = 1 << 16;
    if (whole.count() == 0 && num_parts > kMaxEmptyParts) {
      sluice::fail(Code::kResourceExhausted, "{}: would make {} empty tensors", context.node().describe(), num_parts);
    }
    split.assign(static_cast<size_t>(num_parts), size);
    if (length % size != 0) split.back() = length % size;
  }
  std::vector<Value> parts;
  parts.reserve(split.size());
  int64_t begin = 0;
  for (const int64_t part : split) {
    parts.emplace_back(drops_axis ? take_piece(context, whole, axis, begin)
                                  : take_slice(context, whole, axis, begin, part));
    begin += part;
  }
  context.set(0, Value(std::move(parts)));
}

void infer_concat(InferContext& context) {
  const ValueType type = get_element_type(context, 0);
  if (!type.is_tensor()) return;
  if (!type.has_rank()) return context.set_output(0, type.element);
  Dims dims = *type.dims;
  const int64_t given = context.node().get_int("axis", 0);
  if (context.node().get_int("new_axis", 0) != 0) {
    dims.insert(dims.begin() + context.axis(given, type.rank() + 1), Dim::unknown());
  } else {
    dims[static_cast<size_t>(context.axis(given, type.rank()))] = Dim::unknown();
  }
  context.set_output(0, type.element, std::move(dims));
}

// Along an axis that the elements have.
void concatenate(RunContext& context, const std::vector<Value>& elements, int64_t given_axis) {
  const Tensor& first = elements[0].tensor;
  const int axis = context.axis(given_axis, first.rank());
  Shape shape = first.shape();
  shape[axis] = 0;
  for (const Value& element : elements) {
    Shape expected = shape;
    if (element.kind == Value::Kind::kTensor && element.tensor.rank() == shape.rank()) {
      expected[axis] = element.tensor.dim(axis);
    }
    if (element.kind != Value::Kind::kTensor || element.tensor.type() != first.type() ||
        !(element.tensor.shape() == expected)) {
      context.fail("its elements are no tensors of one type that differ in dimension {} only", axis);
    }
  }
  for (const Value& element : elements) {
    if (__builtin_add_overflow(shape[axis], element.tensor.dim(axis), &shape[axis])) {
      context.fail("dimension {} of all elements together is larger than an int64", axis);
    }
  }
  Tensor& whole = context.allocate(0, first.type(), shape);
  const int64_t num_outer = shape.count(0, axis), inner = shape.count(axis + 1, shape.rank());
  int64_t begin = 0;
  for (const Value& element : elements) {
    const int64_t run = element.tensor.dim(axis) * inner;
    if (element.tensor.count() > 0) {
      move_elements(first.type(), element.tensor.raw(), element_at(whole, begin * inner),
                    {{num_outer, run, shape[axis] * inner}, {run, 1, 1}}, context.pool());
    }
    begin += element.tensor.dim(axis);
  }
}

void run_concat(RunContext& context) {
  const std::vector<Value>& elements = get_sequence(context, 0);
  if (elements.empty()) context.fail("the sequence is empty");
  if (!context.node().has("axis")) context.fail("has no attribute axis");
  const int64_t axis = context.node().get_int("axis", 0);
  if (context.node().get_int("new_axis", 0) == 0) {
    if (elements[0].kind != Value::Kind::kTensor) context.fail("its elements have to be tensors");
    return concatenate(context, elements, axis);
  }
  Stack stack(static_cast<int64_t>(elements.size()), /*is_exact=*/true, axis);
  for (size_t i = 0; i < elements.size(); ++i) stack.put(context, 0, static_cast<int64_t>(i), elements[i]);
  context.set(0, stack.take(context, 0, static_cast<int64_t>(elements.size()), {}));
}

void infer_map(InferContext& context) {
  const Graph& body = context.node().get_graph("body");
  check_body(context.node(), body, context.num_inputs(), static_cast<int64_t>(body.outputs.size()));
  if (static_cast<int>(body.outputs.size()) < context.num_outputs()) {
    context.fail("has {} outputs, but its body gives {} values", context.num_outputs(), body.outputs.size());
  }
  std::vector<ValueType> given;
  for (int i = 0; i < context.num_inputs(); ++i) {
    const bool is_sequence = i == 0 || context.type(i).kind == Kind::kSequence;
    given.push_back(is_sequence ? get_element_type(context, i) : context.type(i));
  }
  std::vector<ValueType> results = context.infer_graph(body, given);
  for (int i = 0; i < context.num_outputs(); ++i) {
    context.set_type(i, ValueType::sequence(std::move(results[static_cast<size_t>(i)])));
  }
}

void run_map(RunContext& context) {
  const Graph& body = context.node().get_graph("body");
  const size_t count = get_sequence(context, 0).size();
  for (int i = 1; i < context.num_inputs(); ++i) {
    const Value& value = context.input_value(i);
    if (value.kind == Value::Kind::kSequence && value.sequence->size() != count) {
      context.fail("input {} has {} elements and input 1 has {}; they have to be as many", i + 1,
                   value.sequence->size(), count);
    }
  }
  std::vector<std::vector<Value>> outputs(static_cast<size_t>(context.num_outputs()));
  for (auto& output : outputs) output.reserve(count);
  for (size_t k = 0; k < count; ++k) {
    std::vector<Value> given;
    for (int i = 0; i < context.num_inputs(); ++i) {
      const Value& value = context.input_value(i);
      given.push_back(value.kind == Value::Kind::kSequence ? (*value.sequence)[k] : value);
    }
    std::vector<Value> results = context.run_graph(body, std::move(given));
    for (size_t i = 0; i < outputs.size(); ++i) outputs[i].push_back(std::move(results[i]));
  }
  for (size_t i = 0; i < outputs.size(); ++i) context.set(static_cast<int>(i), Value(std::move(outputs[i])));
}

void infer_optional(InferContext& context) {
  if (context.has_input(0)) return context.set_type(0, ValueType::optional(context.type(0)));
  const Attribute* type = context.node().find("type");
  if (type == nullptr || type->kind != Attribute::Kind::kType) {
    context.fail("has neither an input nor an attribute type");
  }
  context.set_type(0, ValueType::optional(type->type));
}

void run_optional(RunContext& context) { context.set(0, context.has_input(0) ? context.input_value(0) : Value()); }

void infer_has_element(InferContext& context) { context.set_output(0, ElementType::kBool, Dims{}); }

void run_has_element(RunContext& context) {
  context.output_data<bool>(0)[0] = context.has_input(0) && !context.input_value(0).is_none();
}

void infer_get_element(InferContext& context) {
  const ValueType& type = context.type(0);
  context.set_type(0, type.kind == Kind::kOptional ? (type.inner != nullptr ? *type.inner : ValueType()) : type);
}

void run_get_element(RunContext& context) {
  const Value& value = context.input_value(0);
  if (value.is_none()) context.fail("the optional holds nothing");
  context.set(0, value);
}

constexpr OpInfo kOps[] = {
    {"", "SequenceEmpty", 11, 0, infer_empty, run_empty, OpInfo::kMakesOutputs},
    {"", "SequenceConstruct", 11, 0, infer_construct, run_construct, OpInfo::kMakesOutputs},
    {"", "SequenceInsert", 11, 0, infer_insert, run_insert, OpInfo::kMakesOutputs},
    {"", "SequenceErase", 11, 0, infer_erase, run_erase, OpInfo::kMakesOutputs},
    {"", "SequenceAt", 11, 0, infer_at, run_at, OpInfo::kMakesOutputs},
    {"", "SequenceLength", 11, 0, infer_length, run_length},
    {"", "SplitToSequence", 11, 0, infer_split, run_split, OpInfo::kMakesOutputs},
    {"", "ConcatFromSequence", 11, 0, infer_concat, run_concat, OpInfo::kMakesOutputs},
    {"", "SequenceMap", 17, 0, infer_map, run_map, OpInfo::kMakesOutputs},
    {"", "Optional", 15, 0, infer_optional, run_optional, OpInfo::kMakesOutputs},
    {"", "OptionalHasElement", 15, 0, infer_has_element, run_has_element},
    {"", "OptionalGetElement", 15, 0, infer_get_element, run_get_element, OpInfo::kMakesOutputs},
};

}  // namespace

std::span<const OpInfo> sequence_ops() { return kOps; }

}  // namespace sluice::graph::ops
