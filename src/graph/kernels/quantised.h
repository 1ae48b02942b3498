// What the integer kernels share: the scales and zero points of QConv and QMatMul, and how they become attributes.
#pragma once

#include <optional>
#include <vector>

#include "graph/kernels/onednn.h"

namespace sluice::graph::kernels {

// Inputs of QConv and QMatMul.
inline constexpr int kQuantisedW = 3, kQuantisedB = 6, kQuantisedZ = 7;

struct QuantisedParts {
  float x_scale = 1;
  int x_zero = 0;
  std::vector<float> w_scales;  // one, or one for each output channel
  float z_scale = 0;            // 0: no addend, or one of floats
  int z_zero = 0;
  float y_scale = 0;            // 0: floats come out
  int y_zero = 0;
  int addend_position = 0;      // among the post-operations; set by append_quantised()
};

// nullopt if something is not known before run time, or of a kind that the kernels have not (weights with a zero
// point).
std::optional<QuantisedParts> read_quantised(const KernelRequest& request, int64_t channels);

// Adds scales, zero points, the addend and the activation; `bias` (floats, or null) becomes what the primitive adds to
// its sums. False if there is no way.
// `channel_axis` is that of the output as the primitive sees it, `addend` the addend's description.
bool append_quantised(QuantisedParts& parts, const KernelRequest& request, int channel_axis,
                      const dnnl::memory::desc& addend, dnnl::primitive_attr& attributes, dnnl::post_ops& post_ops,
                      Tensor& bias);

// Whether all elements are 0; false if it is not known.
bool is_zero(const Tensor* constant);
// A constant of any number type as f32.
Tensor to_float(const Tensor& constant);

}  // namespace sluice::graph::kernels
