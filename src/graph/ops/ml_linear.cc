// LinearClassifier, LinearRegressor, SVMClassifier and SVMRegressor of ai.onnx.ml, version 1 (ONNX operator
// specification for machine learning). All compute in float. Where the specification leaves the scores of two classes
// open, they are what ONNX's reference makes of one score s: -s and s before the post transform; the label is the
// class of the larger raw score. Support vector classifiers vote between all pairs of classes; with prob_a and prob_b
// the pairs' probabilities are coupled by the second method of Wu, Lin and Weng (2004), as LIBSVM does it.
#include <algorithm>
#include <cmath>

#include "graph/ops/ml_scores.h"
#include "graph/ops/ops.h"

namespace sluice::graph::ops {
namespace {

constexpr int64_t kRowsPerTask = 16;

int64_t find_largest(std::span<const float> scores) {
  return std::max_element(scores.begin(), scores.end()) - scores.begin();
}

// A matrix [num_targets, num_features] and what is added.
struct Linear {
  std::vector<float> coefficients, intercepts;
  int64_t num_targets = 0;
  PostTransform transform = PostTransform::kNone;
};

void check_features(const RunContext& context, int64_t num_features, size_t num_values, int64_t num_vectors,
                    const char* what) {
  if (static_cast<uint64_t>(num_features) * static_cast<uint64_t>(num_vectors) != num_values) {
    context.fail("has {} {} for {} vectors of the {} features of its input", num_values, what, num_vectors,
                 num_features);
  }
}

Linear read_linear(const Node& node, int64_t num_targets) {
  Linear linear{node.get_floats("coefficients"), node.get_floats("intercepts"), num_targets, read_post_transform(node)};
  if (num_targets < 1 || num_targets > static_cast<int64_t>(linear.coefficients.size())) {
    fail(Code::kInvalidArgument, "{}: has {} coefficients for {} targets", node.describe(), linear.coefficients.size(),
         num_targets);
  }
  if (linear.intercepts.empty()) linear.intercepts.resize(static_cast<size_t>(num_targets));
  if (linear.intercepts.size() != static_cast<size_t>(num_targets)) {
    fail(Code::kInvalidArgument, "{}: has {} intercepts for {} targets", node.describe(), linear.intercepts.size(),
         num_targets);
  }
  return linear;
}

std::shared_ptr<const Linear> prepare_linear(const Node& node, int64_t num_targets) {
  return node.prepared.get<Linear>([&] { return std::make_shared<const Linear>(read_linear(node, num_targets)); });
}

void run_linear(const Linear& linear, const Rows& rows, int64_t row, float* scores) {
  for (int64_t t = 0; t < linear.num_targets; ++t) {
    scores[t] = dot_product(rows.data + row * rows.num_features, linear.coefficients.data() + t * rows.num_features,
                            rows.num_features) + linear.intercepts[static_cast<size_t>(t)];
  }
}

// The number of targets of a classifier: as its intercepts say, or its labels.
int64_t count_targets(const Node& node, const Labels& labels) {
  const Attribute* intercepts = node.find("intercepts");
  return static_cast<int64_t>(intercepts != nullptr && !intercepts->floats.empty() ? intercepts->floats.size()
                                                                                   : labels.size());
}

void infer_linear_classifier(InferContext& context) {
  const Labels labels = read_labels(context.node(), "classlabels_ints");
  const int64_t num_targets = count_targets(context.node(), labels);
  prepare_linear(context.node(), num_targets);
  if (num_targets > 1 && static_cast<int64_t>(labels.size()) != num_targets) {
    context.fail("has {} labels for {} targets", labels.size(), num_targets);
  }
  infer_classifier(context, labels, num_targets == 1 && labels.size() == 2 ? 2 : num_targets);
}

void run_linear_classifier(RunContext& context) {
  const Labels labels = read_labels(context.node(), "classlabels_ints");
  const auto prepared = prepare_linear(context.node(), count_targets(context.node(), labels));
  const Linear& linear = *prepared;
  const Rows rows = read_rows(context);
  check_features(context, rows.num_features, linear.coefficients.size(), linear.num_targets, "coefficients");
  const int64_t num_scores = linear.num_targets == 1 && labels.size() == 2 ? 2 : linear.num_targets;
  Tensor output =
      context.has_output(1) ? context.output(1) : context.make(ElementType::kF32, {rows.num_rows, num_scores});
  float* all_scores = output.data<float>();
  context.pool().parallel_for(rows.num_rows, kRowsPerTask, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) run_linear(linear, rows, row, all_scores + row * num_scores);
  });
  for (int64_t row = 0; row < rows.num_rows; ++row) {
    const std::span scores(all_scores + row * num_scores, static_cast<size_t>(num_scores));
    int64_t label;
    if (linear.num_targets > 1) {
      label = find_largest(scores);
    } else {
      const bool is_positive = scores[0] > 0;
      label = num_scores == 2 ? is_positive : is_positive ? (labels.size() == 0 ? 1 : 0) : -1;
      if (num_scores == 2) {
        scores[1] = scores[0];
        scores[0] = -scores[1];
      }
    }
    if (context.has_output(0)) labels.write(context.output(0), row, label);
    transform_scores(linear.transform, scores);
  }
}

void infer_linear_regressor(InferContext& context) {
  const int64_t num_targets = context.node().get_int("targets", 1);
  prepare_linear(context.node(), num_targets);
  context.set_output(0, ElementType::kF32, {infer_num_rows(context), num_targets});
}

void run_linear_regressor(RunContext& context) {
  const auto prepared = prepare_linear(context.node(), context.node().get_int("targets", 1));
  const Linear& linear = *prepared;
  const Rows rows = read_rows(context);
  check_features(context, rows.num_features, linear.coefficients.size(), linear.num_targets, "coefficients");
  float* output = context.output_data<float>(0);
  context.pool().parallel_for(rows.num_rows, kRowsPerTask, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      float* scores = output + row * linear.num_targets;
      run_linear(linear, rows, row, scores);
      transform_scores(linear.transform, std::span(scores, static_cast<size_t>(linear.num_targets)));
    }
  });
}

// Support vectors

enum class Kernel : uint8_t { kLinear, kPolynomial, kRbf, kSigmoid };

struct Svm {
  Kernel kernel = Kernel::kLinear;
  float gamma = 0, coef0 = 0, degree = 0;
  std::vector<float> coefficients, vectors, rho;
  PostTransform transform = PostTransform::kNone;

  float compare(const float* x, const float* y, int64_t count) const {
    switch (kernel) {
      case Kernel::kLinear: break;
      case Kernel::kPolynomial: return std::pow(gamma * dot_product(x, y, count) + coef0, degree);
      case Kernel::kRbf: return std::exp(-gamma * squared_distance(x, y, count));
      case Kernel::kSigmoid: return std::tanh(gamma * dot_product(x, y, count) + coef0);
    }
    return dot_product(x, y, count);
  }
};

Svm read_svm(const Node& node) {
  Svm svm;
  const std::string kernel = node.get_string("kernel_type", "LINEAR");
  if (kernel == "POLY") {
    svm.kernel = Kernel::kPolynomial;
  } else if (kernel == "RBF") {
    svm.kernel = Kernel::kRbf;
  } else if (kernel == "SIGMOID") {
    svm.kernel = Kernel::kSigmoid;
  } else if (kernel != "LINEAR") {
    fail(Code::kInvalidArgument, "{}: kernel_type '{}' is none of LINEAR, POLY, RBF and SIGMOID", node.describe(),
         kernel);
  }
  const std::vector<float> parameters = node.get_floats("kernel_params");
  if (parameters.size() >= 3) {
    svm.gamma = parameters[0];
    svm.coef0 = parameters[1];
    svm.degree = parameters[2];
  } else if (svm.kernel != Kernel::kLinear || !parameters.empty()) {
    fail(Code::kInvalidArgument, "{}: kernel_params has {} elements and has to have gamma, coef0 and degree",
         node.describe(), parameters.size());
  }
  svm.coefficients = node.get_floats("coefficients");
  svm.vectors = node.get_floats("support_vectors");
  svm.rho = node.get_floats("rho");
  svm.transform = read_post_transform(node);
  if (node.op_type == "SVMRegressor" && node.get_int("n_supports", 0) <= 0) svm.kernel = Kernel::kLinear;
  if (svm.rho.empty()) fail(Code::kInvalidArgument, "{}: has no rho", node.describe());
  return svm;
}

std::shared_ptr<const Svm> prepare_svm(const Node& node) {
  return node.prepared.get<Svm>([&] { return std::make_shared<const Svm>(read_svm(node)); });
}

void infer_svm_regressor(InferContext& context) {
  prepare_svm(context.node());
  context.set_output(0, ElementType::kF32, {infer_num_rows(context), 1});
}

void run_svm_regressor(RunContext& context) {
  const auto prepared = prepare_svm(context.node());
  const Svm& svm = *prepared;
  const Rows rows = read_rows(context);
  const int64_t num_supports = context.node().get_int("n_supports", 0);
  const bool is_one_class = context.node().get_int("one_class", 0) != 0;
  if (num_supports > 0) {
    if (static_cast<size_t>(num_supports) != svm.coefficients.size()) {
      context.fail("has {} coefficients for {} support vectors", svm.coefficients.size(), num_supports);
    }
    check_features(context, rows.num_features, svm.vectors.size(), num_supports, "elements of support vectors");
  } else {
    check_features(context, rows.num_features, svm.coefficients.size(), 1, "coefficients");
  }
  float* output = context.output_data<float>(0);
  context.pool().parallel_for(rows.num_rows, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const float* x = rows.data + row * rows.num_features;
      double sum = svm.rho[0];
      for (int64_t j = 0; j < num_supports; ++j) {
        sum += static_cast<double>(svm.coefficients[static_cast<size_t>(j)]) *
               svm.compare(x, svm.vectors.data() + j * rows.num_features, rows.num_features);
      }
      if (num_supports <= 0) sum += svm.compare(x, svm.coefficients.data(), rows.num_features);
      output[row] = is_one_class ? (sum > 0 ? 1.0f : -1.0f) : static_cast<float>(sum);
      transform_scores(svm.transform, std::span(output + row, 1));
    }
  });
}

// What a classifier has beyond its vectors.
struct SvmClasses {
  Labels labels;
  std::vector<int64_t> counts, begins;  // of each class's vectors
  int64_t num_vectors = 0, num_classes = 0, num_pairs = 0, num_scores = 0;
  std::vector<float> prob_a, prob_b;
};

SvmClasses read_classes(const Node& node, const Svm& svm) {
  SvmClasses classes;
  classes.labels = read_labels(node, "classlabels_ints");
  classes.counts = node.get_ints("vectors_per_class");
  classes.prob_a = node.get_floats("prob_a");
  classes.prob_b = node.get_floats("prob_b");
  for (const int64_t count : classes.counts) {
    if (count < 0 || count > static_cast<int64_t>(svm.coefficients.size())) {
      fail(Code::kInvalidArgument, "{}: a class has {} support vectors", node.describe(), count);
    }
    classes.begins.push_back(classes.num_vectors);
    classes.num_vectors += count;
  }
  classes.num_classes = static_cast<int64_t>(classes.labels.size() > 0 ? classes.labels.size()
                                                                       : std::max<size_t>(classes.counts.size(), 1));
  constexpr int64_t kMaxClasses = 1 << 15;
  if (classes.num_classes > kMaxClasses) {
    fail(Code::kInvalidArgument, "{}: has {} classes", node.describe(), classes.num_classes);
  }
  if (classes.num_vectors == 0) {
    classes.num_scores = classes.num_classes;
    return classes;
  }
  classes.num_pairs = classes.num_classes * (classes.num_classes - 1) / 2;
  const auto num_pairs = static_cast<size_t>(classes.num_pairs);
  const bool has_probabilities = !classes.prob_a.empty();
  if (static_cast<int64_t>(classes.counts.size()) != classes.num_classes || classes.num_classes < 2) {
    fail(Code::kInvalidArgument, "{}: has {} classes, but vectors_per_class has {}", node.describe(),
         classes.num_classes, classes.counts.size());
  }
  if (svm.coefficients.size() != static_cast<size_t>((classes.num_classes - 1) * classes.num_vectors) ||
      svm.rho.size() < num_pairs || classes.prob_a.size() != classes.prob_b.size() ||
      (has_probabilities && classes.prob_a.size() < num_pairs)) {
    fail(Code::kInvalidArgument,
         "{}: {} classes with {} vectors need {} coefficients and {} of rho, prob_a and prob_b; it has "
         "{}, {}, {} and {}",
         node.describe(), classes.num_classes, classes.num_vectors, (classes.num_classes - 1) * classes.num_vectors,
         num_pairs, svm.coefficients.size(), svm.rho.size(), classes.prob_a.size(), classes.prob_b.size());
  }
  classes.num_scores = has_probabilities || classes.num_classes == 2 ? classes.num_classes : classes.num_pairs;
  return classes;
}

// Probabilities p of classes from those of all pairs: pair(i, j) is that of i against j. Minimises the sum of
// (pair(j, i) p[i] - pair(i, j) p[j])^2 one coordinate after the other.
void couple_probabilities(const std::vector<double>& pair, std::span<float> result) {
  const size_t n = result.size();
  std::vector<double> q(n * n, 0.0), qp(n), p(n, 1.0 / static_cast<double>(n));
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) {
      if (j == i) continue;
      q[i * n + i] += pair[j * n + i] * pair[j * n + i];
      q[i * n + j] = -pair[j * n + i] * pair[i * n + j];
    }
  }
  const double tolerance = 0.005 / static_cast<double>(n);
  const size_t max_rounds = std::max<size_t>(100, n);
  for (size_t round = 0; round < max_rounds; ++round) {
    double total = 0, worst = 0;
    for (size_t i = 0; i < n; ++i) {
      qp[i] = 0;
      for (size_t j = 0; j < n; ++j) qp[i] += q[i * n + j] * p[j];
      total += p[i] * qp[i];
    }
    for (size_t i = 0; i < n; ++i) worst = std::max(worst, std::abs(qp[i] - total));
    if (worst < tolerance) break;
    for (size_t i = 0; i < n; ++i) {
      const double step = (total - qp[i]) / q[i * n + i], scale = 1 + step;
      p[i] += step;
      total = (total + step * (step * q[i * n + i] + 2 * qp[i])) / (scale * scale);
      for (size_t j = 0; j < n; ++j) {
        qp[j] = (qp[j] + step * q[i * n + j]) / scale;
        p[j] /= scale;
      }
    }
  }
  std::copy(p.begin(), p.end(), result.begin());
}

// One example; gives its class and writes its scores.
int64_t classify(const Svm& svm, const SvmClasses& classes, const float* x, int64_t num_features,
                 std::span<float> scores) {
  if (classes.num_vectors == 0) {
    for (int64_t c = 0; c < classes.num_classes; ++c) {
      scores[static_cast<size_t>(c)] =
          dot_product(x, svm.coefficients.data() + c * num_features, num_features) + svm.rho[0];
    }
    if (classes.num_classes > 1) return find_largest(scores);
    return scores[0] > 0 ? (classes.labels.size() == 0 ? 1 : 0) : -1;
  }
  const auto n = static_cast<size_t>(classes.num_classes);
  std::vector<float> kernels(static_cast<size_t>(classes.num_vectors)),
      decisions(static_cast<size_t>(classes.num_pairs));
  for (size_t v = 0; v < kernels.size(); ++v) {
    kernels[v] = svm.compare(x, svm.vectors.data() + static_cast<int64_t>(v) * num_features, num_features);
  }
  std::vector<int64_t> votes(n, 0);
  size_t pair = 0;
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = i + 1; j < n; ++j, ++pair) {
      // The vectors of i have their coefficients against j in row j - 1, those of j against i in row i.
      const float* row_of_i = svm.coefficients.data() + static_cast<int64_t>(j - 1) * classes.num_vectors;
      const float* row_of_j = svm.coefficients.data() + static_cast<int64_t>(i) * classes.num_vectors;
      const int64_t begin_i = classes.begins[i], begin_j = classes.begins[j];
      decisions[pair] = dot_product(row_of_i + begin_i, kernels.data() + begin_i, classes.counts[i]) +
                        dot_product(row_of_j + begin_j, kernels.data() + begin_j, classes.counts[j]) + svm.rho[pair];
      ++votes[decisions[pair] > 0 ? i : j];
    }
  }
  if (!classes.prob_a.empty()) {
    constexpr double kLeast = 1e-7;
    std::vector<double> pairs(n * n, 0.0);
    pair = 0;
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = i + 1; j < n; ++j, ++pair) {
        const double logit = static_cast<double>(decisions[pair]) * classes.prob_a[pair] + classes.prob_b[pair];
        pairs[i * n + j] = std::clamp(1 / (1 + std::exp(logit)), kLeast, 1 - kLeast);
        pairs[j * n + i] = 1 - pairs[i * n + j];
      }
    }
    couple_probabilities(pairs, scores);
  } else if (n == 2) {
    scores[0] = -decisions[0];
    scores[1] = decisions[0];
  } else {
    std::copy(decisions.begin(), decisions.end(), scores.begin());
  }
  return std::max_element(votes.begin(), votes.end()) - votes.begin();
}

struct SvmClassifier {
  Svm svm;
  SvmClasses classes;
};

std::shared_ptr<const SvmClassifier> prepare_classifier(const Node& node) {
  return node.prepared.get<SvmClassifier>([&] {
    Svm svm = read_svm(node);
    SvmClasses classes = read_classes(node, svm);
    return std::make_shared<const SvmClassifier>(SvmClassifier{std::move(svm), std::move(classes)});
  });
}

void infer_svm_classifier(InferContext& context) {
  const auto prepared = prepare_classifier(context.node());
  infer_classifier(context, prepared->classes.labels, prepared->classes.num_scores);
}

void run_svm_classifier(RunContext& context) {
  const auto prepared = prepare_classifier(context.node());
  const Svm& svm = prepared->svm;
  const SvmClasses& classes = prepared->classes;
  const Rows rows = read_rows(context);
  if (classes.num_vectors == 0) {
    check_features(context, rows.num_features, svm.coefficients.size(), classes.num_classes, "coefficients");
  } else {
    check_features(context, rows.num_features, svm.vectors.size(), classes.num_vectors, "elements of support vectors");
  }
  Tensor output =
      context.has_output(1) ? context.output(1) : context.make(ElementType::kF32, {rows.num_rows, classes.num_scores});
  float* scores = output.data<float>();
  std::vector<int64_t> found(static_cast<size_t>(rows.num_rows));
  context.pool().parallel_for(rows.num_rows, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const std::span of_row(scores + row * classes.num_scores, static_cast<size_t>(classes.num_scores));
      found[static_cast<size_t>(row)] =
          classify(svm, classes, rows.data + row * rows.num_features, rows.num_features, of_row);
      transform_scores(svm.transform, of_row);
    }
  });
  if (!context.has_output(0)) return;
  for (int64_t row = 0; row < rows.num_rows; ++row) {
    classes.labels.write(context.output(0), row, found[static_cast<size_t>(row)]);
  }
}

constexpr OpInfo kOps[] = {
    {kMl, "LinearClassifier", 1, 0, infer_linear_classifier, run_linear_classifier},
    {kMl, "LinearRegressor", 1, 0, infer_linear_regressor, run_linear_regressor},
    {kMl, "SVMClassifier", 1, 0, infer_svm_classifier, run_svm_classifier},
    {kMl, "SVMRegressor", 1, 0, infer_svm_regressor, run_svm_regressor},
};

}  // namespace

std::span<const OpInfo> ml_linear_ops() { return kOps; }

}  // namespace sluice::graph::ops
