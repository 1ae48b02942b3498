// Scalar conversions between float and the 16- and 8-bit floating point formats. Plain C++ on purpose: the kernels
// have faster ones for whole rows; these define what is right. Rounding is to nearest even.
#pragma once

#include <cstdint>
#include <cstring>

namespace sluice {

inline float bits_to_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t float_to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float bf16_to_float(uint16_t half) { return bits_to_float(static_cast<uint32_t>(half) << 16); }

inline uint16_t float_to_bf16(float value) {
  uint32_t bits = float_to_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);  // quiet the NaN
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// IEEE 754 binary16.
inline float f16_to_float(uint16_t half) {
  uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  uint32_t exponent = (half >> 10) & 0x1fu;
  uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0x1fu) return bits_to_float(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) return bits_to_float(sign | ((exponent + 112u) << 23) | (mantissa << 13));
  float value = static_cast<float>(mantissa) * 5.9604644775390625e-8f;  // subnormal: mantissa * 2^-24
  return sign ? -value : value;
}

inline uint16_t float_to_f16(float value) {
  uint32_t bits = float_to_bits(value);
  uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds past 65504
  if (magnitude < 0x38800000u) {  // below 2^-14: a subnormal, in units of 2^-24
    float scaled = bits_to_float(magnitude) * 16777216.0f;
    uint32_t units = static_cast<uint32_t>(scaled);
    float rest = scaled - static_cast<float>(units);
    if (rest > 0.5f || (rest == 0.5f && (units & 1u))) ++units;
    return static_cast<uint16_t>(sign | units);
  }
  uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

// FP8 E4M3FN (Micikevicius et al. 2022): no infinities, 448 is the largest, 0x7f and 0xff are NaN.
inline float f8_e4m3_to_float(uint8_t byte) {
  uint32_t sign = static_cast<uint32_t>(byte & 0x80u) << 24;
  uint32_t exponent = (byte >> 3) & 0xfu;
  uint32_t mantissa = byte & 7u;
  if (exponent == 0xfu && mantissa == 7u) return bits_to_float(sign | 0x7fc00000u);
  if (exponent != 0) return bits_to_float(sign | ((exponent + 120u) << 23) | (mantissa << 20));
  float value = static_cast<float>(mantissa) * 0.001953125f;  // 2^-9
  return sign ? -value : value;
}

}  // namespace sluice
