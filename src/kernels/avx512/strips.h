// The walk that all products over packed weights share. A Product says how a stretch of a strip is decoded into a
// panel and how a few activation rows are multiplied by it; the walk goes row tile by row tile, strip by strip, stretch
// by stretch, and keeps the sums of a strip in one small buffer until they are complete, because rows of the output
// lie pages apart.
//
// Two strips go together, so that an activation, once loaded, is used twice: the processor loads no more in a cycle
// than it multiplies.
//
// A Product has:
//   kStretch, kMaxRows                    inputs of a panel; rows multiplied together by two strips (at most 12); by one
//                                         up to kSingleStripRows are
//   Panel                                 scratch of one stretch of one strip
//   decode(args, output, begin, count, panel)
//   activation_offset(begin)              bytes from an activation row's start to input `begin`
//   multiply<kRows, kStrips>(panels, count, x, activation_row_bytes, sums, first, ahead)
//                                         adds kRows rows to sums [kRows, kStrips, 16], or to 0 if it is the first
//                                         stretch; calls ahead.fetch() for every 32 inputs
//
// Invariant (batch invariance): for one (row, output), multiply does the same float operations in the same order for
// every kRows and kStrips.
#pragma once

#include "kernels/avx512/vector.h"
#include "kernels/kernels.h"
#include "kernels/pack.h"

namespace sluice::kernels::avx512 {
namespace {

constexpr int64_t kRowTile = 132;            // activation rows multiplied by a panel before the next one is decoded
constexpr int64_t kTileBytes = 512 << 10;     // of them, which should stay in the second-level cache
constexpr int kStripsTogether = 2;
constexpr int kSingleStripRows = 8;  // so few rows wait for memory, which gives one stream sooner than two
constexpr int64_t kPrefetchBytes = 8192;  // at least so far ahead in a strip, which is one stretch of memory

// Fetches weights that come later while some are multiplied, a little at a time: memory then works all the while, and
// no burst of requests holds up the loads behind it. The processor's own prefetcher follows too, but stops at every
// 4 KB.
struct Ahead {
  uintptr_t at;
  int64_t bytes_each;   // 0: another group of rows has fetched them
  int64_t strip_bytes;

  template <int kStrips>
  inline void fetch() {
    for (int64_t i = 0; i < bytes_each; i += 64) {
      for (int s = 0; s < kStrips; ++s) {
        _mm_prefetch(reinterpret_cast<const char*>(at + static_cast<uintptr_t>(s * strip_bytes + i)), _MM_HINT_T0);
      }
    }
    at += static_cast<uintptr_t>(bytes_each);
  }
};

// The strip that begins at `output`.
inline const uint8_t* find_strip(const MatmulArgs& args, DType type, int64_t output) {
  return static_cast<const uint8_t*>(args.weights) + output / kStripRows * packed_strip_bytes(type, args.num_inputs);
}

// multiply<num_rows, kStripsTogether>(args...) for num_rows in [kMaxRows / 2, kRows].
template <typename Product, int kRows = Product::kMaxRows, typename... Args>
inline void multiply_group(int64_t num_rows, const Args&... args) {
  if constexpr (kRows > Product::kMaxRows / 2) {
    if (num_rows < kRows) return multiply_group<Product, kRows - 1>(num_rows, args...);
  }
  Product::template multiply<kRows, kStripsTogether>(args...);
}

template <typename Product, int kStrips>
void multiply_strip(const MatmulArgs& args, int64_t row_begin, int64_t num_rows, int64_t output,
                    typename Product::Panel* panels, float* sums) {
  const uint8_t* strip = find_strip(args, Product::kType, output);
  const int64_t strip_bytes = packed_strip_bytes(Product::kType, args.num_inputs);
  // At least a whole panel ahead, or the beginning of the next one would not be there when it is decoded.
  const int64_t panel_bytes = strip_bytes * Product::kStretch / args.num_inputs;
  const int64_t inputs_ahead = (kPrefetchBytes + panel_bytes - 1) / panel_bytes * Product::kStretch;
  for (int64_t begin = 0; begin < args.num_inputs; begin += Product::kStretch) {
    const int64_t left = args.num_inputs - begin, count = left < Product::kStretch ? left : Product::kStretch;
    for (int s = 0; s < kStrips; ++s) Product::decode(args, output + s * kStripRows, begin, count, panels[s]);
    // Perhaps in the strips that come next. An address and no pointer: it may lie behind the last of them.
    const int64_t strips_ahead = (begin + inputs_ahead) / args.num_inputs * kStrips;
    const int64_t at = (begin + inputs_ahead) % args.num_inputs;
    Ahead ahead = {reinterpret_cast<uintptr_t>(strip) +
                       static_cast<uintptr_t>(strips_ahead * strip_bytes + strip_bytes * at / args.num_inputs),
                   strip_bytes * 32 / args.num_inputs, strip_bytes};
    const uint8_t* x = static_cast<const uint8_t*>(args.activations) + row_begin * args.activation_row_bytes +
                       Product::activation_offset(begin);
    int64_t row = 0;
    auto run = [&](auto multiply, int64_t rows) {
      multiply(panels, count, x + row * args.activation_row_bytes, args.activation_row_bytes,
               sums + row * kStrips * kStripRows, begin == 0, ahead);
      row += rows;
      ahead.bytes_each = 0;
    };
    if constexpr (kStrips == 1) {
      while (num_rows - row >= 8) run(Product::template multiply<8, 1>, 8);
      if (num_rows - row >= 4) run(Product::template multiply<4, 1>, 4);
      if (num_rows - row >= 2) run(Product::template multiply<2, 1>, 2);
      if (num_rows - row == 1) run(Product::template multiply<1, 1>, 1);
    } else {
      static_assert(kSingleStripRows + 1 >= Product::kMaxRows / 2);
      // Of even size: a group of very few rows has too few chains of sums to keep the processor busy.
      const int64_t num_groups = (num_rows + Product::kMaxRows - 1) / Product::kMaxRows;
      for (int64_t group = 1; group <= num_groups; ++group) {
        const int64_t rows = num_rows * group / num_groups - row;
        run([&](const auto&... given) { multiply_group<Product>(rows, given...); }, rows);
      }
    }
  }
  float* y = args.output + row_begin * args.output_stride + output;
  for (int64_t r = 0; r < num_rows; ++r, y += args.output_stride) {
    for (int s = 0; s < kStrips; ++s, sums += kStripRows) {
      const __mmask16 valid = first_lanes(args.output_end - output - s * kStripRows);
      _mm512_mask_storeu_ps(y + s * kStripRows, valid, _mm512_load_ps(sums));
    }
  }
}

template <typename Product>
void multiply_strips(const MatmulArgs& args) {
  alignas(64) float sums[kRowTile * kStripsTogether * kStripRows];
  typename Product::Panel panels[kStripsTogether];
  int64_t tile = kTileBytes / args.activation_row_bytes / Product::kMaxRows * Product::kMaxRows;
  tile = tile < 4 * Product::kMaxRows ? 4 * Product::kMaxRows : tile > kRowTile ? kRowTile : tile;
  for (int64_t row = 0; row < args.num_rows; row += tile) {
    const int64_t num_rows = args.num_rows - row < tile ? args.num_rows - row : tile;
    int64_t output = args.output_begin;
    if (num_rows > kSingleStripRows) {
      for (; args.output_end - output > kStripRows; output += kStripsTogether * kStripRows) {
        multiply_strip<Product, kStripsTogether>(args, row, num_rows, output, panels, sums);
      }
    }
    for (; output < args.output_end; output += kStripRows) {
      multiply_strip<Product, 1>(args, row, num_rows, output, panels, sums);
    }
  }
}

}  // namespace
}  // namespace sluice::kernels::avx512
