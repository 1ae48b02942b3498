#include "graph/ops/row_products.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/kernels.h"

namespace sluice::graph::ops {
namespace {

// Softmax where there are infinities or NaNs, or in double.
template <typename T>
void softmax_plainly(T* x, int64_t count, T largest, const T* sink) {
  T sum = sink != nullptr ? std::exp(*sink - largest) : T{0};
  for (int64_t i = 0; i < count; ++i) sum += x[i] = std::exp(x[i] - largest);
  for (int64_t i = 0; i < count; ++i) x[i] /= sum;
}

// The largest of a row, not counting NaNs.
template <typename T>
T find_largest(const T* x, int64_t count, const T* sink, bool* has_nan) {
  T largest = -std::numeric_limits<T>::infinity();
  bool nan = false;
  for (int64_t i = 0; i < count; ++i) {
    largest = x[i] > largest ? x[i] : largest;
    nan |= x[i] != x[i];
  }
  if (sink != nullptr) largest = std::max(largest, *sink);
  *has_nan = nan;
  return largest;
}

}  // namespace

void multiply_rows(Rows<const float> x, Rows<const float> w, Rows<float> out, int64_t num_rows, int64_t num_inputs,
                   int64_t num_outputs) {
  if (num_rows <= 0 || num_outputs <= 0) return;
  if (num_inputs <= 0) {
    for (int64_t r = 0; r < num_rows; ++r) std::fill_n(out.data + r * out.stride, num_outputs, 0.0f);
    return;
  }
  static const kernels::MatmulEntry entry = kernels::get_kernels().matmul[static_cast<int>(DType::kF32)];
  entry.multiply({.weights = w.data,
                  .weight_row_bytes = w.stride * static_cast<int64_t>(sizeof(float)),
                  .activations = x.data,
                  .activation_row_bytes = x.stride * static_cast<int64_t>(sizeof(float)),
                  .output = out.data,
                  .output_stride = out.stride,
                  .num_rows = num_rows,
                  .num_inputs = num_inputs,
                  .output_begin = 0,
                  .output_end = num_outputs});
}

void multiply_rows(Rows<const double> x, Rows<const double> w, Rows<double> out, int64_t num_rows, int64_t num_inputs,
                   int64_t num_outputs) {
  for (int64_t r = 0; r < num_rows; ++r) {
    const double* left = x.data + r * x.stride;
    for (int64_t o = 0; o < num_outputs; ++o) {
      const double* right = w.data + o * w.stride;
      double sums[4] = {};
      int64_t i = 0;
      for (; i + 4 <= num_inputs; i += 4) {
        for (int lane = 0; lane < 4; ++lane) sums[lane] += left[i + lane] * right[i + lane];
      }
      for (; i < num_inputs; ++i) sums[0] += left[i] * right[i];
      out.data[r * out.stride + o] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    }
  }
}

void multiply_add(const float* x, float factor, float* accumulator, int64_t count) {
  static const auto entry = kernels::get_kernels().multiply_add;
  entry(x, factor, accumulator, count);
}

void multiply_add(const double* x, double factor, double* accumulator, int64_t count) {
  for (int64_t i = 0; i < count; ++i) accumulator[i] += factor * x[i];
}

bool softmax_row(float* x, int64_t count, const float* sink) {
  bool has_nan = false;
  const float largest = find_largest(x, count, sink, &has_nan);
  if (!has_nan && largest == -std::numeric_limits<float>::infinity()) {
    std::fill_n(x, count, 0.0f);
    return false;
  }
  if (has_nan || !std::isfinite(largest)) {
    softmax_plainly(x, count, largest, sink);
    return true;
  }
  static const auto exp_weights = kernels::get_kernels().exp_weights;
  double sum = exp_weights(x, largest, 1.0f, x, count);
  if (sink != nullptr) sum += std::exp(static_cast<double>(*sink) - largest);
  const float factor = static_cast<float>(1.0 / sum);
  for (int64_t i = 0; i < count; ++i) x[i] *= factor;
  return true;
}

bool softmax_row(double* x, int64_t count, const double* sink) {
  bool has_nan = false;
  const double largest = find_largest(x, count, sink, &has_nan);
  if (!has_nan && largest == -std::numeric_limits<double>::infinity()) {
    std::fill_n(x, count, 0.0);
    return false;
  }
  softmax_plainly(x, count, largest, sink);
  return true;
}

}  // namespace sluice::graph::ops
