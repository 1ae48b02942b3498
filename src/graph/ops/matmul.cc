// Products of matrices of one type: MatMul and Gemm of the ONNX operator specification, and FusedMatMul (once called
// TransposeMatMul), FusedGemm and GemmFastGelu as ONNX Runtime's contrib operator documents define them.
//
// All of them are the product of gemm.h over strided views. Integers are computed modulo their width, as NumPy does.
// Gemm's alpha and beta are floats: for integer types the scaled sums are computed in double and cut towards zero. C of
// a Gemm broadcasts to the output as of opset 7; models of older opsets say so in an attribute, and those that do not
// have the full shape, which broadcasts too, so the attribute needs no look.
#include <cmath>

#include "graph/ops/einsum.h"
#include "graph/ops/fused_activation.h"
#include "graph/ops/gemm.h"
#include "graph/ops/matrix_batch.h"
#include "graph/ops/ops.h"

namespace sluice::graph::ops {
namespace {

// Calls body with the unsigned or floating type that a product of this element type is computed in.
template <typename Body>
bool dispatch_products(ElementType type, Body&& body) {
  switch (type) {
    case ElementType::kF32: return body(float{}), true;
    case ElementType::kF64: return body(double{}), true;
    case ElementType::kI32:
    case ElementType::kU32: return body(uint32_t{}), true;
    case ElementType::kI64:
    case ElementType::kU64: return body(uint64_t{}), true;
    default: return false;
  }
}

void check_same_type(const InferContext& context, int i, int j) {
  if (context.element(i) != context.element(j) && context.element(i) != ElementType::kUndefined &&
      context.element(j) != ElementType::kUndefined) {
    context.fail("inputs {} and {} are {} and {}; they have to be of one type", i + 1, j + 1, name(context.element(i)),
                 name(context.element(j)));
  }
}

MatrixLayout left_layout(const Node& node) {
  return {node.get_int("transA", 0) != 0, node.get_int("transBatchA", 0) != 0};
}
MatrixLayout right_layout(const Node& node) {
  return {node.get_int("transB", 0) != 0, node.get_int("transBatchB", 0) != 0};
}

void infer_matmul(InferContext& context) {
  check_same_type(context, 0, 1);
  if (!context.has_rank(0) || !context.has_rank(1)) return context.set_output(0, context.element(0));
  context.set_output(0, context.element(0), infer_product_dims(context, 0, {}, 1, {}));
}

void infer_fused_matmul(InferContext& context) {
  check_same_type(context, 0, 1);
  if (!context.has_rank(0) || !context.has_rank(1)) return context.set_output(0, context.element(0));
  context.set_output(0, context.element(0),
                     infer_product_dims(context, 0, left_layout(context.node()), 1, right_layout(context.node())));
}

void multiply_inputs(RunContext& context, MatrixLayout left, MatrixLayout right) {
  const Tensor &a = context.input(0), &b = context.input(1);
  const MatrixPairs pairs = pair_matrices(a.shape(), left, b.shape(), right);
  if (!dispatch_products(a.type(), [&](auto zero) {
        using T = decltype(zero);
        multiply_pairs<T>(context.pool(), pairs, a.data<T>(), b.data<T>(), context.output_data<T>(0));
      })) {
    context.fail_type(0);
  }
}

void run_matmul(RunContext& context) { multiply_inputs(context, {}, {}); }

void run_fused_matmul(RunContext& context) {
  multiply_inputs(context, left_layout(context.node()), right_layout(context.node()));
  const float alpha = context.node().get_float("alpha", 1);
  if (alpha == 1) return;
  Tensor& y = context.output(0);
  if (!dispatch<float, double>(y.type(), [&](auto zero) {
        using T = decltype(zero);
        T* data = y.data<T>();
        for (int64_t i = 0; i < y.count(); ++i) data[i] *= static_cast<T>(alpha);
      })) {
    context.fail("alpha has to be 1 for {}", name(y.type()));
  }
}

// Gemm

struct GemmDims {
  Dim m, n;
};
std::optional<GemmDims> infer_gemm_dims(const InferContext& context) {
  const Node& node = context.node();
  if (!context.has_rank(0) || !context.has_rank(1)) return std::nullopt;
  for (int i = 0; i < 2; ++i) {
    if (context.rank(i) != 2)
      context.fail("input {} has shape {}; a matrix is needed", i + 1, to_string(context.dims(i)));
  }
  const MatrixDims a = split_matrix(context, 0, {node.get_int("transA", 0) != 0}, true);
  const MatrixDims b = split_matrix(context, 1, {node.get_int("transB", 0) != 0}, false);
  if (a.columns.is_known() && b.rows.is_known() && !(a.columns == b.rows)) {
    context.fail("the inner dimensions are {} and {}; they have to be the same", a.columns.value(), b.rows.value());
  }
  return GemmDims{a.rows, b.columns};
}

void infer_gemm(InferContext& context) {
  check_same_type(context, 0, 1);
  const std::optional<GemmDims> dims = infer_gemm_dims(context);
  const ValueType out = dims ? ValueType::tensor(context.element(0), {dims->m, dims->n})
                             : ValueType::tensor(context.element(0), {Dim::unknown(), Dim::unknown()});
  context.set_type(0, out);
  if (!context.has_input(2)) return;
  check_same_type(context, 0, 2);
  if (!dims || !context.has_rank(2)) return;
  const Dims& c = context.dims(2);
  bool fits = c.size() <= 2;
  for (size_t i = 0; fits && i < c.size(); ++i) {
    const Dim& to = (*out.dims)[2 - c.size() + i];
    fits = !c[i].is_known() || c[i].value() == 1 || !to.is_known() || c[i] == to;
  }
  if (!fits) context.fail("C of shape {} does not broadcast to {}", to_string(c), to_string(*out.dims));
}

// Strides of C as it broadcasts to [m, n].
struct BiasStrides {
  int64_t row = 0, column = 0;
};
BiasStrides bias_strides(const Shape& c) {
  BiasStrides strides;
  if (c.rank() >= 1 && c.back() != 1) strides.column = 1;
  if (c.rank() == 2 && c[0] != 1) strides.row = c[1];
  return strides;
}

template <typename T>
void run_float_gemm(RunContext& context, float alpha, float beta, const Product<T>& product) {
  Product<T> scaled = product;
  if (context.has_input(2) && beta != 0) {
    const T* c = context.data<T>(2);
    const BiasStrides strides = bias_strides(context.input(2).shape());
    const T factor = static_cast<T>(beta);
    scaled.adds = alpha == 1;
    if (alpha != 1) multiply(context.pool(), product);
    for (int64_t i = 0; i < product.m; ++i) {
      T* to = product.c + i * product.n;
      const T* from = c + i * strides.row;
      if (alpha == 1) {
        for (int64_t j = 0; j < product.n; ++j) to[j] = factor * from[j * strides.column];
      } else {
        for (int64_t j = 0; j < product.n; ++j)
          to[j] = static_cast<T>(alpha) * to[j] + factor * from[j * strides.column];
      }
    }
    if (alpha == 1) multiply(context.pool(), scaled);
    return;
  }
  multiply(context.pool(), product);
  if (alpha == 1) return;
  for (int64_t i = 0; i < product.m * product.n; ++i) product.c[i] *= static_cast<T>(alpha);
}

// Value: the signed or unsigned type of the elements; products are computed in T of the same width.
template <typename Value, typename T>
void run_integer_gemm(RunContext& context, float alpha, float beta, const Product<T>& product) {
  multiply(context.pool(), product);
  Value* y = reinterpret_cast<Value*>(product.c);
  const bool has_c = context.has_input(2) && beta != 0;
  const Value* c = has_c ? context.data<Value>(2) : nullptr;
  const BiasStrides strides = has_c ? bias_strides(context.input(2).shape()) : BiasStrides{};
  auto scale = [](float factor, Value value) -> Value {
    if (factor == 1) return value;
    const double scaled = static_cast<double>(factor) * static_cast<double>(value);
    // 2^63 and such are exact in double; what is outside, or no number, has no value of this type.
    constexpr double kMax = static_cast<double>(std::numeric_limits<Value>::max());
    constexpr double kMin = static_cast<double>(std::numeric_limits<Value>::min());
    if (!(scaled > kMin)) return std::numeric_limits<Value>::min();
    return scaled >= kMax ? std::numeric_limits<Value>::max() : static_cast<Value>(scaled);
  };
  for (int64_t i = 0; i < product.m; ++i) {
    for (int64_t j = 0; j < product.n; ++j) {
      T sum = static_cast<T>(scale(alpha, y[i * product.n + j]));
      if (has_c) sum += static_cast<T>(scale(beta, c[i * strides.row + j * strides.column]));
      y[i * product.n + j] = static_cast<Value>(sum);
    }
  }
}

void run_gemm(RunContext& context) {
  const Node& node = context.node();
  const Tensor &a = context.input(0), &b = context.input(1);
  const float alpha = node.get_float("alpha", 1), beta = node.get_float("beta", 1);
  const MatrixView left = view_matrix(a.shape(), {node.get_int("transA", 0) != 0}, true);
  const MatrixView right = view_matrix(b.shape(), {node.get_int("transB", 0) != 0}, false);
  if (left.rows == 0 || right.columns == 0) return;
  if (!dispatch_products(a.type(), [&](auto zero) {
        using T = decltype(zero);
        const Product<T> product{.m = left.rows, .n = right.columns, .k = left.columns,
                                 .a = strided<T>(a.data<T>(), left.row_stride, left.column_stride),
                                 .b = strided<T>(b.data<T>(), right.column_stride, right.row_stride),
                                 .c = context.output_data<T>(0), .c_stride = right.columns};
        if constexpr (std::is_floating_point_v<T>) run_float_gemm<T>(context, alpha, beta, product);
        else if (a.type() == ElementType::kI32 || a.type() == ElementType::kI64)
          run_integer_gemm<std::make_signed_t<T>>(context, alpha, beta, product);
        else run_integer_gemm<T>(context, alpha, beta, product);
      })) {
    context.fail_type(0);
  }
}

void run_fused_gemm(RunContext& context) {
  const Node& node = context.node();
  if (context.input(0).type() != ElementType::kF32) context.fail_type(0);
  auto parameter = [&](const char* name) {
    return node.has(name) ? std::optional(node.get_float(name, 0)) : std::nullopt;
  };
  const FusedActivation activation = FusedActivation::make(node, node.get_string("activation", ""),
                                                           parameter("activation_alpha"), parameter("activation_beta"));
  run_gemm(context);
  activation.apply(context.output_data<float>(0), context.output(0).count());
}

// Gelu by tanh of X * W + bias.
void run_gemm_fast_gelu(RunContext& context) {
  if (context.input(0).type() != ElementType::kF32) context.fail_type(0);
  multiply_inputs(context, {}, {});
  Tensor& y = context.output(0);
  const int64_t n = y.rank() == 0 ? 1 : y.shape().back();
  const float* bias = context.has_input(2) ? context.data<float>(2) : nullptr;
  if (bias != nullptr && context.input(2).count() != n) {
    context.fail("the bias has {} elements and needs {}", context.input(2).count(), n);
  }
  float* data = y.data<float>();
  for (int64_t i = 0; i < y.count(); ++i) {
    const float x = data[i] + (bias != nullptr ? bias[i % n] : 0.0f);
    data[i] = 0.5f * x * (1.0f + fast_tanh(0.7978845608f * (x + 0.044715f * x * x * x)));
  }
}

constexpr OpInfo kOps[] = {
    {"", "MatMul", 1, 0, infer_matmul, run_matmul, OpInfo::kViaFloat},
    {"", "Gemm", 1, 0, infer_gemm, run_gemm, OpInfo::kViaFloat},
    {"", "Einsum", 12, 0, infer_einsum, run_einsum, OpInfo::kViaFloat},
    {kMicrosoft, "FusedMatMul", 1, 0, infer_fused_matmul, run_fused_matmul, OpInfo::kViaFloat},
    {kMicrosoft, "TransposeMatMul", 1, 0, infer_fused_matmul, run_fused_matmul, OpInfo::kViaFloat},
    {kMicrosoft, "FusedGemm", 1, 0, infer_gemm, run_fused_gemm, OpInfo::kViaFloat},
    {kMicrosoft, "GemmFastGelu", 1, 0, infer_matmul, run_gemm_fast_gelu, OpInfo::kViaFloat},
};

}  // namespace

std::span<const OpInfo> matmul_ops() { return kOps; }

}  // namespace sluice::graph::ops
