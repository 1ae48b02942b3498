// Operators of TFLite with weights or windows: convolutions, fully connected layers, pools, normalisations, resizing.
//
// Weights come in the order of the file (OHWI) and are put into ours (OIHW) here. A bias of integers has the scale of
// input times weights, whatever the file says (that is how TFLite computes), and becomes float32. Weights of integers
// under float activations ("dynamic range" quantisation) are dequantised, and activations stay float.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "graph/import_tflite_ops.h"

namespace sluice::graph {
namespace {

using enum TfliteLayout;
using tflite::Activation;
using tflite::BuiltinOperator;

constexpr int64_t kMaxWindow = 1 << 16;

int64_t check_window(int64_t value, const char* what) {
  if (value < 1 || value > kMaxWindow) fail(Code::kInvalidArgument, "{} is {}", what, value);
  return value;
}

// Where a window stands over an image: [height, width].
struct Window {
  int64_t kernel[2], stride[2], dilation[2] = {1, 1};
  bool is_same = false;
};

template <typename Options>
Window read_window(const Options& options, int64_t kernel_height, int64_t kernel_width) {
  Window window;
  window.kernel[0] = check_window(kernel_height, "the height of the window");
  window.kernel[1] = check_window(kernel_width, "the width of the window");
  window.stride[0] = check_window(options.stride_h(), "stride_h");
  window.stride[1] = check_window(options.stride_w(), "stride_w");
  window.is_same = options.padding() == tflite::Padding::SAME;
  return window;
}

template <typename Options>
void read_dilation(const Options& options, Window& window) {
  window.dilation[0] = check_window(options.dilation_h_factor(), "dilation_h_factor");
  window.dilation[1] = check_window(options.dilation_w_factor(), "dilation_w_factor");
}

// SAME puts the odd one at the end. Sizes that only a run knows leave it to the operator.
void add_window(const Window& window, const TfliteTensor& x, bool is_pool, Attributes& attributes) {
  if (is_pool) attributes["kernel_shape"] = ints_attribute({window.kernel[0], window.kernel[1]});
  attributes["strides"] = ints_attribute({window.stride[0], window.stride[1]});
  if (!is_pool) attributes["dilations"] = ints_attribute({window.dilation[0], window.dilation[1]});
  if (!window.is_same) return;
  std::vector<int64_t> pads(4, 0);
  for (size_t d = 0; d < 2; ++d) {
    const std::optional<int64_t> in = x.is_image() ? x.dims[d + 1].known() : std::nullopt;
    if (!in) {
      attributes["auto_pad"] = string_attribute("SAME_UPPER");
      return;
    }
    const int64_t out = (*in + window.stride[d] - 1) / window.stride[d];
    const int64_t reach = (out - 1) * window.stride[d] + (window.kernel[d] - 1) * window.dilation[d] + 1;
    const int64_t total = std::max<int64_t>(0, reach - *in);
    pads[d] = total / 2;
    pads[d + 2] = total - total / 2;
  }
  attributes["pads"] = ints_attribute(std::move(pads));
}

// Weights in the order of `perm`, as floats; quantised ones behind a DequantizeLinear.
ValueId read_weights(const TfliteOp& op, int i, std::vector<int> perm) {
  const TfliteTensor& weights = op.in(i);
  if (!weights.is_constant) {
    const bool is_plain = std::is_sorted(perm.begin(), perm.end());
    const ValueId value = op.graph.real(op.input(i));
    return is_plain ? value : op.graph.transpose(value, {perm.begin(), perm.end()});
  }
  if (weights.data.rank() != static_cast<int>(perm.size()))
    fail(Code::kInvalidArgument, "its weights have {} dimensions, not {}", weights.data.rank(), perm.size());
  const bool is_plain = std::is_sorted(perm.begin(), perm.end());
  const ValueId stored = op.graph.constant(is_plain ? weights.data : transpose_tensor(weights.data, perm), "weights");
  if (!weights.is_quantised()) {
    if (weights.element == ElementType::kF16) return op.graph.cast(stored, ElementType::kF32);
    return stored;
  }
  const auto axis = std::find(perm.begin(), perm.end(), weights.axis) - perm.begin();
  return op.graph.dequantise(weights, stored, axis);
}

// kNoValue if there is none.
ValueId read_bias(const TfliteOp& op, int i, int input, int weights) {
  if (!op.has_input(i)) return kNoValue;
  const TfliteTensor& bias = op.in(i);
  if (!is_integer(bias.element)) {
    const ValueId value = op.graph.real(op.input(i));
    return bias.element == ElementType::kF16 ? op.graph.cast(value, ElementType::kF32) : value;
  }
  const TfliteTensor &x = op.in(input), &w = op.in(weights);
  if (!bias.is_constant || x.scales.size() != 1 || w.scales.empty())
    fail(Code::kUnimplemented, "has a bias of integers that is computed, or without scales of input and weights");
  if (w.scales.size() != 1 && static_cast<int64_t>(w.scales.size()) != bias.data.count()) {
    fail(Code::kInvalidArgument, "has {} scales of weights and {} numbers in its bias", w.scales.size(),
         bias.data.count());
  }
  std::vector<float> values;
  const std::vector<int64_t> stored = to_ints(bias.data);
  for (size_t c = 0; c < stored.size(); ++c) {
    const float w_scale = w.scales[w.scales.size() == 1 ? 0 : c];
    values.push_back(static_cast<float>(static_cast<double>(stored[c]) * static_cast<double>(x.scales[0]) *
                                        static_cast<double>(w_scale)));
  }
  return op.graph.constant(Tensor::vector(values), "bias");
}

std::vector<ValueId> with_bias(ValueId x, ValueId weights, ValueId bias) {
  std::vector<ValueId> inputs = {x, weights};
  if (bias != kNoValue) inputs.push_back(bias);
  return inputs;
}

int64_t known_dim(const TfliteTensor& tensor, size_t d, const char* what) {
  if (!tensor.has_rank || tensor.dims.size() <= d || !tensor.dims[d].is_known())
    fail(Code::kUnimplemented, "{} of tensor '{}' is not in the file", what, tensor.name);
  return tensor.dims[d].value();
}

void check_image(const TfliteOp& op, int i) {
  if (!op.in(i).is_image()) {
    fail(Code::kInvalidArgument, "tensor '{}' is {}; 4 dimensions are needed", op.in(i).name,
         op.in(i).has_rank ? to_string(op.in(i).dims) : "of unknown rank");
  }
}

void convolve(TfliteOp& op, const Window& window, Activation activation, std::vector<int> perm, int64_t groups) {
  Attributes attributes;
  add_window(window, op.in(0), /*is_pool=*/false, attributes);
  if (groups != 1) attributes["group"] = int_attribute(groups);
  const ValueId x = op.graph.real(op.input(0), kSecond);
  const ValueId weights = read_weights(op, 1, std::move(perm));
  const ValueId bias = read_bias(op, 2, 0, 1);
  op.finish(op.graph.node("Conv", with_bias(x, weights, bias), std::move(attributes)), activation, kSecond);
}

void run_conv(TfliteOp& op) {
  const auto& options = op.options<tflite::Conv2DOptions>();
  check_image(op, 0);
  const TfliteTensor& weights = op.in(1);
  Window window = read_window(options, known_dim(weights, 1, "the height"), known_dim(weights, 2, "the width"));
  read_dilation(options, window);
  const int64_t in_channels = known_dim(op.in(0), 3, "the number of channels");
  const int64_t per_group = known_dim(weights, 3, "the depth");
  if (per_group < 1 || in_channels % per_group != 0)
    fail(Code::kInvalidArgument, "its weights are {} deep, its input {}", per_group, in_channels);
  convolve(op, window, options.fused_activation_function(), {0, 3, 1, 2},
           std::max<int64_t>(1, in_channels / per_group));
}

void run_depthwise_conv(TfliteOp& op) {
  const auto& options = op.options<tflite::DepthwiseConv2DOptions>();
  check_image(op, 0);
  const TfliteTensor& weights = op.in(1);
  Window window = read_window(options, known_dim(weights, 1, "the height"), known_dim(weights, 2, "the width"));
  read_dilation(options, window);
  // The multiplier of channels that the options name too is not always right; TFLite does not look at it either.
  const int64_t groups = known_dim(op.in(0), 3, "the number of channels");
  if (known_dim(weights, 0, "the first dimension") != 1 || groups < 1 ||
      known_dim(weights, 3, "the depth") % groups != 0)
    fail(Code::kInvalidArgument, "weights {} do not fit to {} channels", to_string(weights.dims), groups);
  convolve(op, window, options.fused_activation_function(), {3, 0, 1, 2}, groups);
}

// Inputs: the shape of the output, weights [O, H, W, I], x, bias.
void run_transpose_conv(TfliteOp& op) {
  const auto& options = op.options<tflite::TransposeConvOptions>();
  check_image(op, 2);
  const TfliteTensor &weights = op.in(1), &x = op.in(2);
  Window window = read_window(options, known_dim(weights, 1, "the height"), known_dim(weights, 2, "the width"));
  const std::optional<std::vector<int64_t>> shape = op.graph.find_ints(op.input(0));
  if (shape && shape->size() != 4)
    fail(Code::kInvalidArgument, "the shape of its output has {} numbers", shape->size());
  Attributes attributes = {{"strides", ints_attribute({window.stride[0], window.stride[1]})}};
  std::vector<int64_t> pads(4, 0), extra(2, 0);
  for (size_t d = 0; d < 2; ++d) {
    const int64_t in = known_dim(x, d + 1, "the size");
    const int64_t out = shape ? (*shape)[d + 1] : known_dim(op.out(0), d + 1, "the size");
    const int64_t natural = (in - 1) * window.stride[d] + window.kernel[d];
    if (out < 1 || out > natural + window.stride[d])
      fail(Code::kInvalidArgument, "an output of size {} cannot come from {} places", out, in);
    // What TFLite pads, it takes from the window over the output, where SAME or VALID fits the sizes.
    const int64_t windows = window.is_same ? (out + window.stride[d] - 1) / window.stride[d]
                                           : (out - window.kernel[d] + window.stride[d]) / window.stride[d];
    const int64_t total = std::max<int64_t>(0, (windows - 1) * window.stride[d] + window.kernel[d] - out);
    pads[d] = total / 2;
    const int64_t end = natural - pads[d] - out;
    pads[d + 2] = std::max<int64_t>(0, end);
    extra[d] = std::max<int64_t>(0, -end);
  }
  attributes["pads"] = ints_attribute(std::move(pads));
  attributes["output_padding"] = ints_attribute(std::move(extra));
  const ValueId value = op.graph.real(op.input(2), kSecond);
  const ValueId filter = read_weights(op, 1, {3, 0, 1, 2});
  const ValueId bias = read_bias(op, 3, 2, 1);
  op.finish(op.graph.node("ConvTranspose", with_bias(value, filter, bias), std::move(attributes)),
            options.fused_activation_function(), kSecond);
}

void run_fully_connected(TfliteOp& op) {
  const auto* options = op.find_options<tflite::FullyConnectedOptions>();
  if (options != nullptr && options->weights_format() != 0)
    fail(Code::kUnimplemented, "its weights are shuffled for one kernel of TFLite; convert the model without that");
  const Activation activation = options == nullptr ? Activation::NONE : options->fused_activation_function();
  const TfliteTensor &x = op.in(0), &weights = op.in(1);
  const int64_t depth = known_dim(weights, 1, "the depth");
  const ValueId bias = read_bias(op, 2, 0, 1);
  ValueId value = kNoValue;
  if (options != nullptr && options->keep_num_dims() && x.has_rank && x.rank() > 2) {
    value = op.graph.node("MatMul", {op.graph.real(op.input(0)), read_weights(op, 1, {1, 0})});
    if (bias != kNoValue) value = op.graph.node("Add", {value, bias});
  } else {
    if (x.has_rank && x.rank() == 2 && x.dims[1] == Dim(depth)) {
      value = op.graph.real(op.input(0));
    } else {  // of what is stored, so that quantised inputs stay next to their DequantizeLinear
      value = op.graph.node("Reshape", {op.graph.raw(op.input(0)), op.graph.ints_constant({-1, depth})});
      if (x.is_quantised()) value = op.graph.dequantise(x, value, 0);
    }
    value = op.graph.node("Gemm", with_bias(value, read_weights(op, 1, {0, 1}), bias), {{"transB", int_attribute(1)}});
  }
  op.finish(value, activation, kLast);
}

// A layer of filters over features and then over time; inputs: x, weights of features [units * rank, depth], of time
// [units * rank, places], bias, state. A run begins with a state of zeros, so that only the last place in time counts.
void run_svdf(TfliteOp& op) {
  const auto& options = op.options<tflite::SVDFOptions>();
  const int64_t rank = check_window(options.rank(), "rank");
  const TfliteTensor &features = op.in(1), &time = op.in(2), &state = op.in(4);
  const int64_t filters = known_dim(features, 0, "the number of filters");
  if (filters < 1 || filters % rank != 0 || !time.is_constant || time.data.rank() != 2 || time.data.dim(0) != filters ||
      time.data.dim(1) < 1 || time.scales.size() > 1) {
    fail(Code::kInvalidArgument, "weights {} and {} do not fit together", to_string(features.dims),
         to_string(time.dims));
  }
  ValueId value =
      op.graph.node("Gemm", {op.graph.real(op.input(0)), read_weights(op, 1, {0, 1})}, {{"transB", int_attribute(1)}});
  if (state.is_quantised()) value = op.graph.dequantise(state, op.graph.quantise(state, value), 0);
  const ValueId last =
      op.graph.node("Gather", {op.graph.real(op.input(2)), op.graph.ints_constant({time.data.dim(1) - 1})},
                    {{"axis", int_attribute(1)}});
  value = op.graph.node("Mul", {value, op.graph.node("Reshape", {last, op.graph.ints_constant({filters})})});
  value = op.graph.node("Reshape", {value, op.graph.ints_constant({-1, filters / rank, rank})});
  value = op.graph.node("ReduceSum", {value, op.graph.ints_constant({2})}, {{"keepdims", int_attribute(0)}});
  if (op.has_input(3)) {  // of the scale of the state times that of the weights of time
    const ValueId bias = state.is_quantised() ? read_bias(op, 3, 4, 2) : op.graph.real(op.input(3));
    value = op.graph.node("Add", {value, bias});
  }
  op.finish(value, options.fused_activation_function(), kLast);
}

void run_batch_matmul(TfliteOp& op) {
  const auto* options = op.find_options<tflite::BatchMatMulOptions>();
  auto operand = [&](int i, bool is_adjoint) {
    const ValueId value = op.graph.real(op.input(i));
    if (!is_adjoint) return value;
    const int rank = op.rank(i);
    if (rank < 2) fail(Code::kInvalidArgument, "tensor '{}' is no matrix", op.in(i).name);
    std::vector<int64_t> perm(static_cast<size_t>(rank));
    std::iota(perm.begin(), perm.end(), 0);
    std::swap(perm[perm.size() - 1], perm[perm.size() - 2]);
    return op.graph.transpose(value, std::move(perm));
  };
  const ValueId a = operand(0, options != nullptr && options->adj_x());
  const ValueId b = operand(1, options != nullptr && options->adj_y());
  op.finish(op.graph.node("MatMul", {a, b}), Activation::NONE, kLast);
}

Attributes pool_attributes(const TfliteOp& op, const tflite::Pool2DOptions& options) {
  check_image(op, 0);
  Attributes attributes;
  add_window(read_window(options, options.filter_height(), options.filter_width()), op.in(0), /*is_pool=*/true,
             attributes);
  return attributes;
}

void run_max_pool(TfliteOp& op) {
  const auto& options = op.options<tflite::Pool2DOptions>();
  Attributes attributes = pool_attributes(op, options);
  const bool is_byte = op.in(0).element == ElementType::kI8 || op.in(0).element == ElementType::kU8;
  if (is_byte && op.keeps_numbers(0) && options.fused_activation_function() == Activation::NONE) {
    const ValueId x = op.graph.raw(op.input(0), kSecond);
    return op.graph.set_raw(op.output(0), op.graph.node("MaxPool", {x}, std::move(attributes)), kSecond);
  }
  const ValueId x = op.graph.real(op.input(0), kSecond);
  op.finish(op.graph.node("MaxPool", {x}, std::move(attributes)), options.fused_activation_function(), kSecond);
}

void run_average_pool(TfliteOp& op) {
  const auto& options = op.options<tflite::Pool2DOptions>();
  Attributes attributes = pool_attributes(op, options);
  const ValueId x = op.graph.real(op.input(0), kSecond);
  const TfliteTensor& in = op.in(0);
  const bool is_global = in.dims[1] == Dim(options.filter_height()) && in.dims[2] == Dim(options.filter_width()) &&
                         options.padding() == tflite::Padding::VALID;
  const ValueId y =
      is_global ? op.graph.node("GlobalAveragePool", {x}) : op.graph.node("AveragePool", {x}, std::move(attributes));
  op.finish(y, options.fused_activation_function(), kSecond);
}

void run_l2_pool(TfliteOp& op) {
  const auto& options = op.options<tflite::Pool2DOptions>();
  Attributes attributes = pool_attributes(op, options);
  const ValueId x = op.graph.real(op.input(0), kSecond);
  const ValueId squares = op.graph.node("Mul", {x, x});
  const ValueId mean = op.graph.node("AveragePool", {squares}, std::move(attributes));
  op.finish(op.graph.node("Sqrt", {mean}), options.fused_activation_function(), kSecond);
}

int64_t last_axis(TfliteLayout layout) { return layout == kSecond ? 1 : -1; }

void run_softmax(TfliteOp& op) {
  const auto* options = op.find_options<tflite::SoftmaxOptions>();
  const float beta = options == nullptr ? 1.0f : options->beta();
  const TfliteLayout layout = op.layout();
  ValueId x = op.graph.real(op.input(0), layout);
  if (beta != 1.0f) x = op.graph.node("Mul", {x, op.graph.float_constant(beta)});
  op.finish(op.graph.node("Softmax", {x}, {{"axis", int_attribute(last_axis(layout))}}), Activation::NONE, layout);
}

void run_log_softmax(TfliteOp& op) {
  const TfliteLayout layout = op.layout();
  const ValueId x = op.graph.real(op.input(0), layout);
  op.finish(op.graph.node("LogSoftmax", {x}, {{"axis", int_attribute(last_axis(layout))}}), Activation::NONE, layout);
}

void run_l2_normalization(TfliteOp& op) {
  const auto* options = op.find_options<tflite::L2NormOptions>();
  const TfliteLayout layout = op.layout();
  const ValueId x = op.graph.real(op.input(0), layout);
  const ValueId norm = op.graph.node("ReduceL2", {x, op.graph.ints_constant({last_axis(layout)})});
  const ValueId safe = op.graph.node("Max", {norm, op.graph.float_constant(1e-6f)});
  op.finish(op.graph.node("Div", {x, safe}),
            options == nullptr ? Activation::NONE : options->fused_activation_function(), layout);
}

void run_local_response_normalization(TfliteOp& op) {
  const auto& options = op.options<tflite::LocalResponseNormalizationOptions>();
  check_image(op, 0);
  if (options.radius() < 0 || options.radius() > kMaxWindow)
    fail(Code::kInvalidArgument, "radius is {}", options.radius());
  const int64_t size = 2 * int64_t{options.radius()} + 1;
  Attributes attributes = {{"size", int_attribute(size)},
                           {"alpha", float_attribute(options.alpha() * static_cast<float>(size))},
                           {"beta", float_attribute(options.beta())},
                           {"bias", float_attribute(options.bias())}};
  const ValueId x = op.graph.real(op.input(0), kSecond);
  op.finish(op.graph.node("LRN", {x}, std::move(attributes)), Activation::NONE, kSecond);
}

// The size is [height, width]. Numbers of the nearest neighbour are taken as they are stored.
void resize(TfliteOp& op, bool align_corners, bool half_pixel_centers, bool is_linear) {
  check_image(op, 0);
  if (align_corners && half_pixel_centers)
    fail(Code::kInvalidArgument, "has both align_corners and half_pixel_centers, which exclude each other");
  const char* coordinates = align_corners         ? "align_corners"
                            : !half_pixel_centers ? "asymmetric"
                            : is_linear           ? "half_pixel"
                                                  : "tf_half_pixel_for_nn";
  Attributes attributes = {{"mode", string_attribute(is_linear ? "linear" : "nearest")},
                           {"coordinate_transformation_mode", string_attribute(coordinates)},
                           {"nearest_mode", string_attribute(align_corners ? "round_prefer_ceil" : "floor")},
                           {"axes", ints_attribute({2, 3})}};
  const bool keeps = !is_linear && op.keeps_numbers(0);
  const ValueId x = keeps ? op.graph.raw(op.input(0), kSecond) : op.graph.real(op.input(0), kSecond);
  const ValueId y = op.graph.node("Resize", {x, kNoValue, kNoValue, op.graph.ints(op.input(1))}, std::move(attributes));
  if (keeps)
    op.graph.set_raw(op.output(0), y, kSecond);
  else
    op.graph.set_real(op.output(0), y, kSecond);
}

void run_resize_bilinear(TfliteOp& op) {
  const auto* options = op.find_options<tflite::ResizeBilinearOptions>();
  resize(op, options != nullptr && options->align_corners(), options != nullptr && options->half_pixel_centers(), true);
}

void run_resize_nearest(TfliteOp& op) {
  const auto* options = op.find_options<tflite::ResizeNearestNeighborOptions>();
  resize(op, options != nullptr && options->align_corners(), options != nullptr && options->half_pixel_centers(),
         false);
}

void rearrange(TfliteOp& op, int64_t block, const char* name) {
  check_image(op, 0);
  check_window(block, "block_size");
  const ValueId y =
      op.graph.node(name, {op.moved(0, kSecond)}, {{"blocksize", int_attribute(block)}});  // channels innermost: DCR
  op.finish_moved(y, kSecond);
}
void run_depth_to_space(TfliteOp& op) {
  rearrange(op, op.options<tflite::DepthToSpaceOptions>().block_size(), "DepthToSpace");
}
void run_space_to_depth(TfliteOp& op) {
  rearrange(op, op.options<tflite::SpaceToDepthOptions>().block_size(), "SpaceToDepth");
}

constexpr TfliteHandler kHandlers[] = {
    {BuiltinOperator::CONV_2D, run_conv},
    {BuiltinOperator::DEPTHWISE_CONV_2D, run_depthwise_conv},
    {BuiltinOperator::TRANSPOSE_CONV, run_transpose_conv},
    {BuiltinOperator::FULLY_CONNECTED, run_fully_connected},
    {BuiltinOperator::BATCH_MATMUL, run_batch_matmul},
    {BuiltinOperator::SVDF, run_svdf},
    {BuiltinOperator::MAX_POOL_2D, run_max_pool},
    {BuiltinOperator::AVERAGE_POOL_2D, run_average_pool},
    {BuiltinOperator::L2_POOL_2D, run_l2_pool},
    {BuiltinOperator::SOFTMAX, run_softmax},
    {BuiltinOperator::LOG_SOFTMAX, run_log_softmax},
    {BuiltinOperator::L2_NORMALIZATION, run_l2_normalization},
    {BuiltinOperator::LOCAL_RESPONSE_NORMALIZATION, run_local_response_normalization},
    {BuiltinOperator::RESIZE_BILINEAR, run_resize_bilinear},
    {BuiltinOperator::RESIZE_NEAREST_NEIGHBOR, run_resize_nearest},
    {BuiltinOperator::DEPTH_TO_SPACE, run_depth_to_space},
    {BuiltinOperator::SPACE_TO_DEPTH, run_space_to_depth},
};

}  // namespace

std::span<const TfliteHandler> tflite_nn_handlers() { return kHandlers; }

}  // namespace sluice::graph
