// Products, convolutions, pools and normalisations beyond what ONNX's conformance tests cover: sizes around the edges
// of tiles, old versions, fused operators of com.microsoft, and models that are wrong. Large results are compared with
// the definition written as plain loops in this file; small ones are worked out by hand.
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "graph/ops_for_test.h"

namespace sluice::graph {
namespace {

using namespace for_test;
using ::testing::ElementsAre;
using ::testing::FloatNear;
using ::testing::HasSubstr;
using ::testing::Pointwise;

Tensor floats(std::vector<float> values, Shape shape) { return Tensor::vector(values, shape); }
template <typename T>
Tensor filled(Shape shape, const std::function<T(int64_t)>& f) {
  Tensor tensor(type_of<T>(), shape);
  for (int64_t i = 0; i < tensor.count(); ++i) tensor.data<T>()[i] = f(i);
  return tensor;
}
// Small numbers without a pattern that a wrong stride would repeat.
float some(int64_t i, int64_t seed) {
  return static_cast<float>((i * 7919 + seed * 104729 + i * i % 31) % 41 - 20) / 8.0f;
}
Tensor some_floats(Shape shape, int64_t seed) { return filled<float>(shape, [&](int64_t i) { return some(i, seed); }); }

void expect_near(const Value& found, const std::vector<float>& expected, float tolerance = 1e-4f) {
  const std::vector<float> values = elements<float>(found);
  ASSERT_EQ(values.size(), expected.size());
  for (size_t i = 0; i < values.size(); ++i)
    ASSERT_NEAR(values[i], expected[i], tolerance * (1 + std::abs(expected[i]))) << "element " << i;
}

std::vector<float> product_of(const Tensor& a, const Tensor& b, int64_t m, int64_t k, int64_t n) {
  std::vector<float> c;
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t p = 0; p < k; ++p)
        sum += static_cast<double>(a.data<float>()[i * k + p]) * b.data<float>()[p * n + j];
      c.push_back(static_cast<float>(sum));
    }
  }
  return c;
}

Tensor transposed(const Tensor& x) {
  const int64_t rows = x.dim(0), columns = x.dim(1);
  return filled<float>({columns, rows}, [&](int64_t i) { return x.data<float>()[i % rows * columns + i / rows]; });
}

TEST(MatMul, AllSizesAndLayouts) {
  const int64_t sizes[][3] = {{1, 1, 1},  {1, 300, 70},  {2, 3, 4},     {3, 17, 65},
                              {4, 5, 33}, {13, 300, 70}, {97, 40, 130}, {500, 3, 600}};
  for (const auto& [m, k, n] : sizes) {
    const Tensor a = some_floats({m, k}, 1), b = some_floats({k, n}, 2);
    const std::vector<float> expected = product_of(a, b, m, k, n);
    expect_near(run_node("MatMul", {a, b})[0], expected);
    expect_near(run_node("FusedMatMul", {transposed(a), transposed(b)}, 1,
                         {{"transA", integer(1)}, {"transB", integer(1)}}, 1, kMicrosoft)[0],
                expected);
    expect_near(run_node("Gemm", {a, transposed(b)}, 1, {{"transB", integer(1)}})[0], expected);
  }
}

TEST(MatMul, BatchesVectorsAndIntegers) {
  // [2, 1, 2, 3] x [3, 3, 2]: six products.
  const Tensor a = some_floats({2, 1, 2, 3}, 3), b = some_floats({3, 3, 2}, 4);
  const Value y = run_node("MatMul", {a, b})[0];
  EXPECT_EQ(to_string(y.tensor.shape()), "2x3x2x2");
  std::vector<float> expected;
  for (int64_t i = 0; i < 6; ++i) {
    const auto one = product_of(a.slice(i / 3 * 6, {2, 3}), b.slice(i % 3 * 6, {3, 2}), 2, 3, 2);
    expected.insert(expected.end(), one.begin(), one.end());
  }
  expect_near(y, expected);
  EXPECT_THAT(elements<float>(run_node("MatMul", {floats({1, 2}, {2}), floats({3, 4}, {2})})[0]), ElementsAre(11));
  EXPECT_THAT(elements<float>(run_node("MatMul", {floats({1, 2}, {2}), floats({1, 2, 3, 4}, {2, 2})})[0]),
              ElementsAre(7, 10));
  EXPECT_THAT(elements<float>(run_node("MatMul", {floats({1, 2, 3, 4, 5, 6}, {3, 1, 2}), floats({1, 1}, {2})})[0]),
              ElementsAre(3, 7, 11));
  EXPECT_THAT(elements<float>(run_node("MatMul", {floats({}, {2, 0}), floats({}, {0, 2})})[0]),
              ElementsAre(0, 0, 0, 0));
  EXPECT_EQ(run_node("MatMul", {floats({}, {0, 3}), some_floats({3, 2}, 1)})[0].tensor.count(), 0);
  const Tensor big = Tensor::vector<int32_t>({1 << 30, 3, -1, 2}, {2, 2});
  EXPECT_THAT(elements<int32_t>(run_node("MatMul", {big, Tensor::vector<int32_t>({4, 5, 1, -1}, {2, 2})})[0]),
              ElementsAre(3, (1 << 30) - 3, -2, -7));
  EXPECT_THAT(message_of([&] {
                run_node("MatMul", {some_floats({2, 3}, 1), some_floats({2, 3}, 1)});
              }),
              HasSubstr("3 columns meet 2 rows"));
  EXPECT_THAT(message_of([&] { run_node("MatMul", {Tensor::scalar(1.0f), floats({1}, {1})}); }), HasSubstr("scalar"));
}

TEST(FusedMatMul, BatchThatComesAfterTheRows) {
  // [rows 2, batch 2, columns 1] with ones: the sums are the elements, [batch, rows].
  const Value y = run_node("FusedMatMul", {floats({1, 2, 3, 4}, {2, 2, 1}), floats({2}, {1, 1})}, 1,
                           {{"transBatchA", integer(1)}, {"alpha", real(0.5f)}}, 1, kMicrosoft)[0];
  EXPECT_EQ(to_string(y.tensor.shape()), "2x2x1");
  EXPECT_THAT(elements<float>(y), ElementsAre(1, 3, 2, 4));
}

TEST(Gemm, BroadcastsCAndScales) {
  const Tensor a = floats({1, 2, 3, 4}, {2, 2}), b = floats({1, 0, 0, 1}, {2, 2});
  EXPECT_THAT(elements<float>(run_node("Gemm", {a, b, floats({10, 20}, {2, 1})}, 1,
                                       {{"alpha", real(2)}, {"beta", real(0.5f)}}, 7)[0]),
              ElementsAre(7, 9, 16, 18));
  EXPECT_THAT(elements<float>(run_node("Gemm", {a, b, floats({10, 20}, {2})}, 1, {}, 6)[0]),
              ElementsAre(11, 22, 13, 24));
  EXPECT_THAT(elements<int32_t>(run_node("Gemm",
                                         {Tensor::vector<int32_t>({1, 2}, {1, 2}),
                                          Tensor::vector<int32_t>({3, 4}, {2, 1}), Tensor::scalar<int32_t>(7)},
                                         1, {{"alpha", real(0.5f)}, {"beta", real(2)}})[0]),
              ElementsAre(19));
  EXPECT_THAT(elements<float>(run_node("FusedGemm", {a, b, floats({-2, -3}, {2})}, 1,
                                       {{"activation", text("LeakyRelu")}, {"activation_alpha", real(0.5f)}}, 1,
                                       kMicrosoft)[0]),
              ElementsAre(-0.5f, -0.5f, 1, 1));
  EXPECT_THAT(message_of([&] { run_node("Gemm", {a, b, floats({1, 2, 3}, {3})}); }), HasSubstr("does not broadcast"));
}

TEST(Einsum, ManyForms) {
  auto einsum = [](const std::string& equation, const std::vector<Value>& inputs) {
    return run_node("Einsum", inputs, 1, {{"equation", text(equation)}})[0];
  };
  const Tensor m = floats({1, 2, 3, 4}, {2, 2}), v = floats({5, 6}, {2});
  EXPECT_THAT(elements<float>(einsum("i,ij,j->", {v, m, v})), ElementsAre(5 * 5 + 5 * 6 * 2 + 6 * 5 * 3 + 36 * 4));
  EXPECT_THAT(elements<float>(einsum("ii", {m})), ElementsAre(5));
  EXPECT_THAT(elements<float>(einsum("ba", {m})),
              ElementsAre(1, 3, 2, 4));  // implicit outputs are in alphabetical order
  EXPECT_THAT(elements<float>(einsum("ij,kj->ik", {m, m})), ElementsAre(5, 11, 11, 25));
  EXPECT_THAT(elements<float>(einsum("i,j->ij", {v, v})), ElementsAre(25, 30, 30, 36));
  EXPECT_THAT(elements<float>(einsum("...j, j... -> ...", {m, v})), ElementsAre(17, 39));
  EXPECT_THAT(elements<float>(einsum("ij,ij->i", {m, floats({1, 10}, {2, 1})})), ElementsAre(3, 70));
  const Value batched = einsum("bi...,b...j->b...ij", {some_floats({2, 3, 4}, 1), some_floats({2, 4, 5}, 2)});
  EXPECT_EQ(to_string(batched.tensor.shape()), "2x4x3x5");
  EXPECT_THAT(elements<int8_t>(einsum("i,i->i", {Tensor::vector<int8_t>({100, -3}), Tensor::vector<int8_t>({2, 5})})),
              ElementsAre(-56, -15));
  EXPECT_THAT(message_of([&] { einsum("ij->ik", {m}); }), HasSubstr("in no operand"));
  EXPECT_THAT(message_of([&] { einsum("ij->ii", {m}); }), HasSubstr("twice"));
  EXPECT_THAT(message_of([&] { einsum("ijk", {m}); }), HasSubstr("2 dimensions"));
  EXPECT_THAT(message_of([&] { einsum("i,j", {v}); }), HasSubstr("2 operands"));
  EXPECT_THAT(message_of([&] { einsum("i1", {m}); }), HasSubstr("letters"));
  EXPECT_THAT(message_of([&] { einsum("ij,jk", {m, some_floats({3, 2}, 1)}); }), HasSubstr("broadcast"));
}

TEST(MatMulInteger, ZeroPointsOfRowsAndColumns) {
  const Tensor a = Tensor::vector<uint8_t>({1, 2, 3, 4}, {2, 2}), b = Tensor::vector<int8_t>({1, -1, 2, 5}, {2, 2});
  // Rows (1-1, 2-1), (3-2, 4-2); columns (1-0, 2-0), (-1-1, 5-1).
  EXPECT_THAT(elements<int32_t>(run_node("MatMulInteger",
                                         {a, b, Tensor::vector<uint8_t>({1, 2}), Tensor::vector<int8_t>({0, 1})})[0]),
              ElementsAre(2, 4, 5, 6));
  EXPECT_THAT(message_of([&] {
                run_node("MatMulInteger", {a, b, Tensor::vector<uint8_t>({1, 2, 3})});
              }),
              HasSubstr("3 elements"));
}

TEST(QLinearMatMul, ScalesOfColumnsRoundHalfToEvenAndSaturate) {
  const Value y = run_node("QLinearMatMul",
                           {Tensor::vector<uint8_t>({1, 255}, {2, 1}), Tensor::scalar(0.5f), Tensor::scalar<uint8_t>(0),
                            Tensor::vector<int8_t>({1, 3, -100}, {1, 3}), Tensor::vector<float>({1, 1, 2}),
                            Tensor::vector<int8_t>({0, 0, 0}), Tensor::scalar(1.0f), Tensor::scalar<int8_t>(0)})[0];
  EXPECT_THAT(elements<int8_t>(y), ElementsAre(0, 2, -100, 127, 127, -128));
}

TEST(ContribMatMul, BytesToFloats) {
  const Tensor a = Tensor::vector<uint8_t>({3, 5}, {1, 2}), b = Tensor::vector<uint8_t>({1, 2, 3, 4}, {2, 2});
  EXPECT_THAT(elements<float>(run_node("MatMulIntegerToFloat",
                                       {a, b, Tensor::scalar(0.5f), Tensor::vector<float>({1, 2}),
                                        Tensor::scalar<uint8_t>(1), Value(), Tensor::vector<float>({0.5f, 0})},
                                       1, {}, 1, kMicrosoft)[0]),
              ElementsAre(0.5f * (2 * 1 + 4 * 3) + 0.5f, 2 * 2 + 4 * 4));
  // [0, 255] quantises to itself.
  EXPECT_THAT(elements<float>(run_node("DynamicQuantizeMatMul", {floats({0, 255}, {1, 2}), b, Tensor::scalar(2.0f)}, 1,
                                       {}, 1, kMicrosoft)[0]),
              ElementsAre(2 * 255 * 3, 2 * 255 * 4));
  EXPECT_THAT(elements<uint8_t>(run_node("QGemm",
                                         {a, Tensor::scalar(1.0f), Tensor::scalar<uint8_t>(0), b, Tensor::scalar(1.0f),
                                          Tensor::scalar<uint8_t>(0), Tensor::vector<int32_t>({1, 1}),
                                          Tensor::scalar(2.0f), Tensor::scalar<uint8_t>(10)},
                                         1, {{"transB", integer(1)}}, 1, kMicrosoft)[0]),
              ElementsAre(17, 25));  // (3 + 10 + 1) / 2 + 10; (9 + 20 + 1) / 2 + 10
}

TEST(MatMulNBits, AllWidthsAndZeroPoints) {
  const int64_t k = 40, n = 5, block = 16, blocks = 3, m = 3;
  const Tensor a = some_floats({m, k}, 5);
  const Tensor scales =
      filled<float>({n, blocks}, [](int64_t i) { return 0.25f + 0.125f * static_cast<float>(i % 3); });
  for (int bits = 2; bits <= 8; ++bits) {
    const int64_t blob = block * bits / 8, zero_bytes = (blocks * bits + 7) / 8, mask = (1 << bits) - 1;
    Tensor packed = filled<uint8_t>({n, blocks, blob}, [](int64_t) { return 0; }),
           zeros = filled<uint8_t>({n, zero_bytes}, [](int64_t) { return 0; });
    auto put = [&](uint8_t* bytes, int64_t index, int64_t value) {
      for (int64_t b = 0; b < bits; ++b)
        bytes[(index * bits + b) / 8] |= static_cast<uint8_t>((value >> b & 1) << ((index * bits + b) % 8));
    };
    auto weight = [&](int64_t row, int64_t i) { return (row * 31 + i * 7 + 3) & mask; };
    auto zero = [&](int64_t row, int64_t i) { return (row + i) & mask; };
    for (int64_t row = 0; row < n; ++row) {
      for (int64_t i = 0; i < blocks * block; ++i)
        put(packed.data<uint8_t>() + (row * blocks + i / block) * blob, i % block, weight(row, i));
      for (int64_t i = 0; i < blocks; ++i) put(zeros.data<uint8_t>() + row * zero_bytes, i, zero(row, i));
    }
    const Attributes attributes{
        {"K", integer(k)}, {"N", integer(n)}, {"bits", integer(bits)}, {"block_size", integer(block)}};
    auto expected = [&](auto&& zero_of, auto&& group_of) {
      std::vector<float> y;
      for (int64_t r = 0; r < m; ++r) {
        for (int64_t row = 0; row < n; ++row) {
          double sum = 0;
          for (int64_t i = 0; i < k; ++i) {
            const int64_t group = group_of(i);
            sum += a.data<float>()[r * k + i] * (static_cast<double>(weight(row, i)) - zero_of(row, group)) *
                   scales.data<float>()[row * blocks + group];
          }
          y.push_back(static_cast<float>(sum));
        }
      }
      return y;
    };
    auto in_order = [&](int64_t i) { return i / block; };
    auto run_it = [&](std::vector<Value> inputs) {
      return run_node("MatMulNBits", inputs, 1, attributes, 1, kMicrosoft)[0];
    };
    expect_near(run_it({a, packed, scales}), expected([&](int64_t, int64_t) { return 1 << (bits - 1); }, in_order));
    expect_near(run_it({a, packed, scales, zeros}), expected(zero, in_order));
    const Tensor float_zeros = filled<float>({n, blocks}, [](int64_t i) { return 0.5f * static_cast<float>(i); });
    expect_near(
        run_it({a, packed, scales, float_zeros}),
        expected([&](int64_t row, int64_t g) { return 0.5 * static_cast<double>(row * blocks + g); }, in_order));
    const Tensor groups = filled<int32_t>({k}, [&](int64_t i) { return static_cast<int32_t>((i * 5) % blocks); });
    expect_near(run_it({a, packed, scales, zeros, groups}),
                expected(zero, [&](int64_t i) { return (i * 5) % blocks; }));
  }
  const Tensor b = filled<uint8_t>({1, 1, 8}, [](int64_t) { return 0; });
  EXPECT_THAT(message_of([&] {
                run_node("MatMulNBits", {some_floats({1, 16}, 1), b, floats({1}, {1})}, 1,
                         {{"K", integer(16)}, {"N", integer(1)}, {"block_size", integer(12)}}, 1, kMicrosoft);
              }),
              HasSubstr("power of two"));
  EXPECT_THAT(message_of([&] {
                run_node("MatMulNBits",
                         {some_floats({1, 16}, 1), b, floats({1}, {1}), Value(),
                          Tensor::vector<int32_t>(std::vector<int32_t>(16, 1))},
                         1, {{"K", integer(16)}, {"N", integer(1)}, {"block_size", integer(16)}}, 1, kMicrosoft);
              }),
              HasSubstr("g_idx"));
}

TEST(Linalg, DeterminantsAndInverses) {
  EXPECT_THAT(elements<float>(run_node("Det", {floats({0, 2, 3, 1, 1, 2, 2, 4}, {2, 2, 2})})[0]), ElementsAre(-6, 0));
  expect_near(run_node("Inverse", {floats({0, 2, 4, 0}, {2, 2})}, 1, {}, 1, kMicrosoft)[0], {0, 0.25f, 0.5f, 0});
  EXPECT_THAT(message_of([&] { run_node("Det", {some_floats({2, 3}, 1)}); }), HasSubstr("not square"));
}

// The definition of a convolution of [n, c, d, h, w], weights [m, c / groups, ...].
struct Conv3 {
  std::array<int64_t, 3> stride{1, 1, 1}, dilation{1, 1, 1}, begin{}, end{};
  int64_t groups = 1;
};
std::vector<float> convolve(const Tensor& x, const Tensor& w, const Conv3& conv, Shape& shape) {
  shape = Shape{x.dim(0), w.dim(0)};
  for (int d = 0; d < 3; ++d) {
    const auto i = static_cast<size_t>(d);
    shape.push_back(
        (x.dim(d + 2) + conv.begin[i] + conv.end[i] - conv.dilation[i] * (w.dim(d + 2) - 1) - 1) / conv.stride[i] + 1);
  }
  std::vector<float> y;
  for (int64_t at = 0; at < shape.count(); ++at) {
    int64_t rest = at, out[5];
    for (int d = 4; d >= 0; --d) out[d] = rest % shape[d], rest /= shape[d];
    const int64_t channels = w.dim(1), group = out[1] / (w.dim(0) / conv.groups);
    double sum = 0;
    for (int64_t i = 0; i < w.shape().count(1, 5); ++i) {
      int64_t kernel[3], r = i, offset = 0;
      for (int d = 2; d >= 0; --d) kernel[d] = r % w.dim(d + 2), r /= w.dim(d + 2);
      bool is_inside = true;
      for (int d = 0; d < 3; ++d) {
        const auto e = static_cast<size_t>(d);
        const int64_t p = out[d + 2] * conv.stride[e] - conv.begin[e] + kernel[d] * conv.dilation[e];
        is_inside &= p >= 0 && p < x.dim(d + 2);
        offset = offset * x.dim(d + 2) + p;
      }
      if (!is_inside) continue;
      const int64_t plane = out[0] * x.dim(1) + group * channels + r;
      sum += static_cast<double>(x.data<float>()[plane * x.shape().count(2, 5) + offset]) *
             w.data<float>()[out[1] * w.shape().count(1, 5) + i];
    }
    y.push_back(static_cast<float>(sum));
  }
  return y;
}

TEST(Conv, AgreesWithItsDefinition) {
  struct Case {
    Shape x, w;
    Conv3 conv;
  };
  const Case cases[] = {
      {{2, 3, 5, 6, 7}, {4, 3, 2, 3, 3}, {{1, 2, 1}, {2, 1, 1}, {1, 0, 2}, {0, 1, 1}, 1}},
      {{1, 8, 1, 9, 40}, {20, 2, 1, 3, 5}, {{1, 1, 2}, {1, 2, 3}, {0, 2, 6}, {0, 2, 5}, 4}},
      {{2, 16, 1, 6, 11}, {30, 16, 1, 1, 1}, {}},
      {{1, 16, 1, 6, 11}, {30, 16, 1, 1, 1}, {{1, 2, 2}, {1, 1, 1}, {}, {}, 1}},
      {{2, 6, 1, 20, 75}, {6, 1, 1, 3, 3}, {{1, 1, 1}, {1, 1, 1}, {0, 1, 1}, {0, 1, 1}, 6}},
      {{1, 5, 1, 9, 10}, {10, 1, 1, 3, 3}, {{1, 2, 2}, {1, 1, 1}, {0, 1, 1}, {0, 0, 1}, 5}},
      {{1, 2, 3, 2, 2}, {2, 1, 2, 5, 5}, {{1, 1, 1}, {1, 2, 1}, {1, 5, 4}, {0, 4, 4}, 2}},
  };
  for (const Case& c : cases) {
    const Tensor x = some_floats(c.x, 1), w = some_floats(c.w, 2);
    const Conv3& conv = c.conv;
    auto list = [](const std::array<int64_t, 3>& v) { return std::vector<int64_t>(v.begin(), v.end()); };
    std::vector<int64_t> pads = list(conv.begin);
    pads.insert(pads.end(), conv.end.begin(), conv.end.end());
    Shape shape;
    const std::vector<float> expected = convolve(x, w, conv, shape);
    const Value y = run_node("Conv", {x, w}, 1,
                             {{"strides", integers(list(conv.stride))},
                              {"dilations", integers(list(conv.dilation))},
                              {"pads", integers(pads)},
                              {"group", integer(conv.groups)}})[0];
    EXPECT_EQ(to_string(y.tensor.shape()), to_string(shape));
    expect_near(y, expected);
  }
}

TEST(Conv, OneAxisAutoPadAndFusions) {
  const Tensor x = floats({1, 2, 3, 4}, {1, 1, 4}), w = floats({1, 10}, {1, 1, 2});
  EXPECT_THAT(elements<float>(run_node("Conv", {x, w}, 1, {{"auto_pad", text("SAME_UPPER")}})[0]),
              ElementsAre(21, 32, 43, 4));
  EXPECT_THAT(elements<float>(run_node("Conv", {x, w, floats({100}, {1})}, 1, {{"auto_pad", text("SAME_LOWER")}})[0]),
              ElementsAre(110, 121, 132, 143));
  EXPECT_THAT(
      elements<float>(run_node("Conv", {x, w}, 1, {{"auto_pad", text("VALID")}, {"strides", integers({2})}})[0]),
      ElementsAre(21, 43));
  EXPECT_THAT(elements<float>(run_node("FusedConv", {x, w, floats({0}, {1}), floats({-30, 0, 0}, {1, 1, 3})}, 1,
                                       {{"activation", text("Clip")}, {"activation_params", reals({0, 40})}}, 1,
                                       kMicrosoft)[0]),
              ElementsAre(0, 32, 40));
}

TEST(Conv, RefusesWrongModels) {
  const Tensor x = some_floats({1, 2, 4, 4}, 1), w = some_floats({2, 2, 3, 3}, 2);
  auto conv = [&](Attributes attributes, Value weights) {
    return message_of([&] { run_node("Conv", {x, weights}, 1, attributes); });
  };
  EXPECT_THAT(conv({{"group", integer(0)}}, w), HasSubstr("group is 0"));
  EXPECT_THAT(conv({{"group", integer(2)}}, w), HasSubstr("do not fit weights"));
  EXPECT_THAT(conv({{"pads", integers({-1, 0, 0, 0})}}, w), HasSubstr("pads holds -1"));
  EXPECT_THAT(conv({{"pads", integers({1, 1})}}, w), HasSubstr("needs 4"));
  EXPECT_THAT(conv({{"strides", integers({0, 1})}}, w), HasSubstr("strides holds 0"));
  EXPECT_THAT(conv({{"dilations", integers({std::numeric_limits<int64_t>::max(), 1})}}, w),
              HasSubstr("dilations holds"));
  EXPECT_THAT(conv({{"dilations", integers({2147483647, 1})}}, w), HasSubstr("does not fit"));
  EXPECT_THAT(conv({{"kernel_shape", integers({2, 3})}}, w), HasSubstr("kernel_shape"));
  EXPECT_THAT(conv({{"auto_pad", text("SAME")}}, w), HasSubstr("SAME_UPPER"));
  EXPECT_THAT(conv({}, some_floats({2, 2, 3}, 1)), HasSubstr("need as many"));
  EXPECT_THAT(message_of([&] { run_node("Conv", {some_floats({1, 2}, 1), w}); }), HasSubstr("no spatial dimensions"));
}

TEST(ConvTranspose, IsTheTransposeOfConv) {
  // <conv(x), y> = <x, conv_transpose(y)> for every x and y.
  const Attributes attributes{{"strides", integers({2, 3})},
                              {"dilations", integers({1, 2})},
                              {"pads", integers({1, 0, 0, 2})},
                              {"group", integer(2)}};
  Attributes back = attributes;
  const Tensor x = some_floats({2, 4, 8, 12}, 1), w = some_floats({6, 2, 3, 3}, 2);
  const Tensor z = run_node("Conv", {x, w}, 1, attributes)[0].tensor;
  const Tensor y = some_floats(z.shape(), 3);
  // Rows and columns that no window of Conv reached.
  const int64_t reach_h = (z.dim(2) - 1) * 2 + 3 - 1, reach_w = (z.dim(3) - 1) * 3 + 5 - 2;
  back["output_padding"] = integers({8 - reach_h, 12 - reach_w});
  const Tensor t = run_node("ConvTranspose", {y, w}, 1, back)[0].tensor;
  ASSERT_EQ(to_string(t.shape()), to_string(x.shape()));
  double left = 0, right = 0;
  for (int64_t i = 0; i < y.count(); ++i) left += static_cast<double>(y.data<float>()[i]) * z.data<float>()[i];
  for (int64_t i = 0; i < x.count(); ++i) right += static_cast<double>(x.data<float>()[i]) * t.data<float>()[i];
  EXPECT_NEAR(left, right, 1e-3 * std::abs(left));
}

TEST(ConvTranspose, OutputShapes) {
  const Tensor x = floats({1, 2}, {1, 1, 2}), w = floats({1, 10, 100}, {1, 1, 3});
  EXPECT_THAT(elements<float>(run_node("ConvTranspose", {x, w}, 1, {{"strides", integers({2})}})[0]),
              ElementsAre(1, 10, 102, 20, 200));
  EXPECT_THAT(elements<float>(run_node("ConvTranspose", {x, w}, 1,
                                       {{"strides", integers({2})}, {"auto_pad", text("SAME_UPPER")}})[0]),
              ElementsAre(1, 10, 102, 20));
  EXPECT_THAT(elements<float>(run_node("ConvTranspose", {x, w}, 1,
                                       {{"strides", integers({2})}, {"auto_pad", text("SAME_LOWER")}})[0]),
              ElementsAre(10, 102, 20, 200));
  EXPECT_THAT(elements<float>(run_node("ConvTranspose", {x, w, floats({0.5f}, {1})}, 1,
                                       {{"strides", integers({2})}, {"output_shape", integers({1, 1, 7})}})[0]),
              ElementsAre(1.5f, 10.5f, 102.5f, 20.5f, 200.5f, 0.5f, 0.5f));
  EXPECT_THAT(message_of([&] {
                run_node("ConvTranspose", {x, w}, 1, {{"pads", integers({9, 9})}});
              }),
              HasSubstr("leave nothing"));
}

TEST(ConvInteger, PadsAreZeroPoints) {
  const Tensor x = Tensor::vector<uint8_t>({3, 4, 5}, {1, 1, 3}), w = Tensor::vector<int8_t>({1, 2, 3}, {1, 1, 3});
  // (0, 1, 2) with pads of zero: 0*2+1*3, 0*1+1*2+2*3, 1*1+2*2
  EXPECT_THAT(elements<int32_t>(
                  run_node("ConvInteger", {x, w, Tensor::scalar<uint8_t>(3)}, 1, {{"pads", integers({1, 1})}})[0]),
              ElementsAre(3, 8, 5));
  EXPECT_THAT(elements<int32_t>(run_node("ConvInteger", {x, w, Tensor::scalar<uint8_t>(3), Tensor::vector<int8_t>({1})},
                                         1, {{"pads", integers({1, 1})}})[0]),
              ElementsAre(2, 5, 2));
}

TEST(QLinearConv, ChannelsLastIsTheSame) {
  const int64_t n = 2, c = 3, pixels = 20, m = 4;
  const Tensor first = filled<uint8_t>({n, c, 4, 5}, [](int64_t i) { return static_cast<uint8_t>(i * 37); });
  const Tensor last = filled<uint8_t>({n, 4, 5, c}, [&](int64_t i) {
    return first.data<uint8_t>()[(i / (pixels * c) * c + i % c) * pixels + i / c % pixels];
  });
  const Tensor w = filled<int8_t>({m, c, 3, 3}, [](int64_t i) { return static_cast<int8_t>(i * 11); });
  auto conv = [&](const Tensor& x, const std::string& domain, Attributes attributes) {
    attributes["pads"] = integers({1, 1, 1, 1});
    return run_node("QLinearConv",
                    {x, Tensor::scalar(0.01f), Tensor::scalar<uint8_t>(100), w,
                     Tensor::vector<float>({0.1f, 0.2f, 0.3f, 0.4f}), Tensor::vector<int8_t>({0, 1, 2, -1}),
                     Tensor::scalar(0.3f), Tensor::scalar<uint8_t>(128), Tensor::vector<int32_t>({100, -100, 0, 5})},
                    1, attributes, domain.empty() ? 20 : 1, domain)[0];
  };
  const std::vector<uint8_t> a = elements<uint8_t>(conv(first, "", {})),
                             b = elements<uint8_t>(conv(last, kMicrosoft, {{"channels_last", integer(1)}}));
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < b.size(); ++i) {
    const auto at = static_cast<int64_t>(i);
    EXPECT_EQ(b[i], a[static_cast<size_t>((at / (pixels * m) * m + at % m) * pixels + at / m % pixels)]);
  }
}

TEST(DeformConv, WithoutOffsetsIsConv) {
  const Tensor x = some_floats({2, 4, 5, 6}, 1), w = some_floats({6, 2, 3, 2}, 2);
  const Attributes attributes{{"pads", integers({1, 0, 1, 1})}, {"strides", integers({2, 1})}, {"group", integer(2)}};
  const Value expected = run_node("Conv", {x, w}, 1, attributes)[0];
  Attributes deformed = attributes;
  deformed["offset_group"] = integer(2);
  const Tensor offsets = filled<float>({2, 2 * 12, 3, 6}, [](int64_t) { return 0.0f; });
  expect_near(run_node("DeformConv", {x, w, offsets}, 1, deformed)[0], elements<float>(expected));
  const Tensor lost = filled<float>({2, 2 * 12, 3, 6}, [](int64_t i) { return i % 2 == 0 ? std::nanf("") : 1e30f; });
  for (const float value : elements<float>(run_node("DeformConv", {x, w, lost}, 1, deformed)[0])) EXPECT_EQ(value, 0);
}

TEST(CausalConv, KeepsItsState) {
  const Tensor w = floats({1, 10, 100}, {1, 1, 3});
  const std::vector<Value> whole = run_node("CausalConvWithState", {floats({1, 2, 3, 4}, {1, 1, 4}), w}, 2, {}, 27);
  EXPECT_THAT(elements<float>(whole[0]), ElementsAre(100, 210, 321, 432));
  const std::vector<Value> begin = run_node("CausalConvWithState", {floats({1}, {1, 1, 1}), w}, 2, {}, 27);
  const std::vector<Value> rest =
      run_node("CausalConvWithState", {floats({2, 3, 4}, {1, 1, 3}), w, Value(), begin[1]}, 2, {}, 27);
  EXPECT_THAT(elements<float>(rest[0]), ElementsAre(210, 321, 432));
  EXPECT_EQ(elements<float>(rest[1]), elements<float>(whole[1]));
}

TEST(Pool, CeilModeIndicesAndPads) {
  const Tensor x = floats({1, 2, 3, 4, 5, 6, 7, 8, 9}, {1, 1, 3, 3});
  const Attributes two{{"kernel_shape", integers({2, 2})}, {"strides", integers({2, 2})}, {"ceil_mode", integer(1)}};
  EXPECT_THAT(elements<float>(run_node("MaxPool", {x}, 1, two)[0]), ElementsAre(5, 6, 8, 9));
  EXPECT_THAT(elements<float>(run_node("AveragePool", {x}, 1, two)[0]), ElementsAre(3, 4.5f, 7.5f, 9));
  // The second window would begin in the right pad.
  EXPECT_THAT(elements<float>(run_node("MaxPool", {floats({1, 2}, {1, 1, 2})}, 1,
                                       {{"kernel_shape", integers({2})},
                                        {"strides", integers({3})},
                                        {"pads", integers({0, 1})},
                                        {"ceil_mode", integer(1)}})[0]),
              ElementsAre(2));
  const std::vector<Value> indices =
      run_node("MaxPool", {floats({9, 1, 2, 8, 3, 3}, {1, 2, 1, 3})}, 2, {{"kernel_shape", integers({1, 2})}});
  EXPECT_THAT(elements<int64_t>(indices[1]), ElementsAre(0, 2, 3, 4));
  const std::vector<Value> columns =
      run_node("MaxPool", {x}, 2, {{"kernel_shape", integers({2, 2})}, {"storage_order", integer(1)}});
  EXPECT_THAT(elements<int64_t>(columns[1]), ElementsAre(4, 7, 5, 8));
  EXPECT_THAT(elements<int8_t>(run_node("MaxPool", {Tensor::vector<int8_t>({-5, -3, -9}, {1, 1, 3})}, 1,
                                        {{"kernel_shape", integers({2})}, {"pads", integers({1, 0})}})[0]),
              ElementsAre(-5, -3, -3));
  // Windows of three pads or pixels: the last one reaches one beyond the pads.
  EXPECT_THAT(elements<float>(run_node("AveragePool", {floats({6, 6, 6, 6}, {1, 1, 4})}, 1,
                                       {{"kernel_shape", integers({3})},
                                        {"strides", integers({3})},
                                        {"pads", integers({1, 0})},
                                        {"ceil_mode", integer(1)},
                                        {"count_include_pad", integer(1)}})[0]),
              ElementsAre(4, 6));
  EXPECT_THAT(
      elements<float>(run_node("LpPool", {floats({3, -4, 12}, {1, 1, 3})}, 1, {{"kernel_shape", integers({2})}})[0]),
      Pointwise(FloatNear(1e-5f), {5.0f, std::sqrt(160.0f)}));
  EXPECT_TRUE(std::isnan(elements<float>(
      run_node("MaxPool", {floats({1, std::nanf(""), 3}, {1, 1, 3})}, 1, {{"kernel_shape", integers({3})}})[0])[0]));
  EXPECT_THAT(message_of([&] { run_node("MaxPool", {x}); }), HasSubstr("kernel_shape"));
  EXPECT_THAT(message_of([&] {
                run_node("MaxPool", {x}, 1, {{"kernel_shape", integers({9, 1})}});
              }),
              HasSubstr("does not fit"));
  EXPECT_THAT(message_of([&] {
                run_node("AveragePool", {x}, 1,
                         {{"kernel_shape", integers({1, 1 << 30})}, {"dilations", integers({1, 1 << 30})}});
              }),
              HasSubstr("does not fit"));
}

TEST(MaxUnpool, IndicesOfEitherShape) {
  const Attributes two{{"kernel_shape", integers({2, 2})}, {"strides", integers({2, 2})}};
  const Tensor shape = Tensor::vector<int64_t>({1, 1, 5, 5});
  const Tensor x = some_floats({1, 1, 5, 5}, 3);
  const std::vector<Value> pooled = run_node("MaxPool", {x}, 2, two);
  const std::vector<float> back = elements<float>(run_node("MaxUnpool", {pooled[0], pooled[1], shape}, 1, two)[0]);
  const std::vector<int64_t> places = elements<int64_t>(pooled[1]);
  for (size_t i = 0; i < places.size(); ++i)
    EXPECT_EQ(back[static_cast<size_t>(places[i])], x.data<float>()[places[i]]);
  // Indices through the 4x4 tensor that the attributes lead to: 13 is in the last row of it.
  const std::vector<float> other = elements<float>(run_node(
      "MaxUnpool", {floats({1, 2, 3, 4}, {1, 1, 2, 2}), Tensor::vector<int64_t>({5, 7, 13, 15}, {1, 1, 2, 2}), shape},
      1, two)[0]);
  EXPECT_EQ(other[6], 1);
  EXPECT_EQ(other[18], 4);
  EXPECT_THAT(message_of([&] {
                run_node("MaxUnpool", {floats({1}, {1, 1, 1, 1}), Tensor::vector<int64_t>({-1}, {1, 1, 1, 1})}, 1, two);
              }),
              HasSubstr("index -1"));
}

TEST(BatchNorm, OldOpsets) {
  const Tensor x = floats({1, 2, 3, 4}, {2, 2, 1}), one = floats({1, 1}, {2}), zero = floats({0, 0}, {2}),
               mean = floats({2, 3}, {2});
  const Attributes exact{{"epsilon", real(0)}};
  EXPECT_THAT(elements<float>(run_node("BatchNormalization", {x, one, zero, mean, one}, 1, exact, 7)[0]),
              ElementsAre(-1, -1, 1, 1));
  // Each feature has its own statistics.
  const Tensor wide = floats({1, 2, 3, 4}, {1, 1, 4});
  EXPECT_THAT(elements<float>(run_node("BatchNormalization",
                                       {wide, floats({1, 1, 1, 1}, {1, 4}), floats({0, 0, 0, 0}, {1, 4}),
                                        floats({1, 1, 1, 1}, {1, 4}), floats({1, 1, 4, 1}, {1, 4})},
                                       1, {{"epsilon", real(0)}, {"spatial", integer(0)}}, 7)[0]),
              ElementsAre(0, 1, 1, 3));
  const std::vector<Value> trained = run_node("BatchNormalization", {x, one, zero, zero, zero}, 5,
                                              {{"epsilon", real(0)}, {"momentum", real(0.5f)}}, 9);
  EXPECT_THAT(elements<float>(trained[0]), ElementsAre(-1, -1, 1, 1));
  EXPECT_THAT(elements<float>(trained[1]), ElementsAre(1, 1.5f));
  EXPECT_THAT(elements<float>(trained[2]), ElementsAre(0.5f, 0.5f));
  EXPECT_THAT(elements<float>(trained[3]), ElementsAre(2, 3));
  EXPECT_THAT(message_of([&] {
                run_node("BatchNormalization", {x, one, zero, mean, one}, 2, {}, 15);
              }),
              HasSubstr("training"));
  EXPECT_THAT(message_of([&] {
                run_node("BatchNormalization", {x, floats({1, 1, 1}, {3}), zero, mean, one}, 1, {}, 15);
              }),
              HasSubstr("2 channels"));
}

TEST(GroupNorm, ParametersOfGroupsOrChannels) {
  const Tensor x = floats({0, 2, 4, 8}, {1, 4, 1});
  const Attributes two{{"num_groups", integer(2)}, {"epsilon", real(0)}};
  EXPECT_THAT(
      elements<float>(run_node("GroupNormalization", {x, floats({1, 10}, {2}), floats({0, 1}, {2})}, 1, two, 18)[0]),
      ElementsAre(-1, 1, -9, 11));
  EXPECT_THAT(elements<float>(run_node("GroupNormalization", {x, floats({1, 2, 3, 4}, {4}), floats({0, 0, 0, 1}, {4})},
                                       1, two, 21)[0]),
              ElementsAre(-1, 2, -3, 5));
  // [1, 1, 1, 4] with channels last.
  EXPECT_THAT(
      elements<float>(run_node(
          "GroupNorm", {floats({0, 2, 4, 8}, {1, 1, 1, 4}), floats({1, 2, 3, 4}, {4}), floats({0, 0, 0, 1}, {4})}, 1,
          {{"groups", integer(2)}, {"activation", integer(0)}, {"epsilon", real(0)}}, 1, kMicrosoft)[0]),
      ElementsAre(-1, 2, -3, 5));
  EXPECT_THAT(message_of([&] {
                run_node("GroupNormalization", {x, x, x}, 1, {{"num_groups", integer(3)}}, 18);
              }),
              HasSubstr("do not divide"));
}

TEST(LayerNorm, BroadcastsScaleAndTakesOldOpsets) {
  const Tensor x = floats({0, 2, 4, 8}, {2, 2});
  const Attributes exact{{"epsilon", real(0)}};
  const std::vector<Value> all =
      run_node("LayerNormalization", {x, floats({10, 20}, {2, 1}), floats({1}, {1})}, 3, exact, 17);
  EXPECT_THAT(elements<float>(all[0]), ElementsAre(-9, 11, -19, 21));
  EXPECT_THAT(elements<float>(all[1]), ElementsAre(1, 6));
  EXPECT_THAT(elements<float>(all[2]), ElementsAre(1, 0.5f));
  EXPECT_EQ(to_string(all[1].tensor.shape()), "2x1");
  EXPECT_THAT(elements<float>(run_node("LayerNormalization", {x, floats({1, 2}, {2})}, 1, exact, 9)[0]),
              ElementsAre(-1, 2, -1, 2));
  expect_near(run_node("SimplifiedLayerNormalization", {floats({3, 4}, {1, 2}), floats({1, 1}, {2})}, 1, exact, 11)[0],
              {3 / std::sqrt(12.5f), 4 / std::sqrt(12.5f)});
  EXPECT_THAT(message_of([&] {
                run_node("LayerNormalization", {x, floats({1, 2, 3}, {3})}, 1, {}, 17);
              }),
              HasSubstr("does not broadcast"));
  EXPECT_THAT(message_of([&] {
                run_node("LayerNormalization", {x, x}, 1, {{"axis", integer(2)}}, 17);
              }),
              HasSubstr("axis 2"));
}

TEST(ContribNorm, SkipsEmbeddingsAndBiases) {
  const Tensor x = floats({0, 1, 2, 3}, {1, 2, 2}), skip = floats({0, 1, 2, 5}, {2, 2});
  const std::vector<Value> skipped =
      run_node("SkipLayerNormalization", {x, skip, floats({1, 2}, {2}), floats({0, 1}, {2}), floats({1, 1}, {2})}, 4,
               {{"epsilon", real(0)}}, 1, kMicrosoft);
  EXPECT_THAT(elements<float>(skipped[3]), ElementsAre(1, 3, 5, 9));
  EXPECT_THAT(elements<float>(skipped[0]), ElementsAre(-1, 3, -1, 3));
  const Value rms = run_node("SkipSimplifiedLayerNormalization",
                             {floats({1, 2}, {1, 2}), floats({2, 2}, {1, 2}), floats({1, 1}, {2})}, 1,
                             {{"epsilon", real(0)}}, 1, kMicrosoft)[0];
  expect_near(rms, {3 / std::sqrt(12.5f), 4 / std::sqrt(12.5f)});
  const Tensor words = floats({0, 0, 1, 3}, {2, 2}), positions = floats({0, 2, 1, 0}, {2, 2});
  auto embed = [&](std::vector<int32_t> ids) {
    return run_node("EmbedLayerNormalization",
                    {Tensor::vector(ids, Shape{1, 2}), Value(), words, positions, Value(), floats({1, 1}, {2}),
                     floats({0, 0}, {2}), Tensor::vector<int32_t>({1, 0}, {1, 2})},
                    3, {{"epsilon", real(0)}}, 1, kMicrosoft);
  };
  const std::vector<Value> embedded = embed({0, 1});
  EXPECT_THAT(elements<float>(embedded[0]), ElementsAre(-1, 1, -1, 1));
  EXPECT_THAT(elements<int32_t>(embedded[1]), ElementsAre(1));
  EXPECT_THAT(elements<float>(embedded[2]), ElementsAre(0, 2, 2, 3));
  EXPECT_THAT(message_of([&] { embed({0, 2}); }), HasSubstr("holds 2"));
  EXPECT_THAT(elements<float>(run_node("BiasAdd", {x, floats({1, 2}, {2}), x}, 1, {}, 1, kMicrosoft)[0]),
              ElementsAre(1, 4, 5, 8));
  expect_near(run_node("BiasSplitGelu", {floats({2, 1}, {1, 1, 2}), floats({1, -1}, {2})}, 1, {}, 1, kMicrosoft)[0],
              {0});
  expect_near(run_node("BiasSoftmax", {floats({0, 0, 0, 0}, {2, 2}), floats({0, std::log(3.0f)}, {2})}, 1,
                       {{"axis", integer(1)}, {"is_inner_broadcast", integer(0)}}, 1, kMicrosoft)[0],
              {0.25f, 0.75f, 0.25f, 0.75f});
}

TEST(Norm, VectorsAndChannels) {
  EXPECT_THAT(elements<float>(run_node("LpNormalization", {floats({3, 4, 0, 0}, {2, 2})})[0]),
              Pointwise(FloatNear(1e-6f), {0.6f, 0.8f, 0.0f, 0.0f}));
  // Channels 0 and 1 see both squares (size 3); 1 / (1 + 3/3 * sum)
  expect_near(
      run_node("LRN", {floats({1, 2}, {1, 2, 1})}, 1, {{"size", integer(3)}, {"alpha", real(3)}, {"beta", real(1)}})[0],
      {1 / 6.0f, 2 / 6.0f});
  expect_near(
      run_node("LRN", {floats({1, 2}, {1, 2, 1})}, 1, {{"size", integer(std::numeric_limits<int64_t>::max())}})[0],
      {1, 2});
  expect_near(run_node("MeanVarianceNormalization", {floats({1, 3, 5, 9}, {2, 2, 1, 1})})[0], {-1, -1, 1, 1});
  expect_near(
      run_node("InstanceNormalization", {floats({1, 3, 0, 4}, {1, 2, 2}), floats({1, 2}, {2}), floats({0, 1}, {2})}, 1,
               {{"epsilon", real(0)}})[0],
      {-1, 1, -1, 3});
}

TEST(Shapes, StaySymbolic) {
  auto infer = [](const std::string& op, std::vector<ValueType> types, Attributes attributes) {
    Builder b;
    std::vector<ValueId> ids;
    for (const ValueType& type : types) ids.push_back(b.input(type));
    Graph graph = b.finish({b.node(op, ids, std::move(attributes))});
    std::vector<std::string> problems;
    infer_types(graph, problems);
    EXPECT_TRUE(problems.empty());
    return to_string(graph.value(graph.outputs[0]).type);
  };
  auto type = [](Dims dims) { return ValueType::tensor(ElementType::kF32, std::move(dims)); };
  const Dim n = Dim::symbol("n"), h = Dim::symbol("h");
  EXPECT_EQ(infer("MatMul", {type({n, 3, h}), type({h, 5})}, {}), "float32 [n x 3 x 5]");
  EXPECT_EQ(infer("Conv", {type({n, 3, h, 8}), type({4, 3, 3, 3})}, {{"pads", integers({1, 1, 1, 1})}}),
            "float32 [n x 4 x h x 8]");
  EXPECT_EQ(infer("MaxPool", {type({n, 3, h})}, {{"kernel_shape", integers({2})}}), "float32 [n x 3 x h - 1]");
  EXPECT_EQ(infer("ConvTranspose", {type({n, 3, h}), type({3, 2, 2})}, {{"strides", integers({2})}}),
            "float32 [n x 2 x 2*h]");
  EXPECT_EQ(infer("Einsum", {type({n, h}), type({n, 4})}, {{"equation", text("ab,ac->bc")}}), "float32 [h x 4]");
  EXPECT_EQ(infer("GlobalAveragePool", {type({n, 3, h, h})}, {}), "float32 [n x 3 x 1 x 1]");
}

}  // namespace
}  // namespace sluice::graph
