// TreeEnsembleClassifier and TreeEnsembleRegressor (ai.onnx.ml 1 and 3) and TreeEnsemble (5). Trees become flat
// arrays once for a node (ml_forest.h). Rows go in blocks: each tree is walked by all rows of a block while it is in
// the cache. Thresholds and weights are kept in double, sums too, and rounded once. Features that are integers are
// compared as doubles. Where the specification leaves open what two classes with votes for one of them mean: if no
// vote is negative and nothing is done to scores, a score s is a probability and the scores are 1 - s and s;
// otherwise -s and s. The label is the class of the larger score.
#include <algorithm>
#include <cmath>

#include "graph/ops/ml_forest.h"
#include "graph/ops/ml_scores.h"
#include "graph/ops/ops.h"

namespace sluice::graph::ops {
namespace {

constexpr int64_t kBlock = 16;  // rows

bool is_member(const Forest& forest, size_t branch, double x) {
  const auto begin = forest.members.begin() + forest.member_begins[branch];
  const auto end = forest.members.begin() + forest.member_begins[branch + 1];
  return std::binary_search(begin, end, x);
}

bool compare(TreeMode mode, double x, double threshold) {
  switch (mode) {
    case TreeMode::kLessOrEqual: return x <= threshold;
    case TreeMode::kLess: return x < threshold;
    case TreeMode::kGreaterOrEqual: return x >= threshold;
    case TreeMode::kGreater: return x > threshold;
    case TreeMode::kEqual: return x == threshold;
    case TreeMode::kNotEqual: return x != threshold;
    case TreeMode::kMember: break;
  }
  return false;
}

// The leaf where a walk ends. kOneMode: all branches compare as the first does.
template <typename X, bool kOneMode>
int32_t find_leaf(const Forest& forest, TreeMode mode, int32_t at, const X* row) {
  while (at >= 0) {
    const TreeBranch& branch = forest.branches[static_cast<size_t>(at)];
    const double x = static_cast<double>(row[branch.feature]);
    bool is_true;
    if constexpr (kOneMode) {
      is_true = compare(mode, x, branch.threshold);
    } else if (branch.mode == TreeMode::kMember) {
      is_true = !std::isnan(x) && is_member(forest, static_cast<size_t>(at), x);
    } else {
      is_true = compare(branch.mode, x, branch.threshold);
    }
    is_true |= branch.is_true_if_nan && x != x;
    at = branch.next[is_true];
  }
  return ~at;
}

// What the trees say of one row.
struct Sums {
  double* scores;     // [num_targets]
  uint8_t* has_vote;  // [num_targets]
};

void add_votes(const Forest& forest, int32_t leaf, const Sums& sums) {
  using Aggregate = Forest::Aggregate;
  const size_t begin = static_cast<size_t>(forest.vote_begins[static_cast<size_t>(leaf)]);
  const size_t end = static_cast<size_t>(forest.vote_begins[static_cast<size_t>(leaf) + 1]);
  for (size_t i = begin; i < end; ++i) {
    const TreeVote& vote = forest.votes[i];
    double& score = sums.scores[vote.target];
    uint8_t& has_vote = sums.has_vote[vote.target];
    if (has_vote == 0) {
      score = vote.weight;
    } else if (forest.aggregate == Aggregate::kMin) {
      score = std::min(score, vote.weight);
    } else if (forest.aggregate == Aggregate::kMax) {
      score = std::max(score, vote.weight);
    } else {
      score += vote.weight;
    }
    has_vote = 1;
  }
}

template <typename X, bool kOneMode>
void walk_block(const Forest& forest, const X* rows, int64_t num_rows, int64_t num_features, double* scores,
                uint8_t* has_vote) {
  const TreeMode mode = forest.branches.empty() ? TreeMode::kLessOrEqual : forest.branches.front().mode;
  for (const int32_t root : forest.roots) {
    for (int64_t r = 0; r < num_rows; ++r) {
      const int32_t leaf = find_leaf<X, kOneMode>(forest, mode, root, rows + r * num_features);
      add_votes(forest, leaf, {scores + r * forest.num_targets, has_vote + r * forest.num_targets});
    }
  }
}

// Walks all rows and calls finish(row, sums) for each, from several threads.
template <typename Finish>
void walk(RunContext& context, const Forest& forest, Finish finish) {
  const Tensor& input = context.input(0);
  const int64_t num_rows = input.rank() == 1 ? 1 : input.dim(0), num_features = input.shape().back();
  if (num_rows == 0) return;
  if (num_features < forest.num_features) {
    context.fail("its trees look at feature {}, the input has {} features", forest.num_features - 1, num_features);
  }
  const int64_t block = std::min(kBlock, num_rows), num_sums = block * forest.num_targets;
  const int64_t num_workers = context.pool().num_threads();
  Tensor scores = context.make(ElementType::kF64, {num_workers, num_sums}),
         votes = context.make(ElementType::kU8, {num_workers, num_sums});
  const bool is_known = dispatch<float, double, int32_t, int64_t>(input.type(), [&](auto zero) {
    using X = decltype(zero);
    const X* rows = input.data<X>();
    context.pool().parallel_for(num_rows, block, [&](int64_t begin, int64_t end, int worker) {
      double* sums = scores.data<double>() + worker * num_sums;
      uint8_t* has_vote = votes.data<uint8_t>() + worker * num_sums;
      for (int64_t first = begin; first < end; first += block) {
        const int64_t count = std::min(block, end - first);
        std::fill_n(sums, num_sums, 0.0);
        std::fill_n(has_vote, num_sums, uint8_t{0});
        const X* of_block = rows + first * num_features;
        if (forest.has_one_mode) {
          walk_block<X, true>(forest, of_block, count, num_features, sums, has_vote);
        } else {
          walk_block<X, false>(forest, of_block, count, num_features, sums, has_vote);
        }
        for (int64_t r = 0; r < count; ++r) {
          finish(first + r, Sums{sums + r * forest.num_targets, has_vote + r * forest.num_targets});
        }
      }
    });
  });
  if (!is_known) context.fail_type(0);
}

// The sum, mean, least or largest vote for a target, and what is added to it.
double score_of(const Forest& forest, const Sums& sums, int64_t target) {
  double score = sums.scores[target];
  if (forest.aggregate == Forest::Aggregate::kAverage) score /= static_cast<double>(forest.roots.size());
  return forest.base_values.empty() ? score : score + forest.base_values[static_cast<size_t>(target)];
}

void check_base_values(const Node& node, const Forest& forest) {
  if (!forest.base_values.empty() && static_cast<int64_t>(forest.base_values.size()) != forest.num_targets) {
    fail(Code::kInvalidArgument, "{}: has {} base_values for {} classes or targets", node.describe(),
         forest.base_values.size(), forest.num_targets);
  }
}

// Regression

std::shared_ptr<const Forest> prepare_regressor(const Node& node) {
  return node.prepared.get<Forest>([&] {
    const int64_t num_targets = node.get_int("n_targets", 1);
    if (num_targets < 1) {
      fail(Code::kInvalidArgument, "{}: n_targets is {} and has to be at least 1", node.describe(), num_targets);
    }
    auto forest = make_forest(node, "target", num_targets);
    check_base_values(node, *forest);
    return forest;
  });
}

std::shared_ptr<const Forest> prepare_version_5(const Node& node) {
  return node.prepared.get<Forest>([&] { return make_forest_of_version_5(node); });
}

void infer_regressor(InferContext& context) {
  const auto forest = prepare_regressor(context.node());
  read_post_transform(context.node());
  context.set_output(0, ElementType::kF32, {infer_num_rows(context), forest->num_targets});
}

PostTransform read_post_transform_5(const Node& node) {
  const int64_t transform = node.get_int("post_transform", 0);
  if (transform < 0 || transform > 4) {
    fail(Code::kInvalidArgument,
         "{}: post_transform {} is none of 0 (none), 1 (softmax), 2 (logistic), 3 (softmax zero) and 4 (probit)",
         node.describe(), transform);
  }
  return static_cast<PostTransform>(transform);
}

void infer_tree_ensemble(InferContext& context) {
  const auto forest = prepare_version_5(context.node());
  read_post_transform_5(context.node());
  const Dim num_rows = infer_num_rows(context);
  const ElementType element = context.element(0);
  if (element == ElementType::kI32 || element == ElementType::kI64) context.fail("input 1 has to be of floats");
  context.set_output(0, element, {num_rows, forest->num_targets});
}

template <typename T>
void run_regression_as(RunContext& context, const Forest& forest, PostTransform transform) {
  T* output = context.output_data<T>(0);
  walk(context, forest, [&](int64_t row, const Sums& sums) {
    const std::span<T> scores(output + row * forest.num_targets, static_cast<size_t>(forest.num_targets));
    for (size_t t = 0; t < scores.size(); ++t) {
      scores[t] = static_cast<T>(score_of(forest, sums, static_cast<int64_t>(t)));
    }
    transform_scores(transform, scores);
  });
}

// Output 0 is float, or double if the input of TreeEnsemble is.
void run_regression(RunContext& context, const Forest& forest, PostTransform transform) {
  if (context.output(0).type() == ElementType::kF64) return run_regression_as<double>(context, forest, transform);
  run_regression_as<float>(context, forest, transform);
}

void run_regressor(RunContext& context) {
  run_regression(context, *prepare_regressor(context.node()), read_post_transform(context.node()));
}

void run_tree_ensemble(RunContext& context) {
  run_regression(context, *prepare_version_5(context.node()), read_post_transform_5(context.node()));
}

// Classification

std::shared_ptr<const Forest> prepare_classifier(const Node& node, const Labels& labels) {
  return node.prepared.get<Forest>([&] {
    if (labels.size() == 0) fail(Code::kInvalidArgument, "{}: has no labels", node.describe());
    auto forest = make_forest(node, "class", static_cast<int64_t>(labels.size()));
    // One value for two classes is added to the score that there is.
    if (forest->base_values.size() != 1) check_base_values(node, *forest);
    return forest;
  });
}

void infer_tree_classifier(InferContext& context) {
  const Labels labels = read_labels(context.node(), "classlabels_int64s");
  prepare_classifier(context.node(), labels);
  read_post_transform(context.node());
  infer_classifier(context, labels, static_cast<int64_t>(labels.size()));
}

// Writes the scores of a row; gives its class, or -1 if there is one class and it is not that.
int64_t classify(const Forest& forest, PostTransform transform, const Sums& sums, std::span<float> scores) {
  const auto num_classes = static_cast<int64_t>(scores.size());
  auto base_of = [&](int64_t c) {
    if (forest.base_values.empty()) return 0.0;
    return forest.base_values[forest.base_values.size() == 1 ? 0 : static_cast<size_t>(c)];
  };
  if (num_classes == 2 && forest.only_target >= 0) {
    const double score = sums.scores[forest.only_target] + base_of(1);
    const bool is_probability = forest.has_positive_weights && transform == PostTransform::kNone;
    scores[0] = static_cast<float>(is_probability ? 1 - score : -score);
    scores[1] = static_cast<float>(score);
    transform_scores(transform, scores);
    return is_probability ? score > 0.5 : score > 0;
  }
  // A class without votes and base value is no candidate.
  int64_t best = -1;
  double best_score = 0;
  for (int64_t c = 0; c < num_classes; ++c) {
    const double score =
        sums.scores[c] + (num_classes == 2 && forest.base_values.size() == 1 && c == 1 ? 0 : base_of(c));
    scores[static_cast<size_t>(c)] = static_cast<float>(score);
    if (sums.has_vote[c] == 0 && forest.base_values.empty()) continue;
    if (best < 0 || score > best_score) {
      best = c;
      best_score = score;
    }
  }
  transform_scores(transform, scores);
  return num_classes == 1 ? (best_score > 0 ? 0 : -1) : std::max<int64_t>(best, 0);
}

void run_tree_classifier(RunContext& context) {
  const Labels labels = read_labels(context.node(), "classlabels_int64s");
  const auto forest = prepare_classifier(context.node(), labels);
  const PostTransform transform = read_post_transform(context.node());
  const auto num_classes = static_cast<int64_t>(labels.size());
  const Tensor& input = context.input(0);
  const int64_t num_rows = input.rank() == 1 ? 1 : input.dim(0);
  Tensor output = context.has_output(1) ? context.output(1) : context.make(ElementType::kF32, {num_rows, num_classes});
  float* scores = output.data<float>();
  std::vector<int64_t> found(static_cast<size_t>(num_rows));
  walk(context, *forest, [&](int64_t row, const Sums& sums) {
    found[static_cast<size_t>(row)] = classify(*forest, transform, sums, {scores + row * num_classes, labels.size()});
  });
  if (!context.has_output(0)) return;
  for (int64_t row = 0; row < num_rows; ++row) labels.write(context.output(0), row, found[static_cast<size_t>(row)]);
}

constexpr OpInfo kOps[] = {
    {kMl, "TreeEnsembleClassifier", 1, 0, infer_tree_classifier, run_tree_classifier},
    {kMl, "TreeEnsembleRegressor", 1, 0, infer_regressor, run_regressor},
    {kMl, "TreeEnsemble", 5, 0, infer_tree_ensemble, run_tree_ensemble, OpInfo::kViaFloat},
};

}  // namespace

std::span<const OpInfo> ml_tree_ops() { return kOps; }

}  // namespace sluice::graph::ops
