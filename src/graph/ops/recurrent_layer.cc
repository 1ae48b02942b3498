#include "graph/ops/recurrent.h"

#include <algorithm>
#include <cmath>

#include "graph/ops/row_products.h"
#include "graph/ops/shape_math.h"
#include "graph/ops/vector_math.h"

namespace sluice::graph::ops {
namespace {

float sigmoid(float x) { return fast_sigmoid(x); }
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
float tanh_of(float x) { return fast_tanh(x); }
double tanh_of(double x) { return std::tanh(x); }

template <typename T>
void activate(const Activation& activation, T* x, int64_t count) {
  const T alpha = static_cast<T>(activation.alpha), beta = static_cast<T>(activation.beta);
  auto each = [&](auto function) {
    for (int64_t i = 0; i < count; ++i) x[i] = function(x[i]);
  };
  switch (activation.kind) {
    case Activation::Kind::kRelu: return each([](T v) { return v < 0 ? T{0} : v; });
    case Activation::Kind::kTanh: return each([](T v) { return tanh_of(v); });
    case Activation::Kind::kSigmoid: return each([](T v) { return sigmoid(v); });
    case Activation::Kind::kAffine: return each([=](T v) { return alpha * v + beta; });
    case Activation::Kind::kLeakyRelu: return each([=](T v) { return v < 0 ? alpha * v : v; });
    case Activation::Kind::kThresholdedRelu: return each([=](T v) { return v < alpha ? T{0} : v; });
    case Activation::Kind::kScaledTanh: return each([=](T v) { return alpha * tanh_of(beta * v); });
    case Activation::Kind::kHardSigmoid:
      return each([=](T v) { return std::min(std::max(alpha * v + beta, T{0}), T{1}); });
    case Activation::Kind::kElu: return each([=](T v) { return v < 0 ? alpha * std::expm1(v) : v; });
    case Activation::Kind::kSoftsign: return each([](T v) { return v / (1 + std::abs(v)); });
    case Activation::Kind::kSoftplus:
      return each([](T v) { return std::max(v, T{0}) + std::log1p(std::exp(-std::abs(v))); });
  }
}

template <typename T>
void clip(T* x, int64_t count, float limit) {
  if (limit == 0) return;
  const T high = static_cast<T>(limit);
  for (int64_t i = 0; i < count; ++i) x[i] = x[i] < -high ? -high : x[i] > high ? high : x[i];
}

// One direction of a layer; what it reads and writes.
template <typename T>
class Direction {
 public:
  Direction(RunContext& ctx, const RecurrentPlan& plan, int index, const T* x, const T* w, const T* r)
      : ctx_(ctx),
        plan_(plan),
        index_(index),
        hidden_(plan.hidden_size),
        gates_(num_gates(plan.cell) * plan.hidden_size),
        is_reverse_(plan.is_reverse || index == 1),
        x_(x),
        w_(w + index * gates_ * plan.input_size),
        r_(r + index * gates_ * hidden_),
        activations_(plan.activations.data() + index * num_activations(plan.cell)) {
    h_ = read_state(plan.at.initial_h);
    if (plan.cell == Cell::kLstm) c_ = read_state(plan.at.initial_c);
    lengths_.assign(static_cast<size_t>(plan.batch), plan.steps);
    if (ctx.has_input(plan.at.lengths)) lengths_ = to_ints(ctx.input(plan.at.lengths));
    bias_ = ctx.make(type_of<T>(), {2, gates_});
    if (ctx.has_input(plan.at.bias)) {
      std::copy_n(ctx.data<T>(plan.at.bias) + index * 2 * gates_, 2 * gates_, bias_.template data<T>());
    } else {
      std::fill_n(bias_.template data<T>(), 2 * gates_, T{0});
    }
    if (plan.at.peepholes >= 0 && ctx.has_input(plan.at.peepholes)) {
      peepholes_ = ctx.data<T>(plan.at.peepholes) + index * 3 * hidden_;
    }
    y_ = ctx.has_output(0) ? ctx.output(0).template data<T>() : nullptr;
  }

  void run() {
    const int64_t batch = plan_.batch;
    if (batch > 0 && hidden_ > 0) {
      const int64_t in_memory = (1 << 20) / std::max<int64_t>(1, batch * (gates_ + plan_.input_size));
      const int64_t stretch = std::clamp<int64_t>(in_memory, 1, std::max<int64_t>(plan_.steps, 1));
      gathered_ = ctx_.make(type_of<T>(), {stretch * batch, plan_.input_size});
      from_input_ = ctx_.make(type_of<T>(), {stretch * batch, gates_});
      from_state_ = ctx_.make(type_of<T>(), {batch, gates_});
      spare_ = ctx_.make(type_of<T>(), {batch, hidden_});
      for (int64_t step = 0; step < plan_.steps; step += stretch) {
        const int64_t end = std::min(step + stretch, plan_.steps);
        multiply_inputs(step, end);
        for (int64_t s = step; s < end; ++s) advance(s, from_input_.template data<T>() + (s - step) * batch * gates_);
      }
    }
    if (ctx_.has_output(1)) write_state(h_, 1);
    if (plan_.cell == Cell::kLstm && ctx_.has_output(2)) write_state(c_, 2);
  }

 private:
  // Where the state of a sequence lies in an input or output [directions, batch, hidden] or [batch, directions,
  // hidden].
  int64_t state_offset(int64_t b) const {
    return (plan_.is_batch_first ? b * plan_.num_directions + index_ : index_ * plan_.batch + b) * hidden_;
  }
  Tensor read_state(int input) {
    Tensor state = ctx_.make(type_of<T>(), {plan_.batch, hidden_});
    T* to = state.data<T>();
    const T* from = ctx_.has_input(input) ? ctx_.data<T>(input) : nullptr;
    for (int64_t b = 0; b < plan_.batch; ++b, to += hidden_) {
      if (from != nullptr) std::copy_n(from + state_offset(b), hidden_, to);
      else std::fill_n(to, hidden_, T{0});
    }
    return state;
  }
  void write_state(const Tensor& state, int output) {
    T* to = ctx_.output(output).template data<T>();
    for (int64_t b = 0; b < plan_.batch; ++b) {
      std::copy_n(state.data<T>() + b * hidden_, hidden_, to + state_offset(b));
    }
  }
  // The time of a sequence's s-th step. REQUIRES: is_running(s, b).
  int64_t time_of(int64_t s, int64_t b) const { return is_reverse_ ? lengths_[static_cast<size_t>(b)] - 1 - s : s; }
  bool is_running(int64_t s, int64_t b) const { return s < lengths_[static_cast<size_t>(b)]; }

  // Inputs of steps [begin, end) times W, and the biases that no gate multiplies.
  void multiply_inputs(int64_t begin, int64_t end) {
    const int64_t batch = plan_.batch, size = plan_.input_size;
    T* to = gathered_.template data<T>();
    for (int64_t s = begin; s < end; ++s) {
      for (int64_t b = 0; b < batch; ++b, to += size) {
        if (!is_running(s, b)) {
          std::fill_n(to, size, T{0});
          continue;
        }
        const int64_t time = time_of(s, b);
        std::copy_n(x_ + (plan_.is_batch_first ? b * plan_.steps + time : time * batch + b) * size, size, to);
      }
    }
    const int64_t rows = (end - begin) * batch;
    T* products = from_input_.template data<T>();
    multiply_rows<T>(ctx_.pool(), {gathered_.template data<T>(), size}, {w_, size}, {products, gates_}, rows, size,
                     gates_);
    const T* bias = bias_.template data<T>();
    // A GRU that resets after the product keeps the hidden gate's recurrent bias for then.
    const int64_t added_here = plan_.resets_after_product ? 2 * hidden_ : gates_;
    for (int64_t row = 0; row < rows; ++row, products += gates_) {
      for (int64_t i = 0; i < gates_; ++i) products[i] += bias[i];
      for (int64_t i = 0; i < added_here; ++i) products[i] += bias[gates_ + i];
    }
  }

  // state * R, of gates [first, first + count) * hidden.
  void multiply_state(const T* state, int64_t first, int64_t count) {
    multiply_rows<T>(ctx_.pool(), {state, hidden_}, {r_ + first * hidden_ * hidden_, hidden_},
                     {from_state_.template data<T>() + first * hidden_, gates_}, plan_.batch, hidden_, count * hidden_);
  }

  template <typename Body>
  void for_each_sequence(int64_t s, Body&& body) {
    ctx_.pool().parallel_for(plan_.batch, std::max<int64_t>(1, 16384 / gates_), [&](int64_t begin, int64_t end, int) {
      for (int64_t b = begin; b < end; ++b) {
        if (is_running(s, b)) body(b);
      }
    });
  }

  // One step of all sequences. `gates` are the products with the input, [batch, gates], and become the gates.
  void advance(int64_t s, T* gates) {
    const T* state = h_.template data<T>();
    if constexpr (std::is_same_v<T, float>) {
      if (plan_.rounds_state) {
        round_to_8_bits(state, spare_.template data<float>(), plan_.batch * hidden_);
        state = spare_.template data<float>();
      }
    }
    const bool resets_before = plan_.cell == Cell::kGru && !plan_.resets_after_product;
    multiply_state(state, 0, resets_before ? 2 : gates_ / hidden_);
    switch (plan_.cell) {
      case Cell::kRnn: for_each_sequence(s, [&](int64_t b) { advance_rnn(b, gates + b * gates_); }); break;
      case Cell::kLstm: for_each_sequence(s, [&](int64_t b) { advance_lstm(b, gates + b * gates_); }); break;
      case Cell::kGru:
        for_each_sequence(s, [&](int64_t b) { open_gru(b, gates + b * gates_); });
        if (resets_before) multiply_state(spare_.template data<T>(), 2, 1);
        for_each_sequence(s, [&](int64_t b) { close_gru(b, gates + b * gates_); });
        break;
    }
    if (y_ == nullptr) return;
    for (int64_t b = 0; b < plan_.batch; ++b) {
      const bool running = is_running(s, b);
      const int64_t time = running ? time_of(s, b) : s, directions = plan_.num_directions;
      const int64_t place = plan_.is_batch_first ? (b * plan_.steps + time) * directions + index_
                                                 : (time * directions + index_) * plan_.batch + b;
      if (running) std::copy_n(h_.template data<T>() + b * hidden_, hidden_, y_ + place * hidden_);
      else std::fill_n(y_ + place * hidden_, hidden_, T{0});
    }
  }

  void gate(T* x, const Activation& activation) const {
    clip(x, hidden_, plan_.clip);
    activate(activation, x, hidden_);
  }
  void add(const T* x, T* sum, int64_t count) const {
    for (int64_t i = 0; i < count; ++i) sum[i] += x[i];
  }
  void add_product(const T* a, const T* b, T* sum) const {
    for (int64_t i = 0; i < hidden_; ++i) sum[i] += a[i] * b[i];
  }

  void advance_rnn(int64_t b, T* gates) {
    add(from_state_.template data<T>() + b * gates_, gates, hidden_);
    gate(gates, activations_[0]);
    std::copy_n(gates, hidden_, h_.template data<T>() + b * hidden_);
  }

  // Gates in the order input, output, forget, cell.
  void advance_lstm(int64_t b, T* gates) {
    add(from_state_.template data<T>() + b * gates_, gates, gates_);
    T *in = gates, *out = in + hidden_, *forget = out + hidden_, *cell = forget + hidden_;
    T* c = c_.template data<T>() + b * hidden_;
    T* h = h_.template data<T>() + b * hidden_;
    if (peepholes_ != nullptr) add_product(peepholes_, c, in);
    gate(in, activations_[0]);
    if (plan_.couples_forget) {
      for (int64_t i = 0; i < hidden_; ++i) forget[i] = 1 - in[i];
    } else {
      if (peepholes_ != nullptr) add_product(peepholes_ + 2 * hidden_, c, forget);
      gate(forget, activations_[0]);
    }
    gate(cell, activations_[1]);
    for (int64_t i = 0; i < hidden_; ++i) c[i] = forget[i] * c[i] + in[i] * cell[i];
    if (peepholes_ != nullptr) add_product(peepholes_ + hidden_, c, out);
    gate(out, activations_[0]);
    std::copy_n(c, hidden_, cell);
    gate(cell, activations_[2]);
    for (int64_t i = 0; i < hidden_; ++i) h[i] = out[i] * cell[i];
  }

  // Gates in the order update, reset, hidden: the first two, and what the third multiplies.
  void open_gru(int64_t b, T* gates) {
    add(from_state_.template data<T>() + b * gates_, gates, 2 * hidden_);
    gate(gates, activations_[0]);
    gate(gates + hidden_, activations_[0]);
    const T* h = h_.template data<T>() + b * hidden_;
    T* reset = spare_.template data<T>() + b * hidden_;
    for (int64_t i = 0; i < hidden_; ++i) reset[i] = gates[hidden_ + i] * h[i];
  }
  void close_gru(int64_t b, T* gates) {
    const T *update = gates, *reset = gates + hidden_;
    T* candidate = gates + 2 * hidden_;
    const T* product = from_state_.template data<T>() + b * gates_ + 2 * hidden_;
    if (plan_.resets_after_product) {
      const T* bias = bias_.template data<T>() + gates_ + 2 * hidden_;
      for (int64_t i = 0; i < hidden_; ++i) candidate[i] += reset[i] * (product[i] + bias[i]);
    } else {
      add(product, candidate, hidden_);
    }
    gate(candidate, activations_[1]);
    T* h = h_.template data<T>() + b * hidden_;
    for (int64_t i = 0; i < hidden_; ++i) h[i] = (1 - update[i]) * candidate[i] + update[i] * h[i];
  }

  RunContext& ctx_;
  const RecurrentPlan& plan_;
  const int index_;
  const int64_t hidden_, gates_;  // gates_: of one sequence, times hidden
  const bool is_reverse_;
  const T *x_, *w_, *r_;
  const T* peepholes_ = nullptr;  // [3, hidden]: input, output, forget
  const Activation* activations_;
  T* y_ = nullptr;
  Tensor h_, c_;                  // [batch, hidden]
  Tensor bias_;                   // [2, gates]: of W, of R
  std::vector<int64_t> lengths_;  // [batch]
  Tensor gathered_, from_input_, from_state_, spare_;
};

template <typename T>
void run_directions(RunContext& ctx, const RecurrentPlan& plan, const T* x, const T* w, const T* r) {
  for (int i = 0; i < ctx.num_outputs(); ++i) {
    if (ctx.has_output(i)) make_output(ctx, i);
  }
  for (int i = 0; i < plan.num_directions; ++i) Direction<T>(ctx, plan, i, x, w, r).run();
}

}  // namespace

int num_gates(Cell cell) { return cell == Cell::kRnn ? 1 : cell == Cell::kGru ? 3 : 4; }
int num_activations(Cell cell) { return cell == Cell::kRnn ? 1 : cell == Cell::kGru ? 2 : 3; }

void run_recurrent(RunContext& context, const RecurrentPlan& plan, const float* x, const float* w, const float* r) {
  run_directions(context, plan, x, w, r);
}
void run_recurrent(RunContext& context, const RecurrentPlan& plan, const double* x, const double* w, const double* r) {
  run_directions(context, plan, x, w, r);
}

void round_to_8_bits(const float* from, float* to, int64_t count) {
  float lowest = 0, highest = 0;
  for (int64_t i = 0; i < count; ++i) {
    lowest = std::min(lowest, from[i]);
    highest = std::max(highest, from[i]);
  }
  const float scale = lowest == highest ? 1.0f : (highest - lowest) / 255.0f;
  const float zero = std::nearbyint(std::clamp(-lowest / scale, 0.0f, 255.0f));
  for (int64_t i = 0; i < count; ++i) {
    const float code = round_even(from[i] / scale) + zero;
    to[i] = (std::min(std::max(code, 0.0f), 255.0f) - zero) * scale;
  }
}

}  // namespace sluice::graph::ops
