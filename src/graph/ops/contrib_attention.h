// What com.microsoft's attention operators have in common: masks that add a filter value where they hide a key, biases
// of scores, and a cache of keys and values that is concatenated or written into.
#pragma once

#include "graph/ops/attention_core.h"

namespace sluice::graph::ops {

// Queries, new keys and values, and what there was before them. All f32.
struct CachedAttention {
  int64_t batch = 0, num_heads = 0, num_kv_heads = 0, q_len = 0, kv_len = 0, head_size = 0, v_head_size = 0;
  HeadView<const float> q, k, v;
  const float *past_k = nullptr, *past_v = nullptr;  // [batch, num_kv_heads, num_past, size]; null: none
  int64_t num_past = 0;
  std::vector<int64_t> past_lengths;                 // [batch]: rows of the past that count
  float *present_k = nullptr, *present_v = nullptr;  // [batch, num_kv_heads, num_present, size]; null: not wanted
  int64_t num_present = 0;                           // at least any past length + kv_len
};

// Puts past and new rows together and lets `args` see them: sizes, views and offsets; kv_len becomes `total`. Returns
// the memory that `args` looks into.
std::vector<Tensor> prepare_cache(RunContext& context, const CachedAttention& attention, int64_t total,
                                  AttentionArgs<float>& args);

// Numbers to add to scores, [batch, heads, rows, columns], of which the first three may be 1: the same for all.
struct ScoreBias {
  Tensor values;  // null: none
  int64_t batch = 1, heads = 1, rows = 1, columns = 0;
};
// An input of that shape. Throws Error if it is of another.
ScoreBias read_bias(const RunContext& context, int input, int64_t batch, int64_t heads, int64_t rows, int64_t columns);
// The sum, where both are there.
ScoreBias add_biases(RunContext& context, const ScoreBias& a, const ScoreBias& b);
void set_bias(AttentionArgs<float>& args, const ScoreBias& bias);

// 1 / sqrt(size), or the attribute "scale" if there is one other than 0.
float get_scale(const Node& node, int64_t head_size);

}  // namespace sluice::graph::ops
