// Programs of element-by-element steps: what is fused, every function against its own operator, broadcasting, and
// programs that are none.
#include "graph/passes_for_test.h"

namespace sluice::graph {
namespace {

using for_test::Attributes;
using for_test::Builder;
using for_test::expect_agrees;
using for_test::floats;
using for_test::message_of;
using for_test::random_tensor;
using for_test::real;
using testing::HasSubstr;
using testing::Not;

Dim n() { return Dim::symbol("n"); }

TEST(FuseElementwise, WritesAProgram) {
  Builder b;
  const ValueId x = b.input(floats({n(), 8})), y = b.input(floats({8}));
  const ValueId sum = b.node("Add", {b.node("Mul", {x, y}), b.constant(Tensor::scalar<float>(0.5f))});
  const ValueId z = b.node("Where", {b.node("Greater", {sum, y}), b.node("Exp", {sum}), x});
  EXPECT_THAT(expect_agrees(b.finish({z}), {random_tensor({3, 8}, 1), random_tensor({8}, 2)}),
              HasSubstr("= sluice.Elementwise(in0, in1) {program=[\"Mul x0 x1\",\"Add t0 =0.5\",\"Greater t1 x1\","
                        "\"Exp t1\",\"Where t2 t3 x0\"]}: float32 [n x 8]"));
}

TEST(FuseElementwise, LeavesOutWhatOthersReadAndWhatIsSmaller) {
  Builder b;
  const ValueId x = b.input(floats({n(), 8})), small = b.input(floats({n(), 1}));
  const ValueId seen = b.node("Neg", {x}), root = b.node("Sqrt", {b.node("Abs", {small})});
  const ValueId y = b.node("Tanh", {b.node("Div", {seen, root})});
  const std::string text = expect_agrees(b.finish({seen, y}), {random_tensor({3, 8}, 1), random_tensor({3, 1}, 2)});
  EXPECT_THAT(text, HasSubstr("= Neg("));
  EXPECT_THAT(text, HasSubstr("program=[\"Abs x0\",\"Sqrt t0\"]}: float32 [n x 1]"));
  EXPECT_THAT(text, HasSubstr("program=[\"Div x0 x1\",\"Tanh t0\"]"));
}

TEST(FuseElementwise, TakesInANormalisation) {
  Builder b;
  const ValueId x = b.input(floats({n(), 3, 5, 7}));
  Tensor variance = Tensor::vector<float>({0.5f, 1, 2});
  const ValueId y =
      b.node("BatchNormalization", {x, b.constant(random_tensor({3}, 1)), b.constant(random_tensor({3}, 2)),
                                    b.constant(random_tensor({3}, 3)), b.constant(variance)});
  const std::string text = expect_agrees(b.finish({b.node("Relu", {y})}), {random_tensor({2, 3, 5, 7}, 4)});
  EXPECT_THAT(text, HasSubstr("program=[\"Mul x0 x1\",\"Add t0 x2\",\"Relu t1\"]"));
}

TEST(FuseElementwise, ConditionsMayComeFromOutside) {
  Builder b;
  const ValueId x = b.input(floats({n(), 4})), flag = b.input(ValueType::tensor(ElementType::kBool, {n(), 1}));
  const ValueId y = b.node("Where", {b.node("Not", {flag}), b.node("Neg", {x}), b.constant(Tensor::scalar<float>(7))});
  const std::string text =
      expect_agrees(b.finish({y}), {random_tensor({2, 4}, 1), Tensor::vector<bool>({true, false}, Shape{2, 1})});
  EXPECT_THAT(text, HasSubstr("Elementwise"));
}

// Each function in a chain, over more than a block, with numbers that are special.
TEST(Elementwise, FunctionsAreTheirOperators) {
  const std::vector<std::tuple<std::string, int, Attributes>> ops = {
      {"Neg", 1, {}},
      {"Abs", 1, {}},
      {"Sqrt", 1, {}},
      {"Reciprocal", 1, {}},
      {"Exp", 1, {}},
      {"Log", 1, {}},
      {"Erf", 1, {}},
      {"Tanh", 1, {}},
      {"Sigmoid", 1, {}},
      {"Floor", 1, {}},
      {"Ceil", 1, {}},
      {"Round", 1, {}},
      {"Relu", 1, {}},
      {"LeakyRelu", 1, {{"alpha", real(0.3f)}}},
      {"Elu", 1, {{"alpha", real(2)}}},
      {"HardSigmoid", 1, {}},
      {"HardSwish", 1, {}},
      {"Swish", 1, {{"alpha", real(1.5f)}}},
      {"Softplus", 1, {}},
      {"Mish", 1, {}},
      {"Gelu", 1, {}},
      {"Gelu", 1, {{"approximate", for_test::text("tanh")}}},
      {"Add", 2, {}},
      {"Sub", 2, {}},
      {"Mul", 2, {}},
      {"Div", 2, {}},
      {"Min", 2, {}},
      {"Max", 2, {}},
      {"PRelu", 2, {}},
      {"Sum", 2, {}}};
  for (const auto& [op, num_inputs, attributes] : ops) {
    SCOPED_TRACE(op);
    Builder b;
    std::vector<ValueId> inputs = {b.input(floats({n(), 700}))};
    std::vector<Value> given = {random_tensor({3, 700}, 1)};
    float* x = given[0].tensor.data<float>();
    for (int i = 0; i < 2100; ++i) x[i] *= 8;
    const float special[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 100, -100};
    std::copy(std::begin(special), std::end(special), x + 5);
    if (op == "Gelu") x[8] = -200;  // at -inf its own code gives no number in one form
    if (num_inputs == 2) {
      inputs.push_back(b.input(floats({n(), 700})));
      given.push_back(random_tensor({3, 700}, 2));
    }
    const ValueId y = b.node("Add", {b.node(op, inputs, attributes, 24), inputs[0]}, {}, 24);
    EXPECT_THAT(expect_agrees(b.finish({y}), given, 2e-6), HasSubstr("sluice.Elementwise"));
  }
}

TEST(Elementwise, Broadcasts) {
  const std::vector<std::pair<Dims, Shape>> shapes = {{{}, {}},
                                                      {{1}, {1}},
                                                      {{5}, {5}},
                                                      {{4, 1}, {4, 1}},
                                                      {{3, 1, 1}, {3, 1, 1}},
                                                      {{1, 3, 1, 5}, {1, 3, 1, 5}},
                                                      {{n(), 1, 1, 1}, {2, 1, 1, 1}},
                                                      {{n(), 1, 4, 5}, {2, 1, 4, 5}}};
  for (const auto& [dims, shape] : shapes) {
    SCOPED_TRACE(to_string(shape));
    Builder b;
    const ValueId x = b.input(floats({n(), 3, 4, 5})), y = b.input(floats(dims));
    const ValueId z = b.node("Mul", {b.node("Sub", {b.node("Abs", {x}), y}), y});
    EXPECT_THAT(expect_agrees(b.finish({z}), {random_tensor({2, 3, 4, 5}, 1), random_tensor(shape, 2)}),
                HasSubstr("sluice.Elementwise"));
  }
}

TEST(Elementwise, RefusesProgramsThatAreNone) {
  for (const std::string step :
       {"", "Frobnicate x0", "Add x0", "Add x0 x1", "Add x0 t0", "Add x0 =a", "Neg x-1", "Neg =", "Neg q"}) {
    SCOPED_TRACE(step);
    const auto action = [&] {
      for_test::run_node("Elementwise", {random_tensor({3}, 1)}, 1, {{"program", for_test::texts({step})}}, 1,
                         "sluice");
    };
    EXPECT_THAT(message_of(action), HasSubstr("cannot be read"));
  }
  EXPECT_THAT(message_of([] { for_test::run_node("Elementwise", {random_tensor({3}, 1)}, 1, {}, 1, "sluice"); }),
              HasSubstr("0 steps"));
}

TEST(Elementwise, TakesNoElements) {
  const std::vector<Value> y = for_test::run_node("Elementwise", {random_tensor({0, 3}, 1)}, 1,
                                                  {{"program", for_test::texts({"Neg x0"})}}, 1, "sluice");
  EXPECT_EQ(to_string(y[0].tensor.shape()), "0x3");
}

}  // namespace
}  // namespace sluice::graph
