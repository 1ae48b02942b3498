// A model of the tile unit, for tests only: the same results to the last bit as the processor manuals define them, and
// an abort with a message where the processor would fault or where a result would rest on a tile never written.
#pragma once

#include <immintrin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace sluice::kernels::amx {
namespace {

struct TileUnit {
  bool is_configured;
  int rows[8], row_bytes[8];
  bool is_set[8];  // zeroed, loaded or computed since the configuration: what code here may rely on
  alignas(64) uint8_t data[8][kTileRows][kTileRowBytes];
};
static thread_local TileUnit unit;

inline void require(bool condition, const char* what) {
  if (condition) return;
  fprintf(stderr, "emulated tiles: %s\n", what);
  abort();
}

inline void require_tile(int tile) {
  require(unit.is_configured, "used without a configuration");
  require(unit.rows[tile] > 0 && unit.row_bytes[tile] > 0, "a tile of no rows was used");
}

inline void tile_configure(const TileConfig& config) {
  require(config.palette == 1 && config.start_row == 0, "unknown palette or start row");
  for (uint8_t byte : config.reserved) require(byte == 0, "reserved bytes of the configuration are not zero");
  for (int i = 0; i < 16; ++i) {
    require(config.rows[i] <= kTileRows && config.row_bytes[i] <= kTileRowBytes, "a tile is too large");
    require((config.rows[i] == 0) == (config.row_bytes[i] == 0), "rows without bytes or bytes without rows");
    require(i < 8 || config.rows[i] == 0, "there are eight tiles");
  }
  memset(&unit, 0, sizeof unit);
  unit.is_configured = true;
  for (int i = 0; i < 8; ++i) {
    unit.rows[i] = config.rows[i];
    unit.row_bytes[i] = config.row_bytes[i];
  }
}

inline void tile_release() { memset(&unit, 0, sizeof unit); }

template <int kTile>
inline void tile_zero() {
  require_tile(kTile);
  memset(unit.data[kTile], 0, kTileBytes);
  unit.is_set[kTile] = true;
}

template <int kTile>
inline void tile_load(const void* from, int64_t stride) {
  require_tile(kTile);
  memset(unit.data[kTile], 0, kTileBytes);
  for (int i = 0; i < unit.rows[kTile]; ++i) {
    const uint8_t* row = static_cast<const uint8_t*>(from) + i * stride;
    memcpy(unit.data[kTile][i], row, static_cast<size_t>(unit.row_bytes[kTile]));
  }
  unit.is_set[kTile] = true;
}

template <int kTile>
inline void tile_store(void* to, int64_t stride) {
  require_tile(kTile);
  require(unit.is_set[kTile], "stored before it was written");
  for (int i = 0; i < unit.rows[kTile]; ++i) {
    memcpy(static_cast<uint8_t*>(to) + i * stride, unit.data[kTile][i], static_cast<size_t>(unit.row_bytes[kTile]));
  }
}

// Even and odd inputs have a chain of fused multiply-adds each, which begin at zero; their sum is added to the tile.
// Not inline, so that all its arithmetic happens between the two changes of MXCSR around the call.
__attribute__((noinline)) void dot_bf16_rows(int sums, int left, int right) {
  for (int m = 0; m < unit.rows[sums]; ++m) {
    __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
    for (int k = 0; k < unit.row_bytes[left] / 4; ++k) {
      uint32_t pair;
      memcpy(&pair, unit.data[left][m] + k * 4, 4);
      const __m512i weights = _mm512_load_si512(unit.data[right][k]);
      const __m512 x_even = _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(pair << 16)));
      const __m512 x_odd = _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(pair & 0xffff0000u)));
      even = _mm512_fmadd_ps(x_even, _mm512_castsi512_ps(_mm512_slli_epi32(weights, 16)), even);
      odd = _mm512_fmadd_ps(
          x_odd, _mm512_castsi512_ps(_mm512_and_si512(weights, _mm512_set1_epi32(static_cast<int>(0xffff0000u)))), odd);
    }
    float* row = reinterpret_cast<float*>(unit.data[sums][m]);
    _mm512_store_ps(row, _mm512_add_ps(_mm512_load_ps(row), _mm512_add_ps(even, odd)));
  }
}

template <int kSums, int kLeft, int kRight>
inline void tile_dot_bf16() {
  static_assert(kSums != kLeft && kSums != kRight && kLeft != kRight);
  require_tile(kSums);
  require_tile(kLeft);
  require_tile(kRight);
  require(unit.is_set[kSums] && unit.is_set[kLeft] && unit.is_set[kRight], "multiplied before it was written");
  require(unit.rows[kSums] == unit.rows[kLeft] && unit.row_bytes[kSums] == unit.row_bytes[kRight] &&
              unit.row_bytes[kLeft] == unit.rows[kRight] * 4 && unit.row_bytes[kSums] % 4 == 0,
          "shapes do not fit");
  const unsigned before = _mm_getcsr();
  _mm_setcsr(0x1f80 | 0x8040);  // no exceptions, to nearest even, denormals are zero on both sides
  dot_bf16_rows(kSums, kLeft, kRight);
  _mm_setcsr(before);
}

}  // namespace
}  // namespace sluice::kernels::amx
