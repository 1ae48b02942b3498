// Convolutions through oneDNN: Conv, FusedConv (an addend of the output's shape, then an activation) and QConv (bytes
// in, int32 sums, bytes or floats out).
//
// Three ways, for the library to accept or refuse: channels last (its batch-reduced products), blocks of 16 channels,
// and for 3x3 windows of stride 1 Winograd's algorithm in blocks of 16 (Lavin and Gray, "Fast algorithms for
// convolutional neural networks", 2015), which needs half the multiplications and loses a few bits of precision.
// The weights are known before run time, or there is no kernel.
//
// Bytes: oneDNN 2.6 computes scale * (sums + bias), then the post-operations, then the zero point of the output. The
// addend of a QConv is in steps of its own; sums are therefore brought to those steps first, the addend is added as it
// is in memory, and what comes out is brought to the output's.
#include <cmath>

#include <fmt/format.h>

#include "graph/kernels/list.h"
#include "graph/kernels/onednn.h"
#include "graph/kernels/quantised.h"
#include "graph/ops/conv_core.h"

namespace sluice::graph::kernels {
namespace {

using dnnl::memory;
using onednn::Primitive;

struct Conv {
  KernelRequest request;
  ops::ConvShape shape;
  bool is_quantised = false;
  int w = 1, b = 2, z = 3;  // inputs; -1: none

  const TensorInfo& input(int i) const { return request.inputs[static_cast<size_t>(i)]; }
  const Tensor* constant(int i) const { return i < 0 ? nullptr : request.constants[static_cast<size_t>(i)]; }
};

// The library's weights of a grouped convolution have one more axis.
memory::dims weight_dims(const Conv& conv) {
  const Shape& w = conv.input(conv.w).shape;
  memory::dims dims(w.begin(), w.end());
  if (conv.shape.groups > 1) {
    dims[0] /= conv.shape.groups;
    dims.insert(dims.begin(), conv.shape.groups);
  }
  return dims;
}

std::unique_ptr<Kernel> make_conv(const Conv& conv, Layout layout, dnnl::algorithm algorithm) {
  return onednn::try_make([&]() -> std::unique_ptr<Kernel> {
    const KernelRequest& request = conv.request;
    TensorInfo x = request.inputs[0], y = request.outputs[0];
    x.layout = layout, y.layout = layout;
    const memory::desc src = onednn::describe(x), dst = onednn::describe(y);
    const memory::data_type weight_type = *onednn::type_of(conv.input(conv.w).type);
    const memory::dims dims = weight_dims(conv);
    const memory::desc weights_any(dims, weight_type, memory::format_tag::any);
    memory::dims strides, dilations, pads_begin, pads_end;
    for (const ops::WindowAxis& axis : conv.shape.axes) {
      strides.push_back(axis.stride);
      dilations.push_back(axis.dilation - 1);
      pads_begin.push_back(axis.pad_begin);
      // As much as the last window reaches beyond the image: less than the model says if the stride leaves some out.
      pads_end.push_back(axis.begin_of(axis.out - 1) + (axis.kernel - 1) * axis.dilation + 1 - axis.in);
    }
    const bool has_bias = conv.b >= 0;
    const memory::desc bias_desc({conv.shape.out_channels}, memory::data_type::f32, memory::format_tag::a);

    dnnl::primitive_attr attributes = onednn::make_attributes();
    dnnl::post_ops post_ops;
    Tensor bias = has_bias ? to_float(*conv.constant(conv.b)) : Tensor();
    std::optional<QuantisedParts> parts;
    if (conv.is_quantised) {
      parts = read_quantised(request, conv.shape.out_channels);
      if (!parts) return nullptr;
    }
    std::vector<Primitive::Argument> arguments;
    memory::desc addend;
    if (conv.z >= 0) {
      TensorInfo z = conv.input(conv.z);
      z.layout = layout;
      addend = onednn::describe(z);
    }
    if (parts) {
      if (!append_quantised(*parts, request, 1, addend, attributes, post_ops, bias)) return nullptr;
    } else {
      if (conv.z >= 0) post_ops.append_binary(dnnl::algorithm::binary_add, addend);
      if (!onednn::append_activation(post_ops, request.node)) return nullptr;
    }
    attributes.set_post_ops(post_ops);
    const bool with_bias = !bias.is_null();
    const auto kind = dnnl::prop_kind::forward_inference;
    const auto desc = with_bias ? dnnl::convolution_forward::desc(kind, algorithm, src, weights_any, bias_desc, dst,
                                                                 strides, dilations, pads_begin, pads_end)
                                : dnnl::convolution_forward::desc(kind, algorithm, src, weights_any, dst, strides,
                                                                 dilations, pads_begin, pads_end);
    const dnnl::convolution_forward::primitive_desc primitive_desc(desc, attributes, onednn::engine());
    if (std::string_view(primitive_desc.impl_info_str()).starts_with("ref")) return nullptr;

    const Tensor& w = *conv.constant(conv.w);
    memory::dims plain_strides(dims.size(), 1);
    for (size_t d = dims.size() - 1; d-- > 0;) plain_strides[d] = plain_strides[d + 1] * dims[d + 1];
    const memory::desc plain(dims, weight_type, plain_strides);
    arguments.push_back({.name = DNNL_ARG_SRC, .desc = src, .input = 0});
    arguments.push_back({.name = DNNL_ARG_WEIGHTS, .desc = primitive_desc.weights_desc(),
                         .constant = onednn::pack(request.weights, w, plain, primitive_desc.weights_desc())});
    if (with_bias) arguments.push_back({.name = DNNL_ARG_BIAS, .desc = bias_desc, .constant = bias});
    arguments.push_back({.name = DNNL_ARG_DST, .desc = dst, .output = 0});
    if (conv.z >= 0) {
      const int position = parts ? parts->addend_position : 0;
      arguments.push_back({.name = DNNL_ARG_ATTR_MULTIPLE_POST_OP(position) | DNNL_ARG_SRC_1, .desc = addend,
                           .input = conv.z});
    }
    return std::make_unique<Primitive>(dnnl::convolution_forward(primitive_desc), primitive_desc.scratchpad_desc(),
                                       std::move(arguments));
  });
}

}  // namespace

std::vector<KernelChoice> list_conv(const KernelRequest& request) {
  Conv conv{.request = request};
  conv.is_quantised = request.node.op_type == "QConv";
  auto has = [&](int i) {
    return i < static_cast<int>(request.inputs.size()) && conv.input(i).type != ElementType::kUndefined;
  };
  if (conv.is_quantised) {
    conv.w = kQuantisedW;
    conv.b = has(kQuantisedB) ? kQuantisedB : -1;
    conv.z = has(kQuantisedZ) ? kQuantisedZ : -1;
  } else {
    conv.b = has(2) ? 2 : -1;
    conv.z = has(3) ? 3 : -1;
  }
  const ElementType type = request.inputs[0].type;
  const bool is_float = type == ElementType::kF32 || type == ElementType::kBF16;
  if (conv.is_quantised == is_float || conv.constant(conv.w) == nullptr) return {};
  if (conv.is_quantised && !onednn::has_byte_products()) return {};
  const std::string activation = request.node.get_string("activation", "");
  const bool is_simple = activation.empty() || activation == "Relu";
  if (!is_simple && !onednn::has_avx512()) return {};
  if (conv.b >= 0 && conv.constant(conv.b) == nullptr) return {};
  const int rank = request.inputs[0].shape.rank();
  if (rank < 3 || rank > 5 || !onednn::can_describe(request.inputs[0]) || !onednn::can_describe(conv.input(conv.w)) ||
      !onednn::can_describe(request.outputs[0])) {
    return {};
  }
  if (conv.z >= 0 && !onednn::can_describe(conv.input(conv.z))) return {};
  conv.shape = ops::read_conv(request.node, request.inputs[0].shape, conv.input(conv.w).shape);

  std::vector<KernelChoice> choices;
  auto add = [&](std::string name, Layout layout, dnnl::algorithm algorithm, double handicap) {
    KernelChoice choice{.name = std::move(name)};
    choice.inputs.assign(request.inputs.size(), Layout::kPlain);
    choice.inputs[0] = layout;
    if (conv.z >= 0) choice.inputs[static_cast<size_t>(conv.z)] = layout;
    choice.outputs.assign(request.outputs.size(), layout);
    choice.handicap = handicap;
    choice.make = [conv, layout, algorithm] { return make_conv(conv, layout, algorithm); };
    choices.push_back(std::move(choice));
  };
  add("conv nhwc", Layout::kChannelsLast, dnnl::algorithm::convolution_direct, 0);
  add("conv blocked16", Layout::kBlocked16, dnnl::algorithm::convolution_direct, 10);
  const bool fits_winograd = rank == 4 && type == ElementType::kF32 && conv.shape.groups == 1 &&
                             std::all_of(conv.shape.axes.begin(), conv.shape.axes.end(), [](const auto& axis) {
                               return axis.kernel == 3 && axis.stride == 1 && axis.dilation == 1;
                             });
  if (fits_winograd && conv.shape.channels >= 16 && conv.shape.out_channels >= 16) {
    // It costs precision, so that it has to prove that it is worth that.
    add("conv winograd", Layout::kBlocked16, dnnl::algorithm::convolution_winograd, 1e9);
  }
  return choices;
}

}  // namespace sluice::graph::kernels
