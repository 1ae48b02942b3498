#include "graph/ops/conv_core.h"

namespace sluice::graph::ops {

std::optional<Dims> infer_conv_dims(const InferContext& context, int x, int w, int bias, bool channels_last) {
  const Node& node = context.node();
  const int64_t groups = node.get_int("group", 1);
  if (groups < 1) context.fail("group is {}; at least 1 is needed", groups);
  if (context.has_rank(w) && context.rank(w) < 3) {
    context.fail("weights of shape {} are no convolution's; [M, C/group, kernel...] is needed",
                 to_string(context.dims(w)));
  }
  if (!context.has_rank(x)) {
    if (!context.has_rank(w)) return std::nullopt;
    Dims dims(static_cast<size_t>(context.rank(w)));
    for (Dim& dim : dims) dim = Dim::unknown();
    (channels_last ? dims.back() : dims[1]) = context.dims(w)[0];
    return dims;
  }
  Dims dims = context.dims(x);
  if (dims.size() < 3) context.fail("an input of shape {} has no spatial dimensions", to_string(dims));
  if (channels_last) {
    dims.insert(dims.begin() + 1, dims.back());
    dims.pop_back();
  }
  std::optional<Dims> kernel;
  Dim out_channels = Dim::unknown();
  if (context.has_rank(w)) {
    const Dims& weights = context.dims(w);
    if (weights.size() != dims.size()) {
      context.fail("the input has {} dimensions and the weights {}; they need as many", dims.size(), weights.size());
    }
    if (dims[1].is_known() && weights[1].is_known() &&
        (dims[1].value() % groups != 0 || dims[1].value() / groups != weights[1].value())) {
      context.fail("{} channels in {} groups do not fit weights of shape {}", dims[1].value(), groups,
                   to_string(weights));
    }
    if (weights[0].is_known() && weights[0].value() % groups != 0) {
      context.fail("{} output channels do not divide into {} groups", weights[0].value(), groups);
    }
    out_channels = weights[0];
    kernel = Dims(weights.begin() + 2, weights.end());
  }
  if (context.has_rank(bias)) {
    const Dims& dims_of_bias = context.dims(bias);
    if (dims_of_bias.size() != 1 ||
        (dims_of_bias[0].is_known() && out_channels.is_known() && !(dims_of_bias[0] == out_channels))) {
      context.fail("a bias of shape {} does not fit {} output channels", to_string(dims_of_bias),
                   out_channels.to_string());
    }
  }
  const Windows windows = read_windows(node, static_cast<int>(dims.size()) - 2, kernel, /*is_pool=*/false);
  Dims out{dims[0], out_channels};
  for (const Dim& dim : output_dims(node, windows, Dims(dims.begin() + 2, dims.end()))) out.push_back(dim);
  if (channels_last) {
    out.push_back(out[1]);
    out.erase(out.begin() + 1);
  }
  return out;
}

bool ConvShape::is_pointwise() const {
  if (kernel_size != 1) return false;
  for (const WindowAxis& axis : axes) {
    if (axis.stride != 1 || axis.pad_begin != 0 || axis.out != axis.in) return false;
  }
  return true;
}

ConvShape read_conv(const Node& node, const Shape& x, const Shape& w) {
  const Dims kernel(w.begin() + 2, w.end());
  const Windows windows = read_windows(node, x.rank() - 2, kernel, /*is_pool=*/false);
  ConvShape shape{.batch = x[0], .channels = x[1], .out_channels = w[0], .groups = node.get_int("group", 1)};
  shape.axes = resolve_windows(node, windows, std::span(x.begin() + 2, x.end()));
  bool is_too_large = false;
  for (const WindowAxis& axis : shape.axes) {  // with no images or no channels, nothing else has looked at these
    is_too_large |= __builtin_mul_overflow(shape.in_pixels, axis.in, &shape.in_pixels);
    is_too_large |= __builtin_mul_overflow(shape.out_pixels, axis.out, &shape.out_pixels);
    is_too_large |= __builtin_mul_overflow(shape.kernel_size, axis.kernel, &shape.kernel_size);
  }
  if (is_too_large) fail(Code::kInvalidArgument, "{}: spatial dimensions are too large", node.describe());
  return shape;
}

ConvColumns make_columns(const ConvShape& shape, int32_t zero) {
  ConvColumns columns{.shape = &shape, .zero = zero};
  int64_t stride = 1;
  for (size_t i = shape.axes.size(); i-- > 0;) {
    columns.in_strides[i] = stride;
    stride *= shape.axes[i].in;
  }
  const WindowAxis& last = shape.axes.back();
  columns.inner = {0, last.out};
  for (int64_t k = 0; k < last.kernel; ++k) {
    const OutputRange inside{last.first_output(k), last.last_output(k)};
    columns.inside.push_back(inside);
    columns.inner = {std::max(columns.inner.begin, inside.begin), std::min(columns.inner.end, inside.end)};
  }
  columns.inner.end = std::max(columns.inner.begin, columns.inner.end);
  return columns;
}

}  // namespace sluice::graph::ops
