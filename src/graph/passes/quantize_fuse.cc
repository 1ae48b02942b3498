// fuse-qdq: products whose operands are dequantised integers are computed on the integers (sluice.QConv, QMatMul), with
// what stands between them and the next quantisation; and of other nodes between dequantisation and quantisation those
// for which com.microsoft has an operator on integers become that (QLinearAdd, QLinearGlobalAveragePool, ...).
//
// The nodes are walked in their order and a product takes in one neighbour after the other: a batch normalisation or a
// constant that is added (into scales and bias), a tensor that is added (Z), an activation, a quantisation. All of
// them only if nobody else reads what the product made so far. Sums of integers are exact where floats round, so
// results differ from the unfused ones by what those rounded: at most one step of the output's scale.
#include <algorithm>
#include <cmath>

#include "graph/passes/quantize_match.h"
#include "graph/passes/quantize_product.h"

namespace sluice::graph::passes {
namespace {

class Fusion {
 public:
  Fusion(Graph& graph, PassState& state) : graph_(graph), rewriter_(graph, state) {}

  bool run() {
    for (Node& node : graph_.nodes) {
      if (rewriter_.is_dead(node) || node.outputs.empty() || node.inputs.empty()) continue;
      const bool is_made =
          make_product(node) || normalise(node) || scale(node) || add(node) || activate(node) || cut_off(node);
      if (is_made) continue;
      const std::optional<Quantised> to = find_quantisation(rewriter_, node);
      if (to && !quantise_product(node, *to)) quantise_other(node, *to);
    }
    return rewriter_.finish();
  }

 private:
  // Conv, MatMul and Gemm in their forms.

  bool make_product(Node& node) {
    if (node.inputs.size() < 2 || node.outputs.empty()) return false;
    if (node.op_type == "Conv" && node.domain.empty()) return make_conv(node);
    if (node.op_type == "FusedConv" && node.domain == kMicrosoft) return make_conv(node);
    if (node.op_type == "MatMul" && node.domain.empty()) return make_matmul(node, {}, {});
    if (node.op_type == "Gemm" && node.domain.empty()) return make_gemm(node);
    if (node.op_type != "FusedMatMul") return false;
    if (node.domain == kMicrosoft) {
      const bool is_plain = node.get_int("transBatchA", 0) == 0 && node.get_int("transBatchB", 0) == 0;
      return is_plain && make_matmul(node, {"transA", "transB", "alpha"}, {});
    }
    if (node.domain != kSluice) return false;
    auto input = [&](size_t i) { return i < node.inputs.size() ? node.inputs[i] : kNoValue; };
    return make_matmul(node, {"transA", "transB", "alpha", "activation", "activation_params"},
                       {.bias = input(2), .z = input(3)});
  }

  struct Added {
    ValueId bias = kNoValue, z = kNoValue;  // of float32
  };

  bool is_channel_axis(const Quantised& w, int from_begin, int from_end) const {
    if (!w.axis) return true;
    if (!rewriter_.has_rank(w.integers)) return false;
    const int rank = rewriter_.rank(w.integers), axis = *w.axis < 0 ? *w.axis + rank : *w.axis;
    return from_end > 0 ? axis == rank - from_end : axis == from_begin;
  }

  bool make_conv(Node& node) {
    const std::optional<Quantised> x = find_quantised(rewriter_, node.inputs[0]);
    const std::optional<Quantised> w = find_quantised(rewriter_, node.inputs[1]);
    if (!x || x->axis || !w || !is_channel_axis(*w, 0, 0)) return false;
    auto input = [&](size_t i) { return i < node.inputs.size() ? node.inputs[i] : kNoValue; };
    const Added added{.bias = input(2), .z = node.op_type == "FusedConv" ? input(3) : kNoValue};
    if (!can_add(added)) return false;
    make(node, "QConv", *x, *w, added, node.attributes);
    return true;
  }

  bool make_matmul(Node& node, std::vector<std::string_view> attributes, Added added) {
    const std::optional<Quantised> x = find_quantised(rewriter_, node.inputs[0]);
    const std::optional<Quantised> w = find_quantised(rewriter_, node.inputs[1]);
    if (!x || x->axis || !w || !can_add(added)) return false;
    if (w->axis && (!rewriter_.has_rank(w->integers) || rewriter_.rank(w->integers) < 2)) return false;
    const bool is_transposed = node.op_type != "MatMul" && node.get_int("transB", 0) != 0;
    if (!is_channel_axis(*w, 0, is_transposed ? 2 : 1)) return false;
    std::map<std::string, Attribute, std::less<>> kept;
    for (const auto& [name, attribute] : node.attributes) {
      if (std::find(attributes.begin(), attributes.end(), name) != attributes.end()) kept.emplace(name, attribute);
    }
    make(node, "QMatMul", *x, *w, added, std::move(kept));
    return true;
  }

  // C broadcasts: as a bias for all rows, or as a matrix.
  bool make_gemm(Node& node) {
    const float beta = node.get_float("beta", 1);
    const ValueId c = node.inputs.size() > 2 && beta != 0 ? node.inputs[2] : kNoValue;
    if (c == kNoValue) return make_matmul(node, {"transA", "transB", "alpha"}, {});
    if (!rewriter_.has_rank(c)) return false;
    const Tensor* constant = rewriter_.f32_constant(c);
    const Dims& dims = rewriter_.dims(c);
    const bool is_row = dims.empty() || dims.size() == 1 || (dims[0].is_known() && dims[0].value() == 1);
    Added added;
    if (constant != nullptr && is_row) {
      added.bias = rewriter_.add_constant(times(constant->reshaped(Shape{constant->count()}), beta),
                                          graph_.value(c).name + "_bias");
    } else if (beta == 1 && dims.size() == 1) {
      added.bias = c;
    } else if (beta == 1 && rewriter_.has_same_dims(c, node.outputs[0])) {
      added.z = c;
    } else {
      return false;
    }
    return make_matmul(node, {"transA", "transB", "alpha"}, added);
  }

  static Tensor times(const Tensor& tensor, float factor) {
    Tensor product = tensor.copy();
    float* values = product.data<float>();
    for (int64_t i = 0; i < product.count(); ++i) values[i] *= factor;
    return product;
  }

  bool can_add(const Added& added) const {
    return (added.bias == kNoValue || rewriter_.is_f32(added.bias)) &&
           (added.z == kNoValue || rewriter_.is_f32(added.z));
  }

  void make(Node& node, const char* op, const Quantised& x, const Quantised& w, const Added& added,
            std::map<std::string, Attribute, std::less<>> attributes) {
    Node product = make_node(kSluice, op, 1, node, {}, std::move(attributes));
    set_operands(rewriter_, product, x, w);
    if (added.bias != kNoValue) set_product_input(product, kProductB, added.bias);
    if (added.z != kNoValue) set_z(product, added.z);
    rewriter_.replace(node, std::move(product));
  }

  void set_z(Node& product, ValueId z) {
    const std::optional<Quantised> quantised = find_quantised(rewriter_, z);
    if (!quantised || quantised->axis) return set_product_input(product, kProductZ, z);
    set_product_input(product, kProductZ, quantised->integers);
    set_product_input(product, kProductZScale, quantised->scale);
    set_product_input(product, kProductZZero, get_zero(rewriter_, *quantised));
  }

  // What follows a product.

  // A product in float32 that nobody else reads, without an activation.
  Node* find_open(ValueId id) const {
    if (id == kNoValue || !rewriter_.has_one_use(id)) return nullptr;
    Node* node = rewriter_.producer(id);
    if (node == nullptr || !is_product(*node) || has_product_input(*node, kProductYScale)) return nullptr;
    return node->get_string("activation", "").empty() ? node : nullptr;
  }

  // The numbers of a constant that broadcasts along the channels of a product's output and does not widen it; one for
  // all channels, or one each.
  const Tensor* find_channels(const Node& product, ValueId id) const {
    const Tensor* tensor = rewriter_.f32_constant(id);
    const ValueId output = product.outputs[0];
    if (tensor == nullptr || !rewriter_.has_rank(output)) return nullptr;
    const int rank = rewriter_.rank(output), from_end = product.op_type == "QConv" ? rank - 1 : 1;
    if (tensor->rank() > rank) return nullptr;
    for (int i = 0; i < tensor->rank(); ++i) {
      if (tensor->rank() - i != from_end && tensor->dim(i) != 1) return nullptr;
    }
    if (tensor->count() == 1) return tensor;
    return rewriter_.known_dim(output, -from_end) == tensor->count() ? tensor : nullptr;
  }

  // Element i of a tensor with one number, or with as many as there are channels.
  static float at(const Tensor& tensor, int64_t i) { return tensor.data<float>()[tensor.count() == 1 ? 0 : i]; }

  // scales and bias become factor * scale and factor * bias + shift.
  bool rescale(Node& node, const Node& product, const Tensor& factors, const Tensor& shifts) {
    if (has_product_input(product, kProductZ)) return false;
    const Tensor* scales = rewriter_.f32_constant(product.inputs[kProductWScale]);
    const bool has_bias = has_product_input(product, kProductB);
    const Tensor* bias = has_bias ? rewriter_.f32_constant(product.inputs[kProductB]) : nullptr;
    if (scales == nullptr || (has_bias && bias == nullptr)) return false;
    const int64_t channels = std::max({factors.count(), shifts.count(), scales->count(), has_bias ? bias->count() : 1});
    Tensor new_scales(ElementType::kF32, Shape{channels}), new_bias(ElementType::kF32, Shape{channels});
    for (int64_t i = 0; i < channels; ++i) {
      new_scales.data<float>()[i] = at(*scales, i) * at(factors, i);
      new_bias.data<float>()[i] = (has_bias ? at(*bias, i) * at(factors, i) : 0.0f) + at(shifts, i);
    }
    Node rescaled = product;
    const std::string name = graph_.value(product.outputs[0]).name;
    set_product_input(rescaled, kProductWScale, rewriter_.add_constant(std::move(new_scales), name + "_scale"));
    set_product_input(rescaled, kProductB, rewriter_.add_constant(std::move(new_bias), name + "_bias"));
    rewriter_.replace(node, std::move(rescaled));
    return true;
  }

  bool normalise(Node& node) {
    if (node.op_type != "BatchNormalization" || !node.domain.empty() || node.inputs.size() < 5) return false;
    const Node* product = find_open(node.inputs[0]);
    const bool has_others =
        std::any_of(node.outputs.begin() + 1, node.outputs.end(), [](ValueId id) { return id != kNoValue; });
    if (product == nullptr || product->op_type != "QConv" || has_others || node.get_int("training_mode", 0) != 0 ||
        node.get_int("spatial", 1) == 0) {
      return false;
    }
    const Tensor* parameters[4];
    for (size_t i = 0; i < 4; ++i) {
      parameters[i] = rewriter_.f32_constant(node.inputs[i + 1]);
      const bool fits = parameters[i] != nullptr && parameters[i]->rank() == 1 &&
                        rewriter_.known_dim(product->outputs[0], 1) == parameters[i]->count();
      if (!fits) return false;
    }
    const Tensor &scales = *parameters[0], &biases = *parameters[1], &means = *parameters[2],
                 &variances = *parameters[3];
    const float epsilon = node.get_float("epsilon", 1e-5f);
    Tensor factors(ElementType::kF32, scales.shape()), shifts(ElementType::kF32, scales.shape());
    for (int64_t i = 0; i < scales.count(); ++i) {
      const float factor = at(scales, i) / std::sqrt(at(variances, i) + epsilon);
      if (!std::isfinite(factor)) return false;
      factors.data<float>()[i] = factor;
      shifts.data<float>()[i] = at(biases, i) - at(means, i) * factor;
    }
    return rescale(node, *product, factors, shifts);
  }

  bool scale(Node& node) {
    if (!node.domain.empty() || node.opset < 7 || node.inputs.size() != 2) return false;
    if (node.op_type == "Mul") {
      for (size_t i = 0; i < 2; ++i) {
        const Node* product = find_open(node.inputs[i]);
        const Tensor* factors = product == nullptr ? nullptr : find_channels(*product, node.inputs[1 - i]);
        if (factors != nullptr && rescale(node, *product, *factors, Tensor::scalar(0.0f))) return true;
      }
    } else if (node.op_type == "Div") {
      const Node* product = find_open(node.inputs[0]);
      const std::optional<double> divisor = rewriter_.scalar(node.inputs[1]);
      if (product == nullptr || !divisor || find_channels(*product, node.inputs[1]) == nullptr) return false;
      const auto factor = static_cast<float>(1 / *divisor);
      return std::isfinite(factor) && rescale(node, *product, Tensor::scalar(factor), Tensor::scalar(0.0f));
    }
    return false;
  }

  bool add(Node& node) {
    if (node.op_type != "Add" || !node.domain.empty() || node.opset < 7 || node.inputs.size() != 2) return false;
    if (node.inputs[0] == node.inputs[1]) return false;
    const Node* products[2] = {find_open(node.inputs[0]), find_open(node.inputs[1])};
    for (size_t i = 0; i < 2; ++i) {
      const Tensor* shifts = products[i] == nullptr ? nullptr : find_channels(*products[i], node.inputs[1 - i]);
      if (shifts != nullptr && rescale(node, *products[i], Tensor::scalar(1.0f), *shifts)) return true;
    }
    if (!rewriter_.has_same_dims(node.inputs[0], node.inputs[1])) return false;
    for (size_t i = 0; i < 2; ++i) {
      const bool is_free = products[i] != nullptr && !has_product_input(*products[i], kProductZ);
      if (!is_free || !rewriter_.is_f32(node.inputs[1 - i])) continue;
      Node sum = *products[i];
      set_z(sum, node.inputs[1 - i]);
      rewriter_.replace(node, std::move(sum));
      return true;
    }
    return false;
  }

  bool activate(Node& node) {
    const std::optional<Activation> activation = find_activation(rewriter_, node);
    const Node* product = activation ? find_open(node.inputs[0]) : nullptr;
    if (product == nullptr) return false;
    Node activated = *product;
    set_activation(activated, *activation);
    rewriter_.replace(node, std::move(activated));
    return true;
  }

  // Clip on the integers that a product gives: the same before they are rounded.
  bool cut_off(Node& node) {
    if (node.op_type != "Clip" || !node.domain.empty() || node.inputs.size() < 3) return false;
    const Node* product = rewriter_.has_one_use(node.inputs[0]) ? rewriter_.producer(node.inputs[0]) : nullptr;
    if (product == nullptr || !is_product(*product) || !has_product_input(*product, kProductYScale)) return false;
    const Quantised y{.type = rewriter_.type(node.inputs[0]).element, .scale = product->inputs[kProductYScale],
                      .zero = product->inputs.size() > kProductYZero ? product->inputs[kProductYZero] : kNoValue};
    const std::optional<double> scale = rewriter_.scalar(y.scale);
    const std::optional<int> zero = find_zero(rewriter_, y), low = find_zero(rewriter_, {.zero = node.inputs[1]}),
                             high = find_zero(rewriter_, {.zero = node.inputs[2]});
    const bool is_known = scale && zero && low && high && *low <= *high && is_positive_scale(rewriter_, y.scale);
    if (!is_known || !product->get_string("activation", "").empty()) return false;
    Node cut = *product;
    const int highest = y.type == ElementType::kU8 ? 255 : 127;
    if (*low == *zero && *high == highest) {
      set_activation(cut, {"Relu", {}});
    } else {
      auto real = [&](int bound) { return static_cast<float>((bound - *zero) * *scale); };
      set_activation(cut, {"Clip", {real(*low), real(*high)}});
    }
    const Activation activation{cut.get_string("activation", ""), cut.get_floats("activation_params")};
    if (is_within_range(rewriter_, activation, y)) {
      cut.attributes.erase("activation");
      cut.attributes.erase("activation_params");
    }
    rewriter_.replace(node, std::move(cut));
    return true;
  }

  // Nodes that quantise.

  bool quantise_product(Node& node, const Quantised& to) {
    const ValueId real = node.inputs[0];
    const Node* product = rewriter_.has_one_use(real) ? rewriter_.producer(real) : nullptr;
    if (product == nullptr || !is_product(*product) || has_product_input(*product, kProductYScale)) return false;
    Node quantised = *product;
    const Activation activation{quantised.get_string("activation", ""), quantised.get_floats("activation_params")};
    if (is_within_range(rewriter_, activation, to)) {
      quantised.attributes.erase("activation");
      quantised.attributes.erase("activation_params");
    }
    set_product_input(quantised, kProductYScale, to.scale);
    set_product_input(quantised, kProductYZero, get_zero(rewriter_, to));
    rewriter_.replace(node, std::move(quantised));
    return true;
  }

  void quantise_other(Node& node, const Quantised& to) {
    const ValueId real = node.inputs[0];
    const Node* maker = rewriter_.has_one_use(real) ? rewriter_.producer(real) : nullptr;
    if (maker == nullptr || !maker->domain.empty() || maker->inputs.empty()) return;
    const std::string& op = maker->op_type;
    if ((op == "Add" || op == "Mul") && maker->opset >= 7) return quantise_binary(node, *maker, to);
    if (op == "Sigmoid") return quantise_unary(node, *maker, to, "QLinearSigmoid", {});
    if (op == "Relu") return quantise_unary(node, *maker, to, "QLinearLeakyRelu", {{"alpha", make_float(0)}});
    if (op == "LeakyRelu") {
      const Attribute alpha = make_float(maker->get_float("alpha", 0.01f));
      return quantise_unary(node, *maker, to, "QLinearLeakyRelu", {{"alpha", alpha}});
    }
    if (op == "GlobalAveragePool" || is_spatial_mean(*maker)) {
      return quantise_unary(node, *maker, to, "QLinearGlobalAveragePool", {});
    }
    if (op == "AveragePool" && is_common_pool(*maker)) {
      return quantise_unary(node, *maker, to, "QLinearAveragePool", maker->attributes);
    }
    if (op == "Softmax") {
      const Attribute axis = make_int(maker->get_int("axis", maker->opset < 13 ? 1 : -1));
      return quantise_unary(node, *maker, to, "QLinearSoftmax", {{"axis", axis}, {"opset", make_int(maker->opset)}});
    }
  }

  void quantise_unary(Node& node, const Node& maker, const Quantised& to, const char* op,
                      std::map<std::string, Attribute, std::less<>> attributes) {
    const std::optional<Quantised> x = find_quantised(rewriter_, maker.inputs[0]);
    if (!x || x->axis || x->type != to.type) return;
    rewriter_.replace(node, make_node(kMicrosoft, op, 1, maker,
                                      {x->integers, x->scale, get_zero(rewriter_, *x), to.scale,
                                       get_zero(rewriter_, to)},
                                      std::move(attributes)));
  }

  void quantise_binary(Node& node, const Node& maker, const Quantised& to) {
    if (maker.inputs.size() != 2) return;
    const std::optional<Quantised> a = find_quantised(rewriter_, maker.inputs[0]);
    const std::optional<Quantised> b = find_quantised(rewriter_, maker.inputs[1]);
    if (!a || !b || a->axis || b->axis || a->type != to.type || b->type != to.type) return;
    rewriter_.replace(node, make_node(kMicrosoft, maker.op_type == "Add" ? "QLinearAdd" : "QLinearMul", 1, maker,
                                      {a->integers, a->scale, get_zero(rewriter_, *a), b->integers, b->scale,
                                       get_zero(rewriter_, *b), to.scale, get_zero(rewriter_, to)}));
  }

  // ReduceMean over all axes but the first two.
  bool is_spatial_mean(const Node& node) const {
    if (node.op_type != "ReduceMean" || node.get_int("keepdims", 1) == 0 || !rewriter_.has_rank(node.inputs[0])) {
      return false;
    }
    std::vector<int64_t> axes = node.get_ints("axes");
    if (node.opset >= 18) {
      const Tensor* tensor = node.inputs.size() > 1 ? rewriter_.constant(node.inputs[1]) : nullptr;
      if (tensor == nullptr) return false;
      axes = to_ints(*tensor);
    }
    const int rank = rewriter_.rank(node.inputs[0]);
    for (int64_t& axis : axes) axis += axis < 0 ? rank : 0;
    std::sort(axes.begin(), axes.end());
    if (rank < 3 || axes.size() != static_cast<size_t>(rank - 2)) return false;
    for (size_t i = 0; i < axes.size(); ++i) {
      if (axes[i] != static_cast<int64_t>(i) + 2) return false;
    }
    return true;
  }

  // With attributes that the operator on integers has too, and pads smaller than the kernel.
  bool is_common_pool(const Node& node) const {
    const std::vector<int64_t> kernel = node.get_ints("kernel_shape"), pads = node.get_ints("pads");
    const std::vector<int64_t> dilations = node.get_ints("dilations");
    if (kernel.empty() || kernel.size() > 3 || (!pads.empty() && pads.size() != 2 * kernel.size())) return false;
    if (node.get_int("ceil_mode", 0) != 0 && node.get_int("count_include_pad", 0) != 0) return false;
    for (size_t i = 0; i < pads.size(); ++i) {
      if (pads[i] < 0 || pads[i] >= kernel[i % kernel.size()]) return false;
    }
    return std::all_of(dilations.begin(), dilations.end(), [](int64_t dilation) { return dilation == 1; });
  }

  Graph& graph_;
  Rewriter rewriter_;
};

}  // namespace

bool fuse_qdq(Graph& graph, PassState& state) { return Fusion(graph, state).run(); }

}  // namespace sluice::graph::passes
