// com.microsoft's GroupQueryAttention: attention of packed or separate Q, K and V with a cache whose sequences have
// lengths of their own, rotary embedding, per-head RMS norm, a window, softcap and sinks. seqlens_k tells how many keys
// a sequence has after this call, less one; the new ones are the last of them, except that a first prompt begins at 0
// and may be padded on the right. The window includes the query's own position. The present is as long as the longer of
// the past buffer and total_sequence_length; rows after the last key are zeros. output_qk shows 0 for keys out of
// sight. Refused by name: quantised caches and sliding_window_cache.
#include <algorithm>
#include <cmath>

#include "graph/ops/contrib_attention.h"
#include "graph/ops/ops.h"
#include "graph/ops/rotary.h"
#include "graph/ops/shape_limits.h"
#include "graph/ops/shape_math.h"

namespace sluice::graph::ops {
namespace {

enum Input {
  kQuery, kKey, kValue, kPastKey, kPastValue, kSeqLens, kTotalLength, kCosines, kSines, kPositions, kBias, kSinks,
  kKeyScale, kValueScale, kQueryNorm, kKeyNorm
};

struct HeadCounts {
  int64_t q, kv;
};

template <typename Context>
HeadCounts get_heads(const Context& ctx) {
  const HeadCounts heads = {ctx.node().get_int("num_heads", 0), ctx.node().get_int("kv_num_heads", 0)};
  if (heads.q <= 0 || heads.kv <= 0 || heads.q > kMaxHeads || heads.kv > kMaxHeads || heads.q % heads.kv != 0) {
    ctx.fail("{} query heads over {} key heads: both have to be 1 to {}, the first a multiple of the second", heads.q,
             heads.kv, kMaxHeads);
  }
  return heads;
}

void infer_group_query_attention(InferContext& ctx) {
  const Node& node = ctx.node();
  const HeadCounts heads = get_heads(ctx);
  for (const char* name : {"k_quant_type", "v_quant_type"}) {
    const std::string type = node.get_string(name, "NONE");
    if (type != "NONE" && !type.empty()) ctx.fail("{} '{}' is not supported, only NONE is", name, type);
  }
  if (ctx.has_input(kKeyScale) || ctx.has_input(kValueScale)) ctx.fail("k_scale and v_scale are not supported");
  if (node.get_int("sliding_window_cache", 0) != 0) ctx.fail("sliding_window_cache is not supported");
  const int64_t causal = node.get_int("causal", 1), window = node.get_int("local_window_size", -1);
  if (causal != 0 && causal != 1) ctx.fail("causal is {}; 0 and 1 are allowed", causal);
  if (window < -1 || window == 0) ctx.fail("local_window_size is {}; -1 or above 0 is allowed", window);
  if (causal == 0 && window > 0) ctx.fail("local_window_size needs causal = 1");
  if (ctx.has_input(kKey) != ctx.has_input(kValue)) ctx.fail("key and value go together");
  if (ctx.has_input(kPastKey) != ctx.has_input(kPastValue)) ctx.fail("past_key and past_value go together");
  if (ctx.has_input(kQueryNorm) != ctx.has_input(kKeyNorm)) ctx.fail("q_norm_weight and k_norm_weight go together");
  for (int i = 0; i < 4; ++i) ctx.set_output(i, ctx.element(kQuery));
  if (!ctx.has_rank(kQuery)) return;
  const Dims& q = ctx.dims(kQuery);
  if (q.size() != 3) ctx.fail("query has {} dimensions, not 3", q.size());
  const int64_t parts = ctx.has_input(kKey) ? heads.q : heads.q + 2 * heads.kv;
  if (q[2].is_known() && q[2].value() % parts != 0)
    ctx.fail("a query of {} is no multiple of {} heads", q[2].value(), parts);
  const Dim size = floor_divide(q[2], parts);
  const auto given = find_shape_ints(ctx, kTotalLength);
  const Dim total = given && given->size() == 1 ? given->front() : Dim::unknown();
  Dim rows = total;
  if (ctx.has_input(kPastKey)) {
    if (ctx.has_rank(kPastKey) && ctx.rank(kPastKey) != 4)
      ctx.fail("past_key has {} dimensions, not 4", ctx.rank(kPastKey));
    rows = ctx.has_rank(kPastKey) && given ? max_of(ctx.dims(kPastKey)[2], total) : Dim::unknown();
  }
  ctx.set_output(0, ctx.element(kQuery), {q[0], q[1], size * heads.q});
  ctx.set_output(1, ctx.element(kQuery), {q[0], heads.kv, rows, size});
  ctx.set_output(2, ctx.element(kQuery), {q[0], heads.kv, rows, size});
  ctx.set_output(3, ctx.element(kQuery), {q[0], heads.q, q[1], total});
}

// What happens to each head of Q and K before they meet: RMS norm, then rotation.
struct HeadChanges {
  const float* norm = nullptr;  // [size]
  float epsilon = 0;
  const float *cosines = nullptr, *sines = nullptr;  // [positions, rotated / 2]
  int64_t rotated = 0;
  bool is_interleaved = false;
  const int64_t* positions = nullptr;  // [batch, rows]
};

// A changed copy, [batch, heads, rows, size]; `view` then shows it. Nothing if there is nothing to change.
Tensor change_heads(RunContext& ctx, HeadView<const float>& view, const HeadChanges& changes, int64_t batch,
                    int64_t heads, int64_t rows, int64_t size) {
  if (changes.norm == nullptr && changes.rotated == 0) return {};
  Tensor changed = ctx.make(ElementType::kF32, {batch, heads, rows, size});
  float* to = changed.data<float>();
  if (changed.count() == 0) return changed;
  ctx.pool().parallel_for(
      batch * heads, std::max<int64_t>(1, 4096 / (rows * size)), [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin * rows; i < end * rows; ++i) {
          const int64_t b = i / rows / heads, row = i % rows;
          float* x = to + i * size;
          std::copy_n(view.at(b, i / rows % heads, row), size, x);
          if (changes.norm != nullptr) {
            double squares = 0;
            for (int64_t d = 0; d < size; ++d) squares += static_cast<double>(x[d]) * x[d];
            const float factor =
                static_cast<float>(1 / std::sqrt(squares / static_cast<double>(size) + changes.epsilon));
            for (int64_t d = 0; d < size; ++d) x[d] *= factor * changes.norm[d];
          }
          if (changes.rotated > 0) {
            const int64_t angle = changes.positions[b * rows + row] * (changes.rotated / 2);
            rotate_head(x, x, changes.cosines + angle, changes.sines + angle, changes.rotated, size,
                        changes.is_interleaved);
          }
        }
      });
  view = view_by_head<const float>(to, heads, rows, size);
  return changed;
}

void run_group_query_attention(RunContext& ctx) {
  refuse_absurd_shapes(ctx);
  const Node& node = ctx.node();
  const HeadCounts heads = get_heads(ctx);
  for (int i = 0; i < ctx.num_inputs(); ++i) {
    const bool is_float = i != kSeqLens && i != kTotalLength && i != kPositions;
    if (is_float && ctx.has_input(i) && ctx.input(i).type() != ElementType::kF32) ctx.fail_type(i);
  }
  auto require = [&](int i, const char* what, const Shape& shape) {
    if (!(ctx.input(i).shape() == shape)) {
      ctx.fail("{} is {}; it has to be {}", what, to_string(ctx.input(i).shape()), to_string(shape));
    }
  };
  const Tensor& query = ctx.input(kQuery);
  const int64_t batch = query.dim(0), rows = query.dim(1);
  const bool is_packed = !ctx.has_input(kKey);
  const int64_t size = query.dim(2) / (is_packed ? heads.q + 2 * heads.kv : heads.q);
  CachedAttention attention = {.batch = batch, .num_heads = heads.q, .num_kv_heads = heads.kv, .q_len = rows,
                               .kv_len = rows, .head_size = size, .v_head_size = size};
  const float* q = query.data<float>();
  if (is_packed) {
    const int64_t row = query.dim(2);
    attention.q = {q, rows * row, size, row};
    attention.k = {q + heads.q * size, rows * row, size, row};
    attention.v = {q + (heads.q + heads.kv) * size, rows * row, size, row};
  } else {
    attention.kv_len = ctx.input(kKey).rank() == 3 ? ctx.input(kKey).dim(1) : rows;
    if (attention.kv_len != 0) attention.kv_len = rows;  // none: all keys are in the cache already
    require(kKey, "key", {batch, attention.kv_len, heads.kv * size});
    require(kValue, "value", {batch, attention.kv_len, heads.kv * size});
    attention.q = view_by_row(q, heads.q, rows, size);
    attention.k = view_by_row(ctx.data<float>(kKey), heads.kv, attention.kv_len, size);
    attention.v = view_by_row(ctx.data<float>(kValue), heads.kv, attention.kv_len, size);
  }

  const std::vector<int64_t> totals = to_ints(ctx.input(kTotalLength)), last_keys = to_ints(ctx.input(kSeqLens));
  if (totals.size() != 1) ctx.fail("total_sequence_length has {} elements; it has to be a scalar", totals.size());
  if (static_cast<int64_t>(last_keys.size()) != batch) {
    ctx.fail("seqlens_k has {} elements for a batch of {}", last_keys.size(), batch);
  }
  const int64_t total = totals[0];
  if (ctx.has_input(kPastKey)) {
    const int64_t num_past = ctx.input(kPastKey).rank() == 4 ? ctx.input(kPastKey).dim(2) : 0;
    require(kPastKey, "past_key", {batch, heads.kv, num_past, size});
    require(kPastValue, "past_value", {batch, heads.kv, num_past, size});
    attention.num_past = num_past;
    attention.past_k = ctx.data<float>(kPastKey);
    attention.past_v = ctx.data<float>(kPastValue);
  }
  if (total < rows && attention.kv_len != 0)
    ctx.fail("total_sequence_length is {}, less than the {} queries", total, rows);
  const bool is_first_prompt = rows == total && attention.kv_len != 0;
  attention.num_present = std::max(attention.num_past, total);
  AttentionArgs<float> args;
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t length = last_keys[static_cast<size_t>(b)] + 1;  // after this call
    const int64_t past = is_first_prompt ? 0 : length - attention.kv_len;
    const bool fits = length >= 1 && length <= total && past >= 0 && past <= attention.num_past &&
                      past + attention.kv_len <= attention.num_present;
    if (!fits) {
      ctx.fail("seqlens_k has {}, which {} new keys after at most {}, {} in all, do not allow", length - 1,
               attention.kv_len, attention.num_past, total);
    }
    attention.past_lengths.push_back(past);
    args.lengths.push_back(length);
  }

  std::vector<Tensor> changed;
  HeadChanges changes = {.epsilon = node.get_float("qk_norm_epsilon", 1e-6f)};
  std::vector<int64_t> positions(static_cast<size_t>(batch * rows));
  if (node.get_int("do_rotary", 0) != 0) {
    const Tensor& cosines = ctx.input(kCosines);
    if (cosines.rank() != 2 || 2 * cosines.dim(1) > size) {
      ctx.fail("cos_cache is {}; it has to have 2 dimensions, the second at most {}", to_string(cosines.shape()),
               size / 2);
    }
    require(kSines, "sin_cache", cosines.shape());
    const bool has_ids = ctx.has_input(kPositions);
    const std::vector<int64_t> ids = has_ids ? to_ints(ctx.input(kPositions)) : std::vector<int64_t>();
    if (has_ids && ids.size() != positions.size() && !(is_first_prompt && !ids.empty())) {
      ctx.fail("position_ids are {}; they have to be {}x{}", to_string(ctx.input(kPositions).shape()), batch, rows);
    }
    for (int64_t i = 0; i < batch * rows; ++i) {
      const int64_t b = i / rows, row = i % rows;
      const int64_t before =
          args.lengths[static_cast<size_t>(b)] - rows;  // where the queries begin, without new keys too
      const int64_t base = !has_ids          ? (is_first_prompt ? 0 : before)
                           : is_first_prompt ? ids[0]
                                             : ids[static_cast<size_t>(i)];
      const int64_t step = has_ids && !is_first_prompt ? 0 : row;
      if (base < 0 || base >= cosines.dim(0) || base + step >= cosines.dim(0)) {
        ctx.fail("position {} is outside caches of {} positions", base, cosines.dim(0));
      }
      positions[static_cast<size_t>(i)] = base + step;
    }
    changes.cosines = cosines.data<float>();
    changes.sines = ctx.data<float>(kSines);
    changes.rotated = 2 * cosines.dim(1);
    changes.is_interleaved = node.get_int("rotary_interleaved", 0) != 0;
    changes.positions = positions.data();
  }
  for (int i : {static_cast<int>(kQueryNorm), static_cast<int>(kKeyNorm)}) {
    if (ctx.has_input(i)) require(i, "a norm's weight", {size});
  }
  if (ctx.has_input(kQueryNorm)) changes.norm = ctx.data<float>(kQueryNorm);
  changed.push_back(change_heads(ctx, attention.q, changes, batch, heads.q, rows, size));
  if (ctx.has_input(kKeyNorm)) changes.norm = ctx.data<float>(kKeyNorm);
  changed.push_back(change_heads(ctx, attention.k, changes, batch, heads.kv, attention.kv_len, size));

  if (ctx.has_output(1)) attention.present_k = make_output(ctx, 1).data<float>();
  if (ctx.has_output(2)) attention.present_v = make_output(ctx, 2).data<float>();
  const std::vector<int64_t> lengths = args.lengths;
  const std::vector<Tensor> kept = prepare_cache(ctx, attention, total, args);
  if (attention.kv_len == 0) {  // queries are the last rows of what the cache has
    for (size_t b = 0; b < lengths.size(); ++b) args.offsets[b] = lengths[b] - rows;
  }
  args.out = view_by_row(make_output(ctx, 0).data<float>(), heads.q, rows, size);
  args.scale = get_scale(node, size);
  args.softcap = node.get_float("softcap", 0.0f);
  args.is_causal = node.get_int("causal", 1) != 0;
  args.window = std::max<int64_t>(node.get_int("local_window_size", -1), 0);
  const ScoreBias bias = read_bias(ctx, kBias, batch, heads.q, rows, total);
  set_bias(args, bias);
  const std::vector<float> no_sinks(static_cast<size_t>(heads.q), 0.0f);
  if (ctx.has_input(kSinks)) {
    require(kSinks, "head_sink", {heads.q});
    args.sinks = ctx.data<float>(kSinks);
  } else if (node.get_int("smooth_softmax", 0) == 1) {
    args.sinks = no_sinks.data();
  }
  const int64_t shown = node.get_int("qk_output", 0);
  if (shown < 0 || shown > 2) ctx.fail("qk_output is {}; 0, 1 and 2 are allowed", shown);
  if (ctx.has_output(3)) {
    if (shown == 0) ctx.fail("output_qk is wanted, but qk_output is 0");
    args.stage = shown == 1 ? ScoreStage::kBiased : ScoreStage::kWeights;
    args.scores = make_output(ctx, 3).data<float>();
  }
  run_attention(ctx, args);
}

constexpr OpInfo kOps[] = {
    {kMicrosoft, "GroupQueryAttention", 1, 0, infer_group_query_attention, run_group_query_attention,
     OpInfo::kViaFloat},
};

}  // namespace

std::span<const OpInfo> group_query_attention_ops() { return kOps; }

}  // namespace sluice::graph::ops
