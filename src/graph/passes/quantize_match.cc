#include "graph/passes/quantize_match.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace sluice::graph::passes {
namespace {

bool is_of(const Node& node, const char* op) {
  return node.op_type == op && (node.domain.empty() || node.domain == kMicrosoft);
}

// Blocks of scales, and divisions in another precision.
bool has_odd_form(const Node& node) {
  const int64_t precision = node.get_int("precision", 0);
  return node.get_int("block_size", 0) != 0 || (precision != 0 && precision != static_cast<int64_t>(ElementType::kF32));
}

// Whether a scale and a zero point are of a kind that is known here; nullopt if not, else whether they are single.
std::optional<bool> find_single(const Rewriter& rewriter, ValueId scale, ValueId zero) {
  if (!rewriter.is_f32(scale) || !rewriter.has_rank(scale)) return std::nullopt;
  const std::optional<int64_t> count = product(rewriter.dims(scale)).known();
  const bool is_single = count && *count == 1;
  if (!is_single && rewriter.rank(scale) != 1) return std::nullopt;
  if (zero == kNoValue) return is_single;
  if (!is_byte(rewriter.type(zero).element) || !rewriter.has_rank(zero)) return std::nullopt;
  const std::optional<int64_t> zeros = product(rewriter.dims(zero)).known();
  const bool fits = is_single ? zeros && *zeros == 1 : rewriter.rank(zero) == 1;
  return fits ? std::optional(is_single) : std::nullopt;
}

}  // namespace

bool is_byte(ElementType type) { return type == ElementType::kU8 || type == ElementType::kI8; }

std::optional<Quantised> find_quantised(const Rewriter& rewriter, ValueId real) {
  const Node* node = rewriter.producer(real);
  if (node == nullptr || !is_of(*node, "DequantizeLinear") || has_odd_form(*node) || node->inputs.size() < 2) {
    return std::nullopt;
  }
  const int64_t to = node->get_int("output_dtype", 0);
  if (to != static_cast<int64_t>(ElementType::kF32) && to != 0) return std::nullopt;
  Quantised quantised{.integers = node->inputs[0], .scale = node->inputs[1]};
  if (node->inputs.size() > 2) quantised.zero = node->inputs[2];
  if (quantised.integers == kNoValue || quantised.scale == kNoValue) return std::nullopt;
  const ValueType& type = rewriter.type(quantised.integers);
  const std::optional<bool> is_single = find_single(rewriter, quantised.scale, quantised.zero);
  if (!is_single || !is_byte(type.element)) return std::nullopt;
  quantised.type = type.element;
  if (*is_single) return quantised;
  // Of a vector with a scale for each element the axis does not matter.
  quantised.axis = type.has_rank() && type.rank() == 1 ? 0 : static_cast<int>(node->get_int("axis", 1));
  return quantised;
}

std::optional<Quantised> find_quantisation(const Rewriter& rewriter, const Node& node) {
  if (!is_of(node, "QuantizeLinear") || has_odd_form(node) || node.inputs.size() < 2) return std::nullopt;
  const ElementType to = rewriter.type(node.outputs[0]).element;
  if (!rewriter.is_f32(node.inputs[0]) || !is_byte(to)) return std::nullopt;
  Quantised quantised{.integers = node.outputs[0], .type = to, .scale = node.inputs[1]};
  if (node.inputs.size() > 2) quantised.zero = node.inputs[2];
  return find_single(rewriter, quantised.scale, quantised.zero).value_or(false) ? std::optional(quantised)
                                                                                : std::nullopt;
}

std::optional<int> find_zero(const Rewriter& rewriter, const Quantised& quantised) {
  if (quantised.zero == kNoValue) return 0;
  const Tensor* tensor = rewriter.constant(quantised.zero);
  if (tensor == nullptr || tensor->count() != 1) return std::nullopt;
  if (tensor->type() == ElementType::kU8) return tensor->data<uint8_t>()[0];
  if (tensor->type() == ElementType::kI8) return tensor->data<int8_t>()[0];
  return std::nullopt;
}

bool is_same(const Rewriter& rewriter, const Quantised& a, const Quantised& b) {
  if (a.type != b.type || a.axis || b.axis) return false;
  const std::optional<int> x = find_zero(rewriter, a), y = find_zero(rewriter, b);
  if (a.zero != b.zero && (!x || !y || *x != *y)) return false;
  const std::optional<double> s = rewriter.scalar(a.scale), t = rewriter.scalar(b.scale);
  return a.scale == b.scale || (s && t && *s == *t);
}

ValueId get_zero(Rewriter& rewriter, const Quantised& quantised) {
  if (quantised.zero != kNoValue) return quantised.zero;
  Tensor zero(quantised.type, Shape());
  std::memset(zero.raw(), 0, 1);
  return rewriter.add_constant(std::move(zero), rewriter.graph().value(quantised.integers).name + "_zero");
}

bool is_positive_scale(const Rewriter& rewriter, ValueId scale) {
  const Tensor* known = rewriter.constant(scale);
  if (known == nullptr) return true;
  const auto values = known->values<float>();
  return std::all_of(values.begin(), values.end(), [](float value) { return value > 0 && std::isfinite(value); });
}

bool is_within_range(const Rewriter& rewriter, const Activation& activation, const Quantised& to) {
  double low = 0, high = std::numeric_limits<double>::infinity();
  if (activation.name == "Clip") low = activation.parameters[0], high = activation.parameters[1];
  else if (activation.name != "Relu") return false;
  const std::optional<double> scale = rewriter.scalar(to.scale);
  const std::optional<int> zero = find_zero(rewriter, to);
  if (!scale || !zero || !is_positive_scale(rewriter, to.scale) || !(low <= high)) return false;
  const double lowest = to.type == ElementType::kU8 ? 0 : -128;
  return std::nearbyint(low / *scale) + *zero <= lowest && std::nearbyint(high / *scale) + *zero >= lowest + 255;
}

}  // namespace sluice::graph::passes
