#include "optimize/quantize_numbers.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace sluice::optimize {
namespace {

// Small enough for nothing, large enough that 1 / scale and products of two scales are numbers.
constexpr float kLeastScale = 1e-18f;

float make_scale(float span, float steps) {
  const float scale = span / steps;
  return std::isfinite(scale) && scale > kLeastScale ? scale : span > 1 ? std::numeric_limits<float>::max() / 256 : 1;
}

}  // namespace

Parameters find_parameters(Range range, bool is_symmetric) {
  const float low = std::min(range.low, 0.0f), high = std::max(range.high, 0.0f);
  if (is_symmetric) return {make_scale(std::max(-low, high), 127), 0};
  const float scale = make_scale(high - low, 255);
  return {scale, static_cast<int>(std::clamp(std::nearbyint(-low / scale), 0.0f, 255.0f))};
}

QuantisedWeights quantise_weights(const graph::Tensor& weights, int axis) {
  const graph::Shape& shape = weights.shape();
  const int64_t channels = axis < 0 ? 1 : shape[axis];
  const int64_t inner = axis < 0 ? weights.count() : shape.count(axis + 1, shape.rank());
  const float* from = weights.data<float>();
  std::vector<float> largest(static_cast<size_t>(channels), 0);
  for (int64_t i = 0; i < weights.count(); ++i) {
    const float magnitude = std::abs(from[i]);
    float& most = largest[static_cast<size_t>(i / inner % channels)];
    if (magnitude > most && std::isfinite(magnitude)) most = magnitude;
  }
  QuantisedWeights made{graph::Tensor(graph::ElementType::kI8, shape),
                        graph::Tensor(graph::ElementType::kF32, axis < 0 ? graph::Shape() : graph::Shape{channels})};
  float* scales = made.scales.data<float>();
  for (int64_t c = 0; c < channels; ++c) scales[c] = make_scale(largest[static_cast<size_t>(c)], 127);
  int8_t* to = made.integers.data<int8_t>();
  for (int64_t i = 0; i < weights.count(); ++i) {
    const float value = std::nearbyint(from[i] / scales[i / inner % channels]);
    to[i] = static_cast<int8_t>(value >= 127 ? 127 : value > -127 ? value : -127);
  }
  return made;
}

graph::Tensor bias_scales(float x_scale, const graph::Tensor& w_scales, int64_t count) {
  graph::Tensor scales(graph::ElementType::kF32, graph::Shape{count});
  for (int64_t i = 0; i < count; ++i) {
    scales.data<float>()[i] = x_scale * w_scales.data<float>()[w_scales.count() == 1 ? 0 : i];
  }
  return scales;
}

graph::Tensor quantise_bias(const graph::Tensor& bias, const graph::Tensor& scales) {
  graph::Tensor integers(graph::ElementType::kI32, bias.shape());
  for (int64_t i = 0; i < bias.count(); ++i) {
    const float value = std::nearbyint(bias.data<float>()[i] / scales.data<float>()[i]);
    if (!(std::abs(value) < 0x1p30f)) return {};
    integers.data<int32_t>()[i] = static_cast<int32_t>(value);
  }
  return integers;
}

}  // namespace sluice::optimize
