// Arithmetic of two and more tensors that broadcast to each other: Add, Sub, Mul, Div, Mod, Pow, Min, Max, Sum, Mean,
// and Where (ONNX operator specification, opsets 1 to 28).
//
// Integers wrap around on overflow; a division by 0 of integers gives 0, and Div truncates. Because signed and unsigned
// numbers add and multiply alike modulo 2^n, Add, Sub and Mul know four integer types, not eight. Min and Max hand NaNs
// on, as NumPy does. What these operators do to shapes that travel as small integer tensors is told to shape inference.
#include "graph/ops/elementwise.h"

#include <cmath>
#include <limits>
#include <string>
#include <type_traits>

#include "graph/ops/ops.h"

namespace sluice::graph::ops {

void infer_pair(InferContext& ctx, ElementType element) {
  if (!ctx.has_rank(0) || !ctx.has_rank(1)) return ctx.set_output(0, element);
  Dims second = ctx.dims(1);
  second.insert(second.end(), static_cast<size_t>(num_trailing_ones(ctx.node(), ctx.rank(0), ctx.rank(1))), Dim(1));
  ctx.set_output(0, element, broadcast(ctx, ctx.dims(0), second));
}

namespace {

// Calls body(T{}) with an unsigned integer of the width of an integer type; false for other types.
template <typename Body>
bool dispatch_wrapping(ElementType type, Body&& body) {
  if (!is_wide_integer(type)) return false;
  switch (get_info(type).bytes) {
    case 1: body(uint8_t{}); return true;
    case 2: body(uint16_t{}); return true;
    case 4: body(uint32_t{}); return true;
    default: body(uint64_t{}); return true;
  }
}

// Floats as they are, integers as unsigned ones of their width.
template <typename Body>
bool dispatch_arithmetic(ElementType type, Body&& body) {
  return dispatch<float, double>(type, body) || dispatch_wrapping(type, body);
}

template <typename T>
T divide(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    return a / b;
  } else {
    if (b == 0) return 0;
    if constexpr (std::is_signed_v<T>) {
      if (b == T(-1)) return static_cast<T>(std::make_unsigned_t<T>(0) - static_cast<std::make_unsigned_t<T>>(a));
    }
    return static_cast<T>(a / b);
  }
}

// The sign of the divisor, as in Python; with fmod that of the dividend, as in C.
template <typename T>
T modulo(T a, T b, bool is_fmod) {
  if constexpr (std::is_floating_point_v<T>) {
    const T rest = std::fmod(a, b);
    if (is_fmod) return rest;
    if (rest == 0) return std::copysign(rest, b);
    return (rest < 0) != (b < 0) ? rest + b : rest;
  } else {
    if (b == 0) return 0;
    if constexpr (std::is_signed_v<T>) {
      if (b == T(-1)) return 0;
      const T rest = static_cast<T>(a % b);
      return !is_fmod && rest != 0 && (rest < 0) != (b < 0) ? static_cast<T>(rest + b) : rest;
    } else {
      return static_cast<T>(a % b);
    }
  }
}

template <typename T>
T smaller(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) return a < b || a != a ? a : b;
  else return a < b ? a : b;
}
template <typename T>
T larger(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) return a > b || a != a ? a : b;
  else return a > b ? a : b;
}

// Shapes as integers. Division is that of numbers that are not negative, unless both are known.
using Arguments = const std::vector<Dim>&;
std::optional<Dim> add_ints(Arguments d) {
  if (d[0].is_known() && d[1].is_known()) {
    int64_t sum = 0;
    return __builtin_add_overflow(d[0].value(), d[1].value(), &sum) ? std::nullopt : std::optional(Dim(sum));
  }
  return d[0] + d[1];
}
std::optional<Dim> subtract_ints(Arguments d) {
  if (d[0].is_known() && d[1].is_known()) {
    int64_t rest = 0;
    return __builtin_sub_overflow(d[0].value(), d[1].value(), &rest) ? std::nullopt : std::optional(Dim(rest));
  }
  return d[0] - d[1];
}
std::optional<Dim> multiply_ints(Arguments d) {
  if (d[0].is_known() && d[1].is_known()) {
    int64_t product = 0;
    return __builtin_mul_overflow(d[0].value(), d[1].value(), &product) ? std::nullopt : std::optional(Dim(product));
  }
  return d[0] * d[1];
}
std::optional<Dim> divide_ints(Arguments d) {
  if (!d[1].is_known() || d[1].value() <= 0) return std::nullopt;
  if (d[0].is_known()) return Dim(d[0].value() / d[1].value());
  return floor_divide(d[0], d[1]);
}
std::optional<Dim> modulo_ints(Arguments d) {
  if (!d[0].is_known() || !d[1].is_known()) return std::nullopt;
  return Dim(modulo(d[0].value(), d[1].value(), false));
}
std::optional<Dim> min_ints(Arguments d) {
  Dim result = d[0];
  for (size_t i = 1; i < d.size(); ++i) result = min_of(result, d[i]);
  return result;
}
std::optional<Dim> max_ints(Arguments d) {
  Dim result = d[0];
  for (size_t i = 1; i < d.size(); ++i) result = max_of(result, d[i]);
  return result;
}

template <std::optional<Dim> (*ints)(Arguments)>
void infer_arithmetic(InferContext& ctx) {
  check_same_element(ctx);
  check_element(ctx, 0, is_number, "numbers");
  infer_pair(ctx, ctx.element(0));
  if (is_wide_integer(ctx.element(0))) infer_ints(ctx, ints, 2);
}

void run_add(RunContext& ctx) {
  const bool known = dispatch_arithmetic(ctx.input(0).type(), [&](auto zero) {
    using T = decltype(zero);
    map_inputs<T, T, T>(ctx, kCheapGrain, [](T a, T b) { return static_cast<T>(a + b); });
  });
  if (!known) ctx.fail_type(0);
}

void run_sub(RunContext& ctx) {
  const bool known = dispatch_arithmetic(ctx.input(0).type(), [&](auto zero) {
    using T = decltype(zero);
    map_inputs<T, T, T>(ctx, kCheapGrain, [](T a, T b) { return static_cast<T>(a - b); });
  });
  if (!known) ctx.fail_type(0);
}

void run_mul(RunContext& ctx) {
  const bool known = dispatch_arithmetic(ctx.input(0).type(), [&](auto zero) {
    using T = decltype(zero);
    using Wide = std::conditional_t<sizeof(T) < 4, uint32_t, T>;  // uint16 * uint16 would be an int that overflows
    map_inputs<T, T, T>(ctx, kCheapGrain, [](T a, T b) { return static_cast<T>(Wide(a) * Wide(b)); });
  });
  if (!known) ctx.fail_type(0);
}

void run_div(RunContext& ctx) {
  const bool known = dispatch_numbers(ctx.input(0).type(), [&](auto zero) {
    using T = decltype(zero);
    map_inputs<T, T, T>(ctx, kCheapGrain, [](T a, T b) { return divide(a, b); });
  });
  if (!known) ctx.fail_type(0);
}

void run_mod(RunContext& ctx) {
  const bool is_fmod = ctx.node().get_int("fmod", 0) != 0;
  const bool known = dispatch_numbers(ctx.input(0).type(), [&](auto zero) {
    using T = decltype(zero);
    map_inputs<T, T, T>(ctx, kCostlyGrain, [is_fmod](T a, T b) { return modulo(a, b, is_fmod); });
  });
  if (!known) ctx.fail_type(0);
}

void infer_pow(InferContext& ctx) {
  if (ctx.opset() < 12) check_same_element(ctx);
  check_element(ctx, 0, is_number, "numbers");
  check_element(ctx, 1, is_number, "numbers");
  infer_pair(ctx, ctx.element(0));
}

// By squaring, modulo 2^n; 1 / base^n is 0 but for bases of 1 and -1.
template <typename T>
T integer_power(T base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 1) return 1;
    if (std::is_signed_v<T> && base == T(-1)) return exponent % 2 == 0 ? T(1) : base;
    return 0;
  }
  uint64_t result = 1, square = static_cast<uint64_t>(base);
  for (uint64_t e = static_cast<uint64_t>(exponent); e != 0; e >>= 1) {
    if (e & 1) result *= square;
    square *= square;
  }
  return static_cast<T>(result);
}

// Cut off at the ends of T; NaN gives 0.
template <typename T>
T to_integer(double value) {
  if (!(value == value)) return 0;
  if (value <= static_cast<double>(std::numeric_limits<T>::min())) return std::numeric_limits<T>::min();
  if (value >= static_cast<double>(std::numeric_limits<T>::max())) return std::numeric_limits<T>::max();
  return static_cast<T>(value);
}

// The numbers of a tensor as T.
template <typename T>
Tensor convert_numbers(RunContext& ctx, const Tensor& from) {
  if (from.type() == type_of<T>()) return from;
  Tensor to = ctx.make(type_of<T>(), from.shape());
  const bool known = dispatch_numbers(from.type(), [&](auto zero) {
    using F = decltype(zero);
    map_tensor(ctx, from.data<F>(), to.data<T>(), from.count(), kCheapGrain, [](F v) { return static_cast<T>(v); });
  });
  if (!known) ctx.fail("does not take {} as an exponent", name(from.type()));
  return to;
}

template <typename T>
void run_pow_of_floats(RunContext& ctx) {
  const Tensor& x = ctx.input(0);
  const Tensor exponents = convert_numbers<T>(ctx, ctx.input(1));
  Tensor& z = ctx.output(0);
  const T* from = x.data<T>();
  T* to = z.data<T>();
  if (exponents.count() == 1 && z.count() == x.count()) {
    const T e = exponents.data<T>()[0];
    auto map = [&](auto f) { map_tensor(ctx, from, to, x.count(), kCheapGrain, f); };
    if (e == T(2)) return map([](T v) { return v * v; });
    if (e == T(3)) return map([](T v) { return v * v * v; });
    if (e == T(1)) return map([](T v) { return v; });
    if (e == T(-1)) return map([](T v) { return T(1) / v; });
    if (e == T(0.5))
      return map([](T v) { return v == -std::numeric_limits<T>::infinity() ? -v : std::sqrt(v + T(0)); });
  }
  Shape y_shape = exponents.shape();
  for (int i = num_trailing_ones(ctx.node(), x.rank(), exponents.rank()); i > 0; --i) y_shape.push_back(1);
  map_tensors(ctx, Broadcast<2>(z.shape(), {&x.shape(), &y_shape}), from, exponents.data<T>(), to, kCostlyGrain,
              [](T a, T b) { return std::pow(a, b); });
}

void run_pow(RunContext& ctx) {
  const Tensor &x = ctx.input(0), &y = ctx.input(1);
  if (x.type() == ElementType::kF32) return run_pow_of_floats<float>(ctx);
  if (x.type() == ElementType::kF64) return run_pow_of_floats<double>(ctx);
  const bool is_integral = is_integer(y.type());
  const Tensor exponents = is_integral ? convert_numbers<int64_t>(ctx, y) : convert_numbers<double>(ctx, y);
  Tensor& z = ctx.output(0);
  const Broadcast<2> plan(z.shape(), {&x.shape(), &exponents.shape()});
  const bool known = dispatch_integers(x.type(), [&](auto zero) {
    using T = decltype(zero);
    if (is_integral) {
      map_tensors(ctx, plan, x.data<T>(), exponents.data<int64_t>(), z.data<T>(), kCostlyGrain,
                  [](T a, int64_t b) { return integer_power(a, b); });
    } else {
      map_tensors(ctx, plan, x.data<T>(), exponents.data<double>(), z.data<T>(), kCostlyGrain,
                  [](T a, double b) { return to_integer<T>(std::pow(static_cast<double>(a), b)); });
    }
  });
  if (!known) ctx.fail_type(0);
}

void infer_variadic(InferContext& ctx) {
  if (ctx.num_inputs() == 0) ctx.fail("at least one input is needed");
  check_same_element(ctx);
  check_element(ctx, 0, is_number, "numbers");
  infer_broadcast(ctx);
}

template <std::optional<Dim> (*ints)(Arguments)>
void infer_extremum(InferContext& ctx) {
  infer_variadic(ctx);
  if (is_wide_integer(ctx.element(0))) infer_ints(ctx, ints, 1);
}

// output 0 = f(...f(f(input 0, input 1), input 2)...), broadcast, then `last` of each element.
template <typename T, typename F, typename Last>
void fold_inputs(RunContext& ctx, F f, Last last) {
  if (ctx.num_inputs() == 1) return ctx.set(0, ctx.input_value(0));
  Tensor& z = ctx.output(0);
  T* to = z.data<T>();
  const Tensor &first = ctx.input(0), &second = ctx.input(1);
  map_tensors(ctx, Broadcast<2>(z.shape(), {&first.shape(), &second.shape()}), first.data<T>(), second.data<T>(), to,
              kCheapGrain, f);
  for (int i = 2; i < ctx.num_inputs(); ++i) {
    const Broadcast<1> plan(z.shape(), {&ctx.input(i).shape()});
    const T* from = ctx.data<T>(i);
    ctx.pool().parallel_for(plan.count, kCheapGrain, [&](int64_t begin, int64_t end, int) {
      plan.for_rows(begin, end, [&](const std::array<int64_t, 1>& at, int64_t row, int64_t n) {
        accumulate_row(to + row, from + at[0], plan.step(0), n, f);
      });
    });
  }
  last(to, z.count());
}

constexpr auto kNothing = [](auto*, int64_t) {};

void run_min(RunContext& ctx) {
  const bool known = dispatch_numbers(ctx.input(0).type(), [&](auto zero) {
    using T = decltype(zero);
    fold_inputs<T>(ctx, [](T a, T b) { return smaller(a, b); }, kNothing);
  });
  if (!known) ctx.fail_type(0);
}

void run_max(RunContext& ctx) {
  const bool known = dispatch_numbers(ctx.input(0).type(), [&](auto zero) {
    using T = decltype(zero);
    fold_inputs<T>(ctx, [](T a, T b) { return larger(a, b); }, kNothing);
  });
  if (!known) ctx.fail_type(0);
}

void run_sum(RunContext& ctx) {
  const bool known = dispatch_arithmetic(ctx.input(0).type(), [&](auto zero) {
    using T = decltype(zero);
    fold_inputs<T>(ctx, [](T a, T b) { return static_cast<T>(a + b); }, kNothing);
  });
  if (!known) ctx.fail_type(0);
}

void run_mean(RunContext& ctx) {
  const bool known = dispatch<float, double>(ctx.input(0).type(), [&](auto zero) {
    using T = decltype(zero);
    const T count = static_cast<T>(ctx.num_inputs());
    fold_inputs<T>(ctx, [](T a, T b) { return a + b; }, [&](T* to, int64_t n) {
      ctx.pool().parallel_for(n, kCheapGrain, [&](int64_t begin, int64_t end, int) {
        accumulate_row(to + begin, &count, 0, end - begin, [](T a, T c) { return a / c; });
      });
    });
  });
  if (!known) ctx.fail_type(0);
}

void infer_where(InferContext& ctx) {
  check_element(ctx, 0, [](ElementType t) { return t == ElementType::kBool; }, "bools");
  check_same_element(ctx, 1);
  Dims dims;
  bool has_ranks = true;
  for (int i = 0; i < 3; ++i) {
    if (!(has_ranks = has_ranks && ctx.has_rank(i))) break;
    dims = i == 0 ? ctx.dims(0) : broadcast(ctx, dims, ctx.dims(i));
  }
  const ElementType element = ctx.element(1) == ElementType::kUndefined ? ctx.element(2) : ctx.element(1);
  if (!has_ranks) return ctx.set_output(0, element);
  ctx.set_output(0, element, std::move(dims));
  if (!is_wide_integer(element) && element != ElementType::kBool) return;
  infer_ints(ctx, [](Arguments d) -> std::optional<Dim> {
    if (!d[0].is_known()) return d[1] == d[2] ? std::optional(d[1]) : std::nullopt;
    return d[0].value() != 0 ? d[1] : d[2];
  }, 3);
}

// A row of Where. Strings and numbers alike.
template <typename T>
void choose_row(const uint8_t* condition, int64_t condition_step, const T* x, int64_t x_step, const T* y,
                int64_t y_step, T* z, int64_t n) {
  if (condition_step == 0) {
    const T* from = *condition ? x : y;
    const int64_t step = *condition ? x_step : y_step;
    if (step == 0) std::fill_n(z, n, *from);
    else std::copy_n(from, n, z);
    return;
  }
  if constexpr (!std::is_same_v<T, std::string>) {
    if (x_step != 0 && y_step != 0) {
      int64_t i = 0;
      for (; i + 16 <= n; i += 16) {
        T chosen[16];
        for (int j = 0; j < 16; ++j) {
          const T a = x[i + j], b = y[i + j];
          chosen[j] = condition[i + j] ? a : b;
        }
        std::copy_n(chosen, 16, z + i);
      }
      for (; i < n; ++i) z[i] = condition[i] ? x[i] : y[i];
      return;
    }
  }
  for (int64_t i = 0; i < n; ++i) z[i] = condition[i] ? x[i * x_step] : y[i * y_step];
}

void run_where(RunContext& ctx) {
  const Tensor &condition = ctx.input(0), &x = ctx.input(1), &y = ctx.input(2);
  Tensor& z = ctx.output(0);
  const Broadcast<3> plan(z.shape(), {&condition.shape(), &x.shape(), &y.shape()});
  dispatch_width(x.type(), [&](auto zero) {
    using T = decltype(zero);
    const uint8_t* c = condition.data<uint8_t>();
    const T *a = x.data<T>(), *b = y.data<T>();
    T* to = z.data<T>();
    ctx.pool().parallel_for(plan.count, kCheapGrain, [&](int64_t begin, int64_t end, int) {
      plan.for_rows(begin, end, [&](const std::array<int64_t, 3>& at, int64_t row, int64_t n) {
        choose_row(c + at[0], plan.step(0), a + at[1], plan.step(1), b + at[2], plan.step(2), to + row, n);
      });
    });
  });
}

constexpr OpInfo kOps[] = {
    {"", "Add", 1, 0, infer_arithmetic<add_ints>, run_add, OpInfo::kViaFloat},
    {"", "Sub", 1, 0, infer_arithmetic<subtract_ints>, run_sub, OpInfo::kViaFloat},
    {"", "Mul", 1, 0, infer_arithmetic<multiply_ints>, run_mul, OpInfo::kViaFloat},
    {"", "Div", 1, 0, infer_arithmetic<divide_ints>, run_div, OpInfo::kViaFloat},
    {"", "Mod", 10, 0, infer_arithmetic<modulo_ints>, run_mod, OpInfo::kViaFloat},
    {"", "Pow", 1, 0, infer_pow, run_pow, OpInfo::kViaFloat},
    {"", "Min", 1, 0, infer_extremum<min_ints>, run_min, OpInfo::kViaFloat},
    {"", "Max", 1, 0, infer_extremum<max_ints>, run_max, OpInfo::kViaFloat},
    {"", "Sum", 1, 0, infer_variadic, run_sum, OpInfo::kViaFloat},
    {"", "Mean", 1, 0, infer_variadic, run_mean, OpInfo::kViaFloat},
    {"", "Where", 9, 0, infer_where, run_where},
};

}  // namespace

std::span<const OpInfo> elementwise_ops() { return kOps; }

}  // namespace sluice::graph::ops
