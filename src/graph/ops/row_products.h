// Products of two matrices whose rows both lie along the summed dimension, out = x * transpose(w), which is what
// attention scores, recurrent layers and projections need. Floats go through the kernel table (kernels/kernels.h) and
// so use the widest vectors of this machine; doubles are plain loops. The functions of one row start no threads and may
// be called from many at once; the one that takes a pool spreads over it.
#pragma once

#include <cstdint>

#include "base/thread_pool.h"

namespace sluice::graph::ops {

// Rows of a matrix, `stride` elements apart; elements of a row are next to each other.
template <typename T>
struct Rows {
  T* data;
  int64_t stride;
};

// out[r, o] = sum over i of x[r, i] * w[o, i], for r < num_rows, o < num_outputs.
void multiply_rows(Rows<const float> x, Rows<const float> w, Rows<float> out, int64_t num_rows, int64_t num_inputs,
                   int64_t num_outputs);
void multiply_rows(Rows<const double> x, Rows<const double> w, Rows<double> out, int64_t num_rows, int64_t num_inputs,
                   int64_t num_outputs);

// The same over the threads of a pool, in strips of rows and outputs.
template <typename T>
void multiply_rows(ThreadPool& pool, Rows<const T> x, Rows<const T> w, Rows<T> out, int64_t num_rows,
                   int64_t num_inputs, int64_t num_outputs) {
  constexpr int64_t kRows = 64, kOutputs = 128;
  const int64_t row_strips = (num_rows + kRows - 1) / kRows, output_strips = (num_outputs + kOutputs - 1) / kOutputs;
  const bool is_small = num_rows * num_outputs * (num_inputs + 1) < (1 << 15);
  pool.parallel_for(row_strips * output_strips, is_small ? row_strips * output_strips : 1,
                    [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i % row_strips * kRows, output = i / row_strips * kOutputs;
      multiply_rows(
          Rows<const T>{x.data + row * x.stride, x.stride}, Rows<const T>{w.data + output * w.stride, w.stride},
          Rows<T>{out.data + row * out.stride + output, out.stride}, num_rows - row < kRows ? num_rows - row : kRows,
          num_inputs, num_outputs - output < kOutputs ? num_outputs - output : kOutputs);
    }
  });
}

// to[column, row] = from[row, column].
template <typename T>
void transpose_rows(Rows<const T> from, Rows<T> to, int64_t num_rows, int64_t num_columns) {
  constexpr int64_t kBlock = 16;
  for (int64_t row = 0; row < num_rows; row += kBlock) {
    const int64_t row_end = row + kBlock < num_rows ? row + kBlock : num_rows;
    for (int64_t column = 0; column < num_columns; column += kBlock) {
      const int64_t column_end = column + kBlock < num_columns ? column + kBlock : num_columns;
      for (int64_t r = row; r < row_end; ++r) {
        for (int64_t c = column; c < column_end; ++c) to.data[c * to.stride + r] = from.data[r * from.stride + c];
      }
    }
  }
}

// accumulator[i] += factor * x[i].
void multiply_add(const float* x, float factor, float* accumulator, int64_t count);
void multiply_add(const double* x, double factor, double* accumulator, int64_t count);

// Softmax of a row in place, as ONNX defines it: NaN where NaN or +inf is in the row. Returns false, and zeros, if
// every element is -inf. A sink, if given, is one more score that takes its share and gives nothing.
bool softmax_row(float* x, int64_t count, const float* sink);
bool softmax_row(double* x, int64_t count, const double* sink);

}  // namespace sluice::graph::ops
