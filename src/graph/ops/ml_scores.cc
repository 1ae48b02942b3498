#include "graph/ops/ml_scores.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace sluice::graph::ops {
namespace {

template <typename T>
T logistic(T x) {
  const T positive = 1 / (1 + std::exp(-std::abs(x)));
  return x < 0 ? 1 - positive : positive;
}

// The inverse of the normal distribution, by Winitzki's approximation of the inverse error function (a = 0.147),
// which is what everybody who runs these models computes.
template <typename T>
T probit(T p) {
  constexpr T kA = T(0.147);
  const T x = 2 * p - 1;
  const T log = std::log((1 - x) * (1 + x));
  const T half = 2 / (std::numbers::pi_v<T> * kA) + log / 2;
  const T inverse = std::sqrt(std::sqrt(half * half - log / kA) - half);
  return std::numbers::sqrt2_v<T> * (x < 0 ? -inverse : inverse);
}

// `skips_zeros`: scores that are 0 stay so.
template <typename T>
void softmax(std::span<T> scores, bool skips_zeros) {
  constexpr T kZero = T(1e-7);
  if (scores.empty()) return;
  const T largest = *std::max_element(scores.begin(), scores.end());
  T sum = 0;
  for (T& score : scores) {
    score = skips_zeros && std::abs(score) <= kZero ? 0 : std::exp(score - largest);
    sum += score;
  }
  if (sum == 0) return;
  for (T& score : scores) score /= sum;
}

template <typename T>
void transform_all(PostTransform transform, std::span<T> scores) {
  switch (transform) {
    case PostTransform::kNone: return;
    case PostTransform::kSoftmax: return softmax(scores, false);
    case PostTransform::kSoftmaxZero: return softmax(scores, true);
    case PostTransform::kLogistic:
      for (T& score : scores) score = logistic(score);
      return;
    case PostTransform::kProbit:
      for (T& score : scores) score = probit(score);
      return;
  }
}

}  // namespace

PostTransform read_post_transform(const Node& node) {
  const std::string name = node.get_string("post_transform", "NONE");
  if (name == "NONE") return PostTransform::kNone;
  if (name == "SOFTMAX") return PostTransform::kSoftmax;
  if (name == "LOGISTIC") return PostTransform::kLogistic;
  if (name == "SOFTMAX_ZERO") return PostTransform::kSoftmaxZero;
  if (name == "PROBIT") return PostTransform::kProbit;
  fail(Code::kInvalidArgument, "{}: post_transform '{}' is none of NONE, SOFTMAX, LOGISTIC, SOFTMAX_ZERO and PROBIT",
       node.describe(), name);
}

void transform_scores(PostTransform transform, std::span<float> scores) { transform_all(transform, scores); }
void transform_scores(PostTransform transform, std::span<double> scores) { transform_all(transform, scores); }

Labels read_labels(const Node& node, std::string_view ints_name) {
  Labels labels{node.get_ints(ints_name), node.get_strings("classlabels_strings")};
  if (!labels.ints.empty() && !labels.strings.empty()) {
    fail(Code::kInvalidArgument, "{}: has both {} and classlabels_strings", node.describe(), ints_name);
  }
  return labels;
}

void Labels::write(Tensor& output, int64_t row, int64_t label) const {
  // Without a label of its own, a class is its number, and the negative one is 0.
  const bool has_label = label >= 0 && label < static_cast<int64_t>(size());
  const int64_t number = has_label && !are_strings() ? ints[static_cast<size_t>(label)] : std::max<int64_t>(label, 0);
  if (are_strings()) {
    output.data<std::string>()[row] = has_label ? strings[static_cast<size_t>(label)] : std::to_string(number);
  } else {
    output.data<int64_t>()[row] = number;
  }
}

Dim infer_num_rows(const InferContext& context) {
  const ValueType& type = context.type(0);
  if (type.kind == ValueType::Kind::kUnknown) return Dim::unknown();
  const ElementType element = type.element;
  const bool is_number = element == ElementType::kUndefined || element == ElementType::kF32 ||
                         element == ElementType::kF64 || element == ElementType::kF16 || element == ElementType::kI32 ||
                         element == ElementType::kI64;
  if (!type.is_tensor() || !is_number || (type.has_rank() && (type.rank() < 1 || type.rank() > 2))) {
    context.fail("input 1 is {}; it has to be [N x F] of float32, float64, int32 or int64", to_string(type));
  }
  if (!type.has_rank()) return Dim::unknown();
  return type.rank() == 1 ? Dim(1) : type.dims->front();
}

void infer_classifier(InferContext& context, const Labels& labels, Dim num_scores) {
  const Dim num_rows = infer_num_rows(context);
  context.set_output(0, labels.are_strings() ? ElementType::kString : ElementType::kI64, {num_rows});
  context.set_output(1, ElementType::kF32, {num_rows, std::move(num_scores)});
}

Rows read_rows(const RunContext& context) {
  const Tensor& input = context.input(0);
  Rows rows{.tensor = input, .num_rows = input.rank() == 1 ? 1 : input.dim(0), .num_features = input.shape().back()};
  if (input.type() != ElementType::kF32) {
    rows.tensor = context.make(ElementType::kF32, input.shape());
    if (!dispatch<double, int32_t, int64_t>(input.type(), [&](auto zero) {
          const auto values = input.values<decltype(zero)>();
          std::transform(values.begin(), values.end(), rows.tensor.data<float>(),
                         [](auto x) { return static_cast<float>(x); });
        })) {
      context.fail_type(0);
    }
  }
  rows.data = rows.tensor.data<float>();
  return rows;
}

namespace {

constexpr int64_t kLanes = 16;

template <typename Term>
float sum_of(int64_t count, Term term) {
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t l = 0; l < kLanes; ++l) lanes[l] += term(i + l);
  }
  float sum = 0;
  for (; i < count; ++i) sum += term(i);
  for (const float lane : lanes) sum += lane;
  return sum;
}

}  // namespace

float dot_product(const float* a, const float* b, int64_t count) {
  return sum_of(count, [&](int64_t i) { return a[i] * b[i]; });
}

float squared_distance(const float* a, const float* b, int64_t count) {
  return sum_of(count, [&](int64_t i) { return (a[i] - b[i]) * (a[i] - b[i]); });
}

}  // namespace sluice::graph::ops
