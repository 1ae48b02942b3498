#include "llm/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/check.h"

namespace sluice::llm {
namespace {

constexpr double kTwoPi = 2 * std::numbers::pi;

// Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, and those between
// blended.
double scale_llama3(double frequency, const RopeScaling& s) {
  double turns = s.original_positions * frequency / kTwoPi;  // over the original context
  if (turns > s.high_frequency_factor) return frequency;
  if (turns < s.low_frequency_factor) return frequency / s.factor;
  double keep =
      (turns - s.low_frequency_factor) / (s.high_frequency_factor - s.low_frequency_factor);
  return (1 - keep) * frequency / s.factor + keep * frequency;
}

// YaRN (Peng et al. 2023): the pair that makes `turns` turns over the original context, as a real
// number.
double pair_with_turns(double turns, int64_t dims, double base, double positions) {
  return static_cast<double>(dims) * std::log(positions / (turns * kTwoPi)) / (2 * std::log(base));
}

}  // namespace

Rope make_rope(RopeKind kind, int64_t dims, double base, const RopeScaling& s) {
  CHECK(dims > 0 && dims % 2 == 0 && base > 0 && s.factor > 0, dims, base, s.factor);
  int64_t half = dims / 2;
  CHECK(s.divisors.empty() || static_cast<int64_t>(s.divisors.size()) == half, s.divisors.size(),
        half);
  Rope rope{.kind = kind, .dims = dims, .frequencies = {}, .magnitude = s.magnitude.value_or(1.0)};
  double ramp_low = 0, ramp_high = 0;
  if (s.kind == RopeScalingKind::kYarn) {
    ramp_low = pair_with_turns(s.beta_fast, dims, base, s.original_positions);
    ramp_high = pair_with_turns(s.beta_slow, dims, base, s.original_positions);
    if (s.truncate) {
      ramp_low = std::floor(ramp_low);
      ramp_high = std::ceil(ramp_high);
    }
    ramp_low = std::max(ramp_low, 0.0);
    ramp_high = std::min(ramp_high, static_cast<double>(dims - 1));
    if (!s.magnitude) rope.magnitude = s.factor > 1 ? 0.1 * std::log(s.factor) + 1 : 1;
  }
  for (int64_t i = 0; i < half; ++i) {
    double frequency = std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(dims));
    if (!s.divisors.empty()) frequency /= s.divisors[static_cast<size_t>(i)];
    switch (s.kind) {
      case RopeScalingKind::kNone:
        break;
      case RopeScalingKind::kLinear:
        frequency /= s.factor;
        break;
      case RopeScalingKind::kLlama3:
        frequency = scale_llama3(frequency, s);
        break;
      case RopeScalingKind::kYarn: {
        double ramp = (static_cast<double>(i) - ramp_low) / std::max(0.001, ramp_high - ramp_low);
        double stretched = std::clamp(ramp, 0.0, 1.0);
        frequency = frequency * (1 - stretched) + frequency / s.factor * stretched;
        break;
      }
    }
    rope.frequencies.push_back(frequency);
  }
  return rope;
}

}  // namespace sluice::llm
