// Convolutions of bytes: ConvInteger and QLinearConv of the ONNX operator specification, and QLinearConv of
// com.microsoft, which may have channels last. Sums are exact in 32 bits (modulo 2^32); pads count as zero, that is, as
// x's zero point. Channels-last images are transposed into channels-first ones, and back.
#include <cmath>
#include <limits>

#include "graph/ops/conv_core.h"
#include "graph/ops/ops.h"
#include "graph/ops/vector_math.h"

namespace sluice::graph::ops {
namespace {

bool is_byte(ElementType type) { return type == ElementType::kU8 || type == ElementType::kI8; }

void check_byte(const InferContext& context, int i) {
  if (context.has_input(i) && context.element(i) != ElementType::kUndefined && !is_byte(context.element(i))) {
    context.fail("input {} has to be uint8 or int8, not {}", i + 1, name(context.element(i)));
  }
}

// One number for each output channel; one that is alone is for all of them.
template <typename T>
std::vector<T> read_channels(const RunContext& context, int input, int64_t channels, T otherwise) {
  std::vector<T> values(static_cast<size_t>(channels), otherwise);
  if (!context.has_input(input)) return values;
  const Tensor& tensor = context.input(input);
  if (tensor.count() != 1 && tensor.count() != channels) {
    context.fail("input {} has {} elements; allowed are 1 and {}", input + 1, tensor.count(), channels);
  }
  if (!dispatch<float, uint8_t, int8_t, int32_t>(tensor.type(), [&](auto zero) {
        const auto* data = tensor.data<decltype(zero)>();
        for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<T>(data[tensor.count() == 1 ? 0 : i]);
      })) {
    context.fail_type(input);
  }
  return values;
}

template <typename T>
T read_one(const RunContext& context, int input, T otherwise) {
  return read_channels<T>(context, input, 1, otherwise)[0];
}

void convolve_bytes(RunContext& context, const ConvShape& shape, const Tensor& x, int32_t x_zero, const Tensor& w,
                    const std::vector<int32_t>& w_zeros, int32_t* sums) {
  const bool has_zeros = std::any_of(w_zeros.begin(), w_zeros.end(), [](int32_t zero) { return zero != 0; });
  dispatch<uint8_t, int8_t>(x.type(), [&](auto x_type) {
    dispatch<uint8_t, int8_t>(w.type(), [&](auto w_type) {
      using X = decltype(x_type);
      using W = decltype(w_type);
      convolve<uint32_t, X, W>(context.pool(), shape, x.data<X>(), x_zero, w.data<W>(),
                               has_zeros ? w_zeros.data() : nullptr, reinterpret_cast<uint32_t*>(sums));
    });
  });
}

void infer_conv_integer(InferContext& context) {
  check_byte(context, 0);
  check_byte(context, 1);
  std::optional<Dims> dims = infer_conv_dims(context, 0, 1, kNoInput, false);
  if (dims) context.set_output(0, ElementType::kI32, std::move(*dims));
  else context.set_output(0, ElementType::kI32);
}
void run_conv_integer(RunContext& context) {
  const Tensor &x = context.input(0), &w = context.input(1);
  const ConvShape shape = read_conv(context.node(), x.shape(), w.shape());
  Tensor& y = make_output(context, 0);
  std::fill_n(y.data<int32_t>(), y.count(), 0);
  convolve_bytes(context, shape, x, read_one<int32_t>(context, 2, 0), w,
                 read_channels<int32_t>(context, 3, shape.out_channels, 0), y.data<int32_t>());
}

bool has_channels_last(const Node& node) { return node.domain == kMicrosoft && node.get_int("channels_last", 0) != 0; }

void infer_qlinear_conv(InferContext& context) {
  for (const int i : {0, 3, 7}) check_byte(context, i);
  std::optional<Dims> dims = infer_conv_dims(context, 0, 3, 8, has_channels_last(context.node()));
  if (dims) context.set_output(0, context.element(7), std::move(*dims));
  else context.set_output(0, context.element(7));
}

template <typename T>
T quantize(float value, int32_t zero) {
  const float shifted = round_even(value) + static_cast<float>(zero);
  constexpr float kMin = std::numeric_limits<T>::min(), kMax = std::numeric_limits<T>::max();
  return shifted >= kMax ? std::numeric_limits<T>::max()
                         : shifted > kMin ? static_cast<T>(shifted) : std::numeric_limits<T>::min();
}

void run_qlinear_conv(RunContext& context) {
  const bool channels_last = has_channels_last(context.node());
  Tensor x = context.input(0);
  const Tensor& w = context.input(3);
  if (channels_last) {
    Shape shape = x.shape();
    const int64_t channels = shape.back(), batch = shape[0], pixels = shape.count(1, shape.rank() - 1);
    shape.erase(shape.rank() - 1);
    shape.insert(1, channels);
    Tensor first = context.make(x.type(), shape);
    const auto* from = static_cast<const uint8_t*>(x.raw());
    auto* to = static_cast<uint8_t*>(first.raw());
    for (int64_t i = 0; i < batch * channels; ++i) {
      const uint8_t* source = from + i / channels * pixels * channels + i % channels;
      for (int64_t p = 0; p < pixels; ++p) to[i * pixels + p] = source[p * channels];
    }
    x = first;
  }
  const ConvShape shape = read_conv(context.node(), x.shape(), w.shape());
  const int64_t channels = shape.out_channels, pixels = shape.out_pixels, planes = shape.batch * channels;
  Tensor& y = make_output(context, 0);
  Tensor sums = context.make(ElementType::kI32, Shape{y.count()});
  int32_t* data = sums.data<int32_t>();
  const auto bias = read_channels<int32_t>(context, 8, channels, 0);
  for (int64_t i = 0; i < planes; ++i) std::fill_n(data + i * pixels, pixels, bias[static_cast<size_t>(i % channels)]);
  convolve_bytes(context, shape, x, read_one<int32_t>(context, 2, 0), w,
                 read_channels<int32_t>(context, 5, channels, 0), data);

  std::vector<float> factors = read_channels<float>(context, 4, channels, 1);
  const float x_scale = read_one<float>(context, 1, 1), y_scale = read_one<float>(context, 6, 1);
  for (float& factor : factors) factor = x_scale * factor / y_scale;
  const int32_t y_zero = read_one<int32_t>(context, 7, 0);
  dispatch<uint8_t, int8_t>(y.type(), [&](auto type) {
    using T = decltype(type);
    T* to = y.data<T>();
    context.pool().parallel_for(planes, std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(1, pixels)),
                                [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const float factor = factors[static_cast<size_t>(i % channels)];
        T* plane = channels_last ? to + i / channels * pixels * channels + i % channels : to + i * pixels;
        const int64_t step = channels_last ? channels : 1;
        for (int64_t p = 0; p < pixels; ++p) {
          plane[p * step] = quantize<T>(static_cast<float>(data[i * pixels + p]) * factor, y_zero);
        }
      }
    });
  });
}

constexpr OpInfo kOps[] = {
    {"", "ConvInteger", 10, 0, infer_conv_integer, run_conv_integer},
    {"", "QLinearConv", 10, 0, infer_qlinear_conv, run_qlinear_conv},
    {kMicrosoft, "QLinearConv", 1, 0, infer_qlinear_conv, run_qlinear_conv},
};

}  // namespace

std::span<const OpInfo> conv_integer_ops() { return kOps; }

}  // namespace sluice::graph::ops
