// Transpositions and shapes: what cancels, what merges, what shape arithmetic turns out to be known.
#include "graph/passes_for_test.h"

#include "graph/passes/axis_trace.h"

namespace sluice::graph {
namespace {

using for_test::after;
using for_test::Builder;
using for_test::expect_agrees;
using for_test::floats;
using for_test::integer;
using for_test::integers;
using for_test::random_tensor;
using testing::HasSubstr;
using testing::Not;

Dim n() { return Dim::symbol("n"); }
Dim s() { return Dim::symbol("s"); }

struct Shapes : Builder {
  ValueId move(ValueId x, std::vector<int64_t> order) {
    return node("Transpose", {x}, {{"perm", integers(std::move(order))}});
  }
  ValueId ints(std::vector<int64_t> values) { return constant(Tensor::vector<int64_t>(values)); }
  ValueId reshape(ValueId x, std::vector<int64_t> target) { return node("Reshape", {x, ints(std::move(target))}); }
  ValueId to_last(ValueId x) { return move(x, {0, 2, 3, 1}); }
  ValueId to_first(ValueId x) { return move(x, {0, 3, 1, 2}); }
};
const std::vector<Value> kImage = {random_tensor({2, 3, 4, 5}, 1)};

TEST(AxisTrace, CutsAxesAsFineAsNeeded) {
  passes::AxisTrace trace({n(), s(), 12});
  EXPECT_TRUE(trace.reshape({n(), s(), 3, 4}));
  EXPECT_TRUE(trace.transpose({0, 2, 1, 3}));
  EXPECT_FALSE(trace.keeps_order());
  EXPECT_TRUE(trace.reshape({n() * Dim(3), s(), 4}));
  EXPECT_TRUE(trace.reshape({n(), 3, 1, s(), 2, 2}));
  EXPECT_TRUE(trace.transpose({0, 3, 1, 2, 4, 5}));
  EXPECT_TRUE(trace.keeps_order());
  EXPECT_FALSE(trace.reshape({n(), 5, s(), 4}));
}

TEST(MoveTransposes, PairsCancelAndMerge) {
  Shapes b;
  const ValueId x = b.input(floats({n(), 3, 4, 5}));
  const ValueId y = b.to_first(b.to_last(x)), z = b.move(b.to_last(x), {0, 2, 1, 3});
  EXPECT_THAT(expect_agrees(b.finish({b.node("Neg", {y}), z}), kImage),
              HasSubstr("= Neg(in0): float32 [n x 3 x 4 x 5]\nout"));
}

TEST(MoveTransposes, AcrossWhatDoesNotCare) {
  Shapes b;
  const ValueId x = b.input(floats({n(), 3, 4, 5}));
  ValueId y = b.node("Add", {b.to_last(x), b.constant(random_tensor({3}, 2))});
  y = b.node("LeakyRelu", {y});
  y = b.node("Concat", {y, b.to_last(b.node("Abs", {x}))}, {{"axis", integer(3)}});
  y = b.node("Pad", {y, b.ints({0, 1, 0, 0, 0, 0, 2, 0})});
  y = b.node("Slice", {y, b.ints({1}), b.ints({5}), b.ints({-1})});
  const ValueId mean = b.node("ReduceMean", {y, b.ints({1, 2})}, {{"keepdims", integer(0)}});
  y = b.node("Softmax", {y}, {{"axis", integer(3)}});
  const std::string text = expect_agrees(b.finish({b.to_first(y), mean}), kImage);
  EXPECT_THAT(text, Not(HasSubstr("Transpose")));
  EXPECT_THAT(text, HasSubstr("float32 [n x 4 x 5 x 7]"));
}

TEST(MoveTransposes, StaysWhereNothingIsGained) {
  Shapes b;
  const ValueId x = b.input(floats({n(), 3, 4, 5}));
  const ValueId y = b.node("Relu", {b.to_last(x)});
  const std::string before = expect_agrees(b.finish({y}), kImage);
  EXPECT_THAT(before, HasSubstr("= Transpose(in0)"));
}

TEST(MoveTransposes, KeepsOneForThoseWhoReadIt) {
  Shapes b;
  const ValueId x = b.input(floats({n(), 3, 4, 5}));
  const ValueId y = b.node("Relu", {b.to_last(x)});
  const ValueId flat = b.reshape(y, {0, -1});
  const ValueId a = b.to_first(y), c = b.node("Exp", {b.to_first(b.node("Sqrt", {y}))});
  expect_agrees(b.finish({a, c, flat}), kImage);
}

TEST(MoveTransposes, ThroughAProductOfRows) {
  Shapes b;
  const ValueId x = b.input(floats({n(), 4, 8}));
  ValueId y = b.node("MatMul", {b.move(x, {1, 0, 2}), b.constant(random_tensor({8, 6}, 2))});
  y = b.node("Add", {y, b.constant(random_tensor({6}, 3))});
  EXPECT_THAT(expect_agrees(b.finish({b.move(y, {1, 0, 2})}), {random_tensor({2, 4, 8}, 4)}),
              Not(HasSubstr("Transpose")));
}

TEST(SimplifyShapes, TargetsThatAreComputed) {
  Shapes b;
  const ValueId x = b.input(floats({n(), s(), 12}));
  const ValueId shape = b.node("Shape", {x});
  auto size = [&](int64_t axis) {
    return b.node("Unsqueeze", {b.node("Gather", {shape, b.constant(Tensor::scalar<int64_t>(axis))}), b.ints({0})});
  };
  const ValueId target = b.node("Concat", {size(0), size(1), b.ints({3}), b.ints({4})}, {{"axis", integer(0)}});
  const ValueId wide = b.node("Mul", {size(2), b.ints({2})});
  const ValueId y = b.node("Reshape", {x, target});
  const std::string text = expect_agrees(b.finish({b.node("Neg", {y}), wide}), {random_tensor({2, 3, 12}, 1)});
  EXPECT_THAT(text, HasSubstr("int64 4 = {0, 0, 3, 4}"));
  EXPECT_THAT(text, HasSubstr("int64 1 = {24}"));
  EXPECT_THAT(text, Not(HasSubstr("Shape(")));
}

TEST(SimplifyShapes, RunsOfReshapes) {
  Shapes b;
  const ValueId x = b.input(floats({n(), 6, 1, 4}));
  const ValueId twice = b.reshape(b.reshape(x, {0, 2, 12}), {0, 3, 8});
  const ValueId back = b.node("Neg", {b.reshape(b.reshape(x, {-1, 24}), {-1, 6, 1, 4})});
  const ValueId moved = b.move(x, {0, 2, 1, 3});  // only a 1 moves
  const ValueId flat = b.reshape(b.node("Unsqueeze", {b.node("Flatten", {x}), b.ints({0})}), {-1, 4, 6});
  const std::string text = expect_agrees(b.finish({twice, back, moved, flat}), {random_tensor({2, 6, 1, 4}, 1)});
  EXPECT_THAT(text, Not(HasSubstr("Transpose")));
  EXPECT_THAT(text, HasSubstr("= Neg(in0)"));
  EXPECT_THAT(text, Not(HasSubstr("Flatten")));
}

TEST(SimplifyShapes, ExpandsToTheSameShapeAndFills) {
  Shapes b;
  const ValueId x = b.input(floats({n(), s()}));
  const ValueId shape = b.node("Shape", {x});
  const ValueId same = b.node("Neg", {b.node("Expand", {x, shape})});
  const ValueId ones = b.node("ConstantOfShape", {shape}, {{"value", for_test::tensor(Tensor::vector<float>({2}))}});
  const ValueId sum = b.node("Sub", {b.node("Mul", {x, ones}), x});
  const std::string text = expect_agrees(b.finish({same, sum}), {random_tensor({2, 3}, 1)});
  EXPECT_THAT(text, Not(HasSubstr("Expand")));
  EXPECT_THAT(text, Not(HasSubstr("ConstantOfShape")));
}

TEST(SimplifyShapes, LeavesWhatTwoSizesDecide) {
  Shapes b;
  const ValueId x = b.input(floats({n(), s(), 12})), target = b.input(ValueType::tensor(ElementType::kI64, {3}));
  const ValueId y = b.node("Reshape", {x, target});
  const std::string text =
      expect_agrees(b.finish({y}), {random_tensor({2, 3, 12}, 1), Tensor::vector<int64_t>({6, 3, 4})});
  EXPECT_THAT(text, HasSubstr("Reshape(in0, in1)"));
}

TEST(SimplifyShapes, LiftsAProductOutOfItsReshapes) {
  Shapes b;
  const ValueId x = b.input(floats({n(), s(), 8}));
  const ValueId rows = b.reshape(x, {-1, 8});
  const ValueId product =
      b.node("Gemm", {rows, b.constant(random_tensor({6, 8}, 2)), b.constant(random_tensor({6}, 3))},
             {{"transB", integer(1)}});
  const ValueId shape =
      b.node("Concat", {b.node("Slice", {b.node("Shape", {x}), b.ints({0}), b.ints({2})}), b.ints({6})},
             {{"axis", integer(0)}});
  const std::string text =
      expect_agrees(b.finish({b.node("Reshape", {product, shape})}), {random_tensor({2, 3, 8}, 4)});
  EXPECT_THAT(text, HasSubstr("= sluice.FusedMatMul(in0, constant3, constant4) {transB=1}: float32 [n x s x 6]"));
  EXPECT_THAT(text, Not(HasSubstr("Reshape(")));
}

}  // namespace
}  // namespace sluice::graph
