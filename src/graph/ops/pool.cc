// Pools that slide windows: MaxPool, AveragePool and LpPool of the ONNX operator specification, and NhwcMaxPool of
// com.microsoft (MaxPool of bytes with channels last).
//
// Any number of spatial axes, row by row: a row of outputs is combined with the row of inputs that each kernel position
// sees, so that the innermost loop runs along memory. Positions in the pads are not looked at. A mean divides by the
// positions inside the image, or with count_include_pad by those inside image and pads: what ceil_mode lets a window
// reach beyond the pads never counts. NaNs win a maximum; a window with nothing in it has the lowest value of the type
// as its maximum, and 0 as mean and norm. Indices count through the whole tensor, pads left out.
#include <array>
#include <cmath>
#include <limits>

#include "graph/ops/ops.h"
#include "graph/ops/shape_math.h"
#include "graph/ops/windows.h"

namespace sluice::graph::ops {
namespace {

struct PoolShape {
  int64_t planes = 0, in_pixels = 1, out_pixels = 1;
  std::vector<WindowAxis> axes;
};

void infer_pool(InferContext& context, bool channels_last) {
  const ElementType element = context.element(0);
  context.set_output(0, element);
  context.set_output(1, ElementType::kI64);
  if (!context.has_rank(0)) return;
  Dims x = context.dims(0);
  if (x.size() < 3) context.fail("an input of shape {} has no spatial dimensions", to_string(x));
  if (channels_last) {
    x.insert(x.begin() + 1, x.back());
    x.pop_back();
  }
  const Windows windows = read_windows(context.node(), static_cast<int>(x.size()) - 2, std::nullopt, /*is_pool=*/true);
  Dims out = output_dims(context.node(), windows, Dims(x.begin() + 2, x.end()));
  if (channels_last) {
    out.insert(out.begin(), x[0]);
    out.push_back(x[1]);
  } else {
    out.insert(out.begin(), {x[0], x[1]});
  }
  context.set_output(0, element, out);
  context.set_output(1, ElementType::kI64, out);
}

void infer_plain_pool(InferContext& context) { infer_pool(context, false); }

PoolShape read_pool(const Node& node, const Shape& x) {
  const Windows windows = read_windows(node, x.rank() - 2, std::nullopt, /*is_pool=*/true);
  PoolShape shape;
  shape.axes = resolve_windows(node, windows, std::span(x.begin() + 2, x.end()));
  bool is_too_large = __builtin_mul_overflow(x[0], x[1], &shape.planes);
  for (const WindowAxis& axis : shape.axes) {
    is_too_large |= __builtin_mul_overflow(shape.in_pixels, axis.in, &shape.in_pixels);
    is_too_large |= __builtin_mul_overflow(shape.out_pixels, axis.out, &shape.out_pixels);
  }
  if (is_too_large) fail(Code::kInvalidArgument, "{}: spatial dimensions are too large", node.describe());
  return shape;
}

// Calls body(first output, last output, position of the first output's input, step) for each kernel position that sees
// anything of row `row` of a plane; positions are within the plane.
template <typename Body>
void for_positions(const PoolShape& shape, int64_t row, Body&& body) {
  const size_t outer = shape.axes.size() - 1;
  const WindowAxis& last = shape.axes[outer];
  std::array<int64_t, kMaxRank> begins{}, first{}, end{}, kernel{};
  for (size_t d = outer; d-- > 0;) {
    const WindowAxis& axis = shape.axes[d];
    begins[d] = axis.begin_of(row % axis.out);
    row /= axis.out;
    kernel[d] = first[d] = axis.first_inside(begins[d]);
    end[d] = axis.last_inside(begins[d]);
    if (first[d] >= end[d]) return;
  }
  for (;;) {
    int64_t offset = 0;
    for (size_t d = 0; d < outer; ++d)
      offset = offset * shape.axes[d].in + begins[d] + kernel[d] * shape.axes[d].dilation;
    offset *= last.in;
    for (int64_t k = last.first_inside(last.begin_of(last.out - 1)); k < last.kernel; ++k) {
      const int64_t low = last.first_output(k), high = last.last_output(k);
      if (low >= high) {
        if (k * last.dilation - last.pad_begin >= last.in) break;
        continue;
      }
      body(low, high, offset + last.begin_of(low) + k * last.dilation, last.stride);
    }
    size_t d = outer;
    for (;;) {
      if (d == 0) return;
      --d;
      if (++kernel[d] < end[d]) break;
      kernel[d] = first[d];
    }
  }
}

// Calls body(plane, row of the plane, index of the row's first output) for all rows.
template <typename Body>
void for_rows(RunContext& context, const PoolShape& shape, Body&& body) {
  if (shape.planes * shape.out_pixels == 0) return;
  const int64_t length = shape.axes.back().out, rows = shape.out_pixels / length;
  int64_t work = length;
  for (const WindowAxis& axis : shape.axes) work *= std::min(axis.kernel, int64_t{16});
  context.pool().parallel_for(shape.planes * rows, std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(work, 1)),
                              [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) body(i / rows, i % rows, i * length);
  });
}

// The first axis fastest, as storage_order = 1 asks.
int64_t column_major(const PoolShape& shape, int64_t position) {
  int64_t index = 0, stride = shape.in_pixels;
  for (size_t d = shape.axes.size(); d-- > 0;) {
    stride /= shape.axes[d].in;
    index += position % shape.axes[d].in * stride;
    position /= shape.axes[d].in;
  }
  return index;
}

template <typename T>
void max_pool(RunContext& context, const PoolShape& shape, const T* x, T* y) {
  const int64_t length = shape.axes.back().out;
  for_rows(context, shape, [&](int64_t plane, int64_t row, int64_t at) {
    T* __restrict to = y + at;
    const T* from = x + plane * shape.in_pixels;
    std::fill_n(to, length, std::numeric_limits<T>::lowest());
    for_positions(shape, row, [&](int64_t low, int64_t high, int64_t position, int64_t step) {
      const T* __restrict line = from + position;
      auto take = [](T a, T b) { return b > a || b != b ? b : a; };
      if (step == 1) {
        for (int64_t i = 0; i < high - low; ++i) to[low + i] = take(to[low + i], line[i]);
      } else {
        for (int64_t i = 0; i < high - low; ++i) to[low + i] = take(to[low + i], line[i * step]);
      }
    });
  });
}

template <typename T>
void max_pool_indices(RunContext& context, const PoolShape& shape, bool is_column_major, const T* x, T* y,
                      int64_t* indices) {
  const int64_t length = shape.axes.back().out;
  for_rows(context, shape, [&](int64_t plane, int64_t row, int64_t at) {
    const T* from = x + plane * shape.in_pixels;
    std::fill_n(y + at, length, std::numeric_limits<T>::lowest());
    std::fill_n(indices + at, length, int64_t{-1});
    for_positions(shape, row, [&](int64_t low, int64_t high, int64_t position, int64_t step) {
      for (int64_t i = low; i < high; ++i, position += step) {
        T& best = y[at + i];
        // The first of equals wins; a NaN stays.
        const T value = from[position];
        if (indices[at + i] >= 0 && (value <= best || best != best)) continue;
        best = value;
        indices[at + i] = position;
      }
    });
    for (int64_t i = at; i < at + length; ++i) {
      if (indices[i] < 0) indices[i] = 0;
      else if (is_column_major) indices[i] = column_major(shape, indices[i]);
      indices[i] += plane * shape.in_pixels;
    }
  });
}

void run_max_pool(RunContext& context) {
  const Tensor& x = context.input(0);
  const PoolShape shape = read_pool(context.node(), x.shape());
  Tensor& y = make_output(context, 0);
  const bool has_indices = context.has_output(1);
  if (has_indices) make_output(context, 1);
  if (!dispatch<float, double, int8_t, uint8_t>(x.type(), [&](auto zero) {
        using T = decltype(zero);
        if (!has_indices) return max_pool<T>(context, shape, x.data<T>(), y.data<T>());
        max_pool_indices<T>(context, shape, context.node().get_int("storage_order", 0) != 0, x.data<T>(), y.data<T>(),
                            context.output_data<int64_t>(1));
      })) {
    context.fail_type(0);
  }
}

// How many positions of a window count, for each output of an axis: those inside, with or without the pads.
std::vector<int64_t> count_positions(const WindowAxis& axis, bool include_pads) {
  std::vector<int64_t> counts;
  for (int64_t o = 0; o < axis.out; ++o) {
    const int64_t begin = axis.begin_of(o);
    if (!include_pads) {
      counts.push_back(std::max<int64_t>(0, axis.last_inside(begin) - axis.first_inside(begin)));
    } else {
      const int64_t room = axis.in + axis.pad_end - begin;
      counts.push_back(room <= 0 ? 0 : std::min(axis.kernel, (room + axis.dilation - 1) / axis.dilation));
    }
  }
  return counts;
}

template <typename T>
void average_pool(RunContext& context, const PoolShape& shape, bool include_pads, const T* x, T* y) {
  if (shape.planes * shape.out_pixels == 0) return;
  const size_t outer = shape.axes.size() - 1;
  const int64_t length = shape.axes[outer].out;
  std::vector<std::vector<int64_t>> counts;
  for (const WindowAxis& axis : shape.axes) counts.push_back(count_positions(axis, include_pads));
  for_rows(context, shape, [&](int64_t plane, int64_t row, int64_t at) {
    T* __restrict to = y + at;
    const T* from = x + plane * shape.in_pixels;
    std::fill_n(to, length, T{});
    for_positions(shape, row, [&](int64_t low, int64_t high, int64_t position, int64_t step) {
      const T* __restrict line = from + position;
      if (step == 1) {
        for (int64_t i = 0; i < high - low; ++i) to[low + i] += line[i];
      } else {
        for (int64_t i = 0; i < high - low; ++i) to[low + i] += line[i * step];
      }
    });
    double others = 1;
    for (size_t d = outer; d-- > 0;) {
      others *= static_cast<double>(counts[d][static_cast<size_t>(row % shape.axes[d].out)]);
      row /= shape.axes[d].out;
    }
    for (int64_t i = 0; i < length; ++i) {
      const T divisor = static_cast<T>(others * static_cast<double>(counts[outer][static_cast<size_t>(i)]));
      to[i] = divisor == 0 ? T{} : to[i] / divisor;
    }
  });
}

void run_average_pool(RunContext& context) {
  const Tensor& x = context.input(0);
  const PoolShape shape = read_pool(context.node(), x.shape());
  Tensor& y = make_output(context, 0);
  const bool include_pads = context.node().get_int("count_include_pad", 0) != 0;
  if (!dispatch<float, double>(x.type(), [&](auto zero) {
        using T = decltype(zero);
        average_pool<T>(context, shape, include_pads, x.data<T>(), y.data<T>());
      })) {
    context.fail_type(0);
  }
}

// LpPool's p: an integer since opset 2, a float before.
double read_p(const Node& node) {
  const Attribute* p = node.find("p");
  const double value = p == nullptr                         ? 2.0
                       : p->kind == Attribute::Kind::kFloat ? p->f
                                                            : static_cast<double>(node.get_int("p", 2));
  if (!(value > 0)) fail(Code::kInvalidArgument, "{}: p is {}; it has to be positive", node.describe(), value);
  return value;
}

template <typename T>
T power(T value, double p) {
  const T magnitude = std::abs(value);
  return p == 1 ? magnitude : p == 2 ? magnitude * magnitude : static_cast<T>(std::pow(magnitude, static_cast<T>(p)));
}
template <typename T>
T root(T sum, double p) {
  return p == 1 ? sum : p == 2 ? std::sqrt(sum) : static_cast<T>(std::pow(sum, static_cast<T>(1 / p)));
}

void run_lp_pool(RunContext& context) {
  const Tensor& x = context.input(0);
  const PoolShape shape = read_pool(context.node(), x.shape());
  const double p = read_p(context.node());
  Tensor& y = make_output(context, 0);
  if (!dispatch<float, double>(x.type(), [&](auto zero) {
        using T = decltype(zero);
        const int64_t length = shape.axes.back().out;
        for_rows(context, shape, [&](int64_t plane, int64_t row, int64_t at) {
          T* to = y.data<T>() + at;
          const T* from = x.data<T>() + plane * shape.in_pixels;
          std::fill_n(to, length, T{});
          for_positions(shape, row, [&](int64_t low, int64_t high, int64_t position, int64_t step) {
            for (int64_t i = low; i < high; ++i, position += step) to[i] += power(from[position], p);
          });
          for (int64_t i = 0; i < length; ++i) to[i] = root(to[i], p);
        });
      })) {
    context.fail_type(0);
  }
}

// Means, maxima and norms of whole planes

void infer_global_pool(InferContext& context) {
  if (!context.has_rank(0)) return context.set_output(0, context.element(0));
  Dims dims = context.dims(0);
  if (dims.size() < 2) context.fail("an input of shape {}; [batch, channels, spatial...] is needed", to_string(dims));
  std::fill(dims.begin() + 2, dims.end(), Dim(1));
  context.set_output(0, context.element(0), std::move(dims));
}

// y = f(values of the plane)
template <typename F>
void run_global(RunContext& context, F&& f) {
  const Tensor& x = context.input(0);
  const int64_t planes = context.output(0).count(), pixels = planes == 0 ? 0 : x.count() / planes;
  if (!dispatch<float, double>(x.type(), [&](auto zero) {
        using T = decltype(zero);
        const T* from = x.data<T>();
        T* to = context.output_data<T>(0);
        context.pool().parallel_for(planes, std::max<int64_t>(1, (1 << 15) / std::max<int64_t>(1, pixels)),
                                    [&](int64_t begin, int64_t end, int) {
          for (int64_t i = begin; i < end; ++i) to[i] = f(from + i * pixels, pixels);
        });
      })) {
    context.fail_type(0);
  }
}

void run_global_average_pool(RunContext& context) {
  run_global(context, []<typename T>(const T* x, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += x[i];
    return count == 0 ? T{} : static_cast<T>(sum / static_cast<double>(count));
  });
}
void run_global_max_pool(RunContext& context) {
  run_global(context, []<typename T>(const T* x, int64_t count) {
    T best = std::numeric_limits<T>::lowest();
    for (int64_t i = 0; i < count; ++i) best = x[i] > best || x[i] != x[i] ? x[i] : best;
    return best;
  });
}
void run_global_lp_pool(RunContext& context) {
  run_global(context, [p = read_p(context.node())]<typename T>(const T* x, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += power(static_cast<double>(x[i]), p);
    return static_cast<T>(root(sum, p));
  });
}

void infer_nhwc_max_pool(InferContext& context) { infer_pool(context, true); }
void run_nhwc_max_pool(RunContext& context) {
  const Tensor& x = context.input(0);
  Shape planar = x.shape();
  const int64_t channels = planar.back(), pixels = planar.count(1, planar.rank() - 1);
  planar.erase(planar.rank() - 1);
  planar.insert(1, channels);
  const PoolShape shape = read_pool(context.node(), planar);
  Tensor& y = make_output(context, 0);
  if (!dispatch<int8_t, uint8_t>(x.type(), [&](auto zero) {
        using T = decltype(zero);
        Tensor first = context.make(x.type(), planar),
               pooled = context.make(x.type(), Shape{shape.planes, shape.out_pixels});
        for (int64_t i = 0; i < shape.planes; ++i) {
          const T* from = x.data<T>() + i / channels * pixels * channels + i % channels;
          for (int64_t p = 0; p < pixels; ++p) first.data<T>()[i * pixels + p] = from[p * channels];
        }
        max_pool<T>(context, shape, first.data<T>(), pooled.data<T>());
        for (int64_t i = 0; i < shape.planes; ++i) {
          T* to = y.data<T>() + i / channels * shape.out_pixels * channels + i % channels;
          for (int64_t p = 0; p < shape.out_pixels; ++p) to[p * channels] = pooled.data<T>()[i * shape.out_pixels + p];
        }
      })) {
    context.fail_type(0);
  }
}

constexpr OpInfo kOps[] = {
    {"", "MaxPool", 1, 0, infer_plain_pool, run_max_pool, OpInfo::kViaFloat},
    {"", "AveragePool", 1, 0, infer_plain_pool, run_average_pool, OpInfo::kViaFloat},
    {"", "LpPool", 1, 0, infer_plain_pool, run_lp_pool, OpInfo::kViaFloat},
    {"", "GlobalAveragePool", 1, 0, infer_global_pool, run_global_average_pool, OpInfo::kViaFloat},
    {"", "GlobalMaxPool", 1, 0, infer_global_pool, run_global_max_pool, OpInfo::kViaFloat},
    {"", "GlobalLpPool", 1, 0, infer_global_pool, run_global_lp_pool, OpInfo::kViaFloat},
    {kMicrosoft, "NhwcMaxPool", 1, 0, infer_nhwc_max_pool, run_nhwc_max_pool},
};

}  // namespace

std::span<const OpInfo> pool_ops() { return kOps; }

}  // namespace sluice::graph::ops
