#include <algorithm>
#include <cmath>

#include "graph/ops/contrib_attention.h"

namespace sluice::graph::ops {

std::vector<Tensor> prepare_cache(RunContext& ctx, const CachedAttention& attention, int64_t total,
                                  AttentionArgs<float>& args) {
  args.batch = attention.batch;
  args.num_heads = attention.num_heads;
  args.num_kv_heads = attention.num_kv_heads;
  args.q_len = attention.q_len;
  args.kv_len = total;
  args.head_size = attention.head_size;
  args.v_head_size = attention.v_head_size;
  args.q = attention.q;
  args.offsets = attention.past_lengths;
  std::vector<Tensor> kept;
  auto join = [&](const float* past, HeadView<const float> fresh, float* present, int64_t size) {
    if (past == nullptr && present == nullptr) return fresh;
    int64_t num_rows = attention.num_present;
    if (present == nullptr) {
      num_rows = total;
      kept.push_back(ctx.make(ElementType::kF32, {attention.batch, attention.num_kv_heads, num_rows, size}));
      present = kept.back().data<float>();
    }
    append_rows(ctx, past, attention.num_past, attention.past_lengths, fresh, attention.kv_len, present, num_rows,
                attention.num_kv_heads, size);
    return view_by_head<const float>(present, attention.num_kv_heads, num_rows, size);
  };
  args.k = join(attention.past_k, attention.k, attention.present_k, attention.head_size);
  args.v = join(attention.past_v, attention.v, attention.present_v, attention.v_head_size);
  return kept;
}

ScoreBias read_bias(const RunContext& ctx, int input, int64_t batch, int64_t heads, int64_t rows, int64_t columns) {
  if (!ctx.has_input(input)) return {};
  const Tensor& bias = ctx.input(input);
  if (bias.type() != ElementType::kF32) ctx.fail_type(input);
  const bool fits = bias.rank() == 4 && (bias.dim(0) == batch || bias.dim(0) == 1) &&
                    (bias.dim(1) == heads || bias.dim(1) == 1) && bias.dim(2) == rows && bias.dim(3) == columns;
  if (!fits) {
    ctx.fail("attention_bias is {}; it has to be {}x{}x{}x{}, the first two of which may be 1", to_string(bias.shape()),
             batch, heads, rows, columns);
  }
  return {bias, bias.dim(0), bias.dim(1), bias.dim(2), bias.dim(3)};
}

ScoreBias add_biases(RunContext& ctx, const ScoreBias& a, const ScoreBias& b) {
  if (a.values.is_null()) return b;
  if (b.values.is_null()) return a;
  ScoreBias sum = {Tensor(), std::max(a.batch, b.batch), std::max(a.heads, b.heads), std::max(a.rows, b.rows),
                   a.columns};
  sum.values = ctx.make(ElementType::kF32, {sum.batch, sum.heads, sum.rows, sum.columns});
  float* to = sum.values.data<float>();
  auto row_of = [](const ScoreBias& bias, int64_t batch, int64_t head, int64_t row) {
    const int64_t plane = (bias.batch == 1 ? 0 : batch) * bias.heads + (bias.heads == 1 ? 0 : head);
    return bias.values.data<float>() + (plane * bias.rows + (bias.rows == 1 ? 0 : row)) * bias.columns;
  };
  for (int64_t i = 0; i < sum.batch * sum.heads * sum.rows; ++i, to += sum.columns) {
    const int64_t batch = i / sum.rows / sum.heads, head = i / sum.rows % sum.heads, row = i % sum.rows;
    const float *x = row_of(a, batch, head, row), *y = row_of(b, batch, head, row);
    for (int64_t column = 0; column < sum.columns; ++column) to[column] = x[column] + y[column];
  }
  return sum;
}

void set_bias(AttentionArgs<float>& args, const ScoreBias& bias) {
  if (bias.values.is_null()) return;
  args.bias = bias.values.data<float>();
  args.bias_columns = bias.columns;
  args.bias_row_stride = bias.rows == 1 ? 0 : bias.columns;
  args.bias_head_stride = bias.heads == 1 ? 0 : bias.rows * bias.columns;
  args.bias_batch_stride = bias.batch == 1 ? 0 : bias.heads * bias.rows * bias.columns;
}

float get_scale(const Node& node, int64_t head_size) {
  const float scale = node.get_float("scale", 0.0f);
  if (scale != 0) return scale;
  return static_cast<float>(1 / std::sqrt(static_cast<double>(std::max<int64_t>(head_size, 1))));
}

}  // namespace sluice::graph::ops
