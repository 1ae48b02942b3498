// All of int8 quantisation in one call, as `sluice optimize --precision int8` has it: simplify, calibrate, quantise,
// stay within the budget, and tell what it cost.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "optimize/budget.h"
#include "optimize/calibrate.h"
#include "optimize/calibration_data.h"
#include "optimize/compare.h"

namespace sluice::optimize {

struct QuantizeModelOptions {
  std::vector<std::string> calibration;  // --calibration: files or folders; may be empty if dynamic without a budget
  CalibrationMethod method = CalibrationMethod::kMinMax;  // --calibration-method
  double percentile = 99.99;                              // of kPercentile
  bool is_per_tensor = false;                             // --per-tensor
  bool is_symmetric = false;                              // --symmetric
  bool is_portable = false;                               // only operators of the model's own opset: for other runtimes
  bool is_dynamic = false;                                // --dynamic
  std::vector<std::string> excluded;                      // --exclude: names of nodes, or operators
  bool keeps_first = false, keeps_last = false;
  std::optional<double> accuracy_budget;  // --accuracy-budget: relative error of the outputs (budget.h)
  ImageOptions images;
  int num_threads = 0;  // 0: the available cores
  std::function<void(const std::string& line)> log;  // progress, a line at a time; may be null
};

struct QuantizeModelResult {
  // QDQ (quantize.h), ready for optimise(). Inputs that have defaults in the original are constants.
  graph::Model model;
  size_t num_products = 0;               // that could be quantised
  std::vector<LayerError> float_layers;  // that stayed in floats for the budget, worst first
  std::optional<Comparison> comparison;  // with the float model, on (some of) the samples
};

// `model` as it was imported. Throws Error: nothing to quantise, no data, data that does not fit, wrong options.
QuantizeModelResult quantize_model(const graph::Model& model, const QuantizeModelOptions& options);

}  // namespace sluice::optimize
