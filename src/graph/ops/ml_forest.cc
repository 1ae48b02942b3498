#include "graph/ops/ml_forest.h"

#include <algorithm>
#include <cmath>
#include <compare>
#include <limits>
#include <map>
#include <optional>
#include <span>

#include "base/error.h"
#include "base/float16.h"

namespace sluice::graph::ops {
namespace {

constexpr int64_t kMaxIndex = std::numeric_limits<int32_t>::max() - 1;

template <typename... Args>
[[noreturn]] void fail_node(const Node& node, fmt::format_string<Args...> format, Args&&... args) {
  fail(Code::kInvalidArgument, "{}: {}", node.describe(), fmt::format(format, std::forward<Args>(args)...));
}

// A list of floats, or a tensor in its place.
std::vector<double> read_doubles(const Node& node, const std::string& list, const std::string& tensor_name) {
  const Tensor* tensor = node.find_tensor(tensor_name);
  if (tensor == nullptr) {
    const std::vector<float> floats = node.get_floats(list);
    return {floats.begin(), floats.end()};
  }
  std::vector<double> values(static_cast<size_t>(tensor->count()));
  if (tensor->type() == ElementType::kF16) {
    std::transform(tensor->data<uint16_t>(), tensor->data<uint16_t>() + tensor->count(), values.begin(), f16_to_float);
  } else if (!dispatch<float, double>(tensor->type(), [&](auto zero) {
               const auto from = tensor->values<decltype(zero)>();
               std::copy(from.begin(), from.end(), values.begin());
             })) {
    fail_node(node, "{} is of {}; it has to be float32 or float64", tensor_name, name(tensor->type()));
  }
  return values;
}

std::vector<int64_t> read_ints(const Node& node, const std::string& name, size_t count) {
  std::vector<int64_t> ints = node.get_ints(name);
  if (ints.size() != count) fail_node(node, "{} has {} elements and has to have {}", name, ints.size(), count);
  return ints;
}

TreeMode read_mode(const Node& node, const std::string& name) {
  constexpr const char* kNames[] = {"BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"};
  for (size_t i = 0; i < std::size(kNames); ++i) {
    if (name == kNames[i]) return static_cast<TreeMode>(i);
  }
  fail_node(node, "nodes_modes has '{}', which is none of BRANCH_LEQ, _LT, _GTE, _GT, _EQ, _NEQ and LEAF", name);
}

int32_t read_feature(const Node& node, Forest& forest, int64_t feature) {
  if (feature < 0 || feature >= kMaxIndex) fail_node(node, "nodes_featureids has {}", feature);
  forest.num_features = std::max(forest.num_features, static_cast<int32_t>(feature) + 1);
  return static_cast<int32_t>(feature);
}

// Every walk from a root has to end at a leaf.
void check_walks(const Node& node, const Forest& forest) {
  enum class State : uint8_t { kNew, kOpen, kDone };
  std::vector<State> states(forest.branches.size(), State::kNew);
  std::vector<int32_t> open;  // branches that are entered; those on the current walk are kOpen
  for (const int32_t root : forest.roots) {
    if (root >= 0) open.push_back(root);
    while (!open.empty()) {
      State& state = states[static_cast<size_t>(open.back())];
      if (state != State::kNew) {
        state = State::kDone;
        open.pop_back();
        continue;
      }
      state = State::kOpen;
      for (const int32_t next : forest.branches[static_cast<size_t>(open.back())].next) {
        if (next < 0) continue;
        if (states[static_cast<size_t>(next)] == State::kOpen) {
          fail_node(node, "a tree has a cycle through node {}", next);
        }
      }
      const TreeBranch& branch = forest.branches[static_cast<size_t>(open.back())];
      for (const int32_t next : branch.next) {
        if (next >= 0 && states[static_cast<size_t>(next)] == State::kNew) open.push_back(next);
      }
    }
  }
}

void finish(const Node& node, Forest& forest) {
  check_walks(node, forest);
  for (const TreeBranch& branch : forest.branches) {
    forest.has_one_mode &= branch.mode == forest.branches.front().mode && branch.mode != TreeMode::kMember;
  }
  for (const TreeVote& vote : forest.votes) {
    forest.has_positive_weights &= vote.weight >= 0;
    if (vote.target < 0 || vote.target >= forest.num_targets) {
      fail_node(node, "a leaf votes for {}, there are {} classes or targets", vote.target, forest.num_targets);
    }
  }
  if (!forest.votes.empty()) {
    forest.only_target = forest.votes.front().target;
    for (const TreeVote& vote : forest.votes) {
      if (vote.target != forest.only_target) forest.only_target = -1;
    }
  }
}

// The nodes of all trees by the numbers that the model gives them.
class NodeTable {
 public:
  void add(int64_t tree, int64_t id, int32_t number) { entries_.push_back({tree, id, number}); }
  // The entry that is there twice, if there is one.
  std::optional<std::pair<int64_t, int64_t>> sort() {
    std::sort(entries_.begin(), entries_.end());
    for (size_t i = 1; i < entries_.size(); ++i) {
      const auto &a = entries_[i - 1], &b = entries_[i];
      if (a.tree == b.tree && a.id == b.id) return std::pair(a.tree, a.id);
    }
    return std::nullopt;
  }
  std::optional<int32_t> find(int64_t tree, int64_t id) const {
    const auto at =
        std::lower_bound(entries_.begin(), entries_.end(), Entry{tree, id, std::numeric_limits<int32_t>::min()});
    return at != entries_.end() && at->tree == tree && at->id == id ? std::optional(at->number) : std::nullopt;
  }

 private:
  struct Entry {
    int64_t tree, id;
    int32_t number;
    auto operator<=>(const Entry&) const = default;
  };
  std::vector<Entry> entries_;
};

}  // namespace

std::shared_ptr<const Forest> make_forest(const Node& node, const char* votes, int64_t num_targets) {
  auto forest = std::make_shared<Forest>();
  forest->num_targets = num_targets;
  const std::vector<std::string> modes = node.get_strings("nodes_modes");
  const size_t count = modes.size();
  if (count == 0) fail_node(node, "has no trees");
  if (count > static_cast<size_t>(kMaxIndex)) fail_node(node, "has {} nodes", count);
  const std::vector<int64_t> trees = read_ints(node, "nodes_treeids", count),
                             ids = read_ints(node, "nodes_nodeids", count);
  const std::vector<int64_t> features = read_ints(node, "nodes_featureids", count);
  const std::vector<int64_t> on_true = read_ints(node, "nodes_truenodeids", count);
  const std::vector<int64_t> on_false = read_ints(node, "nodes_falsenodeids", count);
  const std::vector<double> thresholds = read_doubles(node, "nodes_values", "nodes_values_as_tensor");
  if (thresholds.size() != count) {
    fail_node(node, "nodes_values has {} elements and has to have {}", thresholds.size(), count);
  }
  std::vector<int64_t> missing = node.get_ints("nodes_missing_value_tracks_true");
  if (missing.empty()) missing.resize(count, 0);
  if (missing.size() != count) {
    fail_node(node, "nodes_missing_value_tracks_true has {} elements for {} nodes", missing.size(), count);
  }

  // Branches and leaves have numbers of their own: ~leaf is a leaf's.
  NodeTable table;
  std::vector<int32_t> numbers;
  int32_t num_branches = 0, num_leaves = 0;
  for (size_t i = 0; i < count; ++i) {
    numbers.push_back(modes[i] == "LEAF" ? ~num_leaves++ : num_branches++);
    table.add(trees[i], ids[i], numbers.back());
  }
  if (const auto twice = table.sort()) {
    fail_node(node, "node {} of tree {} is there twice", twice->second, twice->first);
  }
  forest->branches.resize(static_cast<size_t>(num_branches));
  std::vector<bool> is_child(count, false);  // branches, then leaves
  auto place_of = [&](int32_t number) {
    return static_cast<size_t>(number >= 0 ? number : num_branches + ~number);
  };
  for (size_t i = 0; i < count; ++i) {
    if (modes[i] == "LEAF") continue;
    TreeBranch& branch = forest->branches[static_cast<size_t>(numbers[i])];
    branch.threshold = thresholds[i];
    branch.feature = read_feature(node, *forest, features[i]);
    branch.mode = read_mode(node, modes[i]);
    branch.is_true_if_nan = missing[i] != 0;
    for (int k = 0; k < 2; ++k) {
      const int64_t id = k == 1 ? on_true[i] : on_false[i];
      const std::optional<int32_t> found = table.find(trees[i], id);
      if (!found) fail_node(node, "node {} of tree {} goes on to {}, which is not there", ids[i], trees[i], id);
      branch.next[k] = *found;
      is_child[place_of(*found)] = true;
    }
  }
  // A tree begins at its first node, or if others go on to that, at its first branch that none goes on to.
  std::map<int64_t, std::optional<int32_t>> roots;
  std::vector<int64_t> order;
  for (size_t i = 0; i < count; ++i) {
    const auto [found, is_first] = roots.try_emplace(trees[i]);
    if (is_first) order.push_back(trees[i]);
    const bool can_begin = !is_child[place_of(numbers[i])] && (is_first || numbers[i] >= 0);
    if (can_begin && !found->second) found->second = numbers[i];
  }
  for (const int64_t tree : order) {
    if (!roots[tree]) fail_node(node, "tree {} has a cycle: it has no root", tree);
    forest->roots.push_back(*roots[tree]);
  }

  const std::string prefix(votes);
  const std::vector<double> weights = read_doubles(node, prefix + "_weights", prefix + "_weights_as_tensor");
  const std::vector<int64_t> vote_trees = read_ints(node, prefix + "_treeids", weights.size());
  const std::vector<int64_t> vote_nodes = read_ints(node, prefix + "_nodeids", weights.size());
  const std::vector<int64_t> vote_targets = read_ints(node, prefix + "_ids", weights.size());
  std::vector<std::pair<int32_t, TreeVote>> of_leaves;
  for (size_t i = 0; i < weights.size(); ++i) {
    const std::optional<int32_t> found = table.find(vote_trees[i], vote_nodes[i]);
    if (!found) {
      fail_node(node, "there is a vote of node {} of tree {}, which is not there", vote_nodes[i], vote_trees[i]);
    }
    if (*found >= 0) continue;  // some exporters write one for every node; no walk ends at a branch
    const int64_t target = vote_targets[i];
    if (target < 0 || target >= num_targets || target > kMaxIndex) {
      fail_node(node, "a leaf votes for {}, there are {} classes or targets", target, num_targets);
    }
    of_leaves.push_back({~*found, {static_cast<int32_t>(target), weights[i]}});
  }
  std::stable_sort(of_leaves.begin(), of_leaves.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  forest->vote_begins.assign(static_cast<size_t>(num_leaves) + 1, 0);
  for (const auto& [leaf, vote] : of_leaves) {
    ++forest->vote_begins[static_cast<size_t>(leaf) + 1];
    forest->votes.push_back(vote);
  }
  for (size_t i = 1; i < forest->vote_begins.size(); ++i) forest->vote_begins[i] += forest->vote_begins[i - 1];

  const std::string aggregate = node.get_string("aggregate_function", "SUM");
  using Aggregate = Forest::Aggregate;
  if (aggregate != "SUM" && aggregate != "AVERAGE" && aggregate != "MIN" && aggregate != "MAX") {
    fail_node(node, "aggregate_function '{}' is none of AVERAGE, SUM, MIN and MAX", aggregate);
  }
  forest->aggregate = aggregate == "SUM"       ? Aggregate::kSum
                      : aggregate == "AVERAGE" ? Aggregate::kAverage
                      : aggregate == "MIN"     ? Aggregate::kMin
                                               : Aggregate::kMax;
  forest->base_values = read_doubles(node, "base_values", "base_values_as_tensor");
  finish(node, *forest);
  return forest;
}

std::shared_ptr<const Forest> make_forest_of_version_5(const Node& node) {
  auto forest = std::make_shared<Forest>();
  forest->num_targets = node.get_int("n_targets", 0);
  if (forest->num_targets < 1) fail_node(node, "n_targets is {} and has to be at least 1", forest->num_targets);
  const Tensor* modes = node.find_tensor("nodes_modes");
  if (modes == nullptr) fail_node(node, "has no nodes_modes");
  if (modes->type() != ElementType::kU8) {
    fail_node(node, "nodes_modes is of {}; it has to be uint8", name(modes->type()));
  }
  const auto count = static_cast<size_t>(modes->count());
  if (count > static_cast<size_t>(kMaxIndex)) fail_node(node, "has {} nodes", count);
  const std::vector<double> splits = read_doubles(node, "", "nodes_splits");
  if (splits.size() != count) fail_node(node, "nodes_splits has {} elements and has to have {}", splits.size(), count);
  const std::vector<int64_t> features = read_ints(node, "nodes_featureids", count);
  std::vector<int64_t> missing = node.get_ints("nodes_missing_value_tracks_true");
  if (missing.empty()) missing.resize(count, 0);
  if (missing.size() != count) {
    fail_node(node, "nodes_missing_value_tracks_true has {} elements for {} nodes", missing.size(), count);
  }

  const std::vector<double> weights = read_doubles(node, "", "leaf_weights");
  const std::vector<int64_t> targets = read_ints(node, "leaf_targetids", weights.size());
  if (weights.size() > static_cast<size_t>(kMaxIndex)) fail_node(node, "has {} leaves", weights.size());
  for (size_t i = 0; i < weights.size(); ++i) {
    if (targets[i] < 0 || targets[i] > kMaxIndex) fail_node(node, "leaf_targetids has {}", targets[i]);
    forest->votes.push_back({static_cast<int32_t>(targets[i]), weights[i]});
    forest->vote_begins.push_back(static_cast<int32_t>(i));
  }
  forest->vote_begins.push_back(static_cast<int32_t>(weights.size()));

  const std::vector<int64_t> next[2] = {read_ints(node, "nodes_falsenodeids", count),
                                        read_ints(node, "nodes_truenodeids", count)};
  const std::vector<int64_t> is_leaf[2] = {read_ints(node, "nodes_falseleafs", count),
                                           read_ints(node, "nodes_trueleafs", count)};
  for (size_t i = 0; i < count; ++i) {
    TreeBranch branch{.threshold = splits[i], .feature = read_feature(node, *forest, features[i])};
    const uint8_t mode = modes->data<uint8_t>()[i];
    if (mode > static_cast<uint8_t>(TreeMode::kMember)) fail_node(node, "nodes_modes has {}", mode);
    branch.mode = static_cast<TreeMode>(mode);
    branch.is_true_if_nan = missing[i] != 0;
    for (int k = 0; k < 2; ++k) {
      const size_t limit = is_leaf[k][i] != 0 ? weights.size() : count;
      if (next[k][i] < 0 || static_cast<size_t>(next[k][i]) >= limit) {
        fail_node(node, "node {} goes on to {} {} of {}", i, is_leaf[k][i] != 0 ? "leaf" : "node", next[k][i], limit);
      }
      const auto number = static_cast<int32_t>(next[k][i]);
      branch.next[k] = is_leaf[k][i] != 0 ? ~number : number;
    }
    forest->branches.push_back(branch);
  }
  for (const int64_t root : node.get_ints("tree_roots")) {
    if (root < 0 || static_cast<size_t>(root) >= count) {
      fail_node(node, "tree_roots has {}; there are {} nodes", root, count);
    }
    // A tree of nothing but a leaf is a node that goes there either way.
    const TreeBranch& branch = forest->branches[static_cast<size_t>(root)];
    const bool is_single_leaf = branch.next[0] < 0 && branch.next[0] == branch.next[1];
    forest->roots.push_back(is_single_leaf ? branch.next[0] : static_cast<int32_t>(root));
  }
  if (forest->roots.empty()) fail_node(node, "has no trees");

  // Sets follow each other in the order of the branches that ask for one, each with a NaN at its end.
  const std::vector<double> members = read_doubles(node, "", "membership_values");
  const bool asks_members = std::any_of(forest->branches.begin(), forest->branches.end(),
                                        [](const TreeBranch& branch) { return branch.mode == TreeMode::kMember; });
  if (asks_members) {
    size_t at = 0;
    for (const TreeBranch& branch : forest->branches) {
      forest->member_begins.push_back(static_cast<int32_t>(forest->members.size()));
      if (branch.mode != TreeMode::kMember) continue;
      const size_t begin = forest->members.size();
      while (at < members.size() && !std::isnan(members[at])) forest->members.push_back(members[at++]);
      if (at == members.size()) {
        fail_node(node, "membership_values has fewer sets than there are branches that ask for one");
      }
      ++at;
      std::sort(forest->members.begin() + static_cast<std::ptrdiff_t>(begin), forest->members.end());
    }
    forest->member_begins.push_back(static_cast<int32_t>(forest->members.size()));
  }

  const int64_t aggregate = node.get_int("aggregate_function", 1);
  if (aggregate < 0 || aggregate > 3) {
    fail_node(node, "aggregate_function {} is none of 0 (average), 1 (sum), 2 (min) and 3 (max)", aggregate);
  }
  forest->aggregate = static_cast<Forest::Aggregate>(aggregate);
  finish(node, *forest);
  return forest;
}

}  // namespace sluice::graph::ops
