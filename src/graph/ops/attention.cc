// Attention of ONNX, opset 23 and later: scaled dot-product attention of 3-dimensional (heads side by side) or
// 4-dimensional tensors, with grouped heads, masks, causality, a cache of keys and values, softcap, and a look at the
// scores. Follows the operator's function body: scale, softcap, then mask and causality; a query that sees nothing
// gives zeros. From opset 24 a mask may be shorter than the keys, as if it ended in -inf, and nonpad_kv_seqlen tells
// the valid keys of a cache that the caller keeps; from 25 there is a window. Computes in f32 or f64: a
// softmax_precision of 16 bits gets no less than f32, one of 64 bits a softmax in f64.
#include <cmath>
#include <limits>

#include "graph/ops/attention_core.h"
#include "graph/ops/ops.h"
#include "graph/ops/shape_limits.h"
#include "graph/ops/shape_math.h"

namespace sluice::graph::ops {
namespace {

enum Input { kQ, kK, kV, kMask, kPastKey, kPastValue, kValidLengths };
enum Output { kY, kPresentKey, kPresentValue, kScores };

int64_t get_num_heads(const InferContext& ctx, const char* name) {
  const int64_t heads = ctx.node().get_int(name, 0);
  if (heads <= 0 || heads > kMaxHeads)
    ctx.fail("inputs of 3 dimensions need the attribute {}, 1 to {}", name, kMaxHeads);
  return heads;
}

// [batch, heads, rows, size] of Q, K or V.
Dims split_heads(const InferContext& ctx, int i, const char* heads_name) {
  const Dims& dims = ctx.dims(i);
  if (dims.size() == 4) return dims;
  if (dims.size() != 3) ctx.fail("input {} has {} dimensions; 3 or 4 are allowed", i + 1, dims.size());
  const int64_t heads = get_num_heads(ctx, heads_name);
  if (dims[2].is_known() && dims[2].value() % heads != 0) {
    ctx.fail("input {} has a hidden size of {}, which is no multiple of {} = {}", i + 1, dims[2].value(), heads_name,
             heads);
  }
  return {dims[0], heads, dims[1], floor_divide(dims[2], heads)};
}

void require_equal(const InferContext& ctx, const Dim& a, const Dim& b, const char* what) {
  if (a.is_known() && b.is_known() && a.value() != b.value()) {
    ctx.fail("{} differ: {} and {}", what, a.value(), b.value());
  }
}

void infer_attention(InferContext& ctx) {
  if (ctx.has_input(kPastKey) != ctx.has_input(kPastValue)) ctx.fail("past_key and past_value go together");
  if (ctx.has_input(kPastKey) && ctx.has_input(kValidLengths)) {
    ctx.fail("past_key and nonpad_kv_seqlen exclude each other");
  }
  ctx.set_output(kY, ctx.element(kQ));
  ctx.set_output(kPresentKey, ctx.element(kK));
  ctx.set_output(kPresentValue, ctx.element(kV));
  ctx.set_output(kScores, ctx.element(kQ));
  if (!ctx.has_rank(kQ) || !ctx.has_rank(kK) || !ctx.has_rank(kV)) return;
  if (ctx.rank(kQ) != ctx.rank(kK) || ctx.rank(kQ) != ctx.rank(kV)) {
    ctx.fail("Q, K and V have {}, {} and {} dimensions; they have to have the same number", ctx.rank(kQ), ctx.rank(kK),
             ctx.rank(kV));
  }
  const Dims q = split_heads(ctx, kQ, "q_num_heads"), k = split_heads(ctx, kK, "kv_num_heads"),
             v = split_heads(ctx, kV, "kv_num_heads");
  require_equal(ctx, q[0], k[0], "the batch sizes of Q and K");
  require_equal(ctx, q[0], v[0], "the batch sizes of Q and V");
  require_equal(ctx, k[1], v[1], "the heads of K and V");
  require_equal(ctx, k[2], v[2], "the lengths of K and V");
  require_equal(ctx, q[3], k[3], "the head sizes of Q and K");
  if (q[1].is_known() && k[1].is_known() &&
      (k[1].value() == 0 ? q[1].value() != 0 : q[1].value() % k[1].value() != 0)) {
    ctx.fail("{} query heads are no multiple of {} key heads", q[1].value(), k[1].value());
  }
  Dim total = k[2];
  if (ctx.has_input(kPastKey)) {
    for (int i : {static_cast<int>(kPastKey), static_cast<int>(kPastValue)}) {
      if (!ctx.has_rank(i)) continue;
      if (ctx.rank(i) != 4) ctx.fail("input {} has {} dimensions, not 4", i + 1, ctx.rank(i));
      require_equal(ctx, ctx.dims(i)[0], k[0], "the batch sizes of the past and of K");
      require_equal(ctx, ctx.dims(i)[1], k[1], "the heads of the past and of K");
      require_equal(ctx, ctx.dims(i)[3], i == kPastKey ? k[3] : v[3], "the head sizes of the past and of the present");
    }
    if (ctx.has_rank(kPastKey) && ctx.has_rank(kPastValue)) {
      require_equal(ctx, ctx.dims(kPastKey)[2], ctx.dims(kPastValue)[2], "the lengths of past_key and past_value");
    }
    const int known = ctx.has_rank(kPastKey) ? kPastKey : kPastValue;
    total = ctx.has_rank(known) ? ctx.dims(known)[2] + k[2] : Dim::unknown();
  }
  if (ctx.rank(kQ) == 3) ctx.set_output(kY, ctx.element(kQ), {q[0], q[2], q[1] * v[3]});
  else ctx.set_output(kY, ctx.element(kQ), {q[0], q[1], q[2], v[3]});
  ctx.set_output(kPresentKey, ctx.element(kK), {k[0], k[1], total, k[3]});
  ctx.set_output(kPresentValue, ctx.element(kV), {v[0], v[1], total, v[3]});
  ctx.set_output(kScores, ctx.element(kQ), {q[0], q[1], q[2], total});
}

// The mask as numbers to add; sets the strides of `args`.
template <typename T>
Tensor prepare_mask(RunContext& ctx, AttentionArgs<T>& args) {
  const Tensor& mask = ctx.input(kMask);
  const int64_t wanted[4] = {args.batch, args.num_heads, args.q_len, args.kv_len};
  if (mask.rank() > 4) ctx.fail("attn_mask has {} dimensions; at most 4 are allowed", mask.rank());
  int64_t strides[4] = {}, columns = args.kv_len, stride = 1;
  for (int i = mask.rank() - 1, axis = 3; i >= 0; --i, --axis) {
    const int64_t dim = mask.dim(i);
    const bool may_be_short = axis == 3 && ctx.opset() >= 24;
    if (may_be_short && dim < wanted[axis]) columns = dim;
    else if (dim != wanted[axis] && dim != 1) {
      ctx.fail("attn_mask is {}, which does not broadcast to {}x{}x{}x{}", to_string(mask.shape()), args.batch,
               args.num_heads, args.q_len, args.kv_len);
    }
    strides[axis] = dim == 1 && !(may_be_short && columns == 1) ? 0 : stride;
    stride *= dim;
  }
  args.bias_batch_stride = strides[0];
  args.bias_head_stride = strides[1];
  args.bias_row_stride = strides[2];
  args.bias_column_stride = strides[3];
  args.bias_columns = columns;

  if (mask.type() == type_of<T>()) return mask;
  Tensor bias = ctx.make(type_of<T>(), mask.shape());
  T* to = bias.data<T>();
  if (mask.type() == ElementType::kBool) {
    const bool* from = mask.data<bool>();
    for (int64_t i = 0; i < mask.count(); ++i) to[i] = from[i] ? T{0} : -std::numeric_limits<T>::infinity();
  } else if (!dispatch_numbers(mask.type(), [&](auto zero) {
               const auto* from = mask.data<decltype(zero)>();
               for (int64_t i = 0; i < mask.count(); ++i) to[i] = static_cast<T>(from[i]);
             })) {
    ctx.fail_type(kMask);
  }
  return bias;
}

template <typename T>
struct Heads {
  HeadView<const T> view;
  int64_t heads, rows, size;
};

// REQUIRES: infer_attention() has passed.
template <typename T>
Heads<T> view_heads(const RunContext& ctx, int i, const char* heads_name) {
  const Tensor& x = ctx.input(i);
  if (x.type() != type_of<T>()) ctx.fail_type(i);
  if (x.rank() == 4) return {view_by_head(x.data<T>(), x.dim(1), x.dim(2), x.dim(3)), x.dim(1), x.dim(2), x.dim(3)};
  const int64_t heads = ctx.node().get_int(heads_name, 0), size = x.dim(2) / heads;
  return {view_by_row(x.data<T>(), heads, x.dim(1), size), heads, x.dim(1), size};
}

// Past and new rows together, in the output if it is wanted; `x` then shows them.
template <typename T>
Tensor concatenate(RunContext& ctx, Heads<T>& x, int past_input, int present_output, int64_t batch) {
  if (!ctx.has_input(past_input) && !ctx.has_output(present_output)) return {};
  const bool has_past = ctx.has_input(past_input);
  if (has_past && ctx.input(past_input).type() != type_of<T>()) ctx.fail_type(past_input);
  const int64_t num_past = has_past ? ctx.input(past_input).dim(2) : 0, num_rows = num_past + x.rows;
  Tensor present = ctx.has_output(present_output) ? make_output(ctx, present_output)
                                                  : ctx.make(type_of<T>(), {batch, x.heads, num_rows, x.size});
  append_rows(ctx, has_past ? ctx.data<T>(past_input) : nullptr, num_past,
              std::vector<int64_t>(static_cast<size_t>(batch), num_past), x.view, x.rows, present.data<T>(), num_rows,
              x.heads, x.size);
  x.view = view_by_head<const T>(present.data<T>(), x.heads, num_rows, x.size);
  x.rows = num_rows;
  return present;
}

template <typename T>
void attend(RunContext& ctx) {
  const Node& node = ctx.node();
  const Heads<T> q = view_heads<T>(ctx, kQ, "q_num_heads");
  Heads<T> k = view_heads<T>(ctx, kK, "kv_num_heads"), v = view_heads<T>(ctx, kV, "kv_num_heads");
  const int64_t num_fresh = k.rows;
  AttentionArgs<T> args = {.batch = ctx.input(kQ).dim(0), .num_heads = q.heads, .num_kv_heads = k.heads,
                           .q_len = q.rows, .head_size = q.size, .v_head_size = v.size, .q = q.view};
  const Tensor keys = concatenate(ctx, k, kPastKey, kPresentKey, args.batch);
  const Tensor values = concatenate(ctx, v, kPastValue, kPresentValue, args.batch);
  args.kv_len = k.rows;
  args.k = k.view;
  args.v = v.view;

  const float default_scale = static_cast<float>(1 / std::sqrt(static_cast<double>(std::max<int64_t>(q.size, 1))));
  args.scale = static_cast<T>(node.get_float("scale", default_scale));
  args.softcap = static_cast<T>(node.get_float("softcap", 0.0f));
  const int64_t precision = node.get_int("softmax_precision", 0);
  args.softmax_in_double = precision == static_cast<int64_t>(ElementType::kF64);
  args.is_causal = node.get_int("is_causal", 0) != 0;
  args.offsets.assign(static_cast<size_t>(args.batch), k.rows - num_fresh);
  if (ctx.has_input(kValidLengths)) {
    args.lengths = to_ints(ctx.input(kValidLengths));
    if (static_cast<int64_t>(args.lengths.size()) != args.batch) {
      ctx.fail("nonpad_kv_seqlen has {} elements for a batch of {}", args.lengths.size(), args.batch);
    }
    for (size_t b = 0; b < args.lengths.size(); ++b) {
      if (args.lengths[b] < 0 || args.lengths[b] > args.kv_len) {
        ctx.fail("nonpad_kv_seqlen has {}; 0 to {} are allowed", args.lengths[b], args.kv_len);
      }
      args.offsets[b] = args.lengths[b] - args.q_len;
    }
  }
  if (ctx.opset() >= 25 && node.has("local_window_size")) {
    const int64_t window = node.get_int("local_window_size", -1);
    if (window > 0 && !args.is_causal) ctx.fail("local_window_size needs is_causal = 1");
    if (window == 0 || window < -1) ctx.fail("local_window_size is {}; -1 or above 0 is allowed", window);
    args.window = std::max<int64_t>(window, 0);
  }
  Tensor bias;
  if (ctx.has_input(kMask)) {
    bias = prepare_mask(ctx, args);
    args.bias = bias.template data<T>();
  }
  const int64_t mode = node.get_int("qk_matmul_output_mode", 0);
  if (mode < 0 || mode > 3) ctx.fail("qk_matmul_output_mode is {}; 0 to 3 are allowed", mode);
  if (ctx.has_output(kScores)) {
    constexpr ScoreStage kStages[] = {ScoreStage::kProduct, ScoreStage::kCapped, ScoreStage::kBiased,
                                      ScoreStage::kWeights};
    args.stage = kStages[mode];
    args.scores = make_output(ctx, kScores).template data<T>();
    args.unseen_score = -std::numeric_limits<T>::infinity();
  }
  T* out = make_output(ctx, kY).template data<T>();
  args.out = ctx.input(kQ).rank() == 4 ? view_by_head(out, q.heads, q.rows, v.size)
                                       : view_by_row(out, q.heads, q.rows, v.size);
  run_attention(ctx, args);
}

void run_attention_op(RunContext& ctx) {
  refuse_absurd_shapes(ctx);
  const int64_t precision = ctx.node().get_int("softmax_precision", 0);
  if (precision != 0 && precision != static_cast<int64_t>(ElementType::kF32) &&
      precision != static_cast<int64_t>(ElementType::kF64) && precision != static_cast<int64_t>(ElementType::kF16) &&
      precision != static_cast<int64_t>(ElementType::kBF16)) {
    ctx.fail("softmax_precision is {}; 1, 10, 11 and 16 are allowed", precision);
  }
  if (!dispatch<float, double>(ctx.input(kQ).type(), [&](auto zero) { attend<decltype(zero)>(ctx); }))
    ctx.fail_type(kQ);
}

constexpr OpInfo kOps[] = {
    {"", "Attention", 23, 0, infer_attention, run_attention_op, OpInfo::kViaFloat},
};

}  // namespace

std::span<const OpInfo> attention_ops() { return kOps; }

}  // namespace sluice::graph::ops
