#include "optimize/budget.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "base/error.h"
#include "graph/executor.h"
#include "graph/passes.h"
#include "optimize/compare.h"

namespace sluice::optimize {
namespace {

using graph::Value;

constexpr int64_t kMaxKeptBytes = int64_t{512} << 20;  // of the float model's outputs

int64_t bytes_of(const std::vector<Value>& values) {
  int64_t bytes = 0;
  for (const Value& value : values) {
    if (value.kind == Value::Kind::kTensor && !value.tensor.is_null()) bytes += value.tensor.bytes();
  }
  return bytes;
}

// Errors of quantised forms of one model. The float model's outputs are kept as far as there is room.
class Meter {
 public:
  Meter(const graph::Model& model, const Samples& samples, int64_t max_samples, int num_threads)
      : samples_(samples),
        num_samples_(std::min(samples.count, std::max<int64_t>(1, max_samples))),
        num_threads_(num_threads),
        names_(model.graph.output_names),
        reference_(prepare(graph::copy_model(model))) {}

  int64_t num_samples() const { return num_samples_; }

  double measure(graph::Model model, int64_t max_samples) {
    const std::unique_ptr<graph::Executor> executor = prepare(std::move(model));
    OutputComparer comparer(names_);
    for (int64_t i = 0; i < std::min(num_samples_, max_samples); ++i) {
      const std::vector<Value> inputs = samples_.load(i);
      const std::vector<Value> expected = find_expected(i, inputs);
      comparer.add(expected, executor->run(inputs));
    }
    const double error = comparer.finish().worst_relative_l2();
    return std::isnan(error) ? INFINITY : error;
  }

 private:
  std::unique_ptr<graph::Executor> prepare(graph::Model model) const {
    auto shared = std::make_shared<graph::Model>(std::move(model));
    graph::optimise(*shared);
    return std::make_unique<graph::Executor>(std::move(shared), graph::Executor::Options{.num_threads = num_threads_});
  }

  std::vector<Value> find_expected(int64_t sample, const std::vector<Value>& inputs) {
    const auto at = static_cast<size_t>(sample);
    if (at < kept_.size() && !kept_[at].empty()) return kept_[at];
    std::vector<Value> outputs = reference_->run(inputs);
    kept_bytes_ += bytes_of(outputs);
    if (kept_bytes_ <= kMaxKeptBytes) {
      kept_.resize(std::max(kept_.size(), at + 1));
      kept_[at] = outputs;
    }
    return outputs;
  }

  const Samples& samples_;
  const int64_t num_samples_;
  const int num_threads_;
  const std::vector<std::string> names_;
  const std::unique_ptr<graph::Executor> reference_;
  std::vector<std::vector<Value>> kept_;
  int64_t kept_bytes_ = 0;
};

class Search {
 public:
  Search(const graph::Model& model, const Ranges& ranges, const QuantizeOptions& options, const Samples& samples,
         const BudgetOptions& budget)
      : model_(model),
        ranges_(ranges),
        options_(options),
        budget_(budget),
        meter_(model, samples, budget.max_samples, budget.num_threads) {}

  BudgetResult run() {
    const std::vector<size_t> products = list_quantisable(model_, options_);
    BudgetResult result{.model = quantize(model_, ranges_, options_)};
    result.error = result.error_of_all = meter_.measure(graph::copy_model(result.model), meter_.num_samples());
    log(fmt::format("{} layers quantised: error {:.4g}, allowed {:.4g}", products.size(), result.error,
                    budget_.max_error));
    if (result.error <= budget_.max_error) return result;
    result.layers = measure_layers(products);

    // The first `floats` layers stay in floats. That none quantised is good enough is known.
    size_t too_few = 0, enough = products.size();
    while (enough - too_few > 1) {
      const size_t middle = too_few + (enough - too_few) / 2;
      const double error = measure_without(result.layers, middle);
      log(fmt::format("{} of {} layers in floats: error {:.4g}", middle, products.size(), error));
      (error <= budget_.max_error ? enough : too_few) = middle;
    }
    for (size_t i = 0; i < enough; ++i) result.layers[i].is_float = true;
    result.model = quantize(model_, ranges_, without(result.layers, enough));
    result.error = meter_.measure(graph::copy_model(result.model), meter_.num_samples());
    log(fmt::format("{} of {} layers stay in floats: error {:.4g}", enough, products.size(), result.error));
    return result;
  }

 private:
  void log(const std::string& line) const {
    if (budget_.log) budget_.log(line);
  }

  QuantizeOptions without(const std::vector<LayerError>& layers, size_t count) const {
    QuantizeOptions options = options_;
    for (size_t i = 0; i < count; ++i) options.float_nodes.insert(layers[i].node);
    return options;
  }

  double measure_without(const std::vector<LayerError>& layers, size_t count) {
    return meter_.measure(quantize(model_, ranges_, without(layers, count)), meter_.num_samples());
  }

  std::vector<LayerError> measure_layers(const std::vector<size_t>& products) {
    std::vector<LayerError> layers;
    for (const size_t only : products) {
      QuantizeOptions options = options_;
      for (const size_t n : products) {
        if (n != only) options.float_nodes.insert(n);
      }
      const graph::Node& node = model_.graph.nodes[only];
      const double error = meter_.measure(quantize(model_, ranges_, options), budget_.max_layer_samples);
      layers.push_back({only, node.name, node.op_type, error});
    }
    std::stable_sort(layers.begin(), layers.end(),
                     [](const LayerError& a, const LayerError& b) { return a.error > b.error; });
    return layers;
  }

  const graph::Model& model_;
  const Ranges& ranges_;
  const QuantizeOptions& options_;
  const BudgetOptions& budget_;
  Meter meter_;
};

}  // namespace

BudgetResult quantize_within(const graph::Model& model, const Ranges& ranges, const QuantizeOptions& options,
                             const Samples& samples, const BudgetOptions& budget) {
  if (!(budget.max_error > 0) || !std::isfinite(budget.max_error))
    fail(Code::kInvalidArgument, "the accuracy budget is {}; it has to be a number above 0", budget.max_error);
  if (samples.count <= 0) fail(Code::kInvalidArgument, "an accuracy budget needs samples to measure on");
  return Search(model, ranges, options, samples, budget).run();
}

}  // namespace sluice::optimize
