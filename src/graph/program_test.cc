// Compiled models: what leaves a run stays as it is, memory is shared only where nobody can tell, errors name the node,
// and executors of one model do not disturb each other. Random graphs are in program_random_test.cc.
#include "graph/program.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

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
using testing::Field;
using testing::HasSubstr;
using testing::Not;

ValueType floats(Dims dims) { return ValueType::tensor(ElementType::kF32, std::move(dims)); }
Dim n() { return Dim::symbol("n"); }

std::shared_ptr<Model> make_model(Graph graph) {
  auto model = std::make_shared<Model>();
  model->graph = std::move(graph);
  for (size_t i = 0; i < model->graph.outputs.size(); ++i) model->graph.output_names.push_back("y" + std::to_string(i));
  std::vector<std::string> problems;
  infer_types(model->graph, problems);
  EXPECT_THAT(problems, testing::IsEmpty());
  return model;
}

// No passes: what is written is what is compiled.
Executor::Options as_is() {
  Executor::Options options{.num_threads = 2};
  for (const Pass& pass : list_passes()) options.disabled_passes.emplace_back(pass.name);
  return options;
}

Executor::Options interpreted() { return {.num_threads = 1, .compiles = false}; }

std::vector<std::string> kernels_of(Executor& executor, const std::vector<Value>& inputs) {
  std::vector<std::string> names;
  for (const StepInfo& step : executor.compile(inputs).steps()) names.push_back(step.op + ": " + step.kernel);
  return names;
}

void expect_same(const std::vector<Value>& got, const std::vector<Value>& wanted, double tolerance = 1e-5) {
  ASSERT_EQ(got.size(), wanted.size());
  for (size_t i = 0; i < got.size(); ++i)
    expect_close(got[i].tensor, wanted[i].tensor, tolerance, 0, "output " + std::to_string(i));
}

// Compiled as it is and after all passes, against the operators' own code.
void expect_agrees(const std::shared_ptr<Model>& model, const std::vector<Value>& inputs) {
  const std::vector<Value> wanted = Executor(model, interpreted()).run(inputs);
  expect_same(Executor(model, as_is()).run(inputs), wanted);
  expect_same(Executor(model, {.num_threads = 2}).run(inputs), wanted);
  expect_same(Executor(model, {.num_threads = 2, .tuning = Tuning::kMeasure}).run(inputs), wanted);
}

// A branch that gives what it captured: the result is the captured value itself.
ValueId pass_through(Builder& b, ValueId condition, ValueId id) {
  Builder same, other;
  const ValueId a = same.capture(id), c = other.capture(id);
  const ValueId d = other.node("Neg", {c});
  return b.node(
      "If", {condition},
      {{"then_branch", for_test::body(same.finish({a}))}, {"else_branch", for_test::body(other.finish({d}))}});
}

TEST(Program, ResultsOutliveInputsAndExecutor) {
  Random random(1);
  Builder b;
  const ValueId x = b.input(floats({2, 3, 4})), condition = b.input(ValueType::tensor(ElementType::kBool, {}));
  const ValueId seen = b.node("Reshape", {x, b.constant(Tensor::vector<int64_t>({6, 4}))});
  const ValueId made = b.node("Relu", {x});
  const ValueId seen_made = b.node("Reshape", {made, b.constant(Tensor::vector<int64_t>({4, 6}))});
  const ValueId weights = b.constant(random_tensor(random, {5}));
  const ValueId flat = b.node("Reshape", {x, b.constant(Tensor::vector<int64_t>({-1}))});
  std::vector<ValueId> outputs;
  for (const ValueId id : {x, seen, made, seen_made, weights, flat}) outputs.push_back(pass_through(b, condition, id));
  outputs.insert(outputs.end(), {x, seen, made, seen_made, weights});
  const auto model = make_model(b.finish(outputs));
  for (const bool is_optimised : {false, true}) {
    std::vector<Value> results, wanted;
    {
      Executor executor(model, is_optimised ? Executor::Options{.num_threads = 1} : as_is());
      {
        const std::vector<Value> inputs = {random_tensor(random, {2, 3, 4}), Tensor::scalar<bool>(true)};
        wanted = Executor(model, interpreted()).run(inputs);
        for (Value& value : wanted) value = Value(value.tensor.copy());
        results = executor.run(inputs);
      }
      executor.run(std::vector<Value>{random_tensor(random, {2, 3, 4}), Tensor::scalar<bool>(false)});
    }
    expect_same(results, wanted, 0);
  }
}

TEST(Program, SequencesLeaveTheBlock) {
  Random random(2);
  Builder b;
  const ValueId x = b.input(floats({2, 8}));
  const ValueId made = b.node("Tanh", {x}), more = b.node("Neg", {made});
  const ValueId list = b.node("SequenceConstruct", {made, more});
  const ValueId at = b.node("SequenceAt", {list, b.constant(Tensor::scalar<int64_t>(1))});
  Executor executor(make_model(b.finish({list, at})), as_is());
  const Tensor first = random_tensor(random, {2, 8});
  const std::vector<Value> results = executor.run(std::vector<Value>{first});
  executor.run(std::vector<Value>{random_tensor(random, {2, 8})});
  const std::vector<Value>& elements = *results[0].sequence;
  for (int64_t i = 0; i < first.count(); ++i) {
    const float y = std::tanh(first.data<float>()[i]);
    EXPECT_NEAR(elements[0].tensor.data<float>()[i], y, 1e-5);
    EXPECT_NEAR(elements[1].tensor.data<float>()[i], -y, 1e-5);
    EXPECT_NEAR(results[1].tensor.data<float>()[i], -y, 1e-5);
  }
}

// What could be reordered between layouts if its elements were smaller.
TEST(Program, WideElementsStayInOrder) {
  Builder b;
  const ValueId x = b.input(ValueType::tensor(ElementType::kI64, {1, 3, 1, 1})),
                y = b.input(ValueType::tensor(ElementType::kI64, {1, 1, 4, 4}));
  const ValueId sum = b.node("Add", {x, y}), product = b.node("Mul", {sum, x});
  const ValueId joined = b.node("Concat", {product, sum}, {{"axis", integer(1)}});
  Random random(3);
  expect_agrees(make_model(b.finish({product, joined})),
                {random_tensor(random, {1, 3, 1, 1}, ElementType::kI64, -9, 9),
                 random_tensor(random, {1, 1, 4, 4}, ElementType::kI64, -9, 9)});
}

TEST(Program, OneConstantInTwoRoles) {
  Random random(4);
  Builder b;
  const ValueId x = b.input(floats({n(), 32}));
  const ValueId w = b.constant(random_tensor(random, {32, 32}));
  const ValueId h = b.node("Tanh", {b.node("MatMul", {x, w})});
  const ValueId y = b.node("MatMul", {h, b.node("Transpose", {w}, {{"perm", integers({1, 0})}})});
  const ValueId z = b.node("Gemm", {h, w}, {{"transB", integer(1)}}, 13);
  expect_agrees(make_model(b.finish({y, z})), {random_tensor(random, {5, 32})});
}

TEST(Program, ConstantFactorsAndAddends) {
  Random random(5);
  Builder b;
  const ValueId x = b.input(floats({4, 6}));
  const ValueId left = b.node("MatMul", {b.constant(random_tensor(random, {3, 4})), x});
  const ValueId position = b.node("Add", {left, b.constant(random_tensor(random, {3, 6}))});
  const ValueId gemm =
      b.node("Gemm", {x, b.constant(random_tensor(random, {6, 2})), b.constant(random_tensor(random, {4, 2}))}, {}, 13);
  const ValueId image = b.node("Reshape", {x, b.constant(Tensor::vector<int64_t>({1, 6, 2, 2}))});
  const ValueId conv = b.node("Conv", {image, b.constant(random_tensor(random, {16, 6, 1, 1}))});
  const ValueId added = b.node("Relu", {b.node("Add", {conv, b.constant(random_tensor(random, {1, 16, 2, 2}))})});
  expect_agrees(make_model(b.finish({position, gemm, added})), {random_tensor(random, {4, 6})});
}

// The same value twice, values that are read later, and ones that several places join.
TEST(Program, MemoryIsSharedOnlyIfNobodyCanTell) {
  Random random(6);
  Builder b;
  const ValueId x = b.input(floats({n(), 16, 4, 4}));
  const ValueId a = b.node("Relu", {x}), c = b.node("Neg", {a}), d = b.node("Tanh", {c});
  const ValueId fold = b.node("Sum", {c, d, c}), mean = b.node("Mean", {fold, d, a});
  const ValueId outer = b.node("Concat", {c, d, c}, {{"axis", integer(0)}});
  const ValueId inner = b.node("Concat", {d, a}, {{"axis", integer(1)}});
  const ValueId again = b.node("Concat", {outer, mean}, {{"axis", integer(0)}});
  const ValueId late = b.node("Add", {d, mean});
  const ValueId gate = b.node("ReduceMean", {late, b.constant(Tensor::vector<int64_t>({1}))});
  const ValueId gated = b.node("Mul", {b.node("Conv", {late, b.constant(random_tensor(random, {32, 16, 3, 3}))},
                                              {{"pads", integers({1, 1, 1, 1})}}),
                                       gate});
  const auto model = make_model(b.finish({inner, again, gated, fold}));
  expect_agrees(model, {random_tensor(random, {1, 16, 4, 4})});
  expect_agrees(model, {random_tensor(random, {3, 16, 4, 4})});
  Executor executor(model, as_is());
  EXPECT_THAT(kernels_of(executor, {random_tensor(random, {1, 16, 4, 4})}),
              Contains(HasSubstr("Concat: concat")).Times(3));
}

TEST(Program, MoreShapesThanProgramsAreKept) {
  Random random(7);
  Builder b;
  const ValueId x = b.input(floats({n(), 4}));
  Builder then_branch, else_branch;
  const ValueId t = then_branch.capture(x), e = else_branch.capture(x);
  const ValueId sum =
      b.node("ReduceSum", {x, b.constant(Tensor::vector<int64_t>({0, 1}))}, {{"keepdims", integer(0)}}, 13);
  const ValueId is_positive = b.node("Greater", {sum, b.constant(Tensor::scalar<float>(0))});
  const ValueId picked = b.node("If", {is_positive},
                                {{"then_branch", for_test::body(then_branch.finish({then_branch.node("Relu", {t})}))},
                                 {"else_branch", for_test::body(else_branch.finish({else_branch.node("Neg", {e})}))}});
  const ValueId y = b.node("MatMul", {picked, b.constant(random_tensor(random, {4, 3}))});
  const auto model = make_model(b.finish({y, picked}));
  Executor executor(model, as_is()), reference(model, interpreted());
  std::vector<std::vector<Value>> results, wanted;
  for (int round = 0; round < 3; ++round) {
    for (int64_t rows = 1; rows <= 20; ++rows) {
      const std::vector<Value> inputs = {random_tensor(random, {round == 1 ? 21 - rows : rows, 4})};
      results.push_back(executor.run(inputs));
      wanted.push_back(reference.run(inputs));
    }
  }
  for (size_t i = 0; i < results.size(); ++i) expect_same(results[i], wanted[i]);
}

TEST(Program, ErrorsNameTheNodeAndTheNextRunWorks) {
  Random random(8);
  Builder b;
  const ValueId x = b.input(floats({3, 4})), index = b.input(ValueType::tensor(ElementType::kI64, {2}));
  const ValueId a = b.node("Relu", {x}), rows = b.node("Gather", {a, index});
  const ValueId y = b.node("Neg", {rows});
  b.graph.nodes[1].name = "lookup";
  const auto model = make_model(b.finish({y, a}));
  Executor executor(model, as_is()), reference(model, interpreted());
  const Value data = random_tensor(random, {3, 4});
  for (int i = 0; i < 3; ++i) {
    EXPECT_THAT(message_of([&] {
                  executor.run(std::vector<Value>{data, Tensor::vector<int64_t>({0, 3})});
                }),
                HasSubstr("node 'lookup' (Gather"));
    const std::vector<Value> inputs = {data, Tensor::vector<int64_t>({-1, i})};
    expect_same(executor.run(inputs), reference.run(inputs), 0);
  }
}

// Two branches of other shapes: what is inferred for one must not be believed of the other.
TEST(Program, ShapesThatOnlyTheRunKnows) {
  Builder b, wide, narrow;
  const ValueId x = b.input(floats({2, 8})), condition = b.input(ValueType::tensor(ElementType::kBool, {}));
  const ValueId w = wide.capture(x), v = narrow.capture(x);
  const ValueId half = narrow.node(
      "Slice", {v, narrow.constant(Tensor::vector<int64_t>({0})), narrow.constant(Tensor::vector<int64_t>({4})),
                narrow.constant(Tensor::vector<int64_t>({1}))});
  const ValueId picked = b.node("If", {condition},
                                {{"then_branch", for_test::body(wide.finish({wide.node("Neg", {w})}))},
                                 {"else_branch", for_test::body(narrow.finish({half}))}});
  const ValueId y = b.node("Tanh", {b.node("Add", {picked, picked})});
  const ValueId spots = b.node("NonZero", {y}), count = b.node("Shape", {spots});
  const auto model = make_model(b.finish({y, spots, count, b.node("Transpose", {spots})}));
  Random random(9);
  for (const bool is_wide : {true, false})
    expect_agrees(model, {random_tensor(random, {2, 8}), Tensor::scalar<bool>(is_wide)});
}

TEST(Program, MaxBytes) {
  Random random(10);
  Builder b;
  const ValueId x = b.input(floats({n(), 64}));
  const ValueId y = b.node("Tanh", {b.node("MatMul", {x, b.constant(random_tensor(random, {64, 64}))})});
  const ValueId z = b.node("Neg", {b.node("Exp", {y})});
  const auto model = make_model(b.finish({z}));
  Executor executor(model, {.num_threads = 1, .max_bytes = 1 << 20});
  EXPECT_EQ(executor.run(std::vector<Value>{random_tensor(random, {8, 64})}).size(), 1u);
  EXPECT_THAT(message_of([&] { executor.run(std::vector<Value>{random_tensor(random, {1 << 14, 64})}); }), Not(""));
  EXPECT_LE(executor.peak_bytes(), size_t{1} << 20);
  const Value small = random_tensor(random, {8, 64});
  expect_same(executor.run(std::vector<Value>{small}), Executor(model, interpreted()).run(std::vector<Value>{small}));
}

TEST(Program, ExecutorsOfOneModelOnManyThreads) {
  Random random(11);
  Builder b;
  const ValueId x = b.input(floats({n(), 3, 12, 12})), condition = b.input(ValueType::tensor(ElementType::kBool, {}));
  ValueId h = b.node("Relu", {b.node("Conv", {x, b.constant(random_tensor(random, {32, 3, 3, 3}))},
                                     {{"pads", integers({1, 1, 1, 1})}})});
  h = b.node("Add",
             {b.node("Conv", {h, b.constant(random_tensor(random, {32, 32, 3, 3}, ElementType::kF32, -0.1, 0.1))},
                     {{"pads", integers({1, 1, 1, 1})}}),
              h});
  h = b.node("Flatten", {b.node("GlobalAveragePool", {pass_through(b, condition, h)})});
  const ValueId w = b.constant(random_tensor(random, {32, 32}));
  h = b.node("Gemm", {b.node("MatMul", {h, w}), w}, {{"transB", integer(1)}}, 13);
  const auto model = make_model(b.finish({h}));
  optimise(*model);
  auto shared = std::make_shared<Shared>();
  shared->model = model;
  constexpr int kThreads = 4, kRuns = 6;
  std::vector<std::vector<Value>> inputs, wanted;
  Executor reference(model, interpreted());
  for (int i = 0; i < kRuns; ++i) {
    inputs.push_back({random_tensor(random, {1 + i % 3, 3, 12, 12}), Tensor::scalar<bool>(i % 2 == 0)});
    wanted.push_back(reference.run(inputs.back()));
  }
  std::vector<std::vector<std::vector<Value>>> results(kThreads);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      Executor executor(shared, {.num_threads = 1 + t % 2, .tuning = t == 3 ? Tuning::kMeasure : Tuning::kNone});
      for (int i = 0; i < kRuns; ++i)
        results[static_cast<size_t>(t)].push_back(executor.run(inputs[static_cast<size_t>(i)]));
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& of_thread : results) {
    for (size_t i = 0; i < of_thread.size(); ++i) expect_same(of_thread[i], wanted[i], 1e-3);
  }
  EXPECT_GT(shared->weights.bytes(), 0);
}

}  // namespace
}  // namespace sluice::graph
