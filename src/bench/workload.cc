#include "bench/workload.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/random.h"

namespace sluice::bench {
namespace {

// Streams of the seed, so that changing one thing of a load leaves the rest as it was.
constexpr uint64_t kLengthStream = uint64_t{1} << 48, kArrivalStream = kLengthStream + 1;

int64_t draw_length(Random& random, int64_t mean, double range_ratio) {
  auto low = static_cast<int64_t>(std::floor(static_cast<double>(mean) * (1 - range_ratio)));
  auto high = static_cast<int64_t>(std::ceil(static_cast<double>(mean) * (1 + range_ratio)));
  low = std::max<int64_t>(1, low);
  high = std::max(low, high);
  return low + static_cast<int64_t>(random.below(static_cast<uint64_t>(high - low) + 1));
}

// In (0, 1]: logarithms of it are finite.
double positive_uniform(Random& random) { return 1 - random.uniform(); }

double draw_normal(Random& random) {
  double radius = std::sqrt(-2 * std::log(positive_uniform(random)));
  return radius * std::cos(2 * M_PI * random.uniform());
}

// Marsaglia and Tsang, "A simple method for generating gamma variables", 2000. Mean is `shape`.
double draw_gamma(Random& random, double shape) {
  if (shape == 1) return -std::log(positive_uniform(random));
  if (shape < 1) return draw_gamma(random, shape + 1) * std::pow(positive_uniform(random), 1 / shape);
  const double d = shape - 1.0 / 3, c = 1 / std::sqrt(9 * d);
  for (;;) {
    double x = draw_normal(random), v = std::pow(1 + c * x, 3);
    if (v > 0 && std::log(positive_uniform(random)) < 0.5 * x * x + d - d * v + d * std::log(v)) return d * v;
  }
}

}  // namespace

std::vector<PlannedRequest> plan_random(const RandomLengths& lengths) {
  CHECK(lengths.num_prefixes > 0, lengths.num_prefixes);
  Random random(lengths.seed, kLengthStream);
  std::vector<PlannedRequest> requests(static_cast<size_t>(lengths.num_requests));
  for (size_t i = 0; i < requests.size(); ++i) {
    PlannedRequest& request = requests[i];
    request.prefix_tokens = lengths.prefix_tokens;
    request.prefix_index = static_cast<int64_t>(i) % lengths.num_prefixes;
    request.prompt_tokens = lengths.prefix_tokens + draw_length(random, lengths.input_tokens, lengths.range_ratio);
    request.output_tokens = draw_length(random, lengths.output_tokens, lengths.range_ratio);
  }
  return requests;
}

void plan_arrivals(std::vector<PlannedRequest>& requests, double rate, double burstiness, uint64_t seed) {
  CHECK(rate > 0 && burstiness > 0, rate, burstiness);
  Random random(seed, kArrivalStream);
  double now = 0;
  for (PlannedRequest& request : requests) {
    request.arrival_seconds = now;
    if (std::isfinite(rate)) now += draw_gamma(random, burstiness) / (rate * burstiness);
  }
}

}  // namespace sluice::bench
