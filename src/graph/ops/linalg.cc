// Determinants and inverses of batches of square matrices: Det of the ONNX operator specification, Inverse of
// com.microsoft. Elimination with row pivots in double precision. The determinant of a singular matrix is 0; its
// inverse has infinities and NaNs in it, as other runtimes answer. A matrix of no rows has the determinant 1.
#include <cmath>
#include <vector>

#include "graph/ops/ops.h"

namespace sluice::graph::ops {
namespace {

void check_square(const InferContext& context) {
  if (!context.has_rank(0)) return;
  const Dims& dims = context.dims(0);
  if (dims.size() < 2) context.fail("the input of shape {} is no matrix", to_string(dims));
  const Dim &rows = dims[dims.size() - 2], &columns = dims.back();
  if (rows.is_known() && columns.is_known() && !(rows == columns)) {
    context.fail("a matrix of {} rows and {} columns is not square", rows.value(), columns.value());
  }
}

void infer_det(InferContext& context) {
  check_square(context);
  if (!context.has_rank(0)) return context.set_output(0, context.element(0));
  context.set_output(0, context.element(0), Dims(context.dims(0).begin(), context.dims(0).end() - 2));
}

// The row from `column` on with the largest value in that column, swapped to its place. Returns whether rows were
// swapped.
bool pivot(std::vector<double>& matrix, int64_t n, int64_t width, int64_t column) {
  auto at = [&](int64_t row, int64_t c) -> double& { return matrix[static_cast<size_t>(row * width + c)]; };
  int64_t best = column;
  for (int64_t row = column + 1; row < n; ++row) {
    if (std::abs(at(row, column)) > std::abs(at(best, column))) best = row;
  }
  if (best == column) return false;
  for (int64_t c = 0; c < width; ++c) std::swap(at(best, c), at(column, c));
  return true;
}

template <typename T>
T determinant(const T* from, int64_t n, std::vector<double>& matrix) {
  matrix.assign(from, from + n * n);
  double result = 1;
  for (int64_t column = 0; column < n; ++column) {
    if (pivot(matrix, n, n, column)) result = -result;
    const double* top = matrix.data() + column * n;
    result *= top[column];
    if (top[column] == 0) return 0;
    for (int64_t row = column + 1; row < n; ++row) {
      double* line = matrix.data() + row * n;
      const double factor = line[column] / top[column];
      for (int64_t c = column + 1; c < n; ++c) line[c] -= factor * top[c];
    }
  }
  return static_cast<T>(result);
}

template <typename T>
void invert(const T* from, int64_t n, std::vector<double>& matrix, T* to) {
  const int64_t width = 2 * n;
  matrix.assign(static_cast<size_t>(n * width), 0);
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t c = 0; c < n; ++c) matrix[static_cast<size_t>(row * width + c)] = from[row * n + c];
    matrix[static_cast<size_t>(row * width + n + row)] = 1;
  }
  for (int64_t column = 0; column < n; ++column) {
    pivot(matrix, n, width, column);
    double* top = matrix.data() + column * width;
    const double divisor = top[column];
    for (int64_t c = column; c < width; ++c) top[c] /= divisor;
    for (int64_t row = 0; row < n; ++row) {
      if (row == column) continue;
      double* line = matrix.data() + row * width;
      const double factor = line[column];
      if (factor == 0) continue;
      for (int64_t c = column; c < width; ++c) line[c] -= factor * top[c];
    }
  }
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t c = 0; c < n; ++c) to[row * n + c] = static_cast<T>(matrix[static_cast<size_t>(row * width + n + c)]);
  }
}

void run_det(RunContext& context) {
  const Tensor& x = context.input(0);
  const int64_t n = x.shape().back(), count = context.output(0).count();
  std::vector<double> matrix;
  if (!dispatch<float, double>(x.type(), [&](auto zero) {
        using T = decltype(zero);
        for (int64_t i = 0; i < count; ++i)
          context.output_data<T>(0)[i] = determinant(x.data<T>() + i * n * n, n, matrix);
      })) {
    context.fail_type(0);
  }
}

void infer_inverse(InferContext& context) {
  check_square(context);
  infer_same(context);
}
void run_inverse(RunContext& context) {
  const Tensor& x = context.input(0);
  const int64_t n = x.shape().back(), count = n == 0 ? 0 : x.count() / (n * n);
  std::vector<double> matrix;
  if (!dispatch<float, double>(x.type(), [&](auto zero) {
        using T = decltype(zero);
        for (int64_t i = 0; i < count; ++i)
          invert(x.data<T>() + i * n * n, n, matrix, context.output_data<T>(0) + i * n * n);
      })) {
    context.fail_type(0);
  }
}

constexpr OpInfo kOps[] = {
    {"", "Det", 11, 0, infer_det, run_det, OpInfo::kViaFloat},
    {kMicrosoft, "Inverse", 1, 0, infer_inverse, run_inverse, OpInfo::kViaFloat},
};

}  // namespace

std::span<const OpInfo> linalg_ops() { return kOps; }

}  // namespace sluice::graph::ops
