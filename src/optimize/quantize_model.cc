#include "optimize/quantize_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "base/error.h"
#include "graph/executor.h"
#include "graph/passes.h"

namespace sluice::optimize {
namespace {

constexpr int64_t kMaxComparedSamples = 32;

// What is fused belongs to the optimised form; here nodes are to be recognised. Old files list all weights as inputs
// that have defaults; quantised ones cannot be given from outside, so that defaults become constants.
graph::Model simplify(const graph::Model& model, bool is_portable) {
  graph::Model simple = graph::copy_model(model);
  std::erase_if(simple.graph.inputs, [&](graph::ValueId id) { return simple.graph.value(id).constant.has_value(); });
  graph::OptimiseOptions options;
  for (const graph::Pass& pass : graph::list_passes()) {
    const bool is_recognising = std::string_view(pass.name).starts_with("recognise-");
    if (pass.stage != graph::PassStage::kSimplify || (is_portable && is_recognising)) {
      options.disabled.emplace_back(pass.name);
    }
  }
  graph::optimise(simple, options);
  return simple;
}

std::unique_ptr<graph::Executor> prepare(const graph::Model& model, int num_threads) {
  auto shared = std::make_shared<graph::Model>(graph::copy_model(model));
  graph::optimise(*shared);
  return std::make_unique<graph::Executor>(std::move(shared), graph::Executor::Options{.num_threads = num_threads});
}

}  // namespace

QuantizeModelResult quantize_model(const graph::Model& model, const QuantizeModelOptions& options) {
  auto log = [&](const std::string& line) {
    if (options.log) options.log(line);
  };
  const bool needs_data = !options.is_dynamic || options.accuracy_budget;
  if (needs_data && options.calibration.empty()) {
    fail(Code::kInvalidArgument, "{} needs samples: give --calibration an .npz file or a folder of pictures{}",
         options.is_dynamic ? "an accuracy budget" : "int8", options.is_dynamic ? "" : ", or use --dynamic");
  }
  const graph::Model simple = simplify(model, options.is_portable);
  const QuantizeOptions quantize_options{.is_dynamic = options.is_dynamic, .is_symmetric = options.is_symmetric,
                                         .is_per_channel = !options.is_per_tensor, .keeps_first = options.keeps_first,
                                         .keeps_last = options.keeps_last, .excluded = options.excluded};
  QuantizeModelResult result;
  result.num_products = list_quantisable(simple, quantize_options).size();
  if (result.num_products == 0) {
    fail(Code::kInvalidArgument, "there is nothing to quantise: {}",
         options.is_dynamic ? "no MatMul or Gemm with constant float32 weights is left"
                            : "no Conv, MatMul or Gemm with constant float32 weights is left");
  }
  Samples samples;
  Ranges ranges;
  if (!options.calibration.empty()) {
    samples = open_samples(options.calibration, simple, options.images);
    log(fmt::format("{} samples", samples.count));
  }
  if (!options.is_dynamic) {
    const std::vector<graph::ValueId> observed = list_observed(simple);
    CalibrateOptions calibrate_options{.method = options.method, .percentile = options.percentile,
                                       .num_threads = options.num_threads, .progress = nullptr};
    calibrate_options.progress = [&](int64_t done, int64_t count) {
      const int64_t step = std::max<int64_t>(1, count / 10);
      if (done % step == 0 || done == count) log(fmt::format("calibrated with {} of {} samples", done, count));
    };
    ranges = calibrate(simple, observed, samples, calibrate_options);
  }
  if (options.accuracy_budget) {
    BudgetResult budget = quantize_within(simple, ranges, quantize_options, samples,
                                          {.max_error = *options.accuracy_budget, .num_threads = options.num_threads,
                                           .log = options.log});
    result.model = std::move(budget.model);
    for (LayerError& layer : budget.layers) {
      if (layer.is_float) result.float_layers.push_back(std::move(layer));
    }
    for (const LayerError& layer : result.float_layers)
      log(fmt::format("in floats: {} ({}), error {:.4g} alone", layer.name, layer.op_type, layer.error));
  } else {
    result.model = quantize(simple, ranges, quantize_options);
  }
  log(fmt::format("{} of {} layers are int8", result.num_products - result.float_layers.size(), result.num_products));
  if (samples.count > 0) {
    Samples some = samples;
    some.count = std::min(some.count, kMaxComparedSamples);
    const auto reference = prepare(simple, options.num_threads), candidate = prepare(result.model, options.num_threads);
    result.comparison = compare_models(*reference, *candidate, some);
  }
  return result;
}

}  // namespace sluice::optimize
