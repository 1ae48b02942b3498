// ConvTranspose of the ONNX operator specification: each input pixel adds its window of weights to the output.
//
// The windows' values are a product, transpose(W) * X for each image and group, whose lines [output channel, kernel
// position] are added to the output shifted by their position. Lines are taken some at a time, so that the values in
// between stay small. output_shape may have the spatial dimensions alone, as the specification says, or all of them, as
// some exporters write. Where an output_shape is larger than what windows reach, the rest is bias.
#include <algorithm>
#include <array>

#include "graph/ops/gemm.h"
#include "graph/ops/ops.h"
#include "graph/ops/shape_math.h"
#include "graph/ops/windows.h"

namespace sluice::graph::ops {
namespace {

// Values of the product that are there at once: 16 MiB of floats.
constexpr int64_t kMaxValues = int64_t{1} << 22;

struct TransposedWindows {
  Windows windows;
  std::vector<int64_t> output_padding, output_shape;  // [spatial axes]; output_shape may be empty
};

TransposedWindows read_transposed(const Node& node, int rank, const std::optional<Dims>& kernel) {
  TransposedWindows made{.windows = read_windows(node, rank, kernel, /*is_pool=*/false)};
  made.output_padding = read_axis_ints(node, "output_padding", rank, 0, 0);
  if (const size_t count = node.get_ints("output_shape").size(); count > 0) {
    const bool is_whole = count == static_cast<size_t>(rank) + 2;
    made.output_shape = read_axis_ints(node, "output_shape", is_whole ? rank + 2 : rank, 0, 0);
    if (is_whole) made.output_shape.erase(made.output_shape.begin(), made.output_shape.begin() + 2);
  }
  return made;
}

bool is_same(Windows::AutoPad pad) {
  return pad == Windows::AutoPad::kSameUpper || pad == Windows::AutoPad::kSameLower;
}

// What the windows reach without pads.
Dim reach(const TransposedWindows& t, size_t axis, const Dim& in) {
  return (in - 1) * Dim(t.windows.strides[axis]) + Dim(t.output_padding[axis]) +
         (t.windows.kernel[axis] - 1) * Dim(t.windows.dilations[axis]) + 1;
}

Dim transposed_dim(const Node& node, const TransposedWindows& t, size_t axis, const Dim& in) {
  if (!t.output_shape.empty()) return t.output_shape[axis];
  if (is_same(t.windows.auto_pad)) return in * Dim(t.windows.strides[axis]);
  const Dim out = reach(t, axis, in) - Dim(t.windows.pads_begin[axis]) - Dim(t.windows.pads_end[axis]);
  if (out.is_known() && out.value() < 0) {
    fail(Code::kInvalidArgument, "{}: pads {} and {} leave nothing of spatial dimension {}", node.describe(),
         t.windows.pads_begin[axis], t.windows.pads_end[axis], axis + 1);
  }
  return out;
}

void infer_conv_transpose(InferContext& context) {
  const Node& node = context.node();
  const int64_t groups = node.get_int("group", 1);
  if (groups < 1) context.fail("group is {}; at least 1 is needed", groups);
  if (context.element(0) != context.element(1) && context.element(0) != ElementType::kUndefined &&
      context.element(1) != ElementType::kUndefined) {
    context.fail("input and weights are {} and {}; they have to be of one type", name(context.element(0)),
                 name(context.element(1)));
  }
  if (!context.has_rank(0)) return context.set_output(0, context.element(0));
  const Dims& x = context.dims(0);
  if (x.size() < 3) context.fail("an input of shape {} has no spatial dimensions", to_string(x));
  std::optional<Dims> kernel;
  Dims out{x[0], Dim::unknown()};
  if (context.has_rank(1)) {
    const Dims& w = context.dims(1);
    if (w.size() != x.size())
      context.fail("the input has {} dimensions and the weights {}; they need as many", x.size(), w.size());
    if (x[1].is_known() && w[0].is_known() && (!(x[1] == w[0]) || x[1].value() % groups != 0)) {
      context.fail("{} channels in {} groups do not fit weights of shape {}", x[1].value(), groups, to_string(w));
    }
    out[1] = w[1] * Dim(groups);
    kernel = Dims(w.begin() + 2, w.end());
  }
  if (context.has_rank(2)) {
    const Dims& bias = context.dims(2);
    if (bias.size() != 1 || (bias[0].is_known() && out[1].is_known() && !(bias[0] == out[1]))) {
      context.fail("a bias of shape {} does not fit {} output channels", to_string(bias), out[1].to_string());
    }
  }
  const TransposedWindows t = read_transposed(node, static_cast<int>(x.size()) - 2, kernel);
  for (size_t i = 0; i + 2 < x.size(); ++i) out.push_back(transposed_dim(node, t, i, x[i + 2]));
  context.set_output(0, context.element(0), std::move(out));
}

// Axes as windows over the output: `in` is the output's dimension, `out` the input's, so that input pixel i and kernel
// position k meet at begin_of(i) + k * dilation.
std::vector<WindowAxis> read_axes(const Node& node, const TransposedWindows& t, const Shape& x) {
  std::vector<WindowAxis> axes;
  for (size_t i = 0; i < t.windows.strides.size(); ++i) {
    const int64_t in = x[static_cast<int>(i) + 2];
    const int64_t out = transposed_dim(node, t, i, in).value();
    WindowAxis axis{.in = out,
                    .out = in,
                    .kernel = t.windows.kernel[i].value(),
                    .stride = t.windows.strides[i],
                    .dilation = t.windows.dilations[i],
                    .pad_begin = t.windows.pads_begin[i],
                    .pad_end = t.windows.pads_end[i]};
    if (!t.output_shape.empty() || is_same(t.windows.auto_pad)) {
      const int64_t total = std::max<int64_t>(0, reach(t, i, in).value() - out);
      axis.pad_begin = t.windows.auto_pad == Windows::AutoPad::kSameUpper ? total / 2 : total - total / 2;
      axis.pad_end = total - axis.pad_begin;
    }
    axes.push_back(axis);
  }
  return axes;
}

// Adds one line, [input pixels], to a plane of the output.
template <typename T>
void add_line(const std::vector<WindowAxis>& axes, int64_t position, const T* from, T* plane) {
  const size_t outer = axes.size() - 1;
  const WindowAxis& last = axes[outer];
  std::array<int64_t, kMaxRank> kernel{}, index{};
  for (size_t d = axes.size(); d-- > 0;) {
    kernel[d] = position % axes[d].kernel;
    position /= axes[d].kernel;
  }
  int64_t rows = 1;
  for (size_t d = 0; d < outer; ++d) rows *= axes[d].out;
  const int64_t low = last.first_output(kernel[outer]), high = last.last_output(kernel[outer]);
  for (int64_t row = 0; row < rows; ++row, from += last.out) {
    int64_t offset = 0;
    bool is_inside = low < high;
    for (size_t d = 0; d < outer; ++d) {
      const int64_t at = axes[d].begin_of(index[d]) + kernel[d] * axes[d].dilation;
      is_inside &= at >= 0 && at < axes[d].in;
      offset = offset * axes[d].in + (is_inside ? at : 0);
    }
    for (size_t d = outer; d-- > 0;) {
      if (++index[d] < axes[d].out) break;
      index[d] = 0;
    }
    if (!is_inside) continue;
    T* to = plane + offset * last.in + kernel[outer] * last.dilation - last.pad_begin;
    for (int64_t i = low; i < high; ++i) to[i * last.stride] += from[i];
  }
}

template <typename T>
void run_typed(RunContext& context) {
  const Node& node = context.node();
  const Tensor &x = context.input(0), &w = context.input(1);
  Tensor& y = make_output(context, 0);
  T* out = y.data<T>();
  const int64_t groups = node.get_int("group", 1), batch = x.dim(0), channels = x.dim(1) / groups;
  const int64_t group_outputs = w.dim(1), out_channels = group_outputs * groups;
  const Dims kernel(w.shape().begin() + 2, w.shape().end());
  const std::vector<WindowAxis> axes = read_axes(node, read_transposed(node, x.rank() - 2, kernel), x.shape());
  if (y.count() == 0) return;
  const int64_t out_pixels = y.shape().count(2, y.rank());
  const T* bias = context.has_input(2) ? context.data<T>(2) : nullptr;
  for (int64_t i = 0; i < batch * out_channels; ++i) {
    std::fill_n(out + i * out_pixels, out_pixels, bias == nullptr ? T{} : bias[i % out_channels]);
  }
  if (x.count() == 0 || w.count() == 0) return;
  const int64_t in_pixels = x.shape().count(2, x.rank()), kernel_size = w.shape().count(2, w.rank());
  const int64_t num_lines = group_outputs * kernel_size;
  const int64_t lines_at_once = std::clamp<int64_t>(kMaxValues / in_pixels, 1, num_lines);
  Tensor values = context.make(type_of<T>(), Shape{lines_at_once, in_pixels});
  for (int64_t i = 0; i < batch * groups; ++i) {
    const T* weights = w.data<T>() + i % groups * channels * num_lines;
    T* planes = out + i * group_outputs * out_pixels;
    for (int64_t first = 0; first < num_lines; first += lines_at_once) {
      const int64_t lines = std::min(lines_at_once, num_lines - first);
      multiply(context.pool(), Product<T>{.m = lines, .n = in_pixels, .k = channels,
                                          .a = strided<T>(weights + first, 1, num_lines),
                                          .b = strided<T>(x.data<T>() + i * channels * in_pixels, 1, in_pixels),
                                          .c = values.data<T>(), .c_stride = in_pixels});
      // One thread adds all lines of an output channel.
      const int64_t first_channel = first / kernel_size, last_channel = (first + lines - 1) / kernel_size;
      const int64_t grain = std::max<int64_t>(1, (1 << 14) / (kernel_size * in_pixels));
      context.pool().parallel_for(last_channel - first_channel + 1, grain, [&](int64_t begin, int64_t end, int) {
        for (int64_t c = first_channel + begin; c < first_channel + end; ++c) {
          for (int64_t line = std::max(first, c * kernel_size); line < std::min(first + lines, (c + 1) * kernel_size);
               ++line) {
            add_line<T>(axes, line - c * kernel_size, values.data<T>() + (line - first) * in_pixels,
                        planes + c * out_pixels);
          }
        }
      });
    }
  }
}

void run_conv_transpose(RunContext& context) {
  if (!dispatch<float, double>(context.input(0).type(), [&](auto zero) { run_typed<decltype(zero)>(context); })) {
    context.fail_type(0);
  }
}

constexpr OpInfo kOps[] = {
    {"", "ConvTranspose", 1, 0, infer_conv_transpose, run_conv_transpose, OpInfo::kViaFloat},
};

}  // namespace

std::span<const OpInfo> conv_transpose_ops() { return kOps; }

}  // namespace sluice::graph::ops
