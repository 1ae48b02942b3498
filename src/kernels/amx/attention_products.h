// The tile products of attention over a block of 64 positions, as jobs of many small steps: scores of a pair of row
// tiles, and sums of values by weight. A job keeps its sums in tile registers from step to step, so one is done to its
// end before another begins; Meanwhile does them in turn, a few steps at a time, between the vector instructions
// of somebody else. Each owns nothing and lives on the stack of one call.
#pragma once

#include "kernels/amx/attention_tiles.h"
#include "kernels/attention_blocks.h"

namespace sluice::kernels::amx {
namespace {

constexpr int64_t kPairRows = 2 * kTileRows;
constexpr int64_t kChunkPages = kTileInputs / kPageSize;  // a tile product takes the keys of two pages
constexpr int64_t kBlockChunks = kBlockPages / kChunkPages;
static_assert(kPageSize == kTileColumns && kBlockPages == 4);

// Tiles 0 to 3 are sums, of the first row tile and column tile, the first and the second, ...; 4 and 5 are left sides,
// 6 and 7 right ones.
inline void multiply_tiles(bool has_more_rows, bool has_more_columns) {
  tile_dot_bf16<0, 4, 6>();
  if (has_more_columns) tile_dot_bf16<1, 4, 7>();
  if (has_more_rows) {
    tile_dot_bf16<2, 5, 6>();
    if (has_more_columns) tile_dot_bf16<3, 5, 7>();
  }
}

// Scores of a pair of row tiles, two pages at a time: for every 32 elements the low parts of queries times the high
// parts of keys, the high parts times the same, then times the low parts.
template <int kParts>
struct ScoreProducts {
  const uint8_t* queries;  // [row tiles, num_chunks, kQueryParts] tiles
  const uint8_t* keys;     // [kBlockPages, num_chunks, kParts] tiles
  float* scores;           // [kPairRows, kBlockKeys]
  int64_t num_chunks;      // of 32 elements
  bool has_more_rows;
  int64_t key_chunk = 0, key_chunk_end = 0;  // to do
  int64_t chunk = 0;
  int part = 0;

  int64_t num_steps() const { return (key_chunk_end - key_chunk) * num_chunks * (kParts + 1); }

  // Whether there was one more.
  bool step() {
    if (key_chunk >= key_chunk_end) return false;
    const uint8_t* left = queries + chunk * kQueryParts * kTileBytes;
    const uint8_t* more_left = left + num_chunks * kQueryParts * kTileBytes;
    const uint8_t* right = keys + (key_chunk * kChunkPages * num_chunks + chunk) * kParts * kTileBytes;
    const uint8_t* more_right = right + num_chunks * kParts * kTileBytes;
    if (chunk == 0 && part == 0) {
      tile_zero<0>();
      tile_zero<1>();
      if (has_more_rows) {
        tile_zero<2>();
        tile_zero<3>();
      }
    }
    if (part < 2) {
      const int64_t at = part == 0 ? kTileBytes : 0;
      tile_load<4>(left + at, kTileRowBytes);
      if (has_more_rows) tile_load<5>(more_left + at, kTileRowBytes);
    }
    if (part != 1) {
      const int64_t at = part == 0 ? 0 : kTileBytes;
      tile_load<6>(right + at, kTileRowBytes);
      tile_load<7>(more_right + at, kTileRowBytes);
    }
    multiply_tiles(has_more_rows, true);
    if (++part <= kParts) return true;
    part = 0;
    if (++chunk < num_chunks) return true;
    chunk = 0;
    constexpr int64_t kStride = kBlockKeys * sizeof(float);
    float* to = scores + key_chunk * kTileInputs;
    tile_store<0>(to, kStride);
    tile_store<1>(to + kTileColumns, kStride);
    if (has_more_rows) {
      tile_store<2>(to + kTileRows * kBlockKeys, kStride);
      tile_store<3>(to + kTileRows * kBlockKeys + kTileColumns, kStride);
    }
    ++key_chunk;
    return true;
  }
};

// Adds the values of a block by weight to the sums of a pair of row tiles, two columns of tiles at a time.
struct ValueProducts {
  const uint8_t* weights;  // [2, kBlockChunks] tiles
  const uint8_t* values;   // [kBlockChunks, num_columns] tiles
  float* sums;             // [row tiles, num_columns] tiles
  int64_t num_columns;
  bool has_more_rows;
  KeyRange chunks;         // of 32 keys
  int64_t column = 0, column_end = 0;  // to do
  int64_t chunk = 0;       // next; chunks.begin where a column begins

  int64_t num_steps() const { return (column_end - column + 1) / 2 * (chunks.end - chunks.begin); }

  bool step() {
    if (column >= column_end) return false;
    const bool has_more_columns = column + 1 < num_columns;
    float* to = sums + column * kTileFloats;
    float* more_to = to + num_columns * kTileFloats;
    if (chunk == chunks.begin) {
      tile_load<0>(to, kTileRowBytes);
      if (has_more_columns) tile_load<1>(to + kTileFloats, kTileRowBytes);
      if (has_more_rows) {
        tile_load<2>(more_to, kTileRowBytes);
        if (has_more_columns) tile_load<3>(more_to + kTileFloats, kTileRowBytes);
      }
    }
    const uint8_t* right = values + (chunk * num_columns + column) * kTileBytes;
    tile_load<4>(weights + chunk * kTileBytes, kTileRowBytes);
    if (has_more_rows) tile_load<5>(weights + (kBlockChunks + chunk) * kTileBytes, kTileRowBytes);
    tile_load<6>(right, kTileRowBytes);
    if (has_more_columns) tile_load<7>(right + kTileBytes, kTileRowBytes);
    multiply_tiles(has_more_rows, has_more_columns);
    if (++chunk < chunks.end) return true;
    chunk = chunks.begin;
    tile_store<0>(to, kTileRowBytes);
    if (has_more_columns) tile_store<1>(to + kTileFloats, kTileRowBytes);
    if (has_more_rows) {
      tile_store<2>(more_to, kTileRowBytes);
      if (has_more_columns) tile_store<3>(more_to + kTileFloats, kTileRowBytes);
    }
    column += 2;
    return true;
  }

  static constexpr int64_t kTileFloats = kTileBytes / static_cast<int64_t>(sizeof(float));
};

// What the tile unit does meanwhile.
template <int kParts>
struct Meanwhile {
  ValueProducts values = {};
  ScoreProducts<kParts> scores = {};
  int64_t num_each = 0;

  // For `num_pauses` calls of go_on().
  void spread(int64_t num_pauses) {
    num_each = (values.num_steps() + scores.num_steps() + num_pauses - 1) / num_pauses;
  }
  void go_on() { step(num_each); }
  void finish() { step(INT64_MAX); }

 private:
  // Not inline: between vector instructions it would take their registers.
  __attribute__((noinline)) void step(int64_t count) {
    while (count > 0 && values.step()) --count;
    while (count > 0 && scores.step()) --count;
  }
};

}  // namespace
}  // namespace sluice::kernels::amx
