// The arithmetic of windows that slide over the spatial axes of a tensor [N, C, spatial...]: kernel, strides,
// dilations, pads, auto_pad and ceil_mode, as ONNX's convolutions and pools share them.
//
// read_windows() takes the attributes and checks them, so that nothing computed from them overflows. output_dims() is
// for shape functions; resolve_windows() gives the integers that run functions loop over.
//
// Two rules where versions of the specification or runtimes differ. With ceil_mode the last window has to begin inside
// the input or its left pad: stated since opset 22, but earlier models come from frameworks that have it so, and the
// window in question would see nothing. With auto_pad = VALID ceil_mode has no effect, as the formulas say.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "graph/op.h"

namespace sluice::graph::ops {

struct Windows {
  enum class AutoPad : uint8_t { kNone, kSameUpper, kSameLower, kValid };

  int rank() const { return static_cast<int>(kernel.size()); }

  Dims kernel;                                        // [spatial axes]
  std::vector<int64_t> strides, dilations;            // [spatial axes], at least 1
  std::vector<int64_t> pads_begin, pads_end;          // [spatial axes], 0 with auto_pad
  AutoPad auto_pad = AutoPad::kNone;
  bool ceil_mode = false;
};

// One spatial axis, with everything known.
struct WindowAxis {
  int64_t in = 0, out = 0, kernel = 1, stride = 1, dilation = 1, pad_begin = 0, pad_end = 0;

  // Where the window of output `o` begins; negative in the pad.
  int64_t begin_of(int64_t o) const { return o * stride - pad_begin; }
  // Kernel positions of a window that begins at `begin` that are inside the input: [first, last).
  int64_t first_inside(int64_t begin) const { return begin >= 0 ? 0 : (-begin + dilation - 1) / dilation; }
  int64_t last_inside(int64_t begin) const {
    return begin >= in ? 0 : std::min(kernel, (in - begin + dilation - 1) / dilation);
  }
  // Outputs whose kernel position k is inside the input: [first, last).
  int64_t first_output(int64_t k) const {
    const int64_t at = k * dilation - pad_begin;
    return at >= 0 ? 0 : std::min(out, (-at + stride - 1) / stride);
  }
  int64_t last_output(int64_t k) const {
    const int64_t at = k * dilation - pad_begin;
    return at >= in ? 0 : std::min(out, (in - 1 - at) / stride + 1);
  }
};

// The attributes of a node whose input has `rank` spatial axes. `weight_kernel` are the spatial dimensions of a
// convolution's weights, if they are known; a pool has only its attribute kernel_shape. Throws Error.
Windows read_windows(const Node& node, int rank, const std::optional<Dims>& weight_kernel, bool is_pool);
// How many spatial axes the attributes speak of; nullopt if they do not tell.
std::optional<int> spatial_rank_of(const Node& node);

// [spatial axes]. Throws Error if a window does not fit into the input.
Dims output_dims(const Node& node, const Windows& windows, const Dims& in);
// `spatial`: the input's dimensions from the first spatial one on. Throws Error.
std::vector<WindowAxis> resolve_windows(const Node& node, const Windows& windows, std::span<const int64_t> spatial);

// A window size, stride, dilation or pad beyond this is refused: products of two of them fit an int64.
inline constexpr int64_t kMaxWindow = (int64_t{1} << 31) - 1;
// An attribute of one integer for each spatial axis. Throws Error if one is outside [min, kMaxWindow].
std::vector<int64_t> read_axis_ints(const Node& node, std::string_view name, int count, int64_t otherwise, int64_t min);
Windows::AutoPad read_auto_pad(const Node& node);

}  // namespace sluice::graph::ops
