// Quantisation within a budget: the layers that cost most accuracy stay in floats until the model's outputs are close
// enough.
//
// The error of a quantised model is |quantised - float| / |float| of an output, over all elements and samples, as
// vectors; of several outputs the worst. 0.01 means that outputs are off by 1% on the whole. Each product is quantised
// alone first, on a few samples, which orders them by the error that they bring; how many of the worst have to stay in
// floats is then found by bisection, each step on all samples. So about as many runs as there are layers, not their
// square.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "optimize/quantize.h"
#include "optimize/samples.h"

namespace sluice::optimize {

struct LayerError {
  size_t node = 0;    // of the model that was quantised
  std::string name, op_type;
  double error = 0;   // of the outputs if only this layer is quantised
  bool is_float = false;
};

struct BudgetOptions {
  double max_error = 0.01;
  int64_t max_samples = 32;       // that errors are measured on
  int64_t max_layer_samples = 4;  // of these, that single layers are
  int num_threads = 0;            // 0: the available cores
  std::function<void(const std::string& line)> log;  // may be null
};

struct BudgetResult {
  graph::Model model;
  double error_of_all = 0;         // with everything quantised
  double error = 0;                // of `model`
  std::vector<LayerError> layers;  // worst first; empty if all could be quantised at once
};

// Throws Error for a budget that is no positive number, and if there are no samples.
BudgetResult quantize_within(const graph::Model& model, const Ranges& ranges, const QuantizeOptions& options,
                             const Samples& samples, const BudgetOptions& budget);

}  // namespace sluice::optimize
