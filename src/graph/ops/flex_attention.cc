// FlexAttention of ai.onnx.preview: attention of 4-dimensional tensors with grouped heads, whose scores and weights go
// through graphs of the model's own. The graphs get all scores at once, [batch, heads, queries, keys], in the precision
// of the softmax: f32, or f64 for f64 inputs or if softmax_precision says so. A softmax_precision of 16 bits gets f32
// as well where no graph sees the scores, and is refused where one would. Without graphs it is plain attention,
// computed in blocks.
#include <algorithm>
#include <cmath>

#include "graph/ops/attention_core.h"
#include "graph/ops/ops.h"
#include "graph/ops/shape_limits.h"
#include "graph/ops/shape_math.h"

namespace sluice::graph::ops {
namespace {

ElementType find_precision(const Node& node, ElementType element) {
  const int64_t wanted = node.get_int("softmax_precision", 0);
  if (wanted == static_cast<int64_t>(ElementType::kF64)) return ElementType::kF64;
  if (wanted == 0 && element == ElementType::kF64) return ElementType::kF64;
  return ElementType::kF32;
}

void infer_flex_attention(InferContext& ctx) {
  const int64_t wanted = ctx.node().get_int("softmax_precision", 0);
  const bool has_graphs = ctx.node().has("score_mod") || ctx.node().has("prob_mod");
  if (wanted == static_cast<int64_t>(ElementType::kF16) || wanted == static_cast<int64_t>(ElementType::kBF16)) {
    if (has_graphs) ctx.fail("softmax_precision {} together with score_mod or prob_mod is not supported", wanted);
  } else if (wanted != 0 && wanted != static_cast<int64_t>(ElementType::kF32) &&
             wanted != static_cast<int64_t>(ElementType::kF64)) {
    ctx.fail("softmax_precision is {}; 1, 10, 11 and 16 are allowed", wanted);
  }
  ctx.set_output(0, ctx.element(0));
  for (int i = 0; i < 3; ++i) {
    if (ctx.has_rank(i) && ctx.rank(i) != 4) ctx.fail("input {} has {} dimensions, not 4", i + 1, ctx.rank(i));
  }
  Dims scores = unknown_dims(4), out = unknown_dims(4);
  if (ctx.has_rank(0)) {
    std::copy_n(ctx.dims(0).begin(), 3, scores.begin());
    std::copy_n(ctx.dims(0).begin(), 3, out.begin());
  }
  if (ctx.has_rank(1)) scores[3] = ctx.dims(1)[2];
  if (ctx.has_rank(2)) out[3] = ctx.dims(2)[3];
  const ElementType precision = find_precision(ctx.node(), ctx.element(0));
  for (const char* name : {"score_mod", "prob_mod"}) {
    if (!ctx.node().has(name)) continue;
    const Graph& body = ctx.node().get_graph(name);
    if (body.inputs.size() != 1 || body.outputs.size() != 1) {
      ctx.fail("{} has {} inputs and {} outputs; one of each is allowed", name, body.inputs.size(),
               body.outputs.size());
    }
    const std::vector<ValueType> types = ctx.infer_graph(body, {ValueType::tensor(precision, scores)});
    if (types[0].is_tensor() && types[0].element != ElementType::kUndefined && types[0].element != precision) {
      ctx.fail("{} gives {}, not {}", name, graph::name(types[0].element), graph::name(precision));
    }
  }
  ctx.set_output(0, ctx.element(0), out);
}

// `scores` after a graph of the node; the same if it has none.
Tensor modify(RunContext& ctx, const char* name, Tensor scores) {
  if (!ctx.node().has(name)) return scores;
  const Shape shape = scores.shape();
  const ElementType type = scores.type();
  const std::vector<Value> results = ctx.run_graph(ctx.node().get_graph(name), {Value(std::move(scores))});
  if (results.size() != 1 || results[0].kind != Value::Kind::kTensor) ctx.fail("{} gives no tensor", name);
  const Tensor& made = results[0].tensor;
  if (made.type() != type || !(made.shape() == shape)) {
    ctx.fail("{} gives {}, not {} {}", name, to_string(made), graph::name(type), to_string(shape));
  }
  return made;
}

template <typename From, typename To>
Tensor convert(RunContext& ctx, const Tensor& x) {
  if constexpr (std::is_same_v<From, To>) {
    return x;
  } else {
    Tensor made = ctx.make(type_of<To>(), x.shape());
    const From* from = x.data<From>();
    To* to = made.data<To>();
    for (int64_t i = 0; i < x.count(); ++i) to[i] = static_cast<To>(from[i]);
    return made;
  }
}

// Everything at once, for graphs to see; scores and sums of values in the precision P.
template <typename T, typename P>
void attend_with_graphs(RunContext& ctx, const AttentionArgs<T>& args) {
  const int64_t heads = args.batch * args.num_heads, group = args.num_heads / args.num_kv_heads;
  Tensor products = ctx.make(type_of<T>(), {args.batch, args.num_heads, args.q_len, args.kv_len});
  T* product = products.data<T>();
  ctx.pool().parallel_for(heads, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t batch = i / args.num_heads, head = i % args.num_heads;
      T* to = product + i * args.q_len * args.kv_len;
      multiply_rows(Rows<const T>{args.q.at(batch, head, 0), args.head_size},
                    Rows<const T>{args.k.at(batch, head / group, 0), args.head_size}, Rows<T>{to, args.kv_len},
                    args.q_len, args.head_size, args.kv_len);
      for (int64_t j = 0; j < args.q_len * args.kv_len; ++j) to[j] *= args.scale;
    }
  });
  Tensor weights = modify(ctx, "score_mod", convert<T, P>(ctx, products)).copy();
  products = Tensor();
  P* weight = weights.data<P>();
  ctx.pool().parallel_for(heads * args.q_len, 16, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) softmax_row(weight + row * args.kv_len, args.kv_len, nullptr);
  });
  const Tensor modified = modify(ctx, "prob_mod", std::move(weights));
  const Tensor values = convert<T, P>(ctx, ctx.input(2));
  const P* probabilities = modified.data<P>();
  const P* value = values.data<P>();
  ctx.pool().parallel_for(heads * args.q_len, 16, [&](int64_t begin, int64_t end, int) {
    std::vector<P> sum(static_cast<size_t>(args.v_head_size));
    for (int64_t row = begin; row < end; ++row) {
      const int64_t batch = row / args.q_len / args.num_heads, head = row / args.q_len % args.num_heads;
      const P* from = value + (batch * args.num_kv_heads + head / group) * args.kv_len * args.v_head_size;
      std::fill(sum.begin(), sum.end(), P{0});
      for (int64_t j = 0; j < args.kv_len; ++j) {
        multiply_add(from + j * args.v_head_size, probabilities[row * args.kv_len + j], sum.data(), args.v_head_size);
      }
      T* to = args.out.at(batch, head, row % args.q_len);
      for (int64_t d = 0; d < args.v_head_size; ++d) to[d] = static_cast<T>(sum[static_cast<size_t>(d)]);
    }
  });
}

template <typename T>
void attend(RunContext& ctx) {
  for (int i = 1; i < 3; ++i) {
    if (ctx.input(i).type() != type_of<T>()) ctx.fail_type(i);
  }
  const Tensor &q = ctx.input(0), &k = ctx.input(1), &v = ctx.input(2);
  const bool fits = k.dim(0) == q.dim(0) && v.dim(0) == q.dim(0) && k.dim(1) == v.dim(1) && k.dim(2) == v.dim(2) &&
                    k.dim(3) == q.dim(3) && (k.dim(1) == 0 ? q.dim(1) == 0 : q.dim(1) % k.dim(1) == 0);
  if (!fits) {
    ctx.fail("Q {}, K {} and V {} do not fit together", to_string(q.shape()), to_string(k.shape()),
             to_string(v.shape()));
  }
  Tensor& y = make_output(ctx, 0);
  const double size = static_cast<double>(std::max<int64_t>(q.dim(3), 1));
  AttentionArgs<T> args = {.batch = q.dim(0), .num_heads = q.dim(1), .num_kv_heads = k.dim(1), .q_len = q.dim(2),
                           .kv_len = k.dim(2), .head_size = q.dim(3), .v_head_size = v.dim(3)};
  args.q = view_by_head(q.data<T>(), q.dim(1), q.dim(2), q.dim(3));
  args.k = view_by_head(k.data<T>(), k.dim(1), k.dim(2), k.dim(3));
  args.v = view_by_head(v.data<T>(), v.dim(1), v.dim(2), v.dim(3));
  args.out = view_by_head(y.data<T>(), q.dim(1), q.dim(2), v.dim(3));
  args.scale = static_cast<T>(ctx.node().get_float("scale", static_cast<float>(1 / std::sqrt(size))));
  const bool is_wide = find_precision(ctx.node(), q.type()) == ElementType::kF64;
  if (args.num_heads == 0 || (!ctx.node().has("score_mod") && !ctx.node().has("prob_mod"))) {
    args.softmax_in_double = is_wide;
    run_attention(ctx, args);
  } else if (is_wide) {
    attend_with_graphs<T, double>(ctx, args);
  } else {
    attend_with_graphs<T, float>(ctx, args);
  }
}

void run_flex_attention(RunContext& ctx) {
  refuse_absurd_shapes(ctx);
  if (!dispatch<float, double>(ctx.input(0).type(), [&](auto zero) { attend<decltype(zero)>(ctx); })) ctx.fail_type(0);
}

constexpr OpInfo kOps[] = {
    {"ai.onnx.preview", "FlexAttention", 1, 0, infer_flex_attention, run_flex_attention, OpInfo::kViaFloat},
};

}  // namespace

std::span<const OpInfo> flex_attention_ops() { return kOps; }

}  // namespace sluice::graph::ops
