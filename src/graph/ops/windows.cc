#include "graph/ops/windows.h"

#include <algorithm>

namespace sluice::graph::ops {
namespace {

template <typename... Args>
[[noreturn]] void fail_node(const Node& node, fmt::format_string<Args...> format, Args&&... args) {
  fail(Code::kInvalidArgument, "{}: {}", node.describe(), fmt::format(format, std::forward<Args>(args)...));
}

int64_t dilated(int64_t kernel, int64_t dilation) { return (kernel - 1) * dilation + 1; }

Dim output_dim(const Node& node, const Windows& windows, size_t axis, const Dim& in) {
  const int64_t stride = windows.strides[axis], dilation = windows.dilations[axis];
  if (windows.auto_pad == Windows::AutoPad::kSameUpper || windows.auto_pad == Windows::AutoPad::kSameLower) {
    return ceil_divide(in, stride);
  }
  const Dim& kernel = windows.kernel[axis];
  const int64_t pad_begin = windows.pads_begin[axis], pad_end = windows.pads_end[axis];
  const Dim span = (kernel - 1) * Dim(dilation) + 1;
  const Dim room = in + Dim(pad_begin) + Dim(pad_end) - span;
  if (room.is_known() && room.value() < 0) {
    if (in == Dim(0)) return 0;
    fail_node(node, "a window of {} does not fit into spatial dimension {} of {} with pads {} and {}", span.value(),
              axis + 1, in.value(), pad_begin, pad_end);
  }
  if (!windows.ceil_mode || windows.auto_pad == Windows::AutoPad::kValid) return floor_divide(room, stride) + 1;
  const Dim out = ceil_divide(room, stride) + 1;
  if (span.is_known() && span.value() >= stride + pad_end) return out;  // the last one begins inside
  return min_of(out, ceil_divide(in + Dim(pad_begin), stride));
}

}  // namespace

std::vector<int64_t> read_axis_ints(const Node& node, std::string_view name, int count, int64_t otherwise,
                                    int64_t min) {
  std::vector<int64_t> values = node.get_ints(name);
  if (values.empty()) return std::vector<int64_t>(static_cast<size_t>(count), otherwise);
  if (values.size() != static_cast<size_t>(count)) {
    fail_node(node, "attribute {} has {} values and needs {}", name, values.size(), count);
  }
  for (const int64_t value : values) {
    if (value < min || value > kMaxWindow) {
      fail_node(node, "attribute {} holds {}, which is not in [{}, {}]", name, value, min, kMaxWindow);
    }
  }
  return values;
}

Windows::AutoPad read_auto_pad(const Node& node) {
  const std::string text = node.get_string("auto_pad", "NOTSET");
  if (text == "NOTSET" || text.empty()) return Windows::AutoPad::kNone;
  if (text == "SAME_UPPER") return Windows::AutoPad::kSameUpper;
  if (text == "SAME_LOWER") return Windows::AutoPad::kSameLower;
  if (text == "VALID") return Windows::AutoPad::kValid;
  fail_node(node, "auto_pad has to be NOTSET, SAME_UPPER, SAME_LOWER or VALID, not '{}'", text);
}

std::optional<int> spatial_rank_of(const Node& node) {
  for (const char* name : {"kernel_shape", "strides", "dilations"}) {
    if (const size_t count = node.get_ints(name).size(); count > 0) return static_cast<int>(count);
  }
  if (const size_t count = node.get_ints("pads").size(); count > 0) return static_cast<int>(count / 2);
  return std::nullopt;
}

Windows read_windows(const Node& node, int rank, const std::optional<Dims>& weight_kernel, bool is_pool) {
  Windows windows;
  const bool has_kernel = !node.get_ints("kernel_shape").empty();
  if (has_kernel) {
    const std::vector<int64_t> kernel = read_axis_ints(node, "kernel_shape", rank, 1, 1);
    windows.kernel.assign(kernel.begin(), kernel.end());
  } else if (is_pool) {
    fail_node(node, "attribute kernel_shape is missing");
  }
  if (weight_kernel) {
    if (weight_kernel->size() != static_cast<size_t>(rank)) {
      fail_node(node, "weights have {} spatial dimensions, the input has {}", weight_kernel->size(), rank);
    }
    for (size_t i = 0; i < weight_kernel->size(); ++i) {
      const Dim& dim = (*weight_kernel)[i];
      if (!dim.is_known()) continue;
      if (dim.value() < 1 || dim.value() > kMaxWindow)
        fail_node(node, "weights have a spatial dimension of {}", dim.value());
      if (has_kernel && !(windows.kernel[i] == dim)) {
        fail_node(node, "kernel_shape is {}, but the weights' spatial dimensions are {}", to_string(windows.kernel),
                  to_string(*weight_kernel));
      }
    }
    if (!has_kernel) windows.kernel = *weight_kernel;
  } else if (!has_kernel) {
    for (int i = 0; i < rank; ++i) windows.kernel.push_back(Dim::unknown());
  }
  windows.strides = read_axis_ints(node, "strides", rank, 1, 1);
  windows.dilations = read_axis_ints(node, "dilations", rank, 1, 1);
  windows.auto_pad = read_auto_pad(node);
  windows.ceil_mode = is_pool && node.get_int("ceil_mode", 0) != 0;
  std::vector<int64_t> pads = read_axis_ints(node, "pads", 2 * rank, 0, 0);
  if (windows.auto_pad != Windows::AutoPad::kNone) std::fill(pads.begin(), pads.end(), 0);  // auto_pad tells them
  windows.pads_begin.assign(pads.begin(), pads.begin() + rank);
  windows.pads_end.assign(pads.begin() + rank, pads.end());
  return windows;
}

Dims output_dims(const Node& node, const Windows& windows, const Dims& in) {
  Dims out;
  for (size_t i = 0; i < in.size(); ++i) out.push_back(output_dim(node, windows, i, in[i]));
  return out;
}

std::vector<WindowAxis> resolve_windows(const Node& node, const Windows& windows, std::span<const int64_t> spatial) {
  std::vector<WindowAxis> axes;
  for (size_t i = 0; i < spatial.size(); ++i) {
    const Dim out = output_dim(node, windows, i, spatial[i]);
    WindowAxis axis{.in = spatial[i], .out = out.value(), .kernel = windows.kernel[i].value(),
                    .stride = windows.strides[i], .dilation = windows.dilations[i],
                    .pad_begin = windows.pads_begin[i], .pad_end = windows.pads_end[i]};
    if (windows.auto_pad == Windows::AutoPad::kSameUpper || windows.auto_pad == Windows::AutoPad::kSameLower) {
      const int64_t reach = (axis.out - 1) * axis.stride + dilated(axis.kernel, axis.dilation);
      const int64_t total = axis.out == 0 ? 0 : std::max<int64_t>(0, reach - axis.in);
      axis.pad_begin = windows.auto_pad == Windows::AutoPad::kSameUpper ? total / 2 : total - total / 2;
      axis.pad_end = total - axis.pad_begin;
    }
    axes.push_back(axis);
  }
  return axes;
}

}  // namespace sluice::graph::ops
