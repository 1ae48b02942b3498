#include "graph/ops/attention_core.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "graph/ops/vector_math.h"

namespace sluice::graph::ops {
namespace {

constexpr int64_t kFewQueries = 8;  // fewer than so many a head: summing values row by row is quicker than by columns

float tanh_of(float x) { return fast_tanh(x); }
double tanh_of(double x) { return std::tanh(x); }

struct Range {
  int64_t begin, end;
};

int64_t saturating_add(int64_t a, int64_t b) {
  int64_t sum = 0;
  if (!__builtin_add_overflow(a, b, &sum)) return sum;
  return a > 0 ? std::numeric_limits<int64_t>::max() : std::numeric_limits<int64_t>::min();
}

// The keys that causality, window and length leave to a query.
template <typename T>
Range find_keys(const AttentionArgs<T>& args, int64_t batch, int64_t row) {
  Range keys = {0, args.lengths.empty() ? args.kv_len : args.lengths[static_cast<size_t>(batch)]};
  if (!args.is_causal) return keys;
  const int64_t offset = args.offsets.empty() ? 0 : args.offsets[static_cast<size_t>(batch)];
  const int64_t after = saturating_add(saturating_add(row, offset), 1);
  keys.end = std::clamp(after, int64_t{0}, keys.end);
  if (args.window > 0) keys.begin = std::clamp(saturating_add(after, -args.window), int64_t{0}, keys.end);
  return keys;
}

template <typename T>
struct Block {
  int64_t batch, head, row_begin, row_end;
  Range keys;   // for which scores are computed: a column of `scores` each
  T* scores;    // [rows, keys]
};

template <typename T>
void soften_in_double(T* x, int64_t count, const T* sink) {
  std::vector<double> wide(x, x + count);
  const double wide_sink = sink != nullptr ? static_cast<double>(*sink) : 0;
  softmax_row(wide.data(), count, sink != nullptr ? &wide_sink : nullptr);
  for (int64_t i = 0; i < count; ++i) x[i] = static_cast<T>(wide[static_cast<size_t>(i)]);
}

// Scores of one query, from products to weights; they are 0 outside the keys in sight. False if there are none.
template <typename T>
bool weigh_row(const AttentionArgs<T>& args, const Block<T>& block, int64_t row) {
  constexpr T kLowest = -std::numeric_limits<T>::infinity();
  const int64_t count = block.keys.end - block.keys.begin;
  T* scores = block.scores + (row - block.row_begin) * count;
  T* shown = args.scores == nullptr ? nullptr
             : args.scores + ((block.batch * args.num_heads + block.head) * args.q_len + row) * args.kv_len;
  for (int64_t i = 0; i < count; ++i) scores[i] *= args.scale;
  if (args.stage == ScoreStage::kProduct) std::copy_n(scores, count, shown);
  if (args.softcap != 0) {
    for (int64_t i = 0; i < count; ++i) scores[i] = args.softcap * tanh_of(scores[i] / args.softcap);
  }
  if (args.stage == ScoreStage::kCapped) std::copy_n(scores, count, shown);

  Range keys = find_keys(args, block.batch, row);
  if (args.bias != nullptr) keys.end = std::max(keys.begin, std::min(keys.end, args.bias_columns));
  T* seen = scores + (keys.begin - block.keys.begin);
  const int64_t num_seen = keys.end - keys.begin;
  if (args.bias != nullptr) {
    const T* bias = args.bias + block.batch * args.bias_batch_stride + block.head * args.bias_head_stride +
                    row * args.bias_row_stride;
    if (args.bias_column_stride == 1) {
      bias += keys.begin;
      for (int64_t i = 0; i < num_seen; ++i) seen[i] = bias[i] == kLowest ? kLowest : seen[i] + bias[i];
    } else {
      for (int64_t i = 0; i < num_seen; ++i) seen[i] = *bias == kLowest ? kLowest : seen[i] + *bias;
    }
  }
  if (args.stage == ScoreStage::kBiased) {
    std::fill_n(shown, args.kv_len, args.unseen_score);
    std::copy_n(seen, num_seen, shown + keys.begin);
  }
  bool any = num_seen > 0;
  if (any) {
    const T* sink = args.sinks != nullptr ? args.sinks + block.head : nullptr;
    if (args.softmax_in_double && sizeof(T) < sizeof(double)) soften_in_double(seen, num_seen, sink);
    else any = softmax_row(seen, num_seen, sink);
  }
  std::fill(scores, seen, T{0});
  std::fill(seen + num_seen, scores + count, T{0});
  if (args.stage == ScoreStage::kWeights) {
    std::fill_n(shown, args.kv_len, T{0});
    std::copy_n(scores, count, shown + block.keys.begin);
  }
  return any;
}

// `value_columns` is the values of the head by column, [v_head_size, kv_len], or null.
template <typename T>
void attend_block(const AttentionArgs<T>& args, const Block<T>& block, const T* value_columns) {
  const int64_t kv_head = block.head / (args.num_heads / args.num_kv_heads);
  const int64_t num_rows = block.row_end - block.row_begin, count = block.keys.end - block.keys.begin;
  multiply_rows(Rows<const T>{args.q.at(block.batch, block.head, block.row_begin), args.q.row_stride},
                Rows<const T>{args.k.at(block.batch, kv_head, block.keys.begin), args.k.row_stride},
                Rows<T>{block.scores, count}, num_rows, args.head_size, count);
  bool all_see = true;
  for (int64_t row = block.row_begin; row < block.row_end; ++row) all_see &= weigh_row(args, block, row);
  const Rows<T> out = {args.out.at(block.batch, block.head, block.row_begin), args.out.row_stride};
  // Rows that see nothing may not even multiply zeros by what a NaN of padding is.
  if (value_columns != nullptr && all_see) {
    multiply_rows(Rows<const T>{block.scores, count}, Rows<const T>{value_columns + block.keys.begin, args.kv_len}, out,
                  num_rows, count, args.v_head_size);
    return;
  }
  for (int64_t row = 0; row < num_rows; ++row) {
    T* sum = out.data + row * out.stride;
    std::fill_n(sum, args.v_head_size, T{0});
    for (int64_t i = 0; i < count; ++i) {
      const T weight = block.scores[row * count + i];
      if (weight != 0)
        multiply_add(args.v.at(block.batch, kv_head, block.keys.begin + i), weight, sum, args.v_head_size);
    }
  }
}

template <typename T>
void run(RunContext& context, const AttentionArgs<T>& args) {
  if (args.batch == 0 || args.num_heads == 0 || args.q_len == 0) return;
  if (args.v_head_size == 0 && args.scores == nullptr) return;
  const int64_t rows_in_cache = (1 << 16) / std::max<int64_t>(args.kv_len, 1);
  const int64_t block_rows = std::min(args.q_len, std::clamp<int64_t>(rows_in_cache, 8, 96));
  const int64_t num_blocks = (args.q_len + block_rows - 1) / block_rows;
  const double work = static_cast<double>(args.batch) * static_cast<double>(args.num_heads) *
                      static_cast<double>(args.q_len) * static_cast<double>(args.kv_len) *
                      static_cast<double>(args.head_size + args.v_head_size);
  const bool is_small = work < 1 << 15;

  Tensor columns;  // [batch, num_kv_heads, v_head_size, kv_len]
  if (args.q_len >= kFewQueries && args.v_head_size > 0) {
    columns = context.make(type_of<T>(), {args.batch, args.num_kv_heads, args.v_head_size, args.kv_len});
    T* to = columns.data<T>();
    context.pool().parallel_for(args.batch * args.num_kv_heads, is_small ? args.batch * args.num_kv_heads : 1,
                                [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t batch = i / args.num_kv_heads;
        const int64_t length = args.lengths.empty() ? args.kv_len : args.lengths[static_cast<size_t>(batch)];
        transpose_rows(Rows<const T>{args.v.at(batch, i % args.num_kv_heads, 0), args.v.row_stride},
                       Rows<T>{to + i * args.v_head_size * args.kv_len, args.kv_len}, length, args.v_head_size);
        for (int64_t column = i * args.v_head_size; column < (i + 1) * args.v_head_size; ++column) {
          std::fill_n(to + column * args.kv_len + length, args.kv_len - length, T{0});
        }
      }
    });
  }
  Tensor scratch = context.make(type_of<T>(), {context.pool().num_threads(), block_rows, args.kv_len});
  T* scores = scratch.data<T>();
  const T* value_columns = columns.is_null() ? nullptr : columns.data<T>();
  const int64_t num_tasks = args.batch * args.num_heads * num_blocks;
  const bool shows_all = args.stage == ScoreStage::kProduct || args.stage == ScoreStage::kCapped;
  context.pool().parallel_for(num_tasks, is_small ? num_tasks : 1, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t i = begin; i < end; ++i) {
      Block<T> block = {.batch = i / num_blocks / args.num_heads,
                        .head = i / num_blocks % args.num_heads,
                        .row_begin = i % num_blocks * block_rows,
                        .row_end = 0,
                        .keys = {0, args.kv_len},
                        .scores = scores + worker * block_rows * args.kv_len};
      block.row_end = std::min(block.row_begin + block_rows, args.q_len);
      if (!shows_all) {
        block.keys.begin = find_keys(args, block.batch, block.row_begin).begin;
        block.keys.end = find_keys(args, block.batch, block.row_end - 1).end;
      }
      const int64_t kv_head = block.batch * args.num_kv_heads + block.head / (args.num_heads / args.num_kv_heads);
      attend_block(args, block,
                   value_columns == nullptr ? nullptr : value_columns + kv_head * args.v_head_size * args.kv_len);
    }
  });
}

}  // namespace

void run_attention(RunContext& context, const AttentionArgs<float>& args) { run(context, args); }
void run_attention(RunContext& context, const AttentionArgs<double>& args) { run(context, args); }

}  // namespace sluice::graph::ops
