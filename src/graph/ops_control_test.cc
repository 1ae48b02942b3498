// Control flow, sequences and text beyond what ONNX's conformance tests cover: loops that stop early or never run,
// axes and directions of Scan, old versions, patterns, and models that are wrong. Expected values are worked out by
// hand.
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "graph/ops_for_test.h"
#include "graph/regex.h"

namespace sluice::graph {
namespace {

using namespace for_test;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

Tensor floats(std::vector<float> values, Shape shape) { return Tensor::vector(values, shape); }
Tensor strings(std::vector<std::string> values) { return Tensor::vector(values); }
Tensor strings(std::vector<std::string> values, Shape shape) { return Tensor::vector(values, shape); }
const ValueType kFloatVector = ValueType::tensor(ElementType::kF32, {Dim::symbol("n")});

// (i, cond, x) -> (i + 1 < limit, x + x, x)
Graph doubling_body(int64_t limit) {
  Builder b;
  const ValueId i = b.input(), cond = b.input(), x = b.input();
  static_cast<void>(cond);
  const ValueId next = b.node("Add", {i, b.constant(Tensor::scalar<int64_t>(1))});
  const ValueId goes_on = b.node("Less", {next, b.constant(Tensor::scalar<int64_t>(limit))});
  const ValueId doubled = b.node("Add", {x, x});
  return b.finish({goes_on, doubled, b.node("Identity", {x})});
}

TEST(If, TakesABranchAndWhatItCaptures) {
  Builder b;
  const ValueId condition = b.input(ValueType::tensor(ElementType::kBool, Dims{})), x = b.input(kFloatVector);
  Builder then_branch, else_branch;
  const ValueId in_then = then_branch.capture(x), in_else = else_branch.capture(x);
  const ValueId negative = then_branch.node("Neg", {in_then}), absolute = else_branch.node("Abs", {in_else});
  const ValueId taken = b.node("If", {condition}, {{"then_branch", body(then_branch.finish({negative}))},
                                                   {"else_branch", body(else_branch.finish({absolute}))}});
  const Graph graph = b.finish({taken});
  EXPECT_THAT(elements<float>(run(graph, {Tensor::scalar(true), floats({1, -2}, {2})})[0]), ElementsAre(-1, 2));
  EXPECT_THAT(elements<float>(run(graph, {Tensor::scalar(false), floats({1, -2}, {2})})[0]), ElementsAre(1, 2));
}

TEST(If, RefusesWrongModels) {
  Builder branch;
  const Graph one = branch.finish({branch.constant(Tensor::scalar(1.0f))});
  Builder b;
  const ValueId condition = b.input(ValueType::tensor(ElementType::kF32, Dims{}));
  const Graph wrong_condition =
      b.finish({b.node("If", {condition}, {{"then_branch", body(one)}, {"else_branch", body(one)}})});
  EXPECT_THAT(message_of([&] { run(wrong_condition, {Tensor::scalar(1.0f)}); }), HasSubstr("one bool"));
  Builder c;
  const Graph no_branch = c.finish({c.node("If", {c.input()}, {{"then_branch", body(one)}})});
  EXPECT_THAT(message_of([&] { run(no_branch, {Tensor::scalar(true)}); }), HasSubstr("else_branch"));
}

Graph loop(Graph loop_body, bool has_trips, bool has_condition) {
  Builder b;
  const ValueId trips = has_trips ? b.input(ValueType::tensor(ElementType::kI64, Dims{})) : kNoValue;
  const ValueId condition = has_condition ? b.input(ValueType::tensor(ElementType::kBool, Dims{})) : kNoValue;
  const ValueId x = b.input(ValueType::tensor(ElementType::kF32, {2}));
  return b.finish(b.nodes("Loop", {trips, condition, x}, 2, {{"body", body(std::move(loop_body))}}));
}

TEST(Loop, StopsAtItsConditionHoweverLargeTheTripCount) {
  const Tensor x = floats({1, 2}, {2});
  const std::vector<Value> out = run(loop(doubling_body(5), true, true),
                                     {Tensor::scalar(std::numeric_limits<int64_t>::max()), Tensor::scalar(true), x});
  EXPECT_THAT(elements<float>(out[0]), ElementsAre(32, 64));
  EXPECT_EQ(to_string(out[1].tensor.shape()), "5x2");
  EXPECT_THAT(elements<float>(out[1]), ElementsAre(1, 2, 2, 4, 4, 8, 8, 16, 16, 32));
  EXPECT_EQ(elements<float>(run(loop(doubling_body(5), false, false), {x})[0]), elements<float>(out[0]));
  EXPECT_THAT(elements<float>(run(loop(doubling_body(9), true, false), {Tensor::scalar<int64_t>(2), x})[0]),
              ElementsAre(4, 8));
}

TEST(Loop, ThatNeverRunsGivesWhatItWasGiven) {
  const std::vector<Value> out =
      run(loop(doubling_body(5), true, true), {Tensor::scalar<int64_t>(7), Tensor::scalar(false), floats({1, 2}, {2})});
  EXPECT_THAT(elements<float>(out[0]), ElementsAre(1, 2));
  EXPECT_EQ(to_string(out[1].tensor.shape()), "0x2");
  const std::vector<Value> negative =
      run(loop(doubling_body(5), true, false), {Tensor::scalar<int64_t>(-3), floats({1, 2}, {2})});
  EXPECT_EQ(to_string(negative[1].tensor.shape()), "0x2");
}

TEST(Loop, CarriesWhatGrows) {
  Builder inner;
  const ValueId i = inner.input(), cond = inner.input(), x = inner.input();
  static_cast<void>(i);
  const ValueId grown = inner.node("Concat", {x, inner.constant(floats({7}, {1}))}, {{"axis", integer(0)}});
  Graph grow = inner.finish({inner.node("Identity", {cond}), grown});
  Builder b;
  const ValueId trips = b.constant(Tensor::scalar<int64_t>(3)),
                start = b.input(ValueType::tensor(ElementType::kF32, {1}));
  Graph graph = b.finish({b.node("Loop", {trips, kNoValue, start}, {{"body", body(std::move(grow))}})});
  std::vector<std::string> problems;
  infer_types(graph, problems);
  ASSERT_TRUE(problems.empty()) << problems[0];
  const ValueType& type = graph.value(graph.outputs[0]).type;
  ASSERT_TRUE(type.has_rank());
  EXPECT_FALSE(type.dims->front().is_known()) << to_string(type);
  EXPECT_THAT(elements<float>(run(graph, {floats({1}, {1})})[0]), ElementsAre(1, 7, 7, 7));
}

TEST(Loop, KnowsHowManyScanOutputsThereAre) {
  Builder inner;
  const ValueId i = inner.input(), cond = inner.input();
  Graph count = inner.finish({inner.node("Identity", {cond}), inner.node("Identity", {i})});
  Builder b;
  Graph graph = b.finish(
      {b.node("Loop", {b.constant(Tensor::scalar<int64_t>(6)), kNoValue}, {{"body", body(std::move(count))}})});
  std::vector<std::string> problems;
  infer_types(graph, problems);
  EXPECT_EQ(to_string(graph.value(graph.outputs[0]).type), "int64 [6]");
  EXPECT_THAT(elements<int64_t>(run(graph)[0]), ElementsAre(0, 1, 2, 3, 4, 5));
}

TEST(Loop, RefusesBodiesOfAnotherShape) {
  Builder inner;
  const ValueId x = inner.input();
  Graph wrong = inner.finish({x});
  EXPECT_THAT(message_of([&] {
                run(loop(wrong, true, false), {Tensor::scalar<int64_t>(1), floats({1, 2}, {2})});
              }),
              HasSubstr("inputs"));
  // Scan outputs that differ from one time to the next.
  Builder growing;
  const ValueId i = growing.input(), cond = growing.input(), carried = growing.input();
  const ValueId size =
      growing.node("Unsqueeze", {growing.node("Add", {i, growing.constant(Tensor::scalar<int64_t>(1))}),
                                 growing.constant(Tensor::vector<int64_t>({0}))});
  const ValueId ones = growing.node("ConstantOfShape", {size});
  Graph unequal = growing.finish({growing.node("Identity", {cond}), growing.node("Identity", {carried}), ones});
  EXPECT_THAT(message_of([&] {
                run(loop(unequal, true, false), {Tensor::scalar<int64_t>(2), floats({1, 2}, {2})});
              }),
              HasSubstr("alike"));
}

// (state, element) -> (state + element, state + element)
Graph summing_body() {
  Builder b;
  const ValueId state = b.input(), element = b.input();
  const ValueId sum = b.node("Add", {state, element});
  return b.finish({sum, b.node("Identity", {sum})});
}

TEST(Scan, GoesAlongAnyAxisInAnyDirection) {
  const Attributes attributes = {{"body", body(summing_body())},          {"num_scan_inputs", integer(1)},
                                 {"scan_input_axes", integers({-1})},     {"scan_output_axes", integers({1})},
                                 {"scan_input_directions", integers({1})}, {"scan_output_directions", integers({1})}};
  const std::vector<Value> out =
      run_node("Scan", {floats({0, 0}, {2}), floats({1, 2, 3, 10, 20, 30}, {2, 3})}, 2, attributes);
  EXPECT_THAT(elements<float>(out[0]), ElementsAre(6, 60));
  EXPECT_EQ(to_string(out[1].tensor.shape()), "2x3");
  EXPECT_THAT(elements<float>(out[1]), ElementsAre(6, 5, 3, 60, 50, 30));
}

TEST(Scan, OfNothingGivesNothing) {
  const Attributes attributes = {{"body", body(summing_body())}, {"num_scan_inputs", integer(1)}};
  const std::vector<Value> out = run_node("Scan", {floats({4, 5}, {2}), floats({}, {0, 2})}, 2, attributes);
  EXPECT_THAT(elements<float>(out[0]), ElementsAre(4, 5));
  EXPECT_EQ(out[1].tensor.dim(0), 0);
}

TEST(Scan, OfOpset8RunsEachExampleToItsLength) {
  const Attributes attributes = {{"body", body(summing_body())}, {"num_scan_inputs", integer(1)}};
  const Tensor states = floats({0, 100}, {2, 1}), inputs = floats({1, 2, 3, 4, 5, 6}, {2, 3, 1});
  const std::vector<Value> out = run_node("Scan", {Tensor::vector<int64_t>({3, 1}), states, inputs}, 2, attributes, 8);
  EXPECT_THAT(elements<float>(out[0]), ElementsAre(6, 104));
  EXPECT_EQ(to_string(out[1].tensor.shape()), "2x3x1");
  EXPECT_THAT(elements<float>(out[1]), ElementsAre(1, 3, 6, 104, 0, 0));
  EXPECT_THAT(message_of([&] {
                run_node("Scan", {Tensor::vector<int64_t>({3, 4}), states, inputs}, 2, attributes, 8);
              }),
              HasSubstr("sequence length"));
}

TEST(Scan, RefusesInputsThatDoNotFit) {
  Attributes attributes = {
      {"body", body(summing_body())}, {"num_scan_inputs", integer(1)}, {"scan_input_axes", integers({5})}};
  const std::vector<Value> inputs = {floats({0}, {1}), floats({1, 2}, {2, 1})};
  EXPECT_THAT(message_of([&] { run_node("Scan", inputs, 2, attributes); }), HasSubstr("axis 5"));
  attributes["scan_input_axes"] = integers({0, 0});
  EXPECT_THAT(message_of([&] { run_node("Scan", inputs, 2, attributes); }), HasSubstr("scan_input_axes"));
  attributes["num_scan_inputs"] = integer(9);
  EXPECT_THAT(message_of([&] { run_node("Scan", inputs, 2, attributes); }), HasSubstr("num_scan_inputs"));
}

TEST(Sequence, SplitsAndJoins) {
  const Tensor x = floats({1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, {2, 5});
  const Value parts = run_node("SplitToSequence", {x, Tensor::scalar<int64_t>(2)}, 1, {{"axis", integer(1)}})[0];
  ASSERT_EQ(parts.sequence->size(), 3u);
  EXPECT_THAT(elements<float>((*parts.sequence)[2]), ElementsAre(5, 10));
  const Value whole = run_node("ConcatFromSequence", {parts}, 1, {{"axis", integer(-1)}})[0];
  EXPECT_EQ(elements<float>(whole), elements<float>(x));
  const Value columns = run_node("SplitToSequence", {x}, 1, {{"axis", integer(1)}, {"keepdims", integer(0)}})[0];
  EXPECT_EQ(to_string((*columns.sequence)[0].tensor.shape()), "2");
  const Value stacked =
      run_node("ConcatFromSequence", {columns}, 1, {{"axis", integer(0)}, {"new_axis", integer(1)}})[0];
  EXPECT_THAT(elements<float>(stacked), ElementsAre(1, 6, 2, 7, 3, 8, 4, 9, 5, 10));
  EXPECT_THAT(message_of([&] {
                run_node("SplitToSequence", {x, Tensor::vector<int64_t>({3, 3})}, 1, {{"axis", integer(1)}});
              }),
              HasSubstr("do not fit"));
  EXPECT_THAT(message_of([&] {
                run_node("ConcatFromSequence", {parts}, 1, {{"axis", integer(0)}});
              }),
              HasSubstr("differ"));
  EXPECT_THAT(message_of([&] {
                run_node("ConcatFromSequence", {Value(std::vector<Value>())}, 1, {{"axis", integer(0)}});
              }),
              HasSubstr("empty"));
}

TEST(Sequence, CountsPositionsFromEitherEnd) {
  std::vector<Value> three;
  for (const float x : {1.0f, 2.0f, 3.0f}) three.push_back(Tensor::scalar(x));
  const Value sequence(three);
  auto at = [&](int64_t position) {
    return run_node("SequenceAt", {sequence, Tensor::scalar(position)})[0].tensor.data<float>()[0];
  };
  EXPECT_EQ(at(0), 1);
  EXPECT_EQ(at(-1), 3);
  EXPECT_THAT(message_of([&] { at(3); }), HasSubstr("position 3"));
  EXPECT_THAT(message_of([&] { at(std::numeric_limits<int64_t>::min()); }), HasSubstr("position"));
  const Value inserted = run_node("SequenceInsert", {sequence, Tensor::scalar(9.0f), Tensor::scalar<int64_t>(-1)})[0];
  EXPECT_EQ((*inserted.sequence)[2].tensor.data<float>()[0], 9);
  EXPECT_EQ((*inserted.sequence)[3].tensor.data<float>()[0], 3);
  const Value erased = run_node("SequenceErase", {sequence})[0];
  EXPECT_EQ(erased.sequence->size(), 2u);
  EXPECT_THAT(message_of([&] { run_node("SequenceErase", {Value(std::vector<Value>())}); }), HasSubstr("empty"));
  EXPECT_THAT(elements<int64_t>(run_node("SequenceLength", {sequence})[0]), ElementsAre(3));
}

TEST(Regex, MatchesAsRe2Does) {
  struct Row {
    const char *pattern, *text;
    bool matches;
  };
  constexpr Row kRows[] = {
      {"a+b", "aab", true},           {"a+b", "aabc", false},       {"a|ab", "ab", true},
      {"abc$", "abc\n", false},       {"a.c", "a\nc", false},       {"(?s)a.c", "a\nc", true},
      {R"(\s)", "\v", false},         {R"(\v)", "\v", true},        {R"([\s]+)", " \t", true},
      {R"(\d+)", "١٢", false},        {R"(\pN+)", "١٢", true},      {R"(\p{Greek}+)", "αβγ", true},
      {R"(\P{Greek})", "α", false},   {R"(\x41\x{42})", "AB", true}, {R"(\101)", "A", true},
      {R"(\Qa.b\E)", "a.b", true},    {R"(\Qa.b\E)", "axb", false}, {"[[:alpha:]]+", "abc", true},
      {"[]a]+", "]a", true},          {"[^]a]+", "]a", false},      {"(?i)STRASSE", "strasse", true},
      {"(?P<x>a)(?:b)", "ab", true},  {"x{,2}", "x{,2}", true},     {"a{2,3}", "aaaa", false},
      {"", "", true},                 {"é", "é", true},             {"é?.", "ü", true},
      {".*", "\xff", false},          {"a*?b", "aab", true},        {R"(\babc\b)", "abc", true},
  };
  for (const Row& row : kRows) {
    EXPECT_EQ(Regex(row.pattern).matches(row.text), row.matches) << row.pattern << " on " << row.text;
  }
}

TEST(Regex, RefusesWhatRe2DoesNotKnow) {
  for (const char* pattern :
       {R"((a)\1)", "(?=a)b", "(?<!a)b", "(?>a)", "a++", "a**", R"(\Ka)", R"(\R)", "(*ACCEPT)", "(?R)", "[a", "(a",
        R"(\p{Klingon})", "a{1001}", R"(\x{110000})", "\\", "(?(1)a|b)", R"(\C)", "(?#x)"}) {
    EXPECT_THAT(message_of([&] { Regex regex(pattern); }), HasSubstr("bad regular expression")) << pattern;
  }
}

TEST(Regex, GivesUpOnPatternsThatTakeForEver) {
  const Regex hostile("(a|aa)+(a|aa)+(a|aa)+b");
  EXPECT_THAT(message_of([&] { hostile.matches(std::string(200, 'a') + "bc"); }), HasSubstr("limit"));
  EXPECT_TRUE(hostile.matches("aaab"));
}

TEST(Text, NormalizesWholeWords) {
  const Tensor words = strings({"Über", "the", "MOON", "the moon"});
  const Attributes lower = {{"case_change_action", text("LOWER")}, {"stopwords", texts({"THE", "über"})}};
  EXPECT_THAT(elements<std::string>(run_node("StringNormalizer", {words}, 1, lower)[0]),
              ElementsAre("moon", "the moon"));
  const Attributes upper = {
      {"case_change_action", text("UPPER")}, {"is_case_sensitive", integer(1)}, {"stopwords", texts({"the"})}};
  EXPECT_THAT(elements<std::string>(run_node("StringNormalizer", {words}, 1, upper)[0]),
              ElementsAre("ÜBER", "MOON", "THE MOON"));
  const Value none = run_node("StringNormalizer", {strings({}, {1, 0})})[0];
  EXPECT_EQ(to_string(none.tensor.shape()), "1x1");
  EXPECT_THAT(message_of([&] { run_node("StringNormalizer", {strings({"a", "b"}, {2, 1})}); }), HasSubstr("[1 x C]"));
}

TEST(Text, ChangesCaseLetterByLetter) {
  auto change = [](const std::string& word, const char* action) {
    return elements<std::string>(
        run_node("StringNormalizer", {strings({word})}, 1, {{"case_change_action", text(action)}})[0])[0];
  };
  EXPECT_EQ(change("straße ÿ", "UPPER"), "STRAßE Ÿ");
  EXPECT_EQ(change("ΑΒΓ Ǆ", "LOWER"), "αβγ ǆ");
  EXPECT_EQ(change("a\xff\xe2\x82", "UPPER"), "A\xff\xe2\x82");
}

TEST(Text, SplitsWithALimit) {
  const std::vector<Value> out =
      run_node("StringSplit", {strings({" a  b c ", "", "x"})}, 2, {{"maxsplit", integer(1)}});
  EXPECT_EQ(to_string(out[0].tensor.shape()), "3x2");
  EXPECT_THAT(elements<std::string>(out[0]), ElementsAre("a", "b c ", "", "", "x", ""));
  EXPECT_THAT(elements<int64_t>(out[1]), ElementsAre(2, 0, 1));
  const std::vector<Value> by = run_node("StringSplit", {strings({"a--b--", ""})}, 2, {{"delimiter", text("--")}});
  EXPECT_THAT(elements<std::string>(by[0]), ElementsAre("a", "b", "", "", "", ""));
  EXPECT_THAT(elements<int64_t>(by[1]), ElementsAre(3, 1));
}

TEST(TfIdf, WeightsColumns) {
  Attributes attributes = {{"mode", text("TFIDF")},
                           {"min_gram_length", integer(1)},
                           {"max_gram_length", integer(2)},
                           {"max_skip_count", integer(std::numeric_limits<int64_t>::max() - 1)},
                           {"ngram_counts", integers({0, 2})},
                           {"ngram_indexes", integers({0, 1, 2})},
                           {"pool_strings", texts({"a", "b", "a", "b"})},
                           {"weights", reals({0.5f, 2, 10})}};
  const Tensor words = strings({"a", "c", "b", "a", "b", "a"}, {2, 3});
  // Row 1: a, b, and a..b with one skip. Row 2: a a b; a b with none; nothing with one.
  EXPECT_THAT(elements<float>(run_node("TfIdfVectorizer", {words}, 1, attributes)[0]),
              ElementsAre(0.5f, 2, 10, 1, 2, 10));
  attributes["mode"] = text("IDF");
  EXPECT_THAT(elements<float>(run_node("TfIdfVectorizer", {words}, 1, attributes)[0]),
              ElementsAre(0.5f, 2, 10, 0.5f, 2, 10));
  attributes["weights"] = reals({1});
  EXPECT_THAT(message_of([&] { run_node("TfIdfVectorizer", {words}, 1, attributes); }), HasSubstr("weights"));
  attributes["ngram_counts"] = integers({0, -7});
  EXPECT_THAT(message_of([&] { run_node("TfIdfVectorizer", {words}, 1, attributes); }), HasSubstr("ngram_counts"));
}

}  // namespace
}  // namespace sluice::graph
