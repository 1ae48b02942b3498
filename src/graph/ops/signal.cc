// Fourier transforms of ONNX: DFT (opset 17, with the axis as an attribute; 20, with the axis as an input) and STFT.
// Complex numbers are a last dimension of 2, real ones of 1. A one-sided transform keeps the first n / 2 + 1 bins of a
// real signal; a one-sided inverse takes those bins and gives the real signal. Everything is computed in double
// precision with plans of one length (fft.h), a line at a time.
#include <algorithm>
#include <limits>

#include "graph/ops/fft.h"
#include "graph/ops/ops.h"
#include "graph/ops/shape_limits.h"
#include "graph/ops/shape_math.h"

namespace sluice::graph::ops {
namespace {

using Complex = FourierPlan::Complex;

// Of a scalar, or a tensor of one element.
std::optional<Dim> find_scalar(const InferContext& ctx, int i) {
  const std::optional<std::vector<Dim>> ints = find_shape_ints(ctx, i);
  if (!ints) return std::nullopt;
  if (ints->size() != 1) ctx.fail("input {} has {} elements; it has to be a scalar", i + 1, ints->size());
  return ints->front();
}

struct DftKind {
  bool inverse, onesided;
};

DftKind get_kind(const Node& node) { return {node.get_int("inverse", 0) != 0, node.get_int("onesided", 0) != 0}; }

void infer_dft(InferContext& ctx) {
  ctx.set_output(0, ctx.element(0));
  if (!ctx.has_rank(0)) return;
  const int rank = ctx.rank(0);
  if (rank < 2) ctx.fail("the input has {} dimensions; at least 2 are needed", rank);
  const auto [inverse, onesided] = get_kind(ctx.node());
  Dims dims = ctx.dims(0);
  const Dim parts = dims.back();
  if (parts.is_known() && parts.value() != 1 && parts.value() != 2) {
    ctx.fail("the last dimension is {}; 1 (real) and 2 (complex) are allowed", parts.value());
  }
  if (onesided && !inverse && parts.is_known() && parts.value() == 2) {
    ctx.fail("a complex input has no one-sided transform");
  }
  dims.back() = inverse && onesided ? 1 : 2;
  int64_t axis = ctx.opset() < 20 ? ctx.node().get_int("axis", 1) : -2;
  bool is_axis_known = true;
  if (ctx.opset() >= 20 && ctx.has_input(2)) {
    const std::optional<Dim> given = find_scalar(ctx, 2);
    is_axis_known = given && given->is_known();
    if (is_axis_known) axis = given->value();
  }
  if (!is_axis_known) {
    Dims unknown = unknown_dims(rank);
    unknown.back() = dims.back();
    ctx.set_output(0, ctx.element(0), unknown);
    return;
  }
  const int at = ctx.axis(axis, rank);
  if (at == rank - 1) ctx.fail("axis {} is that of the real and imaginary parts", axis);
  Dim length = inverse && onesided ? dims[static_cast<size_t>(at)] * 2 - 2 : dims[static_cast<size_t>(at)];
  if (ctx.has_input(1)) {
    const std::optional<Dim> given = find_scalar(ctx, 1);
    length = given ? *given : Dim::unknown();
  }
  if (length.is_known() && (length.value() < 1 || length.value() > std::numeric_limits<int64_t>::max() / 8)) {
    ctx.fail("a transform of {} elements is not possible", length.value());
  }
  dims[static_cast<size_t>(at)] = onesided && !inverse ? floor_divide(length, 2) + 1 : length;
  ctx.set_output(0, ctx.element(0), dims);
}

// Elements along one axis: `stride` numbers apart, with `parts` numbers each.
template <typename T>
struct Line {
  T* data;
  int64_t count, stride, parts;
};

template <typename T>
void read_line(const Line<const T>& line, Complex* to, int64_t count) {
  const int64_t present = std::min(line.count, count);
  for (int64_t i = 0; i < present; ++i) {
    const T* x = line.data + i * line.stride;
    to[i] = {static_cast<double>(x[0]), line.parts == 2 ? static_cast<double>(x[1]) : 0.0};
  }
  std::fill(to + present, to + count, Complex());
}

template <typename T>
void write_line(const Line<T>& line, const Complex* from) {
  for (int64_t i = 0; i < line.count; ++i) {
    line.data[i * line.stride] = static_cast<T>(from[i].real());
    if (line.parts == 2) line.data[i * line.stride + 1] = static_cast<T>(from[i].imag());
  }
}

template <typename T>
void transform_lines(RunContext& ctx, const Tensor& x, Tensor& y, int axis, int64_t length, DftKind kind) {
  const FourierPlan plan(length);
  const int rank = x.rank();
  const int64_t inner = x.shape().count(axis + 1, rank - 1), num_lines = x.shape().count(0, axis) * inner;
  const int64_t from_parts = x.shape().back(), to_parts = y.shape().back();
  const int64_t per_thread = 2 * length + plan.scratch_size();
  std::vector<Complex> memory(static_cast<size_t>(per_thread * ctx.pool().num_threads()));
  const T* from = x.data<T>();
  T* to = y.data<T>();
  ctx.pool().parallel_for(num_lines, std::max<int64_t>(1, 4096 / length), [&](int64_t begin, int64_t end, int worker) {
    Complex* a = memory.data() + per_thread * worker;
    Complex *b = a + length, *scratch = b + length;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t outer = i / inner, place = i % inner;
      const Line<const T> source = {from + (outer * x.dim(axis) * inner + place) * from_parts, x.dim(axis),
                                    inner * from_parts, from_parts};
      if (kind.inverse && kind.onesided) {  // the other half of the spectrum is the conjugate of this one
        const int64_t bins = length / 2 + 1;
        read_line(source, a, bins);
        for (int64_t k = bins; k < length; ++k) a[k] = std::conj(a[length - k]);
      } else {
        read_line(source, a, length);
      }
      if (kind.inverse) plan.invert(a, b, scratch);
      else plan.transform(a, b, scratch);
      write_line(
          Line<T>{to + (outer * y.dim(axis) * inner + place) * to_parts, y.dim(axis), inner * to_parts, to_parts}, b);
    }
  });
}

void run_dft(RunContext& ctx) {
  refuse_absurd_shapes(ctx);
  const Tensor& x = ctx.input(0);
  const DftKind kind = get_kind(ctx.node());
  int64_t axis = ctx.opset() < 20 ? ctx.node().get_int("axis", 1) : -2;
  if (ctx.opset() >= 20 && ctx.has_input(2)) axis = to_ints(ctx.input(2)).at(0);
  const int at = ctx.axis(axis, x.rank());
  Tensor& y = make_output(ctx, 0);
  if (y.count() == 0) return;
  int64_t length = y.dim(at);
  if (kind.onesided && !kind.inverse) length = ctx.has_input(1) ? to_ints(ctx.input(1)).at(0) : x.dim(at);
  if (x.count() == 0 && x.dim(at) != 0) ctx.fail("an input of {} has nothing to transform", to_string(x.shape()));
  if (!dispatch<float, double>(x.type(), [&](auto zero) {
        transform_lines<decltype(zero)>(ctx, x, y, at, length, kind);
      })) {
    ctx.fail_type(0);
  }
}

// The length of a frame: given, or that of the window, or that of the signal.
std::optional<Dim> find_frame_length(const InferContext& ctx) {
  const std::optional<Dim> window =
      ctx.has_rank(2) && ctx.rank(2) == 1 ? std::optional(ctx.dims(2)[0]) : std::nullopt;
  if (ctx.has_input(3)) {
    const std::optional<Dim> given = find_scalar(ctx, 3);
    if (given && window && given->is_known() && window->is_known() && given->value() != window->value()) {
      ctx.fail("a window of {} does not fit frames of {}", window->value(), given->value());
    }
    return given;
  }
  if (ctx.has_input(2)) return window;
  return ctx.has_rank(0) ? std::optional(ctx.dims(0)[1]) : std::nullopt;
}

void infer_stft(InferContext& ctx) {
  ctx.set_output(0, ctx.element(0));
  if (!ctx.has_rank(0)) return;
  const Dims& signal = ctx.dims(0);
  if (signal.size() != 3) ctx.fail("the signal has {} dimensions; 3 are needed", signal.size());
  if (signal[2].is_known() && signal[2].value() != 1 && signal[2].value() != 2) {
    ctx.fail("the last dimension is {}; 1 (real) and 2 (complex) are allowed", signal[2].value());
  }
  const bool onesided = ctx.node().get_int("onesided", 1) != 0;
  if (onesided && signal[2].is_known() && signal[2].value() == 2)
    ctx.fail("a complex signal has no one-sided transform");
  if (ctx.has_rank(2) && ctx.rank(2) != 1) ctx.fail("the window has {} dimensions, not 1", ctx.rank(2));
  const std::optional<Dim> length = find_frame_length(ctx), step = find_scalar(ctx, 1);
  Dims dims = {signal[0], Dim::unknown(), Dim::unknown(), 2};
  if (length) dims[2] = onesided ? floor_divide(*length, 2) + 1 : *length;
  if (step && step->is_known() && step->value() < 1) ctx.fail("frame_step is {}; it has to be above 0", step->value());
  if (length && length->is_known() && length->value() < 1) {
    ctx.fail("frame_length is {}; it has to be above 0", length->value());
  }
  if (length && length->is_known() && signal[1].is_known() && length->value() > signal[1].value()) {
    ctx.fail("a frame of {} does not fit into a signal of {}", length->value(), signal[1].value());
  }
  if (length && step) dims[1] = floor_divide(signal[1] - *length, *step) + 1;
  ctx.set_output(0, ctx.element(0), dims);
}

template <typename T>
void transform_frames(RunContext& ctx, const Tensor& signal, Tensor& y, int64_t length, int64_t step) {
  const FourierPlan plan(length);
  const T* window = nullptr;
  if (ctx.has_input(2)) {
    if (ctx.input(2).type() != type_of<T>()) ctx.fail_type(2);
    window = ctx.data<T>(2);
  }
  const int64_t frames = y.dim(1), bins = y.dim(2), parts = signal.dim(2), samples = signal.dim(1);
  const int64_t per_thread = 2 * length + plan.scratch_size();
  std::vector<Complex> memory(static_cast<size_t>(per_thread * ctx.pool().num_threads()));
  const T* from = signal.data<T>();
  T* to = y.data<T>();
  ctx.pool().parallel_for(signal.dim(0) * frames, std::max<int64_t>(1, 4096 / length),
                          [&](int64_t begin, int64_t end, int worker) {
    Complex* a = memory.data() + per_thread * worker;
    Complex *b = a + length, *scratch = b + length;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i / frames * samples + i % frames * step;
      read_line(Line<const T>{from + first * parts, length, parts, parts}, a, length);
      if (window != nullptr) {
        for (int64_t k = 0; k < length; ++k) a[k] *= static_cast<double>(window[k]);
      }
      plan.transform(a, b, scratch);
      write_line(Line<T>{to + i * bins * 2, bins, 2, 2}, b);
    }
  });
}

void run_stft(RunContext& ctx) {
  refuse_absurd_shapes(ctx);
  const Tensor& signal = ctx.input(0);
  const int64_t length = ctx.has_input(3) ? to_ints(ctx.input(3)).at(0)
                         : ctx.has_input(2) ? ctx.input(2).dim(0) : signal.dim(1);
  const int64_t step = to_ints(ctx.input(1)).at(0);
  Tensor& y = make_output(ctx, 0);
  if (y.count() == 0) return;
  if (!dispatch<float, double>(signal.type(), [&](auto zero) {
        transform_frames<decltype(zero)>(ctx, signal, y, length, step);
      })) {
    ctx.fail_type(0);
  }
}

constexpr OpInfo kOps[] = {
    {"", "DFT", 17, 0, infer_dft, run_dft, OpInfo::kViaFloat},
    {"", "STFT", 17, 0, infer_stft, run_stft, OpInfo::kViaFloat},
};

}  // namespace

std::span<const OpInfo> signal_ops() { return kOps; }

}  // namespace sluice::graph::ops
