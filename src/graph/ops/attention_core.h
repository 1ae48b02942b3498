// Scaled dot-product attention over strided views, which the attention operators of every dialect come down to.
//
// For each query: scores = scale * q.k, then softcap, then a bias is added, keys out of sight are dropped, softmax, and
// the values are summed by weight. A key is out of sight if it lies outside the causal range, the window or the valid
// length of its sequence, or if its bias is -inf, whatever its score is; a query that sees nothing gives zeros. Nothing
// of keys beyond the last one in sight is read, so padding may hold anything. Work is split over batch, heads and
// blocks of queries; each thread keeps the scores of one block, blocks being smaller the more keys there are.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "graph/op.h"
#include "graph/ops/row_products.h"

namespace sluice::graph::ops {

// Element (batch, head, row, i) of a tensor is at data[batch * batch_stride + head * head_stride + row * row_stride +
// i].
template <typename T>
struct HeadView {
  T* data = nullptr;
  int64_t batch_stride = 0, head_stride = 0, row_stride = 0;

  T* at(int64_t batch, int64_t head, int64_t row) const {
    return data + batch * batch_stride + head * head_stride + row * row_stride;
  }
};

// [batch, heads, rows, size], contiguous.
template <typename T>
HeadView<T> view_by_head(T* data, int64_t heads, int64_t rows, int64_t size) {
  return {data, heads * rows * size, rows * size, size};
}
// [batch, rows, heads * size], contiguous.
template <typename T>
HeadView<T> view_by_row(T* data, int64_t heads, int64_t rows, int64_t size) {
  return {data, heads * rows * size, size, heads * size};
}

// Which scores an operator wants to see.
enum class ScoreStage : uint8_t { kNone, kProduct, kCapped, kBiased, kWeights };

template <typename T>
struct AttentionArgs {
  int64_t batch = 0, num_heads = 0, num_kv_heads = 0;  // num_heads is a multiple of num_kv_heads
  int64_t q_len = 0, kv_len = 0, head_size = 0, v_head_size = 0;
  HeadView<const T> q, k, v;
  HeadView<T> out;
  T scale = 1;
  T softcap = 0;                   // 0: none; else s = softcap * tanh(s / softcap)
  bool softmax_in_double = false;

  const T* bias = nullptr;         // [batch, num_heads, q_len, kv_len] by the strides, 0 where it is broadcast
  int64_t bias_batch_stride = 0, bias_head_stride = 0, bias_row_stride = 0, bias_column_stride = 1;
  int64_t bias_columns = 0;        // as if the bias were -inf from here on

  // Query i of batch b sees keys j with j < lengths[b] and, if causal, i + offsets[b] - window < j <= i + offsets[b].
  bool is_causal = false;
  std::vector<int64_t> offsets;    // [batch]; empty: 0
  std::vector<int64_t> lengths;    // [batch], 0 <= length <= kv_len; empty: kv_len
  int64_t window = 0;              // 0: none
  const T* sinks = nullptr;        // [num_heads], one more score each; null: none

  T* scores = nullptr;             // [batch, num_heads, q_len, kv_len], written at that stage
  ScoreStage stage = ScoreStage::kNone;
  T unseen_score = 0;              // of keys that causality, window or length hide, at kBiased
};

void run_attention(RunContext& context, const AttentionArgs<float>& args);
void run_attention(RunContext& context, const AttentionArgs<double>& args);

// Keys or values so far: `fresh` [batch, heads, num_fresh, size] after the first past_lengths[b] rows of `past`
// [batch, heads, num_past, size] (contiguous; null if there is none). Writes [batch, heads, num_rows, size], zeros
// after the fresh ones. REQUIRES: past_lengths[b] <= num_past, past_lengths[b] + num_fresh <= num_rows.
template <typename T>
void append_rows(RunContext& context, const T* past, int64_t num_past, const std::vector<int64_t>& past_lengths,
                 HeadView<const T> fresh, int64_t num_fresh, T* out, int64_t num_rows, int64_t heads, int64_t size) {
  const int64_t batch = static_cast<int64_t>(past_lengths.size());
  if (num_rows == 0 || size == 0) return;
  context.pool().parallel_for(batch * heads, num_rows * size < 4096 ? batch * heads : 1,
                              [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t kept = past_lengths[static_cast<size_t>(i / heads)];
      T* to = out + i * num_rows * size;
      if (kept > 0) std::memcpy(to, past + i * num_past * size, sizeof(T) * static_cast<size_t>(kept * size));
      to += kept * size;
      for (int64_t row = 0; row < num_fresh; ++row, to += size) {
        std::memcpy(to, fresh.at(i / heads, i % heads, row), sizeof(T) * static_cast<size_t>(size));
      }
      std::fill(to, out + (i + 1) * num_rows * size, T{0});
    }
  });
}

}  // namespace sluice::graph::ops
