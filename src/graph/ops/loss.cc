// NegativeLogLikelihoodLoss and SoftmaxCrossEntropyLoss (ONNX operator specification, since opset 12).
//
// Scores are [N, C, d1, ..., dk], labels [N, d1, ..., dk]. The second operator is the first on LogSoftmax along C,
// which it also gives as an output. A label equal to ignore_index, which may lie outside [0, C), adds nothing to the
// loss and its weight nothing to the mean; any other label outside is an Error. Sums are carried in double.
#include <cmath>
#include <limits>
#include <vector>

#include "graph/ops/elementwise.h"
#include "graph/ops/ops.h"

namespace sluice::graph::ops {
namespace {

void infer_loss(InferContext& ctx) {
  check_element(ctx, 0, is_wide_float, "floating point numbers");
  check_element(
      ctx, 1, [](ElementType t) { return t == ElementType::kI32 || t == ElementType::kI64; }, "int32 or int64");
  const std::string reduction = ctx.node().get_string("reduction", "mean");
  if (reduction != "mean" && reduction != "sum" && reduction != "none") {
    ctx.fail("reduction is '{}'; mean, sum and none are allowed", reduction);
  }
  if (ctx.has_input(2) && ctx.element(2) != ElementType::kUndefined && ctx.element(0) != ElementType::kUndefined &&
      ctx.element(2) != ctx.element(0)) {
    ctx.fail("the weights are {} and the scores {}; they have to be of one type", name(ctx.element(2)),
             name(ctx.element(0)));
  }
  const ElementType element = ctx.element(0);
  if (ctx.num_outputs() > 1) ctx.set_type(1, ctx.type(0));
  if (ctx.has_rank(0)) {
    const Dims& scores = ctx.dims(0);
    if (scores.size() < 2) ctx.fail("scores of {} dimensions; at least two are needed", scores.size());
    if (ctx.has_rank(1)) {
      const Dims& labels = ctx.dims(1);
      bool fits = labels.size() + 1 == scores.size();
      for (size_t i = 0; fits && i < labels.size(); ++i) {
        const Dim& dim = scores[i == 0 ? 0 : i + 1];
        fits = !dim.is_known() || !labels[i].is_known() || dim.value() == labels[i].value();
      }
      if (!fits) ctx.fail("labels of shape {} do not fit scores of shape {}", to_string(labels), to_string(scores));
    }
    if (ctx.has_rank(2)) {
      const Dims& weights = ctx.dims(2);
      if (weights.size() != 1 ||
          (weights[0].is_known() && scores[1].is_known() && weights[0].value() != scores[1].value())) {
        ctx.fail("weights of shape {} do not fit scores of shape {}", to_string(weights), to_string(scores));
      }
    }
  }
  if (reduction != "none") return ctx.set_output(0, element, {});
  if (ctx.has_rank(1)) ctx.set_output(0, element, ctx.dims(1));
  else ctx.set_output(0, element);
}

// The scores as [N, num_classes, inner].
struct ScoreShape {
  explicit ScoreShape(const Shape& s) : n(s[0]), num_classes(s[1]), inner(s.count(2, s.rank())) {}
  int64_t n, num_classes, inner;
};

template <typename T>
void log_softmax(RunContext& ctx, const ScoreShape& shape, const T* x, T* z) {
  const int64_t grain = std::max<int64_t>(1, kCostlyGrain / std::max<int64_t>(1, shape.num_classes));
  ctx.pool().parallel_for(shape.n * shape.inner, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t at = i / shape.inner * shape.num_classes * shape.inner + i % shape.inner;
      T largest = -std::numeric_limits<T>::infinity();
      for (int64_t c = 0; c < shape.num_classes; ++c) largest = std::max(largest, x[at + c * shape.inner]);
      double sum = 0;
      for (int64_t c = 0; c < shape.num_classes; ++c)
        sum += std::exp(static_cast<double>(x[at + c * shape.inner] - largest));
      const T log_sum = static_cast<T>(std::log(sum));
      for (int64_t c = 0; c < shape.num_classes; ++c)
        z[at + c * shape.inner] = x[at + c * shape.inner] - largest - log_sum;
    }
  });
}

template <typename T>
void compute_loss(RunContext& ctx, const ScoreShape& shape, const T* log_probabilities) {
  const std::vector<int64_t> labels = to_ints(ctx.input(1));
  const T* weights = ctx.has_input(2) ? ctx.data<T>(2) : nullptr;
  const bool has_ignored = ctx.node().has("ignore_index");
  const int64_t ignored = ctx.node().get_int("ignore_index", 0);
  const std::string reduction = ctx.node().get_string("reduction", "mean");
  T* z = ctx.output(0).data<T>();
  double sum = 0, weight_sum = 0;
  for (size_t i = 0; i < labels.size(); ++i) {
    const int64_t label = labels[i];
    double loss = 0;
    if (!has_ignored || label != ignored) {
      if (label < 0 || label >= shape.num_classes)
        ctx.fail("label {} is not one of {} classes", label, shape.num_classes);
      const double weight = weights == nullptr ? 1 : static_cast<double>(weights[label]);
      const int64_t n = static_cast<int64_t>(i) / shape.inner, at = static_cast<int64_t>(i) % shape.inner;
      loss = -weight * static_cast<double>(log_probabilities[(n * shape.num_classes + label) * shape.inner + at]);
      weight_sum += weight;
    }
    if (reduction == "none") z[i] = static_cast<T>(loss);
    sum += loss;
  }
  if (reduction == "sum") z[0] = static_cast<T>(sum);
  if (reduction == "mean") z[0] = static_cast<T>(sum / weight_sum);
}

void run_likelihood(RunContext& ctx) {
  const Tensor& x = ctx.input(0);
  const bool known = dispatch<float, double>(x.type(), [&](auto zero) {
    using T = decltype(zero);
    compute_loss(ctx, ScoreShape(x.shape()), x.data<T>());
  });
  if (!known) ctx.fail_type(0);
}

void run_cross_entropy(RunContext& ctx) {
  const Tensor& x = ctx.input(0);
  const ScoreShape shape(x.shape());
  const bool known = dispatch<float, double>(x.type(), [&](auto zero) {
    using T = decltype(zero);
    Tensor logs = ctx.has_output(1) ? ctx.output(1) : ctx.make(x.type(), x.shape());
    log_softmax(ctx, shape, x.data<T>(), logs.data<T>());
    compute_loss(ctx, shape, logs.data<T>());
  });
  if (!known) ctx.fail_type(0);
}

constexpr OpInfo kOps[] = {
    {"", "NegativeLogLikelihoodLoss", 12, 0, infer_loss, run_likelihood, OpInfo::kViaFloat},
    {"", "SoftmaxCrossEntropyLoss", 12, 0, infer_loss, run_cross_entropy, OpInfo::kViaFloat},
};

}  // namespace

std::span<const OpInfo> loss_ops() { return kOps; }

}  // namespace sluice::graph::ops
