#include "kernels/scalar/fills.h"

namespace sluice::kernels::scalar {
namespace {

void rope_neox(float* x, const float* cosines, const float* sines, int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    float a = x[i], b = x[i + half];
    x[i] = a * cosines[i] - b * sines[i];
    x[i + half] = a * sines[i] + b * cosines[i];
  }
}

void rope_interleaved(float* x, const float* cosines, const float* sines, int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    float a = x[2 * i], b = x[2 * i + 1];
    x[2 * i] = a * cosines[i] - b * sines[i];
    x[2 * i + 1] = a * sines[i] + b * cosines[i];
  }
}

}  // namespace

void fill_rope(Kernels& table) {
  table.rope_neox = rope_neox;
  table.rope_interleaved = rope_interleaved;
}

}  // namespace sluice::kernels::scalar
