// What quantize() makes of a residual network and of a transformer's layer, as text and in numbers; that the integer
// passes then leave no floats in between; the accuracy budget.
#include "optimize/quantize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "graph/dump.h"
#include "graph/ops_for_test.h"
#include "graph/passes.h"
#include "optimize/budget.h"
#include "optimize/calibrate.h"
#include "optimize/compare.h"
#include "optimize/quantize_numbers.h"

namespace sluice::optimize {
namespace {

using graph::Tensor;
using graph::Value;
using graph::ValueId;
using graph::for_test::Attributes;
using graph::for_test::integer;
using graph::for_test::integers;
using graph::for_test::message_of;
using testing::HasSubstr;
using testing::Not;

struct Net : graph::for_test::Builder {
  Tensor random(const graph::Shape& shape, float size = 1) {
    Tensor tensor(graph::ElementType::kF32, shape);
    std::normal_distribution<float> normal(0, size);
    for (int64_t i = 0; i < tensor.count(); ++i) tensor.data<float>()[i] = normal(engine);
    return tensor;
  }
  ValueId named(const std::string& name, const std::string& op, std::vector<ValueId> inputs,
                Attributes attributes = {}) {
    const ValueId id = node(op, std::move(inputs), std::move(attributes), op == "Swish" ? 24 : 17);
    graph.nodes.back().name = name;
    return id;
  }
  ValueId conv(const std::string& name, ValueId x, int64_t in, int64_t out, int64_t kernel, int64_t groups = 1) {
    const float size = 1 / std::sqrt(static_cast<float>(in / groups * kernel * kernel));
    const ValueId w = constant(random({out, in / groups, kernel, kernel}, size)), b = constant(random({out}, 0.1f));
    const int64_t pad = kernel / 2;
    return named(name, "Conv", {x, w, b}, {{"pads", integers({pad, pad, pad, pad})}, {"group", integer(groups)}});
  }
  graph::Model model(std::vector<ValueId> outputs) {
    graph::Model made;
    made.graph = finish(std::move(outputs));
    for (size_t i = 0; i < made.graph.outputs.size(); ++i) made.graph.output_names.push_back("y" + std::to_string(i));
    std::vector<std::string> problems;
    infer_types(made.graph, problems);
    EXPECT_THAT(problems, testing::IsEmpty());
    return made;
  }
  std::mt19937 engine{11};
};

graph::ValueType floats(graph::Dims dims) {
  return graph::ValueType::tensor(graph::ElementType::kF32, std::move(dims));
}

graph::Model make_residual(Net& net) {
  const ValueId x = net.input(floats({graph::Dim::symbol("n"), 3, 16, 16}));
  ValueId y = net.named("relu0", "Relu", {net.conv("conv0", x, 3, 16, 3)});
  y = net.named("pool", "MaxPool", {y}, {{"kernel_shape", integers({2, 2})}, {"strides", integers({2, 2})}});
  for (const std::string block : {"a", "b"}) {
    ValueId z = net.named("relu1" + block, "Relu", {net.conv("conv1" + block, y, 16, 16, 3)});
    z = net.conv("conv2" + block, z, 16, 16, 3, 4);
    const ValueId skip = block == "a" ? y : net.conv("skip" + block, y, 16, 16, 1);
    y = net.named("relu2" + block, "Relu", {net.named("sum" + block, "Add", {z, skip})});
  }
  y = net.named("flatten", "Flatten", {net.named("mean", "GlobalAveragePool", {y})});
  const ValueId w = net.constant(net.random({10, 16}, 0.25f)), b = net.constant(net.random({10}));
  return net.model({net.named("head", "Gemm", {y, w, b}, {{"transB", integer(1)}})});
}

Samples make_samples(Net& net, const graph::Shape& shape, size_t count) {
  std::vector<std::vector<Value>> samples;
  for (size_t i = 0; i < count; ++i) samples.push_back({net.random(shape)});
  return samples_of(std::move(samples));
}

Comparison compare(const graph::Model& a, graph::Model b, const Samples& samples) {
  graph::optimise(b);
  graph::Executor reference(std::make_shared<graph::Model>(graph::copy_model(a)), {.num_threads = 1});
  graph::Executor candidate(std::make_shared<graph::Model>(std::move(b)), {.num_threads = 1});
  return compare_models(reference, candidate, samples);
}

size_t count(const std::string& text, const std::string& word) {
  size_t found = 0;
  for (size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) ++found;
  return found;
}

std::string optimised_text(graph::Model model) {
  graph::optimise(model);
  return graph::dump(model.graph);
}

TEST(Quantize, ResidualNetworkStaysInIntegers) {
  for (const bool is_symmetric : {false, true}) {
    SCOPED_TRACE(is_symmetric ? "symmetric" : "asymmetric");
    Net net;
    const graph::Model model = make_residual(net);
    const Samples samples = make_samples(net, {2, 3, 16, 16}, 6);
    const Ranges ranges = calibrate(model, list_observed(model), samples, {});
    for (const bool is_per_channel : {true, false}) {
      const graph::Model quantised =
          quantize(model, ranges, {.is_symmetric = is_symmetric, .is_per_channel = is_per_channel});
      const Comparison found = compare(model, graph::copy_model(quantised), samples);
      EXPECT_LT(found.worst_relative_l2(), is_per_channel ? 0.03 : 0.05);
      EXPECT_GT(found.worst_relative_l2(), 1e-5);
      const std::string text = optimised_text(graph::copy_model(quantised));
      SCOPED_TRACE(text);
      EXPECT_EQ(count(text, " = sluice.QConv("), 6u);
      EXPECT_EQ(count(text, " = sluice.QMatMul("), 1u);
      EXPECT_EQ(count(text, " = QuantizeLinear("), 1u);  // of the input
      EXPECT_THAT(text, Not(HasSubstr(" = DequantizeLinear(")));
      EXPECT_THAT(text, Not(HasSubstr(" = Add(")));
      EXPECT_EQ(count(text, "QLinear"), 1u);
      EXPECT_THAT(text, HasSubstr("QLinearGlobalAveragePool"));
    }
  }
}

TEST(Quantize, MovesJoinsAndGates) {
  Net net;
  const ValueId x = net.input(floats({1, 8, 8, 8}));
  const ValueId a = net.named("ra", "Relu", {net.conv("a", x, 8, 8, 1)});
  const ValueId b = net.named("rb", "Relu", {net.conv("b", a, 8, 8, 3)});
  const ValueId joined = net.named("cat", "Concat", {a, b}, {{"axis", integer(1)}});  // a is read twice
  const ValueId c = net.named("swish", "Swish", {net.conv("c", joined, 16, 16, 1)});
  const ValueId gate =
      net.named("sigmoid", "Sigmoid", {net.conv("d", net.named("gap", "GlobalAveragePool", {c}), 16, 16, 1)});
  const ValueId gated = net.named("mul", "Mul", {c, gate});
  const graph::Model model = net.model({net.conv("e", gated, 16, 4, 1)});
  const Samples samples = make_samples(net, {1, 8, 8, 8}, 4);
  const Ranges ranges = calibrate(model, list_observed(model), samples, {});
  const graph::Model quantised = quantize(model, ranges, {});
  EXPECT_LT(compare(model, graph::copy_model(quantised), samples).worst_relative_l2(), 0.04);
  const std::string text = optimised_text(graph::copy_model(quantised));
  SCOPED_TRACE(text);
  EXPECT_EQ(count(text, " = QuantizeLinear("), 1u);
  EXPECT_THAT(text, Not(HasSubstr(" = DequantizeLinear(")));
  EXPECT_THAT(text, HasSubstr("QLinearMul"));
  EXPECT_THAT(text, Not(HasSubstr("QLinearLeakyRelu")));  // both parts of the join have one scale
}

TEST(Quantize, TransformerLayerKeepsItsResidualInFloats) {
  Net net;
  const ValueId x = net.input(floats({1, 6, 16}));
  const ValueId scale = net.constant(net.random({16})), w1 = net.constant(net.random({16, 32}, 0.25f));
  const ValueId w2 = net.constant(net.random({32, 16}, 0.2f));
  const ValueId normed = net.named("norm", "LayerNormalization", {x, scale});
  ValueId y = net.named("up", "Add", {net.named("m1", "MatMul", {normed, w1}), net.constant(net.random({32}))});
  y = net.named("m2", "MatMul", {net.named("relu", "Relu", {y}), w2});
  const graph::Model model =
      net.model({net.named("norm2", "LayerNormalization", {net.named("sum", "Add", {x, y}), scale})});
  const Samples samples = make_samples(net, {1, 6, 16}, 8);
  const Ranges ranges = calibrate(model, list_observed(model), samples, {});
  const graph::Model quantised = quantize(model, ranges, {});
  EXPECT_LT(compare(model, graph::copy_model(quantised), samples).worst_relative_l2(), 0.02);
  const std::string text = optimised_text(graph::copy_model(quantised));
  EXPECT_EQ(count(text, " = sluice.QMatMul("), 2u) << text;
  EXPECT_EQ(count(text, " = QuantizeLinear("), 1u) << text;

  const graph::Model dynamic = quantize(model, {}, {.is_dynamic = true});
  EXPECT_LT(compare(model, graph::copy_model(dynamic), samples).worst_relative_l2(), 0.02);
  EXPECT_EQ(count(graph::dump(dynamic.graph), "DynamicQuantizeLinear("), 2u);
  EXPECT_EQ(count(graph::dump(dynamic.graph), "MatMulInteger("), 2u);
  const std::string fused = optimised_text(graph::copy_model(dynamic));
  EXPECT_EQ(count(fused, " = sluice.QMatMul("), 2u) << fused;
  EXPECT_THAT(fused, Not(HasSubstr(" = Mul(")));
}

TEST(Quantize, DynamicGemmWithAllItsParts) {
  Net net;
  const ValueId x = net.input(floats({5, 16}));
  const ValueId w = net.constant(net.random({8, 16})), c = net.constant(net.random({1, 8}));
  const Attributes attributes{{"transB", integer(1)}, {"alpha", graph::for_test::real(0.5f)},
                              {"beta", graph::for_test::real(3)}};
  const graph::Model model = net.model({net.named("gemm", "Gemm", {x, w, c}, attributes)});
  const Samples samples = make_samples(net, {5, 16}, 3);
  const graph::Model dynamic = quantize(model, {}, {.is_dynamic = true});
  const std::string text = optimised_text(graph::copy_model(dynamic));
  EXPECT_THAT(text, HasSubstr(" = sluice.QMatMul("));
  EXPECT_THAT(text, Not(HasSubstr(" = Add(")));
  EXPECT_LT(compare(model, graph::copy_model(dynamic), samples).worst_relative_l2(), 0.02);
}

TEST(Quantize, WhatIsExcludedStaysFloat) {
  Net net;
  const graph::Model model = make_residual(net);
  const Samples samples = make_samples(net, {1, 3, 16, 16}, 2);
  const Ranges ranges = calibrate(model, list_observed(model), samples, {});
  auto num_products = [&](QuantizeOptions options) { return list_quantisable(model, options).size(); };
  EXPECT_EQ(num_products({}), 7u);
  EXPECT_EQ(num_products({.excluded = {"Gemm", "conv1a"}}), 5u);
  EXPECT_EQ(num_products({.keeps_first = true, .keeps_last = true}), 5u);
  EXPECT_EQ(num_products({.is_dynamic = true}), 1u);
  const std::string text = optimised_text(quantize(model, ranges, {.excluded = {"Gemm", "conv1a"}}));
  EXPECT_EQ(count(text, " = sluice.QConv("), 5u);
  EXPECT_THAT(text, Not(HasSubstr("QMatMul")));
  EXPECT_THAT(message_of([&] { quantize(model, ranges, {.excluded = {"conv99"}}); }),
              HasSubstr("'conv99' is to be excluded, but is no node"));
}

TEST(Quantize, Numbers) {
  EXPECT_EQ(find_parameters({0, 25.5f}, false).zero, 0);
  EXPECT_FLOAT_EQ(find_parameters({0, 25.5f}, false).scale, 0.1f);
  EXPECT_EQ(find_parameters({-12.7f, 12.8f}, false).zero, 127);
  EXPECT_EQ(find_parameters({2, 5.1f}, false).zero, 0);  // 0 belongs to it
  EXPECT_EQ(find_parameters({-5.1f, -2}, false).zero, 255);
  EXPECT_FLOAT_EQ(find_parameters({-12.7f, 3}, true).scale, 0.1f);
  EXPECT_EQ(find_parameters({0, 0}, false).scale, 1);
  EXPECT_TRUE(std::isfinite(1 / find_parameters({0, 1e-44f}, false).scale));
  const QuantisedWeights weights = quantise_weights(Tensor::vector<float>({1.27f, -0.5f, 0, 0, -254, 2}, {3, 2}), 0);
  EXPECT_THAT(weights.integers.values<int8_t>(), testing::ElementsAre(127, -50, 0, 0, -127, 1));
  EXPECT_THAT(weights.scales.values<float>(), testing::ElementsAre(testing::FloatEq(0.01f), 1, 2));
}

TEST(Budget, KeepsTheWorstLayersInFloats) {
  Net net;
  const ValueId x = net.input(floats({1, 16}));
  ValueId y = x;
  for (const std::string name : {"m0", "m1", "m2", "m3"}) {
    Tensor w = net.random({16, 16}, 0.25f);
    // One weight that is 300 times the others: without a scale for each channel nothing is left of these.
    if (name == "m2") w.data<float>()[5] = 80;
    y = net.named(name, "MatMul", {net.named("t" + name, "Tanh", {y}), net.constant(w)});
  }
  const graph::Model model = net.model({y});
  const Samples samples = make_samples(net, {1, 16}, 8);
  const Ranges ranges = calibrate(model, list_observed(model), samples, {});
  const QuantizeOptions options{.is_per_channel = false};
  std::vector<std::string> lines;
  const BudgetResult result =
      quantize_within(model, ranges, options, samples,
                      {.max_error = 0.05, .log = [&](const std::string& line) { lines.push_back(line); }});
  EXPECT_GT(result.error_of_all, 0.05);
  EXPECT_LE(result.error, 0.05);
  ASSERT_EQ(result.layers.size(), 4u);
  EXPECT_EQ(result.layers[0].name, "m2");
  EXPECT_TRUE(result.layers[0].is_float);
  EXPECT_FALSE(result.layers[3].is_float);
  EXPECT_NEAR(compare(model, graph::copy_model(result.model), samples).worst_relative_l2(), result.error, 1e-4);
  EXPECT_FALSE(lines.empty());
  const BudgetResult easy = quantize_within(model, ranges, {}, samples, {.max_error = 0.9});
  EXPECT_TRUE(easy.layers.empty());
  const BudgetResult strict = quantize_within(model, ranges, options, samples, {.max_error = 1e-12});
  EXPECT_EQ(strict.error, 0);
  EXPECT_THAT(message_of([&] { quantize_within(model, ranges, options, samples, {.max_error = -1}); }),
              HasSubstr("above 0"));
}

}  // namespace
}  // namespace sluice::optimize
