// What a list of measurements amounts to: mean, deviation, percentiles. Pure functions of their arguments.
//
// Percentiles interpolate linearly between the two nearest measurements, as NumPy does by default, so that figures
// can be compared with those of tools written in Python. An empty list has all figures zero.
#pragma once

#include <cstdint>
#include <vector>

namespace sluice::bench {

double mean_of(const std::vector<double>& values);
// Of the measurements themselves: divides by their number, as NumPy's std does.
double deviation_of(const std::vector<double>& values);
// Of the distribution they are drawn from: divides by one less. 0 for fewer than two.
double sample_deviation_of(const std::vector<double>& values);
// REQUIRES: 0 <= percent <= 100, `sorted` ascending.
double percentile_of_sorted(const std::vector<double>& sorted, double percent);

struct Summary {
  double mean = 0, median = 0, deviation = 0;
  std::vector<double> percentiles;  // in the order they were asked for
};
Summary summarize(std::vector<double> values, const std::vector<double>& percents);

}  // namespace sluice::bench
