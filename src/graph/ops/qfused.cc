// sluice.QConv and sluice.QMatMul: a product of 8-bit integers with everything that stands around it in a quantised
// model, from the scales of its inputs to the rounding of its output.
//
//   inputs   X (uint8 or int8), x_scale, x_zero, W (uint8 or int8), w_scale, w_zero, B?, Z?, z_scale?, z_zero?,
//            y_scale?, y_zero?
//   sum      of (X - x_zero) * (W - w_zero), exact in 32 bits (modulo 2^32); pads of a convolution count as x_zero
//   value    activation(alpha * x_scale * w_scale * sum + B + Z), in float
//   output   with y_scale: round half to even of value / y_scale, plus y_zero, saturated to y_zero's type; else float32
//
// x_scale, z_scale, y_scale and their zero points are single numbers, w_scale and w_zero one number or one for each
// output channel (column of W). B is float32, one number or one for each output channel. Z has the output's shape; it
// is float32, or 8-bit with z_scale and z_zero. A zero point that is left out is 0, y_zero that of uint8. Attributes
// are those of Conv, or transA, transB and alpha of FusedMatMul, and activation and activation_params. Scales may be
// computed while the graph runs, as dynamic quantisation does.
#include <cmath>
#include <limits>

#include "graph/ops/conv_core.h"
#include "graph/ops/fused_activation.h"
#include "graph/ops/matrix_batch.h"
#include "graph/ops/ops.h"
#include "graph/ops/vector_math.h"

namespace sluice::graph::ops {
namespace {

enum Input { kX, kXScale, kXZero, kW, kWScale, kWZero, kB, kZ, kZScale, kZZero, kYScale, kYZero, kNumInputs };

bool is_byte(ElementType type) { return type == ElementType::kU8 || type == ElementType::kI8; }

void check_byte(const InferContext& ctx, int i) {
  if (ctx.has_input(i) && ctx.element(i) != ElementType::kUndefined && !is_byte(ctx.element(i)))
    ctx.fail("input {} has to be uint8 or int8, not {}", i + 1, name(ctx.element(i)));
}

void check_float(const InferContext& ctx, int i) {
  if (ctx.has_input(i) && ctx.element(i) != ElementType::kUndefined && ctx.element(i) != ElementType::kF32)
    ctx.fail("input {} has to be float32, not {}", i + 1, name(ctx.element(i)));
}

// One number, or `many` of them.
void check_count(const InferContext& ctx, int i, const Dim& many) {
  if (!ctx.has_rank(i)) return;
  const std::optional<int64_t> count = product(ctx.dims(i)).known();
  if (count && *count != 1 && many.is_known() && *count != many.value()) {
    ctx.fail("input {} has shape {}; one number{} is needed", i + 1, to_string(ctx.dims(i)),
             many.value() == 1 ? "" : fmt::format(" or {}", many.value()));
  }
}

// `channels`: of the output, as far as they are known.
void check_inputs(const InferContext& ctx, const Dim& channels) {
  if (ctx.num_inputs() < kW + 1 || ctx.num_inputs() > kNumInputs)
    ctx.fail("{} inputs; at least 4 and at most {} are needed", ctx.num_inputs(), static_cast<int>(kNumInputs));
  for (const int i : {kX, kXScale, kW, kWScale}) {
    if (!ctx.has_input(i)) ctx.fail("input {} is missing", i + 1);
  }
  for (const int i : {kX, kW, kYZero}) check_byte(ctx, i);
  for (const int i : {kXScale, kWScale, kB, kZScale, kYScale}) check_float(ctx, i);
  const int like[][2] = {{kXZero, kX}, {kWZero, kW}, {kZZero, kZ}};
  for (const auto& [zero, of] : like) {
    if (!ctx.has_input(zero) || !ctx.has_input(of) || ctx.element(zero) == ElementType::kUndefined) continue;
    if (ctx.element(of) != ElementType::kUndefined && ctx.element(of) != ctx.element(zero)) {
      ctx.fail("zero point {} is {} and what it belongs to {}; they have to be of one type", zero + 1,
               name(ctx.element(zero)), name(ctx.element(of)));
    }
  }
  for (const int i : {kXScale, kXZero, kZScale, kZZero, kYScale, kYZero}) check_count(ctx, i, 1);
  for (const int i : {kWScale, kWZero, kB}) check_count(ctx, i, channels);
  if (ctx.has_input(kZScale)) check_byte(ctx, kZ);
  else check_float(ctx, kZ);
  if (ctx.has_input(kYZero) && !ctx.has_input(kYScale)) ctx.fail("there is a y_zero, but no y_scale");
}

ElementType output_element(const InferContext& ctx) {
  if (!ctx.has_input(kYScale)) return ElementType::kF32;
  return ctx.has_input(kYZero) ? ctx.element(kYZero) : ElementType::kU8;
}

void check_addend(const InferContext& ctx, const Dims& output) {
  if (!ctx.has_rank(kZ)) return;
  const Dims& z = ctx.dims(kZ);
  bool fits = z.size() == output.size();
  for (size_t i = 0; fits && i < z.size(); ++i) {
    fits = !z[i].is_known() || !output[i].is_known() || z[i] == output[i];
  }
  if (!fits) ctx.fail("Z has shape {}, the output {}", to_string(z), to_string(output));
}

void infer_qconv(InferContext& ctx) {
  check_inputs(ctx, ctx.has_rank(kW) && ctx.rank(kW) > 0 ? ctx.dims(kW)[0] : Dim::unknown());
  std::optional<Dims> dims = infer_conv_dims(ctx, kX, kW, kNoInput, false);
  if (!dims) return ctx.set_output(0, output_element(ctx));
  check_addend(ctx, *dims);
  ctx.set_output(0, output_element(ctx), std::move(*dims));
}

MatrixLayout x_layout(const Node& node) { return {node.get_int("transA", 0) != 0}; }
MatrixLayout w_layout(const Node& node) { return {node.get_int("transB", 0) != 0}; }

void infer_qmatmul(InferContext& ctx) {
  const Node& node = ctx.node();
  check_inputs(ctx, ctx.has_rank(kW) && ctx.rank(kW) > 0 ? split_matrix(ctx, kW, w_layout(node), false).columns
                                                         : Dim::unknown());
  if (!ctx.has_rank(kX) || !ctx.has_rank(kW)) return ctx.set_output(0, output_element(ctx));
  Dims dims = infer_product_dims(ctx, kX, x_layout(node), kW, w_layout(node));
  check_addend(ctx, dims);
  ctx.set_output(0, output_element(ctx), std::move(dims));
}

// One number for each channel; one that is alone is for all of them.
template <typename T>
std::vector<T> read_numbers(const RunContext& ctx, int input, int64_t channels, T otherwise) {
  std::vector<T> values(static_cast<size_t>(channels), otherwise);
  if (!ctx.has_input(input)) return values;
  const Tensor& tensor = ctx.input(input);
  if (tensor.count() != 1 && tensor.count() != channels) {
    ctx.fail("input {} has {} elements; allowed are 1 and {}", input + 1, tensor.count(), channels);
  }
  if (!dispatch<float, uint8_t, int8_t>(tensor.type(), [&](auto zero) {
        const auto* data = tensor.data<decltype(zero)>();
        for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<T>(data[tensor.count() == 1 ? 0 : i]);
      })) {
    ctx.fail_type(input);
  }
  return values;
}

template <typename T>
T read_number(const RunContext& ctx, int input, T otherwise) {
  return read_numbers<T>(ctx, input, 1, otherwise)[0];
}

template <typename T>
T quantize(float value, float zero) {
  constexpr float kMin = std::numeric_limits<T>::min(), kMax = std::numeric_limits<T>::max();
  const float shifted = round_even(value) + zero;
  const float raised = shifted > kMin ? shifted : kMin;
  return static_cast<T>(static_cast<int32_t>(raised < kMax ? raised : kMax));
}

// What becomes of the sums.
class Tail {
 public:
  static constexpr int64_t kBlock = 512;

  Tail(RunContext& ctx, int64_t channels) : ctx_(ctx), y_(ctx.output(0)) {
    const Node& node = ctx.node();
    const std::vector<float> parameters = node.get_floats("activation_params");
    auto parameter = [&](size_t i) { return i < parameters.size() ? std::optional(parameters[i]) : std::nullopt; };
    activation_ = FusedActivation::make(node, node.get_string("activation", ""), parameter(0), parameter(1));
    factors_ = read_numbers<float>(ctx, kWScale, channels, 1);
    const float scale = read_number<float>(ctx, kXScale, 1) * node.get_float("alpha", 1);
    for (float& factor : factors_) factor *= scale;
    biases_ = read_numbers<float>(ctx, kB, channels, 0);
    if (ctx.has_input(kZ)) {
      z_ = ctx.input(kZ);
      if (!(z_.shape() == y_.shape()))
        ctx.fail("Z has shape {}, the output {}", to_string(z_.shape()), to_string(y_.shape()));
      if (z_.type() != (ctx.has_input(kZScale) ? z_.type() : ElementType::kF32)) ctx.fail_type(kZ);
      z_scale_ = read_number<float>(ctx, kZScale, 1);
      z_zero_ = read_number<float>(ctx, kZZero, 0);
    }
    y_scale_ = read_number<float>(ctx, kYScale, 1);
    y_zero_ = read_number<float>(ctx, kYZero, 0);
  }

  // At most kBlock sums, of outputs from `at` on, and from `channel` on if each is of another channel.
  void write(const int32_t* sums, int64_t count, int64_t at, int64_t channel, bool is_row_of_channels) const {
    float block[kBlock];
    float* values = y_.type() == ElementType::kF32 ? y_.data<float>() + at : block;
    const float *factors = factors_.data() + channel, *biases = biases_.data() + channel;
    if (is_row_of_channels) {
      for (int64_t i = 0; i < count; ++i) values[i] = static_cast<float>(sums[i]) * factors[i] + biases[i];
    } else {
      const float factor = *factors, bias = *biases;
      for (int64_t i = 0; i < count; ++i) values[i] = static_cast<float>(sums[i]) * factor + bias;
    }
    dispatch<float, uint8_t, int8_t>(z_.type(), [&](auto type) {
      const auto* z = z_.data<decltype(type)>() + at;
      for (int64_t i = 0; i < count; ++i) values[i] += (static_cast<float>(z[i]) - z_zero_) * z_scale_;
    });
    activation_.apply(values, count);
    dispatch<uint8_t, int8_t>(y_.type(), [&](auto type) {
      using T = decltype(type);
      T* to = y_.data<T>() + at;
      for (int64_t i = 0; i < count; ++i) to[i] = quantize<T>(values[i] / y_scale_, y_zero_);
    });
  }

  // Rows of the output, each of `length` values: of one channel each (channels in turn), or of all channels.
  void write_rows(const int32_t* sums, int64_t num_rows, int64_t length, int64_t channels,
                  bool is_row_of_channels) const {
    const int64_t grain = std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(1, length));
    ctx_.pool().parallel_for(num_rows, grain, [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; ++row) {
        for (int64_t i = 0; i < length; i += kBlock) {
          const int64_t at = row * length + i;
          write(sums + at, std::min(kBlock, length - i), at, is_row_of_channels ? i : row % channels,
                is_row_of_channels);
        }
      }
    });
  }

 private:
  RunContext& ctx_;
  Tensor& y_;
  FusedActivation activation_;
  std::vector<float> factors_, biases_;  // [channels]
  Tensor z_;
  float z_scale_ = 1, z_zero_ = 0, y_scale_ = 1, y_zero_ = 0;
};

// Null if all are 0.
const int32_t* find_zeros(const std::vector<int32_t>& zeros) {
  const bool has_any = std::any_of(zeros.begin(), zeros.end(), [](int32_t zero) { return zero != 0; });
  return has_any ? zeros.data() : nullptr;
}

void run_qconv(RunContext& ctx) {
  const Tensor &x = ctx.input(kX), &w = ctx.input(kW);
  const ConvShape shape = read_conv(ctx.node(), x.shape(), w.shape());
  Tensor& y = make_output(ctx, 0);
  const Tail tail(ctx, shape.out_channels);
  Tensor sums = ctx.make(ElementType::kI32, Shape{y.count()});
  std::fill_n(sums.data<int32_t>(), sums.count(), 0);
  const auto x_zero = read_number<int32_t>(ctx, kXZero, 0);
  const std::vector<int32_t> w_zeros = read_numbers<int32_t>(ctx, kWZero, shape.out_channels, 0);
  dispatch<uint8_t, int8_t>(x.type(), [&](auto x_type) {
    dispatch<uint8_t, int8_t>(w.type(), [&](auto w_type) {
      using X = decltype(x_type);
      using W = decltype(w_type);
      convolve<uint32_t, X, W>(ctx.pool(), shape, x.data<X>(), x_zero, w.data<W>(), find_zeros(w_zeros),
                               reinterpret_cast<uint32_t*>(sums.data<int32_t>()));
    });
  });
  tail.write_rows(sums.data<int32_t>(), shape.batch * shape.out_channels, shape.out_pixels, shape.out_channels, false);
}

Operand<uint32_t> byte_operand(const Tensor& tensor, int64_t offset, int64_t line_stride, int64_t value_stride,
                               const int32_t* zeros, int64_t zero_stride) {
  return tensor.type() == ElementType::kU8
             ? strided<uint32_t, uint8_t>(tensor.data<uint8_t>() + offset, line_stride, value_stride, zeros,
                                          zero_stride)
             : strided<uint32_t, int8_t>(tensor.data<int8_t>() + offset, line_stride, value_stride, zeros,
                                         zero_stride);
}

void run_qmatmul(RunContext& ctx) {
  const Node& node = ctx.node();
  const Tensor &x = ctx.input(kX), &w = ctx.input(kW);
  Tensor& y = make_output(ctx, 0);
  const MatrixPairs pairs = pair_matrices(x.shape(), x_layout(node), w.shape(), w_layout(node));
  const auto batch = static_cast<int64_t>(pairs.a_offsets.size());
  const Tail tail(ctx, pairs.b.columns);
  Tensor sums = ctx.make(ElementType::kI32, Shape{y.count()});
  auto* data = reinterpret_cast<uint32_t*>(sums.data<int32_t>());
  const std::vector<int32_t> x_zero = read_numbers<int32_t>(ctx, kXZero, 1, 0);
  const std::vector<int32_t> w_zeros = read_numbers<int32_t>(ctx, kWZero, pairs.b.columns, 0);
  const int32_t *x_zeros = find_zeros(x_zero), *column_zeros = find_zeros(w_zeros);
  multiply_batch<uint32_t>(ctx.pool(), batch, pairs.m, pairs.n, pairs.k, [&](int64_t i) {
    const auto t = static_cast<size_t>(i);
    return Product<uint32_t>{
        .m = pairs.m, .n = pairs.n, .k = pairs.k,
        .a = byte_operand(x, pairs.a_offsets[t], pairs.a.row_stride, pairs.a.column_stride, x_zeros, 0),
        .b = byte_operand(w, pairs.b_offsets[t], pairs.b.column_stride, pairs.b.row_stride, column_zeros, 1),
        .c = data + i * pairs.m * pairs.n, .c_stride = pairs.n};
  });
  tail.write_rows(sums.data<int32_t>(), batch * pairs.m, pairs.n, pairs.n, true);
}

constexpr OpInfo kOps[] = {
    {"sluice", "QConv", 1, 0, infer_qconv, run_qconv},
    {"sluice", "QMatMul", 1, 0, infer_qmatmul, run_qmatmul},
};

}  // namespace

std::span<const OpInfo> qfused_ops() { return kOps; }

}  // namespace sluice::graph::ops
