// Operators of TFLite that compute element by element, compare, choose or reduce; and what all handlers share of
// activations and quantised numbers.
//
// Quantised numbers are computed as floats between DequantizeLinear and QuantizeLinear. A fused activation whose range
// is that of the output's numbers anyway is left out: saturation does the same.
#include <algorithm>
#include <cmath>
#include <limits>

#include "graph/import_tflite_ops.h"

namespace sluice::graph {

using enum TfliteLayout;
using tflite::Activation;
using tflite::BuiltinOperator;

namespace {

// Whether no number of the tensor is below low or above high.
bool is_within(const TfliteTensor& tensor, double low, double high) {
  if (tensor.scales.size() != 1) return false;
  double least = 0, most = 0;
  dispatch<int8_t, uint8_t, int16_t>(tensor.element, [&](auto zero) {
    least = std::numeric_limits<decltype(zero)>::min();
    most = std::numeric_limits<decltype(zero)>::max();
  });
  const auto scale = static_cast<double>(tensor.scales[0]), zero = static_cast<double>(tensor.zeros[0]);
  return std::round(low / scale) + zero <= least && std::round(high / scale) + zero >= most;
}

ValueId activate(TfliteGraph& graph, ValueId x, Activation activation, const TfliteTensor& out) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  switch (activation) {
    case Activation::NONE:
      return x;
    case Activation::RELU:
      return is_within(out, 0, kInfinity) ? x : graph.node("Relu", {x});
    case Activation::RELU_N1_TO_1:
      return is_within(out, -1, 1) ? x : graph.clip(x, -1, 1);
    case Activation::RELU6:
      return is_within(out, 0, 6) ? x : graph.clip(x, 0, 6);
    case Activation::TANH:
      return graph.node("Tanh", {x});
    default:
      fail(Code::kUnimplemented, "fused activation {} is not supported", static_cast<int>(activation));
  }
}

}  // namespace

void TfliteOp::finish(ValueId value, Activation activation, TfliteLayout layout) const {
  graph.set_real(output(0), activate(graph, value, activation, out(0)), layout);
}

bool TfliteOp::keeps_numbers(int i) const {
  const TfliteTensor& from = in(i);
  return std::all_of(outputs.begin(), outputs.end(), [&](int index) {
    if (index < 0) return true;
    const TfliteTensor& to = graph.tensor(index);
    return from.scales.size() <= 1 && from.element == to.element && from.scales == to.scales && from.zeros == to.zeros;
  });
}

ValueId TfliteOp::moved(int i, TfliteLayout layout) const {
  return keeps_numbers(i) ? graph.raw(input(i), layout) : graph.real(input(i), layout);
}

void TfliteOp::finish_moved(ValueId value, TfliteLayout layout) const {
  if (keeps_numbers(0))
    graph.set_raw(output(0), value, layout);
  else
    graph.set_real(output(0), value, layout);
}

void TfliteOp::finish_parts(const std::vector<ValueId>& parts, TfliteLayout layout, int i) const {
  const bool keeps = keeps_numbers(i);
  for (int part = 0; part < num_outputs(); ++part) {
    const ValueId value = parts[static_cast<size_t>(part)];
    if (keeps)
      graph.set_raw(output(part), value, layout);
    else
      graph.set_real(output(part), value, layout);
  }
}

namespace {

// Operands of something elementwise, all in one layout.
struct Operands {
  std::vector<ValueId> values;
  TfliteLayout layout = kLast;
};

Operands read_operands(TfliteOp& op, int first, int count, bool as_real = true) {
  Operands operands;
  bool any = false, all = true;
  for (int i = first; i < first + count; ++i) {
    const TfliteTensor& tensor = op.in(i);
    any |= tensor.is_image() && !tensor.is_constant && op.graph.has_second(op.input(i));
    all &= tensor.is_image() ? tensor.scales.size() <= 1
                             : tensor.is_constant && tensor.data.rank() < 4 && tensor.scales.size() <= 1;
  }
  operands.layout = any && all ? kSecond : kLast;
  for (int i = first; i < first + count; ++i) {
    const int tensor = op.input(i);
    operands.values.push_back(operands.layout == kSecond ? op.graph.broadcast_second(tensor, as_real)
                              : as_real                  ? op.graph.real(tensor)
                                                         : op.graph.raw(tensor));
  }
  return operands;
}

void binary(TfliteOp& op, const char* name, Activation activation = Activation::NONE) {
  const Operands operands = read_operands(op, 0, 2);
  op.finish(op.graph.node(name, operands.values), activation, operands.layout);
}

template <typename Options>
Activation activation_of(const TfliteOp& op) {
  const auto* options = op.find_options<Options>();
  return options == nullptr ? Activation::NONE : options->fused_activation_function();
}

void run_add(TfliteOp& op) { binary(op, "Add", activation_of<tflite::AddOptions>(op)); }
void run_sub(TfliteOp& op) { binary(op, "Sub", activation_of<tflite::SubOptions>(op)); }
void run_mul(TfliteOp& op) { binary(op, "Mul", activation_of<tflite::MulOptions>(op)); }
void run_div(TfliteOp& op) { binary(op, "Div", activation_of<tflite::DivOptions>(op)); }
void run_minimum(TfliteOp& op) { binary(op, "Min"); }
void run_maximum(TfliteOp& op) { binary(op, "Max"); }
void run_pow(TfliteOp& op) { binary(op, "Pow"); }
void run_prelu(TfliteOp& op) { binary(op, "PRelu"); }

void run_add_n(TfliteOp& op) {
  const Operands operands = read_operands(op, 0, op.num_inputs());
  op.finish(op.graph.node("Sum", operands.values), Activation::NONE, operands.layout);
}

void run_squared_difference(TfliteOp& op) {
  const Operands operands = read_operands(op, 0, 2);
  const ValueId difference = op.graph.node("Sub", operands.values);
  op.finish(op.graph.node("Mul", {difference, difference}), Activation::NONE, operands.layout);
}

// Both round towards minus infinity; ONNX's division of integers does not.
void run_floor_div(TfliteOp& op) {
  const Operands operands = read_operands(op, 0, 2);
  if (!is_integer(op.in(0).element) || op.in(0).is_quantised()) {
    const ValueId quotient = op.graph.node("Div", operands.values);
    return op.finish(op.graph.node("Floor", {quotient}), Activation::NONE, operands.layout);
  }
  const ValueId rest = op.graph.node("Mod", operands.values);
  const ValueId whole = op.graph.node("Sub", {operands.values[0], rest});
  op.finish(op.graph.node("Div", {whole, operands.values[1]}), Activation::NONE, operands.layout);
}
void run_floor_mod(TfliteOp& op) {
  const Operands operands = read_operands(op, 0, 2);
  if (is_integer(op.in(0).element) && !op.in(0).is_quantised()) {
    return op.finish(op.graph.node("Mod", operands.values), Activation::NONE, operands.layout);
  }
  const ValueId quotient = op.graph.node("Floor", {op.graph.node("Div", operands.values)});
  const ValueId whole = op.graph.node("Mul", {quotient, operands.values[1]});
  op.finish(op.graph.node("Sub", {operands.values[0], whole}), Activation::NONE, operands.layout);
}

void compare(TfliteOp& op, const char* name) {
  const Operands operands = read_operands(op, 0, 2);
  op.graph.set_raw(op.output(0), op.graph.node(name, operands.values), operands.layout);
}
void run_less(TfliteOp& op) { compare(op, "Less"); }
void run_less_equal(TfliteOp& op) { compare(op, "LessOrEqual"); }
void run_greater(TfliteOp& op) { compare(op, "Greater"); }
void run_greater_equal(TfliteOp& op) { compare(op, "GreaterOrEqual"); }
void run_equal(TfliteOp& op) { compare(op, "Equal"); }
void run_not_equal(TfliteOp& op) {
  const Operands operands = read_operands(op, 0, 2);
  op.graph.set_raw(op.output(0), op.graph.node("Not", {op.graph.node("Equal", operands.values)}), operands.layout);
}
void run_logical_and(TfliteOp& op) { compare(op, "And"); }
void run_logical_or(TfliteOp& op) { compare(op, "Or"); }

// Calls make(x) for the node in place of the operator, in whichever layout x is.
template <typename Make>
void unary(TfliteOp& op, const Make& make) {
  const TfliteLayout layout = op.layout();
  const ValueId x = op.graph.real(op.input(0), layout);
  op.graph.set_real(op.output(0), make(x), layout);
}
template <const char* const& name>
void run_unary(TfliteOp& op) {
  unary(op, [&](ValueId x) { return op.graph.node(name, {x}); });
}
constexpr const char *kAbs = "Abs", *kNeg = "Neg", *kExp = "Exp", *kLog = "Log", *kSqrt = "Sqrt", *kSin = "Sin",
                     *kCos = "Cos", *kFloor = "Floor", *kCeil = "Ceil", *kRound = "Round", *kSign = "Sign",
                     *kTanh = "Tanh", *kSigmoid = "Sigmoid", *kElu = "Elu", *kNot = "Not", *kHardSwish = "HardSwish";

void run_rsqrt(TfliteOp& op) {
  unary(op, [&](ValueId x) { return op.graph.node("Reciprocal", {op.graph.node("Sqrt", {x})}); });
}
void run_square(TfliteOp& op) {
  unary(op, [&](ValueId x) { return op.graph.node("Mul", {x, x}); });
}
void run_gelu(TfliteOp& op) {
  const auto* options = op.find_options<tflite::GeluOptions>();
  const char* kind = options != nullptr && options->approximate() ? "tanh" : "none";
  unary(op, [&](ValueId x) { return op.graph.node("Gelu", {x}, {{"approximate", string_attribute(kind)}}); });
}
void run_leaky_relu(TfliteOp& op) {
  const float alpha = op.options<tflite::LeakyReluOptions>().alpha();
  unary(op, [&](ValueId x) { return op.graph.node("LeakyRelu", {x}, {{"alpha", float_attribute(alpha)}}); });
}

void run_activation(TfliteOp& op, Activation activation) {
  unary(op, [&](ValueId x) { return activate(op.graph, x, activation, op.out(0)); });
}
void run_relu(TfliteOp& op) { run_activation(op, Activation::RELU); }
void run_relu6(TfliteOp& op) { run_activation(op, Activation::RELU6); }
void run_relu_n1_to_1(TfliteOp& op) { run_activation(op, Activation::RELU_N1_TO_1); }
void run_relu_0_to_1(TfliteOp& op) {
  unary(op, [&](ValueId x) { return is_within(op.out(0), 0, 1) ? x : op.graph.clip(x, 0, 1); });
}

// The first form has a condition for each index of the first dimension too.
void run_select(TfliteOp& op) {
  const TfliteTensor &condition = op.in(0), &x = op.in(1);
  if (op.code == BuiltinOperator::SELECT && condition.has_rank && x.has_rank && condition.rank() == 1 && x.rank() > 1) {
    std::vector<int64_t> shape(static_cast<size_t>(x.rank()), 1);
    shape[0] = -1;
    const ValueId rows = op.graph.node("Reshape", {op.graph.raw(op.input(0)), op.graph.ints_constant(shape)});
    const ValueId a = op.graph.real(op.input(1)), b = op.graph.real(op.input(2));
    return op.finish(op.graph.node("Where", {rows, a, b}), Activation::NONE, kLast);
  }
  const Operands operands = read_operands(op, 0, 3);
  op.finish(op.graph.node("Where", operands.values), Activation::NONE, operands.layout);
}

void run_quantize(TfliteOp& op) {
  const TfliteLayout layout = op.layout();
  op.graph.set_real(op.output(0), op.graph.real(op.input(0), layout), layout);
}
void run_dequantize(TfliteOp& op) {
  const TfliteLayout layout = op.layout();
  const ValueId x = op.graph.real(op.input(0), layout);
  const bool is_half = op.in(0).element == ElementType::kF16;
  op.graph.set_raw(op.output(0), is_half ? op.graph.cast(x, ElementType::kF32) : op.graph.node("Identity", {x}),
                   layout);
}

void run_cast(TfliteOp& op) {
  const TfliteLayout layout = op.layout();
  const ElementType to = op.out(0).element;
  if (to == ElementType::kUndefined) fail(Code::kUnimplemented, "casts to a type that is not supported");
  op.graph.set_raw(op.output(0), op.graph.cast(op.graph.raw(op.input(0), layout), to), layout);
}

// Over axes [..] of the input. Stays in the layout where the order of what is left is the same.
void reduce(TfliteOp& op, const char* name, bool as_real, const std::function<ValueId(ValueId)>& before = {},
            const std::function<ValueId(ValueId)>& after = {}) {
  const auto* options = op.find_options<tflite::ReducerOptions>();
  const bool keep_dims = options != nullptr && options->keep_dims();
  const TfliteTensor& x = op.in(0);
  const std::optional<std::vector<int64_t>> given = op.graph.find_ints(op.input(1));
  TfliteLayout layout = kLast;
  ValueId axes = kNoValue;
  if (given && x.has_rank) {
    std::vector<int64_t> sorted;
    for (const int64_t axis : *given) sorted.push_back(TfliteOp::axis(axis, x.rank()));
    std::sort(sorted.begin(), sorted.end());
    sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
    const bool has_channels = std::find(sorted.begin(), sorted.end(), 3) != sorted.end();
    const bool has_places = std::find(sorted.begin(), sorted.end(), 1) != sorted.end() &&
                            std::find(sorted.begin(), sorted.end(), 2) != sorted.end();
    if (x.is_image() && op.graph.has_second(op.input(0)) && (keep_dims || has_channels || has_places)) layout = kSecond;
    for (int64_t& axis : sorted) axis = TfliteGraph::axis_in(axis, layout);
    if (sorted.empty()) {  // reduces nothing
      op.graph.set_real(op.output(0), op.graph.node("Identity", {op.graph.real(op.input(0))}));
      return;
    }
    std::sort(sorted.begin(), sorted.end());
    axes = op.graph.ints_constant(sorted);
  } else {
    axes = op.graph.ints(op.input(1));
  }
  ValueId value = as_real ? op.graph.real(op.input(0), layout) : op.graph.raw(op.input(0), layout);
  if (before) value = before(value);
  value = op.graph.node(name, {value, axes}, {{"keepdims", int_attribute(keep_dims ? 1 : 0)}});
  if (after) value = after(value);
  const TfliteLayout result = keep_dims ? layout : kLast;
  if (as_real)
    op.graph.set_real(op.output(0), value, result);
  else
    op.graph.set_raw(op.output(0), value, result);
}

void run_mean(TfliteOp& op) { reduce(op, "ReduceMean", true); }
void run_sum(TfliteOp& op) { reduce(op, "ReduceSum", true); }
void run_reduce_prod(TfliteOp& op) { reduce(op, "ReduceProd", true); }
void run_reduce_max(TfliteOp& op) { reduce(op, "ReduceMax", !op.keeps_numbers(0)); }
void run_reduce_min(TfliteOp& op) { reduce(op, "ReduceMin", !op.keeps_numbers(0)); }
void reduce_bools(TfliteOp& op, const char* name) {
  reduce(
      op, name, false, [&](ValueId x) { return op.graph.cast(x, ElementType::kI32); },
      [&](ValueId x) { return op.graph.cast(x, ElementType::kBool); });
}
void run_reduce_any(TfliteOp& op) { reduce_bools(op, "ReduceMax"); }
void run_reduce_all(TfliteOp& op) { reduce_bools(op, "ReduceMin"); }

// Numbers of one scale are in the order of what they stand for.
void find_extreme(TfliteOp& op, const char* name) {
  const int rank = op.rank(0);
  const std::vector<int64_t> axis = op.constant_ints(1, "the axis");
  if (axis.size() != 1) fail(Code::kInvalidArgument, "has {} axes", axis.size());
  const ValueId index =
      op.graph.node(name, {op.graph.raw(op.input(0))},
                    {{"axis", int_attribute(TfliteOp::axis(axis[0], rank))}, {"keepdims", int_attribute(0)}});
  const bool is_long = op.out(0).element == ElementType::kI64;
  op.graph.set_raw(op.output(0), is_long ? index : op.graph.cast(index, op.out(0).element));
}
void run_arg_max(TfliteOp& op) { find_extreme(op, "ArgMax"); }
void run_arg_min(TfliteOp& op) { find_extreme(op, "ArgMin"); }

void run_cumsum(TfliteOp& op) {
  const auto* options = op.find_options<tflite::CumsumOptions>();
  const bool is_exclusive = options != nullptr && options->exclusive();
  const bool is_reverse = options != nullptr && options->reverse();
  const ValueId x = op.graph.real(op.input(0)), axis = op.graph.ints(op.input(1));
  op.finish(op.graph.node("CumSum", {x, axis},
                          {{"exclusive", int_attribute(is_exclusive)}, {"reverse", int_attribute(is_reverse)}}),
            Activation::NONE, kLast);
}

void run_topk(TfliteOp& op) {
  const ValueId k = op.graph.node("Reshape", {op.graph.ints(op.input(1)), op.graph.ints_constant({1})});
  const bool keeps = op.in(0).scales == op.out(0).scales && op.in(0).zeros == op.out(0).zeros;
  const ValueId x = keeps ? op.graph.raw(op.input(0)) : op.graph.real(op.input(0));
  const std::vector<ValueId> best = op.graph.nodes("TopK", {x, k}, 2, {{"axis", int_attribute(-1)}});
  if (keeps)
    op.graph.set_raw(op.output(0), best[0]);
  else
    op.graph.set_real(op.output(0), best[0]);
  if (op.num_outputs() > 1) op.graph.set_raw(op.output(1), op.graph.cast(best[1], ElementType::kI32));
}

constexpr TfliteHandler kHandlers[] = {
    {BuiltinOperator::ADD, run_add},
    {BuiltinOperator::SUB, run_sub},
    {BuiltinOperator::MUL, run_mul},
    {BuiltinOperator::DIV, run_div},
    {BuiltinOperator::MINIMUM, run_minimum},
    {BuiltinOperator::MAXIMUM, run_maximum},
    {BuiltinOperator::POW, run_pow},
    {BuiltinOperator::PRELU, run_prelu},
    {BuiltinOperator::ADD_N, run_add_n},
    {BuiltinOperator::SQUARED_DIFFERENCE, run_squared_difference},
    {BuiltinOperator::FLOOR_DIV, run_floor_div},
    {BuiltinOperator::FLOOR_MOD, run_floor_mod},
    {BuiltinOperator::LESS, run_less},
    {BuiltinOperator::LESS_EQUAL, run_less_equal},
    {BuiltinOperator::GREATER, run_greater},
    {BuiltinOperator::GREATER_EQUAL, run_greater_equal},
    {BuiltinOperator::EQUAL, run_equal},
    {BuiltinOperator::NOT_EQUAL, run_not_equal},
    {BuiltinOperator::LOGICAL_AND, run_logical_and},
    {BuiltinOperator::LOGICAL_OR, run_logical_or},
    {BuiltinOperator::LOGICAL_NOT, run_unary<kNot>},
    {BuiltinOperator::ABS, run_unary<kAbs>},
    {BuiltinOperator::NEG, run_unary<kNeg>},
    {BuiltinOperator::EXP, run_unary<kExp>},
    {BuiltinOperator::LOG, run_unary<kLog>},
    {BuiltinOperator::SQRT, run_unary<kSqrt>},
    {BuiltinOperator::SIN, run_unary<kSin>},
    {BuiltinOperator::COS, run_unary<kCos>},
    {BuiltinOperator::FLOOR, run_unary<kFloor>},
    {BuiltinOperator::CEIL, run_unary<kCeil>},
    {BuiltinOperator::ROUND, run_unary<kRound>},
    {BuiltinOperator::SIGN, run_unary<kSign>},
    {BuiltinOperator::TANH, run_unary<kTanh>},
    {BuiltinOperator::LOGISTIC, run_unary<kSigmoid>},
    {BuiltinOperator::ELU, run_unary<kElu>},
    {BuiltinOperator::HARD_SWISH, run_unary<kHardSwish>},
    {BuiltinOperator::RSQRT, run_rsqrt},
    {BuiltinOperator::SQUARE, run_square},
    {BuiltinOperator::GELU, run_gelu},
    {BuiltinOperator::LEAKY_RELU, run_leaky_relu},
    {BuiltinOperator::RELU, run_relu},
    {BuiltinOperator::RELU6, run_relu6},
    {BuiltinOperator::RELU_N1_TO_1, run_relu_n1_to_1},
    {BuiltinOperator::RELU_0_TO_1, run_relu_0_to_1},
    {BuiltinOperator::SELECT, run_select},
    {BuiltinOperator::SELECT_V2, run_select},
    {BuiltinOperator::QUANTIZE, run_quantize},
    {BuiltinOperator::DEQUANTIZE, run_dequantize},
    {BuiltinOperator::CAST, run_cast},
    {BuiltinOperator::MEAN, run_mean},
    {BuiltinOperator::SUM, run_sum},
    {BuiltinOperator::REDUCE_PROD, run_reduce_prod},
    {BuiltinOperator::REDUCE_MAX, run_reduce_max},
    {BuiltinOperator::REDUCE_MIN, run_reduce_min},
    {BuiltinOperator::REDUCE_ANY, run_reduce_any},
    {BuiltinOperator::REDUCE_ALL, run_reduce_all},
    {BuiltinOperator::ARG_MAX, run_arg_max},
    {BuiltinOperator::ARG_MIN, run_arg_min},
    {BuiltinOperator::CUMSUM, run_cumsum},
    {BuiltinOperator::TOPK_V2, run_topk},
};

}  // namespace

std::span<const TfliteHandler> tflite_math_handlers() { return kHandlers; }

}  // namespace sluice::graph
