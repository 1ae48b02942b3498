#include "graph/onnx_values.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace sluice::graph {
namespace {

// A few bytes of file must not ask for all memory: elements of a sparse tensor for each that is listed, and in any
// case.
constexpr int64_t kMaxSparseRatio = 4096, kMinSparseElements = int64_t{1} << 20;

// Elements narrower than a byte: the first in the lowest bits.
void unpack(const uint8_t* from, ElementType type, int64_t count, uint8_t* to) {
  const int bits = get_info(type).packed_bits, per_byte = 8 / bits;
  const uint8_t mask = static_cast<uint8_t>((1 << bits) - 1);
  const bool is_signed = type == ElementType::kI4 || type == ElementType::kI2;
  for (int64_t i = 0; i < count; ++i) {
    const uint8_t code = (from[i / per_byte] >> (i % per_byte * bits)) & mask;
    const bool is_negative = is_signed && (code >> (bits - 1)) != 0;
    to[i] = is_negative ? static_cast<uint8_t>(code | ~mask) : code;
  }
}

uint8_t is_not_zero(int64_t value) { return value != 0; }

int64_t file_bytes(ElementType type, int64_t count) {
  const int bits = get_info(type).packed_bits;
  return bits < 8 ? (count * bits + 7) / 8 : count * (bits / 8);
}

template <typename To, typename From>
void copy_as(const From& from, Tensor& to) {
  std::transform(from.begin(), from.end(), to.data<To>(), [](auto value) { return static_cast<To>(value); });
}

}  // namespace

ElementType read_element_type(int32_t number, const std::string& what) {
  if (number <= 0 || number >= kNumElementTypes) {
    fail(Code::kInvalidArgument, "{}: element type {} is not known", what, number);
  }
  return static_cast<ElementType>(number);
}

Tensor read_tensor(const onnx::TensorProto& proto, const std::string& what, const ReadExternal& read_external) {
  const ElementType type = read_element_type(proto.data_type(), what);
  if (proto.has_segment()) fail(Code::kUnimplemented, "{}: tensors in segments are not supported", what);
  if (proto.dims_size() > kMaxRank) {
    fail(Code::kInvalidArgument, "{}: {} dimensions; at most {} are supported", what, proto.dims_size(), kMaxRank);
  }
  Shape shape;
  int64_t count = 1;
  for (const int64_t dim : proto.dims()) {
    if (dim < 0 || __builtin_mul_overflow(count, std::max<int64_t>(dim, 1), &count) || count > (int64_t{1} << 40)) {
      fail(Code::kInvalidArgument, "{}: dimension {} is negative or too large", what, dim);
    }
    shape.push_back(dim);
  }
  count = shape.count();
  auto check_count = [&](int64_t found, int64_t expected, const char* unit) {
    if (found != expected) {
      fail(Code::kInvalidArgument, "{}: a {} of shape {} has {} {}, not {}", what, name(type), to_string(shape),
           expected, unit, found);
    }
  };

  if (type == ElementType::kString) {
    check_count(proto.string_data_size(), count, "strings");
    Tensor tensor(type, shape);
    std::copy(proto.string_data().begin(), proto.string_data().end(), tensor.data<std::string>());
    return tensor;
  }
  const bool is_packed = get_info(type).packed_bits < 8;
  auto from_bytes = [&](const uint8_t* bytes, size_t size) {
    check_count(static_cast<int64_t>(size), file_bytes(type, count), "bytes");
    Tensor tensor(type, shape);
    if (is_packed)
      unpack(bytes, type, count, tensor.data<uint8_t>());
    else if (type == ElementType::kBool)
      std::transform(bytes, bytes + size, tensor.data<uint8_t>(), is_not_zero);
    else if (count > 0)
      std::memcpy(tensor.raw(), bytes, size);
    return tensor;
  };

  if (proto.data_location() == 1) {
    if (read_external == nullptr) fail(Code::kInvalidArgument, "{}: external data is not allowed here", what);
    std::string location;
    int64_t offset = 0, length = -1;
    auto read_number = [&](const std::string& text) {
      char* end = nullptr;
      const long long value = std::strtoll(text.c_str(), &end, 10);
      if (text.empty() || *end != 0 || value < 0)
        fail(Code::kInvalidArgument, "{}: '{}' is no offset or length of external data", what, text);
      return static_cast<int64_t>(value);
    };
    for (const auto& entry : proto.external_data()) {
      if (entry.key() == "location") location = entry.value();
      if (entry.key() == "offset") offset = read_number(entry.value());
      if (entry.key() == "length") length = read_number(entry.value());
    }
    const ExternalBytes external = read_external(location, offset, length < 0 ? file_bytes(type, count) : length);
    const bool is_aligned = reinterpret_cast<uintptr_t>(external.data) % static_cast<size_t>(get_info(type).bytes) == 0;
    if (is_packed || type == ElementType::kBool || !is_aligned) return from_bytes(external.data, external.size);
    check_count(static_cast<int64_t>(external.size), file_bytes(type, count), "bytes");
    return Tensor::wrap(type, shape, external.data, external.keeper);
  }
  if (proto.has_raw_data()) {
    return from_bytes(reinterpret_cast<const uint8_t*>(proto.raw_data().data()), proto.raw_data().size());
  }

  auto from_numbers = [&]<typename To>(const auto& numbers, int64_t per_element, To) {
    check_count(numbers.size(), count * per_element, "numbers");
    Tensor tensor(type, shape);
    if (per_element == 1) {
      copy_as<To>(numbers, tensor);
    } else {
      std::transform(numbers.begin(), numbers.end(), static_cast<To*>(tensor.raw()),
                     [](auto v) { return static_cast<To>(v); });
    }
    return tensor;
  };
  switch (type) {
    case ElementType::kF32:
      return from_numbers(proto.float_data(), 1, float{});
    case ElementType::kC64:
      return from_numbers(proto.float_data(), 2, float{});
    case ElementType::kF64:
      return from_numbers(proto.double_data(), 1, double{});
    case ElementType::kC128:
      return from_numbers(proto.double_data(), 2, double{});
    case ElementType::kI64:
      return from_numbers(proto.int64_data(), 1, int64_t{});
    case ElementType::kU64:
      return from_numbers(proto.uint64_data(), 1, uint64_t{});
    case ElementType::kU32:
      return from_numbers(proto.uint64_data(), 1, uint32_t{});
    case ElementType::kI32:
      return from_numbers(proto.int32_data(), 1, int32_t{});
    default:
      break;
  }
  if (type == ElementType::kBool) {
    check_count(proto.int32_data_size(), count, "numbers");
    Tensor tensor(type, shape);
    std::transform(proto.int32_data().begin(), proto.int32_data().end(), tensor.data<uint8_t>(), is_not_zero);
    return tensor;
  }
  if (is_packed) {
    const std::vector<uint8_t> bytes(proto.int32_data().begin(), proto.int32_data().end());
    return from_bytes(bytes.data(), bytes.size());
  }
  return get_info(type).bytes == 2 ? from_numbers(proto.int32_data(), 1, uint16_t{})
                                   : from_numbers(proto.int32_data(), 1, uint8_t{});
}

Tensor read_sparse_tensor(const onnx::SparseTensorProto& proto, const std::string& what,
                          const ReadExternal& read_external) {
  const Tensor values = read_tensor(proto.values(), what, read_external);
  const Tensor indices = read_tensor(proto.indices(), what, read_external);
  Shape shape;
  int64_t count = 1;
  const int64_t max_count = std::max(kMinSparseElements, values.count() * kMaxSparseRatio);
  for (const int64_t dim : proto.dims()) {
    if (dim < 0 || __builtin_mul_overflow(count, std::max<int64_t>(dim, 1), &count) || count > max_count) {
      fail(Code::kInvalidArgument, "{}: a sparse tensor with {} values may have up to {} elements", what,
           values.count(), max_count);
    }
    shape.push_back(dim);
  }
  const int rank = shape.rank();
  const bool is_linear = indices.rank() == 1;
  if (values.rank() != 1 || indices.type() != ElementType::kI64 || values.type() == ElementType::kString ||
      !(is_linear || (indices.rank() == 2 && indices.dim(1) == rank)) || indices.dim(0) != values.dim(0)) {
    fail(Code::kInvalidArgument, "{}: indices {} do not fit to values {} and {} dimensions", what, to_string(indices),
         to_string(values), rank);
  }
  Tensor tensor(values.type(), shape);
  std::memset(tensor.raw(), 0, static_cast<size_t>(tensor.bytes()));
  const Shape strides = strides_of(shape);
  const size_t width = static_cast<size_t>(get_info(values.type()).bytes);
  for (int64_t i = 0; i < values.count(); ++i) {
    int64_t at = 0;
    if (is_linear) {
      at = indices.data<int64_t>()[i];
    } else {
      for (int d = 0; d < rank; ++d) {
        const int64_t index = indices.data<int64_t>()[i * rank + d];
        if (index < 0 || index >= shape[d]) at = -1;
        if (at >= 0) at += index * strides[d];
      }
    }
    if (at < 0 || at >= tensor.count())
      fail(Code::kInvalidArgument, "{}: an index of the sparse tensor is outside its shape {}", what, to_string(shape));
    std::memcpy(static_cast<uint8_t*>(tensor.raw()) + static_cast<size_t>(at) * width,
                static_cast<const uint8_t*>(values.raw()) + static_cast<size_t>(i) * width, width);
  }
  return tensor;
}

namespace {

// Other names are no promise that two dimensions are the same.
bool is_symbol(const std::string& name) {
  return !name.empty() && name[0] != '?' && name.find('(') == std::string::npos;
}

}  // namespace

ValueType read_type(const onnx::TypeProto& proto, const std::string& what) {
  if (proto.has_sequence_type()) return ValueType::sequence(read_type(proto.sequence_type().elem_type(), what));
  if (proto.has_optional_type()) return ValueType::optional(read_type(proto.optional_type().elem_type(), what));
  if (proto.has_map_type()) {
    ValueType type{.kind = ValueType::Kind::kMap};
    type.key = read_element_type(proto.map_type().key_type(), what);
    type.element = read_type(proto.map_type().value_type(), what).element;
    return type;
  }
  if (!proto.has_tensor_type() && !proto.has_sparse_tensor_type()) return {};
  const auto& tensor = proto.has_tensor_type() ? proto.tensor_type() : proto.sparse_tensor_type();
  ValueType type = ValueType::tensor(tensor.elem_type() == 0 ? ElementType::kUndefined
                                                             : read_element_type(tensor.elem_type(), what));
  if (!tensor.has_shape()) return type;
  if (tensor.shape().dim_size() > kMaxRank)
    fail(Code::kInvalidArgument, "{}: {} dimensions; at most {} are supported", what, tensor.shape().dim_size(),
         kMaxRank);
  Dims dims;
  for (const auto& dim : tensor.shape().dim()) {
    if (dim.has_dim_value() && dim.dim_value() >= 0)
      dims.emplace_back(dim.dim_value());
    else if (is_symbol(dim.dim_param()))
      dims.push_back(Dim::symbol(dim.dim_param()));
    else
      dims.push_back(Dim::unknown());  // some exporters write -1 or "?" for "any"
  }
  type.dims = std::move(dims);
  return type;
}

namespace {

template <typename Proto>
Proto parse(const std::string& bytes, const std::string& what) {
  Proto proto;
  if (!proto.ParseFromString(bytes)) fail(Code::kInvalidArgument, "{}: is no {} message", what, Proto().GetTypeName());
  return proto;
}

Value read_map(const onnx::MapProto& proto, const std::string& what);
Value read_optional(const onnx::OptionalProto& proto, const std::string& what);

Value read_sequence(const onnx::SequenceProto& proto, const std::string& what) {
  std::vector<Value> elements;
  for (const auto& tensor : proto.tensor_values()) elements.emplace_back(read_tensor(tensor, what));
  for (const auto& tensor : proto.sparse_tensor_values()) elements.emplace_back(read_sparse_tensor(tensor, what));
  for (const auto& sequence : proto.sequence_values()) elements.push_back(read_sequence(sequence, what));
  for (const auto& map : proto.map_values()) elements.push_back(read_map(map, what));
  for (const auto& optional : proto.optional_values()) elements.push_back(read_optional(optional, what));
  return Value(std::move(elements));
}

Value read_map(const onnx::MapProto& proto, const std::string& what) {
  MapValue map;
  if (proto.string_keys_size() > 0) {
    map.keys = Tensor::vector(std::vector<std::string>(proto.string_keys().begin(), proto.string_keys().end()));
  } else {
    map.keys = Tensor::vector(std::vector<int64_t>(proto.keys().begin(), proto.keys().end()));
  }
  const auto& values = proto.values().tensor_values();
  if (values.empty()) fail(Code::kInvalidArgument, "{}: a map without values", what);
  const Tensor first = read_tensor(values[0], what);
  if (values.size() == 1 && map.keys.count() == first.count()) {
    map.values = first;
  } else {
    map.values = Tensor(first.type(), Shape{values.size()});
    if (first.type() == ElementType::kString || first.count() != 1 || values.size() != map.keys.count())
      fail(Code::kInvalidArgument, "{}: a map of values that are no single numbers", what);
    const size_t width = static_cast<size_t>(get_info(first.type()).bytes);
    for (int i = 0; i < values.size(); ++i) {
      const Tensor value = read_tensor(values[i], what);
      if (value.type() != first.type() || value.count() != 1)
        fail(Code::kInvalidArgument, "{}: a map of values of several types", what);
      std::memcpy(static_cast<uint8_t*>(map.values.raw()) + static_cast<size_t>(i) * width, value.raw(), width);
    }
  }
  return Value(std::move(map));
}

Value read_optional(const onnx::OptionalProto& proto, const std::string& what) {
  if (proto.has_tensor_value()) return read_tensor(proto.tensor_value(), what);
  if (proto.has_sparse_tensor_value()) return read_sparse_tensor(proto.sparse_tensor_value(), what);
  if (proto.has_sequence_value()) return read_sequence(proto.sequence_value(), what);
  if (proto.has_map_value()) return read_map(proto.map_value(), what);
  if (proto.has_optional_value()) return read_optional(proto.optional_value(), what);
  return Value();
}

}  // namespace

Value read_value(const std::string& bytes, const ValueType& type, const std::string& what) {
  switch (type.kind) {
    case ValueType::Kind::kSequence:
      return read_sequence(parse<onnx::SequenceProto>(bytes, what), what);
    case ValueType::Kind::kMap:
      return read_map(parse<onnx::MapProto>(bytes, what), what);
    case ValueType::Kind::kOptional:
      return read_optional(parse<onnx::OptionalProto>(bytes, what), what);
    default:
      return read_tensor(parse<onnx::TensorProto>(bytes, what), what);
  }
}

}  // namespace sluice::graph
