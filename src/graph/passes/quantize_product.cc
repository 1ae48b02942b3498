#include "graph/passes/quantize_product.h"

namespace sluice::graph::passes {
namespace {

// uint8 as int8 less 128, which is how processors multiply best.
std::optional<Tensor> to_signed(const Tensor* constant) {
  if (constant == nullptr || constant->type() != ElementType::kU8) return std::nullopt;
  Tensor made(ElementType::kI8, constant->shape());
  const uint8_t* from = constant->data<uint8_t>();
  for (int64_t i = 0; i < constant->count(); ++i) made.data<int8_t>()[i] = static_cast<int8_t>(from[i] - 128);
  return made;
}

}  // namespace

void set_operands(Rewriter& rewriter, Node& node, const Quantised& x, const Quantised& w) {
  set_product_input(node, kProductX, x.integers);
  set_product_input(node, kProductXScale, x.scale);
  set_product_input(node, kProductXZero, get_zero(rewriter, x));
  set_product_input(node, kProductW, w.integers);
  set_product_input(node, kProductWScale, w.scale);
  set_product_input(node, kProductWZero, get_zero(rewriter, w));
  std::optional<Tensor> weights = to_signed(rewriter.constant(w.integers));
  std::optional<Tensor> zero = to_signed(rewriter.constant(node.inputs[kProductWZero]));
  if (!weights || !zero || !rewriter.take_bytes(weights->bytes())) return;
  const std::string name = rewriter.graph().value(w.integers).name;
  set_product_input(node, kProductW, rewriter.add_constant(std::move(*weights), name + "_signed"));
  set_product_input(node, kProductWZero, rewriter.add_constant(std::move(*zero), name + "_signed_zero"));
}

}  // namespace sluice::graph::passes
