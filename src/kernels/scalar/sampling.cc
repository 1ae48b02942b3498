// Sampling: logits to weights, and how much of them lies above a border.
#include <cmath>

#include "kernels/scalar/fills.h"

namespace sluice::kernels::scalar {
namespace {

double exp_weights(const float* x, float base, float scale, float* weights, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    weights[i] = std::exp((x[i] - base) * scale);
    sum += static_cast<double>(weights[i]);
  }
  return sum;
}

double sum_at_least(const float* keys, const float* values, float border, int64_t n, int64_t* count) {
  double sum = 0;
  *count = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (!(keys[i] >= border)) continue;
    sum += static_cast<double>(values[i]);
    ++*count;
  }
  return sum;
}

}  // namespace

void fill_sampling(Kernels& table) {
  table.exp_weights = exp_weights;
  table.sum_at_least = sum_at_least;
}

}  // namespace sluice::kernels::scalar
