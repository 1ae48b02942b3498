// What the classifiers and regressors of ai.onnx.ml share: rows of features, what is done to scores at the end, and
// labels that are integers or strings.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "graph/op.h"

namespace sluice::graph::ops {

enum class PostTransform : uint8_t { kNone, kSoftmax, kLogistic, kSoftmaxZero, kProbit };

// Throws Error for other names than NONE, SOFTMAX, LOGISTIC, SOFTMAX_ZERO and PROBIT.
PostTransform read_post_transform(const Node& node);
// The scores of one example.
void transform_scores(PostTransform transform, std::span<float> scores);
void transform_scores(PostTransform transform, std::span<double> scores);

// One of the two lists of labels, or none.
struct Labels {
  std::vector<int64_t> ints;
  std::vector<std::string> strings;

  bool are_strings() const { return !strings.empty(); }
  size_t size() const { return are_strings() ? strings.size() : ints.size(); }
  // Writes label `label` for example `row`; a negative class if it is -1 and labels name only the positive one.
  void write(Tensor& output, int64_t row, int64_t label) const;
};
Labels read_labels(const Node& node, std::string_view ints_name);

// Throws Error unless input 0 may be a matrix [N x F] of numbers, or a row [F]. Its number of examples.
Dim infer_num_rows(const InferContext& context);
// Outputs of a classifier: labels [N] and scores [N x num_scores].
void infer_classifier(InferContext& context, const Labels& labels, Dim num_scores);

// Input 0 as floats, [num_rows, num_features].
struct Rows {
  Tensor tensor;
  const float* data = nullptr;
  int64_t num_rows = 0, num_features = 0;
};
Rows read_rows(const RunContext& context);

// Of vectors, in float; many sums at once.
float dot_product(const float* a, const float* b, int64_t count);
float squared_distance(const float* a, const float* b, int64_t count);

}  // namespace sluice::graph::ops
