// Classical machine learning and pictures: operators that ONNX's conformance tests cover with one case each or not at
// all, and models that are wrong. Expected values are worked out by hand, or by NumPy where a comment says so.
#include <cmath>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "graph/image.h"
#include "graph/ops_for_test.h"

namespace sluice::graph {
namespace {

using namespace for_test;
using ::testing::ElementsAre;
using ::testing::FloatNear;
using ::testing::HasSubstr;
using ::testing::Pointwise;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

Tensor floats(std::vector<float> values, Shape shape) { return Tensor::vector(values, shape); }

std::vector<Value> run_ml(const std::string& op, const Tensor& x, int num_outputs, const Attributes& attributes,
                          int opset = 1) {
  return run_node(op, {x}, num_outputs, attributes, opset, kMl);
}

void expect_floats(const Value& value, const std::vector<float>& expected, float tolerance = 1e-5f) {
  EXPECT_THAT(elements<float>(value), Pointwise(FloatNear(tolerance), expected));
}

// Two trees. 0: x0 <= 1 ? leaf 1 : (x1 < 2 ? leaf 3 : leaf 4). 1: a leaf and nothing else.
Attributes two_trees() {
  return {{"nodes_treeids", integers({0, 0, 0, 0, 0, 7})},
          {"nodes_nodeids", integers({0, 1, 2, 3, 4, 0})},
          {"nodes_featureids", integers({0, 0, 1, 0, 0, 0})},
          {"nodes_modes", texts({"BRANCH_LEQ", "LEAF", "BRANCH_LT", "LEAF", "LEAF", "LEAF"})},
          {"nodes_values", reals({1, 0, 2, 0, 0, 0})},
          {"nodes_truenodeids", integers({1, 0, 3, 0, 0, 0})},
          {"nodes_falsenodeids", integers({2, 0, 4, 0, 0, 0})}};
}

Attributes regressor(const std::string& aggregate) {
  Attributes attributes = two_trees();
  attributes["n_targets"] = integer(2);
  attributes["aggregate_function"] = text(aggregate);
  attributes["target_treeids"] = integers({0, 0, 0, 0, 7});
  attributes["target_nodeids"] = integers({1, 3, 4, 4, 0});
  attributes["target_ids"] = integers({0, 1, 0, 1, 0});
  attributes["target_weights"] = reals({10, 20, 30, 40, 2});
  return attributes;
}

const Tensor kThreeRows = floats({1, 0, 2, 1, 2, 2}, {3, 2});  // leaves 1, 3 and 4

TEST(TreeRegressor, AggregatesVotes) {
  expect_floats(run_ml("TreeEnsembleRegressor", kThreeRows, 1, regressor("SUM"))[0], {12, 0, 2, 20, 32, 40});
  expect_floats(run_ml("TreeEnsembleRegressor", kThreeRows, 1, regressor("AVERAGE"))[0], {6, 0, 1, 10, 16, 20});
  expect_floats(run_ml("TreeEnsembleRegressor", kThreeRows, 1, regressor("MIN"))[0], {2, 0, 2, 20, 2, 40});
  Attributes attributes = regressor("MAX");
  attributes["base_values"] = reals({100, 200});
  expect_floats(run_ml("TreeEnsembleRegressor", kThreeRows, 1, attributes)[0], {110, 200, 102, 220, 130, 240});
  const Tensor integers32 = Tensor::vector<int32_t>({1, 0, 2, 1, 2, 2}, {3, 2});
  expect_floats(run_ml("TreeEnsembleRegressor", integers32, 1, regressor("SUM"))[0], {12, 0, 2, 20, 32, 40});
}

TEST(TreeRegressor, SendsMissingValuesWhereItIsTold) {
  Attributes attributes = regressor("SUM");
  const Tensor x = floats({kNaN, 0}, {1, 2});
  expect_floats(run_ml("TreeEnsembleRegressor", x, 1, attributes)[0], {2, 20});
  attributes["nodes_missing_value_tracks_true"] = integers({1, 0, 0, 0, 0, 0});
  expect_floats(run_ml("TreeEnsembleRegressor", x, 1, attributes)[0], {12, 0});
}

TEST(TreeRegressor, ComparesDoublesAsDoubles) {
  Attributes attributes = regressor("SUM");
  attributes.erase("nodes_values");
  const double threshold = 1 + 1e-12;
  attributes["nodes_values_as_tensor"] = tensor(Tensor::vector<double>({threshold, 0, 2, 0, 0, 0}));
  const Tensor x = Tensor::vector<double>({threshold, 0, std::nextafter(threshold, 2), 0}, {2, 2});
  expect_floats(run_ml("TreeEnsembleRegressor", x, 1, attributes, 3)[0], {12, 0, 2, 20});
}

TEST(TreeRegressor, RefusesTreesThatAreNone) {
  auto message_with = [](const char* name, Attribute value) {
    Attributes attributes = regressor("SUM");
    attributes[name] = std::move(value);
    return message_of([&] { run_ml("TreeEnsembleRegressor", kThreeRows, 1, attributes); });
  };
  EXPECT_THAT(message_with("nodes_falsenodeids", integers({2, 0, 0, 0, 0, 0})), HasSubstr("cycle"));
  EXPECT_THAT(message_with("nodes_falsenodeids", integers({2, 0, 2, 0, 0, 0})), HasSubstr("cycle"));
  EXPECT_THAT(message_with("nodes_falsenodeids", integers({2, 0, 9, 0, 0, 0})), HasSubstr("not there"));
  EXPECT_THAT(message_with("nodes_nodeids", integers({0, 1, 2, 3, 3, 0})), HasSubstr("twice"));
  EXPECT_THAT(message_with("nodes_featureids", integers({0, 0, 5, 0, 0, 0})), HasSubstr("feature 5"));
  EXPECT_THAT(message_with("nodes_featureids", integers({0, 0, -1, 0, 0, 0})), HasSubstr("nodes_featureids"));
  EXPECT_THAT(message_with("nodes_modes", texts({"BRANCH_XOR", "LEAF", "BRANCH_LT", "LEAF", "LEAF", "LEAF"})),
              HasSubstr("BRANCH_XOR"));
  EXPECT_THAT(message_with("target_ids", integers({0, 1, 0, 2, 0})), HasSubstr("votes for 2"));
  EXPECT_THAT(message_with("target_weights", reals({1})), HasSubstr("target_treeids"));
  EXPECT_THAT(message_with("n_targets", integer(0)), HasSubstr("n_targets"));
  EXPECT_THAT(message_with("base_values", reals({1})), HasSubstr("base_values"));
}

Attributes classifier(std::vector<int64_t> class_ids, std::vector<float> weights, std::vector<std::string> labels,
                      const char* transform) {
  Attributes attributes = two_trees();
  attributes["class_treeids"] = integers({0, 0, 0, 7});
  attributes["class_nodeids"] = integers({1, 3, 4, 0});
  attributes["class_ids"] = integers(std::move(class_ids));
  attributes["class_weights"] = reals(std::move(weights));
  attributes["classlabels_strings"] = texts(std::move(labels));
  attributes["post_transform"] = text(transform);
  return attributes;
}

TEST(TreeClassifier, TakesTheClassWithMostVotes) {
  const std::vector<Value> out =
      run_ml("TreeEnsembleClassifier", kThreeRows, 2, classifier({0, 1, 2, 1}, {3, 1, 5, 2}, {"a", "b", "c"}, "NONE"));
  EXPECT_THAT(elements<std::string>(out[0]), ElementsAre("a", "b", "c"));
  expect_floats(out[1], {3, 2, 0, 0, 3, 0, 0, 2, 5});
  const std::vector<Value> two =
      run_ml("TreeEnsembleClassifier", kThreeRows, 2, classifier({0, 1, 0, 1}, {3, 1, 1, 2}, {"a", "b"}, "NONE"));
  EXPECT_THAT(elements<std::string>(two[0]), ElementsAre("a", "b", "b"));
}

TEST(TreeClassifier, MakesTwoScoresOfOne) {
  // Sums: -2, 1, 3; the logistic function of them.
  const std::vector<Value> out = run_ml("TreeEnsembleClassifier", kThreeRows, 2,
                                        classifier({0, 0, 0, 0}, {-3, 0, 2, 1}, {"no", "yes"}, "LOGISTIC"));
  EXPECT_THAT(elements<std::string>(out[0]), ElementsAre("no", "yes", "yes"));
  expect_floats(out[1], {0.880797f, 0.119203f, 0.268941f, 0.731059f, 0.047426f, 0.952574f});
  const std::vector<Value> probabilities = run_ml(
      "TreeEnsembleClassifier", kThreeRows, 2, classifier({1, 1, 1, 1}, {0.1f, 0.5f, 0.9f, 0}, {"no", "yes"}, "NONE"));
  EXPECT_THAT(elements<std::string>(probabilities[0]), ElementsAre("no", "no", "yes"));
  expect_floats(probabilities[1], {0.9f, 0.1f, 0.5f, 0.5f, 0.1f, 0.9f});
}

TEST(TreeEnsemble, OfVersion5RefusesIndicesOutside) {
  Attributes attributes = {{"n_targets", integer(1)},
                           {"nodes_modes", tensor(Tensor::vector<uint8_t>({0}))},
                           {"nodes_splits", tensor(Tensor::vector<float>({1}))},
                           {"nodes_featureids", integers({0})},
                           {"nodes_truenodeids", integers({0})},
                           {"nodes_trueleafs", integers({1})},
                           {"nodes_falsenodeids", integers({1})},
                           {"nodes_falseleafs", integers({1})},
                           {"leaf_targetids", integers({0, 0})},
                           {"leaf_weights", tensor(Tensor::vector<float>({10, 20}))},
                           {"tree_roots", integers({0})}};
  const Tensor x = floats({1, 2}, {2, 1});
  expect_floats(run_ml("TreeEnsemble", x, 1, attributes, 5)[0], {10, 20});
  auto message_with = [&](const char* name, Attribute value) {
    Attributes changed = attributes;
    changed[name] = std::move(value);
    return message_of([&] { run_ml("TreeEnsemble", x, 1, changed, 5); });
  };
  EXPECT_THAT(message_with("nodes_falsenodeids", integers({2})), HasSubstr("leaf 2 of 2"));
  EXPECT_THAT(message_with("nodes_trueleafs", integers({0})), HasSubstr("cycle"));
  EXPECT_THAT(message_with("tree_roots", integers({1})), HasSubstr("tree_roots"));
  EXPECT_THAT(message_with("nodes_modes", tensor(Tensor::vector<uint8_t>({6}))), HasSubstr("membership_values"));
  EXPECT_THAT(message_with("leaf_targetids", integers({0, 1})), HasSubstr("votes for 1"));
}

TEST(TreeEnsemble, ManyRowsAreAsOneByOne) {
  // A chain of 64 branches: row x goes to leaf min(x, 64), which votes x.
  constexpr int kDepth = 64;
  std::vector<int64_t> trees, ids, features, on_true, on_false, vote_ids;
  std::vector<std::string> modes;
  std::vector<float> values, weights;
  for (int i = 0; i <= 2 * kDepth; ++i) {
    const bool is_branch = i % 2 == 0 && i < 2 * kDepth;
    trees.push_back(0);
    ids.push_back(i);
    features.push_back(0);
    modes.push_back(is_branch ? "BRANCH_LEQ" : "LEAF");
    values.push_back(static_cast<float>(i / 2));
    on_true.push_back(is_branch ? i + 1 : 0);
    on_false.push_back(is_branch ? i + 2 : 0);
    if (is_branch) continue;
    vote_ids.push_back(i);
    weights.push_back(static_cast<float>(i / 2));
  }
  const std::vector<int64_t> zeros(weights.size(), 0);
  const Attributes attributes = {{"nodes_treeids", integers(trees)},
                                 {"nodes_nodeids", integers(ids)},
                                 {"nodes_featureids", integers(features)},
                                 {"nodes_modes", texts(modes)},
                                 {"nodes_values", reals(values)},
                                 {"nodes_truenodeids", integers(on_true)},
                                 {"nodes_falsenodeids", integers(on_false)},
                                 {"target_treeids", integers(zeros)},
                                 {"target_nodeids", integers(vote_ids)},
                                 {"target_ids", integers(zeros)},
                                 {"target_weights", reals(weights)},
                                 {"n_targets", integer(1)}};
  std::vector<float> x, expected;
  for (int i = 0; i < 1000; ++i) {
    x.push_back(static_cast<float>(i % 90));
    expected.push_back(std::min(static_cast<float>(i % 90), static_cast<float>(kDepth)));
  }
  expect_floats(run_ml("TreeEnsembleRegressor", floats(x, {1000, 1}), 1, attributes)[0], expected);
}

TEST(Linear, ClassifiesTwoAndThreeClasses) {
  const Tensor x = floats({1, 2, -1, 0}, {2, 2});
  const Attributes two = {{"coefficients", reals({1, 1})},
                          {"intercepts", reals({-1})},
                          {"classlabels_ints", integers({3, 8})},
                          {"post_transform", text("LOGISTIC")}};
  const std::vector<Value> out = run_ml("LinearClassifier", x, 2, two);
  EXPECT_THAT(elements<int64_t>(out[0]), ElementsAre(8, 3));
  expect_floats(out[1], {0.119203f, 0.880797f, 0.880797f, 0.119203f});
  const Attributes three = {{"coefficients", reals({1, 0, 0, 1, -1, -1})}, {"intercepts", reals({0, 0, 0})},
                            {"classlabels_strings", texts({"a", "b", "c"})}, {"post_transform", text("SOFTMAX")}};
  const std::vector<Value> more = run_ml("LinearClassifier", x, 2, three);
  EXPECT_THAT(elements<std::string>(more[0]), ElementsAre("b", "c"));
  // NumPy: exp(s) / sum(exp(s)) of [1, 2, -3] and [-1, 0, 1].
  expect_floats(more[1], {0.267623f, 0.727475f, 0.004902f, 0.090031f, 0.244728f, 0.665241f});
  EXPECT_THAT(message_of([&] {
                run_ml("LinearClassifier", floats({1, 2, 3}, {1, 3}), 2, three);
              }),
              HasSubstr("6 coefficients"));
}

TEST(Linear, RegressesIntegersToo) {
  const Attributes attributes = {
      {"coefficients", reals({1, 2, 3, 4})}, {"intercepts", reals({0.5f, -0.5f})}, {"targets", integer(2)}};
  expect_floats(run_ml("LinearRegressor", Tensor::vector<int64_t>({1, 1, 2, 0}, {2, 2}), 1, attributes)[0],
                {3.5f, 6.5f, 2.5f, 5.5f});
}

TEST(Svm, RegressesWithEachKernel) {
  Attributes attributes = {{"kernel_type", text("RBF")},           {"kernel_params", reals({0.5f, 1, 2})},
                           {"support_vectors", reals({1, 0, 0, 1})}, {"coefficients", reals({2, -1})},
                           {"n_supports", integer(2)},             {"rho", reals({0.25f})}};
  const Tensor x = floats({1, 1, 0, 2}, {2, 2});
  // 2 exp(-0.5) - exp(-0.5) + 0.25; 2 exp(-2.5) - exp(-0.5) + 0.25
  expect_floats(run_ml("SVMRegressor", x, 1, attributes)[0], {0.856531f, -0.192361f});
  attributes["kernel_type"] = text("POLY");  // (0.5 dot + 1)^2
  expect_floats(run_ml("SVMRegressor", x, 1, attributes)[0], {2.5f, -1.75f});
  attributes["kernel_type"] = text("SIGMOID");  // tanh(0.5 dot + 1)
  expect_floats(
      run_ml("SVMRegressor", x, 1, attributes)[0],
      {static_cast<float>(std::tanh(1.5) + 0.25), static_cast<float>(2 * std::tanh(1) - std::tanh(2) + 0.25)});
  attributes["kernel_type"] = text("LINEAR");
  attributes["one_class"] = integer(1);
  expect_floats(run_ml("SVMRegressor", x, 1, attributes)[0], {1, -1});
  attributes["support_vectors"] = reals({1, 0, 0});
  EXPECT_THAT(message_of([&] { run_ml("SVMRegressor", x, 1, attributes); }), HasSubstr("support vectors"));
}

TEST(Svm, VotesBetweenPairs) {
  // One vector a class, on the axes; i against j: x[i] - x[j].
  Attributes attributes = {{"kernel_type", text("LINEAR")},
                           {"support_vectors", reals({1, 0, 0, 0, 1, 0, 0, 0, 1})},
                           {"coefficients", reals({1, -1, -1, 1, 1, -1})},
                           {"vectors_per_class", integers({1, 1, 1})},
                           {"rho", reals({0, 0, 0})},
                           {"classlabels_ints", integers({10, 20, 30})}};
  const Tensor x = floats({3, 1, 2, 0, 5, 4}, {2, 3});
  const std::vector<Value> out = run_ml("SVMClassifier", x, 2, attributes);
  EXPECT_THAT(elements<int64_t>(out[0]), ElementsAre(10, 20));
  expect_floats(out[1], {2, 1, -1, -5, -4, 1});
  attributes["prob_a"] = reals({-1, -1, -1});
  attributes["prob_b"] = reals({0, 0, 0});
  const std::vector<Value> coupled = run_ml("SVMClassifier", x, 2, attributes);
  const std::vector<float> p = elements<float>(coupled[1]);
  for (size_t row = 0; row < 2; ++row) EXPECT_NEAR(p[3 * row] + p[3 * row + 1] + p[3 * row + 2], 1, 1e-5);
  EXPECT_GT(p[0], p[2]);
  EXPECT_GT(p[2], p[1]);
  attributes["rho"] = reals({0});
  EXPECT_THAT(message_of([&] { run_ml("SVMClassifier", x, 2, attributes); }), HasSubstr("rho"));
}

TEST(Labels, MapBothWays) {
  const Attributes old = {
      {"classes_strings", texts({"x", "y"})}, {"default_int64", integer(-7)}, {"default_string", text("?")}};
  EXPECT_THAT(elements<int64_t>(run_ml("LabelEncoder", Tensor::vector<std::string>({"y", "z", "x"}), 1, old)[0]),
              ElementsAre(1, -7, 0));
  EXPECT_THAT(elements<std::string>(run_ml("LabelEncoder", Tensor::vector<int64_t>({1, 2}), 1, old)[0]),
              ElementsAre("y", "?"));
  const Attributes categories = {{"cats_strings", texts({"x", "y"})}, {"cats_int64s", integers({5, 6})}};
  EXPECT_THAT(elements<int64_t>(run_ml("CategoryMapper", Tensor::vector<std::string>({"y", "z"}), 1, categories)[0]),
              ElementsAre(6, -1));
  EXPECT_THAT(elements<std::string>(run_ml("CategoryMapper", Tensor::vector<int64_t>({5, 0}), 1, categories)[0]),
              ElementsAre("x", "_Unused"));
}

TEST(Labels, KnowNaN) {
  const Attributes attributes = {{"keys_floats", reals({kNaN, 0, 1.5f})},
                                 {"values_strings", texts({"nan", "zero", "more"})}};
  EXPECT_THAT(elements<std::string>(run_ml("LabelEncoder", floats({1.5f, -0.0f, -kNaN, 2}, {4}), 1, attributes, 2)[0]),
              ElementsAre("more", "zero", "nan", "_Unused"));
  const Attributes wrong = {{"keys_floats", reals({1})}, {"values_int64s", integers({1, 2})}};
  EXPECT_THAT(message_of([&] { run_ml("LabelEncoder", floats({1}, {1}), 1, wrong, 2); }),
              HasSubstr("1 keys and 2 values"));
  EXPECT_THAT(message_of([&] { run_ml("LabelEncoder", Tensor::vector<int64_t>({1}), 1, attributes, 2); }),
              HasSubstr("int64"));
}

TEST(Maps, GoInAndOut) {
  const Value zipped =
      run_ml("ZipMap", floats({1, 2, 3, 4}, {2, 2}), 1, {{"classlabels_strings", texts({"a", "b"})}})[0];
  ASSERT_EQ(zipped.sequence->size(), 2u);
  const Value& second = (*zipped.sequence)[1];
  EXPECT_THAT(elements<std::string>(Value(second.map->keys)), ElementsAre("a", "b"));
  EXPECT_THAT(elements<float>(Value(second.map->values)), ElementsAre(3, 4));
  const Value vector =
      run_node("DictVectorizer", {second}, 1, {{"string_vocabulary", texts({"b", "c", "a"})}}, 1, kMl)[0];
  EXPECT_THAT(elements<float>(vector), ElementsAre(4, 0, 3));
  const Value map(MapValue{Tensor::vector<int64_t>({3, 1}), Tensor::vector<std::string>({"30.5", "10"})});
  EXPECT_THAT(elements<float>(run_node("CastMap", {map}, 1, {}, 1, kMl)[0]), ElementsAre(10, 30.5f));
  const Attributes sparse = {{"map_form", text("SPARSE")}, {"max_map", integer(5)}, {"cast_to", text("TO_INT64")}};
  EXPECT_THAT(elements<int64_t>(run_node("CastMap", {map}, 1, sparse, 1, kMl)[0]), ElementsAre(0, 10, 0, 30, 0));
  const Attributes small = {{"map_form", text("SPARSE")}, {"max_map", integer(3)}};
  EXPECT_THAT(message_of([&] { run_node("CastMap", {map}, 1, small, 1, kMl); }), HasSubstr("key 3"));
}

TEST(Features, ArePrepared) {
  EXPECT_THAT(elements<float>(run_ml("Normalizer", floats({3, -4, 0, 0}, {2, 2}), 1, {{"norm", text("L2")}})[0]),
              ElementsAre(0.6f, -0.8f, 0, 0));
  EXPECT_THAT(elements<float>(run_ml("Normalizer", floats({3, -5}, {2}), 1, {{"norm", text("L1")}})[0]),
              ElementsAre(0.375f, -0.625f));
  EXPECT_THAT(elements<float>(run_ml("Normalizer", floats({4, -8, 2}, {3}), 1, {})[0]), ElementsAre(1, -2, 0.5f));
  const Attributes impute = {{"imputed_value_floats", reals({8, 9})}, {"replaced_value_float", real(kNaN)}};
  EXPECT_THAT(elements<float>(run_ml("Imputer", floats({kNaN, 1, 2, kNaN}, {2, 2}), 1, impute)[0]),
              ElementsAre(8, 1, 2, 9));
  const Attributes scale = {{"offset", reals({1, 2})}, {"scale", reals({10})}};
  EXPECT_THAT(elements<float>(run_ml("Scaler", Tensor::vector<int64_t>({1, 2, 3, 4}, {2, 2}), 1, scale)[0]),
              ElementsAre(0, 0, 20, 20));
  const Attributes one_hot = {{"cats_int64s", integers({4, 4, 9})}};
  const Value encoded = run_ml("OneHotEncoder", floats({9.7f, 4, 1e30f, kNaN}, {2, 2}), 1, one_hot)[0];
  EXPECT_EQ(to_string(encoded.tensor.shape()), "2x2x3");
  EXPECT_THAT(elements<float>(encoded), ElementsAre(0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0));
  const Attributes strict = {{"cats_strings", texts({"a"})}, {"zeros", integer(0)}};
  EXPECT_THAT(message_of([&] { run_ml("OneHotEncoder", Tensor::vector<std::string>({"b"}), 1, strict); }),
              HasSubstr("'b'"));
  const Value joined =
      run_node("FeatureVectorizer", {floats({1, 2}, {2, 1}), Tensor::vector<double>({3, 4, 5, 6}, {2, 2})}, 1,
               {{"inputdimensions", integers({1, 3})}}, 1, kMl)[0];
  EXPECT_THAT(elements<float>(joined), ElementsAre(1, 3, 4, 0, 2, 5, 6, 0));
  const Value picked =
      run_node("ArrayFeatureExtractor", {floats({1, 2, 3}, {3}), Tensor::vector<int64_t>({2, 0})}, 1, {}, 1, kMl)[0];
  EXPECT_EQ(to_string(picked.tensor.shape()), "1x2");
  EXPECT_THAT(elements<float>(picked), ElementsAre(3, 1));
  EXPECT_THAT(message_of([&] {
                run_node("ArrayFeatureExtractor", {floats({1}, {1}), Tensor::vector<int64_t>({1})}, 1, {}, 1, kMl);
              }),
              HasSubstr("index 1"));
  EXPECT_THAT(
      elements<int64_t>(run_ml("Binarizer", Tensor::vector<int64_t>({-1, 2, 3}), 1, {{"threshold", real(2)}})[0]),
      ElementsAre(0, 0, 1));
}

std::vector<uint8_t> bytes_of(std::string_view text) { return {text.begin(), text.end()}; }

TEST(Picture, OfPlainFormats) {
  EXPECT_THAT(decode_image(bytes_of("P3 # red, then dark\n2 1 15\n15 0 0  1 2 3")).pixels,
              ElementsAre(255, 0, 0, 17, 34, 51));
  EXPECT_THAT(decode_image(bytes_of(std::string_view("P4 3 1\n\xA0", 8))).pixels,
              ElementsAre(0, 0, 0, 255, 255, 255, 0, 0, 0));
  EXPECT_THAT(decode_image(bytes_of("P2 1 2 255 7 300")).pixels, ElementsAre(7, 7, 7, 255, 255, 255));
  // 1 x 2 pixels of 8 bits with two colours, bottom up.
  std::vector<uint8_t> bmp = bytes_of("BM");
  auto put = [&](std::initializer_list<uint32_t> values) {
    for (const uint32_t value : values) {
      for (int i = 0; i < 4; ++i) bmp.push_back(static_cast<uint8_t>(value >> 8 * i));
    }
  };
  put({70, 0, 62, 40, 1, 2, 1 | 8 << 16, 0, 0, 0, 0, 2, 0, 0x102030, 0x405060, 0, 1});
  EXPECT_THAT(decode_image(bmp).pixels, ElementsAre(0x40, 0x50, 0x60, 0x10, 0x20, 0x30));
  bmp.pop_back();
  EXPECT_THAT(message_of([&] { decode_image(bmp); }), HasSubstr("too early"));
}

TEST(Picture, RefusesWhatIsDamagedOrHuge) {
  EXPECT_THAT(message_of([] { decode_image(bytes_of("P6 100000000 100000000 255\nx")); }), HasSubstr("pixels"));
  EXPECT_THAT(message_of([] { decode_image(bytes_of("P6 10 10 255\nx")); }), HasSubstr("too early"));
  EXPECT_THAT(message_of([] { decode_image(bytes_of("\x89PNG\r\n\x1A\nxxxx")); }), HasSubstr("PNG"));
  EXPECT_THAT(message_of([] { decode_image(bytes_of("\xFF\xD8\xFF\xE0xxxxxx")); }), HasSubstr("JPEG"));
  EXPECT_THAT(message_of([] { decode_image(bytes_of("RIFFxxxxWEBPVP8 ")); }), HasSubstr("WebP"));
  EXPECT_THAT(message_of([] { decode_image(bytes_of(std::string_view("II*\0\xFF\xFF\xFF\xFF", 8))); }),
              HasSubstr("too early"));
  EXPECT_THAT(message_of([] { decode_image({}); }), HasSubstr("no picture"));
  EXPECT_THAT(message_of([] {
                run_node("ImageDecoder", {Tensor::vector<uint8_t>({1})}, 1, {{"pixel_format", text("CMYK")}});
              }),
              HasSubstr("CMYK"));
}

}  // namespace
}  // namespace sluice::graph
