// Products of 8 bit matrices: MatMulInteger and QLinearMatMul of the ONNX operator specification, and
// MatMulIntegerToFloat, DynamicQuantizeMatMul and QGemm of com.microsoft.
//
// One function computes all of them: zero points are subtracted while operands are packed, sums are exact in 32 bits
// (modulo 2^32, as the specification has it). Zero points and scales may be one for the tensor, one for each row of the
// left or column of the right matrix, or one for each of those of every matrix of a batch; they are laid out as the
// last form. What becomes of the sums is done row by row: scaled to float, or scaled, rounded half to even and
// saturated.
#include <cmath>
#include <limits>

#include "graph/ops/gemm.h"
#include "graph/ops/matrix_batch.h"
#include "graph/ops/ops.h"
#include "graph/ops/vector_math.h"

namespace sluice::graph::ops {
namespace {

// In place of the number of an input that an operator does not have.
constexpr int kNoInput = 1 << 20;

bool is_byte(ElementType type) { return type == ElementType::kU8 || type == ElementType::kI8; }

void check_byte(const InferContext& context, int i) {
  if (context.has_input(i) && context.element(i) != ElementType::kUndefined && !is_byte(context.element(i))) {
    context.fail("input {} has to be uint8 or int8, not {}", i + 1, name(context.element(i)));
  }
}

// A number for each line (row of A or column of B) of each matrix of an operand; T is float or int32_t.
template <typename T>
std::vector<T> read_lines(const RunContext& context, int input, int64_t lines, int64_t matrices, T otherwise) {
  const auto total = static_cast<size_t>(lines * matrices);
  if (!context.has_input(input)) return std::vector<T>(total, otherwise);
  const Tensor& tensor = context.input(input);
  const int64_t count = tensor.count();
  if (count != 1 && count != lines && count != lines * matrices) {
    context.fail("input {} has {} elements; allowed are 1, or one for each of {} rows or columns", input + 1, count,
                 lines);
  }
  std::vector<T> values(total);
  const bool is_read = dispatch<float, double, uint8_t, int8_t, int32_t>(tensor.type(), [&](auto zero) {
    const auto* data = tensor.data<decltype(zero)>();
    for (size_t i = 0; i < total; ++i) {
      values[i] = static_cast<T>(data[count == 1 ? 0 : static_cast<int64_t>(i) % count]);
    }
  });
  if (!is_read) context.fail_type(input);
  return values;
}

int64_t count_matrices(const MatrixView& view) {
  int64_t count = 1;
  for (const int64_t dim : view.batch) count *= dim;
  return count;
}

// The operands of an integer product; their memory outlives it.
struct IntegerProduct {
  MatrixPairs pairs;
  std::vector<int32_t> a_zeros, b_zeros;  // [matrices, lines]

  // Of output matrix t: the first line of its operand among all lines of all matrices.
  int64_t first_row(size_t t) const { return pairs.k == 0 ? 0 : pairs.a_offsets[t] / pairs.k; }
  int64_t first_column(size_t t) const { return pairs.k == 0 ? 0 : pairs.b_offsets[t] / pairs.k; }
};

Operand<uint32_t> byte_operand(const Tensor& tensor, int64_t offset, int64_t line_stride, int64_t value_stride,
                               const int32_t* zeros) {
  return tensor.type() == ElementType::kU8
             ? strided<uint32_t, uint8_t>(tensor.data<uint8_t>() + offset, line_stride, value_stride, zeros, 1)
             : strided<uint32_t, int8_t>(tensor.data<int8_t>() + offset, line_stride, value_stride, zeros, 1);
}

IntegerProduct make_product(const RunContext& context, const Tensor& a, MatrixLayout a_layout, int a_zero,
                            const Tensor& b, MatrixLayout b_layout, int b_zero) {
  IntegerProduct product;
  product.pairs = pair_matrices(a.shape(), a_layout, b.shape(), b_layout);
  const MatrixPairs& pairs = product.pairs;
  product.a_zeros = read_lines<int32_t>(context, a_zero, pairs.a.rows, count_matrices(pairs.a), 0);
  product.b_zeros = read_lines<int32_t>(context, b_zero, pairs.b.columns, count_matrices(pairs.b), 0);
  return product;
}

// sums: [batch, m, n]
void multiply_bytes(RunContext& context, const IntegerProduct& product, const Tensor& a, const Tensor& b,
                    int32_t* sums) {
  const MatrixPairs& pairs = product.pairs;
  auto used = [](const std::vector<int32_t>& zeros) {
    return std::any_of(zeros.begin(), zeros.end(), [](int32_t zero) { return zero != 0; }) ? zeros.data() : nullptr;
  };
  const int32_t *a_zeros = used(product.a_zeros), *b_zeros = used(product.b_zeros);
  multiply_batch<uint32_t>(
      context.pool(), static_cast<int64_t>(pairs.a_offsets.size()), pairs.m, pairs.n, pairs.k, [&](int64_t i) {
        const auto t = static_cast<size_t>(i);
        return Product<uint32_t>{
            .m = pairs.m, .n = pairs.n, .k = pairs.k,
            .a = byte_operand(a, pairs.a_offsets[t], pairs.a.row_stride, pairs.a.column_stride,
                              a_zeros == nullptr ? nullptr : a_zeros + product.first_row(t)),
            .b = byte_operand(b, pairs.b_offsets[t], pairs.b.column_stride, pairs.b.row_stride,
                              b_zeros == nullptr ? nullptr : b_zeros + product.first_column(t)),
            .c = reinterpret_cast<uint32_t*>(sums) + i * pairs.m * pairs.n, .c_stride = pairs.n};
      });
}

// Calls f(row, column index of b, sums of the row, index of the row's first output) for every row.
template <typename F>
void for_rows(RunContext& context, const IntegerProduct& product, const int32_t* sums, F&& f) {
  const MatrixPairs& pairs = product.pairs;
  const auto batch = static_cast<int64_t>(pairs.a_offsets.size());
  const int64_t grain = std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(1, pairs.n));
  context.pool().parallel_for(batch * pairs.m, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      const auto t = static_cast<size_t>(r / pairs.m);
      f(product.first_row(t) + r % pairs.m, product.first_column(t), sums + r * pairs.n, r * pairs.n);
    }
  });
}

template <typename T>
T quantize(float value, int32_t zero) {
  // NaN becomes the lowest value, as comparisons have it.
  const float shifted = round_even(value) + static_cast<float>(zero);
  constexpr float kMin = std::numeric_limits<T>::min(), kMax = std::numeric_limits<T>::max();
  return shifted >= kMax ? std::numeric_limits<T>::max()
                         : shifted > kMin ? static_cast<T>(shifted) : std::numeric_limits<T>::min();
}

void infer_product(InferContext& context, int a, int b, ElementType element) {
  check_byte(context, a);
  check_byte(context, b);
  if (!context.has_rank(a) || !context.has_rank(b)) return context.set_output(0, element);
  context.set_output(0, element, infer_product_dims(context, a, {}, b, {}));
}

void infer_matmul_integer(InferContext& context) { infer_product(context, 0, 1, ElementType::kI32); }
void run_matmul_integer(RunContext& context) {
  const Tensor &a = context.input(0), &b = context.input(1);
  multiply_bytes(context, make_product(context, a, {}, 2, b, {}, 3), a, b, context.output_data<int32_t>(0));
}

void infer_qlinear_matmul(InferContext& context) {
  check_byte(context, 7);
  infer_product(context, 0, 3, context.element(7));
}

// Scales the sums to quantised values; scales [matrices, lines] of each side, the output's for each row.
template <typename T>
void requantize(RunContext& context, const IntegerProduct& product, const int32_t* sums,
                const std::vector<float>& a_scales, const std::vector<float>& b_scales,
                const std::vector<float>& y_scales, const std::vector<int32_t>& y_zeros, T* y) {
  const int64_t n = product.pairs.n;
  for_rows(context, product, sums, [&](int64_t row, int64_t column, const int32_t* from, int64_t at) {
    const float scale = a_scales[static_cast<size_t>(row)], y_scale = y_scales[static_cast<size_t>(row)];
    const int32_t zero = y_zeros[static_cast<size_t>(row)];
    for (int64_t j = 0; j < n; ++j) {
      const float factor = scale * b_scales[static_cast<size_t>(column + j)] / y_scale;
      y[at + j] = quantize<T>(static_cast<float>(from[j]) * factor, zero);
    }
  });
}

void run_qlinear_matmul(RunContext& context) {
  const Tensor &a = context.input(0), &b = context.input(3);
  Tensor& y = context.output(0);
  const IntegerProduct product = make_product(context, a, {}, 2, b, {}, 5);
  const MatrixView &left = product.pairs.a, &right = product.pairs.b;
  Tensor sums = context.make(ElementType::kI32, Shape{y.count()});
  multiply_bytes(context, product, a, b, sums.data<int32_t>());
  const auto a_scales = read_lines<float>(context, 1, left.rows, count_matrices(left), 1);
  const auto b_scales = read_lines<float>(context, 4, right.columns, count_matrices(right), 1);
  const auto y_scales = read_lines<float>(context, 6, left.rows, count_matrices(left), 1);
  const auto y_zeros = read_lines<int32_t>(context, 7, left.rows, count_matrices(left), 0);
  dispatch<uint8_t, int8_t>(y.type(), [&](auto zero) {
    using T = decltype(zero);
    requantize<T>(context, product, sums.data<int32_t>(), a_scales, b_scales, y_scales, y_zeros, y.data<T>());
  });
}

// y = sums * scales + bias, in float.
void scale_to_float(RunContext& context, const IntegerProduct& product, const int32_t* sums,
                    const std::vector<float>& a_scales, const std::vector<float>& b_scales, int bias_input, float* y) {
  const int64_t n = product.pairs.n;
  const float* bias = nullptr;
  if (context.has_input(bias_input)) {
    bias = context.data<float>(bias_input);
    if (context.input(bias_input).count() != n)
      context.fail("the bias has {} elements and needs {}", context.input(bias_input).count(), n);
  }
  for_rows(context, product, sums, [&](int64_t row, int64_t column, const int32_t* from, int64_t at) {
    const float scale = a_scales[static_cast<size_t>(row)];
    for (int64_t j = 0; j < n; ++j) {
      const float value = static_cast<float>(from[j]) * (scale * b_scales[static_cast<size_t>(column + j)]);
      y[at + j] = bias == nullptr ? value : value + bias[j];
    }
  });
}

void infer_matmul_integer_to_float(InferContext& context) { infer_product(context, 0, 1, context.element(2)); }
void run_matmul_integer_to_float(RunContext& context) {
  const Tensor &a = context.input(0), &b = context.input(1);
  if (context.input(2).type() != ElementType::kF32) context.fail_type(2);
  const IntegerProduct product = make_product(context, a, {}, 4, b, {}, 5);
  const MatrixView &left = product.pairs.a, &right = product.pairs.b;
  Tensor sums = context.make(ElementType::kI32, Shape{context.output(0).count()});
  multiply_bytes(context, product, a, b, sums.data<int32_t>());
  scale_to_float(
      context, product, sums.data<int32_t>(), read_lines<float>(context, 2, left.rows, count_matrices(left), 1),
      read_lines<float>(context, 3, right.columns, count_matrices(right), 1), 6, context.output_data<float>(0));
}

void infer_dynamic_quantize_matmul(InferContext& context) {
  check_byte(context, 1);
  if (!context.has_rank(0) || !context.has_rank(1)) return context.set_output(0, context.element(0));
  context.set_output(0, context.element(0), infer_product_dims(context, 0, {}, 1, {}));
}
// A is quantised as DynamicQuantizeLinear does it: 8 bits over the range of its values and zero.
void run_dynamic_quantize_matmul(RunContext& context) {
  const Tensor &x = context.input(0), &b = context.input(1);
  if (x.type() != ElementType::kF32) context.fail_type(0);
  float low = 0, high = 0;
  for (const float value : x.values<float>()) {
    low = value < low ? value : low;
    high = value > high ? value : high;
  }
  const float scale = high == low ? 1.0f : (high - low) / 255.0f;
  const auto zero = static_cast<int32_t>(quantize<uint8_t>(-low / scale, 0));
  Tensor a = context.make(ElementType::kU8, x.shape());
  const float* from = x.data<float>();
  uint8_t* to = a.data<uint8_t>();
  context.pool().parallel_for(x.count(), 1 << 14, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) to[i] = quantize<uint8_t>(from[i] / scale, zero);
  });
  IntegerProduct product = make_product(context, a, {}, kNoInput, b, {}, 3);
  std::fill(product.a_zeros.begin(), product.a_zeros.end(), zero);
  const MatrixView& right = product.pairs.b;
  Tensor sums = context.make(ElementType::kI32, Shape{context.output(0).count()});
  multiply_bytes(context, product, a, b, sums.data<int32_t>());
  scale_to_float(context, product, sums.data<int32_t>(), std::vector<float>(product.a_zeros.size(), scale),
                 read_lines<float>(context, 2, right.columns, count_matrices(right), 1), 4,
                 context.output_data<float>(0));
}

void infer_qgemm(InferContext& context) {
  const Node& node = context.node();
  check_byte(context, 0);
  check_byte(context, 3);
  check_byte(context, 8);
  const ElementType element = context.has_input(8) ? context.element(8) : ElementType::kF32;
  if (context.has_input(7) != context.has_input(8))
    context.fail("y_scale and y_zero_point belong together; one is missing");
  if (!context.has_rank(0) || !context.has_rank(3))
    return context.set_output(0, element, {Dim::unknown(), Dim::unknown()});
  if (context.rank(0) != 2 || context.rank(3) != 2) context.fail("A and B have to be matrices");
  context.set_output(0, element, infer_product_dims(context, 0, {node.get_int("transA", 0) != 0}, 3,
                                                    {node.get_int("transB", 0) != 0}));
}
void run_qgemm(RunContext& context) {
  const Node& node = context.node();
  const Tensor &a = context.input(0), &b = context.input(3);
  Tensor& y = context.output(0);
  const IntegerProduct product = make_product(context, a, {node.get_int("transA", 0) != 0}, 2, b,
                                              {node.get_int("transB", 0) != 0}, 5);
  const int64_t m = product.pairs.m, n = product.pairs.n;
  Tensor sums = context.make(ElementType::kI32, Shape{y.count()});
  int32_t* data = sums.data<int32_t>();
  multiply_bytes(context, product, a, b, data);
  if (context.has_input(6)) {
    const Tensor& c = context.input(6);
    if (c.type() != ElementType::kI32) context.fail_type(6);
    const bool has_columns = c.rank() > 0 && c.shape().back() != 1, has_rows = c.rank() == 2 && c.dim(0) != 1;
    if (c.rank() > 2 || (has_columns && c.shape().back() != n) || (has_rows && c.dim(0) != m)) {
      context.fail("C of shape {} does not broadcast to {}x{}", to_string(c.shape()), m, n);
    }
    const int32_t* from = c.data<int32_t>();
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        const auto add =
            static_cast<uint32_t>(from[(has_rows ? i * (has_columns ? n : 1) : 0) + (has_columns ? j : 0)]);
        data[i * n + j] = static_cast<int32_t>(static_cast<uint32_t>(data[i * n + j]) + add);
      }
    }
  }
  std::vector<float> a_scales = read_lines<float>(context, 1, m, 1, 1);
  for (float& scale : a_scales) scale *= node.get_float("alpha", 1);
  const auto b_scales = read_lines<float>(context, 4, n, 1, 1);
  if (y.type() == ElementType::kF32)
    return scale_to_float(context, product, data, a_scales, b_scales, kNoInput, y.data<float>());
  const auto y_scales = read_lines<float>(context, 7, m, 1, 1);
  const auto y_zeros = read_lines<int32_t>(context, 8, m, 1, 0);
  dispatch<uint8_t, int8_t>(y.type(), [&](auto zero) {
    using T = decltype(zero);
    requantize<T>(context, product, data, a_scales, b_scales, y_scales, y_zeros, y.data<T>());
  });
}

constexpr OpInfo kOps[] = {
    {"", "MatMulInteger", 10, 0, infer_matmul_integer, run_matmul_integer},
    {"", "QLinearMatMul", 10, 0, infer_qlinear_matmul, run_qlinear_matmul, OpInfo::kViaFloat},
    {kMicrosoft, "MatMulIntegerToFloat", 1, 0, infer_matmul_integer_to_float, run_matmul_integer_to_float,
     OpInfo::kViaFloat},
    {kMicrosoft, "DynamicQuantizeMatMul", 1, 0, infer_dynamic_quantize_matmul, run_dynamic_quantize_matmul,
     OpInfo::kViaFloat},
    {kMicrosoft, "QGemm", 1, 0, infer_qgemm, run_qgemm},
};

}  // namespace

std::span<const OpInfo> matmul_integer_ops() { return kOps; }

}  // namespace sluice::graph::ops
