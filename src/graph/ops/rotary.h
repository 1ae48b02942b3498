// Rotary position embedding of one head, shared by the operators that rotate: pairs of the first `rotated` elements are
// turned by the angles of a position, the rest is copied. Pairs are (i, i + rotated / 2), or (2i, 2i + 1) if
// interleaved.
#pragma once

#include <cstdint>
#include <cstring>

namespace sluice::graph::ops {

// `cosines` and `sines` are [rotated / 2]. x and out are [size] and may be the same. REQUIRES: rotated is even, <=
// size.
inline void rotate_head(const float* x, float* out, const float* cosines, const float* sines, int64_t rotated,
                        int64_t size, bool is_interleaved) {
  const int64_t half = rotated / 2;
  if (is_interleaved) {
    for (int64_t i = 0; i < half; ++i) {
      const float a = x[2 * i], b = x[2 * i + 1];
      out[2 * i] = a * cosines[i] - b * sines[i];
      out[2 * i + 1] = a * sines[i] + b * cosines[i];
    }
  } else {
    for (int64_t i = 0; i < half; ++i) {
      const float a = x[i], b = x[i + half];
      out[i] = a * cosines[i] - b * sines[i];
      out[i + half] = a * sines[i] + b * cosines[i];
    }
  }
  if (out != x && size > rotated)
    std::memcpy(out + rotated, x + rotated, sizeof(float) * static_cast<size_t>(size - rotated));
}

}  // namespace sluice::graph::ops
