// TensorFlow Lite files: imported, optimised, and run on small inputs.
#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

#include "base/error.h"
#include "base/random.h"
#include "fuzz/fuzz.h"
#include "graph/executor.h"
#include "graph/import_tflite.h"
#include "graph/passes.h"
#include "tflite_generated.h"

namespace sluice::fuzz {
namespace {

constexpr int64_t kMaxInputDim = 8;

// A convolution, an average and a layer, in floats or in numbers of 8 bits, and some that move elements.
std::string make_model(bool is_quantised) {
  using tflite::BuiltinOperator;
  using tflite::TensorType;
  flatbuffers::FlatBufferBuilder fb;
  std::vector<flatbuffers::Offset<tflite::Tensor>> tensors;
  std::vector<flatbuffers::Offset<tflite::Buffer>> buffers = {tflite::CreateBuffer(fb)};
  std::vector<flatbuffers::Offset<tflite::OperatorCode>> codes;
  std::vector<flatbuffers::Offset<tflite::Operator>> operators;
  auto tensor = [&](std::vector<int32_t> shape, TensorType type, const std::vector<uint8_t>& data = {}) {
    uint32_t buffer = 0;
    if (!data.empty()) {
      buffer = static_cast<uint32_t>(buffers.size());
      fb.ForceVectorAlignment(data.size(), 1, 16);
      buffers.push_back(tflite::CreateBufferDirect(fb, &data));
    }
    flatbuffers::Offset<tflite::QuantizationParameters> quantisation;
    if (type == TensorType::INT8) {
      const std::vector<float> scale = {0.5f};
      const std::vector<int64_t> zero = {1};
      quantisation = tflite::CreateQuantizationParametersDirect(fb, nullptr, nullptr, &scale, &zero);
    }
    tensors.push_back(tflite::CreateTensorDirect(fb, &shape, type, buffer, "t", quantisation));
    return static_cast<int>(tensors.size()) - 1;
  };
  const TensorType type = is_quantised ? TensorType::INT8 : TensorType::FLOAT32;
  const size_t width = is_quantised ? 1 : 4;
  auto ints = [&](const std::vector<int32_t>& values) {
    std::vector<uint8_t> bytes(4 * values.size());
    std::memcpy(bytes.data(), values.data(), bytes.size());
    return tensor({static_cast<int32_t>(values.size())}, TensorType::INT32, bytes);
  };
  auto op = [&](BuiltinOperator code, const std::vector<int>& inputs, const std::vector<int>& outputs,
                tflite::BuiltinOptions kind = tflite::BuiltinOptions::NONE, flatbuffers::Offset<void> options = 0) {
    codes.push_back(tflite::CreateOperatorCodeDirect(fb, static_cast<int8_t>(code), nullptr, 1, code));
    operators.push_back(
        tflite::CreateOperatorDirect(fb, static_cast<uint32_t>(codes.size() - 1), &inputs, &outputs, kind, options));
  };
  const int x = tensor({1, 6, 6, 2}, type), y = tensor({1, 3, 3, 3}, type), p = tensor({1, 5, 5, 3}, type);
  const int s = tensor({1, 3, 5, 3}, type), m = tensor({1, 3}, type), z = tensor({1, 2}, type);
  const int w = tensor({3, 3, 3, 2}, type, std::vector<uint8_t>(54 * width, 3));
  const int v = tensor({2, 3}, type, std::vector<uint8_t>(6 * width, 1));
  op(BuiltinOperator::CONV_2D, {x, w}, {y}, tflite::BuiltinOptions::Conv2DOptions,
     tflite::CreateConv2DOptions(fb, tflite::Padding::SAME, 2, 2, tflite::Activation::RELU6).Union());
  op(BuiltinOperator::PAD, {y, ints({0, 0, 1, 1, 2, 0, 0, 0})}, {p});
  op(BuiltinOperator::STRIDED_SLICE, {p, ints({0, 1, 0, 0}), ints({1, 4, 0, 0}), ints({1, 1, 1, 1})}, {s},
     tflite::BuiltinOptions::StridedSliceOptions, tflite::CreateStridedSliceOptions(fb, 0, 12).Union());
  op(BuiltinOperator::MEAN, {s, ints({1, 2})}, {m}, tflite::BuiltinOptions::ReducerOptions,
     tflite::CreateReducerOptions(fb, false).Union());
  op(BuiltinOperator::FULLY_CONNECTED, {m, v}, {z}, tflite::BuiltinOptions::FullyConnectedOptions,
     tflite::CreateFullyConnectedOptions(fb).Union());
  const std::vector<int> inputs = {x}, outputs = {z, s};
  const std::vector graphs = {tflite::CreateSubGraphDirect(fb, &tensors, &inputs, &outputs, &operators)};
  fb.Finish(tflite::CreateModelDirect(fb, 3, &codes, &graphs, "", &buffers), tflite::ModelIdentifier());
  return {reinterpret_cast<const char*>(fb.GetBufferPointer()), fb.GetSize()};
}

// Zero bytes are as good as any others.
graph::Value make_input(const graph::GraphValue& input) {
  graph::Shape shape;
  if (input.type.dims) {
    for (const graph::Dim& dim : *input.type.dims) {
      shape.push_back(dim.is_known() ? std::min(dim.value(), kMaxInputDim) : 2);
    }
  }
  if (shape.count() > 1 << 16 || input.type.element == graph::ElementType::kString) return {};
  graph::Tensor tensor(input.type.element, shape);
  std::memset(tensor.raw(), 1, static_cast<size_t>(tensor.bytes()));
  return tensor;
}

}  // namespace

std::vector<std::string> make_seeds() { return {make_model(false), make_model(true)}; }

std::vector<std::string> make_dictionary() { return {"TFL3", std::string(4, '\xff'), std::string("\0\0\0\x7f", 4)}; }

// Numbers where they stand: operators, tensors, options and shapes become others, and the file stays whole.
std::string mutate_structure(const std::string& input, uint64_t seed) {
  Random random(seed);
  std::string changed = input;
  if (changed.size() < 16) return changed;
  for (uint64_t n = 1 + random.below(3); n > 0; --n) {
    const size_t at = 8 + random.below(changed.size() / 4 - 2) * 4;
    uint32_t value;
    std::memcpy(&value, changed.data() + at, sizeof value);
    switch (random.below(4)) {
      case 0:
        value += static_cast<uint32_t>(random.below(5)) - 2;
        break;
      case 1:
        value = static_cast<uint32_t>(random.below(160));
        break;
      case 2:
        value = 0u - static_cast<uint32_t>(random.below(4));
        break;
      default:
        value ^= 1u << random.below(32);
        break;
    }
    std::memcpy(changed.data() + at, &value, sizeof value);
  }
  return changed;
}

}  // namespace sluice::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sluice;
  try {
    auto model = std::make_shared<graph::Model>(graph::import_tflite({data, size}, "fuzz.tflite"));
    graph::optimise(*model);
    std::vector<graph::Value> inputs;
    for (const graph::ValueId id : model->graph.inputs) inputs.push_back(fuzz::make_input(model->graph.value(id)));
    graph::Executor executor(model, {.num_threads = 1, .max_bytes = 16 << 20});
    executor.run(inputs);
    return 0;
  } catch (const Error&) {
    return -1;
  }
}
