// The attention entry for any width of vector registers, included by one file of each instruction set's folder, which
// gives it the registers (V) and the KV types. In an unnamed namespace: the objects export nothing (avx2/fills.h).
// amx/ has another way and takes only blocks and what a row sees of them from here.
//
// Online softmax (Milakov and Gimelshein 2018; Dao et al. 2022) over blocks of 64 positions. Rows are the queries
// times the heads of the group, up to V::kRows of them in registers at a time. For each block a row gets its 64
// scores, lanes being keys, then their weights relative to the highest score so far, and adds the values by weight,
// lanes being elements. Up to twice as many rows as fit in registers (a decoding step) read the stored pages
// themselves, from memory only once; more of them (a prompt) read an f32 copy of the block's pages, made once for all.
//
// Invariant (batch invariance): blocks begin at multiples of 64 positions, and each score, sum and value of a row is
// one chain of operations in order of elements, keys and blocks. Which rows share registers, and whether a page was
// copied, never shows. Rows that do not see a position give it weight 0.
//
// V has Floats, kLanes, kRows (rows in registers) and the functions used below. A KV type has
//   row_bytes(n)        bytes of n elements of a value
//   kKeyStep            bytes from an element of the keys of a page to the next
//   is_in_place(head_dim)  whether values can be read where they are stored: whole vectors
//   Keys(page, head_dim), start(d) for d % 32 == 0, then load(d, part): keys [part, part + 1) * kLanes, element d
//   load_values<n>(row, d, out): n vectors of a value from element d on
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/kernels.h"

namespace sluice::kernels {
namespace {

constexpr int64_t kBlockPages = 4;
constexpr int64_t kBlockKeys = kBlockPages * kPageSize;
constexpr float kLog2E = 1.44269504088896341f;

inline int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }

// Pages lie anywhere, so the processor cannot guess where the next one begins.
inline void fetch(const void* page, int64_t at) { __builtin_prefetch(static_cast<const char*>(page) + at); }
inline void fetch_page(const void* page, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 64) fetch(page, at);
}

// Keys [begin, end) of a block.
struct KeyRange {
  int64_t begin, end;
};

// What the query at `position` sees of the block at `block_begin`.
inline KeyRange find_visible(const AttentionArgs& args, int64_t position, int64_t block_begin) {
  const int64_t first = args.window > 0 && position >= args.window ? position - args.window + 1 : 0;
  return {max_of(0, first - block_begin), min_of(min_of(position + 1, args.end) - block_begin, kBlockKeys)};
}

// The scratch memory of a call, for a tile of rows.
struct Tile {
  float* queries;  // [rows / kRows][head_dim][kRows], times the scale
  float* highest;  // [rows]
  float* sums;     // [rows, kLanes]: of weights, not yet over lanes
  float* weights;  // [kRows, kBlockKeys] scores, then weights, of the rows in registers
  float* shrink;   // [kRows] what the sums so far are to be multiplied with for this block
  float* keys;     // [kBlockPages, head_dim, kPageSize] the f32 copies
  float* values;   // [kBlockPages, kPageSize, value_width]
};

template <typename V>
struct Blocks {
  using Floats = typename V::Floats;
  static constexpr int kRows = V::kRows;
  static constexpr int kPageVectors = kPageSize / V::kLanes;

  // Scores of kNum rows against kPages pages: [kNum, kBlockKeys]. Meanwhile as many other pages come nearer, a line
  // at a time: many at once would stand in the way of what is needed now.
  template <typename Type, int kNum, int kPages>
  static inline void score(const float* queries, int64_t head_dim, const void* const* pages,
                           const void* const* fetched_pages, float* scores) {
    constexpr int kVectors = kPages * kPageVectors;
    Floats dots[kNum][kVectors];
#pragma GCC unroll 8
    for (int r = 0; r < kNum; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) dots[r][v] = V::zero();
    }
    typename Type::Keys keys[kPages];
#pragma GCC unroll 4
    for (int p = 0; p < kPages; ++p) keys[p] = typename Type::Keys(pages[p], head_dim);
    for (int64_t begin = 0; begin < head_dim; begin += 32) {
#pragma GCC unroll 4
      for (int p = 0; p < kPages; ++p) keys[p].start(begin);
      const int64_t end = min_of(begin + 32, head_dim);
      for (int64_t d = begin; d < end; ++d) {
        if (fetched_pages != nullptr && d % (64 / Type::kKeyStep) == 0) {
#pragma GCC unroll 4
          for (int p = 0; p < kPages; ++p) fetch(fetched_pages[p], d * Type::kKeyStep);
        }
        Floats k[kVectors];
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) k[v] = keys[v / kPageVectors].load(d, v % kPageVectors);
#pragma GCC unroll 8
        for (int r = 0; r < kNum; ++r) {
          const Floats query = V::set(queries[d * kRows + r]);
#pragma GCC unroll 8
          for (int v = 0; v < kVectors; ++v) dots[r][v] = V::fmadd(query, k[v], dots[r][v]);
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kNum; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) V::store(scores + r * kBlockKeys + v * V::kLanes, dots[r][v]);
    }
  }

  // kNum rows of values, kColumns vectors from element d on: shrink, then add those of the keys by weight. Meanwhile
  // the same places of other pages come nearer.
  template <typename Type, int kNum, int kColumns>
  static inline void add_values(const Tile& tile, const void* const* pages, int64_t row_bytes, KeyRange range,
                                int64_t d, const void* const* fetched_pages, float* values, int64_t stride) {
    Floats sums[kNum][kColumns];
#pragma GCC unroll 8
    for (int r = 0; r < kNum; ++r) {
      const Floats shrink = V::set(tile.shrink[r]);
#pragma GCC unroll 8
      for (int c = 0; c < kColumns; ++c) {
        sums[r][c] = V::mul(V::load(values + r * stride + d + c * V::kLanes), shrink);
      }
    }
    for (int64_t page = range.begin / kPageSize; page * kPageSize < range.end; ++page) {
      const int64_t end = min_of(range.end, (page + 1) * kPageSize);
      int64_t key = max_of(range.begin, page * kPageSize);
      const uint8_t* row = static_cast<const uint8_t*>(pages[page]) + (key - page * kPageSize) * row_bytes;
      for (; key < end; ++key, row += row_bytes) {
        Floats v[kColumns];
        Type::template load_values<kColumns>(row, d, v);
        if (fetched_pages != nullptr) {
          fetch(fetched_pages[page], (key - page * kPageSize) * row_bytes + Type::row_bytes(d));
        }
#pragma GCC unroll 8
        for (int r = 0; r < kNum; ++r) {
          const Floats weight = V::set(tile.weights[r * kBlockKeys + key]);
#pragma GCC unroll 8
          for (int c = 0; c < kColumns; ++c) sums[r][c] = V::fmadd(weight, v[c], sums[r][c]);
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kNum; ++r) {
#pragma GCC unroll 8
      for (int c = 0; c < kColumns; ++c) V::store(values + r * stride + d + c * V::kLanes, sums[r][c]);
    }
  }

  // Scores of one row in vectors [begin, end) of the block to weights, where the keys of `visible` are seen.
  __attribute__((noinline)) static void weigh(const AttentionArgs& args, KeyRange visible, int64_t begin, int64_t end,
                                              float* weights, float* highest, float* sums, float* shrink) {
    if (visible.begin >= visible.end) {  // as if the block were not there
      for (int64_t v = begin; v < end; ++v) V::store(weights + v * V::kLanes, V::zero());
      *shrink = 1.0f;
      return;
    }
    const Floats lowest = V::set(-INFINITY);
    Floats high = lowest;
    const bool is_masked = visible.begin > begin * V::kLanes || visible.end < end * V::kLanes;
    if (is_masked || args.softcap > 0) {
      for (int64_t v = begin; v < end; ++v) {
        Floats x = V::load(weights + v * V::kLanes);
        if (args.softcap > 0) {
          x = V::mul(V::tanh(V::mul(x, V::set(1.0f / args.softcap))), V::set(args.softcap * kLog2E));
        }
        x = V::keep(x, visible.begin - v * V::kLanes, visible.end - v * V::kLanes, lowest);
        V::store(weights + v * V::kLanes, x);
      }
    }
    for (int64_t v = begin; v < end; ++v) high = V::max(high, V::load(weights + v * V::kLanes));
    const float block_highest = V::max_lanes(high);
    const float new_highest = block_highest > *highest ? block_highest : *highest;
    // Only scores of -inf so far (a key of infinities): any finite base gives them weight 0.
    const float base = new_highest == -INFINITY ? 0.0f : new_highest;
    *shrink = *highest == base ? 1.0f : V::first(V::exp2(V::set(*highest - base)));
    Floats sum = V::mul(V::load(sums), V::set(*shrink));
    for (int64_t v = begin; v < end; ++v) {
      const Floats weight = V::exp2(V::sub(V::load(weights + v * V::kLanes), V::set(base)));
      V::store(weights + v * V::kLanes, weight);
      sum = V::add(sum, weight);
    }
    V::store(sums, sum);
    *highest = new_highest;
  }

  // Rows [row, row + kNum) of the tile and one block.
  template <typename Type, int kNum>
  static void attend_rows(const AttentionArgs& args, const Tile& tile, int64_t first_query, int64_t row,
                          int64_t block_begin, const void* const* key_pages, const void* const* value_pages,
                          int64_t value_width, bool from_memory, const void* const* next_key_pages) {
    const int64_t first_position = args.first_position + first_query;
    auto visible = [&](int64_t r) { return find_visible(args, first_position + r / args.group_size, block_begin); };
    const KeyRange range = {visible(row).begin, visible(row + kNum - 1).end};
    if (range.begin >= range.end) return;
    const int64_t page_begin = range.begin / kPageSize, page_end = (range.end + kPageSize - 1) / kPageSize;
    const float* queries = tile.queries + row * args.head_dim;  // row is a multiple of kRows
    const int64_t row_bytes = Type::row_bytes(value_width);

    // Few rows leave registers for more pages, whose sums do not wait for each other.
    constexpr int kPages = kNum <= kRows / 4 ? 4 : kPageVectors == 1 ? 2 : 1;
    int64_t page = page_begin;
    if constexpr (kPages > 1) {
      for (; page + kPages <= page_end; page += kPages) {
        score<Type, kNum, kPages>(queries, args.head_dim, key_pages + page, from_memory ? value_pages + page : nullptr,
                                  tile.weights + page * kPageSize);
      }
    }
    for (; page < page_end; ++page) {
      score<Type, kNum, 1>(queries, args.head_dim, key_pages + page, from_memory ? value_pages + page : nullptr,
                           tile.weights + page * kPageSize);
    }

    for (int64_t r = 0; r < kNum; ++r) {
      weigh(args, visible(row + r), page_begin * kPageVectors, page_end * kPageVectors, tile.weights + r * kBlockKeys,
            tile.highest + row + r, tile.sums + (row + r) * V::kLanes, tile.shrink + r);
    }

    constexpr int kColumns = kNum <= kRows / 2 ? 4 : 2;
    const int64_t stride = attention_partial_floats(args.head_dim);
    float* values = args.partials + (first_query * args.group_size + row) * stride;
    int64_t d = 0;
    for (; d + kColumns * V::kLanes <= value_width; d += kColumns * V::kLanes) {
      add_values<Type, kNum, kColumns>(tile, value_pages, row_bytes, range, d, next_key_pages, values,
                                       stride);
    }
    for (; d < value_width; d += V::kLanes) {
      add_values<Type, kNum, 1>(tile, value_pages, row_bytes, range, d, next_key_pages, values, stride);
    }
  }

  template <typename Type, typename... Args>
  static inline void attend_some(int64_t num_rows, const Args&... args) {
    if constexpr (kRows > 4) {
      switch (num_rows) {
        case 8: return attend_rows<Type, 8>(args...);
        case 7: return attend_rows<Type, 7>(args...);
        case 6: return attend_rows<Type, 6>(args...);
        case 5: return attend_rows<Type, 5>(args...);
      }
    }
    switch (num_rows) {
      case 4: return attend_rows<Type, 4>(args...);
      case 3: return attend_rows<Type, 3>(args...);
      case 2: return attend_rows<Type, 2>(args...);
      default: return attend_rows<Type, 1>(args...);
    }
  }

  // The pages of a block as f32, values padded with zeros to their width.
  template <typename Type>
  static inline void copy_page(const void* key_page, const void* value_page, int64_t num_values, int64_t head_dim,
                               int64_t value_width, float* key_copy, float* value_copy) {
    typename Type::Keys keys(key_page, head_dim);
    for (int64_t begin = 0; begin < head_dim; begin += 32) {
      keys.start(begin);
      for (int64_t d = begin; d < min_of(begin + 32, head_dim); ++d) {
        for (int part = 0; part < kPageVectors; ++part) {
          V::store(key_copy + d * kPageSize + part * V::kLanes, keys.load(d, part));
        }
      }
    }
    const int64_t row_bytes = Type::row_bytes(head_dim);
    for (int64_t key = 0; key < num_values; ++key) {
      const uint8_t* row = static_cast<const uint8_t*>(value_page) + key * row_bytes;
      float* to = value_copy + key * value_width;
      int64_t d = 0;
      for (; d + V::kLanes <= head_dim; d += V::kLanes) {
        Floats v[1];
        Type::template load_values<1>(row, d, v);
        V::store(to + d, v[0]);
      }
      if (d < head_dim) {
        alignas(64) uint8_t padded[V::kLanes * 4] = {};
        memcpy(padded, row + Type::row_bytes(d), static_cast<size_t>(Type::row_bytes(head_dim - d)));
        Floats v[1];
        Type::template load_values<1>(padded, 0, v);
        V::store(to + d, v[0]);
      }
    }
  }

  // Queries [query_begin, query_end).
  template <typename Type, typename F32>
  static void attend_tile(const AttentionArgs& args, const Tile& tile, int64_t query_begin, int64_t query_end) {
    const int64_t rows = (query_end - query_begin) * args.group_size, head_dim = args.head_dim;
    const int64_t values_floats = attention_values_floats(head_dim), stride = attention_partial_floats(head_dim);
    const float scale = args.softcap > 0 ? args.scale : args.scale * kLog2E;
    float* partials = args.partials + query_begin * args.group_size * stride;
    for (int64_t row = 0; row < rows; ++row) {
      const float* query = args.queries + (query_begin + row / args.group_size) * args.query_stride +
                           row % args.group_size * head_dim;
      float* to = tile.queries + row / kRows * kRows * head_dim + row % kRows;
      for (int64_t d = 0; d < head_dim; ++d) to[d * kRows] = query[d] * scale;
      memset(partials + row * stride, 0, static_cast<size_t>(values_floats) * sizeof(float));
      memset(tile.sums + row * V::kLanes, 0, V::kLanes * sizeof(float));
      tile.highest[row] = -INFINITY;
    }

    const bool in_place = rows <= 2 * kRows && Type::is_in_place(head_dim);
    const int64_t value_width = in_place ? head_dim : (head_dim + V::kLanes - 1) / V::kLanes * V::kLanes;
    const void *key_copies[kBlockPages], *value_copies[kBlockPages];
    for (int64_t page = 0; page < kBlockPages; ++page) {
      key_copies[page] = tile.keys + page * kPageSize * head_dim;
      value_copies[page] = tile.values + page * kPageSize * value_width;
    }
    const int64_t first_position = args.first_position + query_begin;
    const int64_t last_position = args.first_position + query_end - 1;
    const int64_t first_seen = max_of(args.begin, find_visible(args, first_position, 0).begin);
    for (int64_t block = first_seen / kBlockKeys * kBlockKeys; block <= min_of(last_position, args.end - 1);
         block += kBlockKeys) {
      const KeyRange range = {find_visible(args, first_position, block).begin,
                              find_visible(args, last_position, block).end};
      const void* const* key_pages = args.key_pages + block / kPageSize;
      const void* const* value_pages = args.value_pages + block / kPageSize;
      const bool has_next = block + 2 * kBlockKeys <= min_of(last_position + 1, args.end);
      if (in_place) {
        for (int64_t row = 0; row < rows; row += kRows) {
          const bool is_first = row == 0;  // the others find all of it in the cache
          attend_some<Type>(min_of(kRows, rows - row), args, tile, query_begin, row, block, key_pages, value_pages,
                               value_width, is_first, is_first && has_next ? key_pages + kBlockPages : nullptr);
        }
        continue;
      }
      for (int64_t page = range.begin / kPageSize; page * kPageSize < range.end; ++page) {
        copy_page<Type>(key_pages[page], value_pages[page], min_of(kPageSize, range.end - page * kPageSize), head_dim,
                        value_width, tile.keys + page * kPageSize * head_dim,
                        tile.values + page * kPageSize * value_width);
      }
      const int64_t steps = (rows + kRows - 1) / kRows;
      for (int64_t step = 0; step < steps; ++step) {
        for (int64_t page = step * kBlockPages / steps; has_next && page < (step + 1) * kBlockPages / steps; ++page) {
          fetch_page(key_pages[kBlockPages + page], kPageSize * Type::row_bytes(head_dim));
          fetch_page(value_pages[kBlockPages + page], kPageSize * Type::row_bytes(head_dim));
        }
        attend_some<F32>(min_of(kRows, rows - step * kRows), args, tile, query_begin, step * kRows, block, key_copies,
                            value_copies, value_width, false, static_cast<const void* const*>(nullptr));
      }
    }
    for (int64_t row = 0; row < rows; ++row) {
      partials[row * stride + values_floats] = tile.highest[row];
      partials[row * stride + values_floats + 1] = V::sum_lanes(V::load(tile.sums + row * V::kLanes));
    }
  }

  template <typename Type, typename F32>
  static void attend(const AttentionArgs& args) {
    const int64_t queries = max_of(1, kAttentionRows / args.group_size);
    const int64_t rows = (min_of(queries, args.num_queries) * args.group_size + kRows - 1) / kRows * kRows;
    const int64_t width = (args.head_dim + V::kLanes - 1) / V::kLanes * V::kLanes;
    float* next = args.scratch;
    auto take = [&](int64_t count) {
      float* taken = next;
      next += (count + 15) / 16 * 16;
      return taken;
    };
    Tile tile;
    tile.weights = take(kRows * kBlockKeys);
    tile.shrink = take(kRows);
    tile.queries = take(rows * args.head_dim);
    tile.sums = take(rows * V::kLanes);
    tile.highest = take(rows);
    tile.keys = take(kBlockKeys * args.head_dim);
    tile.values = take(kBlockKeys * width);
    for (int64_t i = 0; i < args.num_queries; i += queries) {
      attend_tile<Type, F32>(args, tile, i, min_of(i + queries, args.num_queries));
    }
  }
};

}  // namespace
}  // namespace sluice::kernels
