// LinearAttention (ONNX opset 27, and com.microsoft's of the same name): a matrix per head is the memory, [d_k, d_v],
// decayed, corrected and read token by token. The four update rules differ in whether the memory decays ("gated...")
// and whether what it already says of a key is subtracted from the value first ("...delta"). Decay is in log space, one
// per head or one per element of a key; beta one per head or one for all. State and sums are f32 (f64 for f64).
// chunk_size is a hint for other machines and changes no result; com.microsoft's windows of states are refused.
#include <algorithm>
#include <cmath>

#include "graph/ops/ops.h"
#include "graph/ops/row_products.h"
#include "graph/ops/shape_limits.h"
#include "graph/ops/shape_math.h"

namespace sluice::graph::ops {
namespace {

enum Input { kQuery, kKey, kValue, kPastState, kDecay, kBeta };

struct Rule {
  bool decays, corrects;
};

Rule get_rule(const InferContext& ctx) {
  const std::string rule = ctx.node().get_string("update_rule", "gated_delta");
  if (rule == "linear") return {false, false};
  if (rule == "gated") return {true, false};
  if (rule == "delta") return {false, true};
  if (rule == "gated_delta") return {true, true};
  ctx.fail("update_rule is '{}'; linear, gated, delta and gated_delta are allowed", rule);
}

void infer_linear_attention(InferContext& ctx) {
  const Rule rule = get_rule(ctx);
  if (rule.decays && !ctx.has_input(kDecay)) ctx.fail("this update_rule needs the input decay");
  if (rule.corrects && !ctx.has_input(kBeta)) ctx.fail("this update_rule needs the input beta");
  if (ctx.node().get_int("state_window", 0) != 0) ctx.fail("a state_window other than 0 is not supported");
  const int64_t q_heads = ctx.node().get_int("q_num_heads", 0), kv_heads = ctx.node().get_int("kv_num_heads", 0);
  if (q_heads <= 0 || kv_heads <= 0 || q_heads > kMaxHeads || q_heads % kv_heads != 0) {
    ctx.fail(
        "{} query heads over {} key heads: both have to be above 0, the first at most 2^20 and a multiple of the "
        "second",
        q_heads, kv_heads);
  }
  ctx.set_output(0, ctx.element(kQuery));
  const ElementType state = ctx.has_input(kPastState) ? ctx.element(kPastState) : ctx.element(kQuery);
  ctx.set_output(1, state);
  for (int i : {static_cast<int>(kQuery), static_cast<int>(kKey), static_cast<int>(kValue)}) {
    if (ctx.has_rank(i) && ctx.rank(i) != 3) ctx.fail("input {} has {} dimensions, not 3", i + 1, ctx.rank(i));
  }
  if (!ctx.has_rank(kQuery) || !ctx.has_rank(kValue)) return;
  const Dims &q = ctx.dims(kQuery), &v = ctx.dims(kValue);
  if ((q[2].is_known() && q[2].value() % q_heads != 0) || (v[2].is_known() && v[2].value() % kv_heads != 0)) {
    ctx.fail("the sizes of query ({}) and value ({}) have to be multiples of their heads", q[2].to_string(),
             v[2].to_string());
  }
  const Dim d_k = floor_divide(q[2], q_heads), d_v = floor_divide(v[2], kv_heads);
  ctx.set_output(0, ctx.element(kQuery), {q[0], q[1], d_v * q_heads});
  ctx.set_output(1, state, {q[0], kv_heads, d_k, d_v});
}

template <typename T>
void attend(RunContext& ctx) {
  const Node& node = ctx.node();
  const std::string rule = node.get_string("update_rule", "gated_delta");
  const bool decays = rule.starts_with("gated"), corrects = rule.ends_with("delta");
  const int64_t q_heads = node.get_int("q_num_heads", 0), kv_heads = node.get_int("kv_num_heads", 0);
  const Tensor &query = ctx.input(kQuery), &key = ctx.input(kKey), &value = ctx.input(kValue);
  const int64_t batch = query.dim(0), steps = query.dim(1), d_k = query.dim(2) / q_heads, d_v = value.dim(2) / kv_heads;
  for (int i = 0; i < ctx.num_inputs(); ++i) {
    if (ctx.has_input(i) && ctx.input(i).type() != type_of<T>()) ctx.fail_type(i);
  }
  auto require = [&](const Tensor& x, const char* what, const Shape& shape) {
    if (!(x.shape() == shape)) ctx.fail("{} is {}; it has to be {}", what, to_string(x.shape()), to_string(shape));
  };
  require(key, "key", {batch, steps, kv_heads * d_k});
  require(value, "value", {batch, steps, kv_heads * d_v});
  int64_t num_decays = 0, num_betas = 0;  // of a token
  if (decays) {
    const Tensor& decay = ctx.input(kDecay);
    num_decays = decay.rank() == 3 ? decay.dim(2) : 0;
    require(decay, "decay", {batch, steps, num_decays == kv_heads ? kv_heads : kv_heads * d_k});
  }
  if (corrects) {
    const Tensor& beta = ctx.input(kBeta);
    num_betas = beta.rank() == 3 ? beta.dim(2) : 0;
    require(beta, "beta", {batch, steps, num_betas == 1 ? 1 : kv_heads});
  }
  Tensor state = ctx.has_output(1) ? make_output(ctx, 1) : ctx.make(type_of<T>(), {batch, kv_heads, d_k, d_v});
  require(state, "present_state", {batch, kv_heads, d_k, d_v});
  T* const states = state.data<T>();
  if (ctx.has_input(kPastState)) {
    require(ctx.input(kPastState), "past_state", state.shape());
    std::copy_n(ctx.data<T>(kPastState), state.count(), states);
  } else {
    std::fill_n(states, state.count(), T{0});
  }
  T scale = static_cast<T>(node.get_float("scale", 0.0f));
  if (scale == 0) scale = static_cast<T>(1 / std::sqrt(static_cast<double>(std::max<int64_t>(d_k, 1))));

  T* const out = make_output(ctx, 0).template data<T>();
  const T *queries = query.data<T>(), *keys = key.data<T>(), *values = value.data<T>();
  const T* log_decays = decays ? ctx.data<T>(kDecay) : nullptr;
  const T* betas = corrects ? ctx.data<T>(kBeta) : nullptr;
  if (d_v == 0 || steps == 0) return;
  ctx.pool().parallel_for(batch * kv_heads, 1, [&](int64_t begin, int64_t end, int) {
    std::vector<T> write(static_cast<size_t>(d_v));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t head = i % kv_heads;
      T* memory = states + i * d_k * d_v;
      for (int64_t step = 0; step < steps; ++step) {
        const int64_t token = i / kv_heads * steps + step;
        const T* k = keys + (token * kv_heads + head) * d_k;
        const T* v = values + (token * kv_heads + head) * d_v;
        if (decays) {
          const T* decay = log_decays + token * num_decays;
          for (int64_t row = 0; row < d_k; ++row) {
            const T factor = std::exp(num_decays == kv_heads ? decay[head] : decay[head * d_k + row]);
            for (int64_t d = 0; d < d_v; ++d) memory[row * d_v + d] *= factor;
          }
        }
        std::copy_n(v, d_v, write.begin());
        if (corrects) {
          for (int64_t row = 0; row < d_k; ++row) multiply_add(memory + row * d_v, -k[row], write.data(), d_v);
          const T beta = betas[token * num_betas + (num_betas == 1 ? 0 : head)];
          for (T& x : write) x *= beta;
        }
        for (int64_t row = 0; row < d_k; ++row) multiply_add(write.data(), k[row], memory + row * d_v, d_v);
        const int64_t group = q_heads / kv_heads;
        for (int64_t q_head = head * group; q_head < (head + 1) * group; ++q_head) {
          const T* q = queries + (token * q_heads + q_head) * d_k;
          T* sum = out + (token * q_heads + q_head) * d_v;
          std::fill_n(sum, d_v, T{0});
          for (int64_t row = 0; row < d_k; ++row) multiply_add(memory + row * d_v, scale * q[row], sum, d_v);
        }
      }
    }
  });
}

void run_linear_attention(RunContext& ctx) {
  refuse_absurd_shapes(ctx);
  if (!dispatch<float, double>(ctx.input(kQuery).type(), [&](auto zero) { attend<decltype(zero)>(ctx); })) {
    ctx.fail_type(kQuery);
  }
}

constexpr OpInfo kOps[] = {
    {"", "LinearAttention", 27, 0, infer_linear_attention, run_linear_attention, OpInfo::kViaFloat},
    {kMicrosoft, "LinearAttention", 1, 0, infer_linear_attention, run_linear_attention, OpInfo::kViaFloat},
};

}  // namespace

std::span<const OpInfo> linear_attention_ops() { return kOps; }

}  // namespace sluice::graph::ops
