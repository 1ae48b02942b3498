// Comparisons and logic of two tensors that broadcast to each other, and bits: Equal, Less, Greater, LessOrEqual,
// GreaterOrEqual, And, Or, Xor, Not, BitwiseAnd, BitwiseOr, BitwiseXor, BitwiseNot, BitShift (ONNX operator
// specification).
//
// Results are bytes of 0 and 1. Equality of integers and bools depends on their width only, strings are compared byte
// by byte. Shifts by more than the width of the type give 0. Equal of shapes that travel as integers is told to shape
// inference: a symbol is taken to differ from every negative number, which resolves the "is it -1?" of exported
// Expands.
#include <string>
#include <type_traits>

#include "graph/ops/elementwise.h"
#include "graph/ops/ops.h"

namespace sluice::graph::ops {
namespace {

bool is_bool(ElementType t) { return t == ElementType::kBool; }
bool is_comparable(ElementType t) { return is_number(t) || t == ElementType::kBool; }

void infer_order(InferContext& ctx) {
  check_same_element(ctx);
  check_element(ctx, 0, is_comparable, "numbers");
  infer_pair(ctx, ElementType::kBool);
}

template <bool (*compare)(int64_t, int64_t)>
void infer_order_ints(InferContext& ctx) {
  infer_order(ctx);
  if (!is_wide_integer(ctx.element(0))) return;
  infer_ints(ctx, [](const std::vector<Dim>& d) -> std::optional<Dim> {
    if (!d[0].is_known() || !d[1].is_known()) return std::nullopt;
    return Dim(compare(d[0].value(), d[1].value()) ? 1 : 0);
  }, 2);
}
bool less(int64_t a, int64_t b) { return a < b; }
bool less_or_equal(int64_t a, int64_t b) { return a <= b; }
bool greater(int64_t a, int64_t b) { return a > b; }
bool greater_or_equal(int64_t a, int64_t b) { return a >= b; }

void infer_equal(InferContext& ctx) {
  check_same_element(ctx);
  check_element(
      ctx, 0, [](ElementType t) { return is_comparable(t) || t == ElementType::kString; }, "numbers, bools or strings");
  infer_pair(ctx, ElementType::kBool);
  if (!is_wide_integer(ctx.element(0))) return;
  infer_ints(ctx, [](const std::vector<Dim>& d) -> std::optional<Dim> {
    if (d[0] == d[1]) return Dim(1);
    if (d[0].is_known() && d[1].is_known()) return Dim(0);
    const Dim &known = d[0].is_known() ? d[0] : d[1];
    return known.is_known() && known.value() < 0 ? std::optional(Dim(0)) : std::nullopt;
  }, 2);
}

template <typename T, typename F>
void compare_as(RunContext& ctx, F f) {
  map_inputs<T, T, bool>(ctx, kCheapGrain, f);
}

void run_equal(RunContext& ctx) {
  const ElementType type = ctx.input(0).type();
  const bool known = dispatch<float, double, std::string>(type, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (std::is_same_v<T, std::string>) {
      const Tensor &x = ctx.input(0), &y = ctx.input(1);
      const Broadcast<2> plan(ctx.output(0).shape(), {&x.shape(), &y.shape()});
      const std::string *a = x.data<std::string>(), *b = y.data<std::string>();
      bool* z = ctx.output_data<bool>(0);
      plan.for_rows(0, plan.count, [&](const std::array<int64_t, 2>& at, int64_t row, int64_t n) {
        for (int64_t i = 0; i < n; ++i) z[row + i] = a[at[0] + i * plan.step(0)] == b[at[1] + i * plan.step(1)];
      });
    } else {
      compare_as<T>(ctx, [](T a, T b) { return a == b; });
    }
  });
  if (known) return;
  if (!is_wide_integer(type) && type != ElementType::kBool) ctx.fail_type(0);
  dispatch_width(type, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (std::is_integral_v<T>) compare_as<T>(ctx, [](T a, T b) { return a == b; });
  });
}

// Less and LessOrEqual; the other two are these with the operands exchanged.
template <bool exchanged, bool or_equal>
void run_order(RunContext& ctx) {
  const ElementType type = ctx.input(0).type();
  const bool known = dispatch_numbers(type == ElementType::kBool ? ElementType::kU8 : type, [&](auto zero) {
    using T = decltype(zero);
    compare_as<T>(ctx, [](T a, T b) {
      const T &x = exchanged ? b : a, &y = exchanged ? a : b;
      return or_equal ? x <= y : x < y;
    });
  });
  if (!known) ctx.fail_type(0);
}

void infer_logic(InferContext& ctx) {
  check_element(ctx, 0, is_bool, "bools");
  check_element(ctx, 1, is_bool, "bools");
  infer_pair(ctx, ElementType::kBool);
  infer_ints(ctx, [&](const std::vector<Dim>& d) -> std::optional<Dim> {
    if (!d[0].is_known() || !d[1].is_known()) return std::nullopt;
    const bool a = d[0].value() != 0, b = d[1].value() != 0;
    const char first = ctx.node().op_type[0];
    return Dim((first == 'A' ? a && b : first == 'O' ? a || b : a != b) ? 1 : 0);
  }, 2);
}

void infer_not(InferContext& ctx) {
  check_element(ctx, 0, is_bool, "bools");
  infer_same(ctx);
  infer_ints(ctx, [](const std::vector<Dim>& d) -> std::optional<Dim> {
    return d[0].is_known() ? std::optional(Dim(d[0].value() == 0 ? 1 : 0)) : std::nullopt;
  }, 1);
}

void infer_bits(InferContext& ctx) {
  check_same_element(ctx);
  check_element(ctx, 0, is_wide_integer, "integers");
  if (ctx.num_inputs() == 1) infer_same(ctx);
  else infer_pair(ctx, ctx.element(0));
}

enum class Bits { kAnd, kOr, kXor };

// Also of bools, which are 0 or 1.
template <Bits op>
void run_bits(RunContext& ctx) {
  const ElementType type = ctx.input(0).type();
  if (!is_wide_integer(type) && type != ElementType::kBool) ctx.fail_type(0);
  dispatch_width(type, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (std::is_integral_v<T>) {
      map_inputs<T, T, T>(ctx, kCheapGrain, [](T a, T b) {
        return static_cast<T>(op == Bits::kAnd ? a & b : op == Bits::kOr ? a | b : a ^ b);
      });
    }
  });
}

void run_not(RunContext& ctx) {
  const Tensor& x = ctx.input(0);
  map_tensor(ctx, x.data<uint8_t>(), ctx.output_data<uint8_t>(0), x.count(), kCheapGrain,
             [](uint8_t v) { return static_cast<uint8_t>(v == 0); });
}

void run_bitwise_not(RunContext& ctx) {
  const Tensor& x = ctx.input(0);
  if (!is_wide_integer(x.type())) ctx.fail_type(0);
  dispatch_width(x.type(), [&](auto zero) {
    using T = decltype(zero);
    if constexpr (std::is_integral_v<T>) {
      map_tensor(ctx, x.data<T>(), ctx.output(0).data<T>(), x.count(), kCheapGrain,
                 [](T v) { return static_cast<T>(~v); });
    }
  });
}

void infer_shift(InferContext& ctx) {
  check_same_element(ctx);
  check_element(ctx, 0, is_unsigned, "unsigned integers");
  const std::string direction = ctx.node().get_string("direction", "");
  if (direction != "LEFT" && direction != "RIGHT") ctx.fail("direction is '{}'; LEFT and RIGHT are allowed", direction);
  infer_pair(ctx, ctx.element(0));
}

void run_shift(RunContext& ctx) {
  const bool left = ctx.node().get_string("direction", "") == "LEFT";
  const bool known = dispatch<uint8_t, uint16_t, uint32_t, uint64_t>(ctx.input(0).type(), [&](auto zero) {
    using T = decltype(zero);
    constexpr T kWidth = sizeof(T) * 8;
    auto shift = [&](auto f) { map_inputs<T, T, T>(ctx, kCheapGrain, f); };
    if (left) shift([](T a, T b) { return b < kWidth ? static_cast<T>(uint64_t{a} << b) : T(0); });
    else shift([](T a, T b) { return b < kWidth ? static_cast<T>(a >> b) : T(0); });
  });
  if (!known) ctx.fail_type(0);
}

constexpr OpInfo kOps[] = {
    {"", "Equal", 1, 0, infer_equal, run_equal, OpInfo::kViaFloat},
    {"", "Less", 1, 0, infer_order_ints<less>, run_order<false, false>, OpInfo::kViaFloat},
    {"", "LessOrEqual", 12, 0, infer_order_ints<less_or_equal>, run_order<false, true>, OpInfo::kViaFloat},
    {"", "Greater", 1, 0, infer_order_ints<greater>, run_order<true, false>, OpInfo::kViaFloat},
    {"", "GreaterOrEqual", 12, 0, infer_order_ints<greater_or_equal>, run_order<true, true>, OpInfo::kViaFloat},
    {"", "And", 1, 0, infer_logic, run_bits<Bits::kAnd>},
    {"", "Or", 1, 0, infer_logic, run_bits<Bits::kOr>},
    {"", "Xor", 1, 0, infer_logic, run_bits<Bits::kXor>},
    {"", "Not", 1, 0, infer_not, run_not},
    {"", "BitwiseAnd", 18, 0, infer_bits, run_bits<Bits::kAnd>},
    {"", "BitwiseOr", 18, 0, infer_bits, run_bits<Bits::kOr>},
    {"", "BitwiseXor", 18, 0, infer_bits, run_bits<Bits::kXor>},
    {"", "BitwiseNot", 18, 0, infer_bits, run_bitwise_not},
    {"", "BitShift", 11, 0, infer_shift, run_shift},
};

}  // namespace

std::span<const OpInfo> compare_ops() { return kOps; }

}  // namespace sluice::graph::ops
