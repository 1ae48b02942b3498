// The element types, and nothing else. Apart from tensor.h, so that files built for one instruction set (kernels/avx2
// and its like) can name a type without pulling in the standard library, whose inline functions they must not emit.
#pragma once

#include <stdint.h>

namespace sluice {

enum class DType : uint8_t {
  kF32, kF16, kBF16, kF8E4M3,
  kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ8_0,
  kQ2_K, kQ3_K, kQ4_K, kQ5_K, kQ6_K,
  kIQ4_NL, kIQ4_XS,
  kI8, kI16, kI32, kI64, kF64, kBool, kU8,
};
inline constexpr int kNumDTypes = 23;

}  // namespace sluice
