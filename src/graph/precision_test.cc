// Narrow numbers inside, the model's own types at its edges, and results as close as 8 bits allow.
#include "graph/precision.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "graph/kernels_for_test.h"
#include "graph/passes.h"

namespace sluice::graph {
namespace {

using for_test::Builder;
using for_test::expect_close;
using for_test::integer;
using for_test::integers;
using for_test::message_of;
using for_test::random_tensor;
using testing::Contains;
using testing::HasSubstr;
using testing::Not;
using enum ElementType;

std::shared_ptr<Model> make_model(Graph graph) {
  auto model = std::make_shared<Model>();
  model->graph = std::move(graph);
  for (size_t i = 0; i < model->graph.outputs.size(); ++i) model->graph.output_names.push_back("y" + std::to_string(i));
  std::vector<std::string> problems;
  infer_types(model->graph, problems);
  EXPECT_THAT(problems, testing::IsEmpty());
  return model;
}

// "FusedConv: conv nhwc: bfloat16 ..."
std::vector<std::string> steps_of(Executor& executor, const std::vector<Value>& inputs) {
  std::vector<std::string> texts;
  for (const StepInfo& step : executor.compile(inputs).steps())
    texts.push_back(step.op + ": " + step.kernel + ": " + step.outputs);
  return texts;
}

std::vector<Value> reference(const std::shared_ptr<Model>& model, const std::vector<Value>& inputs) {
  return Executor(model, {.num_threads = 1, .compiles = false}).run(inputs);
}

Tensor weights(Random& random, const Shape& shape, ElementType type = kF32) {
  return random_tensor(random, shape, type, -0.3, 0.3);
}

TEST(Precision, NamesAreReadAndWritten) {
  EXPECT_EQ(parse_precision("bf16"), Precision::kBF16);
  EXPECT_EQ(parse_precision(name(Precision::kF32)), Precision::kF32);
  EXPECT_THAT(message_of([] { parse_precision("fp8"); }), HasSubstr("'fp8'"));
}

// A small network of images.
std::shared_ptr<Model> make_images(Random& random) {
  Builder b;
  const ValueId x = b.input(ValueType::tensor(kF32, {Dim::symbol("n"), 3, 10, 10}));
  const ValueId a =
      b.node("Relu", {b.node("Conv", {x, b.constant(weights(random, {32, 3, 3, 3})), b.constant(weights(random, {32}))},
                             {{"pads", integers({1, 1, 1, 1})}})});
  const ValueId c =
      b.node("Conv", {a, b.constant(weights(random, {32, 32, 3, 3}))}, {{"pads", integers({1, 1, 1, 1})}});
  const ValueId d = b.node("Concat", {b.node("Relu", {b.node("Add", {c, a})}), a}, {{"axis", integer(1)}});
  const ValueId e =
      b.node("Flatten", {b.node("GlobalAveragePool", {b.node("MaxPool", {d}, {{"kernel_shape", integers({2, 2})}})})});
  const ValueId y = b.node("Gemm", {e, b.constant(weights(random, {10, 64})), b.constant(weights(random, {10}))},
                           {{"transB", integer(1)}}, 13);
  return make_model(b.finish({y, e}));
}

TEST(Precision, ImagesInBf16) {
  Random random(1);
  const auto model = make_images(random);
  for (const bool is_optimised : {false, true}) {
    if (is_optimised) optimise(*model);
    for (const Tuning tuning : {Tuning::kNone, Tuning::kMeasure}) {
      Executor executor(model, {.num_threads = 2, .tuning = tuning, .precision = Precision::kBF16});
      for (const int64_t batch : {1, 3}) {
        const std::vector<Value> inputs = {random_tensor(random, {batch, 3, 10, 10})};
        const std::vector<Value> got = executor.run(inputs), wanted = reference(model, inputs);
        for (size_t i = 0; i < got.size(); ++i) expect_close(got[i].tensor, wanted[i].tensor, 0.02, 0, "output");
        const std::vector<std::string> steps = steps_of(executor, inputs);
        EXPECT_THAT(steps, Contains(testing::AllOf(HasSubstr("Conv"), HasSubstr("bfloat16"))).Times(2));
        EXPECT_THAT(steps, Not(Contains(HasSubstr("interpreted"))));
      }
    }
  }
}

// What is converted and packed is converted and packed once, for whatever shapes.
TEST(Precision, ConstantsAreConvertedOnce) {
  Random random(2);
  auto shared = std::make_shared<Shared>();
  shared->model = make_images(random);
  const Executor::Options options{.num_threads = 1, .precision = Precision::kBF16};
  Executor first(shared, options), second(shared, options);
  first.run(std::vector<Value>{random_tensor(random, {2, 3, 10, 10})});
  const int64_t bytes = shared->weights.bytes();
  EXPECT_GT(bytes, 0);
  second.run(std::vector<Value>{random_tensor(random, {2, 3, 10, 10})});
  EXPECT_EQ(shared->weights.bytes(), bytes);
}

// One constant in two shapes that lie in the same memory.
TEST(Precision, OneConstantInTwoShapes) {
  Random random(3);
  Builder b;
  const ValueId x = b.input(ValueType::tensor(kF32, {4, 24})), z = b.input(ValueType::tensor(kF32, {4, 48}));
  const Tensor w = weights(random, {24, 48});
  const ValueId y = b.node("MatMul", {x, b.constant(w)}),
                v = b.node("MatMul", {z, b.constant(w.reshaped(Shape{48, 24}))});
  const auto model = make_model(b.finish({y, v}));
  const std::vector<Value> inputs = {random_tensor(random, {4, 24}), random_tensor(random, {4, 48})};
  const std::vector<Value> wanted = reference(model, inputs);
  const std::vector<Value> got = Executor(model, {.num_threads = 1, .precision = Precision::kBF16}).run(inputs);
  for (size_t i = 0; i < got.size(); ++i) expect_close(got[i].tensor, wanted[i].tensor, 0.02, 0, "output");
}

// Indices, comparisons and bodies see float32 as before.
TEST(Precision, WhatIsNoProductKeepsItsNumbers) {
  Random random(4);
  Builder b, same, other;
  const ValueId x = b.input(ValueType::tensor(kF32, {6, 16})), condition = b.input(ValueType::tensor(kBool, {}));
  const ValueId product = b.node("MatMul", {x, b.constant(weights(random, {16, 16}))});
  const ValueId hidden = b.node("Relu", {product});
  const ValueId s = same.capture(hidden), o = other.capture(hidden), t = other.capture(x);
  const ValueId picked = b.node("If", {condition},
                                {{"then_branch", for_test::body(same.finish({s}))},
                                 {"else_branch", for_test::body(other.finish({other.node("Add", {o, t})}))}});
  const ValueId spots = b.node("NonZero", {b.node("Greater", {x, b.constant(Tensor::scalar<float>(0.25f))})});
  const ValueId untouched = b.node("Sin", {x}), after = b.node("Sin", {hidden});
  const auto model = make_model(b.finish({picked, spots, untouched, after, product, x}));
  Executor executor(model, {.num_threads = 1, .precision = Precision::kBF16});
  for (const bool is_same : {true, false}) {
    const std::vector<Value> inputs = {random_tensor(random, {6, 16}), Tensor::scalar<bool>(is_same)};
    const std::vector<Value> got = executor.run(inputs), wanted = reference(model, inputs);
    for (const size_t i : {0, 3, 4})
      expect_close(got[i].tensor, wanted[i].tensor, 0.02, 0, "output " + std::to_string(i));
    for (const size_t i : {1, 2, 5})
      expect_close(got[i].tensor, wanted[i].tensor, i == 2 ? 1e-6 : 0, 0, "output " + std::to_string(i));
  }
}

// A block of a transformer, also of float16, which is widened inside.
TEST(Precision, TransformersInBf16AndOfFloat16) {
  for (const ElementType type : {kF32, kF16}) {
    Random random(5);
    Builder b;
    const ValueId x = b.input(ValueType::tensor(type, {Dim::symbol("n"), Dim::symbol("s"), 32}));
    auto constant = [&](const Shape& shape) { return b.constant(weights(random, shape, type)); };
    const ValueId normed = b.node("LayerNormalization", {x, constant({32}), constant({32})}, {}, 17);
    const ValueId q = b.node("MatMul", {normed, constant({32, 32})}),
                  k = b.node("MatMul", {normed, constant({32, 32})});
    const ValueId v = b.node("Add", {b.node("MatMul", {normed, constant({32, 32})}), constant({32})});
    const ValueId seen =
        b.node("Attention", {q, k, v}, {{"q_num_heads", integer(4)}, {"kv_num_heads", integer(4)}}, 23);
    const ValueId h = b.node("Add", {b.node("MatMul", {seen, constant({32, 32})}), x});
    const ValueId wide = b.node("Gelu", {b.node("Add", {b.node("MatMul", {h, constant({32, 80})}), constant({80})})});
    const ValueId y = b.node("Add", {b.node("MatMul", {wide, constant({80, 32})}), h});
    const auto model = make_model(b.finish({y, seen}));
    const auto optimised = std::make_shared<Model>(copy_model(*model));
    optimise(*optimised);
    for (const Precision precision : {Precision::kF32, Precision::kBF16}) {
      Executor executor(optimised, {.num_threads = 2, .precision = precision});
      for (const Shape& shape : {Shape{1, 7, 32}, Shape{2, 1, 32}, Shape{2, 20, 32}}) {
        const std::vector<Value> inputs = {random_tensor(random, shape, type)};
        const std::vector<Value> got = executor.run(inputs), wanted = reference(model, inputs);
        const double tolerance = precision == Precision::kBF16 ? 0.03 : type == kF16 ? 0.005 : 1e-5;
        for (size_t i = 0; i < got.size(); ++i)
          expect_close(got[i].tensor, wanted[i].tensor, tolerance, 0, name(precision));
        EXPECT_THAT(steps_of(executor, inputs), Contains(HasSubstr(": matmul: ")).Times(testing::Ge(4)));
      }
    }
  }
}

}  // namespace
}  // namespace sluice::graph
