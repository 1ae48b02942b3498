// Conversions between numbers and the floating point types of 16 bits and fewer: f16, bf16, the four 8-bit floats,
// float8e8m0 (a power of two, no sign) and float4e2m1.
//
// Rounding is to nearest, ties to even, in one step: a double goes to a narrow type through a float that is rounded to
// odd, so that nothing is rounded twice. What is out of range becomes the largest finite number if `saturates`, and
// otherwise infinity, or NaN in types without one; this is the Cast table of the ONNX operator specification, except
// that infinity saturates in the FNUZ types too, as ONNX's own test data has it. Pure functions, any thread.
#pragma once

#include <cstdint>

#include "base/float16.h"
#include "graph/element_type.h"

namespace sluice::graph {

// Of float8e8m0 only, on magnitudes: away from zero, towards zero, to the nearest with ties away from zero.
enum class RoundMode : uint8_t { kUp, kDown, kNearest };

// The nearest float, or of the two around a double that is no float the one whose last bit is 1.
float round_to_odd(double value);

inline uint16_t double_to_f16(double value) { return float_to_f16(round_to_odd(value)); }
inline uint16_t double_to_bf16(double value) { return float_to_bf16(round_to_odd(value)); }

// All codes of a type of one byte (an 8-bit float or float4e2m1) as floats, [256]; of float4e2m1 the high bits do not
// matter. REQUIRES: is_narrow_float(type).
const float* narrow_float_values(ElementType type);
inline bool is_narrow_float(ElementType type) { return is_float8(type) || type == ElementType::kF4E2M1; }

// REQUIRES: is_narrow_float(type).
uint8_t float_to_narrow(ElementType type, float value, bool saturates = true, RoundMode round_mode = RoundMode::kUp);

}  // namespace sluice::graph
