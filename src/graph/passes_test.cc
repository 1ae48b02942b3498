// Each pass alone, as text before and after; what looks as if it could go and may not; and that a model gives the same
// with and without passes.
#include "graph/passes.h"
#include "graph/passes_for_test.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "graph/dump.h"
#include "graph/ops_for_test.h"

namespace sluice::graph {
namespace {

using for_test::Builder;
using for_test::elements;
using for_test::make_model;
using for_test::message_of;
using testing::HasSubstr;
using testing::Not;

ValueType floats(Dims dims) { return ValueType::tensor(ElementType::kF32, std::move(dims)); }
Dim n() { return Dim::symbol("n"); }
Tensor ints(std::vector<int64_t> values) { return Tensor::vector<int64_t>(values); }

std::vector<std::string> all_but(const std::string& name) {
  std::vector<std::string> disabled;
  for (const Pass& pass : list_passes()) {
    if (pass.name != name) disabled.emplace_back(pass.name);
  }
  return disabled;
}

// After one pass; what is dead goes too.
std::string after(const char* pass, Graph graph) {
  Model model = make_model(std::move(graph));
  optimise(model, {.disabled = all_but(pass)});
  optimise(model, {.disabled = all_but("remove-dead")});
  return dump(model.graph);
}

void expect_same(const Value& a, const Value& b) {
  ASSERT_EQ(a.kind, b.kind);
  if (a.kind != Value::Kind::kTensor) return;
  ASSERT_EQ(to_string(a.tensor), to_string(b.tensor));
  ASSERT_EQ(std::memcmp(a.tensor.raw(), b.tensor.raw(), static_cast<size_t>(a.tensor.bytes())), 0)
      << to_string(a.tensor, 20) << " and " << to_string(b.tensor, 20);
}

std::vector<Value> run_model(Model model, const std::vector<Value>& inputs) {
  return Executor(std::make_shared<Model>(std::move(model)), {.num_threads = 1}).run(inputs);
}

// By bits. Gives the graph as text after the passes.
std::string expect_agrees(const Graph& graph, const std::vector<Value>& inputs) {
  Model plain = make_model(copy_graph(graph));
  Model optimised = copy_model(plain);
  optimise(optimised);
  const std::string text = dump(optimised.graph);
  const std::vector<Value> a = run_model(std::move(plain), inputs), b = run_model(std::move(optimised), inputs);
  EXPECT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) expect_same(a[i], b[i]);
  return text;
}

TEST(FoldConstants, ComputesWhatIsKnown) {
  Builder b;
  const ValueId x = b.input(floats({n()}));
  const ValueId sum = b.node("Add", {b.constant(Tensor::vector<float>({1})), b.constant(Tensor::vector<float>({2}))});
  EXPECT_EQ(after("fold-constants", b.finish({b.node("Mul", {x, sum})})),
            "input in0: float32 [n]\n"
            "constant out3: float32 1 = {3}\n"
            "out4 = Mul(in0, out3): float32 [n]\n"
            "output y0 = out4\n");
}

TEST(FoldConstants, LeavesDefaultsOfInputs) {
  Builder b;
  const ValueId x = b.input(floats({1}));
  b.graph.value(x).constant = Value(Tensor::vector<float>({1}));
  EXPECT_THAT(after("fold-constants", b.finish({b.node("Neg", {x})})), HasSubstr("Neg(in0)"));
}

TEST(FoldConstants, StopsWhereSizesDouble) {
  Builder b;
  ValueId d = b.constant(Tensor(ElementType::kF32, Shape{1024}));
  std::memset(b.graph.value(d).constant->tensor.raw(), 0, 4096);
  for (int i = 0; i < 40; ++i) d = b.node("Concat", {d, d}, {{"axis", for_test::integer(0)}});
  const std::string text = after("fold-constants", b.finish({d}));
  EXPECT_THAT(text, HasSubstr("constant out9: float32 524288\n"));  // 2 MB; the next adds more than 1 MB
  EXPECT_THAT(text, HasSubstr("out10 = Concat(out9, out9)"));
}

TEST(FoldConstants, StopsWhereStringsDouble) {
  Builder b;
  ValueId d = b.constant(Tensor::vector<std::string>({std::string(1000, 'a')}));
  for (int i = 0; i < 60; ++i) d = b.node("StringConcat", {d, d});
  EXPECT_THAT(after("fold-constants", b.finish({d})), HasSubstr("StringConcat"));
}

TEST(FoldConstants, StopsWhereOnlyTheComputationTellsTheSize) {
  Builder b;
  const ValueId size = b.node("Cast", {b.constant(Tensor::vector<std::string>({"1000000000000"}))},
                              {{"to", for_test::integer(7)}});
  const std::string text = after("fold-constants", b.finish({b.node("ConstantOfShape", {size})}));
  EXPECT_THAT(text, HasSubstr("ConstantOfShape("));
}

TEST(FoldConstants, HasABudget) {
  Builder b;
  std::vector<ValueId> outputs;
  for (int64_t i = 0; i < 100; ++i) {
    outputs.push_back(b.node("Expand", {b.constant(Tensor::scalar<float>(static_cast<float>(i))),
                                        b.constant(ints({(1 << 18)}))}));
  }
  const std::string text = after("fold-constants", b.finish(outputs));
  EXPECT_THAT(text, HasSubstr("constant out2: float32 262144"));
  EXPECT_THAT(text, HasSubstr("Expand("));
}

TEST(RemoveIdentities, HandsOnWhatTheyGet) {
  Builder b;
  ValueId x = b.input(floats({n()}));
  for (int i = 0; i < 3; ++i) x = b.node("Identity", {x});
  x = b.node("Reshape", {x, b.constant(ints({-1}))});
  x = b.node("Max", {x});
  x = b.node("Sub", {x, b.constant(Tensor::vector<float>({0}))});
  EXPECT_EQ(after("remove-identities", b.finish({x, b.node("Neg", {x})})),
            "input in0: float32 [n]\n"
            "out9 = Neg(in0): float32 [n]\n"
            "output y0 = in0\n"
            "output y1 = out9\n");
}

TEST(RemoveIdentities, PadThatShiftsStays) {
  for (const bool is_shifted : {true, false}) {
    Builder b;
    const ValueId x = b.input(floats({n()}));
    const ValueId pads = b.constant(is_shifted ? ints({1, -1}) : ints({0, 0}));
    Graph graph = b.finish({b.node("Pad", {x, pads})});
    const std::string text = expect_agrees(graph, {Tensor::vector<float>({1, 2, 3})});
    EXPECT_EQ(text.find("Pad(") != std::string::npos, is_shifted);
  }
}

TEST(RemoveIdentities, PadThatShiftsStaysAsAttribute) {
  Builder b;
  const ValueId x = b.input(floats({3}));
  Graph graph = b.finish({b.node("Pad", {x}, {{"pads", for_test::integers({-1, 1})}}, 10)});
  EXPECT_THAT(expect_agrees(graph, {Tensor::vector<float>({1, 2, 3})}), HasSubstr("Pad("));
}

TEST(RemoveIdentities, DeclaredShapesProveNothing) {
  Builder b;
  const ValueId x = b.input(floats({n()})), end = b.input(ValueType::tensor(ElementType::kI64, {1}));
  const ValueId y = b.node("Slice", {x, b.constant(ints({0})), end});
  b.graph.value(y).type = b.graph.value(y).declared = floats({n()});
  const Graph graph = b.finish({y});
  EXPECT_THAT(dump(make_model(copy_graph(graph)).graph), HasSubstr("float32 [n]\noutput"));  // it is shown
  EXPECT_THAT(expect_agrees(graph, {Tensor::vector<float>({1, 2, 3}), ints({2})}), HasSubstr("Slice("));
}

TEST(RemoveIdentities, ShapesOfAnEarlierPassOverALoopProveNothing) {
  // Carried: starts as [1] and grows by one each time; its first element is the scan output.
  Builder body;
  body.input(ValueType::tensor(ElementType::kI64, {}));
  const ValueId condition = body.input(ValueType::tensor(ElementType::kBool, {}));
  const ValueId carried = body.input();
  const ValueId one = body.constant(Tensor::vector<float>({1}));
  const ValueId grown = body.node("Concat", {carried, one}, {{"axis", for_test::integer(0)}});
  const ValueId head = body.node("Slice", {grown, body.constant(ints({0})), body.constant(ints({2}))});
  Builder b;
  const ValueId x = b.input(floats({1}));
  const auto outputs = b.nodes("Loop", {b.constant(Tensor::scalar<int64_t>(3)), kNoValue, x}, 2,
                               {{"body", for_test::body(body.finish({condition, grown, head}))}});
  const std::string text = expect_agrees(b.finish(outputs), {Tensor::vector<float>({5})});
  EXPECT_THAT(text, HasSubstr("Slice("));
}

TEST(RemoveIdentities, SizesInsideALoopAreNotThoseAfterIt) {
  // Carried: shorter each time. The scan output has the size before, the carried one that after.
  Builder body;
  body.input(ValueType::tensor(ElementType::kI64, {}));
  const ValueId condition = body.input(ValueType::tensor(ElementType::kBool, {}));
  const ValueId carried = body.input();
  const ValueId rest = body.node("Slice", {carried, body.constant(ints({1})), body.constant(ints({99}))});
  Builder b;
  const ValueId x = b.input(floats({n()})), trips = b.input(ValueType::tensor(ElementType::kI64, {}));
  const auto outputs = b.nodes("Loop", {trips, kNoValue, x}, 2,
                               {{"body", for_test::body(body.finish({condition, rest, carried}))}});
  const ValueId row = b.node("Gather", {outputs[1], b.constant(Tensor::scalar<int64_t>(0))});
  const ValueId y = b.node("Slice", {row, b.constant(ints({0})), b.node("Shape", {outputs[0]})});
  const std::string text =
      expect_agrees(b.finish({y}), {Tensor::vector<float>({1, 2, 3}), Tensor::scalar<int64_t>(1)});
  EXPECT_THAT(text, HasSubstr("= Slice(out"));
}

TEST(RemoveIdentities, OnlyPlusZeroIsNeutral) {
  for (const float zero : {0.0f, -0.0f}) {
    Builder b;
    const ValueId x = b.input(floats({n()}));
    const Graph graph = b.finish({b.node("Sub", {x, b.constant(Tensor::vector<float>({zero}))})});
    const std::string text = expect_agrees(graph, {Tensor::vector<float>({-0.0f, 0.0f, NAN})});
    EXPECT_EQ(text.find("Sub(") != std::string::npos, std::signbit(zero));
  }
}

TEST(RemoveIdentities, SliceBackwardsStays) {
  Builder b;
  const ValueId x = b.input(floats({3}));
  const ValueId y = b.node("Slice", {x, b.constant(ints({2})), b.constant(ints({-9})), b.constant(ints({0})),
                                     b.constant(ints({-1}))});
  EXPECT_THAT(expect_agrees(b.finish({y}), {Tensor::vector<float>({1, 2, 3})}), HasSubstr("Slice("));
}

TEST(RemoveIdentities, ElementsOfASequenceHaveSizesOfTheirOwn) {
  Builder b;
  const ValueId x = b.input(floats({n()})), lengths = b.input(ValueType::tensor(ElementType::kI64, {2}));
  const ValueId parts = b.node("SplitToSequence", {x, lengths});
  const ValueId first = b.node("SequenceAt", {parts, b.constant(Tensor::scalar<int64_t>(0))});
  const ValueId second = b.node("SequenceAt", {parts, b.constant(Tensor::scalar<int64_t>(1))});
  const ValueId y = b.node("Slice", {first, b.constant(ints({0})), b.node("Shape", {second})});
  const std::string text = expect_agrees(b.finish({y}), {Tensor::vector<float>({1, 2, 3}), ints({2, 1})});
  EXPECT_THAT(text, HasSubstr("Slice("));
}

TEST(MergeCommon, KeepsTheFirst) {
  Builder b;
  const ValueId x = b.input(floats({n()}));
  auto add = [&] { return b.node("Add", {x, b.constant(Tensor::vector<float>({2}))}); };
  const ValueId left = add(), right = add();
  EXPECT_EQ(after("merge-common", b.finish({b.node("Mul", {left, right}), right})),
            "input in0: float32 [n]\n"
            "constant constant1: float32 1 = {2}\n"
            "out2 = Add(in0, constant1): float32 [n]\n"
            "out5 = Mul(out2, out2): float32 [n]\n"
            "output y0 = out5\n"
            "output y1 = out2\n");
}

TEST(MergeCommon, LeavesWhatDiffers) {
  Builder b;
  const ValueId x = b.input(floats({n(), n()}));
  auto reduce = [&](int64_t axis) { return b.node("Softmax", {x}, {{"axis", for_test::integer(axis)}}); };
  auto leaky = [&](float alpha) { return b.node("LeakyRelu", {x}, {{"alpha", for_test::real(alpha)}}); };
  auto draw = [&] { return b.node("RandomUniformLike", {x}); };
  const std::string text = after("merge-common", b.finish({reduce(0), reduce(1), leaky(0.0f), leaky(-0.0f), draw(),
                                                           draw()}));
  for (const char* output : {"out1 =", "out2 =", "out3 =", "out4 =", "out5 =", "out6 ="}) {
    EXPECT_THAT(text, HasSubstr(output));
  }
}

TEST(RemoveDead, TakesNodesConstantsAndCaptures) {
  Builder b;
  const ValueId x = b.input(floats({n()}));
  b.node("Exp", {b.node("Add", {x, b.constant(Tensor::vector<float>({2}))})});
  EXPECT_EQ(after("remove-dead", b.finish({b.node("Neg", {x})})),
            "input in0: float32 [n]\n"
            "out4 = Neg(in0): float32 [n]\n"
            "output y0 = out4\n");
}

// If of a condition: x + x, or x.
Graph make_branches(Builder& b, ValueId condition, ValueId x) {
  Builder then_branch, else_branch;
  const ValueId inner = then_branch.capture(x), other = else_branch.capture(x);
  Graph taken = then_branch.finish({then_branch.node("Add", {then_branch.node("Identity", {inner}), inner})});
  Graph left = else_branch.finish({else_branch.node("Identity", {other})});
  const ValueId y = b.node("If", {condition}, {{"then_branch", for_test::body(std::move(taken))},
                                               {"else_branch", for_test::body(std::move(left))}});
  return b.finish({y});
}

TEST(Passes, ReachBodies) {
  Builder b;
  const ValueId condition = b.input(ValueType::tensor(ElementType::kBool, {}));
  const ValueId x = b.input(floats({n()}));
  const Graph graph = make_branches(b, condition, b.node("Identity", {x}));
  for (const bool is_taken : {true, false}) {
    const std::string text = expect_agrees(graph, {Tensor::scalar<bool>(is_taken), Tensor::vector<float>({1, 2})});
    EXPECT_THAT(text, Not(HasSubstr("Identity")));
  }
}

TEST(Passes, LeaveTheOriginalOfACopy) {
  Builder b;
  const ValueId condition = b.input(ValueType::tensor(ElementType::kBool, {}));
  const ValueId x = b.input(floats({n()}));
  const Model model = make_model(make_branches(b, condition, x));
  const std::string before = dump(model.graph);
  Model copy = copy_model(model);
  optimise(copy);
  EXPECT_EQ(dump(model.graph), before);
  EXPECT_NE(dump(copy.graph), before);
}

TEST(Passes, OutputsMayBeInputsAndConstants) {
  Builder b;
  const ValueId x = b.input(floats({2}));
  const ValueId constant = b.constant(Tensor::vector<float>({1, 2}));
  const ValueId y = b.node("Identity", {x}), c = b.node("Identity", {constant});
  expect_agrees(b.finish({x, y, y, constant, c}), {Tensor::vector<float>({3, 4})});
}

TEST(Passes, ABranchThatIsNeverTakenMayBeWrong) {
  Builder b, taken, wrong;
  const ValueId x = b.input(floats({4}));
  const ValueId condition = b.input(ValueType::tensor(ElementType::kBool, {}));
  const ValueId inner = taken.capture(x), other = wrong.capture(x);
  const ValueId shape = wrong.node("Cast", {wrong.constant(Tensor::vector<std::string>({"3"}))},
                                   {{"to", for_test::integer(7)}});
  Graph then_branch = taken.finish({taken.node("Neg", {inner})});
  Graph else_branch = wrong.finish({wrong.node("Reshape", {other, shape})});  // to [3], which only folding shows
  const ValueId y = b.node("If", {condition}, {{"then_branch", for_test::body(std::move(then_branch))},
                                               {"else_branch", for_test::body(std::move(else_branch))}});
  expect_agrees(b.finish({y}), {Tensor::vector<float>({1, 2, 3, 4}), Tensor::scalar<bool>(true)});
}

TEST(Passes, TellWhatFailsWheneverTheGraphRuns) {
  Builder b;
  const ValueId x = b.input(floats({4}));
  const ValueId shape = b.node("Cast", {b.constant(Tensor::vector<std::string>({"3"}))},
                               {{"to", for_test::integer(7)}});
  Model model = make_model(b.finish({b.node("Reshape", {x, shape})}));
  EXPECT_THAT(message_of([&] { optimise(model); }), HasSubstr("4 cannot take the shape 3"));
}

TEST(Passes, TellNamesThatTheyDoNotKnow) {
  Model model;
  EXPECT_THAT(message_of([&] { optimise(model, {.disabled = {"fold"}}); }), HasSubstr("there is no pass 'fold'"));
  EXPECT_THAT(message_of([&] { optimise(model, {.stop_after = "fold"}); }), HasSubstr("there is no pass 'fold'"));
}

TEST(Passes, LongChainsTakeNoLongTime) {
  Builder b;
  ValueId x = b.input(floats({n()}));
  const ValueId input = x;
  std::vector<ValueId> sums;
  for (int i = 0; i < 20'000; ++i) x = b.node("Identity", {x});
  for (int i = 0; i < 20'000; ++i) {
    sums.push_back(b.node("Add", {input, b.constant(Tensor::vector<float>({static_cast<float>(i / 2)}))}));
  }
  sums.push_back(x);
  Model model = make_model(b.finish(sums));
  optimise(model);
  EXPECT_EQ(model.graph.nodes.size(), 10'000u);
  EXPECT_EQ(model.graph.outputs.back(), input);
}

// Random graphs of small pieces, most of which one pass or another can do something about.
TEST(Passes, OptimisedAndPlainAgree) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    Random random(seed);
    auto pick = [&](size_t count) { return static_cast<size_t>(random.next() % count); };
    Builder b;
    std::vector<ValueId> values = {b.input(floats({n(), 3})), b.input(floats({1, 3})),
                                   b.constant(Tensor::vector<float>({0, 0, 0}, Shape{1, 3})),
                                   b.constant(Tensor::vector<float>({1, 1, 1}, Shape{1, 3})),
                                   b.constant(Tensor::vector<float>({-0.0f}, Shape{1, 1}))};
    for (int i = 0; i < 25; ++i) {
      const ValueId x = values[pick(values.size())], y = values[pick(values.size())];
      switch (pick(9)) {
        case 0: values.push_back(b.node("Identity", {x})); break;
        case 1: values.push_back(b.node("Add", {x, y})); break;
        case 2: values.push_back(b.node("Sub", {x, y})); break;
        case 3: values.push_back(b.node("Mul", {x, y})); break;
        case 4: values.push_back(b.node("Div", {x, y})); break;
        case 5: values.push_back(b.node("Expand", {x, b.node("Shape", {y})})); break;
        case 6: {
          const int64_t shift = static_cast<int64_t>(pick(3)) - 1;
          values.push_back(b.node("Pad", {x, b.constant(ints({shift, 0, -shift, 0}))}));
          break;
        }
        case 7: values.push_back(b.node("Concat", {x}, {{"axis", for_test::integer(0)}})); break;
        default: values.push_back(b.node("Reshape", {x, b.node("Shape", {x})})); break;
      }
    }
    SCOPED_TRACE(seed);
    const std::vector<ValueId> outputs(values.end() - 8, values.end());
    expect_agrees(b.finish(outputs), {Tensor::vector<float>({-0.0f, 1, 2, 3, NAN, -5}, Shape{2, 3}),
                                      Tensor::vector<float>({7, -0.0f, 9}, Shape{1, 3})});
    if (HasFatalFailure()) return;
  }
}

TEST(Loop, AnIdentityWithoutInputsIsAnError) {
  Builder body;
  body.input(ValueType::tensor(ElementType::kI64, {}));
  body.input(ValueType::tensor(ElementType::kBool, {}));
  const ValueId answer = body.node("Identity", {});
  Builder b;
  b.nodes("Loop", {b.constant(Tensor::scalar<int64_t>(3)), kNoValue}, 0,
          {{"body", for_test::body(body.finish({answer}))}});
  EXPECT_NE(message_of([&] { for_test::run(b.finish({})); }), "");
}

TEST(Dump, ShowsControlCharactersAsText) {
  Builder b;
  const ValueId x = b.input(floats({Dim::symbol("n\x1b[2J")}));
  b.graph.value(x).name = "x\x1b]0;title\x07\n\xc2\x9b\xc3\xa4";
  const std::string text = dump(make_model(b.finish({b.node("Neg", {x})})).graph);
  EXPECT_THAT(text, HasSubstr("input x\\x1b]0;title\\x07\\x0a\\xc2\\x9b\xc3\xa4: float32 [n\\x1b[2J]\n"));
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
}

}  // namespace
}  // namespace sluice::graph
