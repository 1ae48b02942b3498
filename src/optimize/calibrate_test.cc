#include "optimize/calibrate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "graph/ops_for_test.h"

namespace sluice::optimize {
namespace {

using graph::Tensor;
using graph::Value;
using graph::for_test::message_of;
using testing::HasSubstr;

TEST(Histogram, GrowsAndKeepsCounts) {
  Histogram histogram;
  histogram.add(std::vector<float>{0, 0});
  EXPECT_EQ(histogram.find_percentile(99), 0);
  histogram.add(std::vector<float>{1, -2, 3});
  histogram.add(std::vector<float>{1000, std::nanf(""), std::numeric_limits<float>::infinity()});
  EXPECT_EQ(histogram.low(), -2);
  EXPECT_EQ(histogram.high(), 1000);
  EXPECT_EQ(histogram.count(), 6);
  EXPECT_EQ(histogram.find_percentile(100), 1000);
  EXPECT_NEAR(histogram.find_percentile(83), 3, 1);
}

TEST(Histogram, HugeAndTinyNumbers) {
  Histogram histogram;
  histogram.add(std::vector<float>{1e-45f, -3e-40f});
  histogram.add(std::vector<float>{std::numeric_limits<float>::max(), -1});
  EXPECT_EQ(histogram.high(), std::numeric_limits<float>::max());
  EXPECT_GT(histogram.find_percentile(99.99), 1e37f);
  EXPECT_GT(histogram.find_least_divergence(128), 0);
}

// Normal numbers with a few far outliers: both methods cut between the two.
TEST(Histogram, CutsOutliers) {
  std::mt19937 engine(5);
  std::normal_distribution<float> normal;
  std::vector<float> values(200000);
  for (float& value : values) value = normal(engine);
  values[7] = 60;
  values[1000] = -50;
  Histogram histogram;
  histogram.add(values);
  EXPECT_NEAR(histogram.find_percentile(99.99), 3.9f, 0.3f);
  const float cut = histogram.find_least_divergence(128);
  EXPECT_GT(cut, 3.0f);
  EXPECT_LT(cut, 12.0f);
}

TEST(Calibrate, RangesOfInnerValues) {
  graph::for_test::Builder b;
  const auto x = b.input(graph::ValueType::tensor(graph::ElementType::kF32, {graph::Dim::symbol("n")}));
  const auto doubled = b.node("Mul", {x, b.constant(Tensor::scalar(2.0f))});
  const auto cut = b.node("Relu", {doubled});
  graph::Model model;
  model.graph = b.finish({b.node("Neg", {cut})});
  model.graph.output_names = {"y"};
  std::vector<std::string> problems;
  graph::infer_types(model.graph, problems);
  const Samples samples = samples_of({{Tensor::vector<float>({1, -4})}, {Tensor::vector<float>({3, 0, 1})}});
  const std::vector<graph::ValueId> observed{x, doubled, cut};
  int64_t num_calls = 0;
  const Ranges ranges = calibrate(model, observed, samples, {.progress = [&](int64_t, int64_t) { ++num_calls; }});
  EXPECT_EQ(num_calls, 2);
  EXPECT_EQ(ranges.at(x).low, -4);
  EXPECT_EQ(ranges.at(doubled).high, 6);
  EXPECT_EQ(ranges.at(cut).low, 0);
  EXPECT_EQ(ranges.at(cut).high, 6);
  for (const CalibrationMethod method : {CalibrationMethod::kEntropy, CalibrationMethod::kPercentile}) {
    const Ranges other = calibrate(model, observed, samples, {.method = method, .progress = nullptr});
    EXPECT_EQ(other.at(cut).low, 0);
    EXPECT_LE(other.at(cut).high, 6);
    EXPECT_GT(other.at(cut).high, 1);
  }
  EXPECT_THAT(message_of([&] { calibrate(model, observed, {}, {}); }), HasSubstr("no samples"));
  EXPECT_THAT(message_of([&] { calibrate(model, observed, samples, {.percentile = 0}); }), HasSubstr("percentile"));
  EXPECT_THAT(message_of([&] { read_calibration_method("mse"); }), HasSubstr("minmax, entropy and percentile"));
}

}  // namespace
}  // namespace sluice::optimize
