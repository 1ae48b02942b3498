#include "graph/import_tflite.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "base/random.h"
#include "graph/executor.h"
#include "graph/import_model.h"
#include "graph/ops_for_test.h"
#include "graph/passes.h"
#include "tflite_generated.h"

namespace sluice::graph {
namespace {

using for_test::elements;
using for_test::message_of;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using tflite::Activation;
using tflite::BuiltinOperator;
using tflite::TensorType;

struct Scale {
  std::vector<float> scales;
  std::vector<int64_t> zeros;
  int axis = 0;
};

// A file of one subgraph, whose tensors and operators a test adds.
struct Builder {
  flatbuffers::FlatBufferBuilder fb;
  std::vector<flatbuffers::Offset<tflite::Tensor>> tensors;
  std::vector<flatbuffers::Offset<tflite::Buffer>> buffers = {tflite::CreateBuffer(fb)};
  std::vector<flatbuffers::Offset<tflite::OperatorCode>> codes;
  std::vector<flatbuffers::Offset<tflite::Operator>> operators;
  uint32_t version = 3;

  int tensor(const std::vector<int32_t>& shape, TensorType type = TensorType::FLOAT32, const Scale& scale = {},
             uint32_t buffer = 0, const std::vector<int32_t>& signature = {}) {
    flatbuffers::Offset<tflite::QuantizationParameters> quantisation;
    if (!scale.scales.empty()) {
      quantisation = tflite::CreateQuantizationParametersDirect(fb, nullptr, nullptr, &scale.scales, &scale.zeros, 0, 0,
                                                                scale.axis);
    }
    const std::string name = "t" + std::to_string(tensors.size());
    tensors.push_back(tflite::CreateTensorDirect(fb, &shape, type, buffer, name.c_str(), quantisation, false, 0,
                                                 signature.empty() ? nullptr : &signature));
    return static_cast<int>(tensors.size()) - 1;
  }
  template <typename T>
  int constant(const std::vector<int32_t>& shape, TensorType type, const std::vector<T>& values,
               const Scale& scale = {}) {
    std::vector<uint8_t> bytes(values.size() * sizeof(T));
    std::memcpy(bytes.data(), values.data(), bytes.size());
    fb.ForceVectorAlignment(bytes.size(), 1, 16);
    buffers.push_back(tflite::CreateBufferDirect(fb, &bytes));
    return tensor(shape, type, scale, static_cast<uint32_t>(buffers.size() - 1));
  }
  int ints(const std::vector<int32_t>& values) {
    return constant({static_cast<int32_t>(values.size())}, TensorType::INT32, values);
  }
  template <typename Options>
  void op(BuiltinOperator code, const std::vector<int>& inputs, const std::vector<int>& outputs,
          flatbuffers::Offset<Options> options, const char* custom = nullptr) {
    const auto number = static_cast<int32_t>(code);
    codes.push_back(tflite::CreateOperatorCodeDirect(fb, static_cast<int8_t>(std::min(number, 127)), custom, 2, code));
    operators.push_back(tflite::CreateOperatorDirect(fb, static_cast<uint32_t>(codes.size() - 1), &inputs, &outputs,
                                                     tflite::BuiltinOptionsTraits<Options>::enum_value,
                                                     options.Union()));
  }
  void op(BuiltinOperator code, const std::vector<int>& inputs, const std::vector<int>& outputs,
          const char* custom = nullptr) {
    const auto number = static_cast<int32_t>(code);
    codes.push_back(tflite::CreateOperatorCodeDirect(fb, static_cast<int8_t>(std::min(number, 127)), custom, 2, code));
    operators.push_back(tflite::CreateOperatorDirect(fb, static_cast<uint32_t>(codes.size() - 1), &inputs, &outputs));
  }
  std::vector<uint8_t> finish(const std::vector<int>& inputs, const std::vector<int>& outputs) {
    const auto graph = tflite::CreateSubGraphDirect(fb, &tensors, &inputs, &outputs, &operators, "main");
    const std::vector graphs = {graph};
    fb.Finish(tflite::CreateModelDirect(fb, version, &codes, &graphs, "", &buffers), tflite::ModelIdentifier());
    return {fb.GetBufferPointer(), fb.GetBufferPointer() + fb.GetSize()};
  }
};

std::vector<Value> run(Model model, const std::vector<Value>& inputs) {
  optimise(model);
  Executor executor(std::make_shared<Model>(std::move(model)), {.num_threads = 1});
  return executor.run(inputs);
}

int count_nodes(const Model& model, std::string_view op) {
  return static_cast<int>(std::count_if(model.graph.nodes.begin(), model.graph.nodes.end(),
                                        [&](const Node& node) { return node.op_type == op; }));
}

// A 2x2 window of ones with stride 2 over 3x3: SAME pads at the end.
std::vector<uint8_t> make_conv(const std::vector<int32_t>& signature = {}) {
  Builder b;
  const int x = b.tensor({1, 3, 3, 1}, TensorType::FLOAT32, {}, 0, signature);
  const int y = b.tensor({1, 2, 2, 1}, TensorType::FLOAT32, {}, 0, signature);
  const int w = b.constant<float>({1, 2, 2, 1}, TensorType::FLOAT32, {1, 1, 1, 1});
  const int bias = b.constant<float>({1}, TensorType::FLOAT32, {-1});
  b.op(BuiltinOperator::CONV_2D, {x, w, bias}, {y},
       tflite::CreateConv2DOptions(b.fb, tflite::Padding::SAME, 2, 2, Activation::RELU6));
  return b.finish({x}, {y});
}

TEST(ImportTflite, PadsAtTheEndAndAppliesTheActivation) {
  Model model = import_tflite(make_conv(), "m");
  EXPECT_EQ(model.graph.value(model.graph.inputs[0]).name, "t0");
  EXPECT_THAT(model.graph.output_names, ElementsAre("t1"));
  const auto out = run(std::move(model), {Tensor::vector<float>({0, 1, 2, 3, 4, 5, -6, 0, 0.5f}, {1, 3, 3, 1})});
  EXPECT_EQ(out[0].tensor.shape(), (Shape{1, 2, 2, 1}));
  EXPECT_THAT(elements<float>(out[0]), ElementsAre(6, 6, 0, 0));  // 8, 7, -6, 0.5 with the bias below 6
}

TEST(ImportTflite, PadsImagesOfAnySize) {
  const auto out =
      run(import_tflite(make_conv({-1, -1, -1, 1}), "m"),
          {Tensor::vector<float>({0, 1, 2, 3, 4, 5, -6, 0, 0.5f, 1, 1, 1, 1, 1, 1, 2, 2, 2}, {2, 3, 3, 1})});
  EXPECT_EQ(out[0].tensor.shape(), (Shape{2, 2, 2, 1}));
  EXPECT_THAT(elements<float>(out[0]), ElementsAre(6, 6, 0, 0, 3, 1, 3, 1));
}

TEST(ImportTflite, QuantisedLayerGivesNumbersOfItsScale) {
  Builder b;
  const int x = b.tensor({2, 2}, TensorType::INT8, {{0.5f}, {1}});
  const int w = b.constant<int8_t>({2, 2}, TensorType::INT8, {1, 2, -3, 4}, {{0.25f, 0.5f}, {0, 0}, 0});
  const int bias = b.constant<int32_t>({2}, TensorType::INT32, {8, -4}, {{0.125f, 0.25f}, {0, 0}, 0});
  const int y = b.tensor({2, 2}, TensorType::INT8, {{0.5f}, {-2}});
  b.op(BuiltinOperator::FULLY_CONNECTED, {x, w, bias}, {y}, tflite::CreateFullyConnectedOptions(b.fb));
  const auto out = run(import_tflite(b.finish({x}, {y}), "m"), {Tensor::vector<int8_t>({3, 5, 1, -127}, {2, 2})});
  // Row 0: (2, 4) * 0.5; products 10 * 0.125 + 1 = 2.25 and 10 * 0.25 - 1 = 1.5; divided by 0.5, minus 2.
  // Row 1: (0, -128) * 0.5; -256 * 0.125 + 1 = -31 and -512 * 0.25 - 1 = -129, which saturates.
  EXPECT_THAT(elements<int8_t>(out[0]), ElementsAre(2, 1, -64, -128));
}

TEST(ImportTflite, KeepsOneLayoutThroughARunOfImageOperators) {
  Builder b;
  const int x = b.tensor({1, 4, 4, 2});
  const int w = b.constant<float>({2, 1, 1, 2}, TensorType::FLOAT32, {1, 0, 0, 1});
  const int scale = b.constant<float>({2}, TensorType::FLOAT32, {2, 3});
  std::vector<int> t = {x};
  for (int i = 0; i < 4; ++i) t.push_back(b.tensor({1, 4, 4, 2}));
  auto conv = [&](int from, int to) {
    b.op(BuiltinOperator::CONV_2D, {from, w}, {to}, tflite::CreateConv2DOptions(b.fb, tflite::Padding::SAME, 1, 1));
  };
  conv(t[0], t[1]);
  b.op(BuiltinOperator::MUL, {t[1], scale}, {t[2]});
  conv(t[2], t[3]);
  b.op(BuiltinOperator::ADD, {t[1], t[3]}, {t[4]});
  const Model model = import_tflite(b.finish({x}, {t[4]}), "m");
  EXPECT_EQ(count_nodes(model, "Transpose"), 2);
  const auto out = run(copy_model(model), {Tensor::vector(std::vector<float>(32, 1), {1, 4, 4, 2})});
  EXPECT_EQ(elements<float>(out[0])[0], 3);
  EXPECT_EQ(elements<float>(out[0])[1], 4);
}

TEST(ImportTflite, TakesAnyBatchWhereTheFileSaysSo) {
  Builder b;
  const int x = b.tensor({1, 2}, TensorType::FLOAT32, {}, 0, {-1, 2}),
            y = b.tensor({1, 2}, TensorType::FLOAT32, {}, 0, {-1, 2});
  b.op(BuiltinOperator::RELU, {x}, {y});
  const auto out = run(import_tflite(b.finish({x}, {y}), "m"), {Tensor::vector<float>({-1, 2, 3, -4, 5, 6}, {3, 2})});
  EXPECT_THAT(elements<float>(out[0]), ElementsAre(0, 2, 3, 0, 5, 6));
}

TEST(ImportTflite, TellsAllThatIsNotSupported) {
  Builder b;
  const int x = b.tensor({1, 2}), y = b.tensor({1, 2}), z = b.tensor({1, 2}), u = b.tensor({1, 2});
  b.op(BuiltinOperator::CUSTOM, {x}, {y}, "MyOp");
  b.op(BuiltinOperator::RELU, {y}, {z});  // waits for the one before: no problem of its own
  b.op(BuiltinOperator::WHILE, {x}, {u});
  const std::vector<uint8_t> file = b.finish({x}, {z, u});
  const std::string message = message_of([&] { import_tflite(file, "model.tflite"); });
  EXPECT_THAT(message, HasSubstr("model.tflite"));
  EXPECT_THAT(message, HasSubstr("operator 0 (custom operator 'MyOp', version 2)"));
  EXPECT_THAT(message, HasSubstr("operator 2 (WHILE, version 2)"));
  EXPECT_THAT(message, Not(HasSubstr("operator 1")));
}

TEST(ImportTflite, RefusesWhatDoesNotFitTogether) {
  auto import = [](Builder& b, const std::vector<int>& inputs, const std::vector<int>& outputs) {
    const std::vector<uint8_t> file = b.finish(inputs, outputs);
    return message_of([&] { import_tflite(file, "m"); });
  };
  {
    Builder b;
    const int x = b.tensor({1, 2}), y = b.tensor({1, 2});
    b.op(BuiltinOperator::RELU, {99}, {y});
    EXPECT_THAT(import(b, {x}, {y}), HasSubstr("names tensor 99"));
  }
  {
    Builder b;
    const int x = b.tensor({1, 2}), y = b.tensor({1, 2}), z = b.tensor({1, 2});
    b.op(BuiltinOperator::RELU, {z}, {y});
    b.op(BuiltinOperator::RELU, {y}, {z});
    EXPECT_THAT(import(b, {x}, {y}), HasSubstr("nothing has made it"));
  }
  {
    Builder b;
    const int x = b.tensor({1, 2}), y = b.tensor({1, 2});
    b.op(BuiltinOperator::RELU, {x}, {y});
    b.op(BuiltinOperator::RELU, {x}, {y});
    EXPECT_THAT(import(b, {x}, {y}), HasSubstr("there already"));
  }
  {
    Builder b;
    const int x = b.tensor({1, 3, 3, 1}), y = b.tensor({1, 3, 3, 2});
    const int w = b.constant<float>({2, 2, 2, 1}, TensorType::FLOAT32, {1, 1});
    b.op(BuiltinOperator::CONV_2D, {x, w}, {y}, tflite::CreateConv2DOptions(b.fb, tflite::Padding::SAME, 1, 1));
    EXPECT_THAT(import(b, {x}, {y}), HasSubstr("has 8 bytes for float32 of shape 2x2x2x1"));
  }
  {  // pads would be wrong
    Builder b;
    const int x = b.tensor({1, 3, 3, 2}), y = b.tensor({1, 5, 5, 2}), z = b.tensor({1, 5, 5, 2});
    const int w = b.constant<float>({2, 2, 2, 2}, TensorType::FLOAT32, std::vector<float>(16, 1));
    b.op(BuiltinOperator::RELU, {x}, {y});
    b.op(BuiltinOperator::CONV_2D, {y, w}, {z}, tflite::CreateConv2DOptions(b.fb, tflite::Padding::SAME, 1, 1));
    EXPECT_THAT(import(b, {x}, {z}), HasSubstr("'t1'"));
  }
  {
    Builder b;
    b.version = 2;
    EXPECT_THAT(import(b, {}, {}), HasSubstr("version 2"));
  }
  EXPECT_THAT(message_of([] { import_tflite({}, "m"); }), HasSubstr("no TensorFlow Lite model"));
}

TEST(ImportTflite, DamagedFilesGiveErrors) {
  const std::vector<uint8_t> file = make_conv();
  for (size_t size = 0; size < file.size(); ++size) {
    const std::vector<uint8_t> cut(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_NE(message_of([&] { import_tflite(cut, "m"); }), "") << size;
  }
  Random random(7);
  for (int round = 0; round < 3000; ++round) {
    std::vector<uint8_t> changed = file;
    for (int i = 0; i < 3; ++i) changed[random.below(changed.size())] = static_cast<uint8_t>(random.below(256));
    message_of([&] { import_tflite(changed, "m"); });  // an Error or a model, and nothing else
  }
}

TEST(ImportTflite, ReadsFromAnyAddressAndFromFiles) {
  std::vector<uint8_t> shifted = make_conv();
  shifted.insert(shifted.begin(), 0);
  const std::span<const uint8_t> file = std::span<const uint8_t>(shifted).subspan(1);
  EXPECT_TRUE(is_tflite(file));
  EXPECT_EQ(import_tflite(file, "m").graph.outputs.size(), 1u);
  const auto path = std::filesystem::temp_directory_path() / "sluice_import_tflite_test.bin";
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(file.data()), static_cast<long>(file.size()));
  const Model model = import_model(path.string());
  std::filesystem::remove(path);
  EXPECT_EQ(model.producer, "TensorFlow Lite");
  EXPECT_EQ(count_nodes(model, "Conv"), 1);
}

// Writers of files above 2 GB put weights behind the flatbuffer.
TEST(ImportTflite, FindsWeightsBehindTheTables) {
  Builder b;
  const int x = b.tensor({1, 2}), y = b.tensor({1, 2});
  b.buffers.push_back(tflite::CreateBuffer(b.fb, 0, 4096, 8));
  const int w = b.tensor({1, 2}, TensorType::FLOAT32, {}, 1);
  b.op(BuiltinOperator::ADD, {x, w}, {y});
  std::vector<uint8_t> file = b.finish({x}, {y});
  ASSERT_LT(file.size(), 4096u);
  EXPECT_THAT(message_of([&] { import_tflite(file, "m"); }), HasSubstr("needs 8 bytes at 4096"));
  file.resize(4096 + 8);
  const float weights[] = {10, 20};
  std::memcpy(file.data() + 4096, weights, sizeof weights);
  const auto out = run(import_tflite(file, "m"), {Tensor::vector<float>({1, 2}, {1, 2})});
  EXPECT_THAT(elements<float>(out[0]), ElementsAre(11, 22));
}

}  // namespace
}  // namespace sluice::graph
