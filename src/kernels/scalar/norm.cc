#include <cmath>

#include "kernels/scalar/fills.h"

namespace sluice::kernels::scalar {
namespace {

void rms_norm(const float* x, const float* weight, float* out, int64_t n, float epsilon) {
  double squares = 0;
  for (int64_t i = 0; i < n; ++i) squares += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  float inverse = static_cast<float>(1.0 / std::sqrt(squares / static_cast<double>(n) + static_cast<double>(epsilon)));
  for (int64_t i = 0; i < n; ++i) out[i] = x[i] * inverse * weight[i];
}

void layer_norm(const float* x, const float* weight, const float* bias, float* out, int64_t n, float epsilon) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]);
  double mean = sum / static_cast<double>(n);
  double squares = 0;  // of the differences: the textbook E[x^2] - E[x]^2 cancels when the mean is large
  for (int64_t i = 0; i < n; ++i) squares += (static_cast<double>(x[i]) - mean) * (static_cast<double>(x[i]) - mean);
  double inverse = 1.0 / std::sqrt(squares / static_cast<double>(n) + static_cast<double>(epsilon));
  for (int64_t i = 0; i < n; ++i) {
    float normal = static_cast<float>((static_cast<double>(x[i]) - mean) * inverse);
    out[i] = normal * weight[i] + (bias != nullptr ? bias[i] : 0.0f);
  }
}

}  // namespace

void fill_norm(Kernels& table) {
  table.rms_norm = rms_norm;
  table.layer_norm = layer_norm;
}

}  // namespace sluice::kernels::scalar
