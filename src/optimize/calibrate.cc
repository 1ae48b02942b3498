#include "optimize/calibrate.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "base/error.h"
#include "graph/executor.h"

namespace sluice::optimize {
namespace {

using graph::Value;
using graph::ValueId;

Range make_range(const Histogram& histogram, const CalibrateOptions& options) {
  const Range seen{histogram.low(), histogram.high()};
  if (options.method == CalibrationMethod::kMinMax) return seen;
  // Values of one sign have all integers for themselves.
  const int num_levels = seen.low < 0 && seen.high > 0 ? 128 : 256;
  const float cut = options.method == CalibrationMethod::kEntropy ? histogram.find_least_divergence(num_levels)
                                                                  : histogram.find_percentile(options.percentile);
  return {std::max(seen.low, -cut), std::min(seen.high, cut)};
}

}  // namespace

CalibrationMethod read_calibration_method(const std::string& word) {
  if (word == "minmax") return CalibrationMethod::kMinMax;
  if (word == "entropy") return CalibrationMethod::kEntropy;
  if (word == "percentile") return CalibrationMethod::kPercentile;
  fail(Code::kInvalidArgument, "there is no calibration method '{}', only minmax, entropy and percentile", word);
}

void Histogram::grow_to(float magnitude) {
  if (bins_.empty()) bins_.assign(kNumBins, 0);
  if (bin_width_ == 0) {
    const int64_t zeros = bins_[0];
    bin_width_ = std::max(magnitude / kNumBins, std::numeric_limits<float>::min());
    // The largest of the first values becomes the last bin; rounding must not put it behind that.
    while (bin_width_ * static_cast<float>(kNumBins) <= magnitude) bin_width_ *= 1 + 1e-6f;
    bins_[0] = zeros;
  }
  while (!(magnitude < bin_width_ * static_cast<float>(kNumBins))) {
    for (size_t i = 0; i < kNumBins / 2; ++i) bins_[i] = bins_[2 * i] + bins_[2 * i + 1];
    std::fill(bins_.begin() + kNumBins / 2, bins_.end(), 0);
    bin_width_ *= 2;
  }
}

void Histogram::add(std::span<const float> values) {
  float low = low_, high = high_;
  int64_t finite = 0;
  for (const float value : values) {
    if (!std::isfinite(value)) continue;
    ++finite;
    low = std::min(low, value), high = std::max(high, value);
  }
  if (finite == 0) return;
  low_ = low, high_ = high, count_ += finite;
  // Half the largest float is infinitely many of anything; a bin wider than that would overflow.
  constexpr float kLargest = std::numeric_limits<float>::max() / 4;
  const float largest = std::min(std::max(-low, high), kLargest);
  if (largest > 0) grow_to(largest);
  else if (bins_.empty()) bins_.assign(kNumBins, 0);
  const float factor = bin_width_ > 0 ? 1 / bin_width_ : 0;
  for (const float value : values) {
    if (!std::isfinite(value)) continue;
    const float at = std::min(std::abs(value), kLargest) * factor;
    ++bins_[static_cast<size_t>(std::min(at, static_cast<float>(kNumBins - 1)))];
  }
}

float Histogram::find_percentile(double percent) const {
  const float largest = std::max(-low_, high_);
  if (count_ == 0 || bin_width_ == 0) return largest;
  const double wanted = static_cast<double>(count_) * percent / 100;
  int64_t sum = 0;
  for (size_t i = 0; i < bins_.size(); ++i) {
    sum += bins_[i];
    if (static_cast<double>(sum) >= wanted) return std::min(largest, bin_width_ * static_cast<float>(i + 1));
  }
  return largest;
}

float Histogram::find_least_divergence(int num_levels) const {
  const float largest = std::max(-low_, high_);
  if (count_ == 0 || bin_width_ == 0) return largest;
  std::vector<double> bins(bins_.begin(), bins_.end());
  bins[0] = bins[1];  // a Relu's zeros are exact in any number of steps and would outweigh everything else
  std::vector<double> sums(bins.size() + 1, 0);
  for (size_t i = 0; i < bins.size(); ++i) sums[i + 1] = sums[i] + bins[i];
  size_t used = bins.size();
  while (used > 1 && bins[used - 1] == 0) --used;
  const auto levels = static_cast<size_t>(num_levels);
  if (sums.back() == 0 || used <= levels) return largest;

  double least = std::numeric_limits<double>::infinity();
  size_t best = used;
  for (size_t cut = levels; cut <= used; cut += cut == used ? 1 : std::min<size_t>(8, used - cut)) {
    // What is cut off counts to the last bin of P; Q spreads each level evenly over its bins that are not empty.
    const double outside = sums.back() - sums[cut];
    double divergence = 0, q_total = 0;
    for (size_t i = 0; i < cut; ++i) q_total += bins[i];
    if (q_total == 0) continue;
    for (size_t level = 0; level < levels; ++level) {
      const size_t begin = level * cut / levels, end = (level + 1) * cut / levels;
      const auto filled = static_cast<double>(std::count_if(bins.begin() + static_cast<std::ptrdiff_t>(begin),
                                                            bins.begin() + static_cast<std::ptrdiff_t>(end),
                                                            [](double bin) { return bin != 0; }));
      if (filled == 0) continue;
      const double q = (sums[end] - sums[begin]) / filled / q_total;
      for (size_t i = begin; i < end; ++i) {
        if (bins[i] == 0) continue;
        const double p = (bins[i] + (i + 1 == cut ? outside : 0)) / sums.back();
        divergence += p * std::log(p / q);
      }
    }
    // Mass outside with an empty last bin is in no level.
    if (bins[cut - 1] == 0 && outside > 0) divergence += outside / sums.back() * 10;
    if (divergence < least) least = divergence, best = cut;
  }
  return std::min(largest, bin_width_ * static_cast<float>(best));
}

Ranges calibrate(const graph::Model& model, std::span<const ValueId> observed, const Samples& samples,
                 const CalibrateOptions& options) {
  if (samples.count <= 0) fail(Code::kInvalidArgument, "there are no samples to calibrate with");
  if (!(options.percentile > 0 && options.percentile <= 100))
    fail(Code::kInvalidArgument, "the percentile is {}; it has to be above 0 and at most 100", options.percentile);
  auto copy = std::make_shared<graph::Model>(graph::copy_model(model));
  copy->graph.outputs.assign(observed.begin(), observed.end());
  copy->graph.output_names.clear();
  for (const ValueId id : observed) copy->graph.output_names.push_back(model.graph.value(id).name);
  graph::Executor executor(copy, {.num_threads = options.num_threads});
  std::vector<Histogram> histograms(observed.size());
  for (int64_t s = 0; s < samples.count; ++s) {
    const std::vector<Value> outputs = executor.run(samples.load(s));
    for (size_t i = 0; i < outputs.size(); ++i) {
      const bool is_float = outputs[i].kind == Value::Kind::kTensor &&
                            outputs[i].tensor.type() == graph::ElementType::kF32;
      if (is_float) histograms[i].add(outputs[i].tensor.values<float>());
    }
    if (options.progress) options.progress(s + 1, samples.count);
  }
  Ranges ranges;
  for (size_t i = 0; i < observed.size(); ++i) ranges[observed[i]] = make_range(histograms[i], options);
  return ranges;
}

}  // namespace sluice::optimize
