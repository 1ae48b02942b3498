#include "graph/ops/matrix_batch.h"

namespace sluice::graph::ops {

MatrixDims split_matrix(const InferContext& context, int input, MatrixLayout layout, bool is_left) {
  Dims dims = context.dims(input);
  if (dims.empty()) context.fail("input {} is a scalar; a product of matrices needs one dimension at least", input + 1);
  MatrixDims matrix;
  if (dims.size() == 1) {
    matrix.is_vector = true;
    matrix.rows = is_left ? Dim(1) : dims[0];
    matrix.columns = is_left ? dims[0] : Dim(1);
    return matrix;
  }
  if (layout.is_batch_transposed) std::rotate(dims.begin(), dims.begin() + 1, dims.end() - 1);
  matrix.rows = dims[dims.size() - 2];
  matrix.columns = dims.back();
  if (layout.is_transposed) std::swap(matrix.rows, matrix.columns);
  matrix.batch.assign(dims.begin(), dims.end() - 2);
  return matrix;
}

Dims infer_product_dims(const InferContext& context, int left, MatrixLayout left_layout, int right,
                        MatrixLayout right_layout) {
  const MatrixDims a = split_matrix(context, left, left_layout, true);
  const MatrixDims b = split_matrix(context, right, right_layout, false);
  if (a.columns.is_known() && b.rows.is_known() && !(a.columns == b.rows)) {
    context.fail("shapes {} and {} do not multiply: {} columns meet {} rows", to_string(context.dims(left)),
                 to_string(context.dims(right)), a.columns.value(), b.rows.value());
  }
  Dims dims = broadcast(context, a.batch, b.batch);
  if (!a.is_vector) dims.push_back(a.rows);
  if (!b.is_vector) dims.push_back(b.columns);
  return dims;
}

MatrixView view_matrix(const Shape& shape, MatrixLayout layout, bool is_left) {
  const Shape strides = strides_of(shape);
  std::vector<int64_t> dims(shape.begin(), shape.end()), steps(strides.begin(), strides.end());
  MatrixView view;
  if (dims.size() == 1) {
    view.rows = is_left ? 1 : dims[0];
    view.columns = is_left ? dims[0] : 1;
    // The step along a dimension of one is free: this one keeps rows contiguous for whoever asks.
    view.row_stride = is_left ? dims[0] : 1;
    view.column_stride = 1;
    return view;
  }
  if (layout.is_batch_transposed) {
    std::rotate(dims.begin(), dims.begin() + 1, dims.end() - 1);
    std::rotate(steps.begin(), steps.begin() + 1, steps.end() - 1);
  }
  const size_t rank = dims.size();
  view.rows = dims[rank - 2], view.row_stride = steps[rank - 2];
  view.columns = dims[rank - 1], view.column_stride = steps[rank - 1];
  if (layout.is_transposed) {
    std::swap(view.rows, view.columns);
    std::swap(view.row_stride, view.column_stride);
  }
  view.batch.assign(dims.begin(), dims.end() - 2);
  view.batch_strides.assign(steps.begin(), steps.end() - 2);
  return view;
}

MatrixPairs pair_matrices(const Shape& a_shape, MatrixLayout a_layout, const Shape& b_shape, MatrixLayout b_layout) {
  MatrixPairs pairs;
  pairs.a = view_matrix(a_shape, a_layout, true);
  pairs.b = view_matrix(b_shape, b_layout, false);
  pairs.m = pairs.a.rows, pairs.n = pairs.b.columns, pairs.k = pairs.a.columns;
  const size_t rank = std::max(pairs.a.batch.size(), pairs.b.batch.size());
  std::vector<int64_t> dims(rank, 1), a_steps(rank, 0), b_steps(rank, 0);
  auto align = [&](const MatrixView& view, std::vector<int64_t>& steps) {
    const size_t shift = rank - view.batch.size();
    for (size_t i = 0; i < view.batch.size(); ++i) {
      if (view.batch[i] == 1) continue;
      dims[shift + i] = view.batch[i];
      steps[shift + i] = view.batch_strides[i];
    }
  };
  align(pairs.a, a_steps);
  align(pairs.b, b_steps);
  int64_t count = pairs.m > 0 && pairs.n > 0 ? 1 : 0;
  for (const int64_t dim : dims) count *= count == 0 ? 0 : dim;
  if (count == 0) return pairs;

  // Many small products with one matrix on the right are one product.
  const bool is_shared = std::all_of(b_steps.begin(), b_steps.end(), [](int64_t step) { return step == 0; });
  const bool has_rows_in_order = pairs.a.columns == 0 || pairs.a.row_stride == pairs.a.columns;
  if (is_shared && count > 1 && !a_layout.is_transposed && !a_layout.is_batch_transposed && has_rows_in_order) {
    pairs.m *= count;
    pairs.a_offsets = pairs.b_offsets = {0};
    return pairs;
  }
  std::vector<int64_t> index(rank, 0);
  int64_t a_offset = 0, b_offset = 0;
  for (int64_t i = 0; i < count; ++i) {
    pairs.a_offsets.push_back(a_offset);
    pairs.b_offsets.push_back(b_offset);
    for (size_t d = rank; d-- > 0;) {
      a_offset += a_steps[d];
      b_offset += b_steps[d];
      if (++index[d] < dims[d]) break;
      a_offset -= a_steps[d] * dims[d];
      b_offset -= b_steps[d] * dims[d];
      index[d] = 0;
    }
  }
  return pairs;
}

}  // namespace sluice::graph::ops
