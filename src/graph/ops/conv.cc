// Conv and CausalConvWithState of the ONNX operator specification, FusedConv of com.microsoft. Any number of spatial
// axes, groups, dilations and pads; the sums are conv_core.h's. CausalConvWithState is a depthwise convolution along
// the last axis that sees what came before: the state it is given, then its input; its second output is the state for
// the next call. FusedConv adds an optional fourth input to the sums and applies an activation.
#include <cmath>

#include "graph/ops/conv_core.h"
#include "graph/ops/fused_activation.h"
#include "graph/ops/ops.h"

namespace sluice::graph::ops {
namespace {

void infer_conv(InferContext& context) {
  if (context.element(0) != context.element(1) && context.element(0) != ElementType::kUndefined &&
      context.element(1) != ElementType::kUndefined) {
    context.fail("input and weights are {} and {}; they have to be of one type", name(context.element(0)),
                 name(context.element(1)));
  }
  std::optional<Dims> dims = infer_conv_dims(context, 0, 1, 2, false);
  if (dims) context.set_output(0, context.element(0), std::move(*dims));
  else context.set_output(0, context.element(0));
}

// What sums begin with: the bias, or zeros.
template <typename T>
void fill_bias(RunContext& context, const ConvShape& shape, const T* bias, T* y) {
  context.pool().parallel_for(
      shape.batch * shape.out_channels, std::max<int64_t>(1, (1 << 15) / std::max<int64_t>(1, shape.out_pixels)),
      [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) {
          std::fill_n(y + i * shape.out_pixels, shape.out_pixels, bias == nullptr ? T{} : bias[i % shape.out_channels]);
        }
      });
}

void run_conv(RunContext& context) {
  const Tensor &x = context.input(0), &w = context.input(1);
  const ConvShape shape = read_conv(context.node(), x.shape(), w.shape());
  if (!dispatch<float, double>(x.type(), [&](auto zero) {
        using T = decltype(zero);
        T* y = make_output(context, 0).data<T>();
        fill_bias<T>(context, shape, context.has_input(2) ? context.data<T>(2) : nullptr, y);
        convolve<T, T, T>(context.pool(), shape, x.data<T>(), 0, w.data<T>(), nullptr, y);
      })) {
    context.fail_type(0);
  }
}

void run_fused_conv(RunContext& context) {
  const Node& node = context.node();
  if (context.input(0).type() != ElementType::kF32) context.fail_type(0);
  const std::vector<float> parameters = node.get_floats("activation_params");
  auto parameter = [&](size_t i) { return i < parameters.size() ? std::optional(parameters[i]) : std::nullopt; };
  const FusedActivation activation =
      FusedActivation::make(node, node.get_string("activation", ""), parameter(0), parameter(1));
  run_conv(context);
  Tensor& y = context.output(0);
  float* data = y.data<float>();
  const float* added = nullptr;
  if (context.has_input(3)) {
    if (!(context.input(3).shape() == y.shape())) {
      context.fail("the tensor to add has shape {}, the output {}", to_string(context.input(3).shape()),
                   to_string(y.shape()));
    }
    added = context.data<float>(3);
  }
  context.pool().parallel_for(y.count(), 1 << 14, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end && added != nullptr; ++i) data[i] += added[i];
    activation.apply(data + begin, end - begin);
  });
}

void infer_causal_conv(InferContext& context) {
  const std::string activation = context.node().get_string("activation", "none");
  if (activation != "none" && activation != "silu" && activation != "swish") {
    context.fail("activation has to be none, silu or swish, not '{}'", activation);
  }
  context.set_output(0, context.element(0));
  context.set_output(1, context.element(0));
  if (!context.has_rank(0)) return;
  const Dims& x = context.dims(0);
  if (x.size() != 3) context.fail("an input of shape {}; [batch, channels, length] is needed", to_string(x));
  context.set_output(0, context.element(0), x);
  Dim state = Dim::unknown();
  if (context.has_rank(1)) {
    const Dims& w = context.dims(1);
    const bool fits = w.size() == 3 && (!w[1].is_known() || w[1].value() == 1) &&
                      (!w[0].is_known() || !x[1].is_known() || w[0] == x[1]) && (!w[2].is_known() || w[2].value() >= 1);
    if (!fits)
      context.fail("weights of shape {} do not fit an input of shape {}; [channels, 1, kernel] is needed", to_string(w),
                   to_string(x));
    state = w[2] - 1;
  }
  if (context.has_rank(2) &&
      (context.rank(2) != 1 || (context.dims(2)[0].is_known() && x[1].is_known() && !(context.dims(2)[0] == x[1])))) {
    context.fail("a bias of shape {} does not fit {} channels", to_string(context.dims(2)), x[1].to_string());
  }
  const Dims out{x[0], x[1], state};
  if (context.has_rank(3)) {
    const Dims& past = context.dims(3);
    bool fits = past.size() == 3;
    for (size_t i = 0; fits && i < 3; ++i) fits = !past[i].is_known() || !out[i].is_known() || past[i] == out[i];
    if (!fits) context.fail("a state of shape {}; {} is needed", to_string(past), to_string(out));
  }
  context.set_output(1, context.element(0), out);
}

template <typename T>
void run_causal_conv_typed(RunContext& context) {
  const Tensor& x = context.input(0);
  const int64_t batch = x.dim(0), channels = x.dim(1), length = x.dim(2);
  const int64_t kernel = context.input(1).dim(2), past = kernel - 1;
  const T *from = x.data<T>(), *w = context.data<T>(1);
  const T* bias = context.has_input(2) ? context.data<T>(2) : nullptr;
  const T* state = context.has_input(3) ? context.data<T>(3) : nullptr;
  const bool has_silu = context.node().get_string("activation", "none") != "none";
  T* y = context.output_data<T>(0);
  T* present = context.has_output(1) ? context.output_data<T>(1) : nullptr;
  Tensor lines = context.make(type_of<T>(), Shape{context.pool().num_threads(), past + length});
  T* const memory = lines.data<T>();
  context.pool().parallel_for(batch * channels, std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(1, length * kernel)),
                              [&](int64_t begin, int64_t end, int worker) {
    T* line = memory + worker * (past + length);  // the state, then the input
    for (int64_t i = begin; i < end; ++i) {
      const int64_t channel = i % channels;
      if (state != nullptr) std::copy_n(state + i * past, past, line);
      else std::fill_n(line, past, T{});
      std::copy_n(from + i * length, length, line + past);
      T* to = y + i * length;
      std::fill_n(to, length, bias == nullptr ? T{} : bias[channel]);
      add_scaled_rows<T>(length, kernel, w + channel * kernel, 1, line, 1, to);
      for (int64_t t = 0; t < length && has_silu; ++t) to[t] = to[t] / (1 + std::exp(-to[t]));
      if (present != nullptr) std::copy_n(line + length, past, present + i * past);
    }
  });
}

void run_causal_conv(RunContext& context) {
  if (!dispatch<float, double>(context.input(0).type(),
                               [&](auto zero) { run_causal_conv_typed<decltype(zero)>(context); })) {
    context.fail_type(0);
  }
}

constexpr OpInfo kOps[] = {
    {"", "Conv", 1, 0, infer_conv, run_conv, OpInfo::kViaFloat},
    {"", "CausalConvWithState", 27, 0, infer_causal_conv, run_causal_conv, OpInfo::kViaFloat},
    {kMicrosoft, "FusedConv", 1, 0, infer_conv, run_fused_conv, OpInfo::kViaFloat},
};

}  // namespace

std::span<const OpInfo> conv_ops() { return kOps; }

}  // namespace sluice::graph::ops
