#include "graph/export_onnx.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "graph/dump.h"
#include "graph/import_onnx.h"
#include "graph/ops_for_test.h"
#include "graph/passes.h"
#include "onnx.pb.h"

namespace sluice::graph {
namespace {

using for_test::body;
using for_test::Builder;
using for_test::elements;
using for_test::integer;
using for_test::integers;
using for_test::message_of;
using for_test::real;
using for_test::text;
using testing::ElementsAre;
using testing::HasSubstr;

ValueType floats(Dims dims) { return ValueType::tensor(ElementType::kF32, std::move(dims)); }

Model make_model(Graph graph, int opset = 20) {
  Model model;
  model.graph = std::move(graph);
  model.opsets[""] = opset;
  model.ir_version = 8;
  for (size_t i = model.graph.output_names.size(); i < model.graph.outputs.size(); ++i) {
    model.graph.output_names.push_back("y" + std::to_string(i));
  }
  return model;
}

Model read_again(const Model& model) {
  const std::string file = export_onnx(model);
  return import_onnx({reinterpret_cast<const uint8_t*>(file.data()), file.size()}, "exported.onnx");
}

onnx::ModelProto parse(const std::string& file) {
  onnx::ModelProto proto;
  EXPECT_TRUE(proto.ParseFromString(file));
  return proto;
}

std::vector<Value> run(Model model, const std::vector<Value>& inputs = {}) {
  Executor executor(std::make_shared<Model>(std::move(model)), {.num_threads = 1});
  return executor.run(inputs);
}

TEST(ExportOnnx, KeepsNamesTypesAndMetadata) {
  Builder b;
  const ValueId x = b.input(floats({Dim::symbol("batch"), 2, Dim::unknown()}));
  b.graph.value(x).name = "image";
  Model model = make_model(b.finish({b.node("Relu", {x})}));
  model.graph.output_names = {"scores"};
  model.producer = "pytorch 2.1";
  model.metadata["a key"] = "a value";
  const Model again = read_again(model);
  EXPECT_EQ(again.producer, "pytorch 2.1");
  EXPECT_EQ(again.metadata.at("a key"), "a value");
  EXPECT_EQ(again.opsets, model.opsets);
  EXPECT_EQ(again.graph.value(again.graph.inputs[0]).name, "image");
  EXPECT_THAT(again.graph.output_names, ElementsAre("scores"));
  const Dims& dims = *again.graph.value(again.graph.inputs[0]).type.dims;
  EXPECT_EQ(dims[0].to_string(), "batch");
  EXPECT_EQ(dims[1], Dim(2));
  EXPECT_FALSE(dims[2].is_known());
}

TEST(ExportOnnx, KeepsEveryElementType) {
  for (int number = 1; number < kNumElementTypes; ++number) {
    const auto type = static_cast<ElementType>(number);
    Tensor tensor(type, {3});
    if (type == ElementType::kString) {
      for (int i = 0; i < 3; ++i) tensor.data<std::string>()[i] = std::string("s\0", 2) + std::to_string(i);
    } else {
      const int bits = std::min(8, get_info(type).packed_bits);
      auto* bytes = static_cast<uint8_t*>(tensor.raw());
      for (int64_t i = 0; i < tensor.bytes(); ++i) bytes[i] = static_cast<uint8_t>(i % 2 == 0 ? 1 : 0);
      const bool is_signed = type == ElementType::kI4 || type == ElementType::kI2;
      if (is_signed)
        bytes[1] = static_cast<uint8_t>(-1);
      else if (bits < 8)
        bytes[1] = static_cast<uint8_t>((1 << bits) - 1);
    }
    Builder b;
    const ValueId constant = b.constant(tensor);
    const Model again = read_again(make_model(b.finish({b.node("Shape", {constant})})));
    const ValueId id = again.graph.nodes[0].inputs[0];
    ASSERT_TRUE(again.graph.value(id).constant.has_value()) << name(type);
    const Tensor& found = again.graph.value(id).constant->tensor;
    ASSERT_EQ(found.type(), type) << name(type);
    if (type == ElementType::kString) {
      EXPECT_EQ(found.data<std::string>()[2], std::string("s\0", 2) + "2");
    } else {
      EXPECT_EQ(std::memcmp(found.raw(), tensor.raw(), static_cast<size_t>(tensor.bytes())), 0) << name(type);
    }
  }
}

TEST(ExportOnnx, KeepsEveryKindOfAttribute) {
  Builder b;
  const ValueId x = b.input(floats({2}));
  Attribute strings, numbers, tensors, type, graphs;
  strings.kind = Attribute::Kind::kStrings;
  strings.strings = {"a", ""};
  numbers.kind = Attribute::Kind::kFloats;
  numbers.floats = {1.5f, -2};
  tensors.kind = Attribute::Kind::kTensors;
  tensors.tensors = {Tensor::scalar(7.0f), Tensor::vector<int64_t>({1, 2})};
  type.kind = Attribute::Kind::kType;
  type.type = ValueType::sequence(ValueType::optional(floats({3})));
  graphs.kind = Attribute::Kind::kGraphs;
  Builder inner;
  graphs.graphs = {std::make_shared<Graph>(inner.finish({inner.constant(Tensor::scalar(1.0f))}))};
  const for_test::Attributes attributes = {
      {"f", real(0.25f)},      {"i", integer(-9)},   {"s", text(std::string("\0x", 2))},
      {"strings", strings},    {"numbers", numbers}, {"ints", integers({3, -4})},
      {"empty", integers({})}, {"tensors", tensors}, {"tensor", for_test::tensor(Tensor::scalar(5.0f))},
      {"type", type},          {"graphs", graphs}};
  const Model again = read_again(make_model(b.finish({b.node("Relu", {x}, attributes)})));
  const Node& node = again.graph.nodes[0];
  EXPECT_EQ(node.attributes.size(), attributes.size());
  EXPECT_EQ(node.get_float("f", 0), 0.25f);
  EXPECT_EQ(node.get_int("i", 0), -9);
  EXPECT_EQ(node.get_string("s", ""), std::string("\0x", 2));
  EXPECT_THAT(node.get_strings("strings"), ElementsAre("a", ""));
  EXPECT_THAT(node.get_floats("numbers"), ElementsAre(1.5f, -2));
  EXPECT_THAT(node.get_ints("ints"), ElementsAre(3, -4));
  EXPECT_EQ(node.find("empty")->kind, Attribute::Kind::kInts);
  EXPECT_EQ(node.find("tensors")->tensors[1].data<int64_t>()[1], 2);
  EXPECT_EQ(node.find_tensor("tensor")->data<float>()[0], 5);
  EXPECT_EQ(to_string(node.find("type")->type), to_string(type.type));
  EXPECT_EQ(node.find("graphs")->graphs.size(), 1u);
}

// Both branches call their values alike, and read what is outside of the body around them.
TEST(ExportOnnx, KeepsBodiesAndWhatTheyCapture) {
  Builder b;
  const ValueId x = b.input(floats({2}));
  const ValueId flag = b.input(ValueType::tensor(ElementType::kBool, Dims{}));
  const ValueId doubled = b.node("Add", {x, x});
  b.graph.value(doubled).name = "same";
  auto branch = [&](const char* op, bool is_deep) {
    Builder outer;
    const ValueId captured = outer.capture(doubled), condition = outer.capture(flag);
    auto leaf = [&](Builder& builder, ValueId value) {
      const ValueId made = builder.node(op, {value, builder.constant(Tensor::vector<float>({10, 20}))});
      builder.graph.value(made).name = "same";
      return made;
    };
    if (!is_deep) return body(outer.finish({leaf(outer, captured)}));
    Builder then_branch, else_branch;
    const ValueId inner = then_branch.capture(captured), other = else_branch.capture(captured);
    Graph then_graph = then_branch.finish({leaf(then_branch, inner)}), else_graph = else_branch.finish({other});
    return body(outer.finish(
        {outer.node("If", {condition},
                    {{"then_branch", body(std::move(then_graph))}, {"else_branch", body(std::move(else_graph))}})}));
  };
  const ValueId y = b.node("If", {flag}, {{"then_branch", branch("Add", true)}, {"else_branch", branch("Mul", false)}});
  const Model model = make_model(b.finish({y, doubled, x}));
  for (const bool answer : {true, false}) {
    const std::vector<Value> inputs = {Tensor::vector<float>({1, 2}), Tensor::scalar(answer)};
    const auto expected = run(copy_model(model), inputs), found = run(read_again(model), inputs);
    ASSERT_EQ(found.size(), 3u);
    EXPECT_EQ(elements<float>(found[0]), elements<float>(expected[0]));
    EXPECT_THAT(elements<float>(found[1]), ElementsAre(2, 4));
    EXPECT_THAT(elements<float>(found[2]), ElementsAre(1, 2));
  }
}

TEST(ExportOnnx, NodesKeepTheirOwnVersionsAndDomains) {
  Builder b;
  const ValueId x = b.input(floats({2, 2}));
  const ValueId old = b.node("Softmax", {x}, {}, 11);
  const ValueId fused = b.node("Gelu", {old}, {}, 1, kMicrosoft);
  const Model model = make_model(b.finish({b.node("Relu", {fused}, {}, 17)}), 17);
  const onnx::ModelProto proto = parse(export_onnx(model));
  EXPECT_EQ(proto.opset_import_size(), 2);
  EXPECT_EQ(proto.graph().node(2).attribute_size(), 0);  // as the file
  const Model again = read_again(model);
  EXPECT_EQ(again.graph.nodes[0].opset, 11);
  EXPECT_EQ(again.graph.nodes[0].op, find_op("", "Softmax", 11));
  EXPECT_FALSE(again.graph.nodes[0].has(kOpsetAttribute));
  EXPECT_EQ(again.graph.nodes[1].opset, 1);
  EXPECT_EQ(again.graph.nodes[2].opset, 17);
}

TEST(ExportOnnx, OutputsThatAreInputsConstantsOrTwice) {
  Builder b;
  const ValueId x = b.input(floats({2}));
  const ValueId y = b.node("Neg", {x}), constant = b.constant(Tensor::vector<float>({5}));
  const auto found = run(read_again(make_model(b.finish({x, y, y, constant}))), {Tensor::vector<float>({1, 2})});
  EXPECT_THAT(elements<float>(found[0]), ElementsAre(1, 2));
  EXPECT_THAT(elements<float>(found[1]), ElementsAre(-1, -2));
  EXPECT_THAT(elements<float>(found[2]), ElementsAre(-1, -2));
  EXPECT_THAT(elements<float>(found[3]), ElementsAre(5));
}

TEST(ExportOnnx, DefaultsOfInputsStayDefaults) {
  Builder b;
  const ValueId x = b.input(floats({1})), scale = b.input(floats({1}));
  b.graph.value(scale).constant = Value(Tensor::vector<float>({3}));
  const Model again = read_again(make_model(b.finish({b.node("Mul", {x, scale})})));
  EXPECT_THAT(elements<float>(run(copy_model(again), {Tensor::vector<float>({2}), Value()})[0]), ElementsAre(6));
  EXPECT_THAT(elements<float>(run(copy_model(again), {Tensor::vector<float>({2}), Tensor::vector<float>({5})})[0]),
              ElementsAre(10));
}

TEST(ExportOnnx, SequencesAndEmptyOptionalsAreMadeByNodes) {
  Builder b;
  const ValueId sequence = b.constant(Value(std::vector<Value>{Tensor::scalar(1.0f), Tensor::scalar(2.0f)}));
  b.graph.value(sequence).type = ValueType::sequence(floats({}));
  const ValueId empty = b.constant(Value(std::vector<Value>()));
  b.graph.value(empty).type = ValueType::sequence(ValueType::tensor(ElementType::kI64));
  const ValueId nothing = b.constant(Value());
  b.graph.value(nothing).type = ValueType::optional(floats({}));
  const auto found =
      run(read_again(make_model(b.finish({b.node("SequenceLength", {sequence}), b.node("SequenceLength", {empty}),
                                          b.node("OptionalHasElement", {nothing})}))));
  EXPECT_EQ(found[0].tensor.data<int64_t>()[0], 2);
  EXPECT_EQ(found[1].tensor.data<int64_t>()[0], 0);
  EXPECT_FALSE(found[2].tensor.data<bool>()[0]);
}

TEST(ExportOnnx, LargeConstantsGoToTheSink) {
  Builder b;
  const ValueId x = b.input(floats({1000}));
  std::vector<float> weights(1000);
  for (size_t i = 0; i < weights.size(); ++i) weights[i] = static_cast<float>(i);
  const ValueId small = b.constant(Tensor::vector<float>({2})), large = b.constant(Tensor::vector(weights));
  const Model model = make_model(b.finish({b.node("Mul", {b.node("Add", {x, large}), small})}));
  std::vector<uint8_t> data;
  const std::string file = export_onnx(model, [&](std::span<const uint8_t> bytes) {
    const auto offset = static_cast<int64_t>(data.size());
    data.insert(data.end(), bytes.begin(), bytes.end());
    return ExternalPlace{"weights", offset};
  });
  EXPECT_EQ(data.size(), 4000u);
  EXPECT_LT(file.size(), 1000u);
  const std::span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(file.data()), file.size());
  const auto kept = std::make_shared<std::vector<uint8_t>>(data);
  Model again = import_onnx(bytes, "m", [&](const std::string& location, int64_t offset, int64_t size) {
    EXPECT_EQ(location, "weights");
    return ExternalBytes{kept->data() + offset, static_cast<size_t>(size), kept};
  });
  EXPECT_EQ(again.graph.value(again.graph.nodes[0].inputs[1]).constant->tensor.raw(), kept->data());  // not copied
  const auto found = run(std::move(again), {Tensor::vector(std::vector<float>(1000, 1))});
  EXPECT_EQ(found[0].tensor.data<float>()[999], 2000);
  EXPECT_THAT(message_of([&] { import_onnx(bytes, "m"); }), HasSubstr("may have none"));
}

TEST(ExportOnnx, OpsetOfANodeHasToBeKnown) {
  Builder b;
  const ValueId x = b.input(floats({2}));
  Model model = make_model(b.finish({b.node("Relu", {x})}));
  model.graph.nodes[0].opset = 99;
  EXPECT_THAT(message_of([&] { read_again(model); }), HasSubstr("opset 99"));
}

TEST(ExportOnnx, WhatPassesMakeIsReadAgain) {
  Builder b;
  const ValueId x = b.input(floats({Dim::symbol("n"), 3, 8, 8}));
  Tensor w(ElementType::kF32, {4, 3, 3, 3});
  for (int64_t i = 0; i < w.count(); ++i) w.data<float>()[i] = static_cast<float>(i % 7) - 3;
  const ValueId y = b.node("Conv", {x, b.constant(w)}, {{"pads", integers({1, 1, 1, 1})}}, 17);
  const ValueId z = b.node("GlobalAveragePool", {b.node("Relu", {y}, {}, 17)}, {}, 17);
  const ValueId flat = b.node("Flatten", {z}, {}, 17);
  const ValueId v = b.constant(Tensor::vector<float>({1, 2, 3, 4, 5, 6, 7, 8}, {4, 2}));
  Model model = make_model(b.finish({b.node("Softmax", {b.node("MatMul", {flat, v}, {}, 17)}, {}, 17)}), 17);
  std::vector<std::string> problems;
  infer_types(model.graph, problems);
  optimise(model);
  Tensor image(ElementType::kF32, {2, 3, 8, 8});
  for (int64_t i = 0; i < image.count(); ++i) image.data<float>()[i] = static_cast<float>(i % 11) * 0.01f;
  const Model again = read_again(model);
  EXPECT_EQ(again.graph.nodes.size(), model.graph.nodes.size());
  EXPECT_EQ(elements<float>(run(copy_model(again), {image})[0]), elements<float>(run(copy_model(model), {image})[0]));
}

}  // namespace
}  // namespace sluice::graph
