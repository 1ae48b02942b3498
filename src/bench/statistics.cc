#include "bench/statistics.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace sluice::bench {
namespace {

double sum_of_squared_distances(const std::vector<double>& values) {
  const double mean = mean_of(values);
  double sum = 0;
  for (double value : values) sum += (value - mean) * (value - mean);
  return sum;
}

}  // namespace

double mean_of(const std::vector<double>& values) {
  double sum = 0;
  for (double value : values) sum += value;
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

double deviation_of(const std::vector<double>& values) {
  return values.empty() ? 0 : std::sqrt(sum_of_squared_distances(values) / static_cast<double>(values.size()));
}

double sample_deviation_of(const std::vector<double>& values) {
  return values.size() < 2 ? 0 : std::sqrt(sum_of_squared_distances(values) / static_cast<double>(values.size() - 1));
}

double percentile_of_sorted(const std::vector<double>& sorted, double percent) {
  CHECK(percent >= 0 && percent <= 100, percent);
  if (sorted.empty()) return 0;
  const double place = percent / 100 * static_cast<double>(sorted.size() - 1);
  const size_t below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

Summary summarize(std::vector<double> values, const std::vector<double>& percents) {
  std::sort(values.begin(), values.end());
  Summary summary{
      .mean = mean_of(values), .median = percentile_of_sorted(values, 50), .deviation = deviation_of(values)};
  for (double percent : percents) summary.percentiles.push_back(percentile_of_sorted(values, percent));
  return summary;
}

}  // namespace sluice::bench
