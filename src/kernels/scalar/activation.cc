#include <algorithm>
#include <cmath>

#include "kernels/scalar/fills.h"

namespace sluice::kernels::scalar {
namespace {

float silu(float x) { return x / (1.0f + std::exp(-x)); }

// Hendrycks and Gimpel 2016, the tanh form: 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).
float gelu(float x) {
  double v = static_cast<double>(x);
  return static_cast<float>(0.5 * v * (1.0 + std::tanh(0.7978845608028654 * (v + 0.044715 * v * v * v))));
}

void silu_multiply(const float* gate, const float* up, float* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = silu(gate[i]) * up[i];
}

void gelu_multiply(const float* gate, const float* up, float* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = gelu(gate[i]) * up[i];
}

void gelu_tanh(const float* x, float* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = gelu(x[i]);
}

void gelu_erf(const float* x, float* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    double v = static_cast<double>(x[i]);
    out[i] = static_cast<float>(0.5 * v * (1.0 + std::erf(v * 0.7071067811865476)));
  }
}

void add(const float* a, const float* b, float* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = a[i] + b[i];
}

void scale(const float* x, float factor, float* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = factor * x[i];
}

void multiply_add(const float* x, float factor, float* accumulator, int64_t n) {
  for (int64_t i = 0; i < n; ++i) accumulator[i] += factor * x[i];
}

void softcap(const float* x, float cap, float* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = cap * std::tanh(x[i] / cap);
}

double log_sum_exp(const float* x, int64_t n) {
  float highest = -INFINITY;
  for (int64_t i = 0; i < n; ++i) highest = std::max(highest, x[i]);
  if (highest == -INFINITY) return -INFINITY;
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(static_cast<double>(x[i]) - static_cast<double>(highest));
  return static_cast<double>(highest) + std::log(sum);
}

int64_t argmax(const float* x, int64_t n) {
  int64_t best = -1;
  for (int64_t i = 0; i < n; ++i) {
    if (!std::isnan(x[i]) && (best < 0 || x[i] > x[best])) best = i;
  }
  return std::max<int64_t>(best, 0);
}

}  // namespace

void fill_activation(Kernels& table) {
  table.silu_multiply = silu_multiply;
  table.gelu_multiply = gelu_multiply;
  table.gelu_tanh = gelu_tanh;
  table.gelu_erf = gelu_erf;
  table.add = add;
  table.scale = scale;
  table.multiply_add = multiply_add;
  table.softcap = softcap;
  table.log_sum_exp = log_sum_exp;
  table.argmax = argmax;
}

}  // namespace sluice::kernels::scalar
