// The passes over quantised models: what becomes of the patterns that exporters and quantisers write, and that the
// result is the unoptimised graph's within one step of its scale. And sluice.QConv and QMatMul on their own.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "graph/dump.h"
#include "graph/ops_for_test.h"
#include "graph/passes.h"

namespace sluice::graph {
namespace {

using for_test::Attributes;
using for_test::Builder;
using for_test::elements;
using for_test::integer;
using for_test::integers;
using for_test::message_of;
using for_test::real;
using for_test::text;
using testing::HasSubstr;
using testing::Not;

class Data {
 public:
  template <typename T>
  Tensor make(const Shape& shape) {
    Tensor tensor(type_of<T>(), shape);
    for (int64_t i = 0; i < tensor.count(); ++i) {
      if constexpr (std::is_same_v<T, float>) tensor.data<T>()[i] = std::normal_distribution<float>()(engine_);
      else tensor.data<T>()[i] = static_cast<T>(engine_() >> 8);
    }
    return tensor;
  }
  // Positive, of the size that scales have.
  Tensor make_scales(int64_t count) {
    Tensor tensor(ElementType::kF32, Shape{count});
    for (int64_t i = 0; i < count; ++i) {
      tensor.data<float>()[i] = std::uniform_real_distribution<float>(0.002f, 0.02f)(engine_);
    }
    return tensor;
  }

 private:
  std::mt19937 engine_{7};
};

template <typename T>
ValueType type_of_shape(Dims dims) {
  return ValueType::tensor(type_of<T>(), std::move(dims));
}

// Builder with the nodes that these graphs are full of.
struct Quantised : Builder {
  ValueId number(float value) { return constant(Tensor::scalar(value)); }
  template <typename T>
  ValueId zero(int value) {
    return constant(Tensor::scalar(static_cast<T>(value)));
  }
  template <typename T = uint8_t>
  ValueId dequantise(ValueId x, float scale, int zero_point = 0, int opset = 13) {
    return node("DequantizeLinear", {x, number(scale), zero<T>(zero_point)}, {}, opset);
  }
  template <typename T = uint8_t>
  ValueId quantise(ValueId x, float scale, int zero_point = 0, int opset = 13) {
    return node("QuantizeLinear", {x, number(scale), zero<T>(zero_point)}, {}, opset);
  }
  // Weights of int8 with a scale for each index of the axis.
  ValueId weights(Tensor values, int64_t axis) {
    const ValueId scales = constant(data.make_scales(values.dim(static_cast<int>(axis))));
    return node("DequantizeLinear", {constant(std::move(values)), scales}, {{"axis", integer(axis)}}, 13);
  }
  Data data;
};

Model make_model(Graph graph) {
  Model model;
  model.graph = std::move(graph);
  for (size_t i = 0; i < model.graph.outputs.size(); ++i) model.graph.output_names.push_back("y" + std::to_string(i));
  std::vector<std::string> problems;
  infer_types(model.graph, problems);
  EXPECT_THAT(problems, testing::IsEmpty());
  return model;
}

std::vector<Value> run_model(const Model& model, const std::vector<Value>& inputs, bool compiles) {
  return Executor(std::make_shared<Model>(copy_model(model)), {.num_threads = 2, .compiles = compiles}).run(inputs);
}

double at(const Tensor& tensor, int64_t i) {
  double value = 0;
  dispatch_numbers(tensor.type(),
                   [&](auto zero) { value = static_cast<double>(tensor.data<decltype(zero)>()[i]); });
  return value;
}

void expect_close(const std::vector<Value>& a, const std::vector<Value>& b, double step) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(to_string(a[i].tensor), to_string(b[i].tensor));
    double worst = 0, spread = 0;
    for (int64_t k = 0; k < a[i].tensor.count(); ++k) {
      worst = std::max(worst, std::abs(at(a[i].tensor, k) - at(b[i].tensor, k)));
      spread = std::max(spread, std::abs(at(a[i].tensor, k) - at(a[i].tensor, 0)));
    }
    EXPECT_LE(worst, step);
    EXPECT_GT(spread, 3 * step) << "the case tests nothing: " << to_string(a[i].tensor, 20);
  }
}

// `step`: what an element may differ by; of integers 1 is one step of their scale. With each operator's own code, and
// with the kernels. Gives the graph after the passes.
std::string expect_agrees(const Graph& graph, const std::vector<Value>& inputs, double step) {
  const Model plain = make_model(copy_graph(graph));
  Model optimised = copy_model(plain);
  optimise(optimised);
  const std::string text = dump(optimised.graph);
  SCOPED_TRACE(text);
  const std::vector<Value> expected = run_model(plain, inputs, false);
  expect_close(expected, run_model(optimised, inputs, false), step);
  expect_close(expected, run_model(optimised, inputs, true), step);
  return text;
}

constexpr int kExact = 0;

TEST(FuseQdq, ConvolutionWithReluThatTheRangeMakesNeedless) {
  Quantised b;
  const ValueId x = b.input(type_of_shape<uint8_t>({2, 4, 9, 11}));
  const ValueId w = b.weights(b.data.make<int8_t>({6, 2, 3, 3}), 0);
  const ValueId bias = b.weights(Tensor::vector<int32_t>({300, -200, 0, 7, 4000, -90}), 0);
  const Attributes attributes{{"group", integer(2)}, {"dilations", integers({2, 1})}, {"strides", integers({1, 2})},
                              {"pads", integers({2, 1, 0, 1})}};
  const ValueId y = b.node("Conv", {b.dequantise(x, 0.02f, 121), w, bias}, attributes);
  const ValueId q = b.quantise(b.node("Relu", {y}), 0.11f, 0);
  const Tensor input = b.data.make<uint8_t>({2, 4, 9, 11});
  const std::string text = expect_agrees(b.finish({q}), {input}, 1);
  EXPECT_THAT(text, HasSubstr("sluice.QConv"));
  EXPECT_THAT(text, Not(HasSubstr("quantizeLinear")));
  EXPECT_THAT(text, Not(HasSubstr("QuantizeLinear")));
  EXPECT_THAT(text, Not(HasSubstr("Relu")));
}

TEST(FuseQdq, KeepsReluThatTheRangeDoesNotMakeNeedless) {
  Quantised b;
  const ValueId x = b.input(type_of_shape<int8_t>({1, 3, 8, 8}));
  const ValueId w = b.weights(b.data.make<int8_t>({5, 3, 3, 3}), 0);
  const ValueId y = b.node("Conv", {b.dequantise<int8_t>(x, 0.02f, -5), w});
  const ValueId q = b.quantise<int8_t>(b.node("Relu", {y}), 0.1f, 3);
  const std::string text = expect_agrees(b.finish({q}), {b.data.make<int8_t>({1, 3, 8, 8})}, 1);
  EXPECT_THAT(text, HasSubstr("activation=\"Relu\""));
  EXPECT_THAT(text, Not(HasSubstr("QuantizeLinear(")));
}

TEST(FuseQdq, OldFormsWithoutZeroPointsAndWithOneScale) {
  Quantised b;
  const ValueId x = b.input(type_of_shape<uint8_t>({1, 3, 6, 6}));
  const ValueId w =
      b.node("DequantizeLinear", {b.constant(b.data.make<int8_t>({4, 3, 2, 2})), b.number(0.01f)}, {}, 10);
  const ValueId real = b.node("DequantizeLinear", {x, b.constant(Tensor::vector<float>({0.02f}))}, {}, 10);
  const ValueId q = b.node("QuantizeLinear", {b.node("Conv", {real, w}), b.number(0.2f)}, {}, 10);
  const std::string text = expect_agrees(b.finish({q}), {b.data.make<uint8_t>({1, 3, 6, 6})}, 1);
  EXPECT_THAT(text, HasSubstr("sluice.QConv"));
  EXPECT_THAT(text, Not(HasSubstr("QuantizeLinear(")));
}

TEST(FuseQdq, ResidualOfIntegersAndAnActivation) {
  Quantised b;
  const ValueId x = b.input(type_of_shape<uint8_t>({1, 4, 5, 5})), r = b.input(type_of_shape<uint8_t>({1, 6, 5, 5}));
  const ValueId w = b.weights(b.data.make<int8_t>({6, 4, 1, 1}), 0);
  const ValueId sum = b.node("Add", {b.dequantise(r, 0.05f, 100), b.node("Conv", {b.dequantise(x, 0.02f, 128), w})});
  const ValueId q = b.quantise(b.node("LeakyRelu", {sum}, {{"alpha", real(0.3f)}}), 0.06f, 40);
  const std::string text =
      expect_agrees(b.finish({q}), {b.data.make<uint8_t>({1, 4, 5, 5}), b.data.make<uint8_t>({1, 6, 5, 5})}, 1);
  EXPECT_THAT(text, HasSubstr("activation=\"LeakyRelu\""));
  EXPECT_THAT(text, Not(HasSubstr("Add(")));
  EXPECT_THAT(text, Not(HasSubstr("QuantizeLinear(")));
}

TEST(FuseQdq, UnsignedWeightsBecomeSigned) {
  for (const int zero_point : {128, 119}) {
    Quantised b;
    const ValueId x = b.input(type_of_shape<uint8_t>({3, 20}));
    const ValueId w = b.dequantise(b.constant(b.data.make<uint8_t>({20, 9})), 0.01f, zero_point);
    const ValueId y = b.node("MatMul", {b.dequantise(x, 0.02f, 128), w});
    const std::string text = expect_agrees(b.finish({y}), {b.data.make<uint8_t>({3, 20})}, 1e-4);
    EXPECT_THAT(text, HasSubstr("_signed: int8 20x9"));
  }
}

TEST(FuseQdq, BatchNormalizationGoesIntoTheScales) {
  Quantised b;
  const ValueId x = b.input(type_of_shape<uint8_t>({1, 4, 5, 5}));
  const ValueId w = b.weights(b.data.make<int8_t>({6, 4, 1, 1}), 0);
  const ValueId y = b.node("Conv", {b.dequantise(x, 0.02f, 128), w, b.constant(b.data.make<float>({6}))});
  const ValueId normalised =
      b.node("BatchNormalization", {y, b.constant(b.data.make<float>({6})), b.constant(b.data.make<float>({6})),
                                    b.constant(b.data.make<float>({6})), b.constant(b.data.make_scales(6))}, {}, 15);
  const ValueId q = b.quantise(normalised, 0.5f, 128);
  const std::string text = expect_agrees(b.finish({q}), {b.data.make<uint8_t>({1, 4, 5, 5})}, 1);
  EXPECT_THAT(text, Not(HasSubstr("BatchNormalization")));
}

TEST(FuseQdq, MatMulWithBiasAndGelu) {
  Quantised b;
  const ValueId x = b.input(type_of_shape<uint8_t>({Dim::symbol("n"), 7, 16}));
  const ValueId w = b.weights(b.data.make<int8_t>({16, 10}), 1);
  const ValueId y = b.node("MatMul", {b.dequantise(x, 0.02f, 121), w});
  const ValueId sum = b.node("Add", {b.constant(b.data.make<float>({10})), y});
  const ValueId q = b.quantise<int8_t>(b.node("Gelu", {sum}), 0.03f, -100);
  const std::string text = expect_agrees(b.finish({q}), {b.data.make<uint8_t>({3, 7, 16})}, 1);
  EXPECT_THAT(text, HasSubstr("sluice.QMatMul"));
  EXPECT_THAT(text, HasSubstr("activation=\"Gelu\""));
  EXPECT_THAT(text, Not(HasSubstr("Add(")));
  EXPECT_THAT(text, Not(HasSubstr("QuantizeLinear(")));
}

TEST(FuseQdq, GemmWithBetaAndFloatOutput) {
  Quantised b;
  const ValueId x = b.input(type_of_shape<int8_t>({5, 16}));
  const ValueId w = b.weights(b.data.make<int8_t>({9, 16}), 0);
  const Attributes attributes{{"transB", integer(1)}, {"alpha", real(0.5f)}, {"beta", real(2)}};
  const ValueId y = b.node("Gemm", {b.dequantise<int8_t>(x, 0.03f, 4), w, b.constant(b.data.make<float>({1, 9}))},
                           attributes);
  const std::string text = expect_agrees(b.finish({y}), {b.data.make<int8_t>({5, 16})}, 1e-4);
  EXPECT_THAT(text, HasSubstr("sluice.QMatMul"));
  EXPECT_THAT(text, Not(HasSubstr("DequantizeLinear(")));
}

// As PyTorch exports quantisation-aware training: float weights, quantised in the graph, then transposed.
TEST(FuseQdq, FloatWeightsThatTheGraphQuantises) {
  Quantised b;
  const ValueId x = b.input(type_of_shape<float>({Dim::symbol("n"), 16}));
  const ValueId real_x = b.dequantise(b.quantise(x, 0.02f, 121), 0.02f, 121);
  const ValueId scales = b.constant(b.data.make_scales(10));
  const ValueId zeros = b.constant(Tensor::vector<int8_t>(std::vector<int8_t>(10, 0)));
  const Attributes axis{{"axis", integer(0)}};
  const ValueId q = b.node("QuantizeLinear", {b.constant(b.data.make<float>({10, 16})), scales, zeros}, axis, 13);
  const ValueId w = b.node("DequantizeLinear", {q, scales, zeros}, axis, 13);
  const ValueId y = b.node("MatMul", {real_x, b.node("Transpose", {w}, {{"perm", integers({1, 0})}})});
  const std::string text = expect_agrees(b.finish({y}), {b.data.make<float>({4, 16})}, 1e-4);
  EXPECT_THAT(text, HasSubstr("sluice.QMatMul"));
  EXPECT_THAT(text, Not(HasSubstr("DequantizeLinear(")));
}

TEST(FuseQdq, ProductOfTwoActivationsWithScaledScores) {
  Quantised b;
  const ValueId a = b.input(type_of_shape<uint8_t>({2, 3, 5, 8})), c = b.input(type_of_shape<uint8_t>({2, 3, 8, 6}));
  const ValueId y = b.node("MatMul", {b.dequantise(a, 0.02f, 120), b.dequantise(c, 0.03f, 130)});
  const ValueId q = b.quantise(b.node("Div", {y, b.number(2.5f)}), 0.04f, 128);
  const std::string text =
      expect_agrees(b.finish({q}), {b.data.make<uint8_t>({2, 3, 5, 8}), b.data.make<uint8_t>({2, 3, 8, 6})}, 1);
  EXPECT_THAT(text, HasSubstr("sluice.QMatMul"));
  EXPECT_THAT(text, Not(HasSubstr("Div(")));
}

TEST(FuseQdq, WhatOthersReadStaysFloat) {
  Quantised b;
  const ValueId x = b.input(type_of_shape<uint8_t>({1, 4, 5, 5}));
  const ValueId w = b.weights(b.data.make<int8_t>({6, 4, 1, 1}), 0);
  const ValueId y = b.node("Conv", {b.dequantise(x, 0.02f, 128), w});
  const ValueId relu = b.node("Relu", {y});
  const ValueId q = b.quantise(relu, 0.06f, 0);
  const std::string text = expect_agrees(b.finish({q, relu, y}), {b.data.make<uint8_t>({1, 4, 5, 5})}, 1);
  EXPECT_THAT(text, HasSubstr("sluice.QConv"));
  EXPECT_THAT(text, HasSubstr("Relu("));
}

TEST(FuseQdq, ScalesAlongTheInnerDimensionAreNoChannels) {
  Quantised b;
  const ValueId x = b.input(type_of_shape<uint8_t>({5, 16}));
  const ValueId w = b.weights(b.data.make<int8_t>({16, 9}), 0);
  const ValueId y = b.node("MatMul", {b.dequantise(x, 0.03f, 4), w});
  const std::string text = expect_agrees(b.finish({y}), {b.data.make<uint8_t>({5, 16})}, 1e-3);
  EXPECT_THAT(text, Not(HasSubstr("QMatMul")));
}

TEST(FoldDequantized, WeightsOfFloatProducts) {
  Quantised b;
  const ValueId x = b.input(type_of_shape<float>({5, 16}));
  const ValueId y = b.node("MatMul", {x, b.weights(b.data.make<int8_t>({16, 9}), 1)});
  const std::string text = expect_agrees(b.finish({y}), {b.data.make<float>({5, 16})}, 1e-4);
  EXPECT_THAT(text, Not(HasSubstr("DequantizeLinear")));
}

TEST(MoveQdq, WhatMovesElementsIsDoneOnIntegers) {
  Quantised b;
  const ValueId x = b.input(type_of_shape<uint8_t>({1, 4, 6, 6}));
  ValueId y = b.dequantise(x, 0.02f, 121);
  y = b.node("MaxPool", {y}, {{"kernel_shape", integers({3, 3})}, {"pads", integers({1, 1, 1, 1})}});
  y = b.node("Pad", {y, b.constant(Tensor::vector<int64_t>({0, 0, 1, 0, 0, 0, 0, 2})), b.number(0)});
  y = b.node("Transpose", {y}, {{"perm", integers({0, 2, 3, 1})}});
  y = b.node("Resize", {y, kNoValue, b.constant(Tensor::vector<float>({1, 2, 1, 1}))},
             {{"mode", text("nearest")}, {"nearest_mode", text("floor")}});
  const std::vector<ValueId> parts = b.nodes("Split", {y}, 2, {{"axis", integer(3)}}, 13);
  y = b.node("Concat", {parts[1], parts[0]}, {{"axis", integer(1)}});
  y = b.quantise(b.node("Reshape", {y, b.constant(Tensor::vector<int64_t>({4, -1}))}), 0.02f, 121);
  const std::string text = expect_agrees(b.finish({y}), {b.data.make<uint8_t>({1, 4, 6, 6})}, kExact);
  EXPECT_THAT(text, Not(HasSubstr("QuantizeLinear(")));
  EXPECT_THAT(text, Not(HasSubstr("DequantizeLinear(")));
}

TEST(MoveQdq, QuantisationClimbsToTheProduct) {
  Quantised b;
  const ValueId x = b.input(type_of_shape<uint8_t>({1, 4, 8, 8}));
  ValueId parts[2];
  for (ValueId& part : parts) {
    const ValueId w = b.weights(b.data.make<int8_t>({6, 4, 1, 1}), 0);
    part = b.node("Relu", {b.node("Conv", {b.dequantise(x, 0.02f, 128), w})});
    part = b.node("MaxPool", {part}, {{"kernel_shape", integers({2, 2})}, {"strides", integers({2, 2})}});
  }
  const ValueId joined = b.node("Concat", {parts[0], parts[1]}, {{"axis", integer(1)}});
  const ValueId q = b.quantise(b.node("Flatten", {joined}), 0.03f, 0);
  const std::string text = expect_agrees(b.finish({q}), {b.data.make<uint8_t>({1, 4, 8, 8})}, 1);
  EXPECT_THAT(text, Not(HasSubstr("QuantizeLinear(")));
  EXPECT_THAT(text, Not(HasSubstr("Relu")));
}

TEST(MoveQdq, OtherParametersAreATable) {
  Quantised b;
  const ValueId x = b.input(type_of_shape<int8_t>({300}));
  const ValueId q = b.quantise<int8_t>(b.dequantise<int8_t>(x, 0.02f, 12), 0.05f, -7);
  const std::string text = expect_agrees(b.finish({q}), {b.data.make<int8_t>({300})}, kExact);
  EXPECT_THAT(text, HasSubstr("QLinearLeakyRelu"));
}

// As quantisers write it that quantise what a convolution gives and what an activation gives: in one scale or two.
TEST(MoveQdq, BoundsBetweenTwoQuantisations) {
  for (const bool is_clip : {false, true}) {
    for (const bool is_same : {false, true}) {
      for (const bool is_sum : {false, true}) {
        SCOPED_TRACE(testing::Message() << is_clip << is_same << is_sum);
        Quantised b;
        const ValueId x = b.input(type_of_shape<uint8_t>({1, 4, 6, 6}));
        const ValueId w = b.weights(b.data.make<int8_t>({4, 4, 1, 1}), 0);
        const ValueId from = b.dequantise(x, 0.02f, 128);
        const ValueId conv = is_sum ? b.node("Add", {from, from}) : b.node("Conv", {from, w});
        const ValueId y = b.dequantise(b.quantise(conv, 0.02f, 100), 0.02f, 100);
        const ValueId cut = is_clip ? b.node("Clip", {y, b.number(-0.5f), b.number(1.5f)}) : b.node("Relu", {y});
        const ValueId q = b.quantise(cut, is_same ? 0.02f : 0.013f, is_same ? 100 : 20);
        const std::string text = expect_agrees(b.finish({q}), {b.data.make<uint8_t>({1, 4, 6, 6})}, 1);
        EXPECT_THAT(text, Not(HasSubstr("QuantizeLinear(")));
        EXPECT_THAT(text, Not(HasSubstr("DequantizeLinear(")));
        EXPECT_EQ(text.find(" = Clip(") == std::string::npos, !is_sum || (!is_clip && !is_same)) << text;
      }
    }
  }
}

TEST(MoveQdq, NegativeScalesTurnMaximaAround) {
  Quantised b;
  const ValueId x = b.input(type_of_shape<uint8_t>({1, 4, 6, 6}));
  const ValueId y = b.node("MaxPool", {b.dequantise(x, -0.02f, 121)}, {{"kernel_shape", integers({3, 3})}});
  expect_agrees(b.finish({y}), {b.data.make<uint8_t>({1, 4, 6, 6})}, kExact);
}

TEST(FuseQdq, NodesWithoutOutputs) {
  Quantised b;
  const ValueId x = b.input(type_of_shape<uint8_t>({5, 16}));
  const ValueId real = b.dequantise(x, 0.02f, 12);
  b.nodes("Relu", {real}, 0);
  b.nodes("Identity", {real}, 0);
  b.nodes("Concat", {real, real}, 0, {{"axis", integer(0)}});
  b.nodes("MatMul", {real, b.weights(b.data.make<int8_t>({16, 16}), 1)}, 0);
  b.nodes("QuantizeLinear", {real, b.number(0.1f)}, 0, {}, 13);
  expect_agrees(b.finish({b.quantise(real, 0.03f, 7)}), {b.data.make<uint8_t>({5, 16})}, kExact);
}

TEST(FuseQdq, OperatorsOnIntegers) {
  struct Case {
    const char *op, *becomes;
    Attributes attributes;
    int num_inputs = 1;
  };
  const Case cases[] = {
      {"Add", "QLinearAdd", {}, 2},
      {"Mul", "QLinearMul", {}, 2},
      {"Sigmoid", "QLinearSigmoid", {}},
      {"LeakyRelu", "QLinearLeakyRelu", {{"alpha", real(0.2f)}}},
      {"Relu", "QLinearLeakyRelu", {}},
      {"GlobalAveragePool", "QLinearGlobalAveragePool", {}},
      {"ReduceMean", "QLinearGlobalAveragePool", {{"axes", integers({-1, 2})}}},
      {"AveragePool", "QLinearAveragePool",
       {{"kernel_shape", integers({3, 2})}, {"pads", integers({1, 0, 1, 1})}, {"strides", integers({2, 2})}}},
      {"Softmax", "QLinearSoftmax", {{"axis", integer(1)}}},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.op);
    Quantised b;
    std::vector<ValueId> reals;
    std::vector<Value> inputs;
    for (int i = 0; i < c.num_inputs; ++i) {
      reals.push_back(b.dequantise(b.input(type_of_shape<uint8_t>({2, 40, 6, 5})), 0.02f, 121 + i));
      inputs.emplace_back(b.data.make<uint8_t>({2, 40, 6, 5}));
    }
    const ValueId q = b.quantise(b.node(c.op, reals, c.attributes, 13), 0.004f, 60);
    const std::string text = expect_agrees(b.finish({q}), inputs, 1);
    EXPECT_THAT(text, HasSubstr(c.becomes));
    EXPECT_THAT(text, Not(HasSubstr("DequantizeLinear(")));
  }
}

TEST(FuseInteger, DynamicQuantisationOfAMatMul) {
  for (const bool is_conv : {false, true}) {
    Quantised b;
    const Shape shape = is_conv ? Shape{2, 4, 6, 6} : Shape{2, 5, 16};
    const ValueId x = b.input(ValueType::tensor(ElementType::kF32, to_dims(shape)));
    const std::vector<ValueId> q = b.nodes("DynamicQuantizeLinear", {x}, 3, {}, 11);
    const ValueId w = b.constant(b.data.make<int8_t>(is_conv ? Shape{6, 4, 3, 3} : Shape{16, 10}));
    const ValueId w_zero = b.constant(Tensor::scalar<int8_t>(0));
    const ValueId sums = b.node(is_conv ? "ConvInteger" : "MatMulInteger", {q[0], w, q[2], w_zero});
    const ValueId cast = b.node("Cast", {sums}, {{"to", integer(1)}});
    const ValueId w_scale = b.constant(is_conv ? b.data.make_scales(6).reshaped({6, 1, 1}) : b.data.make_scales(10));
    const ValueId y = b.node("Mul", {cast, b.node("Mul", {q[1], w_scale})});
    const Tensor bias = is_conv ? b.data.make<float>({1, 6, 1, 1}) : b.data.make<float>({10});
    const ValueId z = b.node("Relu", {b.node("Add", {y, b.constant(bias)})});
    const std::string text = expect_agrees(b.finish({z}), {b.data.make<float>(shape)}, 1e-4);
    EXPECT_THAT(text, HasSubstr(is_conv ? "sluice.QConv" : "sluice.QMatMul"));
    EXPECT_THAT(text, Not(HasSubstr("Mul(q")));
    EXPECT_THAT(text, Not(HasSubstr("Add(")));
    EXPECT_THAT(text, Not(HasSubstr("Cast(")));
  }
}

TEST(FuseInteger, QLinearOperators) {
  Quantised b;
  const ValueId x = b.input(type_of_shape<uint8_t>({1, 4, 6, 6}));
  const ValueId conv = b.node(
      "QLinearConv",
      {x, b.number(0.02f), b.zero<uint8_t>(120), b.constant(b.data.make<int8_t>({8, 4, 3, 3})),
       b.constant(b.data.make_scales(8)), b.constant(Tensor::vector<int8_t>({0, 0, 0, 0, 0, 0, 0, 0})), b.number(0.1f),
       b.zero<uint8_t>(100), b.constant(Tensor::vector<int32_t>({100, 200, -300, 5000, 0, 0, 1, 2}))});
  const ValueId flat = b.node("Flatten", {conv}, {{"axis", integer(2)}});
  const ValueId matmul =
      b.node("QLinearMatMul", {flat, b.number(0.1f), b.zero<uint8_t>(100), b.constant(b.data.make<int8_t>({16, 5})),
                               b.constant(b.data.make_scales(5)), b.constant(Tensor::vector<int8_t>({0, 0, 0, 0, 0})),
                               b.number(0.1f), b.zero<uint8_t>(128)});
  const ValueId gemm =
      b.node("QGemm", {flat, b.number(0.1f), b.zero<uint8_t>(100), b.constant(b.data.make<int8_t>({5, 16})),
                       b.number(0.01f), b.zero<int8_t>(3), b.constant(Tensor::vector<int32_t>({100, 200, -300, 5, 0}))},
             {{"transB", integer(1)}, {"alpha", real(0.5f)}}, 1, kMicrosoft);
  const std::string text =
      expect_agrees(b.finish({conv, matmul, gemm}), {b.data.make<uint8_t>({1, 4, 6, 6})}, 1);
  EXPECT_THAT(text, Not(HasSubstr("QLinear")));
  EXPECT_THAT(text, Not(HasSubstr("QGemm")));
}

TEST(FuseInteger, MicrosoftMatMuls) {
  Quantised b;
  const ValueId x = b.input(type_of_shape<float>({3, 16}));
  const ValueId w = b.constant(b.data.make<int8_t>({16, 5})), scales = b.constant(b.data.make_scales(5));
  const ValueId bias = b.constant(b.data.make<float>({5}));
  const ValueId y = b.node("DynamicQuantizeMatMul", {x, w, scales, kNoValue, bias}, {}, 1, kMicrosoft);
  const std::vector<ValueId> q = b.nodes("DynamicQuantizeLinear", {x}, 3, {}, 11);
  const ValueId z = b.node("MatMulIntegerToFloat", {q[0], w, q[1], scales, q[2], kNoValue, bias}, {}, 1, kMicrosoft);
  const std::string text = expect_agrees(b.finish({y, z}), {b.data.make<float>({3, 16})}, 1e-4);
  EXPECT_THAT(text, Not(HasSubstr("com.microsoft")));
}

TEST(QProducts, SaySoIfInputsDoNotFit) {
  auto run = [](const std::string& op, const std::vector<Value>& inputs) {
    return message_of([&] { for_test::run_node(op, inputs, 1, {}, 1, "sluice"); });
  };
  Data data;
  const Value scale = Tensor::scalar(0.1f), none{};
  const Value x = data.make<uint8_t>({1, 4, 6, 6}), w = data.make<int8_t>({8, 4, 3, 3});
  EXPECT_THAT(run("QConv", {data.make<float>({1, 4, 6, 6}), scale, none, w, scale}), HasSubstr("uint8 or int8"));
  EXPECT_THAT(run("QConv", {x, scale, none, w, data.make_scales(7)}), HasSubstr("one number or 8"));
  EXPECT_THAT(run("QConv", {x, data.make_scales(4), none, w, scale}), HasSubstr("one number is needed"));
  EXPECT_THAT(run("QConv", {x, scale, Tensor::scalar<int8_t>(0), w, scale}), HasSubstr("of one type"));
  EXPECT_THAT(run("QConv", {x, scale, none}), HasSubstr("at least 4"));
  const Value z = data.make<float>({1, 8, 4, 5});
  EXPECT_THAT(run("QConv", {x, scale, none, w, scale, none, none, z}), HasSubstr("Z has shape"));
  EXPECT_THAT(run("QMatMul", {data.make<uint8_t>({3, 4}), scale, none, data.make<int8_t>({5, 4}), scale}),
              HasSubstr("do not multiply"));
  EXPECT_EQ(run("QConv", {x, scale, none, w, scale}), "");
}

// (3 - 1) * (2, -1) + (5 - 1) * (1, 3) = (8, 10); times 0.5 * (0.1, 0.2), plus (1, -3).
TEST(QProducts, ByHand) {
  const std::vector<Value> inputs{Tensor::vector<uint8_t>({3, 5}, {1, 2}), Tensor::scalar(0.5f),
                                  Tensor::scalar<uint8_t>(1), Tensor::vector<int8_t>({2, -1, 1, 3}, {2, 2}),
                                  Tensor::vector<float>({0.1f, 0.2f}), Tensor::scalar<int8_t>(0),
                                  Tensor::vector<float>({1, -3}), Tensor::vector<int8_t>({10, 20}, {1, 2}),
                                  Tensor::scalar(0.5f), Tensor::scalar<int8_t>(12)};
  const Value real = for_test::run_node("QMatMul", inputs, 1, {}, 1, "sluice")[0];
  EXPECT_THAT(elements<float>(real), testing::Pointwise(testing::FloatNear(1e-6f), {0.4f, 2.0f}));
  std::vector<Value> quantised = inputs;
  quantised.emplace_back(Tensor::scalar(0.01f));
  quantised.emplace_back(Tensor::scalar<int8_t>(-3));
  const Value y = for_test::run_node("QMatMul", quantised, 1, {}, 1, "sluice")[0];
  EXPECT_THAT(elements<int8_t>(y), testing::ElementsAre(37, 127));
}

TEST(QProducts, EmptyInputs) {
  Data data;
  const Value scale = Tensor::scalar(0.1f), none{};
  const std::vector<Value> no_rows{data.make<uint8_t>({0, 4}), scale, none, data.make<int8_t>({4, 5}), scale};
  EXPECT_EQ(for_test::run_node("QMatMul", no_rows, 1, {}, 1, "sluice")[0].tensor.shape(), (Shape{0, 5}));
  const std::vector<Value> no_depth{data.make<uint8_t>({2, 0}), scale, none, data.make<int8_t>({0, 3}), scale};
  EXPECT_THAT(elements<float>(for_test::run_node("QMatMul", no_depth, 1, {}, 1, "sluice")[0]), testing::Each(0.0f));
}

}  // namespace
}  // namespace sluice::graph
