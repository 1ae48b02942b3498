#include "graph/float_types.h"

#include <array>
#include <cmath>
#include <limits>

#include "base/check.h"

namespace sluice::graph {
namespace {

// A format of a sign, `8 - 1 - mantissa_bits` exponent bits (two for float4e2m1) and a mantissa.
struct NarrowFormat {
  int mantissa_bits;
  int bias;
  uint8_t sign;         // its bit
  uint8_t largest;      // code of the largest finite magnitude
  uint8_t nan;          // code of NaN
  uint8_t overflow;     // of what is too large and does not saturate
  bool has_signed_nan;  // NaN and overflow take the sign; there is a negative zero
};

constexpr NarrowFormat kE4M3FN = {3, 7, 0x80, 0x7e, 0x7f, 0x7f, true};
constexpr NarrowFormat kE4M3FNUZ = {3, 8, 0x80, 0x7f, 0x80, 0x80, false};
constexpr NarrowFormat kE5M2 = {2, 15, 0x80, 0x7b, 0x7e, 0x7c, true};
constexpr NarrowFormat kE5M2FNUZ = {2, 16, 0x80, 0x7f, 0x80, 0x80, false};
constexpr NarrowFormat kE2M1 = {1, 1, 0x08, 0x07, 0x08, 0x07, true};  // no NaN: it becomes -0

const NarrowFormat& format_of(ElementType type) {
  switch (type) {
    case ElementType::kF8E4M3FN: return kE4M3FN;
    case ElementType::kF8E4M3FNUZ: return kE4M3FNUZ;
    case ElementType::kF8E5M2: return kE5M2;
    case ElementType::kF8E5M2FNUZ: return kE5M2FNUZ;
    default: CHECK(type == ElementType::kF4E2M1, name(type)); return kE2M1;
  }
}

float value_of(const NarrowFormat& format, ElementType type, uint8_t code) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const bool is_negative = (code & format.sign) != 0;
  const uint8_t magnitude = code & (format.sign - 1);
  if (!format.has_signed_nan && code == format.nan) return nan;
  if (type == ElementType::kF8E4M3FN && magnitude == 0x7f) return is_negative ? -nan : nan;
  if (type == ElementType::kF8E5M2 && magnitude >= 0x7c) {
    const float special = magnitude == 0x7c ? std::numeric_limits<float>::infinity() : nan;
    return is_negative ? -special : special;
  }
  const int exponent = magnitude >> format.mantissa_bits;
  const int mantissa = magnitude & ((1 << format.mantissa_bits) - 1);
  const int implicit = exponent == 0 ? 0 : 1 << format.mantissa_bits;
  const float value = std::ldexp(static_cast<float>(implicit + mantissa),
                                 (exponent == 0 ? 1 : exponent) - format.bias - format.mantissa_bits);
  return is_negative ? -value : value;
}

std::array<float, 256> make_values(ElementType type) {
  std::array<float, 256> values;
  for (int code = 0; code < 256; ++code) {
    float& value = values[static_cast<size_t>(code)];
    if (type == ElementType::kF8E8M0) {
      value = code == 255 ? std::numeric_limits<float>::quiet_NaN() : std::ldexp(1.0f, code - 127);
    } else {
      const NarrowFormat& format = format_of(type);
      value = value_of(format, type, static_cast<uint8_t>(code & (2 * format.sign - 1)));
    }
  }
  return values;
}

uint8_t float_to_format(const NarrowFormat& format, float value, bool saturates) {
  const uint32_t bits = float_to_bits(value);
  const uint8_t sign = (bits >> 31) != 0 ? format.sign : 0;
  const uint8_t special_sign = format.has_signed_nan ? sign : 0;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint8_t>(format.nan | (format.sign == 0x08 ? 0 : special_sign));
  uint32_t code = 0;
  const uint32_t smallest_normal = static_cast<uint32_t>(128 - format.bias) << 23;
  if (magnitude < smallest_normal) {
    // Added to a number whose last bit is worth as much as the format's, the sum is rounded to it.
    const float unit = bits_to_float(static_cast<uint32_t>(128 - format.bias - format.mantissa_bits + 23) << 23);
    code = float_to_bits(bits_to_float(magnitude) + unit) - float_to_bits(unit);
  } else if (magnitude == 0x7f800000u) {
    code = 0x100;
  } else {
    const int shift = 23 - format.mantissa_bits;
    const uint32_t rounded = magnitude + ((1u << (shift - 1)) - 1) + ((magnitude >> shift) & 1u);
    code = (rounded >> shift) - (static_cast<uint32_t>(127 - format.bias) << format.mantissa_bits);
  }
  if (code > format.largest) {
    if (!saturates && format.sign != 0x08) return static_cast<uint8_t>(format.overflow | special_sign);
    code = format.largest;
  }
  if (code == 0) return special_sign;  // the FNUZ types have no negative zero
  return static_cast<uint8_t>(code | sign);
}

// Powers of two from 2^-127 (code 0) to 2^127 (254); 255 is NaN. The sign is dropped, as the type has none.
uint8_t float_to_e8m0(float value, bool saturates, RoundMode round_mode) {
  const uint32_t magnitude = float_to_bits(value) & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 255;
  if (magnitude == 0x7f800000u) return saturates ? 254 : 255;
  if (magnitude < 0x00400000u) return saturates ? 0 : 255;  // below 2^-127, and 0
  if (magnitude < 0x00800000u) {  // [2^-127, 2^-126): subnormal, half a unit is at 1.5 * 2^-127
    const bool rounds_up = round_mode == RoundMode::kUp ? magnitude > 0x00400000u
                                                        : round_mode == RoundMode::kNearest && magnitude >= 0x00600000u;
    return rounds_up ? 1 : 0;
  }
  const uint32_t mantissa = magnitude & 0x7fffffu;
  const bool rounds_up =
      round_mode == RoundMode::kUp ? mantissa != 0 : round_mode == RoundMode::kNearest && mantissa >= 0x400000u;
  const uint32_t code = (magnitude >> 23) + (rounds_up ? 1 : 0);
  if (code > 254) return saturates ? 254 : 255;
  return static_cast<uint8_t>(code);
}

}  // namespace

float round_to_odd(double value) {
  const float nearest = static_cast<float>(value);
  if (static_cast<double>(nearest) == value || !(value == value)) return nearest;
  uint32_t bits = float_to_bits(nearest);
  if (std::fabs(static_cast<double>(nearest)) > std::fabs(value)) --bits;  // towards zero
  return bits_to_float(bits | 1u);
}

const float* narrow_float_values(ElementType type) {
  static const std::array<float, 256> kValues[] = {
      make_values(ElementType::kF8E4M3FN),   make_values(ElementType::kF8E4M3FNUZ), make_values(ElementType::kF8E5M2),
      make_values(ElementType::kF8E5M2FNUZ), make_values(ElementType::kF8E8M0),     make_values(ElementType::kF4E2M1),
  };
  switch (type) {
    case ElementType::kF8E4M3FN: return kValues[0].data();
    case ElementType::kF8E4M3FNUZ: return kValues[1].data();
    case ElementType::kF8E5M2: return kValues[2].data();
    case ElementType::kF8E5M2FNUZ: return kValues[3].data();
    case ElementType::kF8E8M0: return kValues[4].data();
    default: CHECK(type == ElementType::kF4E2M1, name(type)); return kValues[5].data();
  }
}

uint8_t float_to_narrow(ElementType type, float value, bool saturates, RoundMode round_mode) {
  return type == ElementType::kF8E8M0 ? float_to_e8m0(value, saturates, round_mode)
                                      : float_to_format(format_of(type), value, saturates);
}

}  // namespace sluice::graph
