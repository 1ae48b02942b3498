// The public API as a program that embeds the engine uses it: models in memory and in files, plans, wrong inputs, and
// instances on several threads.
#include "sluice/graph.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <numeric>
#include <thread>

#include <fmt/format.h>

#include "graph/export_onnx.h"
#include "graph/ops_for_test.h"

namespace sluice {
namespace {

using graph::Dim;
using graph::ElementType;
using graph::ValueType;
using graph::for_test::Builder;
using graph::for_test::message_of;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr int64_t kFeatures = 16, kClasses = 4;

// scores = softmax(relu(x W + b)) of x [batch, 16], and x itself again as `same`.
std::string make_classifier() {
  Builder b;
  const graph::ValueId x = b.input(ValueType::tensor(ElementType::kF32, {Dim::symbol("batch"), kFeatures}));
  b.graph.value(x).name = "x";
  std::vector<float> weights(kFeatures * kClasses);
  for (size_t i = 0; i < weights.size(); ++i) weights[i] = 0.1f * static_cast<float>(i % 7) - 0.3f;
  const auto w = b.constant(graph::Tensor::vector(weights, graph::Shape{kFeatures, kClasses}));
  const auto bias = b.constant(graph::Tensor::vector(std::vector<float>{0.1f, 0.2f, 0.3f, 0.4f}));
  const auto scores = b.node("Softmax", {b.node("Relu", {b.node("Add", {b.node("MatMul", {x, w}), bias})})});
  graph::Model model;
  model.graph = b.finish({scores, x});
  model.graph.output_names = {"scores", "same"};
  model.opsets[""] = 20;
  model.ir_version = 8;
  model.producer = "a test";
  model.metadata["classes"] = "a,b,c,d";
  return graph::export_onnx(model);
}

std::vector<float> expected_scores(std::span<const float> x) {
  std::vector<float> scores;
  for (size_t row = 0; row < x.size() / kFeatures; ++row) {
    double sum = 0, numbers[kClasses];
    for (int64_t c = 0; c < kClasses; ++c) {
      double value = 0.1 * static_cast<double>(c + 1);
      for (int64_t k = 0; k < kFeatures; ++k) {
        const double weight = 0.1 * static_cast<double>((k * kClasses + c) % 7) - 0.3;
        value += weight * x[row * kFeatures + static_cast<size_t>(k)];
      }
      sum += numbers[c] = std::exp(std::max(value, 0.0));
    }
    for (const double number : numbers) scores.push_back(static_cast<float>(number / sum));
  }
  return scores;
}

std::vector<float> numbers(size_t count, float seed = 1) {
  std::vector<float> made(count);
  for (size_t i = 0; i < count; ++i) made[i] = std::sin(seed + static_cast<float>(i));
  return made;
}

GraphModel load_bytes(const std::string& bytes) { return GraphModel::load(std::as_bytes(std::span(bytes))); }

class GraphApi : public testing::Test {
 protected:
  GraphApi() : folder_(std::filesystem::temp_directory_path() / fmt::format("sluice_graph_api_{}", ::getpid())) {
    std::filesystem::create_directories(folder_);
  }
  ~GraphApi() override { std::filesystem::remove_all(folder_); }
  std::string path(const std::string& name) const { return folder_ / name; }
  std::string write(const std::string& name, const std::string& bytes) const {
    std::ofstream(path(name), std::ios::binary) << bytes;
    return path(name);
  }

 private:
  const std::filesystem::path folder_;
};

void expect_near(std::span<const float> found, std::span<const float> expected, float tolerance) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], tolerance) << i;
}

TEST_F(GraphApi, DescribesAModel) {
  const GraphModel model = load_bytes(make_classifier());
  ASSERT_EQ(model.inputs().size(), 1u);
  const GraphPort& x = model.inputs()[0];
  EXPECT_EQ(x.name, "x");
  EXPECT_EQ(x.type, TensorType::kFloat32);
  EXPECT_EQ(x.description, "float32 [batch x 16]");
  EXPECT_FALSE(x.is_optional);
  ASSERT_TRUE(x.dims && x.dims->size() == 2);
  EXPECT_EQ((*x.dims)[0].size, -1);
  EXPECT_EQ((*x.dims)[0].symbol, "batch");
  EXPECT_EQ((*x.dims)[1].size, kFeatures);
  ASSERT_EQ(model.outputs().size(), 2u);
  EXPECT_EQ(model.outputs()[0].name, "scores");
  EXPECT_EQ(model.outputs()[0].description, "float32 [batch x 4]");
  EXPECT_THAT(model.producer(), HasSubstr("a test"));
  EXPECT_EQ(model.metadata().at("classes"), "a,b,c,d");
  EXPECT_FALSE(model.is_plan());
}

TEST_F(GraphApi, RunsBatchesOfSeveralSizes) {
  GraphInstance instance(load_bytes(make_classifier()), {.num_threads = 2});
  EXPECT_EQ(instance.num_threads(), 2);
  for (const int64_t batch : {1, 5, 1, 0}) {
    const std::vector<float> x = numbers(static_cast<size_t>(batch * kFeatures));
    const auto outputs = instance.run({GraphInput::of<float>("x", {batch, kFeatures}, x)});
    ASSERT_EQ(outputs.size(), 2u);
    EXPECT_EQ(outputs[0].name(), "scores");
    EXPECT_THAT(outputs[0].dims(), ElementsAre(batch, kClasses));
    expect_near(outputs[0].values<float>(), expected_scores(x), 1e-5f);
  }
}

TEST_F(GraphApi, OutputsOutliveInputsInstanceAndModel) {
  std::vector<GraphOutput> first;
  std::vector<float> x = numbers(2 * kFeatures);
  const std::vector<float> before = x;
  {
    GraphInstance instance(load_bytes(make_classifier()), {.num_threads = 1});
    first = instance.run({GraphInput::of<float>("x", {2, kFeatures}, x)});
    std::fill(x.begin(), x.end(), 0.0f);
    instance.run({GraphInput::of<float>("x", {2, kFeatures}, x)});
  }
  expect_near(first[0].values<float>(), expected_scores(before), 1e-5f);
  expect_near(first[1].values<float>(), before, 0);  // handed on by the model, and yet no longer the caller's memory
}

TEST_F(GraphApi, TakesMemoryThatIsNotAligned) {
  GraphInstance instance(load_bytes(make_classifier()), {.num_threads = 1});
  const std::vector<float> x = numbers(kFeatures);
  std::vector<std::byte> bytes(x.size() * sizeof(float) + 1);
  std::memcpy(bytes.data() + 1, x.data(), x.size() * sizeof(float));
  const GraphInput input{.name = "x", .type = TensorType::kFloat32, .dims = {1, kFeatures}, .data = bytes.data() + 1,
                         .bytes = x.size() * sizeof(float)};
  expect_near(instance.run({input})[0].values<float>(), expected_scores(x), 1e-5f);
}

TEST_F(GraphApi, TwoInstancesOnTwoThreadsShareAModel) {
  const GraphModel model = load_bytes(make_classifier());
  auto serve = [&model](float seed, int num_runs) {
    GraphInstance instance(model, {.num_threads = 2});
    for (int run = 0; run < num_runs; ++run) {
      const int64_t batch = 1 + run % 3;
      const std::vector<float> x = numbers(static_cast<size_t>(batch * kFeatures), seed + static_cast<float>(run));
      const auto outputs = instance.run({GraphInput::of<float>("x", {batch, kFeatures}, x)});
      expect_near(outputs[0].values<float>(), expected_scores(x), 1e-5f);
    }
  };
  std::thread other(serve, 1.0f, 30);
  serve(100.0f, 30);
  other.join();
}

TEST_F(GraphApi, PreparesAndComputesInBFloat16) {
  const GraphModel model = load_bytes(make_classifier());
  GraphInstance instance(model, {.num_threads = 1, .precision = GraphPrecision::kBFloat16, .tunes = false});
  EXPECT_GT(instance.prepare({{"x", {3, kFeatures}}}).num_steps, 0u);
  EXPECT_GT(instance.prepare({}).num_steps, 0u);  // one row
  const std::vector<float> x = numbers(3 * kFeatures);
  const auto outputs = instance.run({GraphInput::of<float>("x", {3, kFeatures}, x)});
  expect_near(outputs[0].values<float>(), expected_scores(x), 2e-2f);
  EXPECT_THAT(message_of([&] { instance.prepare({{"y", {1}}}); }), HasSubstr("no input 'y'"));
}

TEST_F(GraphApi, RefusesWrongInputsAndGoesOn) {
  GraphInstance instance(load_bytes(make_classifier()), {.num_threads = 1});
  const std::vector<float> x = numbers(2 * kFeatures);
  const std::vector<int64_t> integers(kFeatures);
  auto error_of = [&](std::vector<GraphInput> inputs) { return message_of([&] { instance.run(inputs); }); };
  auto of = [&](const std::string& name, std::vector<int64_t> dims) { return GraphInput::of<float>(name, dims, x); };
  EXPECT_THAT(error_of({}), HasSubstr("input 'x' is missing"));
  EXPECT_THAT(error_of({of("z", {2, kFeatures})}), HasSubstr("no input 'z', only 'x'"));
  EXPECT_THAT(error_of({of("x", {2, kFeatures}), of("x", {2, kFeatures})}), HasSubstr("given twice"));
  EXPECT_THAT(error_of({of("x", {4, 8})}), HasSubstr("dimension 1 has to be 16, not 8"));
  EXPECT_THAT(error_of({of("x", {2 * kFeatures})}), HasSubstr("has to be float32 [batch x 16]"));
  EXPECT_THAT(error_of({of("x", {3, kFeatures})}), HasSubstr("has 192 bytes, and 128 are given"));
  EXPECT_THAT(error_of({of("x", {-1, kFeatures})}), HasSubstr("negative"));
  EXPECT_THAT(error_of({of("x", {int64_t{1} << 35, int64_t{1} << 35})}), HasSubstr("too large"));
  EXPECT_THAT(error_of({of("x", std::vector<int64_t>(17, 1))}), HasSubstr("17 dimensions"));
  EXPECT_THAT(error_of({GraphInput::of<int64_t>("x", {1, kFeatures}, integers)}), HasSubstr("int64"));
  GraphInput none = of("x", {2, kFeatures});
  none.data = nullptr;
  EXPECT_THAT(error_of({none}), HasSubstr("0 are given"));
  none.type = TensorType::kUndefined;
  EXPECT_THAT(error_of({none}), HasSubstr("no element type"));
  const auto outputs = instance.run({of("x", {2, kFeatures})});
  expect_near(outputs[0].values<float>(), expected_scores(x), 1e-5f);
  EXPECT_THAT(message_of([&] { outputs[0].values<int64_t>(); }), HasSubstr("'scores' is float32"));
}

TEST_F(GraphApi, TakesAndGivesStringsAndBools) {
  Builder b;
  const auto words = b.input(ValueType::tensor(ElementType::kString, {Dim::symbol("n")}));
  const auto mask = b.input(ValueType::tensor(ElementType::kBool, {Dim::symbol("n")}));
  b.graph.value(words).name = "words";
  b.graph.value(mask).name = "mask";
  graph::Model made;
  made.graph = b.finish({b.node("Compress", {words, mask}), b.node("Not", {mask})});
  made.graph.output_names = {"chosen", "others"};
  made.opsets[""] = 20;
  made.ir_version = 8;
  GraphInstance instance(load_bytes(graph::export_onnx(made)), {.num_threads = 1});
  const std::vector<std::string> text = {"a long word that is on the heap by itself", "b", "c"};
  const bool chosen[] = {true, false, true};
  const auto outputs = instance.run({GraphInput::of<std::string>("words", {3}, text),
                                     GraphInput::of<bool>("mask", {3}, chosen)});
  EXPECT_THAT(outputs[0].values<std::string>(), ElementsAre(text[0], "c"));
  EXPECT_THAT(outputs[1].values<bool>(), ElementsAre(false, true, false));
  const uint8_t odd[] = {1, 2, 0};
  const GraphInput wrong{.name = "mask", .type = TensorType::kBool, .dims = {3}, .data = odd, .bytes = 3};
  EXPECT_THAT(message_of([&] { instance.run({GraphInput::of<std::string>("words", {3}, text), wrong}); }),
              HasSubstr("other than 0 and 1"));
}

TEST_F(GraphApi, BuildsAndLoadsPlans) {
  const std::string model = write("classifier.onnx", make_classifier()), plan = path("classifier.plan");
  const GraphProfile profile{.min = {{"x", {1, kFeatures}}}, .opt = {{"x", {2, kFeatures}}},
                             .max = {{"x", {4, kFeatures}}}};
  build_graph_plan(model, plan, {.profiles = {profile}, .num_threads = 1});
  const GraphModel loaded = GraphModel::load(plan);
  EXPECT_TRUE(loaded.is_plan());
  EXPECT_EQ(loaded.inputs()[0].description, "float32 [batch x 16]");
  GraphInstance instance(loaded);
  EXPECT_EQ(instance.num_threads(), 1);
  const std::vector<float> x = numbers(5 * kFeatures);
  const auto four = std::span(x).first(4 * kFeatures);
  expect_near(instance.run({GraphInput::of<float>("x", {4, kFeatures}, four)})[0].values<float>(),
              expected_scores(four), 1e-5f);
  EXPECT_THAT(message_of([&] { instance.run({GraphInput::of<float>("x", {5, kFeatures}, x)}); }),
              HasSubstr("dimension 0 of input 'x'"));
  EXPECT_THAT(message_of([&] { GraphInstance(loaded, {.precision = GraphPrecision::kBFloat16}); }),
              HasSubstr("computes in fp32"));

  // Only the file's name is left of the model: what it was made of is inside.
  std::filesystem::remove(model);
  rebuild_graph_plan(plan);
  EXPECT_TRUE(GraphModel::load(plan).is_plan());
}

TEST_F(GraphApi, SaysWhatIsWrongWithFilesAndOptions) {
  const std::string model = write("classifier.onnx", make_classifier()), plan = path("classifier.plan");
  auto code_of = [](auto&& action) {
    try {
      action();
    } catch (const Error& error) {
      return error.code();
    }
    return Code::kUnknown;
  };
  EXPECT_EQ(code_of([&] { GraphModel::load(path("none.onnx")); }), Code::kNotFound);
  EXPECT_EQ(code_of([&] { GraphModel::load(write("bad.onnx", "no model")); }), Code::kInvalidArgument);
  EXPECT_EQ(code_of([&] { GraphModel::load(std::span<const std::byte>()); }), Code::kInvalidArgument);
  EXPECT_EQ(code_of([&] { GraphInstance(GraphModel::load(model), {.num_threads = -1}); }), Code::kInvalidArgument);
  const GraphProfile shrinks{.min = {{"x", {4, kFeatures}}}, .opt = {{"x", {2, kFeatures}}}, .max = {}};
  EXPECT_THAT(message_of([&] { build_graph_plan(model, plan, {.profiles = {shrinks}}); }), HasSubstr("has to grow"));
  const GraphProfile unknown{.min = {}, .opt = {{"y", {2, kFeatures}}}, .max = {}};
  EXPECT_THAT(message_of([&] { build_graph_plan(model, plan, {.profiles = {unknown}}); }), HasSubstr("no input 'y'"));
  const GraphPlanOptions both{.precision = GraphPrecision::kBFloat16, .stores_half_floats = true};
  EXPECT_THAT(message_of([&] { build_graph_plan(model, plan, both); }), HasSubstr("float32 only"));
  EXPECT_THAT(message_of([&] { build_graph_plan(model, path("no/such/folder.plan")); }), HasSubstr("cannot write"));
  EXPECT_FALSE(std::filesystem::exists(plan));
  EXPECT_THAT(message_of([&] { rebuild_graph_plan(model); }), HasSubstr("no plan"));
}

TEST_F(GraphApi, StaysWithinItsMemoryAndGoesOn) {
  GraphInstance instance(load_bytes(make_classifier()), {.num_threads = 1, .tunes = false, .max_bytes = 1 << 16});
  const std::vector<float> many(10'000 * kFeatures), one = numbers(kFeatures);
  try {
    instance.run({GraphInput::of<float>("x", {10'000, kFeatures}, many)});
    FAIL() << "160,000 bytes of scores fit into 65,536";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kResourceExhausted) << error.message();
  }
  expect_near(instance.run({GraphInput::of<float>("x", {1, kFeatures}, one)})[0].values<float>(), expected_scores(one),
              1e-5f);
}

TEST_F(GraphApi, RefusesSequences) {
  Builder b;
  const auto x = b.input(ValueType::tensor(ElementType::kF32, {4}));
  b.graph.value(x).name = "x";
  graph::Model made;
  made.graph = b.finish({b.node("SequenceConstruct", {x, x})});
  made.graph.output_names = {"pair"};
  made.opsets[""] = 20;
  made.ir_version = 8;
  GraphInstance instance(load_bytes(graph::export_onnx(made)), {.num_threads = 1});
  const std::vector<float> values(4);
  EXPECT_THAT(message_of([&] { instance.run({GraphInput::of<float>("x", {4}, values)}); }),
              HasSubstr("output 'pair' is sequence of"));
}

TEST_F(GraphApi, NamesTypes) {
  EXPECT_STREQ(name(TensorType::kBFloat16), "bfloat16");
  EXPECT_EQ(bytes_of(TensorType::kInt64), 8u);
  EXPECT_EQ(bytes_of(TensorType::kString), 0u);
  EXPECT_STREQ(name(static_cast<TensorType>(200)), "undefined");
}

}  // namespace
}  // namespace sluice
