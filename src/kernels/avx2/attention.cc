// Attention a page at a time with an online softmax (Milakov and Gimelshein 2018; Dao et al. 2022).
//
// A tile is some consecutive queries times the heads of the group, its rows; each page of keys and values is read
// and made f32 once for the whole tile. Every row keeps the highest score so far, the sum of its weights relative
// to it, and the weighted sum of values; when a page raises the highest score, the two sums are scaled down to it.
//
// Invariant (batch invariance): pages begin at multiples of kPageSize whatever the queries are, and what a row does
// with a page depends on its own position only. Rows of a tile that do not see a position give it weight 0.
#include "kernels/avx2/fills.h"
#include "kernels/avx2/vector.h"
#include "kernels/quant_blocks.h"

namespace sluice::kernels::avx2 {
namespace {

constexpr int64_t kTileRows = 16;  // at least one query with all its heads, else as many queries as fit in this

// `n` stored elements to f32.
template <__m256 (*kLoad)(const void*), int kBytes>
struct Plain {
  static inline int64_t row_bytes(int64_t n) { return n * kBytes; }
  static inline void load_row(const uint8_t* row, int64_t n, float* out) {
    int64_t d = 0;
    for (; d + 8 <= n; d += 8) _mm256_storeu_ps(out + d, kLoad(row + d * kBytes));
    if (d < n) {
      uint8_t padded[8 * kBytes] = {};
      memcpy(padded, row + d * kBytes, static_cast<size_t>(n - d) * kBytes);
      _mm256_storeu_ps(out + d, kLoad(padded));
    }
  }
};
inline __m256 load_f32(const void* p) { return _mm256_loadu_ps(static_cast<const float*>(p)); }
using F32 = Plain<load_f32, 4>;
using F16 = Plain<load_halves, 2>;
using BF16 = Plain<load_bf16, 2>;

struct Q8_0 {
  static inline int64_t row_bytes(int64_t n) { return n / 32 * static_cast<int64_t>(sizeof(BlockQ8_0)); }
  static inline void load_row(const uint8_t* row, int64_t n, float* out) {
    const BlockQ8_0* block = reinterpret_cast<const BlockQ8_0*>(row);
    for (int64_t d = 0; d < n; d += 32, ++block) {
      const __m256 scale = _mm256_set1_ps(half_to_float(block->d));
#pragma GCC unroll 4
      for (int i = 0; i < 32; i += 8) {
        __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(block->qs + i));
        _mm256_storeu_ps(out + d + i, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)), scale));
      }
    }
  }
};

// The scratch memory of a call.
struct Tile {
  int64_t width;     // head_dim rounded up to 8; what is behind head_dim is zero in all of these
  float* page;       // [kPageSize, width] keys or values
  float* queries;    // [rows, width], times the scale
  float* values;     // [rows, width] weighted sums of values
  float* weights;    // [rows, kPageSize] scores, then weights
  float* highest;    // [rows]
  float* sums;       // [rows] of weights
  float* shrink;     // [rows] what the sums are to be multiplied with for this page
};

// Rows [begin, end) of a page as f32, padded with zeros to the width.
template <typename Type>
void load_page(const void* page, int64_t begin, int64_t end, int64_t head_dim, int64_t width, float* out) {
  const int64_t bytes = Type::row_bytes(head_dim);
  for (int64_t key = begin; key < end; ++key) {
    Type::load_row(static_cast<const uint8_t*>(page) + key * bytes, head_dim, out + key * width);
  }
}

// Pages lie anywhere, so the processor cannot guess where the next one begins.
inline void prefetch_page(const void* page, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 64) _mm_prefetch(static_cast<const char*>(page) + at, _MM_HINT_T0);
}

// Scores of kRows rows against the 16 keys, four at a time: 8 sums over the width in registers.
template <int kRows>
void score_rows(const float* queries, const float* keys, int64_t width, float* scores) {
  for (int64_t key = 0; key < kPageSize; key += 4) {
    const float* k = keys + key * width;
    __m256 dots[kRows][4];
#pragma GCC unroll 2
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) dots[r][i] = _mm256_setzero_ps();
    }
    for (int64_t d = 0; d < width; d += 8) {
      __m256 rows[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) rows[i] = _mm256_loadu_ps(k + i * width + d);
#pragma GCC unroll 2
      for (int r = 0; r < kRows; ++r) {
        __m256 query = _mm256_loadu_ps(queries + r * width + d);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) dots[r][i] = _mm256_fmadd_ps(query, rows[i], dots[r][i]);
      }
    }
#pragma GCC unroll 2
    for (int r = 0; r < kRows; ++r) {
      _mm_storeu_ps(scores + r * kPageSize + key, sum_lanes_of_4(dots[r][0], dots[r][1], dots[r][2], dots[r][3]));
    }
  }
}

// Turns one row's scores into weights, where keys [begin, end) of the page are visible to it, and updates its state.
inline void weigh_row(const AttentionArgs& args, int64_t begin, int64_t end, float* weights, float* highest, float* sum,
                      float* shrink) {
  if (begin >= end) {  // nothing visible: as if the page were not there
    _mm256_storeu_ps(weights, _mm256_setzero_ps());
    _mm256_storeu_ps(weights + 8, _mm256_setzero_ps());
    *shrink = 1.0f;
    return;
  }
  __m256 v[2];
  for (int h = 0; h < 2; ++h) {
    v[h] = _mm256_loadu_ps(weights + h * 8);
    if (args.softcap > 0) {
      const __m256 cap = _mm256_set1_ps(args.softcap);
      v[h] = _mm256_mul_ps(tanh(_mm256_div_ps(v[h], cap)), cap);
    }
    __m256i visible = _mm256_andnot_si256(lane_mask(begin - h * 8), lane_mask(end - h * 8));
    v[h] = _mm256_blendv_ps(_mm256_set1_ps(-INFINITY), v[h], _mm256_castsi256_ps(visible));
  }
  float page_highest = max_lanes(_mm256_max_ps(v[0], v[1]));
  float new_highest = page_highest > *highest ? page_highest : *highest;
  // Only scores of -inf so far (a key of infinities): any finite base gives them weight 0.
  float base = new_highest == -INFINITY ? 0.0f : new_highest;
  *shrink = *highest == base ? 1.0f : _mm256_cvtss_f32(exp(_mm256_set1_ps(*highest - base)));
  for (int h = 0; h < 2; ++h) {
    v[h] = exp(_mm256_sub_ps(v[h], _mm256_set1_ps(base)));
    _mm256_storeu_ps(weights + h * 8, v[h]);
  }
  *sum = *sum * *shrink + sum_lanes(_mm256_add_ps(v[0], v[1]));
  *highest = new_highest;
}

// kRows rows of values [kVectors * 8] from column d on: shrink, then add the page's values by weight, in order of keys.
template <int kRows, int kVectors>
void add_values(const Tile& tile, int64_t row, int64_t d, int64_t begin, int64_t end) {
  __m256 sums[kRows][kVectors];
  float* to = tile.values + row * tile.width + d;
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    __m256 shrink = _mm256_set1_ps(tile.shrink[row + r]);
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) {
      sums[r][i] = _mm256_mul_ps(_mm256_loadu_ps(to + r * tile.width + i * 8), shrink);
    }
  }
  for (int64_t key = begin; key < end; ++key) {
    const float* from = tile.page + key * tile.width + d;
    __m256 values[kVectors];
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) values[i] = _mm256_loadu_ps(from + i * 8);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      __m256 weight = _mm256_broadcast_ss(tile.weights + (row + r) * kPageSize + key);
#pragma GCC unroll 8
      for (int i = 0; i < kVectors; ++i) sums[r][i] = _mm256_fmadd_ps(weight, values[i], sums[r][i]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) _mm256_storeu_ps(to + r * tile.width + i * 8, sums[r][i]);
  }
}

// Positions of the page from `page_begin` on that the query at `position` sees: [*begin, *end) within the page.
inline void find_visible(const AttentionArgs& args, int64_t position, int64_t page_begin, int64_t* begin,
                         int64_t* end) {
  int64_t first = args.window > 0 && position >= args.window ? position - args.window + 1 : 0;
  *begin = first > page_begin ? first - page_begin : 0;
  *end = position + 1 - page_begin < kPageSize ? position + 1 - page_begin : kPageSize;
}

// Queries [query_begin, query_end).
template <typename Type>
void attend_tile(const AttentionArgs& args, const Tile& tile, int64_t query_begin, int64_t query_end) {
  const int64_t rows = (query_end - query_begin) * args.group_size, width = tile.width;
  for (int64_t row = 0; row < rows; ++row) {
    const float* query = args.queries + (query_begin + row / args.group_size) * args.query_stride +
                         row % args.group_size * args.head_dim;
    for (int64_t d = 0; d < width; ++d) {
      tile.queries[row * width + d] = d < args.head_dim ? query[d] * args.scale : 0.0f;
      tile.values[row * width + d] = 0;
    }
    tile.highest[row] = -INFINITY;
    tile.sums[row] = 0;
  }

  int64_t first, end;
  const int64_t first_position = args.first_position + query_begin, last_position = args.first_position + query_end - 1;
  find_visible(args, first_position, 0, &first, &end);
  for (int64_t page_begin = first / kPageSize * kPageSize; page_begin <= last_position; page_begin += kPageSize) {
    const int64_t page = page_begin / kPageSize;
    // What any row sees. Keys of others keep what the memory held before: their scores are thrown away.
    const int64_t keys_begin = first > page_begin ? first - page_begin : 0;
    const int64_t keys_end = last_position + 1 - page_begin < kPageSize ? last_position + 1 - page_begin : kPageSize;

    if (page_begin + kPageSize <= last_position) {
      prefetch_page(args.key_pages[page + 1], kPageSize * Type::row_bytes(args.head_dim));
      prefetch_page(args.value_pages[page + 1], kPageSize * Type::row_bytes(args.head_dim));
    }
    load_page<Type>(args.key_pages[page], keys_begin, keys_end, args.head_dim, width, tile.page);
    int64_t row = 0;
    for (; row + 2 <= rows; row += 2) {
      score_rows<2>(tile.queries + row * width, tile.page, width, tile.weights + row * kPageSize);
    }
    if (row < rows) score_rows<1>(tile.queries + row * width, tile.page, width, tile.weights + row * kPageSize);
    for (row = 0; row < rows; ++row) {
      int64_t row_begin, row_end;
      find_visible(args, first_position + row / args.group_size, page_begin, &row_begin, &row_end);
      weigh_row(args, row_begin, row_end, tile.weights + row * kPageSize, tile.highest + row, tile.sums + row,
                tile.shrink + row);
    }

    load_page<Type>(args.value_pages[page], keys_begin, keys_end, args.head_dim, width, tile.page);
    for (row = 0; row + 4 <= rows; row += 4) {
      int64_t d = 0;
      for (; d + 16 <= width; d += 16) add_values<4, 2>(tile, row, d, keys_begin, keys_end);
      if (d < width) add_values<4, 1>(tile, row, d, keys_begin, keys_end);
    }
    for (; row < rows; ++row) {
      int64_t d = 0;
      for (; d + 64 <= width; d += 64) add_values<1, 8>(tile, row, d, keys_begin, keys_end);
      for (; d < width; d += 8) add_values<1, 1>(tile, row, d, keys_begin, keys_end);
    }
  }

  for (int64_t row = 0; row < rows; ++row) {
    float* output = args.output + (query_begin + row / args.group_size) * args.output_stride +
                    row % args.group_size * args.head_dim;
    float inverse = 1.0f / tile.sums[row];
    for (int64_t d = 0; d < args.head_dim; ++d) output[d] = tile.values[row * width + d] * inverse;
  }
}

template <typename Type>
void attend(const AttentionArgs& args) {
  const int64_t queries = args.group_size < kTileRows ? kTileRows / args.group_size : 1;
  const int64_t rows = queries * args.group_size;
  Tile tile;
  tile.width = (args.head_dim + 7) / 8 * 8;
  float* next = args.scratch;
  auto take = [&](int64_t count) {
    float* taken = next;
    next += count;
    return taken;
  };
  tile.page = take(kPageSize * tile.width);
  tile.queries = take(rows * tile.width);
  tile.values = take(rows * tile.width);
  tile.weights = take(rows * kPageSize);
  tile.highest = take(rows);
  tile.sums = take(rows);
  tile.shrink = take(rows);
  // Scores are computed for whole pages; keys not loaded must not be uninitialised memory.
  memset(tile.page, 0, static_cast<size_t>(kPageSize * tile.width) * sizeof(float));
  for (int64_t i = 0; i < args.num_queries; i += queries) {
    attend_tile<Type>(args, tile, i, i + queries < args.num_queries ? i + queries : args.num_queries);
  }
}

}  // namespace

void fill_attention(Kernels& table) {
  table.attention[static_cast<int>(DType::kF32)] = attend<F32>;
  table.attention[static_cast<int>(DType::kF16)] = attend<F16>;
  table.attention[static_cast<int>(DType::kBF16)] = attend<BF16>;
  table.attention[static_cast<int>(DType::kQ8_0)] = attend<Q8_0>;
}

}  // namespace sluice::kernels::avx2
