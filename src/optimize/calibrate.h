// Ranges of activations, from runs of the model on samples.
//
// Each observed value keeps its least and largest element and a histogram of 2048 magnitudes, however many samples
// there are. NaN and infinities (masks of attention) are not counted. Of the three ways to make a range of that:
//   minmax      all that was seen
//   entropy     the cut at which the histogram in as many steps as the integers have tells most of the histogram in
//               full: least Kullback-Leibler divergence, as NVIDIA describes for TensorRT (8-bit inference, GTC 2017)
//   percentile  so that this share of the magnitudes is inside
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "optimize/ranges.h"
#include "optimize/samples.h"

namespace sluice::optimize {

enum class CalibrationMethod : uint8_t { kMinMax, kEntropy, kPercentile };

// "minmax", "entropy" or "percentile". Throws Error for other words.
CalibrationMethod read_calibration_method(const std::string& word);

struct CalibrateOptions {
  CalibrationMethod method = CalibrationMethod::kMinMax;
  double percentile = 99.99;  // of kPercentile
  int num_threads = 0;        // 0: the available cores
  std::function<void(int64_t done, int64_t count)> progress;  // after each sample; may be null
};

// Of magnitudes of any size: bins grow twofold when something does not fit. Not for threads to share.
class Histogram {
 public:
  static constexpr int kNumBins = 2048;

  void add(std::span<const float> values);
  float low() const { return low_; }    // 0 if nothing is negative
  float high() const { return high_; }  // 0 if nothing is positive
  int64_t count() const { return count_; }

  // Magnitude below which `percent` of all values are.
  float find_percentile(double percent) const;
  // Magnitude at which to cut, for integers of `num_levels` magnitudes.
  float find_least_divergence(int num_levels) const;

 private:
  void grow_to(float magnitude);

  float low_ = 0, high_ = 0;
  float bin_width_ = 0;  // 0: nothing but zeros so far
  int64_t count_ = 0;
  std::vector<int64_t> bins_;  // [kNumBins]
};

// Runs a copy of the model that also gives the observed values, which have to be float32 and of its main graph. Throws
// Error for samples that the model does not take, and if there are none.
Ranges calibrate(const graph::Model& model, std::span<const graph::ValueId> observed, const Samples& samples,
                 const CalibrateOptions& options);

}  // namespace sluice::optimize
