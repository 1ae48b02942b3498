// How close two models' outputs are on the same inputs: the numbers that tell what quantisation or bf16 has cost.
//
// Computed in double over everything that a data set gives, without keeping it. Of an output that is a sequence or a
// map, the tensors in it count as one after the other. Strings are compared for equality only. The first of two models
// is the reference: errors are measured against it. One thread at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "graph/executor.h"
#include "optimize/samples.h"

namespace sluice::optimize {

struct OutputComparison {
  std::string name;
  int64_t num_values = 0;       // elements, of all samples
  int64_t num_equal = 0;        // of them, those that are the same
  double cosine = 1;            // mean over samples of the cosine between the two outputs seen as vectors
  double worst_cosine = 1;      // of a sample
  double max_abs_error = 0;
  double relative_l2 = 0;       // |found - reference| / |reference|, over all samples; 0 if both are 0
  double signal_to_noise = 0;   // dB: -20 log10(relative_l2); infinite if nothing differs
  // Where the largest element is. Rows are lines along the last axis; of images [N, C, H, W] the channels of a
  // position. num_rows is 0 for outputs with one class.
  int64_t num_rows = 0, num_rows_agreed = 0;

  double top1_agreement() const {
    return num_rows == 0 ? 1 : static_cast<double>(num_rows_agreed) / static_cast<double>(num_rows);
  }
};

struct Comparison {
  int64_t num_samples = 0;
  std::vector<OutputComparison> outputs;

  // The worst of all outputs.
  double worst_relative_l2() const;
};

// Gathers outputs of one sample after the other.
class OutputComparer {
 public:
  explicit OutputComparer(std::vector<std::string> output_names);
  // REQUIRES: one value for each name in both. Throws Error where types or shapes differ.
  void add(std::span<const graph::Value> reference, std::span<const graph::Value> found);
  Comparison finish() const;

 private:
  struct Sums {
    double error = 0, reference = 0;  // squares
    double cosine = 0;                // over samples
  };
  Comparison comparison_;
  std::vector<Sums> sums_;
};

using RunModel = std::function<std::vector<graph::Value>(std::span<const graph::Value> inputs)>;

// Throws Error of a sample that cannot be loaded or a model that cannot be run, and if there are no samples.
Comparison compare_models(const RunModel& reference, const RunModel& candidate,
                          const std::vector<std::string>& output_names, const Samples& samples);
// The same for models whose inputs and outputs are alike. Throws Error if they are not.
Comparison compare_models(graph::Executor& reference, graph::Executor& candidate, const Samples& samples);

// A line for each output, under a line that names the columns; ends with a newline.
std::string format_comparison(const Comparison& comparison);

}  // namespace sluice::optimize
