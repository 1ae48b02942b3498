// Convolutions and products of matrices, of floats and of bytes: every kernel that there is against the operator's own
// run().
#include "graph/kernels/kernel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "graph/kernels_for_test.h"

namespace sluice::graph {
namespace {

using for_test::check_kernels;
using for_test::integer;
using for_test::integers;
using for_test::random_tensor;
using for_test::real;
using for_test::reals;
using for_test::text;
using testing::Contains;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::Not;

constexpr double kBf16 = 1.0 / 100;  // numbers of 8 bits, rounded once

struct Activation {
  const char* name;
  std::vector<float> parameters;
};

const std::vector<Activation>& activations() {
  static const std::vector<Activation> kAll = {{"", {}},
                                               {"Relu", {}},
                                               {"LeakyRelu", {0.1f}},
                                               {"LeakyRelu", {}},
                                               {"Sigmoid", {}},
                                               {"Tanh", {}},
                                               {"Clip", {-0.2f, 0.6f}},
                                               {"Clip", {0}},
                                               {"HardSigmoid", {0.3f, 0.4f}},
                                               {"HardSigmoid", {}},
                                               {"Elu", {0.7f}},
                                               {"HardSwish", {}},
                                               {"Gelu", {}},
                                               {"GeluTanh", {}},
                                               {"Swish", {}},
                                               {"Swish", {1.5f}},
                                               {"Mish", {}}};
  return kAll;
}

void set_activation(for_test::Attributes& attributes, const Activation& activation) {
  if (*activation.name == 0) return;
  attributes["activation"] = text(activation.name);
  if (!activation.parameters.empty()) attributes["activation_params"] = reals(activation.parameters);
}

struct ConvCase {
  Shape x, w;
  int64_t groups = 1;
  std::vector<int64_t> pads, strides, dilations;

  for_test::Attributes attributes() const {
    for_test::Attributes made;
    if (groups != 1) made["group"] = integer(groups);
    if (!pads.empty()) made["pads"] = integers(pads);
    if (!strides.empty()) made["strides"] = integers(strides);
    if (!dilations.empty()) made["dilations"] = integers(dilations);
    return made;
  }
};

const std::vector<ConvCase>& convolutions() {
  static const std::vector<ConvCase> kAll = {
      {{1, 3, 9, 11}, {5, 3, 3, 3}},
      {{2, 3, 12, 12}, {16, 3, 7, 7}, 1, {3, 3, 3, 3}, {2, 2}},
      {{1, 17, 6, 7}, {19, 17, 1, 1}},
      {{2, 32, 8, 8}, {48, 32, 3, 3}, 1, {1, 1, 1, 1}},
      {{1, 16, 5, 7}, {16, 16, 3, 3}, 1, {1, 1, 1, 1}},
      {{1, 16, 9, 9}, {32, 16, 3, 3}, 1, {0, 1, 2, 1}, {2, 1}},
      {{1, 16, 10, 10}, {16, 16, 3, 3}, 1, {2, 2, 2, 2}, {}, {2, 2}},
      {{1, 8, 10, 9}, {8, 8, 3, 2}, 1, {2, 0, 0, 1}, {3, 2}, {1, 2}},
      {{1, 32, 7, 7}, {32, 1, 3, 3}, 32, {1, 1, 1, 1}},
      {{1, 17, 7, 7}, {17, 1, 5, 5}, 17, {2, 2, 2, 2}, {2, 2}},
      {{1, 8, 7, 7}, {24, 1, 3, 3}, 8, {1, 1, 1, 1}},
      {{1, 32, 6, 6}, {64, 8, 3, 3}, 4, {1, 1, 1, 1}},
      {{1, 6, 6, 6}, {9, 2, 3, 3}, 3, {1, 1, 1, 1}},
      {{3, 5, 1, 1}, {7, 5, 1, 1}},
      {{1, 4, 8, 8}, {4, 4, 2, 2}, 1, {}, {3, 3}},  // the last row and column are in no window
      {{2, 5, 13}, {6, 5, 3}, 1, {1, 0}},
      {{1, 16, 20}, {32, 8, 5}, 2, {2, 2}, {2}, {2}},
      {{1, 3, 5, 6, 7}, {8, 3, 3, 3, 3}, 1, {1, 1, 1, 1, 1, 1}},
      {{1, 16, 4, 5, 6}, {16, 16, 1, 2, 3}, 1, {0, 0, 1, 0, 1, 1}, {1, 2, 1}},
  };
  return kAll;
}

// Each shape with each activation in turn, with and without bias and addend.
void check_convolutions(ElementType type, double tolerance) {
  Random random(1);
  size_t turn = 0;
  for (const ConvCase& conv : convolutions()) {
    const Tensor x = random_tensor(random, conv.x, type), w = random_tensor(random, conv.w, type);
    const Tensor bias = random_tensor(random, Shape{conv.w[0]}, type);
    const Shape y = for_test::evaluate_op("Conv", {x, w}, conv.attributes()).shape();
    const Tensor z = random_tensor(random, y, type);
    EXPECT_THAT(check_kernels({"Conv", "", {x, w, bias}, {1, 2}, conv.attributes(), tolerance}), Not(IsEmpty()));
    EXPECT_THAT(check_kernels({"Conv", "", {x, w}, {1}, conv.attributes(), tolerance}), Not(IsEmpty()));
    for (int i = 0; i < 3; ++i) {
      for_test::Attributes attributes = conv.attributes();
      set_activation(attributes, activations()[++turn % activations().size()]);
      check_kernels({"FusedConv",
                     "com.microsoft",
                     {x, w, i == 1 ? Value() : Value(bias), i == 0 ? Value() : Value(z)},
                     {1, 2},
                     attributes,
                     tolerance,
                     0,
                     1});
    }
    if (testing::Test::HasFailure()) return;
  }
}

TEST(KernelsConv, OfFloats) { check_convolutions(ElementType::kF32, 5e-6); }
TEST(KernelsConv, OfBf16) { check_convolutions(ElementType::kBF16, kBf16); }

TEST(KernelsConv, EveryActivation) {
  Random random(2);
  const Tensor x = random_tensor(random, {1, 16, 6, 6}, ElementType::kF32, -2, 2);
  const Tensor w = random_tensor(random, {32, 16, 3, 3}), z = random_tensor(random, {1, 32, 6, 6});
  for (const Activation& activation : activations()) {
    for_test::Attributes attributes{{"pads", integers({1, 1, 1, 1})}};
    set_activation(attributes, activation);
    const std::vector<std::string> names =
        check_kernels({"FusedConv", "com.microsoft", {x, w, Value(), z}, {1}, attributes, 1e-5, 0, 1});
    EXPECT_THAT(names, ElementsAre("conv nhwc", "conv blocked16")) << activation.name;
    if (HasFailure()) return;
  }
  const std::vector<std::string> names =
      check_kernels({"Conv", "", {x, w}, {1}, {{"pads", integers({1, 1, 1, 1})}}, 1e-5});
  EXPECT_THAT(names, ElementsAre("conv nhwc", "conv blocked16", "conv winograd"));
}

TEST(KernelsConv, WantsConstantWeights) {
  Random random(3);
  const Tensor x = random_tensor(random, {1, 8, 6, 6}), w = random_tensor(random, {8, 8, 3, 3});
  EXPECT_THAT(check_kernels({"Conv", "", {x, w}}), IsEmpty());
  EXPECT_THAT(check_kernels({"Conv", "", {x, w, random_tensor(random, {8})}, {1}}), IsEmpty());
}

struct MatMulCase {
  Shape a, b;
  bool transposes_a = false, transposes_b = false;
};

void check_products(ElementType type, double tolerance) {
  const std::vector<MatMulCase> kAll = {{{3, 5}, {5, 7}},
                                        {{1, 64}, {64, 33}},
                                        {{17, 1}, {1, 16}},
                                        {{1, 1}, {1, 1}},
                                        {{5, 3}, {5, 7}, true},
                                        {{3, 5}, {7, 5}, false, true},
                                        {{5, 3}, {7, 5}, true, true},
                                        {{2, 3, 5}, {5, 7}},
                                        {{2, 3, 5}, {7, 5}, false, true},
                                        {{2, 5, 3}, {5, 7}, true},
                                        {{2, 3, 5}, {2, 5, 7}},
                                        {{2, 3, 5}, {2, 7, 5}, false, true},
                                        {{4, 1, 3, 5}, {1, 2, 5, 7}},
                                        {{3, 5}, {2, 5, 7}},
                                        {{2, 1, 5, 3}, {4, 7, 5}, true, true},
                                        {{5}, {5, 7}},
                                        {{3, 5}, {5}},
                                        {{2, 3, 5}, {5}},
                                        {{5}, {2, 5, 7}},
                                        {{5}, {5}},
                                        {{2, 12, 9, 20}, {2, 12, 20, 9}}};
  Random random(4);
  size_t turn = 0;
  for (const MatMulCase& c : kAll) {
    const Tensor a = random_tensor(random, c.a, type), b = random_tensor(random, c.b, type);
    for_test::Attributes attributes;
    if (c.transposes_a) attributes["transA"] = integer(1);
    if (c.transposes_b) attributes["transB"] = integer(1);
    const Tensor y = for_test::evaluate_op("FusedMatMul", {a, b}, attributes, 1, "sluice");
    const int64_t n = y.rank() == 0 ? 1 : y.shape().back();
    const Tensor bias = random_tensor(random, Shape{n}), one = random_tensor(random, Shape{1});
    const Tensor z = random_tensor(random, y.shape(), type);
    for (const std::set<size_t>& constants : {std::set<size_t>{}, {0}, {1}, {1, 2}, {1, 2, 3}}) {
      if (attributes.empty()) check_kernels({"MatMul", "", {a, b}, constants, {}, tolerance});
      for (int i = 0; i < 5; ++i) {
        for_test::Attributes fused = attributes;
        set_activation(fused, activations()[++turn % activations().size()]);
        if (i % 2 == 1) fused["alpha"] = real(0.3f);
        const Value added = i == 0 ? Value() : Value(i < 3 ? bias : one);
        check_kernels({"FusedMatMul",
                       "sluice",
                       {a, b, added, i == 2 || i == 3 ? Value(z) : Value()},
                       constants,
                       fused,
                       tolerance,
                       0,
                       1});
      }
      if (c.a.rank() != 2 || c.b.rank() != 2) continue;
      for (const Shape& shape : {Shape{n}, Shape{1, n}, y.shape(), Shape{1}, Shape{}, Shape{y.dim(0), 1}}) {
        for (const float beta : {1.0f, 0.5f}) {
          for_test::Attributes gemm = attributes;
          gemm["alpha"] = real(++turn % 2 == 0 ? 1.0f : 2.0f);
          gemm["beta"] = real(beta);
          check_kernels({"Gemm", "", {a, b, random_tensor(random, shape, type)}, constants, gemm, tolerance, 0, 13});
        }
      }
      check_kernels({"Gemm", "", {a, b}, constants, attributes, tolerance, 0, 13});
      if (testing::Test::HasFailure()) return;
    }
  }
  const Tensor a = random_tensor(random, {6, 40}, type), b = random_tensor(random, {40, 24}, type);
  EXPECT_THAT(check_kernels({"MatMul", "", {a, b}, {1}, {}, tolerance}), ElementsAre("matmul"));
  EXPECT_THAT(check_kernels({"MatMul", "", {a, b}, {}, {}, tolerance}), ElementsAre("matmul"));
}

TEST(KernelsMatMul, OfFloats) { check_products(ElementType::kF32, 5e-6); }
TEST(KernelsMatMul, OfBf16) { check_products(ElementType::kBF16, kBf16); }

// The same numbers in two roles: a packed copy of one must not be taken for the other.
TEST(KernelsMatMul, ConstantsThatAreReadInTwoWays) {
  Random random(5);
  ThreadPool pool(1);
  const KernelThreads threads(pool);
  PackedWeights weights;
  const Tensor x = random_tensor(random, {4, 48}), w = random_tensor(random, {48, 48});
  const Tensor tall = random_tensor(random, {24, 96}), wide = tall.reshaped(Shape{96, 24}),
               x96 = random_tensor(random, {4, 96});
  struct Use {
    const Tensor *a, *b;
    bool transposes;
  };
  for (const Use& use : {Use{&x, &w, false}, Use{&x, &w, true}, Use{&x96, &tall, true}, Use{&x96, &wide, false}}) {
    Node node{.op_type = "FusedMatMul", .domain = "sluice", .name = "n", .opset = 1, .inputs = {0, 1}, .outputs = {2}};
    if (use.transposes) node.attributes["transB"] = integer(1);
    node.op = find_op("sluice", "FusedMatMul", 1);
    const Value a(*use.a), b(*use.b);
    const Value* const given[] = {&a, &b};
    const Tensor wanted = evaluate(node, given, pool)[0].tensor;
    const std::vector<TensorInfo> inputs = {{use.a->type(), use.a->shape()}, {use.b->type(), use.b->shape()}};
    const std::vector<TensorInfo> outputs = {{wanted.type(), wanted.shape()}};
    const std::vector<const Tensor*> constants = {nullptr, use.b};
    const std::vector<KernelChoice> choices = list_kernels({node, inputs, constants, outputs, weights, 1});
    ASSERT_EQ(choices.size(), 1u);
    const std::unique_ptr<Kernel> kernel = choices[0].make();
    ASSERT_NE(kernel, nullptr);
    for_test::Guarded scratch(static_cast<int64_t>(kernel->scratch_bytes()));
    Tensor made(wanted.type(), wanted.shape());
    const void* from[] = {use.a->raw(), nullptr};
    void* to = made.raw();
    kernel->run(from, {&to, 1}, scratch.data(), pool);
    for_test::expect_close(made, wanted, 1e-5, 0, use.transposes ? "transposed" : "plain");
  }
}

struct QuantisedCase {
  ElementType x, y;  // y undefined: floats
  ElementType z = ElementType::kUndefined;
  bool has_bias = true, is_per_channel = true;
  int x_zero = 0, y_zero = 0;
};

// Inputs of QConv and QMatMul from X and W on.
std::vector<Value> quantised_inputs(Random& random, const QuantisedCase& c, const Tensor& x, const Tensor& w,
                                    int64_t channels, const Shape& y) {
  auto zero = [](ElementType type, int value) {
    return Value(for_test::converted(Tensor::vector<float>({static_cast<float>(value)}, Shape()), type));
  };
  const bool has_y = c.y != ElementType::kUndefined, has_z = c.z != ElementType::kUndefined;
  const bool is_quantised_z = has_z && c.z != ElementType::kF32;
  const double low = c.z == ElementType::kU8 ? 0 : c.z == ElementType::kI8 ? -128 : -2;
  const double high = c.z == ElementType::kU8 ? 256 : c.z == ElementType::kI8 ? 128 : 2;
  return {x,
          Tensor::scalar<float>(0.02f),
          zero(c.x, c.x_zero),
          w,
          random_tensor(random, Shape{c.is_per_channel ? channels : 1}, ElementType::kF32, 0.005, 0.02),
          zero(ElementType::kI8, 0),
          c.has_bias ? Value(random_tensor(random, Shape{channels})) : Value(),
          has_z ? Value(random_tensor(random, y, c.z, low, high)) : Value(),
          is_quantised_z ? Value(Tensor::scalar<float>(0.03f)) : Value(),
          is_quantised_z ? zero(c.z, c.z == ElementType::kU8 ? 120 : -5) : Value(),
          has_y ? Value(Tensor::scalar<float>(0.025f)) : Value(),
          has_y ? zero(c.y, c.y_zero) : Value()};
}

const std::vector<QuantisedCase>& quantised_cases() {
  using enum ElementType;
  static const std::vector<QuantisedCase> kAll = {{kU8, kU8},
                                                  {kI8, kI8},
                                                  {kU8, kUndefined},
                                                  {kU8, kU8, kUndefined, true, true, 128, 3},
                                                  {kI8, kI8, kI8, true, true, -4, 7},
                                                  {kU8, kU8, kU8, true, false, 100, 128},
                                                  {kU8, kI8, kU8, false, true, 7, -9},
                                                  {kI8, kU8, kF32, true, true, 3, 11},
                                                  {kU8, kUndefined, kF32, false, false, 9},
                                                  {kI8, kUndefined, kI8, false, true, 0},
                                                  {kU8, kU8, kUndefined, false, false, 0, 128}};
  return kAll;
}

std::set<size_t> all_but_data() { return {1, 2, 3, 4, 5, 6, 8, 9, 10, 11}; }

Tensor random_bytes(Random& random, const Shape& shape, ElementType type) {
  return random_tensor(random, shape, type, type == ElementType::kU8 ? 0 : -128, type == ElementType::kU8 ? 256 : 128);
}

TEST(KernelsQuantised, Convolutions) {
  Random random(7);
  size_t turn = 0, num_made = 0, num_checked = 0;
  for (const ConvCase& conv : convolutions()) {
    const Tensor w = random_bytes(random, conv.w, ElementType::kI8);
    for (const QuantisedCase& c : quantised_cases()) {
      const Tensor x = random_bytes(random, conv.x, c.x);
      const Tensor plain = for_test::evaluate_op("Conv", {random_tensor(random, conv.x), random_tensor(random, conv.w)},
                                                 conv.attributes());
      for_test::Attributes attributes = conv.attributes();
      set_activation(attributes, activations()[turn++ % activations().size()]);
      num_made += check_kernels({"QConv", "sluice", quantised_inputs(random, c, x, w, conv.w[0], plain.shape()),
                                 all_but_data(), attributes, 1e-5, 1, 1})
                          .empty()
                      ? 0
                      : 1;
      ++num_checked;
      if (HasFailure()) return;
    }
  }
  EXPECT_GT(num_made * 10, num_checked * 9) << num_made << " of " << num_checked << " have a kernel";
}

TEST(KernelsQuantised, Products) {
  Random random(8);
  size_t turn = 0, num_made = 0, num_checked = 0;
  for (const MatMulCase& c : {MatMulCase{{4, 16}, {16, 24}},
                              {{1, 33}, {33, 7}},
                              {{2, 5, 40}, {40, 12}},
                              {{2, 5, 40}, {12, 40}, false, true},
                              {{2, 3, 5, 8}, {2, 3, 8, 6}}}) {
    for (const QuantisedCase& q : quantised_cases()) {
      for_test::Attributes attributes;
      if (c.transposes_b) attributes["transB"] = integer(1);
      const Tensor x = random_bytes(random, c.a, q.x), w = random_bytes(random, c.b, ElementType::kI8);
      const Tensor plain = for_test::evaluate_op(
          "FusedMatMul", {random_tensor(random, c.a), random_tensor(random, c.b)}, attributes, 1, "sluice");
      set_activation(attributes, activations()[turn++ % activations().size()]);
      num_made +=
          check_kernels({"QMatMul", "sluice", quantised_inputs(random, q, x, w, plain.shape().back(), plain.shape()),
                         all_but_data(), attributes, 1e-5, 1, 1})
                  .empty()
              ? 0
              : 1;
      ++num_checked;
      if (HasFailure()) return;
    }
  }
  EXPECT_GT(num_made * 10, num_checked * 8) << num_made << " of " << num_checked << " have a kernel";
}

}  // namespace
}  // namespace sluice::graph
