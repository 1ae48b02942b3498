#include "graph/kernels/quantised.h"

#include <algorithm>
#include <cmath>

#include "graph/ops/convert.h"
#include "graph/ops/fused_activation.h"

namespace sluice::graph::kernels {

Tensor to_float(const Tensor& constant) {
  if (constant.type() == ElementType::kF32) return constant;
  Tensor converted(ElementType::kF32, constant.shape());
  ThreadPool pool(1);
  ops::convert_elements(constant, converted, {}, pool);
  return converted;
}

bool is_zero(const Tensor* constant) {
  if (constant == nullptr) return false;
  const Tensor numbers = to_float(*constant);
  const std::span<const float> values = numbers.values<float>();
  return std::all_of(values.begin(), values.end(), [](float value) { return value == 0; });
}

std::optional<QuantisedParts> read_quantised(const KernelRequest& request, int64_t channels) {
  auto constant = [&](size_t i) { return i < request.constants.size() ? request.constants[i] : nullptr; };
  auto has = [&](size_t i) { return i < request.inputs.size() && request.inputs[i].type != ElementType::kUndefined; };
  // 0 where the input is left out; nullopt if it is not known, or not one number.
  auto scalar = [&](size_t i) -> std::optional<float> {
    if (!has(i)) return 0.0f;
    const Tensor* tensor = constant(i);
    if (tensor == nullptr || tensor->count() != 1) return std::nullopt;
    return to_float(*tensor).values<float>()[0];
  };
  const auto x_scale = scalar(1), x_zero = scalar(2), z_scale = scalar(8), z_zero = scalar(9), y_scale = scalar(10),
             y_zero = scalar(11);
  const Tensor* w_scale = constant(4);
  if (!x_scale || !x_zero || !z_scale || !z_zero || !y_scale || !y_zero || w_scale == nullptr) return std::nullopt;
  if (request.inputs[kQuantisedW].type != ElementType::kI8) return std::nullopt;
  if (has(5) && !is_zero(constant(5))) return std::nullopt;
  QuantisedParts parts{.x_scale = *x_scale, .x_zero = static_cast<int>(*x_zero), .z_scale = *z_scale,
                       .z_zero = static_cast<int>(*z_zero), .y_scale = *y_scale, .y_zero = static_cast<int>(*y_zero)};
  const Tensor scales = to_float(*w_scale);
  if (scales.count() != 1 && scales.count() != channels) return std::nullopt;
  parts.w_scales.assign(scales.values<float>().begin(), scales.values<float>().end());
  return parts;
}

bool append_quantised(QuantisedParts& parts, const KernelRequest& request, int channel_axis,
                      const dnnl::memory::desc& addend, dnnl::primitive_attr& attributes, dnnl::post_ops& post_ops,
                      Tensor& bias) {
  using enum dnnl::algorithm;
  const bool has_addend = request.inputs.size() > kQuantisedZ &&
                          request.inputs[kQuantisedZ].type != ElementType::kUndefined;
  const std::string activation = request.node.get_string("activation", "");
  // A positive factor may go before it.
  const bool keeps_scale = activation.empty() || activation == "Relu" || activation == "LeakyRelu";
  // The steps in which the sums leave the product: those of the addend, or those of the output.
  const bool adds_steps = has_addend && parts.z_scale != 0;
  const float step = adds_steps ? parts.z_scale : !has_addend && keeps_scale && parts.y_scale != 0 ? parts.y_scale : 1;

  std::vector<float> output_scales(parts.w_scales.size());
  for (size_t i = 0; i < output_scales.size(); ++i) output_scales[i] = parts.x_scale * parts.w_scales[i] / step;
  const bool is_per_channel = output_scales.size() > 1;
  attributes.set_output_scales(is_per_channel ? 1 << channel_axis : 0, output_scales);
  if (parts.x_zero != 0) attributes.set_zero_points(DNNL_ARG_SRC, 0, {parts.x_zero});

  // In units of the sums; the addend's zero point goes with it.
  const float shift = adds_steps ? static_cast<float>(parts.z_zero) : 0;
  if (!bias.is_null() || shift != 0) {
    const Shape& y = request.outputs[0].shape;
    const int64_t channels = request.node.op_type == "QMatMul" ? y.back() : y[1];
    Tensor sums(ElementType::kF32, Shape{channels});
    const bool is_one = !bias.is_null() && bias.count() == 1;
    if (!bias.is_null() && !is_one && bias.count() != channels) return false;
    for (int64_t c = 0; c < channels; ++c) {
      const float scale = output_scales[is_per_channel ? static_cast<size_t>(c) : 0];
      const float in_steps = (bias.is_null() ? 0 : bias.data<float>()[is_one ? 0 : c]) / step - shift;
      if (scale == 0 || !std::isfinite(in_steps / scale)) return false;
      sums.data<float>()[c] = in_steps / scale;
    }
    bias = sums;
  }

  if (has_addend) {
    parts.addend_position = post_ops.len();
    post_ops.append_binary(binary_add, addend);
  }
  // Of two functions of one kind in a chain the library (2.6) computes one, so that only the last is linear.
  if (activation == "HardSigmoid") {
    const auto parts_of = ops::FusedActivation::of(request.node);
    const float factor = parts.y_scale == 0 ? 1 : 1 / parts.y_scale, zero = static_cast<float>(parts.y_zero);
    post_ops.append_eltwise(1, eltwise_linear, parts_of.alpha * step * factor, parts_of.beta * factor + zero);
    post_ops.append_eltwise(1, eltwise_clip, zero, factor + zero);
    return true;
  }
  if (!keeps_scale && step != 1) post_ops.append_eltwise(1, eltwise_pow, step, 1);  // step * x^1
  if (!onednn::append_activation(post_ops, request.node)) return false;
  const float left = keeps_scale ? step : 1;  // of a real number a unit stands for, now
  if (parts.y_scale == 0) {
    if (left != 1) post_ops.append_eltwise(1, eltwise_linear, left, 0);
  } else {
    const float factor = left / parts.y_scale;
    if (factor != 1 || parts.y_zero != 0) {
      post_ops.append_eltwise(1, eltwise_linear, factor, static_cast<float>(parts.y_zero));
    }
  }
  return true;
}

}  // namespace sluice::graph::kernels
