// Attention by tiles, for calls with many rows (a prompt): both products, of queries and keys and of weights and
// values, are products of bf16 tiles with sums in f32; the softmax between them is of f32 vectors.
//
// As in attention_blocks.h, softmax is online over blocks of 64 positions, and rows are the queries times the heads of
// the group, up to kAttentionRows of them. The pages of a block become tiles (attention_tiles.h) once for all rows.
// Then rows pass two tiles at a time (a pair): scores, weights, sums of values. While the vector units make weights of
// a pair, the tile unit makes the scores of the next and the sums of the one before, a few products at a time.
//
// What is rounded. Weights and values, to bf16, once: the error is 0.14% (BF16) to 0.23% of the results' typical size,
// about what the next product costs that takes these results in bf16. Queries and keys have 16 bits, in two parts (keys
// of BF16 need one), for one or two products more, which the tile unit makes while weights are made. Rounded once they
// brought the error to 0.5% for scores around 10, 0.7% around 50, and 7% where keys have an element of 200 in all
// positions, as the bias of some models gives them. The sum that divides a result is of the rounded weights, so that a
// mean of equal values is that value. F32 keys and values were asked for by someone who wants f32: avx512/ does them.
//
// Invariant (batch invariance): a row of a tile has no part in the others, blocks begin at multiples of 64 positions,
// and of a position that a row does not see the weight is 0. So what a row gets depends on its query and the positions
// it sees. (Infinite values, of which 0 times is no number, may spoil rows of the call that do not see them; so they
// may in attention_blocks.h.)
#include "kernels/amx/attention_products.h"
#include "kernels/amx/attention_tiles.h"
#include "kernels/amx/fills.h"
#include "kernels/attention_blocks.h"
#include "kernels/avx512/exponential.h"

namespace sluice::kernels::amx {
namespace {

// 2^x within 2^-13 of itself, little beside the 2^-8 that rounding it to bf16 may cost: x = n + r, 0 <= r <= 1, a
// polynomial of degree 3 in r (least largest relative error, 1 at r = 0), times 2^n. Exactly 0 below -126; NaN stays.
inline __m512 exp2_for_bf16(__m512 x) {
  const __mmask16 is_normal = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ);
  const __m512 r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  __m512 p = _mm512_set1_ps(7.70670772e-2f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.27644950e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.95116818e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  return _mm512_maskz_scalef_ps(is_normal, p, x);  // takes n of x
}

// The largest scores of 16 rows, a lane each. NaNs may or may not win.
template <int kPages>
inline __m512 max_of_rows(const float* scores) {
  auto row = [&](int r) {
    const float* x = scores + r * kBlockKeys;
    __m512 high = _mm512_loadu_ps(x);
#pragma GCC unroll 4
    for (int page = 1; page < kPages; ++page) high = _mm512_max_ps(high, _mm512_loadu_ps(x + page * kPageSize));
    return high;
  };
  // Within each 128 bits: lanes of two rows, then of four rows, one each.
  auto two = [&](int r) {
    const __m512 a = row(r), b = row(r + 1);
    return _mm512_castps_pd(_mm512_max_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
  };
  auto four = [&](int r) {
    const __m512d a = two(r), b = two(r + 2);
    return _mm512_max_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
  };
  auto join = [](__m512 a, __m512 b) {
    return _mm512_max_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
  };
  const __m512 first = join(four(0), four(4));
  return join(first, join(four(8), four(12)));
}

// Takes memory from the scratch of a call, on cache lines.
struct Memory {
  uint8_t* next;

  explicit Memory(float* scratch)
      : next(reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(scratch) + 63) / 64 * 64)) {}
  uint8_t* take(int64_t bytes) {
    uint8_t* taken = next;
    next += (bytes + 63) / 64 * 64;
    return taken;
  }
  float* take_floats(int64_t count) { return reinterpret_cast<float*>(take(count * 4)); }
};

template <typename Type>
class Attention {
 public:
  explicit Attention(const AttentionArgs& args);

  // Queries [query_begin, query_end), at most as many as fit.
  void attend(int64_t query_begin, int64_t query_end);

  // Queries for which there is room.
  static int64_t max_queries(const AttentionArgs& args) { return max_of(1, kAttentionRows / args.group_size); }

 private:
  static constexpr int kParts = kKeyParts<Type>;
  static constexpr int64_t kTileFloats = ValueProducts::kTileFloats;

  KeyRange find_seen(int64_t row) const {
    return find_visible(args_, first_position_ + row / args_.group_size, block_);
  }
  int64_t num_row_tiles(int64_t pair) const {
    return min_of(2, (num_rows_ - pair * kPairRows + kTileRows - 1) / kTileRows);
  }
  // Keys of the block that some row of a pair sees, in chunks of 32.
  KeyRange find_chunks(int64_t pair) const {
    const KeyRange first = find_seen(pair * kPairRows);
    const KeyRange last = find_seen(min_of(num_rows_, (pair + 1) * kPairRows) - 1);
    if (first.begin >= last.end) return {0, 0};
    return {first.begin / kTileInputs, (last.end + kTileInputs - 1) / kTileInputs};
  }

  void start(int64_t query_begin, int64_t query_end);
  void pack_block(KeyRange seen);
  ScoreProducts<kParts> get_scores(int64_t pair, KeyRange chunks) const;
  ValueProducts get_values(int64_t pair, KeyRange chunks) const;
  void attend_block(bool has_next);
  template <int kPages>
  void weigh(int64_t row_tile, int64_t first_chunk, Meanwhile<kParts>& meanwhile);
  void mask(int64_t row_tile, int64_t num_rows, KeyRange keys);
  void finish();

  float* get_score_buffer(int64_t pair) const { return scores_ + pair % 2 * kPairRows * kBlockKeys; }
  uint8_t* get_weight_buffer(int64_t pair) const { return weights_ + pair % 2 * 2 * kBlockChunks * kTileBytes; }

  const AttentionArgs& args_;
  const int64_t num_chunks_;   // of 32 elements of a query or key
  const int64_t num_columns_;  // of 16 elements of a value, and one whose second element sums weights
  uint8_t* queries_;           // [row tiles, num_chunks, kQueryParts] tiles
  uint8_t* keys_;              // [kBlockPages, num_chunks, kParts] tiles
  uint8_t* values_;            // [kBlockChunks, num_columns] tiles
  float* sums_;                // [row tiles, num_columns] tiles
  float* highest_;             // [row tiles, kTileRows]
  float* scores_;              // [2 pairs in turn, kPairRows, kBlockKeys]
  uint8_t* weights_;           // [2 pairs in turn, 2 row tiles, kBlockChunks] tiles
  uint8_t* zeros_;             // a value
  // The queries and the block at hand.
  int64_t first_query_ = 0, first_position_ = 0, last_position_ = 0, num_rows_ = 0, num_pairs_ = 0;
  int64_t block_ = 0;  // its first position
};

template <typename Type>
Attention<Type>::Attention(const AttentionArgs& args)
    : args_(args), num_chunks_((args.head_dim + kTileInputs - 1) / kTileInputs),
      num_columns_((args.head_dim + kTileColumns - 1) / kTileColumns + 1) {
  const int64_t rows = min_of(max_queries(args), args.num_queries) * args.group_size;
  const int64_t row_tiles = (rows + kTileRows - 1) / kTileRows, weight_bytes = 4 * kBlockChunks * kTileBytes;
  const int64_t value_bytes = kBlockChunks * num_columns_ * kTileBytes;
  Memory memory(args.scratch);
  queries_ = memory.take(row_tiles * num_chunks_ * kQueryParts * kTileBytes);
  keys_ = memory.take(kBlockPages * num_chunks_ * kParts * kTileBytes);
  values_ = memory.take(value_bytes);
  sums_ = memory.take_floats(row_tiles * num_columns_ * kTileFloats);
  highest_ = memory.take_floats(row_tiles * kTileRows);
  scores_ = memory.take_floats(2 * kPairRows * kBlockKeys);
  weights_ = memory.take(weight_bytes);
  zeros_ = memory.take(Type::row_bytes(args.head_dim));

  // Rows past the last are nobody's, whatever a later block leaves in them.
  memset(weights_, 0, static_cast<size_t>(weight_bytes));
  memset(zeros_, 0, static_cast<size_t>(Type::row_bytes(args.head_dim)));
  for (int64_t chunk = 0; chunk < kBlockChunks; ++chunk) {
    uint8_t* ones = values_ + ((chunk + 1) * num_columns_ - 1) * kTileBytes;
    const __m512i row = _mm512_maskz_set1_epi32(2, 0x3f803f80);  // a pair of ones
    for (int i = 0; i < kTileRows; ++i) avx512::store_512(ones + i * kTileRowBytes, row);
  }
}

template <typename Type>
void Attention<Type>::start(int64_t query_begin, int64_t query_end) {
  first_query_ = query_begin;
  first_position_ = args_.first_position + query_begin;
  last_position_ = args_.first_position + query_end - 1;
  num_rows_ = (query_end - query_begin) * args_.group_size;
  num_pairs_ = (num_rows_ + kPairRows - 1) / kPairRows;
  const int64_t row_tiles = (num_rows_ + kTileRows - 1) / kTileRows;
  const float scale = args_.softcap > 0 ? args_.scale : args_.scale * kLog2E;
  const int64_t tile_bytes = num_chunks_ * kQueryParts * kTileBytes;
  memset(queries_ + (row_tiles - 1) * tile_bytes, 0, static_cast<size_t>(tile_bytes));
  for (int64_t row = 0; row < num_rows_; ++row) {
    const float* query = args_.queries + (query_begin + row / args_.group_size) * args_.query_stride +
                         row % args_.group_size * args_.head_dim;
    pack_query(query, args_.head_dim, scale,
               queries_ + row / kTileRows * tile_bytes + row % kTileRows * kTileRowBytes);
  }
  memset(sums_, 0, static_cast<size_t>(row_tiles * num_columns_ * kTileBytes));
  for (int64_t row = 0; row < row_tiles * kTileRows; ++row) highest_[row] = -INFINITY;
}

// The pages of the block that are `seen`, by some row, to tiles. A tile takes two pages; what no row sees may be a page
// of somebody else's or contents of any kind, and is zero there (keys: columns of scores that are masked later).
template <typename Type>
void Attention<Type>::pack_block(KeyRange seen) {
  const void* const* key_pages = args_.key_pages + block_ / kPageSize;
  const void* const* value_pages = args_.value_pages + block_ / kPageSize;
  const int64_t row_bytes = Type::row_bytes(args_.head_dim), page_bytes = num_chunks_ * kParts * kTileBytes;
  for (int64_t chunk = seen.begin / kTileInputs; chunk * kTileInputs < seen.end; ++chunk) {
    const int64_t first_page = chunk * kChunkPages;
    for (int64_t page = first_page; page < first_page + kChunkPages; ++page) {
      uint8_t* tiles = keys_ + page * page_bytes;
      if (page * kPageSize < seen.end && (page + 1) * kPageSize > seen.begin) {
        pack_keys<Type>(key_pages[page], args_.head_dim, tiles);
      } else {
        memset(tiles, 0, static_cast<size_t>(page_bytes));
      }
    }
    auto find_value = [&](int64_t page, int64_t i) -> const uint8_t* {
      const int64_t key = page * kPageSize + i;
      if (key < seen.begin || key >= seen.end) return zeros_;
      return static_cast<const uint8_t*>(value_pages[page]) + i * row_bytes;
    };
    uint8_t* rows = values_ + chunk * num_columns_ * kTileBytes;
    for (int64_t i = 0; i < kPageSize; ++i) {
      pack_values<Type>(find_value(first_page, i), find_value(first_page + 1, i), args_.head_dim,
                        rows + i * kTileRowBytes);
    }
  }
}

template <typename Type>
ScoreProducts<Attention<Type>::kParts> Attention<Type>::get_scores(int64_t pair, KeyRange chunks) const {
  return {.queries = queries_ + pair * 2 * num_chunks_ * kQueryParts * kTileBytes, .keys = keys_,
          .scores = get_score_buffer(pair), .num_chunks = num_chunks_, .has_more_rows = num_row_tiles(pair) == 2,
          .key_chunk = chunks.begin, .key_chunk_end = chunks.end};
}

template <typename Type>
ValueProducts Attention<Type>::get_values(int64_t pair, KeyRange chunks) const {
  return {.weights = get_weight_buffer(pair), .values = values_, .sums = sums_ + pair * 2 * num_columns_ * kTileFloats,
          .num_columns = num_columns_, .has_more_rows = num_row_tiles(pair) == 2, .chunks = chunks,
          .column_end = chunks.begin < chunks.end ? num_columns_ : 0, .chunk = chunks.begin};
}

// Scores of the first `num_rows` rows of a tile for these keys of the block: capped, and -inf where they are not seen.
template <typename Type>
__attribute__((noinline)) void Attention<Type>::mask(int64_t row_tile, int64_t num_rows, KeyRange keys) {
  float* x = get_score_buffer(row_tile / 2) + row_tile % 2 * kTileRows * kBlockKeys;
  for (int64_t r = 0; r < num_rows; ++r, x += kBlockKeys) {
    const KeyRange seen = find_seen(row_tile * kTileRows + r);
    for (int64_t key = keys.begin; key < keys.end; key += 16) {
      __m512 score = _mm512_load_ps(x + key);
      if (args_.softcap > 0) {
        score = avx512::tanh(_mm512_mul_ps(score, _mm512_set1_ps(1.0f / args_.softcap)));
        score = _mm512_mul_ps(score, _mm512_set1_ps(args_.softcap * kLog2E));
      }
      const __mmask16 lanes = avx512::lanes_between(seen.begin - key, seen.end - key);
      _mm512_store_ps(x + key, _mm512_mask_blend_ps(lanes, _mm512_set1_ps(-INFINITY), score));
    }
  }
}

// Weights of a tile of rows for kPages pages from chunk `first_chunk` on, relative to the highest score so far; where
// this has grown, the sums shrink.
template <typename Type>
template <int kPages>
__attribute__((noinline)) void Attention<Type>::weigh(int64_t row_tile, int64_t first_chunk,
                                                      Meanwhile<kParts>& meanwhile) {
  const int64_t first_row = row_tile * kTileRows, num_rows = min_of(kTileRows, num_rows_ - first_row);
  const KeyRange keys = {first_chunk * kTileInputs, first_chunk * kTileInputs + kPages * kPageSize};
  if (args_.softcap > 0 || find_seen(first_row + num_rows - 1).begin > keys.begin ||
      find_seen(first_row).end < keys.end) {
    mask(row_tile, num_rows, keys);
  }
  const float* scores = get_score_buffer(row_tile / 2) + row_tile % 2 * kTileRows * kBlockKeys + keys.begin;
  uint8_t* weights = get_weight_buffer(row_tile / 2) + (row_tile % 2 * kBlockChunks + first_chunk) * kTileBytes;

  const __m512 lowest = _mm512_set1_ps(-INFINITY), highest = _mm512_load_ps(highest_ + first_row);
  const __m512 new_highest = _mm512_max_ps(max_of_rows<kPages>(scores), highest);  // a NaN leaves it as it is
  // Only scores of -inf so far: any finite base gives them weight 0.
  const __m512 base = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(new_highest, lowest, _CMP_NEQ_UQ), new_highest);
  const __m512 shrink = avx512::exp2(_mm512_sub_ps(highest, base));
  _mm512_store_ps(highest_ + first_row, new_highest);
  alignas(64) float bases[kTileRows], factors[kTileRows];
  _mm512_store_ps(bases, base);
  _mm512_store_ps(factors, shrink);
  float* sums = sums_ + row_tile * num_columns_ * kTileFloats;
  unsigned grown = _mm512_cmp_ps_mask(shrink, _mm512_set1_ps(1.0f), _CMP_NEQ_UQ);
  for (; grown != 0; grown &= grown - 1) {
    const int r = __builtin_ctz(grown);
    const __m512 factor = _mm512_set1_ps(factors[r]);
    for (int64_t column = 0; column < num_columns_; ++column) {
      float* sum = sums + column * kTileFloats + r * kTileColumns;
      _mm512_store_ps(sum, _mm512_mul_ps(_mm512_load_ps(sum), factor));
    }
  }

  for (int64_t r = 0; r < num_rows; ++r, scores += kBlockKeys, weights += kTileRowBytes) {
    const __m512 row_base = _mm512_set1_ps(bases[r]);
    auto weigh_page = [&](int page) {
      return exp2_for_bf16(_mm512_sub_ps(_mm512_load_ps(scores + page * kPageSize), row_base));
    };
#pragma GCC unroll 2
    for (int chunk = 0; chunk < kPages / 2; ++chunk) {
      const __m512 even = weigh_page(2 * chunk), odd = weigh_page(2 * chunk + 1);
      _mm512_store_si512(weights + chunk * kTileBytes, round_pairs(even, odd));
    }
    if (r % 2 == 1) meanwhile.go_on();
  }
}

template <typename Type>
void Attention<Type>::attend_block(bool has_next) {
  const void* const* next_key_pages = args_.key_pages + (block_ + kBlockKeys) / kPageSize;
  const void* const* next_value_pages = args_.value_pages + (block_ + kBlockKeys) / kPageSize;
  const int64_t page_bytes = kPageSize * Type::row_bytes(args_.head_dim);
  Meanwhile<kParts> meanwhile;
  KeyRange chunks = find_chunks(0), next_chunks = chunks;
  meanwhile.scores = get_scores(0, chunks);
  meanwhile.finish();
  for (int64_t pair = 0; pair < num_pairs_; ++pair, chunks = next_chunks) {
    const int64_t page_end = has_next ? (pair + 1) * kBlockPages / num_pairs_ : 0;
    for (int64_t page = pair * kBlockPages / num_pairs_; page < page_end; ++page) {
      fetch_page(next_key_pages[page], page_bytes);
      fetch_page(next_value_pages[page], page_bytes);
    }
    if (pair + 1 < num_pairs_) {
      next_chunks = find_chunks(pair + 1);
      meanwhile.scores = get_scores(pair + 1, next_chunks);
    }
    const int64_t row_tile = 2 * pair, row_tile_end = row_tile + num_row_tiles(pair);
    meanwhile.spread((row_tile_end - row_tile) * kTileRows / 2);
    for (int64_t t = row_tile; t < row_tile_end; ++t) {
      if (chunks.end - chunks.begin == 2) weigh<4>(t, chunks.begin, meanwhile);
      if (chunks.end - chunks.begin == 1) weigh<2>(t, chunks.begin, meanwhile);
    }
    meanwhile.finish();
    meanwhile.values = get_values(pair, chunks);
  }
  meanwhile.finish();
}

template <typename Type>
void Attention<Type>::finish() {
  const int64_t values_floats = attention_values_floats(args_.head_dim);
  float* partial = args_.partials + first_query_ * args_.group_size * attention_partial_floats(args_.head_dim);
  for (int64_t row = 0; row < num_rows_; ++row, partial += attention_partial_floats(args_.head_dim)) {
    const float* sums = sums_ + row / kTileRows * num_columns_ * kTileFloats + row % kTileRows * kTileColumns;
    for (int64_t d = 0; d < values_floats; d += kTileColumns, sums += kTileFloats) {
      _mm512_storeu_ps(partial + d, _mm512_load_ps(sums));
    }
    partial[values_floats] = highest_[row];
    partial[values_floats + 1] = sums[1];
  }
}

template <typename Type>
void Attention<Type>::attend(int64_t query_begin, int64_t query_end) {
  start(query_begin, query_end);
  block_ = 0;
  const int64_t first_seen = max_of(args_.begin, find_seen(0).begin);
  const int64_t seen_end = min_of(last_position_ + 1, args_.end);
  for (block_ = first_seen / kBlockKeys * kBlockKeys; block_ < seen_end; block_ += kBlockKeys) {
    pack_block({find_seen(0).begin, find_seen(num_rows_ - 1).end});
    attend_block(block_ + 2 * kBlockKeys <= seen_end);
  }
  finish();
}

template <typename Type>
void attend(const AttentionArgs& args) {
  TileConfig config;
  for (int i = 0; i < 8; ++i) {
    config.rows[i] = kTileRows;
    config.row_bytes[i] = kTileRowBytes;
  }
  tile_configure(config);
  Attention<Type> attention(args);
  const int64_t queries = attention.max_queries(args);
  for (int64_t i = 0; i < args.num_queries; i += queries) attention.attend(i, min_of(i + queries, args.num_queries));
  tile_release();
}

template <typename Type>
void set(Kernels& table, DType type) {
  table.few_rows_attention[static_cast<int>(type)] = table.attention[static_cast<int>(type)];  // of avx512/
  table.attention[static_cast<int>(type)] = attend<Type>;
}

}  // namespace
}  // namespace sluice::kernels::amx

namespace sluice::kernels {

void amx::fill_attention(Kernels& table) {
  set<avx512::F16>(table, DType::kF16);
  set<avx512::BF16>(table, DType::kBF16);
  set<avx512::Q8_0>(table, DType::kQ8_0);
}

}  // namespace sluice::kernels
