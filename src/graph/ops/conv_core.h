// What the convolutions share: their shapes, and the sums of products themselves, for floats and for bytes.
//
// A convolution is a product of matrices: weights [output channels, channels * kernel] times columns [channels *
// kernel, output pixels], for each image and group. The columns exist only as panels that gemm.h packs from the image;
// a kernel of one pixel needs not even that. Groups with few output channels (depthwise convolutions) would fill a
// small part of a panel, so they are computed row by row instead. Values are what is in memory less a zero point; pads
// are zeros.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "graph/op.h"
#include "graph/ops/gemm.h"
#include "graph/ops/shape_math.h"
#include "graph/ops/windows.h"

namespace sluice::graph::ops {

// In place of the number of an input that an operator does not have.
inline constexpr int kNoInput = 1 << 20;

// The output's dimensions [N, M, spatial...] (or channels last); nullopt if not even the rank is known. Checks
// everything that is known of the inputs. Throws Error.
std::optional<Dims> infer_conv_dims(const InferContext& context, int x, int w, int bias, bool channels_last);

// With everything known. Weights are [out_channels, channels / groups, kernel...].
struct ConvShape {
  int64_t batch = 0, channels = 0, out_channels = 0, groups = 1;
  int64_t in_pixels = 1, out_pixels = 1, kernel_size = 1;
  std::vector<WindowAxis> axes;

  int64_t group_channels() const { return channels / groups; }
  int64_t group_outputs() const { return out_channels / groups; }
  bool is_pointwise() const;
};
// REQUIRES: shapes that infer_conv_dims() took. Throws Error.
ConvShape read_conv(const Node& node, const Shape& x, const Shape& w);

// Outputs [begin, end) along the last axis.
struct OutputRange {
  int64_t begin, end;
};

// One group of one image as the columns of a matrix. Its memory outlives the product.
struct ConvColumns {
  const ConvShape* shape = nullptr;
  std::array<int64_t, kMaxRank> in_strides{};  // of the spatial axes
  std::vector<OutputRange> inside;             // for each kernel position of the last axis: who sees the image there
  OutputRange inner{};                         // who sees it at every kernel position of the last axis
  int32_t zero = 0;
};
ConvColumns make_columns(const ConvShape& shape, int32_t zero);

template <typename T, typename Source>
void pack_columns(const Operand<T>& from, int64_t first, int64_t count, int64_t width, int64_t begin, int64_t depth,
                  T* to) {
  const ConvColumns& columns = *static_cast<const ConvColumns*>(from.context);
  const ConvShape& shape = *columns.shape;
  const auto* image = static_cast<const Source*>(from.data);
  const int outer = static_cast<int>(shape.axes.size()) - 1;
  const WindowAxis& last = shape.axes[static_cast<size_t>(outer)];

  // The columns lie in a few rows of the output.
  struct Segment {
    int64_t at, length, x;                 // place in the panel; outputs [x, x + length)
    std::array<int64_t, kMaxRank> begins;  // of the window along the other axes
  };
  constexpr int kMaxSegments = 64;
  Segment segments[kMaxSegments];
  int num_segments = 0;
  for (int64_t line = 0; line < count; ++num_segments) {
    Segment& segment = segments[num_segments];
    int64_t rest = first + line;
    segment.at = line;
    segment.x = rest % last.out;
    segment.length = std::min(count - line, last.out - segment.x);
    rest /= last.out;
    for (int d = outer - 1; d >= 0; --d) {
      const WindowAxis& axis = shape.axes[static_cast<size_t>(d)];
      segment.begins[static_cast<size_t>(d)] = axis.begin_of(rest % axis.out);
      rest /= axis.out;
    }
    line += segment.length;
  }

  std::array<int64_t, kMaxRank> kernel{};
  int64_t position = begin % shape.kernel_size;
  for (int d = outer; d >= 0; --d) {
    kernel[static_cast<size_t>(d)] = position % shape.axes[static_cast<size_t>(d)].kernel;
    position /= shape.axes[static_cast<size_t>(d)].kernel;
  }
  image += begin / shape.kernel_size * shape.in_pixels;
  if (count < width) std::fill_n(to, width * depth, T{});
  const int32_t zero = columns.zero;
  for (int64_t p = 0; p < depth; ++p, to += width) {
    for (int s = 0; s < num_segments; ++s) {
      const Segment& segment = segments[s];
      T* target = to + segment.at;
      int64_t offset = 0;
      bool is_inside = true;
      for (int d = 0; d < outer; ++d) {
        const auto i = static_cast<size_t>(d);
        const int64_t at = segment.begins[i] + kernel[i] * shape.axes[i].dilation;
        is_inside &= at >= 0 && at < shape.axes[i].in;
        offset += at * columns.in_strides[i];
      }
      if (!is_inside) {
        std::fill_n(target, segment.length, T{});
        continue;
      }
      const int64_t k = kernel[static_cast<size_t>(outer)];
      const int64_t end = segment.x + segment.length;
      const int64_t low = std::clamp(columns.inside[static_cast<size_t>(k)].begin, segment.x, end);
      const int64_t high = std::clamp(columns.inside[static_cast<size_t>(k)].end, low, end);
      const Source* source = image + offset + last.begin_of(low) + k * last.dilation;
      std::fill_n(target, low - segment.x, T{});
      T* const inside = target + (low - segment.x);
      if (last.stride == 1) {
        for (int64_t i = 0; i < high - low; ++i) {
          if constexpr (std::is_same_v<T, Source>) inside[i] = source[i];
          else inside[i] = static_cast<T>(static_cast<int32_t>(source[i]) - zero);
        }
      } else {
        for (int64_t i = 0; i < high - low; ++i) {
          if constexpr (std::is_same_v<T, Source>) inside[i] = source[i * last.stride];
          else inside[i] = static_cast<T>(static_cast<int32_t>(source[i * last.stride]) - zero);
        }
      }
      std::fill_n(target + (high - segment.x), end - high, T{});
    }
    for (int d = outer; d >= -1; --d) {
      if (d < 0) {
        image += shape.in_pixels;
        break;
      }
      const auto i = static_cast<size_t>(d);
      if (++kernel[i] < shape.axes[i].kernel) break;
      kernel[i] = 0;
    }
  }
}

// Adds one row of outputs, along the last axis, of one output channel: `weights` [group_channels, kernel_size], `image`
// the group's first channel, `row` the index of the row among out_pixels / axes.back().out.
template <typename T, typename Source, typename Weight>
void add_row(const ConvShape& shape, const ConvColumns& columns, const Weight* weights, int32_t weight_zero,
             const Source* image, int64_t row, T* sums) {
  const int outer = static_cast<int>(shape.axes.size()) - 1;
  const WindowAxis& last = shape.axes[static_cast<size_t>(outer)];
  std::array<int64_t, kMaxRank> begins{};
  int64_t rest = row;
  for (int d = outer - 1; d >= 0; --d) {
    const WindowAxis& axis = shape.axes[static_cast<size_t>(d)];
    begins[static_cast<size_t>(d)] = axis.begin_of(rest % axis.out);
    rest /= axis.out;
  }
  const OutputRange inner = columns.inner;
  const int64_t kernel_rows = shape.kernel_size / last.kernel;
  for (int64_t c = 0; c < shape.group_channels(); ++c, image += shape.in_pixels) {
    std::array<int64_t, kMaxRank> kernel{};
    for (int64_t r = 0; r < kernel_rows; ++r, weights += last.kernel) {
      int64_t offset = 0;
      bool is_inside = true;
      for (int d = 0; d < outer; ++d) {
        const auto i = static_cast<size_t>(d);
        const int64_t at = begins[i] + kernel[i] * shape.axes[i].dilation;
        is_inside &= at >= 0 && at < shape.axes[i].in;
        offset += at * columns.in_strides[i];
      }
      for (int d = outer - 1; d >= 0; --d) {
        const auto i = static_cast<size_t>(d);
        if (++kernel[i] < shape.axes[i].kernel) break;
        kernel[i] = 0;
      }
      if (!is_inside) continue;
      const Source* line = image + offset - last.pad_begin;  // of the first window; only what is inside is read
      auto add = [&](int64_t k, int64_t from, int64_t to) {
        const OutputRange inside = columns.inside[static_cast<size_t>(k)];
        from = std::max(from, inside.begin), to = std::min(to, inside.end);
        const int64_t shift = k * last.dilation;
        if constexpr (std::is_same_v<T, Source>) {
          for (int64_t x = from; x < to; ++x) sums[x] += weights[k] * line[x * last.stride + shift];
        } else {
          const T weight = static_cast<T>(static_cast<int32_t>(weights[k]) - weight_zero);
          for (int64_t x = from; x < to; ++x) {
            sums[x] += weight * static_cast<T>(static_cast<int32_t>(line[x * last.stride + shift]) - columns.zero);
          }
        }
      };
      if constexpr (std::is_same_v<T, Source>) {
        if (last.stride == 1 && inner.begin < inner.end) {
          add_scaled_rows<T>(inner.end - inner.begin, last.kernel, weights, 1, line + inner.begin, last.dilation,
                             sums + inner.begin);
          for (int64_t k = 0; k < last.kernel; ++k) {
            add(k, 0, inner.begin);
            add(k, inner.end, last.out);
          }
          continue;
        }
      }
      for (int64_t k = 0; k < last.kernel; ++k) add(k, 0, last.out);
    }
  }
}

// y [batch, out_channels, out_pixels] += the convolution; weight_zeros: null, or one for each output channel.
template <typename T, typename Source, typename Weight>
void convolve(ThreadPool& pool, const ConvShape& shape, const Source* x, int32_t x_zero, const Weight* w,
              const int32_t* weight_zeros, T* y) {
  if (shape.batch * shape.out_channels * shape.out_pixels == 0 || shape.group_channels() == 0) return;
  const ConvColumns columns = make_columns(shape, x_zero);
  const int64_t outputs = shape.group_outputs(), depth = shape.group_channels() * shape.kernel_size;
  const int64_t group_pixels = shape.group_channels() * shape.in_pixels;
  if (outputs < 4 && depth * outputs < 1024) {
    const int64_t row_length = shape.axes.back().out, rows = shape.out_pixels / row_length;
    const int64_t grain = std::max<int64_t>(1, (1 << 15) / std::max<int64_t>(1, row_length * depth));
    pool.parallel_for(shape.batch * shape.out_channels * rows, grain, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t plane = i / rows, channel = plane % shape.out_channels;
        const int64_t group = plane / shape.out_channels * shape.groups + channel / outputs;
        add_row<T, Source, Weight>(shape, columns, w + channel * depth,
                                   weight_zeros == nullptr ? 0 : weight_zeros[channel], x + group * group_pixels,
                                   i % rows, y + i * row_length);
      }
    });
    return;
  }
  multiply_batch<T>(pool, shape.batch * shape.groups, outputs, shape.out_pixels, depth, [&](int64_t i) {
    const int64_t group = i % shape.groups;
    Product<T> product{.m = outputs, .n = shape.out_pixels, .k = depth,
                       .a = strided<T, Weight>(w + group * outputs * depth, depth, 1,
                                               weight_zeros == nullptr ? nullptr : weight_zeros + group * outputs, 1),
                       .c = y + i * outputs * shape.out_pixels, .c_stride = shape.out_pixels, .adds = true};
    const Source* image = x + i * group_pixels;
    if (shape.is_pointwise() && std::is_same_v<T, Source>) product.b = strided<T, Source>(image, 1, shape.in_pixels);
    else product.b = {.pack = pack_columns<T, Source>, .data = image, .context = &columns};
    return product;
  });
}

}  // namespace sluice::graph::ops
