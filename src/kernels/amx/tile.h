// The tile unit: eight registers of up to 16 rows of 64 bytes, and one instruction that multiplies two of them. Own
// assembly and not the compiler's intrinsics, because those take register numbers as text only, which templates cannot
// give, and do not tell the compiler that they read memory.
//
// The unit keeps its state in the thread: configure before use, release afterwards, for a thread with tiles in use
// costs the kernel 8 KB more at every switch. A process has to ask the kernel first (cpu.h).
//
// Compiled with SLUICE_EMULATE_AMX the same names are a model of the unit in plain code, for tests on machines that
// have none.
#pragma once

#include <stdint.h>

namespace sluice::kernels::amx {
namespace {

constexpr int kTileRows = 16;
constexpr int kTileRowBytes = 64;
constexpr int kTileBytes = kTileRows * kTileRowBytes;
constexpr int kTileInputs = 32;  // of bf16 in a row

// As the processor reads it. Tiles of no rows cannot be used.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

}  // namespace
}  // namespace sluice::kernels::amx

#if defined(SLUICE_EMULATE_AMX)
#include "kernels/amx/tile_emulated_for_test.h"
#else

namespace sluice::kernels::amx {
namespace {

// Tiles become zero.
inline void tile_configure(const TileConfig& config) { asm volatile("ldtilecfg %0" : : "m"(config)); }
inline void tile_release() { asm volatile("tilerelease"); }

template <int kTile>
inline void tile_zero() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
}

// Row i of the tile is at `from` + i * stride.
template <int kTile>
inline void tile_load(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
inline void tile_store(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(kTile) : "memory");
}

// sums[m][n] += over k and both halves of a pair of left[m][k] * right[k][n]: left has rows of bf16 pairs, right has a
// row for each pair and in it a pair for each column, sums are floats.
template <int kSums, int kLeft, int kRight>
inline void tile_dot_bf16() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kLeft), "i"(kRight));
}

}  // namespace
}  // namespace sluice::kernels::amx

#endif
