// fuse-integer: models whose nodes are on integers already become sluice.QConv and QMatMul too.
//
// QLinearConv and QLinearMatMul (also of com.microsoft), QGemm, MatMulIntegerToFloat and DynamicQuantizeMatMul say all
// that is needed; their bias of 32-bit integers becomes float, as what it stands for. ConvInteger and MatMulInteger
// are taken together with the Cast and the Mul by the scales that follow them, as dynamic quantisation writes them;
// an Add behind that is fuse-qdq's. Scales of the left operand's rows have no place in QMatMul: such nodes stay.
#include <algorithm>

#include "graph/passes/quantize_match.h"
#include "graph/passes/quantize_product.h"

namespace sluice::graph::passes {
namespace {

class Integers {
 public:
  Integers(Graph& graph, PassState& state) : graph_(graph), rewriter_(graph, state) {}

  bool run() {
    for (Node& node : graph_.nodes) {
      if (rewriter_.is_dead(node) || node.outputs.empty() || node.inputs.empty()) continue;
      const std::string& op = node.op_type;
      if (node.domain.empty() && op == "Mul") scale_integers(node);
      else if (op == "QLinearConv") make_conv(node);
      else if (op == "QLinearMatMul" && node.domain.empty()) make_matmul(node);
      else if (node.domain != kMicrosoft) continue;
      else if (op == "QGemm") make_gemm(node);
      else if (op == "MatMulIntegerToFloat") make_float(node);
      else if (op == "DynamicQuantizeMatMul") make_dynamic(node);
    }
    return rewriter_.finish();
  }

 private:
  static ValueId input(const Node& node, size_t i) { return i < node.inputs.size() ? node.inputs[i] : kNoValue; }

  bool is_single(ValueId id) const {
    return id == kNoValue || (rewriter_.has_rank(id) && product(rewriter_.dims(id)).known() == 1);
  }

  // Inputs `integers`, `scale` and `zero` of one scale; nullopt if they are not, or of other types.
  std::optional<Quantised> find_operand(const Node& node, size_t integers, size_t scale, size_t zero) const {
    std::optional<Quantised> operand = find_channels(node, integers, scale, zero);
    return operand && is_single(operand->scale) && is_single(operand->zero) ? operand : std::nullopt;
  }

  // The same with one scale for each channel, as a vector.
  std::optional<Quantised> find_channels(const Node& node, size_t integers, size_t scale, size_t zero) const {
    Quantised operand{.integers = input(node, integers), .scale = input(node, scale), .zero = input(node, zero)};
    if (operand.integers == kNoValue || !rewriter_.is_f32(operand.scale)) return std::nullopt;
    operand.type = rewriter_.type(operand.integers).element;
    if (!is_byte(operand.type)) return std::nullopt;
    for (const ValueId id : {operand.scale, operand.zero}) {
      if (!is_single(id) && (!rewriter_.has_rank(id) || rewriter_.rank(id) != 1)) return std::nullopt;
    }
    return operand;
  }

  // Without scales of its own.
  std::optional<Quantised> find_integers(const Node& node, size_t integers, size_t zero) const {
    Quantised operand{.integers = input(node, integers), .zero = input(node, zero)};
    if (operand.integers == kNoValue) return std::nullopt;
    operand.type = rewriter_.type(operand.integers).element;
    const bool fits =
        is_byte(operand.type) &&
        (is_single(operand.zero) || (rewriter_.has_rank(operand.zero) && rewriter_.rank(operand.zero) == 1));
    return fits ? std::optional(operand) : std::nullopt;
  }

  // A bias of 32-bit integers as floats: times both scales. kNoValue if that is not known before run time.
  ValueId find_bias(ValueId integers, const Quantised& x, const Quantised& w, float factor) {
    const Tensor* bias = rewriter_.constant(integers);
    const std::optional<double> x_scale = rewriter_.scalar(x.scale);
    const Tensor* w_scales = rewriter_.f32_constant(w.scale);
    if (bias == nullptr || bias->type() != ElementType::kI32 || !x_scale || w_scales == nullptr) return kNoValue;
    for (int i = 0; i + 1 < bias->rank(); ++i) {
      if (bias->dim(i) != 1) return kNoValue;
    }
    const int64_t count = std::max(bias->count(), w_scales->count());
    const bool fits = bias->count() > 0 && (bias->count() == 1 || bias->count() == count) &&
                      (w_scales->count() == 1 || w_scales->count() == count);
    if (!fits) return kNoValue;
    Tensor real(ElementType::kF32, Shape{count});
    for (int64_t i = 0; i < count; ++i) {
      const auto number = static_cast<float>(bias->data<int32_t>()[bias->count() == 1 ? 0 : i]);
      const float w_scale = w_scales->data<float>()[w_scales->count() == 1 ? 0 : i];
      real.data<float>()[i] = number * (static_cast<float>(*x_scale) * factor * w_scale);
    }
    return rewriter_.add_constant(std::move(real), graph_.value(integers).name + "_float");
  }

  // Scale and zero point of the output; the zero point tells the type.
  bool set_output(Node& product, const Node& node, size_t scale, size_t zero) const {
    const ValueId y_scale = input(node, scale), y_zero = input(node, zero);
    const bool fits = rewriter_.is_f32(y_scale) && is_single(y_scale) && y_zero != kNoValue && is_single(y_zero) &&
                      is_byte(rewriter_.type(y_zero).element);
    if (!fits) return false;
    set_product_input(product, kProductYScale, y_scale);
    set_product_input(product, kProductYZero, y_zero);
    return true;
  }

  void make_conv(Node& node) {
    if (!node.domain.empty() && (node.domain != kMicrosoft || node.get_int("channels_last", 0) != 0)) return;
    const std::optional<Quantised> x = find_operand(node, 0, 1, 2), w = find_channels(node, 3, 4, 5);
    if (!x || !w) return;
    Node product = make_node(kSluice, "QConv", 1, node, {}, node.attributes);
    product.attributes.erase("channels_last");
    set_operands(rewriter_, product, *x, *w);
    if (input(node, 8) != kNoValue) {
      const ValueId bias = find_bias(input(node, 8), *x, *w, 1);
      if (bias == kNoValue) return;
      set_product_input(product, kProductB, bias);
    }
    if (set_output(product, node, 6, 7)) rewriter_.replace(node, std::move(product));
  }

  // One scale for the right operand, or one for each of its columns if it is a matrix.
  bool fits_columns(const Quantised& w) const {
    const bool is_one = is_single(w.scale) && is_single(w.zero);
    return is_one || (rewriter_.has_rank(w.integers) && rewriter_.rank(w.integers) == 2);
  }

  void make_matmul(Node& node) {
    const std::optional<Quantised> x = find_operand(node, 0, 1, 2), w = find_channels(node, 3, 4, 5);
    if (!x || !w || !fits_columns(*w)) return;
    Node product = make_node(kSluice, "QMatMul", 1, node, {});
    set_operands(rewriter_, product, *x, *w);
    if (set_output(product, node, 6, 7)) rewriter_.replace(node, std::move(product));
  }

  void make_gemm(Node& node) {
    const std::optional<Quantised> x = find_operand(node, 0, 1, 2), w = find_channels(node, 3, 4, 5);
    if (!x || !w || !fits_columns(*w)) return;
    Node product = make_node(kSluice, "QMatMul", 1, node, {});
    for (const char* name : {"transA", "transB", "alpha"}) {
      if (const Attribute* attribute = node.find(name)) product.attributes[name] = *attribute;
    }
    set_operands(rewriter_, product, *x, *w);
    if (input(node, 6) != kNoValue) {
      const ValueId bias = find_bias(input(node, 6), *x, *w, node.get_float("alpha", 1));
      if (bias == kNoValue) return;
      set_product_input(product, kProductB, bias);
    }
    if (input(node, 7) == kNoValue || set_output(product, node, 7, 8)) rewriter_.replace(node, std::move(product));
  }

  void make_float(Node& node) {
    std::optional<Quantised> x = find_operand(node, 0, 2, 4), w = find_channels(node, 1, 3, 5);
    const ValueId bias = input(node, 6);
    if (!x || !w || !fits_columns(*w) || (bias != kNoValue && !rewriter_.is_f32(bias))) return;
    Node product = make_node(kSluice, "QMatMul", 1, node, {});
    set_operands(rewriter_, product, *x, *w);
    if (bias != kNoValue) set_product_input(product, kProductB, bias);
    rewriter_.replace(node, std::move(product));
  }

  void make_dynamic(Node& node) {
    const std::optional<Quantised> w = find_channels(node, 1, 2, 3);
    const ValueId real = node.inputs[0], bias = input(node, 4);
    if (!w || !fits_columns(*w) || !rewriter_.is_f32(real) || (bias != kNoValue && !rewriter_.is_f32(bias))) return;
    const std::string name = graph_.value(real).name;
    ValueType type = rewriter_.type(real);
    type.element = ElementType::kU8;
    const Quantised x{.integers = rewriter_.add_value(type, name + "_quantized"),
                      .scale = rewriter_.add_value(ValueType::tensor(ElementType::kF32, Dims()), name + "_scale"),
                      .zero = rewriter_.add_value(ValueType::tensor(ElementType::kU8, Dims()), name + "_zero")};
    Node quantise = make_node("", "DynamicQuantizeLinear", 11, node, {real});
    quantise.outputs = {x.integers, x.scale, x.zero};
    rewriter_.insert_before(node, std::move(quantise));
    Node product = make_node(kSluice, "QMatMul", 1, node, {});
    set_operands(rewriter_, product, x, *w);
    if (bias != kNoValue) set_product_input(product, kProductB, bias);
    rewriter_.replace(node, std::move(product));
  }

  // Mul(Cast(ConvInteger or MatMulInteger), scales).
  void scale_integers(Node& node) {
    if (node.opset < 7 || node.inputs.size() != 2) return;
    for (size_t i = 0; i < 2; ++i) {
      const Node* cast = rewriter_.only_made_by(node.inputs[i], "Cast");
      if (cast == nullptr || !rewriter_.is_f32(node.inputs[i])) continue;
      const Node* sums = rewriter_.only_made_by(cast->inputs[0], "MatMulInteger");
      if (sums == nullptr) sums = rewriter_.only_made_by(cast->inputs[0], "ConvInteger");
      if (sums != nullptr) return make_scaled(node, *sums, node.inputs[1 - i]);
    }
  }

  void make_scaled(Node& node, const Node& sums, ValueId scales) {
    const bool is_conv = sums.op_type == "ConvInteger";
    std::optional<Quantised> x = find_integers(sums, 0, 2), w = find_integers(sums, 1, 3);
    if (!x || !w || !is_single(x->zero) || !rewriter_.is_f32(scales)) return;
    if (!rewriter_.has_rank(sums.outputs[0]) || !(rewriter_.has_same_dims(sums.outputs[0], node.outputs[0]))) return;
    // One factor may be a number that the run computes, the other the scales of the channels.
    ValueId factors[2] = {scales, kNoValue};
    const Node* product_of_scales = rewriter_.made_by(scales, "Mul");
    if (product_of_scales != nullptr && product_of_scales->inputs.size() != 2) return;
    if (product_of_scales != nullptr && !is_single(scales)) {
      factors[0] = product_of_scales->inputs[0], factors[1] = product_of_scales->inputs[1];
      if (!is_single(factors[0])) std::swap(factors[0], factors[1]);
    } else if (product_of_scales != nullptr) {
      factors[0] = product_of_scales->inputs[0], factors[1] = product_of_scales->inputs[1];
      if (rewriter_.constant(factors[0]) != nullptr) std::swap(factors[0], factors[1]);
    } else if (!is_single(scales)) {
      std::swap(factors[0], factors[1]);
    }
    auto get_factor = [&](ValueId id) {
      return id != kNoValue ? id : rewriter_.add_constant(Tensor::scalar(1.0f), node.name + "_one");
    };
    if (!is_single(factors[0]) || (factors[0] != kNoValue && !rewriter_.is_f32(factors[0]))) return;
    if (!is_single(factors[1])) {
      const int rank = rewriter_.rank(sums.outputs[0]);
      factors[1] = find_channel_vector(factors[1], rank, is_conv ? rank - 1 : 1,
                                       rewriter_.known_dim(sums.outputs[0], is_conv ? 1 : -1));
      if (factors[1] == kNoValue) return;
    }
    x->scale = get_factor(factors[0]), w->scale = get_factor(factors[1]);
    if (!is_conv && !fits_columns(*w)) return;
    Node product = make_node(kSluice, is_conv ? "QConv" : "QMatMul", 1, node, {}, sums.attributes);
    product.name = sums.name;
    set_operands(rewriter_, product, *x, *w);
    rewriter_.replace(node, std::move(product));
  }

  // The constant as a vector, if it broadcasts along the axis that is `from_end` from the end.
  ValueId find_channel_vector(ValueId id, int rank, int from_end, std::optional<int64_t> channels) {
    const Tensor* tensor = rewriter_.f32_constant(id);
    if (tensor == nullptr || tensor->rank() > rank || channels != tensor->count()) return kNoValue;
    for (int i = 0; i < tensor->rank(); ++i) {
      if (tensor->rank() - i != from_end && tensor->dim(i) != 1) return kNoValue;
    }
    return rewriter_.add_constant(tensor->reshaped(Shape{tensor->count()}), graph_.value(id).name + "_channels");
  }

  Graph& graph_;
  Rewriter rewriter_;
};

}  // namespace

bool fuse_integer(Graph& graph, PassState& state) { return Integers(graph, state).run(); }

}  // namespace sluice::graph::passes
