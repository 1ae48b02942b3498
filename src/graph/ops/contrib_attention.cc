// com.microsoft's Attention, QAttention, MultiHeadAttention and DecoderMaskedMultiHeadAttention, by the documents of
// contrib operators. Masks add mask_filter_value to the scores of hidden keys, while "unidirectional" hides later keys
// altogether. The output "qk" has the scores after scale, mask and bias, before the softmax. Where a buffer of past and
// present is shared, the present is a new tensor whose rows after the last key are zeros. Refused by name: rotary
// embedding inside Attention (its angles are described nowhere), masks of 3 * batch + 2 elements, beam search's
// cache_indirection.
#include <limits>

#include "graph/ops/contrib_attention.h"
#include "graph/ops/ops.h"
#include "graph/ops/shape_limits.h"
#include "graph/ops/shape_math.h"

namespace sluice::graph::ops {
namespace {

// ---- masks ----

// What hides keys, as numbers to add to scores. `num_past` is the keys before those of this call.
ScoreBias read_mask(RunContext& ctx, int input, int64_t batch, int64_t q_len, int64_t num_past, int64_t total) {
  if (!ctx.has_input(input)) return {};
  const Tensor& mask = ctx.input(input);
  if (!is_integer(mask.type()) && mask.type() != ElementType::kBool) ctx.fail_type(input);
  const float filter = ctx.node().get_float("mask_filter_value", -10000.0f);
  auto refuse = [&] {
    ctx.fail("a mask of {} is not supported for a batch of {}, {} queries and {} keys: {}, {}, {}x{}, {}x{}x{} and "
             "{}x1xMxM are", to_string(mask.shape()), batch, q_len, total, batch, 2 * batch, batch, total, batch, q_len,
             total, batch);
  };
  if (mask.rank() == 2 && mask.dim(1) == 1 && total != 1) return {};  // stands for no mask
  const std::vector<int64_t> given = to_ints(mask);
  const int64_t size = mask.rank() == 4 ? mask.dim(3) : total;
  const bool is_by_row = mask.rank() >= 3;
  const bool fits = mask.rank() == 1   ? mask.dim(0) == batch || mask.dim(0) == 2 * batch
                    : mask.rank() == 2 ? mask.shape() == Shape{batch, total}
                    : mask.rank() == 3
                        ? mask.shape() == Shape{batch, q_len, total}
                        : mask.rank() == 4 && mask.shape() == Shape{batch, 1, size, size} && size >= total;
  if (!fits) refuse();
  ScoreBias bias = {Tensor(), batch, 1, is_by_row ? q_len : 1, total};
  bias.values = ctx.make(ElementType::kF32, {batch, 1, bias.rows, total});
  float* to = bias.values.data<float>();
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t row = 0; row < bias.rows; ++row) {
      for (int64_t key = 0; key < total; ++key) {
        bool is_seen = false;
        if (mask.rank() == 1) {
          is_seen = key < given[static_cast<size_t>(b)];
          if (mask.dim(0) == 2 * batch) is_seen = is_seen && key >= given[static_cast<size_t>(batch + b)];
        } else {
          const int64_t at = mask.rank() == 2   ? b * total + key
                             : mask.rank() == 3 ? (b * q_len + row) * total + key
                                                : (b * size + num_past + row) * size + key;
          is_seen = given[static_cast<size_t>(at)] > 0;
        }
        *to++ = is_seen ? 0.0f : filter;
      }
    }
  }
  return bias;
}

// ---- what all of them do in the end ----

struct Finish {
  int mask = -1, bias = -1, scores = -1;  // input, input, output; -1: the operator has none
};

void finish(RunContext& ctx, const CachedAttention& attention, const Finish& at, float* out) {
  const int64_t past = attention.past_lengths.empty() ? 0 : attention.past_lengths[0];
  const int64_t total = past + attention.kv_len;
  AttentionArgs<float> args;
  const std::vector<Tensor> kept = prepare_cache(ctx, attention, total, args);
  args.out = view_by_row(out, args.num_heads, args.q_len, args.v_head_size);
  args.scale = get_scale(ctx.node(), args.head_size);
  args.is_causal = ctx.node().get_int("unidirectional", 0) != 0;
  const ScoreBias bias =
      add_biases(ctx, at.mask < 0 ? ScoreBias() : read_mask(ctx, at.mask, args.batch, args.q_len, past, total),
                 at.bias < 0 ? ScoreBias() : read_bias(ctx, at.bias, args.batch, args.num_heads, args.q_len, total));
  set_bias(args, bias);
  if (at.scores >= 0 && ctx.has_output(at.scores)) {
    args.stage = ScoreStage::kBiased;
    args.scores = make_output(ctx, at.scores).data<float>();
    args.unseen_score = -std::numeric_limits<float>::infinity();
  }
  run_attention(ctx, args);
}

// Rows of the past that count: those that past_sequence_length tells if the buffer is shared, else all.
int64_t get_past_length(const RunContext& ctx, bool shares_buffer, int length_input, int64_t num_past,
                        int64_t num_fresh) {
  if (!shares_buffer) return num_past;
  const std::vector<int64_t> given = to_ints(ctx.input(length_input));
  if (given.size() != 1 || given[0] < 0 || given[0] > num_past - num_fresh) {
    ctx.fail("past_sequence_length has to be one number, 0 to {}", num_past - num_fresh);
  }
  return given[0];
}

// ---- Attention and QAttention ----

struct Merged {  // inputs with all three weights in one
  int bias, mask, past, scores_bias, past_length;
};
constexpr Merged kAttentionInputs = {2, 3, 4, 5, 6}, kQuantizedInputs = {2, 5, 8, -1, -1};

struct HiddenSizes {
  int64_t q, k, v;
};

template <typename Context>
HiddenSizes get_hidden_sizes(const Context& ctx, int64_t merged) {
  const std::vector<int64_t> given = ctx.node().get_ints("qkv_hidden_sizes");
  HiddenSizes sizes = {merged / 3, merged / 3, merged / 3};
  if (!given.empty()) {
    if (given.size() != 3) ctx.fail("qkv_hidden_sizes has {} elements, not 3", given.size());
    sizes = {given[0], given[1], given[2]};
  }
  const int64_t heads = ctx.node().get_int("num_heads", 0);
  if (heads <= 0 || heads > kMaxHeads) ctx.fail("num_heads is {}; 1 to {} are allowed", heads, kMaxHeads);
  const bool fits = sizes.q >= 0 && sizes.v >= 0 && sizes.q == sizes.k && sizes.q <= merged / 2 && sizes.v <= merged &&
                    sizes.q * 2 + sizes.v == merged && sizes.q % heads == 0 && sizes.v % heads == 0;
  if (!fits) {
    ctx.fail("hidden sizes {}, {} and {} do not fit weights of {} columns and {} heads", sizes.q, sizes.k, sizes.v,
             merged, heads);
  }
  return sizes;
}

template <const Merged& kAt>
void infer_merged(InferContext& ctx) {
  if (ctx.node().get_int("do_rotary", 0) != 0) ctx.fail("do_rotary is not supported");
  const ElementType type = ctx.has_input(kAt.bias) ? ctx.element(kAt.bias) : ctx.element(0);
  ctx.set_output(0, type);
  ctx.set_output(1, type);
  if (!ctx.has_rank(0) || !ctx.has_rank(1)) return;
  if (ctx.rank(0) != 3 || ctx.rank(1) != 2) {
    ctx.fail("input and weights have {} and {} dimensions, not 3 and 2", ctx.rank(0), ctx.rank(1));
  }
  const Dims &x = ctx.dims(0), &w = ctx.dims(1);
  if (x[2].is_known() && w[0].is_known() && x[2].value() != w[0].value()) {
    ctx.fail("an input of {} does not fit weights for {}", x[2].value(), w[0].value());
  }
  if (!w[1].is_known()) {
    ctx.set_output(0, type, {x[0], x[1], Dim::unknown()});
    return;
  }
  const HiddenSizes sizes = get_hidden_sizes(ctx, w[1].value());
  const int64_t heads = ctx.node().get_int("num_heads", 0);
  ctx.set_output(0, type, {x[0], x[1], sizes.v});
  Dim rows = x[1];
  if (ctx.has_input(kAt.past)) {
    const bool shares = ctx.node().get_int("past_present_share_buffer", 0) != 0;
    if (ctx.has_rank(kAt.past) && ctx.rank(kAt.past) != 5)
      ctx.fail("past has {} dimensions, not 5", ctx.rank(kAt.past));
    const Dim past = ctx.has_rank(kAt.past) ? ctx.dims(kAt.past)[3] : Dim::unknown();
    rows = shares ? past : past + x[1];
  }
  ctx.set_output(1, type, {2, x[0], heads, rows, sizes.q / heads});
}

// x [rows, inputs] * w [inputs, outputs] + bias.
void project(RunContext& ctx, const float* x, const float* w, const float* bias, float* out, int64_t rows,
             int64_t inputs, int64_t outputs) {
  constexpr int64_t kStrip = 64;
  const int64_t strips = (outputs + kStrip - 1) / kStrip;
  Tensor scratch = ctx.make(ElementType::kF32, {ctx.pool().num_threads(), kStrip, inputs});
  float* memory = scratch.data<float>();
  ctx.pool().parallel_for(strips, 1, [&](int64_t begin, int64_t end, int worker) {
    float* columns = memory + worker * kStrip * inputs;
    for (int64_t strip = begin; strip < end; ++strip) {
      const int64_t first = strip * kStrip, count = std::min(kStrip, outputs - first);
      transpose_rows(Rows<const float>{w + first, outputs}, Rows<float>{columns, inputs}, inputs, count);
      multiply_rows(Rows<const float>{x, inputs}, Rows<const float>{columns, inputs}, Rows<float>{out + first, outputs},
                    rows, inputs, count);
      if (bias == nullptr) continue;
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t i = first; i < first + count; ++i) out[row * outputs + i] += bias[i];
      }
    }
  });
}

// Attention over x in f32, weights [inputs, merged] in f32.
template <const Merged& kAt>
void attend_merged(RunContext& ctx, const Tensor& x, const Tensor& weights) {
  const int64_t heads = ctx.node().get_int("num_heads", 0), merged = weights.dim(1);
  const HiddenSizes sizes = get_hidden_sizes(ctx, merged);
  const float* bias = nullptr;
  if (ctx.has_input(kAt.bias)) {
    if (ctx.input(kAt.bias).type() != ElementType::kF32) ctx.fail_type(kAt.bias);
    if (!(ctx.input(kAt.bias).shape() == Shape{merged})) {
      ctx.fail("bias is {}, not {}", to_string(ctx.input(kAt.bias).shape()), merged);
    }
    bias = ctx.data<float>(kAt.bias);
  }
  CachedAttention attention = {.batch = x.dim(0), .num_heads = heads, .num_kv_heads = heads, .q_len = x.dim(1),
                               .kv_len = x.dim(1), .head_size = sizes.q / heads, .v_head_size = sizes.v / heads};
  Tensor projected = ctx.make(ElementType::kF32, {x.dim(0), x.dim(1), merged});
  project(ctx, x.data<float>(), weights.data<float>(), bias, projected.data<float>(), x.dim(0) * x.dim(1), x.dim(2),
          merged);
  auto view = [&](int64_t offset, int64_t head_size) {
    return HeadView<const float>{projected.data<float>() + offset, x.dim(1) * merged, head_size, merged};
  };
  attention.q = view(0, attention.head_size);
  attention.k = view(sizes.q, attention.head_size);
  attention.v = view(sizes.q * 2, attention.v_head_size);

  int64_t past_length = 0;
  attention.num_present = x.dim(1);
  if (ctx.has_input(kAt.past)) {
    const Tensor& past = ctx.input(kAt.past);
    if (past.type() != ElementType::kF32) ctx.fail_type(kAt.past);
    const bool fits = past.rank() == 5 && past.dim(0) == 2 && past.dim(1) == x.dim(0) && past.dim(2) == heads &&
                      past.dim(4) == attention.head_size && attention.head_size == attention.v_head_size;
    if (!fits) {
      ctx.fail("past is {}; it has to be 2x{}x{}xPx{}", to_string(past.shape()), x.dim(0), heads, attention.head_size);
    }
    const bool shares = ctx.node().get_int("past_present_share_buffer", 0) != 0;
    if (shares && kAt.past_length < 0) ctx.fail("past_present_share_buffer is not supported");
    attention.num_past = past.dim(3);
    past_length = get_past_length(ctx, shares, kAt.past_length, past.dim(3), x.dim(1));
    attention.num_present = shares ? past.dim(3) : past.dim(3) + x.dim(1);
    attention.past_k = past.data<float>();
    attention.past_v = past.data<float>() + past.count() / 2;
  }
  attention.past_lengths.assign(static_cast<size_t>(x.dim(0)), past_length);
  if (ctx.has_output(1)) {
    if (attention.head_size != attention.v_head_size) ctx.fail("present needs keys and values of the same size");
    Tensor& present = make_output(ctx, 1);
    attention.present_k = present.data<float>();
    attention.present_v = present.data<float>() + present.count() / 2;
  }
  finish(ctx, attention, {.mask = kAt.mask, .bias = kAt.scores_bias}, make_output(ctx, 0).data<float>());
}

void run_merged(RunContext& ctx) {
  refuse_absurd_shapes(ctx);
  for (int i = 0; i < 2; ++i) {
    if (ctx.input(i).type() != ElementType::kF32) ctx.fail_type(i);
  }
  attend_merged<kAttentionInputs>(ctx, ctx.input(0), ctx.input(1));
}

// (code - zero) * scale, of a whole tensor or by its last dimension.
Tensor dequantize(RunContext& ctx, int input, int scale_input, int zero_input) {
  const Tensor &codes = ctx.input(input), &scales = ctx.input(scale_input);
  const int64_t columns = codes.shape().back();
  if (scales.type() != ElementType::kF32) ctx.fail_type(scale_input);
  const bool has_zero = ctx.has_input(zero_input);
  if (has_zero && ctx.input(zero_input).type() != codes.type()) ctx.fail_type(zero_input);
  const int64_t num_zeros = has_zero ? ctx.input(zero_input).count() : 1;
  if ((scales.count() != 1 && scales.count() != columns) || (num_zeros != 1 && num_zeros != columns)) {
    ctx.fail("input {} has {} scales and {} zero points; 1 or {} are allowed", input + 1, scales.count(), num_zeros,
             columns);
  }
  Tensor values = ctx.make(ElementType::kF32, codes.shape());
  float* to = values.data<float>();
  const float* scale = scales.data<float>();
  if (!dispatch<uint8_t, int8_t>(codes.type(), [&](auto byte) {
        using Byte = decltype(byte);
        const Byte* code = codes.data<Byte>();
        const Byte* zero = has_zero ? ctx.data<Byte>(zero_input) : nullptr;
        for (int64_t i = 0; i < codes.count(); ++i) {
          const int64_t column = i % columns;
          const int offset = zero == nullptr ? 0 : zero[num_zeros == 1 ? 0 : column];
          to[i] = static_cast<float>(code[i] - offset) * scale[scales.count() == 1 ? 0 : column];
        }
      })) {
    ctx.fail_type(input);
  }
  return values;
}

void run_quantized(RunContext& ctx) {
  refuse_absurd_shapes(ctx);
  attend_merged<kQuantizedInputs>(ctx, dequantize(ctx, 0, 3, 6), dequantize(ctx, 1, 4, 7));
}

// ---- MultiHeadAttention and DecoderMaskedMultiHeadAttention ----

struct Separate {
  int mask, scores_bias, past_key, past_value, past_length, beam_width, indirection, bias;
};
constexpr Separate kMultiHead = {4, 5, 6, 7, 8, -1, 9, 3}, kDecoderMasked = {3, 4, 5, 6, 7, 8, 9, 10};

template <const Separate& kAt>
constexpr bool is_decoder() { return kAt.beam_width >= 0; }

template <const Separate& kAt>
bool shares_buffer(const Node& node, bool has_length) {
  return is_decoder<kAt>() ? node.get_int("past_present_share_buffer", 0) != 0 : has_length;
}

// How Q, K and V come: sizes, and the same in Dims.
template <const Separate& kAt>
void infer_separate(InferContext& ctx) {
  const int64_t heads = ctx.node().get_int("num_heads", 0);
  if (heads <= 0 || heads > kMaxHeads) ctx.fail("num_heads is {}; 1 to {} are allowed", heads, kMaxHeads);
  if (ctx.has_input(kAt.indirection)) ctx.fail("cache_indirection is not supported");
  if (ctx.has_input(kAt.past_key) != ctx.has_input(kAt.past_value)) ctx.fail("past_key and past_value go together");
  if (ctx.has_input(2) && !ctx.has_input(1)) ctx.fail("value needs a key");
  for (int i = 0; i < 4; ++i) ctx.set_output(i, ctx.element(0));
  if (!ctx.has_rank(0)) return;
  const Dims& q = ctx.dims(0);
  if (q.size() != 3 && (q.size() != 5 || is_decoder<kAt>()))
    ctx.fail("query has {} dimensions, not 3 (or 5 if packed)", q.size());
  if (is_decoder<kAt>() && q[1].is_known() && q[1].value() != 1)
    ctx.fail("query has {} positions, not 1", q[1].value());
  Dim size = Dim::unknown(), v_size = Dim::unknown(), kv_len = Dim::unknown();
  bool is_cross = false;
  if (q.size() == 5) {
    size = v_size = q[4];
    kv_len = q[1];
  } else if (!ctx.has_input(1)) {
    if (!is_decoder<kAt>()) ctx.fail("a query of 3 dimensions needs a key");
    size = v_size = floor_divide(q[2], 3 * heads);
    kv_len = q[1];
  } else if (ctx.has_rank(1)) {
    const Dims& k = ctx.dims(1);
    size = floor_divide(q[2], heads);
    if (k.size() == 5) {
      v_size = k[4];
    } else if (ctx.has_rank(2)) {
      v_size = ctx.rank(2) == 4   ? ctx.dims(2)[3]
               : ctx.rank(2) == 3 ? floor_divide(ctx.dims(2)[2], heads)
                                  : Dim::unknown();
    }
    if (k.size() < 3 || k.size() > 5) ctx.fail("key has {} dimensions, not 3, 4 or 5", k.size());
    is_cross = k.size() == 4;
    kv_len = k[is_cross ? 2 : 1];
  }
  Dim total = kv_len, rows = kv_len;
  if (ctx.has_input(kAt.past_key) && !is_cross) {
    if (ctx.has_rank(kAt.past_key) && ctx.rank(kAt.past_key) != 4)
      ctx.fail("past_key has {} dimensions, not 4", ctx.rank(kAt.past_key));
    const Dim past = ctx.has_rank(kAt.past_key) ? ctx.dims(kAt.past_key)[2] : Dim::unknown();
    rows = total = past + kv_len;
    if (shares_buffer<kAt>(ctx.node(), ctx.has_input(kAt.past_length))) {
      rows = past;
      const auto length = find_shape_ints(ctx, kAt.past_length);
      total = length && length->size() == 1 ? length->front() + kv_len : Dim::unknown();
    }
  }
  ctx.set_output(0, ctx.element(0), {q[0], q[1], v_size * heads});
  ctx.set_output(1, ctx.element(0), {q[0], heads, rows, size});
  ctx.set_output(2, ctx.element(0), {q[0], heads, rows, v_size});
  ctx.set_output(3, ctx.element(0), {q[0], heads, q[1], total});
}

// A copy of what a view shows plus a bias of [heads * size], by head.
Tensor add_projection_bias(RunContext& ctx, HeadView<const float>& view, const float* bias, int64_t batch,
                           int64_t heads, int64_t rows, int64_t size) {
  Tensor sum = ctx.make(ElementType::kF32, {batch, heads, rows, size});
  float* to = sum.data<float>();
  for (int64_t i = 0; size > 0 && i < batch * heads * rows; ++i, to += size) {
    const int64_t head = i / rows % heads;
    const float* from = view.at(i / rows / heads, head, i % rows);
    for (int64_t d = 0; d < size; ++d) to[d] = from[d] + bias[head * size + d];
  }
  view = view_by_head<const float>(sum.data<float>(), heads, rows, size);
  return sum;
}

template <const Separate& kAt>
void run_separate(RunContext& ctx) {
  refuse_absurd_shapes(ctx);
  const Node& node = ctx.node();
  const int64_t heads = node.get_int("num_heads", 0);
  for (int i : {0, 1, 2, kAt.scores_bias, kAt.past_key, kAt.past_value, kAt.bias}) {
    if (ctx.has_input(i) && ctx.input(i).type() != ElementType::kF32) ctx.fail_type(i);
  }
  if (is_decoder<kAt>() && ctx.has_input(kAt.beam_width)) {
    for (int64_t width : to_ints(ctx.input(kAt.beam_width))) {
      if (width != 1) ctx.fail("a beam_width other than 1 is not supported");
    }
  }
  const Tensor& query = ctx.input(0);
  const int64_t batch = query.dim(0), q_len = query.dim(1);
  CachedAttention attention = {
      .batch = batch, .num_heads = heads, .num_kv_heads = heads, .q_len = q_len, .kv_len = q_len};
  const float* q = query.data<float>();
  bool is_cross = false;
  auto refuse = [&](const Tensor& x, const char* what) { ctx.fail("{} cannot be {}", what, to_string(x.shape())); };
  if (query.rank() == 5) {  // [batch, rows, heads, 3, size]
    if (query.dim(2) != heads || query.dim(3) != 3 || ctx.has_input(1)) refuse(query, "a packed query");
    const int64_t size = query.dim(4), row = heads * 3 * size;
    attention.head_size = attention.v_head_size = size;
    attention.q = {q, q_len * row, 3 * size, row};
    attention.k = {q + size, q_len * row, 3 * size, row};
    attention.v = {q + 2 * size, q_len * row, 3 * size, row};
  } else if (!ctx.has_input(1)) {  // [batch, 1, 3 * heads * size]
    const int64_t row = query.dim(2), size = row / (3 * heads);
    if (row % (3 * heads) != 0) refuse(query, "a packed query");
    attention.head_size = attention.v_head_size = size;
    attention.q = {q, q_len * row, size, row};
    attention.k = {q + heads * size, q_len * row, size, row};
    attention.v = {q + 2 * heads * size, q_len * row, size, row};
  } else {
    const Tensor& key = ctx.input(1);
    if (query.dim(2) % heads != 0) refuse(query, "a query");
    const int64_t size = query.dim(2) / heads;
    attention.head_size = size;
    attention.q = view_by_row(q, heads, q_len, size);
    if (key.dim(0) != batch) refuse(key, "a key");
    if (key.rank() == 5) {  // [batch, rows, heads, 2, size]
      if (key.dim(2) != heads || key.dim(3) != 2 || key.dim(4) != size || ctx.has_input(2)) refuse(key, "a packed key");
      attention.kv_len = key.dim(1);
      attention.v_head_size = size;
      const int64_t row = heads * 2 * size;
      attention.k = {key.data<float>(), key.dim(1) * row, 2 * size, row};
      attention.v = {key.data<float>() + size, key.dim(1) * row, 2 * size, row};
    } else {
      const Tensor& value = ctx.input(2);
      is_cross = key.rank() == 4;
      attention.kv_len = key.dim(is_cross ? 2 : 1);
      const bool key_fits = is_cross ? key.dim(1) == heads && key.dim(3) == size : key.dim(2) == heads * size;
      const bool value_fits = value.rank() == key.rank() && value.dim(0) == batch &&
                              (is_cross ? value.dim(1) == heads && value.dim(2) == key.dim(2)
                                        : value.dim(1) == key.dim(1) && value.dim(2) % heads == 0);
      if (!key_fits) refuse(key, "a key");
      if (!value_fits) refuse(value, "a value");
      attention.v_head_size = is_cross ? value.dim(3) : value.dim(2) / heads;
      attention.k = is_cross ? view_by_head(key.data<float>(), heads, key.dim(2), size)
                             : view_by_row(key.data<float>(), heads, key.dim(1), size);
      attention.v = is_cross ? view_by_head(value.data<float>(), heads, value.dim(2), attention.v_head_size)
                             : view_by_row(value.data<float>(), heads, value.dim(1), attention.v_head_size);
    }
  }
  std::vector<Tensor> biased;
  if (ctx.has_input(kAt.bias)) {
    const int64_t hidden = heads * attention.head_size;
    if (ctx.input(kAt.bias).count() != 2 * hidden + heads * attention.v_head_size)
      refuse(ctx.input(kAt.bias), "the bias");
    const float* bias = ctx.data<float>(kAt.bias);
    biased.push_back(add_projection_bias(ctx, attention.q, bias, batch, heads, q_len, attention.head_size));
    if (!is_cross) {  // keys and values of another run have theirs already
      biased.push_back(
          add_projection_bias(ctx, attention.k, bias + hidden, batch, heads, attention.kv_len, attention.head_size));
      biased.push_back(add_projection_bias(ctx, attention.v, bias + 2 * hidden, batch, heads, attention.kv_len,
                                           attention.v_head_size));
    }
  }
  int64_t past_length = 0;
  attention.num_present = attention.kv_len;
  if (ctx.has_input(kAt.past_key) && !is_cross) {
    const Tensor &past_k = ctx.input(kAt.past_key), &past_v = ctx.input(kAt.past_value);
    const int64_t num_past = past_k.rank() == 4 ? past_k.dim(2) : 0;
    if (!(past_k.shape() == Shape{batch, heads, num_past, attention.head_size})) refuse(past_k, "past_key");
    if (!(past_v.shape() == Shape{batch, heads, num_past, attention.v_head_size})) refuse(past_v, "past_value");
    const bool shares = shares_buffer<kAt>(node, ctx.has_input(kAt.past_length));
    past_length = get_past_length(ctx, shares, kAt.past_length, num_past, attention.kv_len);
    attention.num_past = num_past;
    attention.num_present = shares ? num_past : num_past + attention.kv_len;
    attention.past_k = past_k.data<float>();
    attention.past_v = past_v.data<float>();
  }
  attention.past_lengths.assign(static_cast<size_t>(batch), past_length);
  if (ctx.has_output(1)) attention.present_k = make_output(ctx, 1).data<float>();
  if (ctx.has_output(2)) attention.present_v = make_output(ctx, 2).data<float>();
  finish(ctx, attention, {.mask = kAt.mask, .bias = kAt.scores_bias, .scores = 3}, make_output(ctx, 0).data<float>());
}

constexpr OpInfo kOps[] = {
    {kMicrosoft, "Attention", 1, 0, infer_merged<kAttentionInputs>, run_merged, OpInfo::kViaFloat},
    {kMicrosoft, "QAttention", 1, 0, infer_merged<kQuantizedInputs>, run_quantized, OpInfo::kViaFloat},
    {kMicrosoft, "MultiHeadAttention", 1, 0, infer_separate<kMultiHead>, run_separate<kMultiHead>, OpInfo::kViaFloat},
    {kMicrosoft, "DecoderMaskedMultiHeadAttention", 1, 0, infer_separate<kDecoderMasked>, run_separate<kDecoderMasked>,
     OpInfo::kViaFloat},
};

}  // namespace

std::span<const OpInfo> contrib_attention_ops() { return kOps; }

}  // namespace sluice::graph::ops
