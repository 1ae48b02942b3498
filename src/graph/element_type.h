// The element types of ONNX tensors, with ONNX's own numbers (TensorProto.DataType), and what C++ type holds one in
// memory.
//
// Types narrower than a byte (int4, uint4, int2, uint2, float4e2m1) take a byte an element here, sign-extended if they
// are signed: files pack them, operators never see that. f16 and bf16 are their 16 bits, the 8-bit floats theirs, and
// float4e2m1 has its code in the low four bits; float_types.h converts them.
#pragma once

#include <complex>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

namespace sluice::graph {

enum class ElementType : uint8_t {
  kUndefined = 0,
  kF32 = 1,
  kU8 = 2,
  kI8 = 3,
  kU16 = 4,
  kI16 = 5,
  kI32 = 6,
  kI64 = 7,
  kString = 8,
  kBool = 9,
  kF16 = 10,
  kF64 = 11,
  kU32 = 12,
  kU64 = 13,
  kC64 = 14,
  kC128 = 15,
  kBF16 = 16,
  kF8E4M3FN = 17,
  kF8E4M3FNUZ = 18,
  kF8E5M2 = 19,
  kF8E5M2FNUZ = 20,
  kU4 = 21,
  kI4 = 22,
  kF4E2M1 = 23,
  kF8E8M0 = 24,
  kU2 = 25,
  kI2 = 26,
};
inline constexpr int kNumElementTypes = 27;

struct ElementInfo {
  const char* name;  // "float32", "int64", ... as NumPy and ONNX say it
  int bytes;         // of one element in memory; 0: undefined; strings: sizeof(std::string)
  int packed_bits;   // of one element in a file
};
const ElementInfo& get_info(ElementType type);
inline const char* name(ElementType type) { return get_info(type).name; }

inline bool is_half(ElementType t) { return t == ElementType::kF16 || t == ElementType::kBF16; }
inline bool is_float8(ElementType t) {
  return (t >= ElementType::kF8E4M3FN && t <= ElementType::kF8E5M2FNUZ) || t == ElementType::kF8E8M0;
}
// Of any width, 4 bits to 64.
inline bool is_float(ElementType t) {
  return t == ElementType::kF32 || t == ElementType::kF64 || is_half(t) || is_float8(t) || t == ElementType::kF4E2M1;
}
inline bool is_integer(ElementType t) {
  return (t >= ElementType::kU8 && t <= ElementType::kI64) || t == ElementType::kU32 || t == ElementType::kU64 ||
         t == ElementType::kU4 || t == ElementType::kI4 || t == ElementType::kU2 || t == ElementType::kI2;
}

// A distinct C++ type for each element type whose bits are not a C++ number, so that templates tell them apart.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// The ElementType of a C++ type, at compile time.
template <typename T>
constexpr ElementType type_of() {
  if constexpr (std::is_same_v<T, float>)
    return ElementType::kF32;
  else if constexpr (std::is_same_v<T, double>)
    return ElementType::kF64;
  else if constexpr (std::is_same_v<T, uint8_t>)
    return ElementType::kU8;
  else if constexpr (std::is_same_v<T, int8_t>)
    return ElementType::kI8;
  else if constexpr (std::is_same_v<T, uint16_t>)
    return ElementType::kU16;
  else if constexpr (std::is_same_v<T, int16_t>)
    return ElementType::kI16;
  else if constexpr (std::is_same_v<T, int32_t>)
    return ElementType::kI32;
  else if constexpr (std::is_same_v<T, int64_t>)
    return ElementType::kI64;
  else if constexpr (std::is_same_v<T, uint32_t>)
    return ElementType::kU32;
  else if constexpr (std::is_same_v<T, uint64_t>)
    return ElementType::kU64;
  else if constexpr (std::is_same_v<T, bool>)
    return ElementType::kBool;
  else if constexpr (std::is_same_v<T, std::string>)
    return ElementType::kString;
  else if constexpr (std::is_same_v<T, Half>)
    return ElementType::kF16;
  else if constexpr (std::is_same_v<T, BFloat16>)
    return ElementType::kBF16;
  else if constexpr (std::is_same_v<T, std::complex<float>>)
    return ElementType::kC64;
  else if constexpr (std::is_same_v<T, std::complex<double>>)
    return ElementType::kC128;
}

// Calls body(T{}) with the C++ type of `type` if it is one of Types; false if it is none of them:
//   if (!dispatch<float, double>(x.type(), [&](auto zero) { using T = decltype(zero); ... })) ...
template <typename... Types, typename Body>
bool dispatch(ElementType type, Body&& body) {
  return ((type == type_of<Types>() ? (body(Types{}), true) : false) || ...);
}
template <typename Body>
bool dispatch_integers(ElementType type, Body&& body) {
  return dispatch<int64_t, int32_t, int16_t, int8_t, uint64_t, uint32_t, uint16_t, uint8_t>(type, body);
}
// Numbers that C++ computes with: float, double and the integers. The half types come through OpInfo::kViaFloat.
template <typename Body>
bool dispatch_numbers(ElementType type, Body&& body) {
  return dispatch<float, double>(type, body) || dispatch_integers(type, body);
}
// Calls body(T{}) with an unsigned integer as wide as an element, for code that only moves elements; std::string for
// strings. Every type but kUndefined.
template <typename Body>
void dispatch_width(ElementType type, Body&& body) {
  if (type == ElementType::kString) return body(std::string());
  switch (get_info(type).bytes) {
    case 1:
      return body(uint8_t{});
    case 2:
      return body(uint16_t{});
    case 4:
      return body(uint32_t{});
    case 8:
      return body(uint64_t{});
    default:
      return body(std::complex<double>{});
  }
}

}  // namespace sluice::graph
