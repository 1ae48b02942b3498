// Operators that reshape, move, pick and resample, where ONNX's own test data does not look: moves of every width and
// many shapes against plain loops, old opsets, symbolic shapes, ONNX Runtime's operators and hostile input. Expected
// values were worked out by hand, or with NumPy where a comment says so.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "graph/ops_for_test.h"

namespace sluice::graph::for_test {
namespace {

template <typename T>
Tensor counting(const Shape& shape) {
  std::vector<T> values(static_cast<size_t>(shape.count()));
  for (size_t i = 0; i < values.size(); ++i) {
    if constexpr (std::is_same_v<T, std::string>) values[i] = std::to_string(i);
    else values[i] = static_cast<T>(i);
  }
  return Tensor::vector(values, shape);
}

Tensor longs(const std::vector<int64_t>& values) { return Tensor::vector(values); }
Tensor floats(const std::vector<float>& values) { return Tensor::vector(values); }

template <typename T>
void expect_values(const Value& value, const Shape& shape, const std::vector<T>& expected) {
  EXPECT_EQ(to_string(value.tensor.shape()), to_string(shape));
  EXPECT_EQ(elements<T>(value), expected);
}

void expect_near(const Value& value, const Shape& shape, const std::vector<float>& expected, float tolerance = 1e-5f) {
  ASSERT_EQ(to_string(value.tensor.shape()), to_string(shape));
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(value.tensor.data<float>()[i], expected[i], tolerance) << i;
}

void advance(Shape& index, const Shape& shape) {
  for (int d = shape.rank() - 1; d >= 0; --d) {
    if (++index[d] < shape[d]) return;
    index[d] = 0;
  }
}

int64_t offset_of(const Shape& index, const Shape& shape) {
  int64_t offset = 0;
  for (int d = 0; d < shape.rank(); ++d) offset = offset * shape[d] + index[d];
  return offset;
}

template <typename T>
void check_transpose(const Shape& shape, const std::vector<int64_t>& perm) {
  const Tensor input = counting<T>(shape);
  const Tensor output = run_node("Transpose", {input}, 1, {{"perm", integers(perm)}})[0].tensor;
  ASSERT_EQ(output.count(), input.count());
  Shape index(shape.rank(), 0);
  for (int64_t i = 0; i < output.count(); ++i, advance(index, output.shape())) {
    Shape from(shape.rank(), 0);
    for (int d = 0; d < shape.rank(); ++d) from[static_cast<int>(perm[static_cast<size_t>(d)])] = index[d];
    ASSERT_EQ(output.data<T>()[i], input.data<T>()[offset_of(from, shape)]) << to_string(shape) << " at " << i;
  }
}

TEST(TransposeOp, EveryWidthAndManyShapesAgainstALoop) {
  const std::vector<std::pair<Shape, std::vector<int64_t>>> cases = {
      {{5, 7}, {1, 0}},
      {{67, 131}, {1, 0}},
      {{300, 257}, {1, 0}},
      {{2, 3, 4, 5}, {0, 2, 1, 3}},
      {{2, 33, 65, 3}, {0, 3, 1, 2}},
      {{2, 3, 40, 41}, {0, 2, 3, 1}},
      {{3, 1, 5, 1}, {3, 0, 2, 1}},
      {{2, 2, 2, 2, 2}, {4, 3, 2, 1, 0}},
      {{4, 9, 2}, {1, 0, 2}},
      {{6, 50, 4, 16}, {0, 2, 1, 3}},
      {{1, 8}, {1, 0}},
      {{0, 3}, {1, 0}},
  };
  for (const auto& [shape, perm] : cases) {
    check_transpose<uint8_t>(shape, perm);
    check_transpose<int16_t>(shape, perm);
    check_transpose<float>(shape, perm);
    check_transpose<double>(shape, perm);
    check_transpose<std::string>(shape, perm);
  }
}

TEST(SliceOp, RandomBoundsAgainstALoop) {
  std::mt19937 random(7);
  auto draw = [&](int low, int high) { return std::uniform_int_distribution<int64_t>(low, high)(random); };
  for (int round = 0; round < 300; ++round) {
    const Shape shape{draw(1, 6), draw(1, 9), draw(1, 7)};
    const Tensor input = counting<int32_t>(shape);
    std::vector<int64_t> starts, ends, steps;
    std::vector<std::vector<int64_t>> taken;
    for (int d = 0; d < 3; ++d) {
      const int64_t n = shape[d], step = draw(0, 1) == 0 ? draw(1, 3) : -draw(1, 3);
      starts.push_back(draw(-12, 12));
      ends.push_back(draw(-12, 12));
      steps.push_back(step);
      // Python's range over slice(...).indices(n).
      int64_t start = starts.back() < 0 ? starts.back() + n : starts.back(),
              end = ends.back() < 0 ? ends.back() + n : ends.back();
      const int64_t low = step > 0 ? 0 : -1, high = step > 0 ? n : n - 1;
      start = std::clamp(start, low, high);
      end = std::clamp(end, low, high);
      std::vector<int64_t> places;
      for (int64_t i = start; step > 0 ? i < end : i > end; i += step) places.push_back(i);
      taken.push_back(places);
    }
    std::vector<int32_t> expected;
    for (const int64_t a : taken[0]) {
      for (const int64_t b : taken[1]) {
        for (const int64_t c : taken[2]) expected.push_back(static_cast<int32_t>((a * shape[1] + b) * shape[2] + c));
      }
    }
    const auto output = run_node("Slice", {input, longs(starts), longs(ends), longs({0, 1, 2}), longs(steps)})[0];
    ASSERT_EQ(elements<int32_t>(output), expected) << "round " << round;
  }
}

TEST(SliceOp, ExtremeBounds) {
  const int64_t low = std::numeric_limits<int64_t>::min(), high = std::numeric_limits<int64_t>::max();
  const Tensor x = counting<float>({5});
  expect_values<float>(run_node("Slice", {x, longs({high}), longs({low}), longs({0}), longs({-1})})[0], {5},
                       {4, 3, 2, 1, 0});
  expect_values<float>(run_node("Slice", {x, longs({low}), longs({high}), longs({-1}), longs({high})})[0], {1}, {0});
  expect_values<float>(run_node("Slice", {x, longs({high}), longs({low}), longs({0}), longs({low})})[0], {1}, {4});
  EXPECT_NE(message_of([&] {
              run_node("Slice", {x, longs({0}), longs({1}), longs({0}), longs({0})});
            }).find("step"),
            std::string::npos);
  EXPECT_NE(message_of([&] {
              run_node("Slice", {x, longs({0, 0}), longs({1, 1}), longs({0, -1})});
            }).find("twice"),
            std::string::npos);
  EXPECT_NE(message_of([&] { run_node("Slice", {x, longs({0, 0}), longs({1})}); }).find("as many"), std::string::npos);
}

TEST(SliceOp, AttributesOfOpset1) {
  const auto output =
      run_node("Slice", {counting<float>({3, 4})}, 1,
               {{"starts", integers({1, -3})}, {"ends", integers({1000, -1})}, {"axes", integers({0, 1})}}, 9);
  expect_values<float>(output[0], {2, 2}, {5, 6, 9, 10});
}

TEST(ReshapeOp, FindsTheMinusOneOfSymbols) {
  Builder b;
  const Dim batch = Dim::symbol("batch"), length = Dim::symbol("length");
  const ValueId x = b.input(ValueType::tensor(ElementType::kF32, {batch, length, 768}));
  const ValueId heads = b.node("Reshape", {x, b.constant(longs({0, 0, 12, -1}))});
  const ValueId flat = b.node("Reshape", {x, b.constant(longs({-1, 768}))});
  // Shape, Gather, Unsqueeze, Concat, Reshape, as PyTorch exports view(x.shape[0], -1, 64).
  const ValueId shape = b.node("Shape", {x});
  const ValueId first = b.node("Gather", {shape, b.constant(Tensor::scalar<int64_t>(0))});
  const ValueId list = b.node("Unsqueeze", {first, b.constant(longs({0}))});
  const ValueId target = b.node("Concat", {list, b.constant(longs({-1, 64}))}, {{"axis", integer(0)}});
  const ValueId viewed = b.node("Reshape", {x, target});
  const ValueId tail = b.node("Slice", {shape, b.constant(longs({1})), b.constant(longs({2}))});
  const ValueId ones = b.node("ConstantOfShape", {tail});
  const ValueId last = b.node(
      "Slice",
      {x, b.constant(longs({1})), b.constant(longs({std::numeric_limits<int64_t>::max()})), b.constant(longs({1}))});
  Graph graph = b.finish({viewed});
  std::vector<std::string> problems;
  infer_types(graph, problems);
  EXPECT_TRUE(problems.empty());
  EXPECT_EQ(to_string(graph.value(heads).type), "float32 [batch x length x 12 x 64]");
  EXPECT_EQ(*graph.value(flat).type.dims, (Dims{batch * length, 768}));
  EXPECT_EQ(*graph.value(viewed).type.dims, (Dims{batch, length * 12, 64}));
  EXPECT_EQ(*graph.value(ones).type.dims, (Dims{length}));
  EXPECT_EQ(*graph.value(last).type.dims, (Dims{batch, max_of(length - 1, 0), 768}));
  EXPECT_EQ(to_string(run(graph, {counting<float>({2, 3, 768})})[0].tensor.shape()), "2x36x64");
}

TEST(ReshapeOp, ZerosAndErrors) {
  const Tensor empty = counting<float>({0, 8});
  EXPECT_EQ(to_string(run_node("Reshape", {empty, longs({0, -1})})[0].tensor.shape()), "0x8");
  EXPECT_EQ(to_string(run_node("Reshape", {empty, longs({4, 0})}, 1, {{"allowzero", integer(1)}})[0].tensor.shape()),
            "4x0");
  const Tensor x = counting<float>({2, 3});
  auto problem = [&](std::vector<int64_t> target) {
    return message_of([&] { run_node("Reshape", {x, longs(target)}); });
  };
  EXPECT_NE(problem({-1, -1}).find("more than one"), std::string::npos);
  EXPECT_NE(problem({4, -1}).find("whole number"), std::string::npos);
  EXPECT_NE(problem({7}).find("elements"), std::string::npos);
  EXPECT_NE(problem({-2, 3}).find("-2"), std::string::npos);
  EXPECT_NE(problem({0, 0, 0}).find("copied"), std::string::npos);
  EXPECT_FALSE(problem({std::numeric_limits<int64_t>::max(), 4}).empty());
  expect_values<float>(run_node("Reshape", {x}, 1, {{"shape", integers({3, -1})}}, 1)[0], {3, 2}, {0, 1, 2, 3, 4, 5});
}

TEST(ShapeOps, OldForms) {
  const Tensor x = counting<float>({1, 3, 1});
  EXPECT_EQ(to_string(run_node("Squeeze", {x}, 1, {{"axes", integers({0})}}, 7)[0].tensor.shape()), "3x1");
  EXPECT_EQ(to_string(run_node("Squeeze", {x}, 1, {}, 13)[0].tensor.shape()), "3");
  EXPECT_EQ(to_string(run_node("Unsqueeze", {x}, 1, {{"axes", integers({0, 4})}}, 11)[0].tensor.shape()), "1x1x3x1x1");
  EXPECT_EQ(to_string(run_node("Unsqueeze", {x, longs({-1})})[0].tensor.shape()), "1x3x1x1");
  EXPECT_FALSE(message_of([&] { run_node("Squeeze", {x, longs({1})}); }).empty());
  EXPECT_FALSE(message_of([&] { run_node("Unsqueeze", {x, longs({0, 0})}); }).empty());
  expect_values<int64_t>(
      run_node("Shape", {x}, 1, {{"start", integer(-2)}, {"end", integer(std::numeric_limits<int64_t>::max())}})[0],
      {2}, {3, 1});
  expect_values<int64_t>(run_node("Shape", {x}, 1, {{"start", integer(2)}, {"end", integer(1)}})[0], {0}, {});
  // Tile 1 repeats one dimension, Split 2 has an attribute, Concat 1 a default axis.
  expect_values<float>(run_node("Tile", {floats({1, 2}), longs({2}), longs({0})}, 1, {}, 5)[0], {4}, {1, 2, 1, 2});
  const auto parts =
      run_node("Split", {counting<float>({2, 3})}, 2, {{"axis", integer(1)}, {"split", integers({1, 2})}}, 7);
  expect_values<float>(parts[1], {2, 2}, {1, 2, 4, 5});
  expect_values<float>(run_node("Concat", {counting<float>({2, 1}), counting<float>({2, 2})}, 1, {}, 1)[0], {2, 3},
                       {0, 0, 1, 1, 2, 3});
  expect_values<float>(run_node("ExpandDims", {floats({1, 2}), Tensor::scalar<int32_t>(-1)}, 1, {}, 1, kMicrosoft)[0],
                       {2, 1}, {1, 2});
}

TEST(ShapeOps, SharesMemory) {
  const Tensor x = counting<float>({1, 4, 6});
  EXPECT_EQ(run_node("Reshape", {x, longs({4, 6})})[0].tensor.raw(), x.raw());
  EXPECT_EQ(run_node("Transpose", {x}, 1, {{"perm", integers({1, 0, 2})}})[0].tensor.raw(), x.raw());
  EXPECT_EQ(run_node("Slice", {x, longs({1}), longs({3}), longs({1})})[0].tensor.raw(), x.data<float>() + 6);
  EXPECT_EQ(run_node("Gather", {x, Tensor::scalar<int64_t>(-1)}, 1, {{"axis", integer(1)}})[0].tensor.raw(),
            x.data<float>() + 18);
  EXPECT_EQ(run_node("Expand", {x, longs({4, 6})})[0].tensor.raw(), x.raw());
}

TEST(ShapeOps, TileAndExpandOfManyDimensions) {
  const Shape shape(16, 1);
  const Tensor one = Tensor::vector<float>({3}, shape);
  std::vector<int64_t> twice(16, 2);
  EXPECT_EQ(run_node("Tile", {one, longs(twice)})[0].tensor.count(), 1 << 16);
  expect_values<float>(run_node("Tile", {counting<float>({2, 1}), longs({2, 3})})[0], {4, 3},
                       {0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1});
  expect_values<float>(run_node("Expand", {counting<float>({2, 1}), longs({2, 1, 3})})[0], {2, 2, 3},
                       {0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1});
  EXPECT_EQ(run_node("Tile", {one, longs(std::vector<int64_t>(16, 0))})[0].tensor.count(), 0);
  EXPECT_FALSE(message_of([&] { run_node("Tile", {one, longs(std::vector<int64_t>(16, int64_t{1} << 60))}); }).empty());
  EXPECT_FALSE(message_of([&] { run_node("Expand", {counting<float>({3}), longs({2})}); }).empty());
}

TEST(FillOps, RangesAndConstants) {
  auto range = [](auto a, auto b, auto c) {
    return run_node("Range", {Tensor::scalar(a), Tensor::scalar(b), Tensor::scalar(c)})[0];
  };
  expect_values<int64_t>(range(int64_t{10}, int64_t{4}, int64_t{-2}), {3}, {10, 8, 6});
  expect_values<int64_t>(range(int64_t{1}, int64_t{1}, int64_t{5}), {0}, {});
  expect_values<float>(range(1.0f, 2.1f, 0.5f), {3}, {1, 1.5f, 2});
  const int64_t low = std::numeric_limits<int64_t>::min(), high = std::numeric_limits<int64_t>::max();
  expect_values<int64_t>(range(low, high, high), {3}, {low, -1, high - 1});
  EXPECT_FALSE(message_of([&] { range(low, high, int64_t{1}); }).empty());
  EXPECT_FALSE(message_of([&] { range(int64_t{0}, int64_t{1}, int64_t{0}); }).empty());
  EXPECT_FALSE(message_of([&] { range(0.0f, std::numeric_limits<float>::infinity(), 1.0f); }).empty());
  EXPECT_FALSE(message_of([&] { range(0.0f, 1.0f, std::numeric_limits<float>::quiet_NaN()); }).empty());
  expect_values<std::string>(run_node("Constant", {}, 1, {{"value_strings", texts({"a", "b"})}})[0], {2}, {"a", "b"});
  expect_values<int64_t>(run_node("Constant", {}, 1, {{"value_int", integer(7)}})[0], {}, {7});
  expect_values<int32_t>(
      run_node("ConstantOfShape", {longs({2, 2})}, 1, {{"value", tensor(Tensor::vector<int32_t>({5}))}})[0], {2, 2},
      {5, 5, 5, 5});
  EXPECT_FALSE(message_of([&] { run_node("ConstantOfShape", {longs({-1})}); }).empty());
  EXPECT_FALSE(message_of([&] { run_node("ConstantOfShape", {longs({1 << 30, 1 << 30, 1 << 30})}); }).empty());
  expect_values<float>(run_node("EyeLike", {counting<float>({2, 3})}, 1, {{"k", integer(high)}})[0], {2, 3},
                       {0, 0, 0, 0, 0, 0});
  expect_values<float>(run_node("Trilu", {counting<float>({2, 2}), Tensor::scalar(low)}, 1, {{"upper", integer(0)}})[0],
                       {2, 2}, {0, 0, 0, 0});
}

TEST(IndexOps, OutsideIsAnError) {
  const Tensor x = counting<float>({3, 4});
  expect_values<float>(run_node("Gather", {x, Tensor::vector<int32_t>({-1, 0})}, 1, {{"axis", integer(1)}}, 7)[0],
                       {3, 2}, {3, 0, 7, 4, 11, 8});
  for (const int64_t index :
       {int64_t{3}, int64_t{-4}, std::numeric_limits<int64_t>::max(), std::numeric_limits<int64_t>::min()}) {
    EXPECT_NE(message_of([&] { run_node("Gather", {x, longs({index})}); }).find("outside"), std::string::npos);
    EXPECT_NE(message_of([&] {
                run_node("GatherND", {x, Tensor::vector<int64_t>({index}, {1, 1})});
              }).find("outside"),
              std::string::npos);
    EXPECT_NE(message_of([&] {
                run_node("GatherElements", {x, Tensor::vector<int64_t>({index}, {1, 1})});
              }).find("outside"),
              std::string::npos);
    EXPECT_NE(message_of([&] {
                run_node("ScatterElements",
                         {x, Tensor::vector<int64_t>({index}, {1, 1}), Tensor::vector<float>({1}, {1, 1})});
              }).find("outside"),
              std::string::npos);
    EXPECT_NE(message_of([&] {
                run_node("ScatterND", {x, Tensor::vector<int64_t>({index}, {1, 1}), counting<float>({1, 4})});
              }).find("outside"),
              std::string::npos);
  }
  EXPECT_FALSE(message_of([&] { run_node("Gather", {x, floats({1})}); }).empty());
  EXPECT_FALSE(message_of([&] {
                 run_node("GatherElements", {x, Tensor::vector<int64_t>({0, 0, 0, 0, 0}, {1, 5})});
               }).empty());
  EXPECT_FALSE(message_of([&] { run_node("GatherND", {x, Tensor::vector<int64_t>({0, 0, 0}, {1, 3})}); }).empty());
  EXPECT_FALSE(message_of([&] {
                 run_node("ScatterND", {x, Tensor::vector<int64_t>({0}, {1, 1}), counting<float>({1, 3})});
               }).empty());
  EXPECT_FALSE(message_of([&] {
                 run_node("ScatterElements", {x, Tensor::vector<int64_t>({0}, {1, 1}), floats({1})});
               }).empty());
}

TEST(IndexOps, GatherNdOfBatchesAndLargeGather) {
  // NumPy: x[arange(2), [1, 0]] of x = arange(12).reshape(2, 3, 2).
  expect_values<int32_t>(run_node("GatherND", {counting<int32_t>({2, 3, 2}), Tensor::vector<int64_t>({1, 0}, {2, 1})},
                                  1, {{"batch_dims", integer(1)}})[0],
                         {2, 2}, {2, 3, 6, 7});
  const Tensor table = counting<float>({100, 50});
  std::vector<int64_t> picks;
  for (int64_t i = 0; i < 3000; ++i) picks.push_back(i * 37 % 100);
  const Tensor rows = run_node("Gather", {table, longs(picks)})[0].tensor;
  const Tensor columns = run_node("Gather", {table, longs({49, 3, -50})}, 1, {{"axis", integer(-1)}})[0].tensor;
  for (int64_t i = 0; i < rows.count(); ++i) {
    ASSERT_EQ(rows.data<float>()[i], static_cast<float>(picks[static_cast<size_t>(i / 50)] * 50 + i % 50));
  }
  for (int64_t i = 0; i < 100; ++i) {
    ASSERT_EQ(columns.data<float>()[i * 3], static_cast<float>(i * 50 + 49));
    ASSERT_EQ(columns.data<float>()[i * 3 + 2], static_cast<float>(i * 50));
  }
}

TEST(IndexOps, ScatterReductionsOfHalvesAndNan) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  auto scatter = [](const Tensor& data, std::vector<int64_t> at, const Tensor& updates, const char* how) {
    return run_node("ScatterElements", {data, longs(at), updates}, 1, {{"reduction", text(how)}})[0];
  };
  const auto largest = scatter(floats({1, nan, 2}), {0, 1, 2}, floats({nan, 5, 1}), "max");
  EXPECT_TRUE(std::isnan(elements<float>(largest)[0]) && std::isnan(elements<float>(largest)[1]));
  EXPECT_EQ(elements<float>(largest)[2], 2);
  expect_values<float>(scatter(floats({1, 2}), {0, 0}, floats({3, 4}), "mul"), {2}, {12, 2});
  expect_values<int8_t>(scatter(Tensor::vector<int8_t>({100, 1}), {0, -1}, Tensor::vector<int8_t>({100, 1}), "add"),
                        {2}, {-56, 2});
  // 1 + 2 and 0.5 + 0.5 in binary16.
  const Tensor data = Tensor::vector<uint16_t>({0x3c00, 0x3800}).with_type(ElementType::kF16);
  const Tensor more = Tensor::vector<uint16_t>({0x4000, 0x3800}).with_type(ElementType::kF16);
  const Tensor sum = scatter(data, {0, 1}, more, "add").tensor;
  EXPECT_EQ(sum.data<uint16_t>()[0], 0x4200);
  EXPECT_EQ(sum.data<uint16_t>()[1], 0x3c00);
  EXPECT_FALSE(message_of([&] { scatter(floats({1}), {0}, floats({1}), "mean"); }).empty());
}

TEST(IndexOps, OneHotTensorScatterReverseSequence) {
  expect_values<int32_t>(run_node("OneHot", {floats({1, -1, 9}), Tensor::scalar(3.0f), Tensor::vector<int32_t>({2, 5})},
                                  1, {{"axis", integer(0)}})[0],
                         {3, 3}, {2, 2, 2, 5, 2, 2, 2, 5, 2});
  EXPECT_FALSE(message_of([&] {
                 run_node("OneHot", {longs({1}), Tensor::scalar<int64_t>(int64_t{1} << 50), floats({0, 1})});
               }).empty());
  EXPECT_FALSE(message_of([&] {
                 run_node("OneHot", {longs({1}), Tensor::scalar<int64_t>(-3), floats({0, 1})});
               }).empty());
  const Tensor cache = counting<float>({2, 4, 1}), update = Tensor::vector<float>({90, 91, 92, 93, 94, 95}, {2, 3, 1});
  expect_values<float>(
      run_node("TensorScatter", {cache, update, longs({0, 2})}, 1, {{"mode", text("circular")}}, 24)[0], {2, 4, 1},
      {90, 91, 92, 3, 95, 5, 93, 94});
  EXPECT_FALSE(message_of([&] { run_node("TensorScatter", {cache, update, longs({0, 2})}, 1, {}, 24); }).empty());
  EXPECT_FALSE(message_of([&] {
                 run_node("TensorScatter", {cache, update, longs({0, -1})}, 1, {{"mode", text("circular")}}, 24);
               }).empty());
  EXPECT_FALSE(message_of([&] { run_node("ReverseSequence", {counting<float>({2, 2}), longs({1, 3})}); }).empty());
}

// Every place of a padded row by NumPy's rules, one step at a time.
std::vector<float> padded(const std::vector<float>& row, int64_t before, int64_t after, const std::string& mode) {
  std::vector<float> result;
  const auto n = static_cast<int64_t>(row.size());
  for (int64_t i = -before; i < n + after; ++i) {
    int64_t at = i;
    if (at < 0 || at >= n) {
      if (mode == "constant") {
        result.push_back(0);
        continue;
      }
      if (mode == "edge") at = at < 0 ? 0 : n - 1;
      while (mode == "wrap" && (at < 0 || at >= n)) at += at < 0 ? n : -n;
      while (mode == "reflect" && n > 1 && (at < 0 || at >= n)) at = at < 0 ? -at : 2 * (n - 1) - at;
      if (mode == "reflect" && n == 1) at = 0;
    }
    result.push_back(row[static_cast<size_t>(at)]);
  }
  return result;
}

TEST(PadOp, AllModesFarBeyondTheInput) {
  for (const char* mode : {"constant", "edge", "reflect", "wrap"}) {
    for (int64_t n = 1; n <= 4; ++n) {
      std::vector<float> row(static_cast<size_t>(n));
      std::iota(row.begin(), row.end(), 1.0f);
      for (int64_t before = 0; before < 9; ++before) {
        const auto output = run_node("Pad", {Tensor::vector(row), longs({before, 7})}, 1, {{"mode", text(mode)}});
        EXPECT_EQ(elements<float>(output[0]), padded(row, before, 7, mode)) << mode << " " << n << " " << before;
      }
    }
  }
}

TEST(PadOp, CropsAndOldForms) {
  const Tensor x = counting<float>({2, 3});
  expect_values<float>(run_node("Pad", {x, longs({0, -1, 1, 1}), Tensor::scalar(9.0f)})[0], {3, 3},
                       {1, 2, 9, 4, 5, 9, 9, 9, 9});
  expect_values<float>(
      run_node("Pad", {x, longs({-1, 2}), Value(), longs({-1})}, 1, {{"mode", text("reflect")}}, 18)[0], {2, 4},
      {1, 2, 1, 2, 4, 5, 4, 5});
  expect_values<float>(run_node("Pad", {x}, 1, {{"pads", integers({0, 1, 0, 0})}, {"value", real(-1)}}, 7)[0], {2, 4},
                       {-1, 0, 1, 2, -1, 3, 4, 5});
  expect_values<float>(run_node("Pad", {x}, 1, {{"paddings", integers({0, 0, 1, 0})}}, 1)[0], {3, 3},
                       {0, 1, 2, 3, 4, 5, 0, 0, 0});
  expect_values<float>(
      run_node("Pad", {x, Tensor::vector<int64_t>({0, 0, 0, 1}), Tensor::scalar(2.0f)}, 1, {}, 1, kMicrosoft)[0],
      {2, 4}, {0, 1, 2, 2, 3, 4, 5, 2});
  auto problem = [&](std::vector<int64_t> pads, const char* mode) {
    return message_of([&] { run_node("Pad", {x, longs(pads)}, 1, {{"mode", text(mode)}}); });
  };
  EXPECT_FALSE(problem({0, -4, 0, 2}, "constant").empty());
  EXPECT_FALSE(problem({0, 0, 0}, "constant").empty());
  EXPECT_FALSE(problem({0, -3, 0, 2}, "edge").empty());
  EXPECT_FALSE(problem({0, std::numeric_limits<int64_t>::max(), 0, 1}, "constant").empty());
  EXPECT_FALSE(problem({0, 0, 0, 0}, "mirror").empty());
  expect_values<std::string>(
      run_node("Pad", {Tensor::vector<std::string>({"a"}), longs({1, 0}), Tensor::scalar<std::string>("-")})[0], {2},
      {"-", "a"});
}

TEST(ResizeOp, OldForms) {
  const Tensor x = Tensor::vector<float>({1, 2, 3, 4, 5, 6, 7, 8}, {1, 1, 2, 4});
  // From the specification's examples of opset 10.
  expect_near(run_node("Resize", {x, floats({1, 1, 0.6f, 0.6f})}, 1, {{"mode", text("nearest")}}, 10)[0], {1, 1, 1, 2},
              {1, 3});
  expect_near(run_node("Resize", {x, floats({1, 1, 0.6f, 0.6f})}, 1, {{"mode", text("linear")}}, 10)[0], {1, 1, 1, 2},
              {1, 2.6666665f});
  const Tensor y = Tensor::vector<float>({1, 2, 3, 4}, {1, 1, 2, 2});
  const std::vector<float> doubled{1, 1, 2, 2, 1, 1, 2, 2, 3, 3, 4, 4, 3, 3, 4, 4};
  expect_near(run_node("Upsample", {y}, 1, {{"scales", reals({1, 1, 2, 2})}}, 7)[0], {1, 1, 4, 4}, doubled);
  expect_near(run_node("Upsample", {y, floats({1, 1, 2, 2})}, 1, {}, 9)[0], {1, 1, 4, 4}, doubled);
  expect_near(run_node("Upsample", {y}, 1, {{"height_scale", real(2)}, {"width_scale", real(2)}}, 1)[0], {1, 1, 4, 4},
              doubled);
  expect_near(run_node("Resize", {y, Value(), Value(), longs({1, 1, 1, 1})}, 1, {{"mode", text("linear")}})[0],
              {1, 1, 1, 1}, {2.5f});
}

TEST(ResizeOp, AgainstWeightsOfEveryPlace) {
  // Linear, half pixels, from 3x5 to 7x4 with channels last: each output is the product of two tents.
  const Tensor x = counting<float>({3, 5, 2});
  const Tensor output = run_node("Resize", {x, Value(), Value(), longs({7, 4})}, 1,
                                 {{"mode", text("linear")}, {"axes", integers({0, 1})}})[0]
                            .tensor;
  ASSERT_EQ(to_string(output.shape()), "7x4x2");
  auto tent = [](double at, int64_t place, int64_t n) {
    return std::max(0.0, 1 - std::abs(std::clamp(at, 0.0, static_cast<double>(n - 1)) - static_cast<double>(place)));
  };
  for (int64_t r = 0; r < 7; ++r) {
    for (int64_t c = 0; c < 4; ++c) {
      for (int64_t k = 0; k < 2; ++k) {
        double sum = 0;
        for (int64_t i = 0; i < 3; ++i) {
          for (int64_t j = 0; j < 5; ++j) {
            sum += tent((static_cast<double>(r) + 0.5) * 3 / 7 - 0.5, i, 3) *
                   tent((static_cast<double>(c) + 0.5) * 5 / 4 - 0.5, j, 5) * x.data<float>()[(i * 5 + j) * 2 + k];
          }
        }
        EXPECT_NEAR(output.data<float>()[(r * 4 + c) * 2 + k], sum, 1e-4);
      }
    }
  }
}

TEST(ResizeOp, TypesAndErrors) {
  const Tensor bytes = Tensor::vector<uint8_t>({0, 255}, {1, 1, 1, 2});
  const auto cubic = run_node("Resize", {bytes, Value(), floats({1, 1, 1, 2})}, 1, {{"mode", text("cubic")}})[0];
  EXPECT_EQ(elements<uint8_t>(cubic).front(), 0);    // overshoots below
  EXPECT_EQ(elements<uint8_t>(cubic).back(), 255);   // and above
  expect_values<std::string>(run_node("Resize", {Tensor::vector<std::string>({"a", "b"}), Value(), floats({2})})[0],
                             {4}, {"a", "a", "b", "b"});
  auto problem = [&](const std::vector<float>& scales) {
    return message_of([&] { run_node("Resize", {bytes, Value(), floats(scales)}); });
  };
  EXPECT_FALSE(problem({1, 1, 1}).empty());
  EXPECT_FALSE(problem({1, 1, 1, 0}).empty());
  EXPECT_FALSE(problem({1, 1, 1, -2}).empty());
  EXPECT_FALSE(problem({1, 1, 1, std::numeric_limits<float>::quiet_NaN()}).empty());
  EXPECT_FALSE(problem({1, 1, 1e15f, 1e15f}).empty());
  EXPECT_FALSE(message_of([&] { run_node("Resize", {bytes}); }).empty());
  EXPECT_FALSE(message_of([&] {
                 run_node("Resize", {counting<float>({0, 2}), Value(), Value(), longs({3, 2})});
               }).empty());
}

TEST(GridOps, PlacesFarAway) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const Tensor image = Tensor::vector<float>({1, 2, 3, 4}, {1, 1, 2, 2});
  const Tensor grid = Tensor::vector<float>({inf, 0, -inf, -inf, nan, nan, 1e30f, -1e30f}, {1, 1, 4, 2});
  for (const char* mode : {"linear", "nearest", "cubic"}) {
    for (const char* padding : {"zeros", "border", "reflection"}) {
      const auto output =
          run_node("GridSample", {image, grid}, 1, {{"mode", text(mode)}, {"padding_mode", text(padding)}});
      EXPECT_EQ(output[0].tensor.count(), 4);
    }
  }
  expect_near(run_node("GridSample", {image, Tensor::vector<float>({1, 1, -9, 9}, {1, 1, 2, 2})}, 1,
                       {{"padding_mode", text("border")}})[0],
              {1, 1, 1, 2}, {4, 3});
  // One spatial dimension: halfway between the two pixels.
  expect_near(
      run_node("GridSample", {Tensor::vector<float>({1, 3}, {1, 1, 2}), Tensor::vector<float>({0}, {1, 1, 1})})[0],
      {1, 1, 1}, {2});
  EXPECT_FALSE(message_of([&] { run_node("GridSample", {image, counting<float>({1, 1, 4, 3})}); }).empty());
}

TEST(BoxOps, PoolsAndBadBoxes) {
  // Rows 0..3 of a 4x4 map; the whole map in 2x2 bins.
  const Tensor map = counting<float>({1, 1, 4, 4});
  expect_near(run_node("MaxRoiPool", {map, Tensor::vector<float>({0, 0, 0, 3, 3}, {1, 5})}, 1,
                       {{"pooled_shape", integers({2, 2})}})[0],
              {1, 1, 2, 2}, {5, 7, 13, 15});
  EXPECT_FALSE(message_of([&] {
                 run_node("MaxRoiPool", {map, Tensor::vector<float>({3, 0, 0, 3, 3}, {1, 5})}, 1,
                          {{"pooled_shape", integers({2, 2})}});
               }).empty());
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const Tensor boxes =
      Tensor::vector<float>({-1e30f, -1e30f, 1e30f, 1e30f, nan, inf, -inf, 0, 3, 3, 1, 1, 0, 0, 1e7f, 1e7f}, {4, 4});
  for (const char* mode : {"avg", "max"}) {
    EXPECT_EQ(run_node("RoiAlign", {map, boxes, longs({0, 0, 0, 0})}, 1, {{"mode", text(mode)}})[0].tensor.count(), 4);
  }
  EXPECT_FALSE(message_of([&] { run_node("RoiAlign", {map, boxes, longs({0, 0, 0, 1})}); }).empty());
  // A 2x2 output of the box (0, 0, 4, 4) in opset 10, one sample a bin: each at the middle of four pixels.
  expect_near(
      run_node("RoiAlign", {map, Tensor::vector<float>({0, 0, 4, 4}, {1, 4}), longs({0})}, 1,
               {{"output_height", integer(2)}, {"output_width", integer(2)}, {"sampling_ratio", integer(1)}}, 10)[0],
      {1, 1, 2, 2}, {5, 7, 13, 15});
  EXPECT_EQ(run_node("NonMaxSuppression", {counting<float>({1, 0, 4}), counting<float>({1, 2, 0})})[0].tensor.count(),
            0);
}

TEST(SelectOps, TopKOfEveryTypeAgainstASort) {
  std::mt19937 random(3);
  auto check = [&](auto zero, int64_t n, int64_t k, bool is_largest) {
    using T = decltype(zero);
    std::vector<T> values(static_cast<size_t>(n));
    for (T& value : values) value = static_cast<T>(static_cast<int>(random() % 40) - (std::is_signed_v<T> ? 20 : 0));
    std::vector<int64_t> order(values.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      const T x = values[static_cast<size_t>(a)], y = values[static_cast<size_t>(b)];
      return is_largest ? x > y : x < y;
    });
    order.resize(static_cast<size_t>(k));
    const auto output =
        run_node("TopK", {Tensor::vector(values), longs({k})}, 2, {{"largest", integer(is_largest ? 1 : 0)}}, 11);
    EXPECT_EQ(elements<int64_t>(output[1]), order);
    const std::vector<T> found = elements<T>(output[0]);
    for (int64_t i = 0; i < k; ++i) {
      EXPECT_EQ(found[static_cast<size_t>(i)], values[static_cast<size_t>(order[static_cast<size_t>(i)])]);
    }
  };
  for (const auto& [n, k] :
       std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {50, 0}, {50, 7}, {50, 50}, {1000, 3}, {1000, 400}}) {
    for (const bool is_largest : {true, false}) {
      check(float{}, n, k, is_largest);
      check(double{}, n, k, is_largest);
      check(int8_t{}, n, k, is_largest);
      check(uint8_t{}, n, k, is_largest);
      check(int64_t{}, n, k, is_largest);
      check(uint64_t{}, n, k, is_largest);
      check(int32_t{}, n, k, is_largest);
    }
  }
  expect_values<int64_t>(run_node("TopK", {Tensor::vector<float>({1, 5, 3, 9, 2, 9}, {3, 2})}, 2,
                                  {{"k", integer(1)}, {"axis", integer(0)}}, 7)[1],
                         {1, 2}, {1, 1});
  const float nan = std::numeric_limits<float>::quiet_NaN();
  expect_values<int64_t>(run_node("TopK", {floats({1, nan, -0.0f, 0.0f}), longs({4})}, 2)[1], {4}, {1, 0, 2, 3});
  EXPECT_FALSE(message_of([&] { run_node("TopK", {floats({1}), longs({2})}, 2); }).empty());
  EXPECT_FALSE(message_of([&] { run_node("TopK", {floats({1}), longs({-1})}, 2); }).empty());
}

TEST(SelectOps, NonZeroCompressUnique) {
  expect_values<int64_t>(run_node("NonZero", {floats({-0.0f, 2, 0, std::numeric_limits<float>::quiet_NaN()})})[0],
                         {1, 2}, {1, 3});
  expect_values<int64_t>(run_node("NonZero", {Tensor::scalar(5.0f)})[0], {1, 1}, {0});
  expect_values<int64_t>(run_node("NonZero", {Tensor::vector<std::string>({"", "a"}, {2, 1})})[0], {2, 1}, {1, 0});
  expect_values<float>(
      run_node("Compress", {counting<float>({2, 3}), Tensor::vector<bool>({true, false, true, true, true, true})}, 1,
               {{"axis", integer(1)}})[0],
      {2, 2}, {0, 2, 3, 5});
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto unique = run_node("Unique", {floats({3, nan, 1, nan, 3})}, 4);
  EXPECT_EQ(unique[0].tensor.count(), 3);
  EXPECT_EQ(elements<int64_t>(unique[1]), (std::vector<int64_t>{2, 0, 1}));
  EXPECT_EQ(elements<int64_t>(unique[2]), (std::vector<int64_t>{1, 2, 0, 2, 1}));
  EXPECT_EQ(elements<int64_t>(unique[3]), (std::vector<int64_t>{1, 2, 2}));
  const auto first = run_node("Unique", {floats({3, 1, 3})}, 3, {}, 1, kMicrosoft);
  expect_values<float>(first[0], {2}, {3, 1});
  expect_values<int64_t>(first[1], {3}, {0, 1, 0});
  expect_values<int64_t>(first[2], {2}, {2, 1});
  expect_values<std::string>(run_node("Unique", {Tensor::vector<std::string>({"b", "a", "b"})}, 1)[0], {2}, {"a", "b"});
}

TEST(JoinOps, PartsAndErrors) {
  const auto parts = run_node("Split", {counting<float>({7})}, 3, {{"num_outputs", integer(3)}}, 18);
  expect_values<float>(parts[0], {3}, {0, 1, 2});
  expect_values<float>(parts[2], {1}, {6});
  EXPECT_FALSE(message_of([&] { run_node("Split", {counting<float>({7})}, 3, {}, 13); }).empty());
  EXPECT_FALSE(message_of([&] { run_node("Split", {counting<float>({7}), longs({3, 5})}, 2); }).empty());
  EXPECT_FALSE(message_of([&] { run_node("Split", {counting<float>({7}), longs({-1, 8})}, 2); }).empty());
  EXPECT_FALSE(message_of([&] {
                 run_node("Concat", {counting<float>({2, 2}), counting<float>({3, 3})}, 1, {{"axis", integer(0)}});
               }).empty());
  EXPECT_FALSE(message_of([&] {
                 run_node("Concat", {counting<float>({2}), counting<double>({3})}, 1, {{"axis", integer(0)}});
               }).empty());
  EXPECT_FALSE(message_of([&] { run_node("Concat", {counting<float>({2})}, 1, {{"axis", integer(1)}}); }).empty());
  EXPECT_FALSE(message_of([&] {
                 run_node("DepthToSpace", {counting<float>({1, 3, 2, 2})}, 1, {{"blocksize", integer(2)}});
               }).empty());
  EXPECT_FALSE(message_of([&] {
                 run_node("Transpose", {counting<float>({2, 2})}, 1, {{"perm", integers({0, 0})}});
               }).empty());
  EXPECT_FALSE(message_of([&] {
                 run_node("Col2Im", {counting<float>({1, 4, 3}), longs({2, 2}), longs({2, 2})});
               }).empty());
}

}  // namespace
}  // namespace sluice::graph::for_test
