// Activation functions (ONNX operator specification, opsets 1 to 28) and ONNX Runtime's forms of Gelu.
//
// A function takes its numbers from attributes once a call and is then applied in one loop; exponentials of float come
// from vector_math.h, so the loops are vector code, and the Gelus of float are the kernels of this machine. f16 and
// bf16 go through float. Clip knows attributes (before opset 11) and inputs, and min > max, which gives max. BiasGelu
// and FastGelu add a bias along the last dimension first.
#include <cmath>
#include <limits>
#include <type_traits>

#include "graph/ops/elementwise.h"
#include "graph/ops/ops.h"
#include "graph/ops/vector_math.h"
#include "kernels/kernels.h"

namespace sluice::graph::ops {
namespace {

double fast_exp(double x) { return std::exp(x); }
double fast_expm1(double x) { return std::expm1(x); }
double fast_log1p(double x) { return std::log1p(x); }
double fast_tanh(double x) { return std::tanh(x); }
double fast_erf(double x) { return std::erf(x); }
double fast_sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double magnitude(double x) { return std::fabs(x); }
using ops::fast_exp, ops::fast_expm1, ops::fast_log1p, ops::fast_tanh, ops::fast_erf, ops::fast_sigmoid,
    ops::magnitude;

template <typename T>
T softplus(T x) { return (x > T(0) ? x : T(0)) + (x != x ? x : fast_log1p(fast_exp(-magnitude(x)))); }

template <typename T>
T gelu_erf(T x) { return T(0.5) * x * (T(1) + fast_erf(x * T(0.70710678118654752))); }
template <typename T>
T gelu_tanh(T x) { return T(0.5) * x * (T(1) + fast_tanh(T(0.79788456080286536) * (x + T(0.044715) * x * x * x))); }

void infer_floats(InferContext& ctx) {
  check_element(ctx, 0, is_wide_float, "floating point numbers");
  infer_same(ctx);
}

// output 0 = f(input 0), f generic.
template <typename F>
void map_floats(RunContext& ctx, F f) {
  const Tensor& x = ctx.input(0);
  const bool known = dispatch<float, double>(x.type(), [&](auto zero) {
    using T = decltype(zero);
    map_tensor(ctx, x.data<T>(), ctx.output(0).data<T>(), x.count(), kCostlyGrain, f);
  });
  if (!known) ctx.fail_type(0);
}

void infer_relu(InferContext& ctx) {
  check_element(
      ctx, 0, [](ElementType t) { return is_number(t) && !is_unsigned(t); }, "floating point or signed numbers");
  infer_same(ctx);
}

void run_relu(RunContext& ctx) {
  const Tensor& x = ctx.input(0);
  const bool known = dispatch<float, double, int8_t, int16_t, int32_t, int64_t>(x.type(), [&](auto zero) {
    using T = decltype(zero);
    map_tensor(ctx, x.data<T>(), ctx.output(0).data<T>(), x.count(), kCheapGrain,
               [](T v) { return v < T(0) ? T(0) : v; });
  });
  if (!known) ctx.fail_type(0);
}

void run_leaky_relu(RunContext& ctx) {
  map_floats(ctx, [alpha = ctx.node().get_float("alpha", 0.01f)](auto v) {
    using T = decltype(v);
    return v < T(0) ? static_cast<T>(alpha) * v : v;
  });
}

// The slope broadcasts to x in one direction only; before opset 7 one of a number a channel lay along dimension 1.
Shape slope_shape(const Node& node, const Shape& x, Shape slope) {
  if (node.opset < 7 && slope.rank() == 1 && slope[0] != 1) {
    for (int i = 2; i < x.rank(); ++i) slope.push_back(1);
  }
  return slope;
}

void infer_prelu(InferContext& ctx) {
  check_same_element(ctx);
  check_element(ctx, 0, is_number, "numbers");
  infer_same(ctx);
  if (!ctx.has_rank(0) || !ctx.has_rank(1)) return;
  const std::optional<Shape> x = known_shape(ctx.dims(0)), slope = known_shape(ctx.dims(1));
  if (!x || !slope) return;
  const Shape placed = slope_shape(ctx.node(), *x, *slope);
  bool fits = placed.rank() <= x->rank();
  for (int i = 1; i <= placed.rank() && fits; ++i) {
    const int64_t dim = placed[placed.rank() - i];
    fits = dim == 1 || dim == (*x)[x->rank() - i];
  }
  if (!fits) ctx.fail("a slope of shape {} does not broadcast to {}", to_string(*slope), to_string(*x));
}

void run_prelu(RunContext& ctx) {
  const Tensor &x = ctx.input(0), &slope = ctx.input(1);
  const Shape placed = slope_shape(ctx.node(), x.shape(), slope.shape());
  const Broadcast<2> plan(x.shape(), {&x.shape(), &placed});
  const bool known = dispatch<float, double, int32_t, int64_t, uint32_t, uint64_t>(x.type(), [&](auto zero) {
    using T = decltype(zero);
    map_tensors(ctx, plan, x.data<T>(), slope.data<T>(), ctx.output(0).data<T>(), kCheapGrain, [](T v, T s) {
      if constexpr (std::is_integral_v<T>) return v < T(0) ? static_cast<T>(uint64_t(v) * uint64_t(s)) : v;
      else return v < T(0) ? v * s : v;
    });
  });
  if (!known) ctx.fail_type(0);
}

void run_elu(RunContext& ctx) {
  map_floats(ctx, [alpha = ctx.node().get_float("alpha", 1.0f)](auto v) {
    using T = decltype(v);
    const T low = static_cast<T>(alpha) * fast_expm1(v);
    return v < T(0) ? low : v;
  });
}

void run_selu(RunContext& ctx) {
  // Before opset 6 the numbers were given with fewer digits.
  const float alpha = ctx.node().get_float("alpha", ctx.opset() < 6 ? 1.6732f : 1.67326319217681884765625f);
  const float gamma = ctx.node().get_float("gamma", ctx.opset() < 6 ? 1.0507f : 1.05070102214813232421875f);
  map_floats(ctx, [alpha, gamma](auto v) {
    using T = decltype(v);
    const T low = static_cast<T>(alpha) * fast_expm1(v);
    return static_cast<T>(gamma) * (v > T(0) ? v : low);
  });
}

void run_celu(RunContext& ctx) {
  const float alpha = ctx.node().get_float("alpha", 1.0f);
  map_floats(ctx, [alpha](auto v) {
    using T = decltype(v);
    const T a = static_cast<T>(alpha), low = a * fast_expm1(v / a);
    return (v < T(0) ? T(0) : v) + (low < T(0) ? low : v != v ? v : T(0));
  });
}

void run_thresholded_relu(RunContext& ctx) {
  map_floats(ctx, [alpha = ctx.node().get_float("alpha", 1.0f)](auto v) {
    using T = decltype(v);
    return v > static_cast<T>(alpha) || v != v ? v : T(0);
  });
}

template <typename T>
T hard_sigmoid(T v, T alpha, T beta) {
  const T line = alpha * v + beta;
  return line < T(0) ? T(0) : line > T(1) ? T(1) : line;
}

void run_hard_sigmoid(RunContext& ctx) {
  const float alpha = ctx.node().get_float("alpha", 0.2f), beta = ctx.node().get_float("beta", 0.5f);
  map_floats(ctx, [alpha, beta](auto v) {
    using T = decltype(v);
    return hard_sigmoid(v, static_cast<T>(alpha), static_cast<T>(beta));
  });
}

void run_hard_swish(RunContext& ctx) {
  map_floats(ctx, [](auto v) {
    using T = decltype(v);
    return v * hard_sigmoid(v, T(1) / T(6), T(0.5));
  });
}

void run_mish(RunContext& ctx) {
  map_floats(ctx, [](auto v) { return v * fast_tanh(softplus(v)); });
}

template <typename T>
T swish(T v, T alpha) {
  const T product = v * fast_sigmoid(alpha * v);
  return v == -std::numeric_limits<T>::infinity() && alpha > T(0) ? T(0) : product;
}

void run_swish(RunContext& ctx) {
  map_floats(
      ctx, [alpha = ctx.node().get_float("alpha", 1.0f)](auto v) { return swish(v, static_cast<decltype(v)>(alpha)); });
}

void run_quick_gelu(RunContext& ctx) {
  map_floats(ctx, [alpha = ctx.node().get_float("alpha", 1.702f)](auto v) {
    return swish(v, static_cast<decltype(v)>(alpha));
  });
}

void infer_swiglu(InferContext& ctx) {
  check_same_element(ctx);
  check_element(ctx, 0, is_wide_float, "floating point numbers");
  infer_pair(ctx, ctx.element(0));
}

void run_swiglu(RunContext& ctx) {
  const float alpha = ctx.node().get_float("alpha", 1.0f);
  const bool known = dispatch<float, double>(ctx.input(0).type(), [&](auto zero) {
    using T = decltype(zero);
    map_inputs<T, T, T>(ctx, kCostlyGrain, [a = static_cast<T>(alpha)](T gate, T v) { return swish(gate, a) * v; });
  });
  if (!known) ctx.fail_type(0);
}

void run_sigmoid(RunContext& ctx) {
  map_floats(ctx, [](auto v) { return fast_sigmoid(v); });
}
void run_tanh(RunContext& ctx) {
  map_floats(ctx, [](auto v) { return fast_tanh(v); });
}
void run_softplus(RunContext& ctx) {
  map_floats(ctx, [](auto v) { return softplus(v); });
}
void run_softsign(RunContext& ctx) {
  map_floats(ctx, [](auto v) { return v / (decltype(v)(1) + magnitude(v)); });
}

void infer_number(InferContext& ctx) {
  check_element(ctx, 0, is_number, "numbers");
  infer_same(ctx);
}

void run_shrink(RunContext& ctx) {
  const float bias = ctx.node().get_float("bias", 0.0f), lambda = ctx.node().get_float("lambd", 0.5f);
  const Tensor& x = ctx.input(0);
  const bool known = dispatch_numbers(x.type(), [&](auto zero) {
    using T = decltype(zero);
    using Wide = std::conditional_t<std::is_same_v<T, float>, float, double>;
    const Wide b = bias, l = lambda;
    map_tensor(ctx, x.data<T>(), ctx.output(0).data<T>(), x.count(), kCheapGrain, [b, l](T value) {
      const Wide v = static_cast<Wide>(value);
      const Wide shrunk = v < -l ? v + b : v > l ? v - b : Wide(0);
      if constexpr (std::is_floating_point_v<T>) return static_cast<T>(v != v ? v : shrunk);
      else if (!(shrunk > static_cast<Wide>(std::numeric_limits<T>::min()))) return std::numeric_limits<T>::min();
      else
        return shrunk < static_cast<Wide>(std::numeric_limits<T>::max()) ? static_cast<T>(shrunk)
                                                                         : std::numeric_limits<T>::max();
    });
  });
  if (!known) ctx.fail_type(0);
}

// min and max are attributes before opset 11, then inputs of no dimensions.
void infer_clip(InferContext& ctx) {
  check_same_element(ctx);
  infer_number(ctx);
  for (int i = 1; i < ctx.num_inputs(); ++i) {
    if (!ctx.has_rank(i)) continue;
    const std::optional<int64_t> count = product(ctx.dims(i)).known();
    if (count && *count != 1) ctx.fail("input {} has to be a single number, not {}", i + 1, to_string(ctx.type(i)));
  }
}

void run_clip(RunContext& ctx) {
  const Tensor& x = ctx.input(0);
  const bool known = dispatch_numbers(x.type(), [&](auto zero) {
    using T = decltype(zero);
    T low = std::numeric_limits<T>::lowest(), high = std::numeric_limits<T>::max();
    if constexpr (std::is_floating_point_v<T>) {
      low = -std::numeric_limits<T>::infinity(), high = -low;
      if (ctx.opset() < 11) {
        low = ctx.node().get_float("min", std::numeric_limits<float>::lowest());
        high = ctx.node().get_float("max", std::numeric_limits<float>::max());
      }
    }
    if (ctx.opset() >= 11) {
      low = ctx.get_scalar(1, low);
      high = ctx.get_scalar(2, high);
    }
    map_tensor(ctx, x.data<T>(), ctx.output(0).data<T>(), x.count(), kCheapGrain, [low, high](T v) {
      const T raised = v < low ? low : v;
      return raised > high ? high : raised;
    });
  });
  if (!known) ctx.fail_type(0);
}

using GeluKernel = void (*)(const float* x, float* out, int64_t n);

void run_gelu_of(RunContext& ctx, bool is_tanh) {
  const Tensor& x = ctx.input(0);
  if (x.type() != ElementType::kF32) {
    if (is_tanh) map_floats(ctx, [](auto v) { return gelu_tanh(v); });
    else map_floats(ctx, [](auto v) { return gelu_erf(v); });
    return;
  }
  const GeluKernel kernel = is_tanh ? kernels::get_kernels().gelu_tanh : kernels::get_kernels().gelu_erf;
  const float* from = x.data<float>();
  float* to = ctx.output_data<float>(0);
  ctx.pool().parallel_for(x.count(), kCostlyGrain,
                          [&](int64_t begin, int64_t end, int) { kernel(from + begin, to + begin, end - begin); });
}

void infer_gelu(InferContext& ctx) {
  infer_floats(ctx);
  const std::string approximate = ctx.node().get_string("approximate", "none");
  if (approximate != "none" && approximate != "tanh")
    ctx.fail("approximate is '{}'; none and tanh are allowed", approximate);
}

void run_gelu(RunContext& ctx) { run_gelu_of(ctx, ctx.node().get_string("approximate", "none") == "tanh"); }
void run_contrib_gelu(RunContext& ctx) { run_gelu_of(ctx, false); }

// x and a bias of the length of its last dimension.
void infer_bias_gelu(InferContext& ctx) {
  infer_floats(ctx);
  check_same_element(ctx);
  if (!ctx.has_rank(0) || !ctx.has_rank(1)) return;
  if (ctx.rank(1) != 1 || ctx.rank(0) < 1) ctx.fail("the bias has to have one dimension and x at least one");
  const Dim &length = ctx.dims(1)[0], &last = ctx.dims(0).back();
  if (length.is_known() && last.is_known() && length.value() != last.value()) {
    ctx.fail("a bias of {} does not fit rows of {}", length.value(), last.value());
  }
}

void run_bias_gelu_of(RunContext& ctx, bool is_tanh) {
  if (!ctx.has_input(1)) return run_gelu_of(ctx, is_tanh);
  const Tensor &x = ctx.input(0), &bias = ctx.input(1);
  if (x.count() == 0) return;
  const bool known = dispatch<float, double>(x.type(), [&](auto zero) {
    using T = decltype(zero);
    const int64_t length = bias.count();
    const T *from = x.data<T>(), *add = bias.data<T>();
    T* to = ctx.output(0).data<T>();
    const int64_t rows_a_chunk = std::max<int64_t>(1, kCostlyGrain / length);
    ctx.pool().parallel_for(x.count() / length, rows_a_chunk, [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; ++row) {
        const T* v = from + row * length;
        T* z = to + row * length;
        if (is_tanh) map_rows(v, add, z, length, [](T a, T b) { return gelu_tanh(a + b); });
        else map_rows(v, add, z, length, [](T a, T b) { return gelu_erf(a + b); });
      }
    });
  });
  if (!known) ctx.fail_type(0);
}

void run_bias_gelu(RunContext& ctx) { run_bias_gelu_of(ctx, false); }
void run_fast_gelu(RunContext& ctx) { run_bias_gelu_of(ctx, true); }

constexpr uint8_t kVia = OpInfo::kViaFloat;
constexpr OpInfo kOps[] = {
    {"", "Relu", 1, 0, infer_relu, run_relu, kVia},
    {"", "LeakyRelu", 1, 0, infer_floats, run_leaky_relu, kVia},
    {"", "PRelu", 1, 0, infer_prelu, run_prelu, kVia},
    {"", "Elu", 1, 0, infer_floats, run_elu, kVia},
    {"", "Selu", 1, 0, infer_floats, run_selu, kVia},
    {"", "Celu", 12, 0, infer_floats, run_celu, kVia},
    {"", "ThresholdedRelu", 1, 0, infer_floats, run_thresholded_relu, kVia},
    {"", "HardSigmoid", 1, 0, infer_floats, run_hard_sigmoid, kVia},
    {"", "HardSwish", 14, 0, infer_floats, run_hard_swish, kVia},
    {"", "Mish", 18, 0, infer_floats, run_mish, kVia},
    {"", "Swish", 24, 0, infer_floats, run_swish, kVia},
    {"", "SwiGLU", 28, 0, infer_swiglu, run_swiglu, kVia},
    {"", "Gelu", 20, 0, infer_gelu, run_gelu, kVia},
    {"", "Sigmoid", 1, 0, infer_floats, run_sigmoid, kVia},
    {"", "Tanh", 1, 0, infer_floats, run_tanh, kVia},
    {"", "Softplus", 1, 0, infer_floats, run_softplus, kVia},
    {"", "Softsign", 1, 0, infer_floats, run_softsign, kVia},
    {"", "Shrink", 9, 0, infer_number, run_shrink, kVia},
    {"", "Clip", 1, 0, infer_clip, run_clip, kVia},
    {kMicrosoft, "Gelu", 1, 0, infer_floats, run_contrib_gelu, kVia},
    {kMicrosoft, "BiasGelu", 1, 0, infer_bias_gelu, run_bias_gelu, kVia},
    {kMicrosoft, "FastGelu", 1, 0, infer_bias_gelu, run_fast_gelu, kVia},
    {kMicrosoft, "QuickGelu", 1, 0, infer_floats, run_quick_gelu, kVia},
};

}  // namespace

std::span<const OpInfo> activation_ops() { return kOps; }

}  // namespace sluice::graph::ops
