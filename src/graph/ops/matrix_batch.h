// Tensors as batches of matrices, as NumPy's matmul sees them: the last two dimensions are rows and columns, those
// before are the batch and broadcast against the other operand's; a vector on the left is one row, on the right one
// column. Transposed operands are the same memory with other strides.
#pragma once

#include <cstdint>
#include <vector>

#include "graph/op.h"
#include "graph/ops/gemm.h"

namespace sluice::graph::ops {

// How an operand's dimensions are to be read; both flags are attributes of FusedMatMul.
struct MatrixLayout {
  bool is_transposed = false;       // the last two dimensions are columns and rows
  bool is_batch_transposed = false; // the first dimension comes after the batch: [rows, batch..., columns]
};

struct MatrixDims {
  Dims batch;
  Dim rows, columns;
  bool is_vector = false;
};

struct MatrixView {
  std::vector<int64_t> batch, batch_strides;
  int64_t rows = 1, columns = 1, row_stride = 0, column_stride = 0;
};

MatrixDims split_matrix(const InferContext& context, int input, MatrixLayout layout, bool is_left);
// What the product of two inputs is. Throws Error if they do not fit. REQUIRES: has_rank() of both.
Dims infer_product_dims(const InferContext& context, int left, MatrixLayout left_layout, int right,
                        MatrixLayout right_layout);

MatrixView view_matrix(const Shape& shape, MatrixLayout layout, bool is_left);

// The matrices of a batch that broadcasts: where each begins. For no elements of output: no matrices.
struct MatrixPairs {
  int64_t m = 0, n = 0, k = 0;
  MatrixView a, b;
  std::vector<int64_t> a_offsets, b_offsets;  // in elements; the output's are i * m * n
};
// REQUIRES: shapes that infer_product_dims() took.
MatrixPairs pair_matrices(const Shape& a, MatrixLayout a_layout, const Shape& b, MatrixLayout b_layout);

// All products of a batch.
template <typename T>
void multiply_pairs(ThreadPool& pool, const MatrixPairs& pairs, const T* a, const T* b, T* c) {
  multiply_batch<T>(pool, static_cast<int64_t>(pairs.a_offsets.size()), pairs.m, pairs.n, pairs.k, [&](int64_t i) {
    const auto at = static_cast<size_t>(i);
    return Product<T>{.m = pairs.m, .n = pairs.n, .k = pairs.k,
                      .a = strided<T>(a + pairs.a_offsets[at], pairs.a.row_stride, pairs.a.column_stride),
                      .b = strided<T>(b + pairs.b_offsets[at], pairs.b.column_stride, pairs.b.row_stride),
                      .c = c + i * pairs.m * pairs.n, .c_stride = pairs.n};
  });
}

}  // namespace sluice::graph::ops
