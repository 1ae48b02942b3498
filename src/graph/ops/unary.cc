// Functions of one number: Abs, Neg, Sign, Ceil, Floor, Round, Sqrt, Reciprocal, Exp, Log, Erf, the trigonometric and
// hyperbolic functions, IsNaN and IsInf (ONNX operator specification).
//
// Each function is a class with an overload for float and one for double; those that integers have too are templates.
// Exp, Log, Erf and the roundings of float come from vector_math.h, the rest from the C library. f16 and bf16 go
// through float; of the 8-bit floats, which only IsNaN and IsInf take, a table of 256 answers is made.
#include <cmath>
#include <limits>
#include <type_traits>

#include "graph/float_types.h"
#include "graph/ops/elementwise.h"
#include "graph/ops/ops.h"
#include "graph/ops/vector_math.h"

namespace sluice::graph::ops {
namespace {

struct Abs {
  float operator()(float x) const { return magnitude(x); }
  double operator()(double x) const { return std::fabs(x); }
  template <typename T>
  T operator()(T x) const {
    if constexpr (std::is_signed_v<T>) return x < 0 ? static_cast<T>(0u - static_cast<std::make_unsigned_t<T>>(x)) : x;
    else return x;
  }
};
struct Neg {
  float operator()(float x) const { return -x; }
  double operator()(double x) const { return -x; }
  template <typename T>
  T operator()(T x) const { return static_cast<T>(0u - static_cast<std::make_unsigned_t<T>>(x)); }
};
struct Sign {
  template <typename T>
  T operator()(T x) const {
    const T sign = static_cast<T>((x > T(0)) - (x < T(0)));
    if constexpr (std::is_floating_point_v<T>) return x != x ? x : sign;
    else return sign;
  }
};
struct Ceil {
  float operator()(float x) const { return round_up(x); }
  double operator()(double x) const { return std::ceil(x); }
};
struct Floor {
  float operator()(float x) const { return round_down(x); }
  double operator()(double x) const { return std::floor(x); }
};
struct Round {
  float operator()(float x) const { return round_even(x); }
  double operator()(double x) const { return std::nearbyint(x); }
};
struct Reciprocal {
  template <typename T>
  T operator()(T x) const { return T(1) / x; }
};
struct Exp {
  float operator()(float x) const { return fast_exp(x); }
  double operator()(double x) const { return std::exp(x); }
};
struct Log {
  float operator()(float x) const { return fast_log(x); }
  double operator()(double x) const { return std::log(x); }
};
struct Erf {
  float operator()(float x) const { return fast_erf(x); }
  double operator()(double x) const { return std::erf(x); }
};
struct Sqrt { template <typename T> T operator()(T x) const { return std::sqrt(x); } };
struct Sin { template <typename T> T operator()(T x) const { return std::sin(x); } };
struct Cos { template <typename T> T operator()(T x) const { return std::cos(x); } };
struct Tan { template <typename T> T operator()(T x) const { return std::tan(x); } };
struct Asin { template <typename T> T operator()(T x) const { return std::asin(x); } };
struct Acos { template <typename T> T operator()(T x) const { return std::acos(x); } };
struct Atan { template <typename T> T operator()(T x) const { return std::atan(x); } };
struct Sinh { template <typename T> T operator()(T x) const { return std::sinh(x); } };
struct Cosh { template <typename T> T operator()(T x) const { return std::cosh(x); } };
struct Asinh { template <typename T> T operator()(T x) const { return std::asinh(x); } };
struct Acosh { template <typename T> T operator()(T x) const { return std::acosh(x); } };
struct Atanh { template <typename T> T operator()(T x) const { return std::atanh(x); } };

void infer_floats(InferContext& ctx) {
  check_element(ctx, 0, is_wide_float, "floating point numbers");
  infer_same(ctx);
}

void infer_signed(InferContext& ctx) {
  check_element(ctx, 0, is_number, "numbers");
  infer_same(ctx);
}

void infer_neg(InferContext& ctx) {
  check_element(ctx, 0, [](ElementType t) { return is_number(t) && !is_unsigned(t); }, "signed numbers");
  infer_same(ctx);
  if (!is_wide_integer(ctx.element(0))) return;
  infer_ints(ctx, [](const std::vector<Dim>& d) -> std::optional<Dim> {
    if (d[0] == Dim(std::numeric_limits<int64_t>::min())) return std::nullopt;
    return Dim(0) - d[0];
  }, 1);
}

template <typename F>
void run_floats(RunContext& ctx) {
  const Tensor& x = ctx.input(0);
  const bool known = dispatch<float, double>(x.type(), [&](auto zero) {
    using T = decltype(zero);
    map_tensor(ctx, x.data<T>(), ctx.output(0).data<T>(), x.count(), kCostlyGrain, F());
  });
  if (!known) ctx.fail_type(0);
}

template <typename F>
void run_numbers(RunContext& ctx) {
  const Tensor& x = ctx.input(0);
  const bool known = dispatch_numbers(x.type(), [&](auto zero) {
    using T = decltype(zero);
    map_tensor(ctx, x.data<T>(), ctx.output(0).data<T>(), x.count(), kCheapGrain, F());
  });
  if (!known) ctx.fail_type(0);
}

void infer_question(InferContext& ctx) {
  check_element(ctx, 0, [](ElementType t) { return is_wide_float(t) || is_float8(t); }, "floating point numbers");
  if (ctx.has_rank(0)) ctx.set_output(0, ElementType::kBool, ctx.dims(0));
  else ctx.set_output(0, ElementType::kBool);
}

// output 0 = asks(x), for any floating point type.
template <typename F>
void run_question(RunContext& ctx, F asks) {
  const Tensor& x = ctx.input(0);
  bool* z = ctx.output_data<bool>(0);
  if (is_narrow_float(x.type())) {
    bool answers[256];
    for (int code = 0; code < 256; ++code) answers[code] = asks(narrow_float_values(x.type())[code]);
    return map_tensor(ctx, x.data<uint8_t>(), z, x.count(), kCheapGrain,
                      [&answers](uint8_t code) { return answers[code]; });
  }
  const bool known = dispatch<float, double>(x.type(), [&](auto zero) {
    using T = decltype(zero);
    map_tensor(ctx, x.data<T>(), z, x.count(), kCheapGrain, asks);
  });
  if (!known) ctx.fail_type(0);
}

void run_is_nan(RunContext& ctx) {
  run_question(ctx, [](auto v) { return v != v; });
}

void run_is_inf(RunContext& ctx) {
  const bool positive = ctx.node().get_int("detect_positive", 1) != 0,
             negative = ctx.node().get_int("detect_negative", 1) != 0;
  run_question(ctx, [positive, negative](auto v) {
    using T = decltype(v);
    constexpr T kInfinity = std::numeric_limits<T>::infinity();
    return (positive & (v == kInfinity)) | (negative & (v == -kInfinity));
  });
}

constexpr uint8_t kVia = OpInfo::kViaFloat;
constexpr OpInfo kOps[] = {
    {"", "Abs", 1, 0, infer_signed, run_numbers<Abs>, kVia},
    {"", "Neg", 1, 0, infer_neg, run_numbers<Neg>, kVia},
    {"", "Sign", 9, 0, infer_signed, run_numbers<Sign>, kVia},
    {"", "Ceil", 1, 0, infer_floats, run_floats<Ceil>, kVia},
    {"", "Floor", 1, 0, infer_floats, run_floats<Floor>, kVia},
    {"", "Round", 11, 0, infer_floats, run_floats<Round>, kVia},
    {"", "Sqrt", 1, 0, infer_floats, run_floats<Sqrt>, kVia},
    {"", "Reciprocal", 1, 0, infer_floats, run_floats<Reciprocal>, kVia},
    {"", "Exp", 1, 0, infer_floats, run_floats<Exp>, kVia},
    {"", "Log", 1, 0, infer_floats, run_floats<Log>, kVia},
    {"", "Erf", 9, 0, infer_floats, run_floats<Erf>, kVia},
    {"", "Sin", 7, 0, infer_floats, run_floats<Sin>, kVia},
    {"", "Cos", 7, 0, infer_floats, run_floats<Cos>, kVia},
    {"", "Tan", 7, 0, infer_floats, run_floats<Tan>, kVia},
    {"", "Asin", 7, 0, infer_floats, run_floats<Asin>, kVia},
    {"", "Acos", 7, 0, infer_floats, run_floats<Acos>, kVia},
    {"", "Atan", 7, 0, infer_floats, run_floats<Atan>, kVia},
    {"", "Sinh", 9, 0, infer_floats, run_floats<Sinh>, kVia},
    {"", "Cosh", 9, 0, infer_floats, run_floats<Cosh>, kVia},
    {"", "Asinh", 9, 0, infer_floats, run_floats<Asinh>, kVia},
    {"", "Acosh", 9, 0, infer_floats, run_floats<Acosh>, kVia},
    {"", "Atanh", 9, 0, infer_floats, run_floats<Atanh>, kVia},
    {"", "IsNaN", 9, 0, infer_question, run_is_nan, kVia},
    {"", "IsInf", 10, 0, infer_question, run_is_inf, kVia},
};

}  // namespace

std::span<const OpInfo> unary_ops() { return kOps; }

}  // namespace sluice::graph::ops
