#include "graph/import_tflite_graph.h"

#include <algorithm>

#include "base/error.h"
#include "graph/op.h"

namespace sluice::graph {
namespace {

constexpr int kToSecond[] = {0, 3, 1, 2}, kToLast[] = {0, 2, 3, 1};

// Of 4-D dims with channels last. Nothing moves if all that trades places is of size 1.
bool is_reshape(const Dims& dims) {
  const bool is_pixel = dims[1] == Dim(1) && dims[2] == Dim(1);
  return is_pixel || dims[3] == Dim(1);
}

ValueType type_of_tensor(const TfliteTensor& tensor) {
  return tensor.has_rank ? ValueType::tensor(tensor.element, tensor.dims) : ValueType::tensor(tensor.element);
}

}  // namespace

Tensor transpose_tensor(const Tensor& from, std::span<const int> perm) {
  const Shape strides = strides_of(from.shape());
  Shape shape, steps;
  for (const int axis : perm) {
    shape.push_back(from.dim(axis));
    steps.push_back(strides[axis]);
  }
  Tensor to(from.type(), shape);
  if (to.count() == 0) return to;
  const int last = shape.rank() - 1;
  dispatch_width(from.type(), [&](auto zero) {
    using T = decltype(zero);
    const auto* source = static_cast<const T*>(from.raw());
    auto* target = static_cast<T*>(to.raw());
    Shape at(shape.rank(), 0);
    int64_t offset = 0;
    for (int64_t row = 0; row < to.count() / shape[last]; ++row) {
      for (int64_t i = 0; i < shape[last]; ++i) *target++ = source[offset + i * steps[last]];
      for (int d = last - 1; d >= 0; --d) {
        offset += steps[d];
        if (++at[d] < shape[d]) break;
        offset -= at[d] * steps[d];
        at[d] = 0;
      }
    }
  });
  return to;
}

std::string TfliteGraph::unique_name(const std::string& name) {
  std::string unique = name.empty() ? "value" : name;
  for (int& number = numbers_[unique]; !names_.insert(unique).second;) unique = fmt::format("{}:{}", name, ++number);
  return unique;
}

void TfliteGraph::spend(int64_t bytes) {
  bytes_left_ -= bytes;
  if (graph_.values.size() > kMaxTfliteValues) {
    fail(Code::kResourceExhausted, "its operators become more than {} values", kMaxTfliteValues);
  }
  if (bytes_left_ < 0) fail(Code::kResourceExhausted, "the weights, as the operators use them, are too large");
}

ValueId TfliteGraph::constant(Tensor tensor, const std::string& hint) {
  spend(tensor.bytes());
  const std::string name = fmt::format("{}/{}{}", prefix_, hint, num_made_++);
  const ValueId id = graph_.add_value(unique_name(name), ValueType::tensor(tensor.type(), to_dims(tensor.shape())));
  graph_.value(id).constant = Value(std::move(tensor));
  return id;
}

std::vector<ValueId> TfliteGraph::nodes(const std::string& op, std::vector<ValueId> inputs, int num_outputs,
                                        Attributes attributes) {
  if (graph_.nodes.size() >= kMaxTfliteNodes) {
    fail(Code::kResourceExhausted, "its operators become more than {} nodes", kMaxTfliteNodes);
  }
  Node node;
  node.op_type = op;
  node.opset = kOpset;
  node.name = unique_name(fmt::format("{}/{}{}", prefix_, op, num_made_++));
  node.op = find_op("", op, kOpset);
  CHECK(node.op != nullptr, op);
  node.inputs = std::move(inputs);
  node.attributes = std::move(attributes);
  for (int i = 0; i < num_outputs; ++i) {
    node.outputs.push_back(graph_.add_value(unique_name(fmt::format("{}_out{}", node.name, i))));
  }
  graph_.nodes.push_back(std::move(node));
  return graph_.nodes.back().outputs;
}

ValueId TfliteGraph::add_input(int index) {
  TfliteTensor& tensor = get(index);
  tensor.raw[0] = graph_.add_value(unique_name(tensor.name), type_of_tensor(tensor));
  tensor.is_made = tensor.is_input = true;
  graph_.inputs.push_back(tensor.raw[0]);
  inputs_.insert(tensor.raw[0]);
  return tensor.raw[0];
}

TfliteTensor& TfliteGraph::get(int index) {
  if (index < 0 || static_cast<size_t>(index) >= tensors.size()) {
    fail(Code::kInvalidArgument, "there is no tensor {}; the file has {}", index, tensors.size());
  }
  return tensors[static_cast<size_t>(index)];
}

ValueId TfliteGraph::convert_layout(const TfliteTensor& tensor, ValueId from, TfliteLayout to) {
  const bool to_second = to == TfliteLayout::kSecond;
  const std::span<const int> perm = to_second ? kToSecond : kToLast;
  if (tensor.has_rank && is_reshape(tensor.dims)) {
    std::vector<int64_t> shape = {0};  // as the input has it
    for (int i = 1; i < 4; ++i) {
      const Dim& dim = tensor.dims[static_cast<size_t>(to_second ? kToSecond[i] : i)];
      shape.push_back(dim.is_known() ? dim.value() : -1);
    }
    const bool has_zero = std::count(shape.begin() + 1, shape.end(), 0) > 0;
    if (std::count(shape.begin(), shape.end(), -1) <= 1 && !has_zero) {
      return node("Reshape", {from, ints_constant(shape)});
    }
  }
  return transpose(from, {perm.begin(), perm.end()});
}

bool TfliteGraph::has_second(int index) const {
  const TfliteTensor& tensor = tensors[static_cast<size_t>(index)];
  return tensor.raw[1] != kNoValue || tensor.real[1] != kNoValue;
}

ValueId TfliteGraph::raw(int index, TfliteLayout layout) {
  TfliteTensor& tensor = get(index);
  if (tensor.has_failed) throw TfliteInputFailed();
  if (tensor.is_variable) {
    fail(Code::kUnimplemented, "tensor '{}' keeps its value from one run to the next, which is not supported",
         tensor.name);
  }
  const auto at = static_cast<size_t>(layout);
  ValueId& wanted = tensor.raw[at];
  if (wanted != kNoValue) return wanted;
  if (tensor.is_constant) {
    const bool is_second = layout == TfliteLayout::kSecond;
    if (is_second && tensor.data.rank() != 4)
      fail(Code::kInvalidArgument, "tensor '{}' has {} dimensions, not 4", tensor.name, tensor.data.rank());
    const std::string name = is_second ? tensor.name + "/nchw" : tensor.name;
    const ValueId id = graph_.add_value(unique_name(name));
    if (is_second) spend(tensor.data.bytes());
    Tensor data = is_second ? transpose_tensor(tensor.data, kToSecond) : tensor.data;
    graph_.value(id).type = ValueType::tensor(data.type(), to_dims(data.shape()));
    graph_.value(id).constant = Value(std::move(data));
    return wanted = id;
  }
  if (!tensor.is_made) fail(Code::kInvalidArgument, "tensor '{}' is read, but nothing has made it", tensor.name);
  return wanted = convert_layout(tensor, tensor.raw[1 - at], layout);
}

ValueId TfliteGraph::dequantise(const TfliteTensor& tensor, ValueId value, int64_t axis) {
  const bool is_single = tensor.scales.size() == 1;
  const Shape shape = is_single ? Shape() : Shape{static_cast<int64_t>(tensor.scales.size())};
  Attributes attributes;
  if (!is_single) attributes.emplace("axis", int_attribute(axis));
  Tensor zeros(tensor.element, shape);
  dispatch<int8_t, uint8_t, int16_t>(tensor.element, [&](auto zero) {
    using T = decltype(zero);
    std::transform(tensor.zeros.begin(), tensor.zeros.end(), zeros.data<T>(),
                   [](int64_t z) { return static_cast<T>(z); });
  });
  return node("DequantizeLinear",
              {value, constant(Tensor::vector(tensor.scales, shape), "scale"), constant(std::move(zeros), "zero")},
              std::move(attributes));
}

ValueId TfliteGraph::real(int index, TfliteLayout layout) {
  TfliteTensor& tensor = get(index);
  if (!tensor.is_quantised()) return raw(index, layout);
  ValueId& wanted = tensor.real[static_cast<size_t>(layout)];
  if (wanted == kNoValue) {
    const ValueId stored = raw(index, layout);
    wanted = dequantise(tensor, stored, tensor.is_image() ? axis_in(tensor.axis, layout) : tensor.axis);
  }
  return wanted;
}

void TfliteGraph::set_raw(int index, ValueId value, TfliteLayout layout) {
  TfliteTensor& tensor = get(index);
  if (tensor.is_made || tensor.is_constant || tensor.is_input) {
    fail(Code::kInvalidArgument, "makes tensor '{}', which is there already", tensor.name);
  }
  tensor.is_made = true;
  tensor.raw[static_cast<size_t>(layout)] = value;
  GraphValue& made = graph_.value(value);
  if (inputs_.contains(value) || made.constant || made.declared.is_tensor()) return;  // handed on from another tensor
  if (layout == TfliteLayout::kLast) {
    made.declared = type_of_tensor(tensor);
    if (!tensor.name.empty() && names_.insert(tensor.name).second) made.name = tensor.name;
  } else if (tensor.is_image()) {
    const Dims& d = tensor.dims;
    made.declared = ValueType::tensor(tensor.element, {d[0], d[3], d[1], d[2]});
    if (std::string name = tensor.name + "/nchw"; names_.insert(name).second) made.name = std::move(name);
  }
}

ValueId TfliteGraph::quantise(const TfliteTensor& tensor, ValueId value) {
  if (tensor.scales.size() != 1) {
    fail(Code::kUnimplemented, "tensor '{}' is computed and has a scale for each channel; only constants may",
         tensor.name);
  }
  if (tensor.scales[0] == 0) fail(Code::kInvalidArgument, "tensor '{}' is computed and has a scale of 0", tensor.name);
  Tensor zero(tensor.element, Shape());
  dispatch<int8_t, uint8_t, int16_t>(tensor.element, [&](auto t) {
    using T = decltype(t);
    zero.data<T>()[0] = static_cast<T>(tensor.zeros[0]);
  });
  return node("QuantizeLinear",
              {value, constant(Tensor::scalar(tensor.scales[0]), "scale"), constant(std::move(zero), "zero")});
}

void TfliteGraph::set_real(int index, ValueId value, TfliteLayout layout) {
  const TfliteTensor& tensor = get(index);
  set_raw(index, tensor.is_quantised() ? quantise(tensor, value) : value, layout);
}

ValueId TfliteGraph::broadcast_second(int index, bool as_real) {
  TfliteTensor& tensor = get(index);
  if (tensor.is_image()) {
    return as_real ? real(index, TfliteLayout::kSecond) : raw(index, TfliteLayout::kSecond);
  }
  if (!tensor.is_constant || tensor.data.rank() > 4 || tensor.scales.size() > 1) return kNoValue;
  Tensor data = tensor.data;
  if (data.count() == 1) {
    data = data.reshaped(Shape());
  } else {
    Shape shape(4 - data.rank(), 1);
    for (const int64_t dim : data.shape()) shape.push_back(dim);
    data = transpose_tensor(data.reshaped(shape), kToSecond);
  }
  const ValueId stored = constant(std::move(data));
  return as_real && tensor.is_quantised() ? dequantise(tensor, stored, 0) : stored;
}

std::optional<std::vector<int64_t>> TfliteGraph::find_ints(int index, int64_t max_count) const {
  if (index < 0 || static_cast<size_t>(index) >= tensors.size()) return std::nullopt;
  const TfliteTensor& tensor = tensors[static_cast<size_t>(index)];
  if (!tensor.is_constant || !is_integer(tensor.data.type())) return std::nullopt;
  if (tensor.data.count() > max_count) {
    fail(Code::kInvalidArgument, "tensor '{}' has {} numbers; at most {} make sense here", tensor.name,
         tensor.data.count(), max_count);
  }
  return to_ints(tensor.data);
}

ValueId TfliteGraph::ints(int index) {
  const TfliteTensor& tensor = get(index);
  if (tensor.is_constant && is_integer(tensor.data.type())) {
    return constant(Tensor::vector(to_ints(tensor.data), tensor.data.shape()), "ints");
  }
  const ValueId value = raw(index);
  return tensor.element == ElementType::kI64 ? value : cast(value, ElementType::kI64);
}

}  // namespace sluice::graph
