// Elementary functions of float without branches or calls, so that loops over them become vector code.
//
// Arguments are reduced as usual (Cody and Waite 1980), then a polynomial: the coefficients are Chebyshev fits made for
// this file with mpmath, of the function named in the comment. Errors are below 2 units in the last place (3 of
// fast_sigmoid), which ops_elementwise_test.cc checks against the C functions in double; infinities and NaNs give
// what the C functions give. No other state than the arguments.
#pragma once

#include <cstdint>
#include <limits>

#include "base/float16.h"

namespace sluice::graph::ops {

inline float copy_sign(float magnitude, float sign) {
  return bits_to_float((float_to_bits(magnitude) & 0x7fffffffu) | (float_to_bits(sign) & 0x80000000u));
}
inline float magnitude(float x) { return bits_to_float(float_to_bits(x) & 0x7fffffffu); }

// Half to even, as rint() does. Beyond 2^23 every float is an integer.
inline float round_even(float x) {
  const float bias = copy_sign(8388608.0f, x);
  const float rounded = copy_sign((x + bias) - bias, x);
  return magnitude(x) < 8388608.0f ? rounded : x;
}
inline float round_down(float x) {
  const float r = round_even(x);
  return r > x ? r - 1.0f : r;
}
inline float round_up(float x) {
  const float r = round_even(x);
  return r < x ? copy_sign(r + 1.0f, x) : r;
}

inline float fast_exp(float x) {
  x = x > 89.0f ? 89.0f : x;
  x = x < -104.0f ? -104.0f : x;
  const float shifted = x * 1.44269504f + 12582912.0f;  // the low bits are round(x / ln 2)
  const float k = shifted - 12582912.0f;
  const float r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
  float p = 0.0001989198131f;  // (e^r - 1 - r) / r^2
  p = p * r + 0.001393454193f;
  p = p * r + 0.008333310024f;
  p = p * r + 0.04166645681f;
  p = p * r + 0.1666666668f;
  p = p * r + 0.5f;
  p = p * (r * r) + r + 1.0f;
  // 2^k in two factors, for subnormal results and those that overflow.
  const int32_t exponent = static_cast<int32_t>(float_to_bits(shifted) - 0x4b400000u);
  const int32_t half = exponent >> 1;
  const float first = bits_to_float(static_cast<uint32_t>(half + 127) << 23);
  const float second = bits_to_float(static_cast<uint32_t>(exponent - half + 127) << 23);
  return p * first * second;
}

// exp(x) - 1
inline float fast_expm1(float x) {
  const float r = x > 0.5f ? 0.5f : x < -0.5f ? -0.5f : x;
  float p = 2.492233891e-5f;  // (expm1(r) - r) / r^2
  p = p * r + 0.0001996217623f;
  p = p * r + 0.001388873815f;
  p = p * r + 0.008333182072f;
  p = p * r + 0.04166666713f;
  p = p * r + 0.1666666714f;
  p = p * r + 0.5f;
  const float small = p * (r * r) + r;
  const float large = fast_exp(x) - 1.0f;
  const float result = magnitude(x) < 0.5f ? small : large;
  return x == 0.0f ? x : result;  // keeps -0
}

inline float fast_log(float x) {
  const bool is_tiny = x < 1.17549435e-38f;  // subnormal
  const float y = is_tiny ? x * 8388608.0f : x;
  const uint32_t bits = float_to_bits(y);
  const int32_t exponent = static_cast<int32_t>(bits - 0x3f2aaaabu) >> 23;  // so that the rest is in [2/3, 4/3)
  const float f = bits_to_float(bits - (static_cast<uint32_t>(exponent) << 23)) - 1.0f;
  const float k = static_cast<float>(exponent) - (is_tiny ? 23.0f : 0.0f);
  float p = 0.1128396139f;  // (log(1 + f) - f + f^2 / 2) / f^3
  p = p * f - 0.1242220058f;
  p = p * f + 0.1092731879f;
  p = p * f - 0.1228872161f;
  p = p * f + 0.1429089518f;
  p = p * f - 0.1667331625f;
  p = p * f + 0.1999997835f;
  p = p * f - 0.2499994419f;
  p = p * f + 0.3333333308f;
  float result = p * (f * f * f) - k * 2.12194440e-4f;
  result = result - 0.5f * (f * f) + f + k * 0.693359375f;
  const float infinity = std::numeric_limits<float>::infinity();
  result = x == infinity ? x : result;
  result = x == 0.0f ? -infinity : result;
  return x >= 0.0f ? result : std::numeric_limits<float>::quiet_NaN();
}

// log(1 + y) for y >= 0; what 1 + y loses in rounding is put right by the derivative.
inline float fast_log1p(float y) {
  const float u = 1.0f + y;
  const float result = fast_log(u) + (y - (u - 1.0f)) / u;
  return u == std::numeric_limits<float>::infinity() ? u : result;
}

inline float fast_sigmoid(float x) { return 1.0f / (1.0f + fast_exp(-x)); }

inline float fast_tanh(float x) {
  const float t = magnitude(x);
  const float r = t > 0.6f ? 0.6f : t;
  const float s = r * r;
  float p = 0.00237076564f;  // (tanh(r) - r) / r^3, in r^2
  p = p * s - 0.008410070802f;
  p = p * s + 0.021788322f;
  p = p * s - 0.05396155178f;
  p = p * s + 0.1333331287f;
  p = p * s - 0.3333333323f;
  const float small = p * s * r + r;
  const float large = 1.0f - 2.0f / (fast_exp(t + t) + 1.0f);
  return copy_sign(t < 0.6f ? small : large, x);
}

inline float fast_erf(float x) {
  const float t = magnitude(x);
  const float r = t > 1.0f ? 1.0f : t;
  const float s = r * r;
  float p = -9.667044571e-6f;  // erf(r) / r - 1, in r^2
  p = p * s + 0.0001126595903f;
  p = p * s - 0.0008484080406f;
  p = p * s + 0.005221031808f;
  p = p * s - 0.02686543073f;
  p = p * s + 0.112837825f;
  p = p * s - 0.3761263847f;
  p = p * s + 0.1283791671f;
  const float small = p * r + r;
  const float u = t > 4.0f ? 4.0f : t;  // erf is 1 from here on
  float q = -1.637151415e-6f;  // -log(1 - erf(u))
  q = q * u + 4.605804269e-5f;
  q = q * u - 0.0005968056257f;
  q = q * u + 0.004759596293f;
  q = q * u - 0.02642113601f;
  q = q * u + 0.1100800829f;
  q = q * u + 0.6318260516f;
  q = q * u + 1.130233435f;
  q = q * u - 0.0003201380497f;
  const float large = 1.0f - fast_exp(-q);
  return copy_sign(t < 1.0f ? small : large, x);
}

}  // namespace sluice::graph::ops
