// Operators that no model names: what the passes put in place of several nodes (domain "sluice"). These run() functions
// say what the operators mean, and compute them where there is no kernel.
//
// FusedMatMul is y = activation(alpha * op(A) * op(B) + bias + Z). The operands are read as MatMul reads them, after
// their last two dimensions are swapped where transA or transB say so; bias is [N] or [1], and Z has the shape of y.
// Elementwise is what elementwise_program.h says.
#include <cmath>

#include "graph/ops/elementwise.h"
#include "graph/ops/elementwise_program.h"
#include "graph/ops/fused_activation.h"
#include "graph/ops/matrix_batch.h"
#include "graph/ops/ops.h"

namespace sluice::graph::ops {
namespace {

enum Input { kA, kB, kBias, kZ };

MatrixLayout layout_of(const Node& node, const char* attribute) { return {node.get_int(attribute, 0) != 0, false}; }

void infer_fused_matmul(InferContext& context) {
  for (const int i : {int{kB}, int{kBias}, int{kZ}}) {
    if (!context.has_input(i)) continue;
    const ElementType first = context.element(kA), other = context.element(i);
    if (first == ElementType::kUndefined || other == ElementType::kUndefined || other == first) continue;
    if (i == kBias && other == ElementType::kF32 && is_half(first)) continue;  // sums are of floats anyway
    context.fail("input {} is {} and has to be {}", i + 1, name(other), name(first));
  }
  if (!context.has_rank(kA) || !context.has_rank(kB)) return context.set_output(0, context.element(kA));
  Dims dims =
      infer_product_dims(context, kA, layout_of(context.node(), "transA"), kB, layout_of(context.node(), "transB"));
  if (context.has_rank(kBias)) {
    const Dims& bias = context.dims(kBias);
    const bool fits = bias.size() == 1 && (!bias[0].is_known() || bias[0].value() == 1 || dims.empty() ||
                                           !dims.back().is_known() || bias[0] == dims.back());
    if (!fits) context.fail("a bias of shape {} does not fit an output of shape {}", to_string(bias), to_string(dims));
  }
  if (context.has_rank(kZ)) {
    const Dims& z = context.dims(kZ);
    bool fits = z.size() == dims.size();
    for (size_t i = 0; fits && i < z.size(); ++i) {
      fits = !z[i].is_known() || !dims[i].is_known() || z[i] == dims[i];
    }
    if (!fits) context.fail("a tensor of shape {} is added to one of shape {}", to_string(z), to_string(dims));
  }
  context.set_output(0, context.element(kA), std::move(dims));
}

void run_fused_matmul(RunContext& context) {
  const Node& node = context.node();
  const Tensor &a = context.input(kA), &b = context.input(kB);
  if (a.type() != ElementType::kF32) context.fail_type(kA);
  const FusedActivation activation = FusedActivation::of(node);
  const float alpha = node.get_float("alpha", 1);
  Tensor& y = context.output(0);
  if (y.count() == 0) return;
  const int64_t n = y.rank() == 0 ? 1 : y.shape().back();
  const float* bias = context.has_input(kBias) ? context.data<float>(kBias) : nullptr;
  const int64_t bias_count = bias != nullptr ? context.input(kBias).count() : 0;
  if (bias != nullptr && bias_count != n && bias_count != 1) {
    context.fail("the bias has {} elements and needs {}", bias_count, n);
  }
  if (context.has_input(kZ) && !(context.input(kZ).shape() == y.shape())) {
    context.fail("the tensor to add has shape {}, the output {}", to_string(context.input(kZ).shape()),
                 to_string(y.shape()));
  }
  const float* z = context.has_input(kZ) ? context.data<float>(kZ) : nullptr;
  const MatrixPairs pairs = pair_matrices(a.shape(), layout_of(node, "transA"), b.shape(), layout_of(node, "transB"));
  float* data = y.data<float>();
  multiply_pairs<float>(context.pool(), pairs, a.data<float>(), b.data<float>(), data);
  const int64_t grain = std::max<int64_t>(1, kCostlyGrain / n);
  context.pool().parallel_for(y.count() / n, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      float* to = data + row * n;
      if (alpha != 1) {
        for (int64_t j = 0; j < n; ++j) to[j] *= alpha;
      }
      if (bias != nullptr) {
        for (int64_t j = 0; j < n; ++j) to[j] += bias[bias_count == 1 ? 0 : j];
      }
      if (z != nullptr) {
        for (int64_t j = 0; j < n; ++j) to[j] += z[row * n + j];
      }
      activation.apply(to, n);
    }
  });
}

void infer_elementwise(InferContext& context) {
  ElementType made = ElementType::kF32;  // or bf16, if anything that comes in is
  for (int i = 0; i < context.num_inputs(); ++i) {
    if (context.has_input(i) && context.element(i) == ElementType::kBF16) made = ElementType::kBF16;
  }
  context.set_output(0, made);
  Dims dims;
  for (int i = 0; i < context.num_inputs(); ++i) {
    if (!context.has_input(i)) context.fail("input {} is left out", i + 1);
    const ElementType element = context.element(i);
    const bool fits = element == ElementType::kF32 || element == ElementType::kBF16 || element == ElementType::kBool ||
                      element == ElementType::kUndefined;
    if (!fits) context.fail("input {} is {}; float32, bfloat16 and bool are allowed", i + 1, name(element));
    if (!context.has_rank(i)) return;
    dims = broadcast(context, dims, context.dims(i));
  }
  context.set_output(0, made, std::move(dims));
}

void run_elementwise(RunContext& context) {
  const auto program = context.node().prepared.get<ElementwiseProgram>(
      [&] { return std::make_shared<const ElementwiseProgram>(ElementwiseProgram::parse(context.node())); });
  std::vector<ElementwiseProgram::Operand> inputs;
  for (int i = 0; i < context.num_inputs(); ++i) {
    const Tensor& input = context.input(i);
    inputs.push_back({input.raw(), input.shape(), input.type()});
  }
  Tensor& y = context.output(0);
  const auto bytes = static_cast<int64_t>(program->scratch_bytes(context.pool().num_threads()));
  Tensor scratch = context.make(ElementType::kU8, Shape{bytes});
  program->run(context.pool(), inputs, y.shape(), y.raw(), y.type(), scratch.raw());
}

constexpr OpInfo kOps[] = {
    {"sluice", "FusedMatMul", 1, 0, infer_fused_matmul, run_fused_matmul, OpInfo::kViaFloat},
    {"sluice", "Elementwise", 1, 0, infer_elementwise, run_elementwise},
};

}  // namespace

std::span<const OpInfo> fused_ops() { return kOps; }

}  // namespace sluice::graph::ops
