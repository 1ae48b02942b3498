// Decision trees as flat arrays: what the tree operators of ai.onnx.ml make of their attributes, once for a node.
//
// A branch compares one feature with a threshold and names the next branch, or ~leaf. Leaves have votes: a weight for
// one or more targets. Made from checked attributes only: every index is inside its array and every walk ends. Plain
// data, read by any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "graph/ir.h"

namespace sluice::graph::ops {

enum class TreeMode : uint8_t { kLessOrEqual, kLess, kGreaterOrEqual, kGreater, kEqual, kNotEqual, kMember };

struct TreeBranch {
  double threshold = 0;      // of kMember: nothing
  int32_t feature = 0;
  int32_t next[2] = {0, 0};  // if false, if true; ~leaf if negative
  TreeMode mode = TreeMode::kLessOrEqual;
  bool is_true_if_nan = false;
};

struct TreeVote {
  int32_t target = 0;
  double weight = 0;
};

struct Forest {
  enum class Aggregate : uint8_t { kAverage, kSum, kMin, kMax };

  std::vector<TreeBranch> branches;
  std::vector<int32_t> roots;          // of each tree; ~leaf if it is nothing else
  std::vector<int32_t> vote_begins;    // [leaves + 1], into votes
  std::vector<TreeVote> votes;
  std::vector<int32_t> member_begins;  // [branches + 1], into members; empty if no branch asks for members
  std::vector<double> members;         // sorted for each branch
  int32_t num_features = 0;            // that an input has to have
  int64_t num_targets = 0;
  Aggregate aggregate = Aggregate::kSum;
  std::vector<double> base_values;     // [num_targets], or none
  bool has_one_mode = true;            // all branches compare alike
  bool has_positive_weights = true;    // no vote is negative
  int64_t only_target = -1;            // that all votes are for, if there is such
};

// From the attributes of TreeEnsembleClassifier and TreeEnsembleRegressor (`votes` is "class" or "target"), or of
// TreeEnsemble of version 5. Throws Error.
std::shared_ptr<const Forest> make_forest(const Node& node, const char* votes, int64_t num_targets);
std::shared_ptr<const Forest> make_forest_of_version_5(const Node& node);

}  // namespace sluice::graph::ops
