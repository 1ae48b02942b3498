// Elementwise, unary, activation, cast, quantize, random, reduce, softmax and loss operators, where ONNX's own test
// data does not look: vector functions over all of float, broadcasting against a plain loop, old opsets, ONNX Runtime's
// operators and hostile input. Numbers in tables were worked out by hand, or with NumPy where a comment says so.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "base/random.h"
#include "base/thread_pool.h"
#include "graph/executor.h"
#include "graph/float_types.h"
#include "graph/ops/elementwise.h"
#include "graph/ops/vector_math.h"

namespace sluice::graph::ops {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

Attribute number(float f) { return {.kind = Attribute::Kind::kFloat, .f = f}; }
Attribute integer(int64_t i) { return {.kind = Attribute::Kind::kInt, .i = i}; }
Attribute integers(std::vector<int64_t> ints) { return {.kind = Attribute::Kind::kInts, .ints = std::move(ints)}; }
Attribute text(std::string s) { return {.kind = Attribute::Kind::kString, .s = std::move(s)}; }

struct Call {
  std::string op;
  int opset = 20;
  std::string domain;
  std::map<std::string, Attribute, std::less<>> attributes;
  int num_outputs = 1;
};

// A null tensor is an input that is left out.
std::vector<Tensor> run(const Call& call, const std::vector<Tensor>& inputs) {
  static ThreadPool pool(2);
  Node node;
  node.op_type = node.name = call.op;
  node.domain = call.domain;
  node.opset = call.opset;
  node.attributes = call.attributes;
  std::vector<Value> values(inputs.begin(), inputs.end());
  std::vector<const Value*> pointers;
  for (size_t i = 0; i < inputs.size(); ++i) {
    node.inputs.push_back(inputs[i].is_null() ? kNoValue : static_cast<ValueId>(i));
    pointers.push_back(inputs[i].is_null() ? nullptr : &values[i]);
  }
  for (int i = 0; i < call.num_outputs; ++i) node.outputs.push_back(100 + i);
  node.op = find_op(node.domain, node.op_type, node.opset);
  if (node.op == nullptr) fail(Code::kNotFound, "{}", explain_missing_op(node.domain, node.op_type, node.opset));
  std::vector<Tensor> outputs;
  for (const Value& value : evaluate(node, pointers, pool)) outputs.push_back(value.tensor);
  return outputs;
}

template <typename T>
Tensor tensor(const std::vector<T>& values, Shape shape) {
  return Tensor::vector(values, shape);
}
template <typename T>
Tensor row(const std::vector<T>& values) {
  return Tensor::vector(values);
}
Tensor bytes(ElementType type, const std::vector<uint8_t>& codes) { return Tensor::vector(codes).with_type(type); }

template <typename T>
std::vector<T> values(const Tensor& t) {
  EXPECT_EQ(t.type(), type_of<T>());
  return {t.values<T>().begin(), t.values<T>().end()};
}

void expect_near(const Tensor& t, const std::vector<float>& expected, float tolerance = 1e-6f) {
  const std::vector<float> found = values<float>(t);
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    if (std::isnan(expected[i]) || std::isinf(expected[i]))
      EXPECT_TRUE(found[i] == expected[i] || (std::isnan(found[i]) && std::isnan(expected[i])))
          << i << ": " << found[i];
    else EXPECT_NEAR(found[i], expected[i], tolerance * std::max(1.0f, std::abs(expected[i]))) << i;
  }
}

void expect_error(const Call& call, const std::vector<Tensor>& inputs, const std::string& part) {
  try {
    run(call, inputs);
    FAIL() << call.op << ": no error that has '" << part << "'";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

// Against the C functions in double, over every exponent, both signs and some 4 million mantissas.
TEST(VectorMath, AgreesWithDouble) {
  struct Case {
    const char* name;
    float (*fast)(float);
    double (*exact)(double);
    double ulps, from;
  };
  const Case cases[] = {
      {"exp", fast_exp, [](double x) { return std::exp(x); }, 1.5, -kInf},
      {"expm1", fast_expm1, [](double x) { return std::expm1(x); }, 2, -kInf},
      {"log", fast_log, [](double x) { return std::log(x); }, 1.5, -kInf},
      {"log1p", fast_log1p, [](double x) { return std::log1p(x); }, 2, 0},
      {"tanh", fast_tanh, [](double x) { return std::tanh(x); }, 2, -kInf},
      {"erf", fast_erf, [](double x) { return std::erf(x); }, 2, -kInf},
      {"sigmoid", fast_sigmoid, [](double x) { return 1 / (1 + std::exp(-x)); }, 3, -85},
      {"round", round_even, [](double x) { return std::nearbyint(x); }, 0, -kInf},
      {"floor", round_down, [](double x) { return std::floor(x); }, 0, -kInf},
      {"ceil", round_up, [](double x) { return std::ceil(x); }, 0, -kInf},
  };
  for (const Case& c : cases) {
    for (uint64_t bits = 0; bits <= 0xffffffffu; bits += 9973) {
      const float x = bits_to_float(static_cast<uint32_t>(bits));
      if (x < c.from) continue;
      const double exact = c.exact(static_cast<double>(x));
      const float expected = static_cast<float>(exact), found = c.fast(x);
      if (found == expected || (std::isnan(found) && std::isnan(expected))) continue;
      const float next = std::nextafter(std::fabs(expected), kInf);
      const double ulp =
          std::isinf(next) ? 0x1.0p104 : static_cast<double>(next) - std::fabs(static_cast<double>(expected));
      ASSERT_LE(std::fabs(static_cast<double>(found) - exact), c.ulps * ulp) << c.name << "(" << x << ") = " << found;
    }
  }
}

TEST(Elementwise, BroadcastsLikeAPlainLoop) {
  const std::pair<Shape, Shape> shapes[] = {
      {{}, {}},
      {{}, {3}},
      {{2, 3}, {3}},
      {{2, 1, 4}, {3, 1}},
      {{1}, {5, 7}},
      {{4, 5, 6}, {4, 1, 6}},
      {{4, 1, 6}, {1, 5, 1}},
      {{3, 100}, {3, 1}},
      {{2, 3, 40, 40}, {3, 1, 1}},
      {{0, 3}, {3}},
      {{1, 3}, {0, 1}},
      {{70000}, {1}},
      {{300, 300}, {300}},
      {{300, 1}, {1, 300}},
      {{2, 2, 2, 2, 2}, {2, 1, 2, 1, 2}},
  };
  for (const auto& [a, b] : shapes) {
    Tensor x(ElementType::kF32, a), y(ElementType::kF32, b);
    for (int64_t i = 0; i < x.count(); ++i) x.data<float>()[i] = static_cast<float>(i);
    for (int64_t i = 0; i < y.count(); ++i) y.data<float>()[i] = static_cast<float>(i) * 0.25f;
    const Tensor z = run({"Sub"}, {x, y})[0];
    auto at = [&](const Tensor& t, int64_t index) {
      int64_t offset = 0, step = 1;
      for (int i = z.rank() - 1; i >= 0; --i) {
        const int own = i - (z.rank() - t.rank());
        if (own >= 0) {
          if (t.dim(own) != 1) offset += index % z.dim(i) * step;
          step *= t.dim(own);
        }
        index /= z.dim(i);
      }
      return t.data<float>()[offset];
    };
    for (int64_t i = 0; i < z.count(); ++i)
      ASSERT_EQ(z.data<float>()[i], at(x, i) - at(y, i)) << to_string(a) << " - " << to_string(b);
  }
  expect_error({"Add"}, {Tensor(ElementType::kF32, {2, 3}), Tensor(ElementType::kF32, {2})}, "broadcast");
  expect_error({"Add"}, {Tensor(ElementType::kF32, {2}), Tensor(ElementType::kF64, {2})}, "one element type");
}

TEST(Elementwise, IntegersDoNotTrap) {
  const int32_t low = std::numeric_limits<int32_t>::min();
  const Tensor a = row<int32_t>({7, -7, low, 5, low}), b = row<int32_t>({-2, 2, -1, 0, 1});
  EXPECT_EQ(values<int32_t>(run({"Div"}, {a, b})[0]), (std::vector<int32_t>{-3, -3, low, 0, low}));
  EXPECT_EQ(values<int32_t>(run({"Mod"}, {a, b})[0]), (std::vector<int32_t>{-1, 1, 0, 0, 0}));
  EXPECT_EQ(values<int32_t>(run({"Mod", 20, "", {{"fmod", integer(1)}}}, {a, b})[0]),
            (std::vector<int32_t>{1, -1, 0, 0, 0}));
  EXPECT_EQ(values<int32_t>(run({"Abs"}, {a})[0]), (std::vector<int32_t>{7, 7, low, 5, low}));
  EXPECT_EQ(values<int32_t>(run({"Neg"}, {a})[0]), (std::vector<int32_t>{-7, 7, low, -5, low}));
  EXPECT_EQ(values<int32_t>(run({"Mul"}, {a, row<int32_t>({2})})[0]), (std::vector<int32_t>{14, -14, 0, 10, 0}));
  EXPECT_EQ(values<uint16_t>(run({"Mul"}, {row<uint16_t>({65535}), row<uint16_t>({65535})})[0]),
            (std::vector<uint16_t>{1}));
  EXPECT_EQ(values<uint8_t>(run({"BitShift", 11, "", {{"direction", text("LEFT")}}},
                                {row<uint8_t>({255, 255}), row<uint8_t>({4, 8})})[0]),
            (std::vector<uint8_t>{0xf0, 0}));
  EXPECT_EQ(values<int64_t>(run({"Pow"}, {row<int64_t>({3, -1, -1, 2, 0}), row<int64_t>({4, -3, -2, -1, 0})})[0]),
            (std::vector<int64_t>{81, -1, 1, 0, 1}));
  EXPECT_EQ(values<int32_t>(run({"Pow"}, {row<int32_t>({4, 10}), row<float>({0.5f, 30.0f})})[0]),
            (std::vector<int32_t>{2, std::numeric_limits<int32_t>::max()}));
}

TEST(Elementwise, FloatsKeepNans) {
  const Tensor a = row<float>({1, kNan, 3, -0.0f}), b = row<float>({kNan, 2, 1, kInf});
  expect_near(run({"Min"}, {a, b})[0], {kNan, kNan, 1, 0});
  expect_near(run({"Max"}, {a, b, row<float>({2})})[0], {kNan, kNan, 3, kInf});
  expect_near(run({"Mean"}, {row<float>({1, 2}), row<float>({3}), row<float>({5, 8})})[0], {3, 13.0f / 3});
  expect_near(run({"Mod", 20, "", {{"fmod", integer(1)}}}, {row<float>({-4.3f, 7.2f}), row<float>({2.1f, -3.4f})})[0],
              {-0.1f, 0.4f});
  expect_near(run({"Pow"}, {row<float>({-2, -kInf, 4, 0}), row<float>({0.5f})})[0], {kNan, kInf, 2, 0});
  expect_near(run({"Pow"}, {row<float>({-2, 3}), row<int64_t>({2})})[0], {4, 9});
  EXPECT_EQ(values<bool>(run({"LessOrEqual"}, {a, b})[0]), (std::vector<bool>{false, false, false, true}));
}

TEST(Elementwise, OldBroadcastAttributes) {
  // [2, 3, 1] + [3] laid along dimension 1.
  const Tensor z = run({"Add", 6, "", {{"axis", integer(1)}, {"broadcast", integer(1)}}},
                       {tensor<float>({0, 1, 2, 3, 4, 5}, {2, 3, 1}), row<float>({10, 20, 30})})[0];
  EXPECT_EQ(values<float>(z), (std::vector<float>{10, 21, 32, 13, 24, 35}));
  expect_error({"Add", 6, "", {{"axis", integer(9)}, {"broadcast", integer(1)}}},
               {row<float>({1, 2}), row<float>({1, 2})}, "axis 9");
  expect_near(run({"PRelu", 6}, {tensor<float>({-1, -1, -1, -1}, {1, 2, 1, 2}), row<float>({2, 3})})[0],
              {-2, -2, -3, -3});
}

TEST(Elementwise, WhereMovesAnything) {
  const Tensor condition = tensor<bool>({true, false}, {2, 1});
  EXPECT_EQ(values<std::string>(run({"Where"}, {condition, row<std::string>({"a", "b"}), row<std::string>({"c"})})[0]),
            (std::vector<std::string>{"a", "b", "c", "c"}));
  EXPECT_EQ(
      values<int64_t>(run({"Where"}, {row<bool>({true, false, true}), row<int64_t>({1, 2, 3}), row<int64_t>({9})})[0]),
      (std::vector<int64_t>{1, 9, 3}));
  EXPECT_EQ(values<bool>(run({"Equal"}, {row<std::string>({"x", "y"}), row<std::string>({"y"})})[0]),
            (std::vector<bool>{false, true}));
  expect_error({"Where"}, {row<float>({1}), row<float>({1}), row<float>({1})}, "bools");
}

TEST(Activation, Values) {
  const Tensor x = row<float>({-2, -0.5f, 0, 0.5f, 2, kNan});
  // NumPy: x / (1 + exp(-1.702 x)); 0.5 x (1 + tanh(0.7978845608 (x + 0.044715 x^3))); x sigmoid(x)
  expect_near(run({"QuickGelu", 1, kMicrosoft}, {x})[0],
              {-0.06434138f, -0.14961156f, 0, 0.35038844f, 1.93565862f, kNan});
  expect_near(run({"FastGelu", 1, kMicrosoft}, {x})[0], {-0.04540231f, -0.15428599f, 0, 0.34571401f, 1.95459769f, kNan},
              3e-6f);
  expect_near(run({"Swish", 24}, {x})[0], {-0.23840584f, -0.18877033f, 0, 0.31122967f, 1.76159416f, kNan});
  expect_near(run({"Gelu", 1, kMicrosoft}, {x})[0], {-0.04550026f, -0.15426877f, 0, 0.34573123f, 1.95449974f, kNan},
              3e-6f);
  expect_near(run({"BiasGelu", 1, kMicrosoft}, {row<float>({-3, 0}), row<float>({1, 2})})[0],
              {-0.04550026f, 1.95449974f}, 3e-6f);
  expect_near(run({"FastGelu", 1, kMicrosoft}, {row<float>({-3, 0}), row<float>({1, 2})})[0],
              {-0.04540231f, 1.95459769f}, 3e-6f);
  expect_near(run({"Softplus"}, {row<float>({-30, 0, 30, 200, -200})})[0], {9.357623e-14f, 0.69314718f, 30, 200, 0});
  expect_near(run({"Mish"}, {row<float>({-kInf, 0, 100, -1})})[0], {kNan, 0, 100, -0.30340146f});
  expect_near(run({"Celu", 12, "", {{"alpha", number(2)}}}, {x})[0], {-1.26424112f, -0.44239843f, 0, 0.5f, 2, kNan});
  expect_near(run({"Selu"}, {row<float>({-1, 1})})[0], {-1.1113307f, 1.05070098f});
  expect_near(run({"Clip", 6, "", {{"max", number(1)}}}, {x})[0], {-2, -0.5f, 0, 0.5f, 1, kNan});
  expect_near(run({"Clip", 13}, {x, Tensor(), Tensor::scalar(0.25f)})[0], {-2, -0.5f, 0, 0.25f, 0.25f, kNan});
  EXPECT_EQ(values<int32_t>(run({"Clip", 13}, {row<int32_t>({-5, 5}), Tensor::scalar<int32_t>(0)})[0]),
            (std::vector<int32_t>{0, 5}));
  EXPECT_EQ(values<int8_t>(run({"Shrink", 9, "", {{"bias", number(-100)}, {"lambd", number(1)}}},
                               {row<int8_t>({-100, 0, 100})})[0]),
            (std::vector<int8_t>{-128, 0, 127}));
  expect_error({"Clip", 13}, {x, row<float>({1, 2})}, "single number");
  expect_error({"PRelu"}, {x, row<float>({1, 2})}, "does not broadcast");
  expect_error({"BiasGelu", 1, kMicrosoft}, {x, row<float>({1, 2})}, "does not fit");
}

Call cast_to(ElementType to) { return {"Cast", 25, "", {{"to", integer(static_cast<int64_t>(to))}}}; }

TEST(Cast, NumbersAndText) {
  EXPECT_EQ(
      values<std::string>(run(cast_to(ElementType::kString), {row<float>({1, 0.1f, -2.5f, 1e20f, kInf, kNan})})[0]),
      (std::vector<std::string>{"1.0", "0.1", "-2.5", "1e+20", "INF", "NaN"}));
  EXPECT_EQ(values<std::string>(run(cast_to(ElementType::kString), {row<int8_t>({-128, 7})})[0]),
            (std::vector<std::string>{"-128", "7"}));
  const Tensor words = row<std::string>({"1", " -2.5 ", "1e3", "+inf", "-INF", "NaN", "1e999"});
  expect_near(run(cast_to(ElementType::kF32), {words})[0], {1, -2.5f, 1000, kInf, -kInf, kNan, kInf});
  EXPECT_EQ(
      values<int64_t>(run(cast_to(ElementType::kI64), {row<std::string>({"9223372036854775807", "100.5", "-7"})})[0]),
      (std::vector<int64_t>{std::numeric_limits<int64_t>::max(), 100, -7}));
  expect_error(cast_to(ElementType::kF32), {row<std::string>({"Hello World!"})}, "Hello");
  expect_error(cast_to(ElementType::kF32), {row<std::string>({""})}, "no number");
  EXPECT_EQ(values<int32_t>(run(cast_to(ElementType::kI32), {row<float>({1.9f, -1.9f, 3e9f, -3e9f, kNan, kInf})})[0]),
            (std::vector<int32_t>{1, -1, std::numeric_limits<int32_t>::max(), std::numeric_limits<int32_t>::min(), 0,
                                  std::numeric_limits<int32_t>::max()}));
  EXPECT_EQ(values<int64_t>(run(cast_to(ElementType::kI64), {row<double>({9.3e18, -9.3e18})})[0]),
            (std::vector<int64_t>{std::numeric_limits<int64_t>::max(), std::numeric_limits<int64_t>::min()}));
  EXPECT_EQ(values<uint8_t>(run(cast_to(ElementType::kU8), {row<float>({-1, 257, 3.7f})})[0]),
            (std::vector<uint8_t>{255, 1, 3}));
  EXPECT_EQ(values<bool>(run(cast_to(ElementType::kBool), {row<float>({0, -0.0f, 0.1f, kNan})})[0]),
            (std::vector<bool>{false, false, true, true}));
  expect_error({"Cast", 25, "", {{"to", integer(99)}}}, {row<float>({1})}, "element type 99");
  expect_error(cast_to(ElementType::kC64), {row<float>({1})}, "complex64");
}

// Every type to every other and back, of numbers that all of them hold exactly: 0 and 1.
TEST(Cast, EveryPairOfTypes) {
  std::vector<ElementType> types;
  for (int t = 1; t < kNumElementTypes; ++t) {
    const auto type = static_cast<ElementType>(t);
    if (type != ElementType::kC64 && type != ElementType::kC128) types.push_back(type);
  }
  for (const ElementType a : types) {
    for (const ElementType b : types) {
      // float8e8m0 has no 0.
      const bool has_zero = a != ElementType::kF8E8M0 && b != ElementType::kF8E8M0;
      std::vector<float> start;
      for (int i = 0; i < 1500; ++i) start.push_back(has_zero && i % 3 == 0 ? 0.0f : 1.0f);
      // int2 holds 1, and so does everything.
      const Tensor x = run(cast_to(a), {row<float>(start)})[0];
      const Tensor y = run(cast_to(b), {x})[0];
      if (y.type() == ElementType::kString && a == ElementType::kBool) continue;  // "True" is no number
      const Tensor back = run(cast_to(ElementType::kF32), {y})[0];
      ASSERT_EQ(values<float>(back), start) << name(a) << " to " << name(b);
    }
  }
}

TEST(Cast, SmallIntegersWrapAndBitCastKeepsBits) {
  const Tensor narrow = run(cast_to(ElementType::kI4), {row<float>({-9, 7.9f, 8, 255})})[0];
  EXPECT_EQ(values<int32_t>(run(cast_to(ElementType::kI32), {narrow})[0]), (std::vector<int32_t>{7, 7, -8, -1}));
  const Tensor as_unsigned =
      run({"BitCast", 26, "", {{"to", integer(static_cast<int64_t>(ElementType::kU4))}}}, {narrow})[0];
  EXPECT_EQ(values<int32_t>(run(cast_to(ElementType::kI32), {as_unsigned})[0]), (std::vector<int32_t>{7, 7, 8, 15}));
  expect_error({"BitCast", 26, "", {{"to", integer(1)}}}, {row<double>({1})}, "another width");
}

TEST(Quantize, PerTensorAxisAndBlocks) {
  const Tensor x = tensor<float>({-1, 0.5f, 1.5f, 2.5f, 300, kNan}, {2, 3});
  EXPECT_EQ(values<uint8_t>(run({"QuantizeLinear", 13}, {x, Tensor::scalar(1.0f), Tensor::scalar<uint8_t>(1)})[0]),
            (std::vector<uint8_t>{0, 1, 3, 3, 255, 0}));
  EXPECT_EQ(values<int8_t>(run({"QuantizeLinear", 13, "", {{"axis", integer(-2)}}},
                               {x, row<float>({0.5f, 100}), row<int8_t>({0, 1})})[0]),
            (std::vector<int8_t>{-2, 1, 3, 1, 4, -128}));
  // Blocks of 2 along the last axis, the last one short; and along the first.
  EXPECT_EQ(values<float>(run({"DequantizeLinear", 21, "", {{"axis", integer(1)}, {"block_size", integer(2)}}},
                              {tensor<int8_t>({1, 2, 3, 4, 5, 6}, {2, 3}), tensor<float>({1, 10, 2, 20}, {2, 2})})[0]),
            (std::vector<float>{1, 2, 30, 8, 10, 120}));
  EXPECT_EQ(values<float>(run({"DequantizeLinear", 21, "", {{"axis", integer(0)}, {"block_size", integer(2)}}},
                              {tensor<int8_t>({1, 2, 3, 4, 5, 6}, {3, 2}), tensor<float>({1, 10, 2, 20}, {2, 2})})[0]),
            (std::vector<float>{1, 20, 3, 40, 10, 120}));
  EXPECT_EQ(values<float>(run({"DequantizeLinear", 10}, {row<int32_t>({-3, 4}), Tensor::scalar(0.5f)})[0]),
            (std::vector<float>{-1.5f, 2}));
  const Tensor narrow =
      run({"QuantizeLinear", 25, "", {{"output_dtype", integer(static_cast<int64_t>(ElementType::kI2))}}},
          {row<float>({-9, -1, 1, 9}), Tensor::scalar(1.0f)})[0];
  EXPECT_EQ(values<int32_t>(run(cast_to(ElementType::kI32), {narrow})[0]), (std::vector<int32_t>{-2, -1, 1, 1}));
  // NumPy: f16(4.316) / f16(1.233) is 3.4996 in f32, and 3.5 in f16, which goes to 4.
  const Tensor halves = run(cast_to(ElementType::kF16), {row<float>({4.316f, 1.233f})})[0];
  const Tensor x_half = halves.slice(0, {1}), scale_half = halves.slice(1, {});
  EXPECT_EQ(values<uint8_t>(run({"QuantizeLinear", 21}, {x_half, scale_half})[0]), (std::vector<uint8_t>{4}));
  const Call precise = {"QuantizeLinear", 23, "", {{"precision", integer(static_cast<int64_t>(ElementType::kF32))}}};
  EXPECT_EQ(values<uint8_t>(run(precise, {x_half, scale_half})[0]), (std::vector<uint8_t>{3}));
  expect_error({"QuantizeLinear", 21, "", {{"block_size", integer(2)}}}, {x, tensor<float>({1, 1}, {2, 1})},
               "does not fit");
  expect_error({"QuantizeLinear", 13, "", {{"axis", integer(5)}}}, {x, row<float>({1, 1})}, "axis");
  expect_error({"DequantizeLinear", 13}, {row<uint8_t>({1}), Tensor::scalar(1.0f), Tensor::scalar<int8_t>(1)},
               "one type");
}

TEST(Quantize, Dynamic) {
  const std::vector<Tensor> z =
      run({"DynamicQuantizeLinear", 11, "", {}, 3}, {row<float>({0, 2, -3, -2.5f, 1.34f, 0.5f})});
  EXPECT_EQ(values<uint8_t>(z[0]),
            (std::vector<uint8_t>{153, 255, 0, 26, 221, 179}));  // of the specification's example
  expect_near(z[1], {0.0196078438f});
  EXPECT_EQ(values<uint8_t>(z[2]), (std::vector<uint8_t>{153}));
  const std::vector<Tensor> zeros = run({"DynamicQuantizeLinear", 11, "", {}, 3}, {row<float>({0, 0})});
  EXPECT_EQ(values<uint8_t>(zeros[0]), (std::vector<uint8_t>{0, 0}));
}

TEST(QLinear, Operators) {
  const Tensor half = Tensor::scalar(0.5f), one = Tensor::scalar(1.0f), quarter = Tensor::scalar(0.25f);
  auto byte = [](uint8_t v) { return Tensor::scalar<uint8_t>(v); };
  auto call = [](const char* op) { return Call{op, 1, kMicrosoft}; };
  const Tensor x = row<uint8_t>({0, 10, 20, 255});  // with scale 0.5 and zero point 10: -5 0 5 122.5
  EXPECT_EQ(
      values<uint8_t>(run(call("QLinearAdd"), {x, half, byte(10), row<uint8_t>({4}), one, byte(1), one, byte(3)})[0]),
      (std::vector<uint8_t>{1, 6, 11, 129}));  // -2 3 8 125.5, half to even
  EXPECT_EQ(
      values<uint8_t>(run(call("QLinearMul"), {x, half, byte(10), row<uint8_t>({4}), one, byte(1), one, Tensor()})[0]),
      (std::vector<uint8_t>{0, 0, 15, 255}));
  EXPECT_EQ(values<uint8_t>(run(call("QLinearSigmoid"), {x, half, byte(10), Tensor::scalar(1 / 256.0f), byte(0)})[0]),
            (std::vector<uint8_t>{2, 128, 254, 255}));
  Call leaky = call("QLinearLeakyRelu");
  leaky.attributes["alpha"] = number(0.2f);
  EXPECT_EQ(values<uint8_t>(run(leaky, {x, half, byte(10), half, byte(10)})[0]),
            (std::vector<uint8_t>{8, 10, 20, 255}));
  Call concat = call("QLinearConcat");
  concat.attributes["axis"] = integer(1);
  EXPECT_EQ(values<uint8_t>(run(concat, {half, byte(0), tensor<uint8_t>({1, 2}, {2, 1}), one, byte(0),
                                         tensor<uint8_t>({4, 6, 8, 10}, {2, 2}), quarter, byte(2)})[0]),
            (std::vector<uint8_t>{2, 1, 2, 4, 3, 4}));
  Call softmax = call("QLinearSoftmax");
  softmax.attributes["axis"] = integer(-1);
  softmax.attributes["opset"] = integer(13);
  EXPECT_EQ(
      values<uint8_t>(run(softmax, {row<uint8_t>({1, 1, 1, 1}), one, byte(0), Tensor::scalar(1 / 256.0f), byte(0)})[0]),
      (std::vector<uint8_t>{64, 64, 64, 64}));
  const Tensor image = tensor<uint8_t>({1, 2, 3, 4, 5, 6, 7, 8, 9}, {1, 1, 3, 3});
  EXPECT_EQ(values<uint8_t>(run(call("QLinearGlobalAveragePool"), {image, one, byte(1), half, byte(0)})[0]),
            (std::vector<uint8_t>{8}));
  Call pool = call("QLinearAveragePool");
  pool.attributes["kernel_shape"] = integers({2, 2});
  EXPECT_EQ(values<uint8_t>(run(pool, {image, one, byte(0), half, byte(0)})[0]), (std::vector<uint8_t>{6, 8, 12, 14}));
  pool.attributes["channels_last"] = integer(1);
  const Tensor two = tensor<uint8_t>({1, 10, 2, 20, 3, 30, 4, 40}, {1, 2, 2, 2});
  EXPECT_EQ(values<uint8_t>(run(pool, {two, one, byte(0), half, byte(0)})[0]), (std::vector<uint8_t>{5, 50}));
  pool.attributes["kernel_shape"] = integers({int64_t{1} << 62, 2});
  expect_error(pool, {two, one, byte(0), half, byte(0)}, "kernel_shape");
  expect_error(concat, {half, byte(0), image}, "inputs");
}

TEST(Reduce, AxesOfEveryPattern) {
  const Shape shape = {3, 4, 1, 5, 40};
  Tensor x(ElementType::kF32, shape);
  for (int64_t i = 0; i < x.count(); ++i) x.data<float>()[i] = static_cast<float>(i * 7919 % 1009) / 100 - 5;
  const Shape strides = strides_of(shape);
  for (int mask = 0; mask < 32; ++mask) {
    std::vector<int64_t> axes;
    Shape kept = shape;
    for (int i = 0; i < 5; ++i) {
      if (mask >> i & 1) axes.push_back(i % 2 == 0 ? i : i - 5), kept[i] = 1;
    }
    const Call base = {"", 18, "", {{"noop_with_empty_axes", integer(1)}}};
    std::vector<double> sums(static_cast<size_t>(kept.count())), largest(sums.size(), -1e30), squares(sums.size()),
        exponentials(sums.size());
    for (int64_t i = 0; i < x.count(); ++i) {
      int64_t to = 0;
      for (int d = 0; d < 5; ++d) to = to * kept[d] + (kept[d] == 1 ? 0 : i / strides[d] % shape[d]);
      const double v = static_cast<double>(x.data<float>()[i]);
      const size_t at = static_cast<size_t>(to);
      sums[at] += v, squares[at] += v * v, exponentials[at] += std::exp(v), largest[at] = std::max(largest[at], v);
    }
    auto check = [&](const char* op, auto expected) {
      Call call = base;
      call.op = op;
      const Tensor z = run(call, {x, row<int64_t>(axes)})[0];
      ASSERT_EQ(z.shape(), kept) << op << mask;
      for (int64_t i = 0; i < z.count(); ++i)
        ASSERT_NEAR(z.data<float>()[i], expected(static_cast<size_t>(i)), 1e-3) << op << " " << mask;
    };
    check("ReduceSum", [&](size_t i) { return sums[i]; });
    check("ReduceMax", [&](size_t i) { return largest[i]; });
    check("ReduceL2", [&](size_t i) { return std::sqrt(squares[i]); });
    check("ReduceLogSumExp", [&](size_t i) { return std::log(exponentials[i]); });
  }
}

TEST(Reduce, FormsAndEdges) {
  const Tensor x = tensor<float>({1, 2, 3, 4}, {2, 2});
  EXPECT_EQ(values<float>(run({"ReduceMean", 11, "", {{"axes", integers({-1})}, {"keepdims", integer(0)}}}, {x})[0]),
            (std::vector<float>{1.5f, 3.5f}));
  EXPECT_EQ(values<float>(run({"ReduceSum", 13}, {x})[0]), (std::vector<float>{10}));
  EXPECT_EQ(values<float>(run({"ReduceSumSquare", 18, "", {{"noop_with_empty_axes", integer(1)}}}, {x})[0]),
            (std::vector<float>{1, 4, 9, 16}));
  const Tensor nothing(ElementType::kF32, {2, 0});
  const Tensor axis = row<int64_t>({1});
  EXPECT_EQ(values<float>(run({"ReduceProd", 18}, {nothing, axis})[0]), (std::vector<float>{1, 1}));
  EXPECT_EQ(values<float>(run({"ReduceMin", 18}, {nothing, axis})[0]), (std::vector<float>{kInf, kInf}));
  EXPECT_EQ(values<float>(run({"ReduceLogSumExp", 18}, {nothing, axis})[0]), (std::vector<float>{-kInf, -kInf}));
  expect_near(run({"ReduceMean", 18}, {nothing, axis})[0], {kNan, kNan});
  expect_near(run({"ReduceLogSumExp", 18}, {tensor<float>({-kInf, -kInf, kInf, 1000, 1000, 1000}, {3, 2}), axis})[0],
              {-kInf, kInf, 1000.693147f});
  EXPECT_EQ(values<int32_t>(run({"ReduceMean", 18}, {row<int32_t>({-3, -4})})[0]), (std::vector<int32_t>{-3}));
  EXPECT_EQ(values<int32_t>(run({"ReduceL1", 18}, {row<int32_t>({-3, 4})})[0]), (std::vector<int32_t>{7}));
  EXPECT_EQ(values<bool>(run({"ReduceMax", 20}, {tensor<bool>({true, false, false, false}, {2, 2}), axis})[0]),
            (std::vector<bool>{true, false}));
  expect_error({"ReduceSum", 13}, {x, row<int64_t>({2})}, "axis 2");
  expect_error({"ReduceMax", 11, "", {{"axes", integers({-3})}}}, {x}, "axis -3");
  std::vector<float> many(1 << 20, 0.1f);
  expect_near(run({"ReduceSum", 13}, {row<float>(many)})[0], {104857.6f}, 1e-6f);
}

TEST(ScanAxis, ArgMaxAndCumSum) {
  const Tensor x = tensor<float>({1, 3, 3, kNan, 2, kNan}, {2, 3});
  EXPECT_EQ(values<int64_t>(run({"ArgMax", 13, "", {{"axis", integer(1)}}}, {x})[0]), (std::vector<int64_t>{1, 0}));
  EXPECT_EQ(values<int64_t>(run({"ArgMax", 13, "", {{"axis", integer(1)}, {"select_last_index", integer(1)}}}, {x})[0]),
            (std::vector<int64_t>{2, 2}));
  EXPECT_EQ(
      values<int64_t>(run({"ArgMin", 7, "", {{"keepdims", integer(0)}}}, {tensor<int32_t>({5, 1, 4, 2}, {2, 2})})[0]),
      (std::vector<int64_t>{1, 0}));
  expect_error({"ArgMax", 13}, {Tensor(ElementType::kF32, {0, 2})}, "no elements");
  expect_error({"ArgMax", 13, "", {{"axis", integer(2)}}}, {x}, "axis 2");
  const Tensor steps = tensor<int32_t>({1, 2, 3, 4, 5, 6}, {2, 3});
  EXPECT_EQ(values<int32_t>(run({"CumSum", 14, "", {{"exclusive", integer(1)}, {"reverse", integer(1)}}},
                                {steps, Tensor::scalar<int64_t>(-1)})[0]),
            (std::vector<int32_t>{5, 3, 0, 11, 6, 0}));
  EXPECT_EQ(values<int32_t>(run({"CumProd", 26}, {steps, Tensor::scalar<int32_t>(0)})[0]),
            (std::vector<int32_t>{1, 2, 3, 4, 10, 18}));
  expect_error({"CumSum", 14}, {steps, Tensor::scalar<int32_t>(7)}, "axis 7");
}

TEST(Softmax, FormsAndEdges) {
  const Tensor x = tensor<float>({0, std::log(3.0f), 0, std::log(3.0f)}, {1, 2, 2});
  expect_near(run({"Softmax", 11}, {x})[0], {0.125f, 0.375f, 0.125f, 0.375f});       // flattened at axis 1
  expect_near(run({"Softmax", 13}, {x})[0], {0.25f, 0.75f, 0.25f, 0.75f});
  expect_near(run({"Softmax", 13, "", {{"axis", integer(1)}}}, {x})[0], {0.5f, 0.5f, 0.5f, 0.5f});
  expect_near(run({"LogSoftmax", 13, "", {{"axis", integer(1)}}}, {x})[0],
              {-0.6931472f, -0.6931472f, -0.6931472f, -0.6931472f});
  expect_near(run({"Hardmax", 11}, {x})[0], {0, 1, 0, 0});
  expect_near(run({"Softmax", 13}, {tensor<float>({-kInf, 0, -kInf, -kInf, 1, kNan}, {3, 2})})[0],
              {0, 1, kNan, kNan, kNan, kNan});
  // A wide inner dimension against the same numbers transposed.
  Tensor wide(ElementType::kF32, {2, 37, 50}), turned(ElementType::kF32, {2, 50, 37});
  for (int64_t i = 0; i < wide.count(); ++i) {
    const float v = static_cast<float>(i * 7919 % 1009) / 100;
    wide.data<float>()[i] = v;
    turned.data<float>()[(i / 1850 * 50 + i % 50) * 37 + i / 50 % 37] = v;
  }
  for (const char* op : {"Softmax", "LogSoftmax", "Hardmax"}) {
    const Tensor a = run({op, 13, "", {{"axis", integer(1)}}}, {wide})[0], b = run({op, 13}, {turned})[0];
    for (int64_t i = 0; i < a.count(); ++i) {
      ASSERT_EQ(a.data<float>()[i], b.data<float>()[(i / 1850 * 50 + i % 50) * 37 + i / 50 % 37]) << op;
    }
  }
  EXPECT_EQ(run({"Softmax", 13}, {Tensor(ElementType::kF32, {2, 0})})[0].count(), 0);
  expect_error({"Softmax", 13, "", {{"axis", integer(3)}}}, {x}, "axis 3");
}

TEST(Loss, LabelsOutsideAreErrors) {
  const Tensor scores = tensor<float>({-1, -2, -3, -4}, {2, 2});
  expect_near(run({"NegativeLogLikelihoodLoss", 13}, {scores, row<int64_t>({1, 0}), row<float>({1, 3})})[0],
              {(3 * 2 + 3) / 4.0f});
  expect_near(
      run({"NegativeLogLikelihoodLoss", 13, "", {{"ignore_index", integer(-5)}}}, {scores, row<int64_t>({1, -5})})[0],
      {2});
  expect_error({"NegativeLogLikelihoodLoss", 13}, {scores, row<int64_t>({1, 2})}, "label 2");
  expect_error({"SoftmaxCrossEntropyLoss", 13}, {scores, row<int64_t>({1, -1})}, "label -1");
  expect_error({"SoftmaxCrossEntropyLoss", 13}, {scores, row<int64_t>({1})}, "do not fit");
  expect_error({"SoftmaxCrossEntropyLoss", 13}, {scores, row<int64_t>({1, 1}), row<float>({1})}, "do not fit");
}

TEST(RandomOps, Distributions) {
  const Call call = {
      "RandomNormal",
      7,
      "",
      {{"shape", integers({100000})}, {"seed", number(3)}, {"mean", number(2)}, {"scale", number(0.5f)}}};
  const Tensor x = run(call, {})[0];
  double sum = 0, squares = 0;
  for (const float v : x.values<float>()) sum += v, squares += (v - 2.0) * (v - 2.0);
  EXPECT_NEAR(sum / 1e5, 2, 0.01);
  EXPECT_NEAR(std::sqrt(squares / 1e5), 0.5, 0.01);
  EXPECT_EQ(values<float>(run(call, {})[0]), values<float>(x));
  // numpy.random.seed(3); numpy.random.uniform(size=3)
  expect_near(run({"RandomUniform", 7, "", {{"shape", integers({3})}, {"seed", number(3)}}}, {})[0],
              {0.5507979f, 0.70814782f, 0.29090474f});
  const Tensor drawn = run({"Multinomial", 7, "", {{"sample_size", integer(10000)}, {"seed", number(1)}}},
                           {tensor<float>({0, std::log(3.0f), -kInf}, {1, 3})})[0];
  int64_t count[3] = {};
  for (const int32_t v : drawn.values<int32_t>()) ++count[v];
  EXPECT_NEAR(static_cast<double>(count[1]), 7500, 200);
  EXPECT_EQ(count[2], 0);
  EXPECT_EQ(values<int32_t>(run({"Bernoulli", 15, "", {{"dtype", integer(6)}}}, {row<float>({0, 1})})[0]),
            (std::vector<int32_t>{0, 1}));
  expect_error({"RandomUniform", 7, "", {{"shape", integers({-1})}}}, {}, "-1");
  expect_error({"RandomUniform", 7, "", {{"shape", integers({1}), }, {"dtype", integer(6)}}}, {}, "int32");
}

TEST(RandomOps, Dropout) {
  const Tensor x = row<float>({1, 2, 3});
  const std::vector<Tensor> passed = run({"Dropout", 7, "", {{"ratio", number(0.9f)}}, 2}, {x});
  EXPECT_EQ(values<float>(passed[0]), (std::vector<float>{1, 2, 3}));
  EXPECT_EQ(values<float>(passed[1]), (std::vector<float>{1, 1, 1}));
  // numpy.random.seed(3): 0.55 0.71 0.29 as above; kept where at least 0.5, times 2
  const std::vector<Tensor> trained =
      run({"Dropout", 13, "", {{"seed", integer(3)}}, 2}, {x, Tensor::scalar(0.5f), Tensor::scalar(true)});
  EXPECT_EQ(values<float>(trained[0]), (std::vector<float>{2, 4, 0}));
  EXPECT_EQ(values<bool>(trained[1]), (std::vector<bool>{true, true, false}));
  expect_error({"Dropout", 13}, {x, Tensor::scalar(1.5f), Tensor::scalar(true)}, "ratio");
}

TEST(HalfTypes, GoThroughFloat) {
  const Tensor x = run(cast_to(ElementType::kBF16), {row<float>({1, -2, 0.5f})})[0];
  const Tensor z = run({"Mul"}, {x, x})[0];
  EXPECT_EQ(z.type(), ElementType::kBF16);
  EXPECT_EQ(values<float>(run(cast_to(ElementType::kF32), {z})[0]), (std::vector<float>{1, 4, 0.25f}));
  EXPECT_EQ(values<bool>(run({"IsNaN", 20}, {bytes(ElementType::kF8E4M3FN, {0x7f, 0x7e, 0xff})})[0]),
            (std::vector<bool>{true, false, true}));
  EXPECT_EQ(values<bool>(run({"IsInf", 20}, {bytes(ElementType::kF8E5M2, {0x7c, 0x7e, 0xfc})})[0]),
            (std::vector<bool>{true, false, true}));
}

}  // namespace
}  // namespace sluice::graph::ops
