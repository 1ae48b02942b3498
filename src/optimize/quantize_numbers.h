// Floats to integers: the parameters of a range, and weights.
#pragma once

#include "graph/tensor.h"
#include "optimize/ranges.h"

namespace sluice::optimize {

struct Parameters {
  float scale = 1;
  int zero = 0;
};
// 0 is always among the numbers, exactly. Symmetric: int8 around 0, from -127; otherwise uint8.
Parameters find_parameters(Range range, bool is_symmetric);

struct QuantisedWeights {
  graph::Tensor integers;  // int8, from -127
  graph::Tensor scales;    // [channels], or a scalar
};
// axis: of the channels; -1: one scale for all. REQUIRES: float32.
QuantisedWeights quantise_weights(const graph::Tensor& weights, int axis);

// int32 in steps of x_scale * w_scales; a null tensor if one does not fit.
graph::Tensor quantise_bias(const graph::Tensor& bias, const graph::Tensor& scales);
// x_scale times each of w_scales, one for each of `count` elements.
graph::Tensor bias_scales(float x_scale, const graph::Tensor& w_scales, int64_t count);

}  // namespace sluice::optimize
