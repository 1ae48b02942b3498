// RNN, GRU and LSTM of ONNX, all versions: attributes and shapes; the layer itself is in recurrent_layer.cc. Parameters
// of activations are handed out in order to those functions of the list that take one, as ONNX Runtime does; where the
// list is exhausted the function's own default holds. Clipping bounds everything that goes into an activation, the cell
// state on its way to the last one included (the state itself stays as it is). Old versions differ in what they leave
// out only (layout from 14, linear_before_reset from 3).
#include "graph/ops/recurrent.h"

#include <algorithm>

#include "graph/ops/ops.h"
#include "graph/ops/shape_limits.h"
#include "graph/ops/shape_math.h"

namespace sluice::graph::ops {
namespace {

struct ActivationName {
  const char* name;
  Activation::Kind kind;
  bool has_alpha, has_beta;
  float alpha, beta;  // by default
};
constexpr ActivationName kActivations[] = {
    {"relu", Activation::Kind::kRelu, false, false, 0, 0},
    {"tanh", Activation::Kind::kTanh, false, false, 0, 0},
    {"sigmoid", Activation::Kind::kSigmoid, false, false, 0, 0},
    {"affine", Activation::Kind::kAffine, true, true, 1, 0},
    {"leakyrelu", Activation::Kind::kLeakyRelu, true, false, 0.01f, 0},
    {"thresholdedrelu", Activation::Kind::kThresholdedRelu, true, false, 1, 0},
    {"scaledtanh", Activation::Kind::kScaledTanh, true, true, 1, 1},
    {"hardsigmoid", Activation::Kind::kHardSigmoid, true, true, 0.2f, 0.5f},
    {"elu", Activation::Kind::kElu, true, false, 1, 0},
    {"softsign", Activation::Kind::kSoftsign, false, false, 0, 0},
    {"softplus", Activation::Kind::kSoftplus, false, false, 0, 0},
};

std::vector<Activation> read_activations(const RunContext& ctx, Cell cell, int num_directions) {
  std::vector<std::string> names = ctx.node().get_strings("activations");
  const size_t wanted = static_cast<size_t>(num_activations(cell) * num_directions);
  if (names.empty()) {
    for (int i = 0; i < num_directions; ++i) {
      if (cell != Cell::kRnn) names.push_back("sigmoid");
      for (int k = cell == Cell::kRnn ? 0 : 1; k < num_activations(cell); ++k) names.push_back("tanh");
    }
  }
  if (names.size() != wanted) ctx.fail("{} activations are given; {} are needed", names.size(), wanted);
  const std::vector<float> alphas = ctx.node().get_floats("activation_alpha"),
                           betas = ctx.node().get_floats("activation_beta");
  size_t next_alpha = 0, next_beta = 0;
  std::vector<Activation> activations;
  for (const std::string& given : names) {
    std::string lower = given;
    for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    const auto* found = std::find_if(std::begin(kActivations), std::end(kActivations),
                                     [&](const ActivationName& a) { return lower == a.name; });
    if (found == std::end(kActivations)) {
      ctx.fail("activation '{}' is not known; Relu, Tanh, Sigmoid, Affine, LeakyRelu, ThresholdedRelu, ScaledTanh, "
               "HardSigmoid, Elu, Softsign and Softplus are", given);
    }
    Activation activation = {found->kind, found->alpha, found->beta};
    if (found->has_alpha && next_alpha < alphas.size()) activation.alpha = alphas[next_alpha++];
    if (found->has_beta && next_beta < betas.size()) activation.beta = betas[next_beta++];
    activations.push_back(activation);
  }
  return activations;
}

int find_num_directions(const Node& node) {
  return node.get_string("direction", "forward") == "bidirectional" ? 2 : 1;
}

template <Cell kCell>
void infer(InferContext& ctx) {
  Dim hidden = Dim::unknown();
  if (const Attribute* attribute = ctx.node().find("hidden_size"); attribute != nullptr) hidden = attribute->i;
  if (ctx.has_rank(2)) {
    if (ctx.rank(2) != 3) ctx.fail("R has {} dimensions, not 3", ctx.rank(2));
    hidden = ctx.dims(2)[2];
  }
  infer_recurrent_outputs(ctx, kCell, hidden);
}

template <Cell kCell>
void run(RunContext& ctx) {
  refuse_absurd_shapes(ctx);
  RecurrentInputs at;
  if (kCell == Cell::kLstm) {
    at.initial_c = 6;
    at.peepholes = 7;
  }
  const Tensor &x = ctx.input(0), &w = ctx.input(1), &r = ctx.input(2);
  const RecurrentPlan plan = make_recurrent_plan(ctx, kCell, at, r.rank() == 3 ? r.dim(2) : 0);
  const int64_t gates = num_gates(kCell) * plan.hidden_size;
  for (int i = 0; i < ctx.num_inputs(); ++i) {
    if (ctx.has_input(i) && i != at.lengths && ctx.input(i).type() != x.type()) ctx.fail_type(i);
  }
  if (!(w.shape() == Shape{plan.num_directions, gates, plan.input_size})) {
    ctx.fail("W is {}; it has to be {}x{}x{}", to_string(w.shape()), plan.num_directions, gates, plan.input_size);
  }
  if (!(r.shape() == Shape{plan.num_directions, gates, plan.hidden_size})) {
    ctx.fail("R is {}; it has to be {}x{}x{}", to_string(r.shape()), plan.num_directions, gates, plan.hidden_size);
  }
  if (!dispatch<float, double>(x.type(), [&](auto zero) {
        using T = decltype(zero);
        run_recurrent(ctx, plan, x.data<T>(), w.data<T>(), r.data<T>());
      })) {
    ctx.fail_type(0);
  }
}

constexpr OpInfo kOps[] = {
    {"", "RNN", 1, 0, infer<Cell::kRnn>, run<Cell::kRnn>, OpInfo::kViaFloat},
    {"", "GRU", 1, 0, infer<Cell::kGru>, run<Cell::kGru>, OpInfo::kViaFloat},
    {"", "LSTM", 1, 0, infer<Cell::kLstm>, run<Cell::kLstm>, OpInfo::kViaFloat},
};

}  // namespace

void infer_recurrent_outputs(InferContext& ctx, Cell cell, const Dim& hidden) {
  for (int i = 0; i < 3; ++i) ctx.set_output(i, ctx.element(0));
  if (!ctx.has_rank(0)) return;
  if (ctx.rank(0) != 3) ctx.fail("X has {} dimensions, not 3", ctx.rank(0));
  const bool is_batch_first = ctx.node().get_int("layout", 0) != 0;
  const Dim steps = ctx.dims(0)[is_batch_first ? 1 : 0], batch = ctx.dims(0)[is_batch_first ? 0 : 1];
  const int64_t directions = find_num_directions(ctx.node());
  if (is_batch_first) ctx.set_output(0, ctx.element(0), {batch, steps, directions, hidden});
  else ctx.set_output(0, ctx.element(0), {steps, directions, batch, hidden});
  for (int i = 1; i < (cell == Cell::kLstm ? 3 : 2); ++i) {
    if (is_batch_first) ctx.set_output(i, ctx.element(0), {batch, directions, hidden});
    else ctx.set_output(i, ctx.element(0), {directions, batch, hidden});
  }
}

RecurrentPlan make_recurrent_plan(const RunContext& ctx, Cell cell, const RecurrentInputs& at, int64_t hidden_size) {
  const Node& node = ctx.node();
  const std::string direction = node.get_string("direction", "forward");
  if (direction != "forward" && direction != "reverse" && direction != "bidirectional") {
    ctx.fail("direction is '{}'; forward, reverse and bidirectional are allowed", direction);
  }
  const int64_t layout = node.get_int("layout", 0);
  if (layout != 0 && layout != 1) ctx.fail("layout is {}; 0 and 1 are allowed", layout);
  if (const int64_t said = node.get_int("hidden_size", hidden_size); said != hidden_size) {
    ctx.fail("hidden_size is {}, but R is for {}", said, hidden_size);
  }
  const Tensor& x = ctx.input(at.x);
  RecurrentPlan plan = {.cell = cell,
                        .at = at,
                        .steps = x.dim(layout == 1 ? 1 : 0),
                        .batch = x.dim(layout == 1 ? 0 : 1),
                        .input_size = x.dim(2),
                        .hidden_size = hidden_size,
                        .num_directions = find_num_directions(node),
                        .is_reverse = direction == "reverse",
                        .is_batch_first = layout == 1};
  if (plan.input_size == 0 && x.dim(0) > 0 && x.dim(1) > 0)
    ctx.fail("X is {}: its steps have no elements", to_string(x.shape()));
  plan.activations = read_activations(ctx, cell, plan.num_directions);
  plan.clip = node.get_float("clip", 0.0f);
  if (!(plan.clip >= 0)) ctx.fail("clip is {}; it has to be above 0", plan.clip);
  plan.resets_after_product = cell == Cell::kGru && node.get_int("linear_before_reset", 0) != 0;
  plan.couples_forget = cell == Cell::kLstm && node.get_int("input_forget", 0) != 0;

  const int64_t directions = plan.num_directions;
  auto require = [&](int i, const char* what, const Shape& shape) {
    if (i >= 0 && ctx.has_input(i) && !(ctx.input(i).shape() == shape)) {
      ctx.fail("{} is {}; it has to be {}", what, to_string(ctx.input(i).shape()), to_string(shape));
    }
  };
  const Shape state = plan.is_batch_first ? Shape{plan.batch, directions, hidden_size}
                                          : Shape{directions, plan.batch, hidden_size};
  require(at.bias, "B", {directions, 2 * num_gates(cell) * hidden_size});
  require(at.lengths, "sequence_lens", {plan.batch});
  require(at.initial_h, "initial_h", state);
  require(at.initial_c, "initial_c", state);
  require(at.peepholes, "P", {directions, 3 * hidden_size});
  if (ctx.has_input(at.lengths)) {
    for (const int64_t length : to_ints(ctx.input(at.lengths))) {
      if (length < 0 || length > plan.steps) ctx.fail("sequence_lens has {}; 0 to {} are allowed", length, plan.steps);
    }
  }
  return plan;
}

std::span<const OpInfo> recurrent_ops() { return kOps; }

}  // namespace sluice::graph::ops
