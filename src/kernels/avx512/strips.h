// The walk that all products over packed weights share. A Product says how a stretch of a strip is decoded into a
// panel and how a few activation rows are multiplied by it; the walk goes row tile by row tile, strip by strip, stretch
// by stretch, and keeps the sums of a strip in one small buffer until they are complete, because rows of the output
// lie pages apart.
//
// A Product has:
//   kStretch, kMaxRows                    inputs of a panel; rows multiplied together (at most 12)
//   Panel                                 scratch of one stretch
//   decode(args, output, begin, count, panel)
//   activation_offset(begin)              bytes from an activation row's start to input `begin`
//   multiply<kRows>(panel, count, x, activation_row_bytes, sums, first, ahead)
//                                         adds kRows rows to sums [kRows, 16], or to 0 if it is the first stretch;
//                                         calls ahead.fetch() for every 32 inputs
//
// Invariant (batch invariance): for one (row, output), multiply does the same float operations in the same order for
// every kRows.
#pragma once

#include "kernels/avx512/vector.h"
#include "kernels/kernels.h"
#include "kernels/pack.h"

namespace sluice::kernels::avx512 {
namespace {

constexpr int64_t kRowTile = 132;            // activation rows multiplied by a panel before the next one is decoded
constexpr int64_t kTileBytes = 512 << 10;     // of them, which should stay in the second-level cache
constexpr int64_t kPrefetchBytes = 8192;  // at least so far ahead in a strip, which is one stretch of memory

// Fetches weights that come later while some are multiplied, a little at a time: memory then works all the while, and
// no burst of requests holds up the loads behind it. The processor's own prefetcher follows too, but stops at every
// 4 KB.
struct Ahead {
  const uint8_t* at;
  int64_t bytes_each;  // 0: another group of rows has fetched them

  inline void fetch() {
    for (int64_t i = 0; i < bytes_each; i += 64) _mm_prefetch(reinterpret_cast<const char*>(at + i), _MM_HINT_T0);
    at += bytes_each;
  }
};

// The strip that begins at `output`.
inline const uint8_t* find_strip(const MatmulArgs& args, DType type, int64_t output) {
  return static_cast<const uint8_t*>(args.weights) + output / kStripRows * packed_strip_bytes(type, args.num_inputs);
}

template <typename Product>
void multiply_strip(const MatmulArgs& args, int64_t row_begin, int64_t num_rows, int64_t output,
                    typename Product::Panel& panel, float* sums) {
  const uint8_t* strip = find_strip(args, Product::kType, output);
  const int64_t strip_bytes = packed_strip_bytes(Product::kType, args.num_inputs);
  // A whole panel ahead, or the beginning of the next one would not be there when it is decoded.
  const int64_t panel_bytes = strip_bytes * Product::kStretch / args.num_inputs;
  const int64_t prefetch_bytes = panel_bytes > kPrefetchBytes ? panel_bytes : kPrefetchBytes;
  for (int64_t begin = 0; begin < args.num_inputs; begin += Product::kStretch) {
    const int64_t left = args.num_inputs - begin, count = left < Product::kStretch ? left : Product::kStretch;
    Product::decode(args, output, begin, count, panel);
    Ahead ahead = {strip + strip_bytes * begin / args.num_inputs + prefetch_bytes, strip_bytes * 32 / args.num_inputs};
    const uint8_t* x = static_cast<const uint8_t*>(args.activations) + row_begin * args.activation_row_bytes +
                       Product::activation_offset(begin);
    int64_t row = 0;
    auto run = [&](auto multiply, int rows) {
      multiply(panel, count, x + row * args.activation_row_bytes, args.activation_row_bytes, sums + row * kStripRows,
               begin == 0, ahead);
      row += rows;
      ahead.bytes_each = 0;
    };
    constexpr int kMaxRows = Product::kMaxRows;
    while (num_rows - row >= kMaxRows) run(Product::template multiply<kMaxRows>, kMaxRows);
    if (kMaxRows > 8 && num_rows - row >= 8) run(Product::template multiply<8>, 8);
    if (num_rows - row >= 4) run(Product::template multiply<4>, 4);
    if (num_rows - row >= 2) run(Product::template multiply<2>, 2);
    if (num_rows - row == 1) run(Product::template multiply<1>, 1);
  }
  const __mmask16 valid = first_lanes(args.output_end - output);
  float* y = args.output + row_begin * args.output_stride + output;
  for (int64_t r = 0; r < num_rows; ++r, y += args.output_stride) {
    _mm512_mask_storeu_ps(y, valid, _mm512_load_ps(sums + r * kStripRows));
  }
}

template <typename Product>
void multiply_strips(const MatmulArgs& args) {
  alignas(64) float sums[kRowTile * kStripRows];
  typename Product::Panel panel;
  int64_t tile = kTileBytes / args.activation_row_bytes / Product::kMaxRows * Product::kMaxRows;
  tile = tile < 4 * Product::kMaxRows ? 4 * Product::kMaxRows : tile > kRowTile ? kRowTile : tile;
  for (int64_t row = 0; row < args.num_rows; row += tile) {
    const int64_t num_rows = args.num_rows - row < tile ? args.num_rows - row : tile;
    for (int64_t output = args.output_begin; output < args.output_end; output += kStripRows) {
      multiply_strip<Product>(args, row, num_rows, output, panel, sums);
    }
  }
}

}  // namespace
}  // namespace sluice::kernels::avx512
