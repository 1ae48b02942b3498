// Convolutions and products of matrices with what the passes fuse into them: as text, what has to stay apart, and that
// the results are those of the graph as it was.
#include "graph/passes_for_test.h"

namespace sluice::graph {
namespace {

using for_test::after;
using for_test::Attributes;
using for_test::Builder;
using for_test::expect_agrees;
using for_test::floats;
using for_test::integer;
using for_test::integers;
using for_test::random_tensor;
using for_test::real;
using testing::HasSubstr;
using testing::Not;

Dim n() { return Dim::symbol("n"); }

struct Image : Builder {
  ValueId x = input(floats({n(), 4, 6, 6}));
  ValueId weights(const Shape& shape, uint64_t seed = 1) { return constant(random_tensor(shape, seed)); }
  ValueId conv(ValueId from, int64_t out = 8, int64_t in = 4, uint64_t seed = 1) {
    return node("Conv", {from, weights({out, in, 3, 3}, seed), weights({out}, seed + 1)},
                {{"pads", integers({1, 1, 1, 1})}, {"kernel_shape", integers({3, 3})}});
  }
  ValueId norm(ValueId from, int64_t channels, uint64_t seed = 5) {
    Tensor variance = random_tensor({channels}, seed);
    for (int64_t i = 0; i < channels; ++i) variance.data<float>()[i] += 1.5f;
    return node("BatchNormalization", {from, weights({channels}, seed + 1), weights({channels}, seed + 2),
                                       weights({channels}, seed + 3), constant(variance)});
  }
};

const std::vector<Value> kImage = {random_tensor({2, 4, 6, 6}, 77)};

TEST(FuseConvScale, TakesInANormalisation) {
  Image b;
  const ValueId y = b.norm(b.conv(b.x), 8);
  const std::string text = expect_agrees(b.finish({y}), kImage);
  EXPECT_THAT(text, Not(HasSubstr("BatchNormalization")));
  EXPECT_THAT(text, HasSubstr("= Conv("));
}

TEST(FuseConvScale, TakesInFactorsAndSumsByChannel) {
  Image b;
  ValueId y = b.conv(b.x);
  y = b.node("Mul", {b.constant(random_tensor({1, 8, 1, 1}, 3)), y});
  y = b.node("Sub", {b.constant(random_tensor({8, 1, 1}, 4)), y});
  y = b.node("Div", {y, b.constant(Tensor::scalar<float>(3))});
  y = b.node("Add", {y, b.constant(Tensor::scalar<float>(0.5f))});
  const std::string text = expect_agrees(b.finish({y}), kImage);
  for (const char* op : {"Mul(", "Sub(", "Div(", "Add(", "Elementwise("}) EXPECT_THAT(text, Not(HasSubstr(op)));
}

TEST(FuseConvScale, KnowsGroupsOfTransposedConvolutions) {
  Image b;
  ValueId y =
      b.node("ConvTranspose", {b.x, b.weights({4, 3, 2, 2})}, {{"group", integer(2)}, {"strides", integers({2, 2})}});
  y = b.norm(y, 6);
  EXPECT_THAT(expect_agrees(b.finish({y}), kImage), Not(HasSubstr("BatchNormalization")));
}

TEST(FuseConvScale, MovesANormalisationBehindWherePaddingAllows) {
  Image b;
  const ValueId y = b.node("Conv", {b.norm(b.x, 4), b.weights({8, 2, 3, 3})}, {{"group", integer(2)}});
  EXPECT_THAT(expect_agrees(b.finish({y}), kImage), Not(HasSubstr("BatchNormalization")));
  Image padded;
  const ValueId z = padded.conv(padded.norm(padded.x, 4));
  EXPECT_THAT(expect_agrees(padded.finish({z}), kImage), HasSubstr("BatchNormalization"));
}

TEST(FuseConvScale, LeavesWhatOthersReadOrVariesByPixel) {
  Image b;
  const ValueId y = b.conv(b.x);
  const ValueId z = b.node("Mul", {y, b.constant(random_tensor({1, 8, 1, 1}, 3))});
  EXPECT_THAT(after({"fuse-conv-scale"}, b.finish({y, z})), HasSubstr("Mul("));
  Image pixels;
  const ValueId w = pixels.node("Mul", {pixels.conv(pixels.x), pixels.constant(random_tensor({6}, 3))});
  EXPECT_THAT(after({"fuse-conv-scale"}, pixels.finish({w})), HasSubstr("Mul("));
}

TEST(FuseConvActivation, TakesInAResidualAndAnActivation) {
  Image b;
  const ValueId first = b.conv(b.x), second = b.conv(first, 8, 8, 9);
  const ValueId y = b.node("Relu", {b.node("Add", {first, second})});
  const std::string text = expect_agrees(b.finish({y}), kImage);
  EXPECT_THAT(text, HasSubstr("out8 = com.microsoft.FusedConv(out3, constant4, constant5, out3) {activation=\"Relu\""));
  EXPECT_THAT(text, Not(HasSubstr("Add(")));
}

TEST(FuseConvActivation, LeavesWhatBroadcasts) {
  Image b;
  const ValueId z = b.input(floats({n(), 8, 1, 1}));
  const ValueId y = b.node("Add", {b.conv(b.x), z});
  EXPECT_THAT(after({"fuse-conv-activation"}, b.finish({y})), HasSubstr("Add("));
}

TEST(FuseConvActivation, KnowsTheActivations) {
  const std::vector<std::pair<std::string, Attributes>> activations = {
      {"Relu", {}},
      {"LeakyRelu", {{"alpha", real(0.2f)}}},
      {"Sigmoid", {}},
      {"Tanh", {}},
      {"HardSigmoid", {{"alpha", real(0.3f)}}},
      {"Elu", {{"alpha", real(0.7f)}}},
      {"HardSwish", {}},
      {"Mish", {}},
      {"Gelu", {}},
      {"Gelu", {{"approximate", for_test::text("tanh")}}},
      {"Swish", {{"alpha", real(1.702f)}}}};
  for (const auto& [op, attributes] : activations) {
    SCOPED_TRACE(op);
    Image b;
    const ValueId y = b.node(op, {b.conv(b.x)}, attributes, 24);
    const std::string text = expect_agrees(b.finish({y}), kImage);
    EXPECT_THAT(text, HasSubstr("FusedConv"));
    EXPECT_THAT(text, HasSubstr("activation=\"" + op));
  }
}

TEST(FusePad, BecomesPadding) {
  for (const std::string op : {"Conv", "AveragePool", "MaxPool"}) {
    SCOPED_TRACE(op);
    Image b;
    const ValueId pads = b.constant(Tensor::vector<int64_t>({0, 0, 1, 0, 0, 0, 1, 2}));
    const ValueId padded = b.node("Pad", {b.node("Relu", {b.x}), pads});
    const ValueId y = op == "Conv" ? b.node(op, {padded, b.weights({8, 4, 3, 3})}, {{"strides", integers({2, 2})}})
                                   : b.node(op, {padded}, {{"kernel_shape", integers({3, 3})}});
    const std::string text = expect_agrees(b.finish({y}), kImage);
    EXPECT_THAT(text, Not(HasSubstr("Pad(")));
    EXPECT_THAT(text, HasSubstr("pads=[1,0,1,2]"));
  }
}

TEST(FusePad, LeavesOtherNumbersAndNegativeInputs) {
  Image b;
  const ValueId pads = b.constant(Tensor::vector<int64_t>({0, 0, 1, 1, 0, 0, 1, 1}));
  const ValueId ones = b.node("Pad", {b.x, pads, b.constant(Tensor::scalar<float>(1))});
  const ValueId y = b.node("Conv", {ones, b.weights({8, 4, 3, 3})});
  const ValueId z = b.node("MaxPool", {b.node("Pad", {b.x, pads})}, {{"kernel_shape", integers({3, 3})}});
  const std::string text = expect_agrees(b.finish({y, z}), kImage);
  EXPECT_THAT(text, HasSubstr("= Pad(in0, constant1, constant2)"));
  EXPECT_THAT(text, HasSubstr("= Pad(in0, constant1):"));
}

struct Rows : Builder {
  ValueId x = input(floats({n(), 5, 16}));
  ValueId weights(const Shape& shape, uint64_t seed = 1) { return constant(random_tensor(shape, seed)); }
};
const std::vector<Value> kRows = {random_tensor({2, 5, 16}, 78)};

TEST(FuseMatmul, TakesInScaleBiasResidualAndActivation) {
  Rows b;
  ValueId y = b.node("MatMul", {b.x, b.weights({16, 16})});
  y = b.node("Div", {y, b.constant(Tensor::scalar<float>(4))});
  y = b.node("Add", {b.weights({16}, 2), y});
  y = b.node("Add", {b.x, y});
  y = b.node("Relu", {y});
  EXPECT_THAT(expect_agrees(b.finish({y}), kRows),
              HasSubstr("= sluice.FusedMatMul(in0, constant1, constant5, in0) {activation=\"Relu\", alpha=0.25}"));
}

TEST(FuseMatmul, ScalesABiasToo) {
  Rows b;
  ValueId y = b.node("Add", {b.node("MatMul", {b.x, b.weights({16, 8})}), b.weights({1, 1, 8}, 2)});
  y = b.node("Mul", {y, b.constant(Tensor::vector<float>({3}))});
  EXPECT_THAT(expect_agrees(b.finish({y}), kRows), HasSubstr("{alpha=3}"));
}

TEST(FuseMatmul, FoldsWhatScalesColumns) {
  Builder b;
  const ValueId x = b.input(floats({n(), 16}));
  Tensor variance = random_tensor({8}, 9);
  for (int64_t i = 0; i < 8; ++i) variance.data<float>()[i] += 1.5f;
  ValueId y = b.node("Gemm", {x, b.constant(random_tensor({8, 16}, 1)), b.constant(random_tensor({8}, 2))},
                     {{"transB", integer(1)}});
  y = b.node("BatchNormalization", {y, b.constant(random_tensor({8}, 3)), b.constant(random_tensor({8}, 4)),
                                    b.constant(random_tensor({8}, 5)), b.constant(variance)});
  y = b.node("MatMul", {b.node("Relu", {y}), b.constant(random_tensor({8, 6}, 6))});
  y = b.node("Mul", {b.constant(random_tensor({6}, 7)), y});
  const std::string text = expect_agrees(b.finish({y}), {random_tensor({3, 16}, 8)});
  EXPECT_THAT(text, Not(HasSubstr("BatchNormalization")));
  EXPECT_THAT(text, Not(HasSubstr("= Mul(")));
}

TEST(FuseMatmul, ReadsTransposedOperands) {
  Rows b;
  const ValueId t = b.node("Transpose", {b.x}, {{"perm", integers({0, 2, 1})}});
  const std::string text = expect_agrees(b.finish({b.node("MatMul", {b.x, t}), b.node("MatMul", {t, b.x})}), kRows);
  EXPECT_THAT(text, HasSubstr("sluice.FusedMatMul(in0, in0) {transB=1}"));
  EXPECT_THAT(text, HasSubstr("sluice.FusedMatMul(in0, in0) {transA=1}"));
  EXPECT_THAT(text, Not(HasSubstr("Transpose")));
}

TEST(FuseMatmul, TakesGemmsWhoseCFits) {
  Builder b;
  const ValueId x = b.input(floats({n(), 16})), z = b.input(floats({n(), 8}));
  const ValueId w = b.constant(random_tensor({8, 16}, 1)), c = b.constant(random_tensor({1, 8}, 2));
  const ValueId column = b.input(floats({n(), 1}));
  const Attributes transposed = {{"transB", integer(1)}, {"alpha", real(0.5f)}};
  const ValueId y0 = b.node("Gemm", {x, w, c}, {{"transB", integer(1)}, {"beta", real(2)}});
  const ValueId y1 = b.node("Gemm", {x, w, z}, transposed), y2 = b.node("Gemm", {x, w, column}, transposed);
  const std::string text = expect_agrees(
      b.finish({y0, y1, y2}), {random_tensor({3, 16}, 3), random_tensor({3, 8}, 4), random_tensor({3, 1}, 5)});
  EXPECT_THAT(text, HasSubstr("= sluice.FusedMatMul(in0, constant2, -, in1) {alpha=0.5, transB=1}"));
  EXPECT_THAT(text, HasSubstr("= Gemm(in0, constant2, in4)"));
}

TEST(FuseMatmul, LeavesWhatIsReadTwiceAndWhatMayBroadcast) {
  Builder b;
  const ValueId x = b.input(floats({n(), 16})), other = b.input(floats({Dim::symbol("m"), 8}));
  const ValueId product = b.node("MatMul", {x, b.constant(random_tensor({16, 8}, 1))});
  const std::string text =
      after({"fuse-matmul"}, b.finish({b.node("Relu", {product}), b.node("Add", {product, other})}));
  EXPECT_THAT(text, HasSubstr("= MatMul("));
  Builder c;
  const ValueId a = c.input(floats({n(), 16})), row = c.input(floats({Dim::symbol("m"), 8}));
  const ValueId sum = c.node("Add", {c.node("MatMul", {a, c.constant(random_tensor({16, 8}, 1))}), row});
  EXPECT_THAT(after({"fuse-matmul"}, c.finish({sum})), HasSubstr("Add("));
}

TEST(MergeHorizontal, JoinsProductsOfOneTensor) {
  Rows b;
  std::vector<ValueId> outputs;
  for (const int64_t columns : {8, 4, 12}) {
    const ValueId product = b.node("MatMul", {b.x, b.weights({16, columns}, static_cast<uint64_t>(columns))});
    outputs.push_back(columns == 4 ? product : b.node("Add", {product, b.weights({columns}, 3)}));
  }
  outputs.push_back(b.node("Relu", {b.node("MatMul", {b.x, b.weights({16, 6}, 4)})}));
  const std::string text = expect_agrees(b.finish(outputs), kRows);
  EXPECT_THAT(text, HasSubstr("Split("));
  EXPECT_THAT(text, HasSubstr("float32 [n x 5 x 24]"));
  EXPECT_THAT(text, HasSubstr("{activation=\"Relu\"}: float32 [n x 5 x 6]"));
}

TEST(FusedMatMul, RefusesWhatDoesNotFit) {
  Builder b;
  const ValueId x = b.input(floats({2, 3})), w = b.input(floats({3, 4})), bias = b.input(floats({5}));
  const ValueId y = b.node("FusedMatMul", {x, w, bias}, {}, 1, "sluice");
  EXPECT_THAT(
      for_test::message_of([&] {
        for_test::run(b.finish({y}), {random_tensor({2, 3}, 1), random_tensor({3, 4}, 1), random_tensor({5}, 1)});
      }),
      HasSubstr("a bias of shape 5 does not fit"));
}

}  // namespace
}  // namespace sluice::graph
