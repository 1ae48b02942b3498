// Sums over rows that normalisations need. Sixteen sums run side by side, so that the compiler makes them vectors, and
// are added in double every few thousand elements, so that long rows lose nothing. Variances are of the population and
// computed about the mean, in a second pass.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace sluice::graph::ops {

// The sum of f(x[i]).
template <typename T, typename F>
inline double sum_row(const T* x, int64_t count, F f) {
  constexpr int kLanes = 16;
  constexpr int64_t kPiece = 4096;
  double total = 0;
  for (int64_t begin = 0; begin < count; begin += kPiece) {
    const int64_t end = std::min(count, begin + kPiece);
    T lanes[kLanes] = {};
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      for (int j = 0; j < kLanes; ++j) lanes[j] += f(x[i + j]);
    }
    T rest = 0;
    for (; i < end; ++i) rest += f(x[i]);
    for (int j = 0; j < kLanes; ++j) rest += lanes[j];
    total += static_cast<double>(rest);
  }
  return total;
}

template <typename T>
inline double mean_of(const T* x, int64_t count) {
  return sum_row(x, count, [](T v) { return v; }) / static_cast<double>(count);
}
template <typename T>
inline double mean_square_of(const T* x, int64_t count) {
  return sum_row(x, count, [](T v) { return v * v; }) / static_cast<double>(count);
}
template <typename T>
inline double variance_of(const T* x, int64_t count, double mean) {
  const T m = static_cast<T>(mean);
  return sum_row(x, count, [m](T v) { return (v - m) * (v - m); }) / static_cast<double>(count);
}

// y[i] = (x[i] - mean) * factor * scale[i] + bias[i]; scale and bias may be null: 1 and 0.
template <typename T>
inline void normalize_row(const T* x, int64_t count, T mean, T factor, const T* scale, const T* bias, T* y) {
  if (scale == nullptr && bias == nullptr) {
    for (int64_t i = 0; i < count; ++i) y[i] = (x[i] - mean) * factor;
  } else if (bias == nullptr) {
    for (int64_t i = 0; i < count; ++i) y[i] = (x[i] - mean) * factor * scale[i];
  } else if (scale == nullptr) {
    for (int64_t i = 0; i < count; ++i) y[i] = (x[i] - mean) * factor + bias[i];
  } else {
    for (int64_t i = 0; i < count; ++i) y[i] = (x[i] - mean) * factor * scale[i] + bias[i];
  }
}

}  // namespace sluice::graph::ops
