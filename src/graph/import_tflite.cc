#include "graph/import_tflite.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/error.h"
#include "base/mmap.h"
#include "graph/import_tflite_ops.h"
#include "graph/infer.h"

namespace sluice::graph {
namespace {

constexpr size_t kMaxProblemsShown = 20;
constexpr uint32_t kMaxTables = 4'000'000;
constexpr int kMaxVerifyDepth = 16;                                 // the format nests no deeper than six tables
constexpr size_t kMaxFlatbuffer = FLATBUFFERS_MAX_BUFFER_SIZE - 1;  // weights of larger files stand behind it
constexpr size_t kMaxOperators = 250'000, kMaxTensors = 500'000;
constexpr size_t kMaxOperands = 1 << 16, kMaxPairs = 1 << 18;  // of inputs, of outputs; of one of each
constexpr int64_t kMaxNewBytes = int64_t{64} << 20;  // of constants, beside some times as many as the file has

using Handler = void (*)(TfliteOp&);

Handler find_handler(tflite::BuiltinOperator code) {
  for (const auto list : {tflite_nn_handlers, tflite_math_handlers, tflite_shape_handlers, tflite_slice_handlers}) {
    for (const TfliteHandler& handler : list()) {
      if (handler.code == code) return handler.run;
    }
  }
  return nullptr;
}

// kUndefined for what is not supported.
ElementType read_type(tflite::TensorType type) {
  switch (type) {
    case tflite::TensorType::FLOAT32:
      return ElementType::kF32;
    case tflite::TensorType::FLOAT16:
      return ElementType::kF16;
    case tflite::TensorType::BFLOAT16:
      return ElementType::kBF16;
    case tflite::TensorType::FLOAT64:
      return ElementType::kF64;
    case tflite::TensorType::INT8:
    case tflite::TensorType::INT4:
      return ElementType::kI8;
    case tflite::TensorType::UINT8:
      return ElementType::kU8;
    case tflite::TensorType::INT16:
      return ElementType::kI16;
    case tflite::TensorType::UINT16:
      return ElementType::kU16;
    case tflite::TensorType::INT32:
      return ElementType::kI32;
    case tflite::TensorType::UINT32:
      return ElementType::kU32;
    case tflite::TensorType::INT64:
      return ElementType::kI64;
    case tflite::TensorType::UINT64:
      return ElementType::kU64;
    case tflite::TensorType::BOOL:
      return ElementType::kBool;
    default:
      return ElementType::kUndefined;
  }
}

template <typename Vector>
size_t size_of(const Vector* vector) {
  return vector == nullptr ? 0 : vector->size();
}
std::string text_of(const flatbuffers::String* text) { return text == nullptr ? "" : text->str(); }

class Importer {
 public:
  // `keeper` keeps `file`; null: what is needed is copied.
  Importer(std::string name, std::span<const uint8_t> file, std::shared_ptr<const void> keeper)
      : name_(std::move(name)),
        file_(file),
        keeper_(std::move(keeper)),
        tensors_(model_.graph, kMaxNewBytes + 4 * static_cast<int64_t>(file.size())) {}

  Model import() {
    flatbuffers::Verifier verifier(file_.data(), std::min(file_.size(), kMaxFlatbuffer), kMaxVerifyDepth, kMaxTables);
    if (!is_tflite(file_) || !tflite::VerifyModelBuffer(verifier)) {
      fail(Code::kInvalidArgument, "{}: is no TensorFlow Lite model, or a damaged one", name_);
    }
    proto_ = tflite::GetModel(file_.data());
    if (proto_->version() != 3) {
      fail(Code::kUnimplemented, "{}: is of version {} of the format; 3 is supported", name_, proto_->version());
    }
    if (size_of(proto_->subgraphs()) == 0) fail(Code::kInvalidArgument, "{}: has no graph", name_);
    const tflite::SubGraph& graph = *proto_->subgraphs()->Get(0);
    if (size_of(graph.operators()) > kMaxOperators || size_of(graph.tensors()) > kMaxTensors) {
      fail(Code::kInvalidArgument, "{}: has {} operators and {} tensors; at most {} and {} are supported", name_,
           size_of(graph.operators()), size_of(graph.tensors()), kMaxOperators, kMaxTensors);
    }
    model_.graph.name = text_of(graph.name());
    model_.opsets[""] = TfliteGraph::kOpset;
    model_.producer = "TensorFlow Lite";
    model_.ir_version = 10;
    if (proto_->description() != nullptr) model_.metadata["description"] = proto_->description()->str();
    read_tensors(graph);
    read_inputs(graph);
    for (size_t i = 0; i < size_of(graph.operators()); ++i) {
      read_operator(*graph.operators()->Get(static_cast<uint32_t>(i)), i);
    }
    read_outputs(graph);
    if (num_problems_ == 0) {
      infer_types(model_.graph, problems_);
      num_problems_ = problems_.size();
    }
    if (num_problems_ == 0) check_images();
    if (num_problems_ > 0) fail_with_problems();
    return std::move(model_);
  }

 private:
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

  void read_tensors(const tflite::SubGraph& graph) {
    tensors_.tensors.resize(size_of(graph.tensors()));
    for (size_t i = 0; i < tensors_.tensors.size(); ++i) {
      const tflite::Tensor& proto = *graph.tensors()->Get(static_cast<uint32_t>(i));
      TfliteTensor& tensor = tensors_.tensors[i];
      tensor.name = text_of(proto.name());
      if (tensor.name.empty()) tensor.name = fmt::format("tensor_{}", i);
      try {
        read_tensor(proto, tensor);
      } catch (const Error& error) {
        tensor.has_failed = true;
        add_problem("tensor {} ('{}'): {}", i, tensor.name, error.message());
      }
    }
  }

  void read_tensor(const tflite::Tensor& proto, TfliteTensor& tensor) {
    tensor.element = read_type(proto.type());
    tensor.is_variable = proto.is_variable();
    if (proto.sparsity() != nullptr) fail(Code::kUnimplemented, "sparse weights are not supported");
    const auto* shape = proto.shape();
    const auto* signature = proto.shape_signature();
    if (size_of(shape) > size_t{kMaxRank}) fail(Code::kInvalidArgument, "has {} dimensions", shape->size());
    // No shape means a scalar, or that the rank is not known; only some writers say which.
    const auto bytes = bytes_of(proto);
    tensor.has_rank = size_of(shape) > 0 || proto.has_rank() || !bytes.empty();
    Shape sizes;
    for (size_t d = 0; d < size_of(shape); ++d) {
      const int64_t size = shape->Get(static_cast<uint32_t>(d));
      const bool has_signature = size_of(signature) == shape->size();
      const int64_t said = has_signature ? signature->Get(static_cast<uint32_t>(d)) : size;
      if (size < -1) fail(Code::kInvalidArgument, "has a dimension of {}", size);
      sizes.push_back(std::max<int64_t>(0, size));
      tensor.dims.push_back(said < 0 || size < 0 ? Dim::unknown() : Dim(size));
    }
    read_quantisation(proto, tensor);
    if (!bytes.empty()) read_data(proto, bytes, sizes, tensor);
  }

  // Empty if the tensor is no constant.
  std::span<const uint8_t> bytes_of(const tflite::Tensor& proto) const {
    if (proto.buffer() == 0) return {};
    if (proto.buffer() >= size_of(proto_->buffers())) {
      fail(Code::kInvalidArgument, "is in buffer {}; the file has {}", proto.buffer(), size_of(proto_->buffers()));
    }
    const tflite::Buffer& buffer = *proto_->buffers()->Get(proto.buffer());
    if (size_of(buffer.data()) > 0) return {buffer.data()->data(), buffer.data()->size()};
    if (buffer.offset() <= 1 || buffer.size() == 0) return {};  // writers put 1 where nothing is
    if (buffer.offset() > file_.size() || buffer.size() > file_.size() - buffer.offset()) {
      fail(Code::kInvalidArgument, "needs {} bytes at {}; the file has {}", buffer.size(), buffer.offset(),
           file_.size());
    }
    return file_.subspan(buffer.offset(), buffer.size());
  }

  static void read_quantisation(const tflite::Tensor& proto, TfliteTensor& tensor) {
    const auto* quantisation = proto.quantization();
    if (quantisation == nullptr || size_of(quantisation->scale()) == 0) return;
    if (quantisation->details_type() != 0) fail(Code::kUnimplemented, "custom quantisation is not supported");
    const ElementType type = tensor.element;
    if (type != ElementType::kI8 && type != ElementType::kU8 && type != ElementType::kI16) return;  // biases
    const size_t count = quantisation->scale()->size();
    const int axis = quantisation->quantized_dimension();
    if (count > 1) {
      if (axis < 0 || axis >= tensor.rank() ||
          !(tensor.dims[static_cast<size_t>(axis)] == Dim(static_cast<int64_t>(count)))) {
        fail(Code::kInvalidArgument, "has {} scales along dimension {} of {}", count, axis, to_string(tensor.dims));
      }
    }
    if (size_of(quantisation->zero_point()) > 1 && quantisation->zero_point()->size() != count) {
      fail(Code::kInvalidArgument, "has {} scales and {} zero points", count, quantisation->zero_point()->size());
    }
    tensor.axis = axis;
    int64_t low = 0, high = 0;
    dispatch<int8_t, uint8_t, int16_t>(type, [&](auto zero) {
      low = std::numeric_limits<decltype(zero)>::min();
      high = std::numeric_limits<decltype(zero)>::max();
    });
    for (uint32_t i = 0; i < count; ++i) {
      const float scale = quantisation->scale()->Get(i);
      const size_t num_zeros = size_of(quantisation->zero_point());
      const int64_t zero = num_zeros == 0 ? 0 : quantisation->zero_point()->Get(num_zeros == 1 ? 0 : i);
      // Channels whose weights are all 0 have a scale of 0 in files of some writers.
      if (!(scale >= 0) || !std::isfinite(scale) || zero < low || zero > high)
        fail(Code::kInvalidArgument, "has scale {} and zero point {}", scale, zero);
      tensor.scales.push_back(scale);
      tensor.zeros.push_back(zero);
    }
  }

  void read_data(const tflite::Tensor& proto, std::span<const uint8_t> bytes, const Shape& shape,
                 TfliteTensor& tensor) {
    if (tensor.element == ElementType::kUndefined)
      fail(Code::kUnimplemented, "constants of type {} are not supported", static_cast<int>(proto.type()));
    int64_t count = 1;
    for (const int64_t dim : shape) {
      if (__builtin_mul_overflow(count, dim, &count)) fail(Code::kInvalidArgument, "is too large");
    }
    const bool is_packed = proto.type() == tflite::TensorType::INT4;
    const int64_t width = get_info(tensor.element).bytes;
    const auto size = static_cast<int64_t>(bytes.size());
    const bool fits = is_packed ? size == count / 2 + count % 2 : size % width == 0 && size / width == count;
    if (!fits) {
      fail(Code::kInvalidArgument, "has {} bytes for {} of shape {}", size, name(tensor.element), to_string(shape));
    }
    tensor.is_constant = true;
    if (is_packed) {
      tensor.data = Tensor(ElementType::kI8, shape);
      for (int64_t i = 0; i < count; ++i) {  // the first in the lower half
        const int code = bytes[static_cast<size_t>(i / 2)] >> (i % 2 * 4) & 15;
        tensor.data.data<int8_t>()[i] = static_cast<int8_t>(code >= 8 ? code - 16 : code);
      }
      return;
    }
    const bool is_aligned = reinterpret_cast<uintptr_t>(bytes.data()) % static_cast<size_t>(width) == 0;
    if (keeper_ != nullptr && is_aligned && tensor.element != ElementType::kBool) {
      tensor.data = Tensor::wrap(tensor.element, shape, bytes.data(), keeper_);
      return;
    }
    tensor.data = Tensor(tensor.element, shape);
    if (tensor.element == ElementType::kBool) {
      std::transform(bytes.begin(), bytes.end(), static_cast<uint8_t*>(tensor.data.raw()),
                     [](uint8_t b) { return static_cast<uint8_t>(b != 0); });
    } else {
      std::memcpy(tensor.data.raw(), bytes.data(), bytes.size());
    }
  }

  void read_inputs(const tflite::SubGraph& graph) {
    for (size_t i = 0; i < size_of(graph.inputs()); ++i) {
      const int index = graph.inputs()->Get(static_cast<uint32_t>(i));
      if (index < 0 || static_cast<size_t>(index) >= tensors_.tensors.size()) {
        add_problem("input {} is tensor {}; the file has {}", i, index, tensors_.tensors.size());
        continue;
      }
      TfliteTensor& tensor = tensors_.tensors[static_cast<size_t>(index)];
      if (tensor.has_failed) continue;
      if (tensor.is_constant || tensor.is_input || tensor.element == ElementType::kUndefined ||
          tensor.scales.size() > 1) {
        add_problem("input {} ('{}') is a constant, there twice, or of a type that is not supported", i, tensor.name);
        tensor.has_failed = true;
        continue;
      }
      tensor.is_variable = false;
      tensors_.begin_operator("input");
      tensors_.add_input(index);
    }
    // Tensors without elements have no bytes, and yet they are constants if nobody makes them: shapes of scalars.
    std::vector<bool> is_output(tensors_.tensors.size(), false);
    for (size_t i = 0; i < size_of(graph.operators()); ++i) {
      const auto* outputs = graph.operators()->Get(static_cast<uint32_t>(i))->outputs();
      for (size_t o = 0; o < size_of(outputs); ++o) {
        const int index = outputs->Get(static_cast<uint32_t>(o));
        if (index >= 0 && static_cast<size_t>(index) < is_output.size()) is_output[static_cast<size_t>(index)] = true;
      }
    }
    for (size_t i = 0; i < tensors_.tensors.size(); ++i) {
      TfliteTensor& tensor = tensors_.tensors[i];
      const std::optional<Shape> shape = tensor.has_rank ? known_shape(tensor.dims) : std::nullopt;
      if (is_output[i] || tensor.is_input || tensor.is_constant || tensor.has_failed || !shape) continue;
      if (std::count(shape->begin(), shape->end(), 0) == 0 || tensor.element == ElementType::kUndefined) continue;
      int64_t count = 1;  // of sizes that are not 0, which nothing below multiplies further
      const bool is_too_large = std::any_of(shape->begin(), shape->end(), [&](int64_t dim) {
        return __builtin_mul_overflow(count, std::max<int64_t>(1, dim), &count) || count > INT32_MAX;
      });
      if (is_too_large) continue;
      tensor.is_constant = true;
      tensor.data = Tensor(tensor.element, *shape);
    }
  }

  // Pads were computed from what the file says of sizes; that has to be true.
  void check_images() {
    for (const TfliteTensor& tensor : tensors_.tensors) {
      if (!tensor.is_image() || !tensor.is_made) continue;
      for (int64_t axis = 1; axis < 4; ++axis) {
        const auto layout = tensor.raw[0] != kNoValue ? TfliteLayout::kLast : TfliteLayout::kSecond;
        const ValueType& type = model_.graph.value(tensor.raw[static_cast<size_t>(layout)]).type;
        if (!type.dims || type.dims->size() != 4) continue;
        const Dim& found = (*type.dims)[static_cast<size_t>(TfliteGraph::axis_in(axis, layout))];
        const Dim& said = tensor.dims[static_cast<size_t>(axis)];
        if (!found.is_known() || !said.is_known() || found == said) continue;
        add_problem("tensor '{}' is {} in the file, but its operator makes {} of dimension {}", tensor.name,
                    to_string(tensor.dims), found.value(), axis);
        break;
      }
    }
  }

  void read_outputs(const tflite::SubGraph& graph) {
    for (size_t i = 0; i < size_of(graph.outputs()); ++i) {
      const int index = graph.outputs()->Get(static_cast<uint32_t>(i));
      if (index < 0 || static_cast<size_t>(index) >= tensors_.tensors.size()) {
        add_problem("output {} is tensor {}; the file has {}", i, index, tensors_.tensors.size());
        continue;
      }
      try {
        tensors_.begin_operator("output");
        model_.graph.outputs.push_back(tensors_.raw(index));
        model_.graph.output_names.push_back(tensors_.tensor(index).name);
      } catch (const Error& error) {
        add_problem("output {}: {}", i, error.message());
      } catch (const TfliteInputFailed&) {
      }
    }
  }

  void read_operator(const tflite::Operator& proto, size_t index) {
    if (proto.opcode_index() >= size_of(proto_->operator_codes())) {
      return add_problem("operator {}: its code {} is not in the file", index, proto.opcode_index());
    }
    const tflite::OperatorCode& listed = *proto_->operator_codes()->Get(proto.opcode_index());
    // Old writers have only the byte, new ones put 127 there for what does not fit.
    const auto code = static_cast<tflite::BuiltinOperator>(
        std::max(static_cast<int32_t>(listed.builtin_code()), static_cast<int32_t>(listed.deprecated_builtin_code())));
    std::string label = tflite::EnumNameBuiltinOperator(code);
    if (label.empty()) label = fmt::format("builtin operator {}", static_cast<int32_t>(code));
    if (code == tflite::BuiltinOperator::CUSTOM)
      label = fmt::format("custom operator '{}'", text_of(listed.custom_code()));
    auto describe = [&] { return fmt::format("operator {} ({}, version {})", index, label, listed.version()); };

    TfliteOp op{.graph = tensors_, .op = proto, .code = code, .inputs = {}, .outputs = {}};
    auto read = [&](const auto* indices, std::vector<int>& to) {
      if (size_of(indices) > kMaxOperands) fail(Code::kInvalidArgument, "has {} inputs or outputs", indices->size());
      for (size_t i = 0; i < size_of(indices); ++i) {
        const int tensor = indices->Get(static_cast<uint32_t>(i));
        if (tensor >= 0 && static_cast<size_t>(tensor) >= tensors_.tensors.size()) {
          fail(Code::kInvalidArgument, "names tensor {}; the file has {}", tensor, tensors_.tensors.size());
        }
        to.push_back(std::max(-1, tensor));
      }
    };
    try {
      read(proto.outputs(), op.outputs);
      read(proto.inputs(), op.inputs);
      if (op.inputs.size() * op.outputs.size() > kMaxPairs) {
        fail(Code::kInvalidArgument, "has {} inputs and {} outputs", op.inputs.size(), op.outputs.size());
      }
      const Handler handler = find_handler(code);
      if (handler == nullptr) fail(Code::kUnimplemented, "this operator is not supported");
      for (const int input : op.inputs) {
        if (input >= 0 && tensors_.tensor(input).has_failed) throw TfliteInputFailed();
        if (input >= 0 && tensors_.tensor(input).element == ElementType::kUndefined)
          fail(Code::kUnimplemented, "tensor '{}' is of a type that is not supported", tensors_.tensor(input).name);
      }
      tensors_.begin_operator(fmt::format("{}_{}", label, index));
      handler(op);
      return;
    } catch (const Error& error) {
      if (error.code() == Code::kResourceExhausted) throw Error(error.code(), name_ + ": " + error.message());
      add_problem("{}: {}", describe(), error.message());
    } catch (const TfliteInputFailed&) {
    }
    for (const int output : op.outputs) {
      if (output >= 0) tensors_.tensors[static_cast<size_t>(output)].has_failed = true;
    }
  }

  const std::string name_;
  const std::span<const uint8_t> file_;
  const std::shared_ptr<const void> keeper_;
  const tflite::Model* proto_ = nullptr;
  Model model_;
  TfliteGraph tensors_;
  std::vector<std::string> problems_;
  size_t num_problems_ = 0;
};

}  // namespace

bool is_tflite(std::span<const uint8_t> bytes) {
  return bytes.size() >= 8 && std::memcmp(bytes.data() + 4, tflite::ModelIdentifier(), 4) == 0;
}

Model import_tflite(std::span<const uint8_t> bytes, const std::string& name) {
  constexpr size_t kAlignment = 16;  // of the widest thing in the format
  if (reinterpret_cast<uintptr_t>(bytes.data()) % kAlignment == 0) return Importer(name, bytes, nullptr).import();
  std::vector<std::array<uint64_t, 2>> aligned(bytes.size() / kAlignment + 2);
  auto* to = reinterpret_cast<uint8_t*>(aligned.data());
  to += (kAlignment - reinterpret_cast<uintptr_t>(to) % kAlignment) % kAlignment;
  std::memcpy(to, bytes.data(), bytes.size());
  return Importer(name, {to, bytes.size()}, nullptr).import();
}

Model import_tflite(const std::string& path) {
  const auto file = std::make_shared<MappedFile>(path);
  return Importer(path, file->bytes(), file).import();
}

}  // namespace sluice::graph
