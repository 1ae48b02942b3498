// com.microsoft's DynamicQuantizeLSTM: an LSTM with 8-bit weights, [directions, input, 4 * hidden], whose inputs and
// states are quantised to 8 bits as they come: the input as a whole, the state at each step. Computed as an LSTM in f32
// over values rounded that way, which is the integer arithmetic up to the rounding of sums.
#include "graph/ops/ops.h"
#include "graph/ops/recurrent.h"
#include "graph/ops/row_products.h"
#include "graph/ops/shape_limits.h"

namespace sluice::graph::ops {
namespace {

constexpr int kWScale = 8, kWZero = 9, kRScale = 10, kRZero = 11;

void infer_quantized_lstm(InferContext& ctx) {
  Dim hidden = Dim::unknown();
  if (const Attribute* attribute = ctx.node().find("hidden_size"); attribute != nullptr) hidden = attribute->i;
  if (ctx.has_rank(2)) {
    if (ctx.rank(2) != 3) ctx.fail("R has {} dimensions, not 3", ctx.rank(2));
    hidden = ctx.dims(2)[1];
  }
  infer_recurrent_outputs(ctx, Cell::kLstm, hidden);
}

// [directions, inputs, outputs] of 8 bits to [directions, outputs, inputs].
Tensor dequantize(RunContext& ctx, int weights_input, int scale_input, int zero_input, const char* what) {
  const Tensor &weights = ctx.input(weights_input), &scales = ctx.input(scale_input), &zeros = ctx.input(zero_input);
  const int64_t directions = weights.dim(0), inputs = weights.dim(1), outputs = weights.dim(2);
  const bool is_whole = scales.count() == directions;
  if (!is_whole && scales.count() != directions * outputs) {
    ctx.fail("the scales of {} are {}; one a direction, or {}x{}, are allowed", what, to_string(scales.shape()),
             directions, outputs);
  }
  if (zeros.count() != scales.count()) {
    ctx.fail("{} has {} zero points for {} scales", what, zeros.count(), scales.count());
  }
  if (scales.type() != ElementType::kF32) ctx.fail_type(scale_input);
  if (zeros.type() != weights.type()) ctx.fail_type(zero_input);
  Tensor straight = ctx.make(ElementType::kF32, weights.shape());
  Tensor turned = ctx.make(ElementType::kF32, {directions, outputs, inputs});
  float *value = straight.data<float>(), *to = turned.data<float>();
  const float* scale = scales.data<float>();
  if (!dispatch<uint8_t, int8_t>(weights.type(), [&](auto byte) {
        const auto* code = weights.data<decltype(byte)>();
        const auto* zero = zeros.data<decltype(byte)>();
        for (int64_t i = 0; i < weights.count(); ++i) {
          const int64_t direction = i / (inputs * outputs);
          const int64_t at = is_whole ? direction : direction * outputs + i % outputs;
          value[i] = static_cast<float>(code[i] - zero[at]) * scale[at];
        }
      })) {
    ctx.fail_type(weights_input);
  }
  for (int64_t d = 0; d < directions; ++d) {
    const int64_t offset = d * inputs * outputs;
    transpose_rows(Rows<const float>{value + offset, outputs}, Rows<float>{to + offset, inputs}, inputs, outputs);
  }
  return turned;
}

void run_quantized_lstm(RunContext& ctx) {
  refuse_absurd_shapes(ctx);
  const Tensor &x = ctx.input(0), &w = ctx.input(1), &r = ctx.input(2);
  RecurrentInputs at;
  at.initial_c = 6;
  at.peepholes = 7;
  for (int i : {0, at.bias, at.initial_h, at.initial_c, at.peepholes}) {
    if (ctx.has_input(i) && ctx.input(i).type() != ElementType::kF32) ctx.fail_type(i);
  }
  RecurrentPlan plan = make_recurrent_plan(ctx, Cell::kLstm, at, r.rank() == 3 ? r.dim(1) : 0);
  plan.rounds_state = true;
  const int64_t gates = 4 * plan.hidden_size;
  if (!(w.shape() == Shape{plan.num_directions, plan.input_size, gates})) {
    ctx.fail("W is {}; it has to be {}x{}x{}", to_string(w.shape()), plan.num_directions, plan.input_size, gates);
  }
  if (!(r.shape() == Shape{plan.num_directions, plan.hidden_size, gates})) {
    ctx.fail("R is {}; it has to be {}x{}x{}", to_string(r.shape()), plan.num_directions, plan.hidden_size, gates);
  }
  const Tensor w_values = dequantize(ctx, 1, kWScale, kWZero, "W"), r_values = dequantize(ctx, 2, kRScale, kRZero, "R");
  Tensor rounded = ctx.make(ElementType::kF32, x.shape());
  round_to_8_bits(x.data<float>(), rounded.data<float>(), x.count());
  run_recurrent(ctx, plan, rounded.data<float>(), w_values.data<float>(), r_values.data<float>());
}

constexpr OpInfo kOps[] = {
    {kMicrosoft, "DynamicQuantizeLSTM", 1, 0, infer_quantized_lstm, run_quantized_lstm},
};

}  // namespace

std::span<const OpInfo> quantized_lstm_ops() { return kOps; }

}  // namespace sluice::graph::ops
