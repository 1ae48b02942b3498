#include "optimize/compare.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "graph/ops_for_test.h"

namespace sluice::optimize {
namespace {

using graph::Tensor;
using graph::Value;
using testing::HasSubstr;

RunModel gives(Value value) {
  return [value](std::span<const Value>) { return std::vector<Value>{value}; };
}
Samples samples(size_t count) { return samples_of(std::vector<std::vector<Value>>(count)); }

TEST(Compare, NumbersOfTwoVectors) {
  // (3, 4) and (3, 3): cosine 21 / (5 * sqrt 18), error 1 of 5.
  const Comparison found = compare_models(gives(Tensor::vector<float>({3, 4})), gives(Tensor::vector<float>({3, 3})),
                                          {"y"}, samples(2));
  const OutputComparison& y = found.outputs[0];
  EXPECT_EQ(found.num_samples, 2);
  EXPECT_EQ(y.num_values, 4);
  EXPECT_EQ(y.num_equal, 2);
  EXPECT_NEAR(y.cosine, 21 / (5 * std::sqrt(18.0)), 1e-12);
  EXPECT_NEAR(y.worst_cosine, y.cosine, 1e-12);
  EXPECT_EQ(y.max_abs_error, 1);
  EXPECT_NEAR(y.relative_l2, 0.2, 1e-12);
  EXPECT_NEAR(y.signal_to_noise, 13.979, 1e-3);
  EXPECT_EQ(y.num_rows, 2);
  EXPECT_EQ(y.num_rows_agreed, 0);
  EXPECT_NEAR(found.worst_relative_l2(), 0.2, 1e-12);
}

TEST(Compare, RowsLieAlongTheClasses) {
  // Rank 2: the last axis. Rank 4: channels.
  const Comparison rows = compare_models(gives(Tensor::vector<float>({1, 2, 9, 8}, {2, 2})),
                                         gives(Tensor::vector<float>({1, 3, 5, 6}, {2, 2})), {"y"}, samples(1));
  EXPECT_EQ(rows.outputs[0].num_rows, 2);
  EXPECT_EQ(rows.outputs[0].num_rows_agreed, 1);
  const Comparison channels =
      compare_models(gives(Tensor::vector<float>({1, 9, 4, 5, 2, 3}, {1, 3, 1, 2})),
                     gives(Tensor::vector<float>({1, 9, 5, 5, 2, 3}, {1, 3, 1, 2})), {"y"}, samples(1));
  EXPECT_EQ(channels.outputs[0].num_rows, 2);
  EXPECT_EQ(channels.outputs[0].top1_agreement(), 1);
}

TEST(Compare, NaNIsAnErrorUnlessBothHaveIt) {
  const float nan = std::nanf("");
  const Value a = Tensor::vector<float>({1, nan}), b = Tensor::vector<float>({1, 2});
  EXPECT_EQ(compare_models(gives(a), gives(a), {"y"}, samples(1)).worst_relative_l2(), 0);
  EXPECT_TRUE(std::isnan(compare_models(gives(b), gives(a), {"y"}, samples(1)).worst_relative_l2()));
}

TEST(Compare, OtherTypesAndErrors) {
  const Value words = Tensor::vector<std::string>({"a", "b"}), others = Tensor::vector<std::string>({"a", "c"});
  EXPECT_EQ(compare_models(gives(words), gives(others), {"y"}, samples(1)).outputs[0].num_equal, 1);
  const Value list(std::vector<Value>{Tensor::vector<int64_t>({1, 2}), Tensor::vector<float>({3})});
  EXPECT_EQ(compare_models(gives(list), gives(list), {"y"}, samples(1)).outputs[0].num_equal, 3);
  EXPECT_THAT(graph::for_test::message_of(
                  [&] { compare_models(gives(words), gives(Tensor::vector<float>({1})), {"y"}, samples(1)); }),
              HasSubstr("'y' is string 2 in one model and float32 1"));
  EXPECT_THAT(graph::for_test::message_of([&] { compare_models(gives(words), gives(words), {"y"}, samples(0)); }),
              HasSubstr("no samples"));
}

TEST(Compare, Text) {
  const Comparison found = compare_models(gives(Tensor::vector<float>({3, 4})), gives(Tensor::vector<float>({3, 3})),
                                          {"scores"}, samples(1));
  EXPECT_THAT(format_comparison(found), HasSubstr("scores"));
  EXPECT_THAT(format_comparison(found), HasSubstr("0.989949"));
  EXPECT_THAT(format_comparison(found), HasSubstr("0.00%"));
}

}  // namespace
}  // namespace sluice::optimize
