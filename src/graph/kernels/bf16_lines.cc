#include "graph/kernels/bf16_lines.h"

#include "base/float16.h"
#include "graph/kernels/isa.h"

namespace sluice::graph {
namespace {

[[gnu::always_inline]] inline void widen_all(const uint16_t* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = bits_to_float(static_cast<uint32_t>(from[i]) << 16);
}

// Without a branch, so that the loop becomes vector code.
[[gnu::always_inline]] inline void round_all(const float* from, int64_t count, uint16_t* to) {
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t bits = float_to_bits(from[i]);
    const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    to[i] = static_cast<uint16_t>(is_nan ? (bits >> 16) | 0x40u : rounded);
  }
}

using Widen = void (*)(const uint16_t* from, int64_t count, float* to);
using Round = void (*)(const float* from, int64_t count, uint16_t* to);

void widen_128(const uint16_t* from, int64_t count, float* to) { widen_all(from, count, to); }
void round_128(const float* from, int64_t count, uint16_t* to) { round_all(from, count, to); }

#ifdef __x86_64__
#define SLUICE_AVX2 __attribute__((target("avx2,fma")))
#define SLUICE_AVX512 __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma,prefer-vector-width=512")))
SLUICE_AVX2 void widen_256(const uint16_t* from, int64_t count, float* to) { widen_all(from, count, to); }
SLUICE_AVX2 void round_256(const float* from, int64_t count, uint16_t* to) { round_all(from, count, to); }
SLUICE_AVX512 void widen_512(const uint16_t* from, int64_t count, float* to) { widen_all(from, count, to); }
SLUICE_AVX512 void round_512(const float* from, int64_t count, uint16_t* to) { round_all(from, count, to); }
#undef SLUICE_AVX2
#undef SLUICE_AVX512
#endif

Widen choose_widen() {
#ifdef __x86_64__
  if (vector_isa() == VectorIsa::kAvx512) return widen_512;
  if (vector_isa() == VectorIsa::kAvx2) return widen_256;
#endif
  return widen_128;
}

Round choose_round() {
#ifdef __x86_64__
  if (vector_isa() == VectorIsa::kAvx512) return round_512;
  if (vector_isa() == VectorIsa::kAvx2) return round_256;
#endif
  return round_128;
}

}  // namespace

void widen_bf16(const uint16_t* from, int64_t count, float* to) {
  static const Widen widen = choose_widen();
  widen(from, count, to);
}

void round_to_bf16(const float* from, int64_t count, uint16_t* to) {
  static const Round round = choose_round();
  round(from, count, to);
}

}  // namespace sluice::graph
