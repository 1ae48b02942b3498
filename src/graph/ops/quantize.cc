// QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear (ONNX operator specification, opsets 10 to 28), and
// com.microsoft's forms of the first two.
//
// One scale serves the tensor, each index of an axis its own, or each block of `block_size` along the axis; all three
// are seen as rows that share a scale, or, of blocks along an axis that is not the last, rows with a scale an element.
// Arithmetic is in float; if the scale (or `precision`) is f16 or bf16 the quotient is rounded to that before it is
// rounded to an integer, as the specification has it. Integers saturate; NaN becomes the lowest number.
#include <cmath>
#include <limits>
#include <type_traits>

#include "graph/ops/convert.h"
#include "graph/ops/elementwise.h"
#include "graph/ops/ops.h"
#include "graph/ops/vector_math.h"

namespace sluice::graph::ops {
namespace {

bool is_quantized(ElementType t) {
  return (is_integer(t) && get_info(t).packed_bits <= 16) || (is_narrow_float(t) && t != ElementType::kF8E8M0);
}
bool is_scale(ElementType t) { return is_wide_float(t) || t == ElementType::kI32 || t == ElementType::kF8E8M0; }

ElementType element_attribute(const InferContext& ctx, const char* attribute) {
  const int64_t code = ctx.node().get_int(attribute, 0);
  if (code < 0 || code >= kNumElementTypes) ctx.fail("{} is {}, which is no element type", attribute, code);
  return static_cast<ElementType>(code);
}

// Which elements of x share a scale.
struct Groups {
  int64_t outer = 1, length = 1, inner = 1;  // x around the axis
  int64_t num_scales = 1;                    // along the axis
  int64_t block = 1;                         // elements along the axis with one scale
  bool is_blocked = false;                   // each of outer x num_scales x inner has its own
};

// `fail` is called with what is wrong.
template <typename Fail>
Groups groups_of(const Node& node, const Shape& x, const Shape& scale, Fail fail) {
  Groups groups;
  const int64_t block = node.get_int("block_size", 0);
  if (block < 0) fail("block_size is negative");
  const bool is_single = scale.count() == 1 && block == 0;
  int64_t axis = node.get_int("axis", 1);
  if (is_single || (x.rank() == 0 && scale.count() == 1)) {
    groups.inner = x.count();
    return groups;
  }
  if (x.rank() == 1 && scale.rank() == 1 && block == 0) axis = 0;
  if (axis < -x.rank() || axis >= x.rank()) fail("axis is outside the tensor");
  const int at = static_cast<int>(axis < 0 ? axis + x.rank() : axis);
  groups.outer = x.count(0, at);
  groups.length = x[at];
  groups.inner = x.count(at + 1, x.rank());
  groups.num_scales = groups.length;
  if (block == 0) {
    if (scale.rank() != 1 || scale[0] != x[at])
      fail("the scales have to be one for the tensor or one for each index of the axis");
    return groups;
  }
  if (scale.rank() != x.rank()) fail("scales of blocks need as many dimensions as x");
  for (int i = 0; i < x.rank(); ++i) {
    const int64_t expected = i == at ? x[i] / block + (x[i] % block != 0 ? 1 : 0) : x[i];
    if (scale[i] != expected) fail("the shape of the scales does not fit x and block_size");
  }
  groups.block = block;
  groups.num_scales = scale[at];
  groups.is_blocked = true;
  return groups;
}

void check_groups(InferContext& ctx) {
  if (ctx.has_input(2) && ctx.has_rank(1) && ctx.has_rank(2)) {
    const std::optional<Shape> scale = known_shape(ctx.dims(1)), zero = known_shape(ctx.dims(2));
    const bool both_single = scale && zero && scale->count() == 1 && zero->count() == 1;
    if (scale && zero && !(*scale == *zero) && !both_single) {
      ctx.fail("a zero point of shape {} and a scale of shape {}; they have to be alike", to_string(*zero),
               to_string(*scale));
    }
  }
  if (!ctx.has_rank(0) || !ctx.has_rank(1)) return;
  const std::optional<Shape> x = known_shape(ctx.dims(0)), scale = known_shape(ctx.dims(1));
  if (!x || !scale) return;
  groups_of(ctx.node(), *x, *scale, [&](const char* what) {
    ctx.fail("{} (x is {}, the scale {}, axis {}, block_size {})", what, to_string(*x), to_string(*scale),
             ctx.node().get_int("axis", 1), ctx.node().get_int("block_size", 0));
  });
}

void set_shape(InferContext& ctx, int output, ElementType element) {
  if (ctx.has_rank(0)) ctx.set_output(output, element, ctx.dims(0));
  else ctx.set_output(output, element);
}

void infer_quantize(InferContext& ctx) {
  check_element(
      ctx, 0, [](ElementType t) { return is_wide_float(t) || t == ElementType::kI32; },
      "floating point numbers or int32");
  check_element(ctx, 1, is_scale, "floating point numbers");
  check_element(ctx, 2, is_quantized, "integers of at most 16 bits or 8-bit floats");
  check_groups(ctx);
  ElementType element = element_attribute(ctx, "output_dtype");
  if (ctx.has_input(2)) {
    if (element != ElementType::kUndefined && ctx.element(2) != ElementType::kUndefined && element != ctx.element(2)) {
      ctx.fail("output_dtype is {} and the zero point {}; they have to be the same", name(element),
               name(ctx.element(2)));
    }
    element = ctx.element(2);
  } else if (element == ElementType::kUndefined) {
    element = ElementType::kU8;
  }
  if (element != ElementType::kUndefined && !is_quantized(element)) ctx.fail("cannot quantize to {}", name(element));
  set_shape(ctx, 0, element);
}

void infer_dequantize(InferContext& ctx) {
  check_element(
      ctx, 0, [](ElementType t) { return is_quantized(t) || t == ElementType::kI32; },
      "integers of at most 16 bits, int32 or 8-bit floats");
  check_element(ctx, 1, [](ElementType t) { return is_scale(t) && t != ElementType::kI32; }, "floating point numbers");
  if (ctx.has_input(2) && ctx.element(0) != ElementType::kUndefined && ctx.element(2) != ElementType::kUndefined &&
      ctx.element(0) != ctx.element(2)) {
    ctx.fail("x is {} and the zero point {}; they have to be of one type", name(ctx.element(0)), name(ctx.element(2)));
  }
  check_groups(ctx);
  ElementType element = element_attribute(ctx, "output_dtype");
  if (element == ElementType::kUndefined) element = ctx.element(1);
  if (element != ElementType::kUndefined && !is_wide_float(element))
    ctx.fail("the result would be {}; set output_dtype to float, float16 or bfloat16", name(element));
  set_shape(ctx, 0, element);
}

// A tensor as float32: itself if it is.
Tensor as_floats(RunContext& ctx, const Tensor& from) {
  if (from.type() == ElementType::kF32) return from;
  Tensor to = ctx.make(ElementType::kF32, from.shape());
  convert_elements(from, to, {}, ctx.pool());
  return to;
}

// Calls row(begin, n, scale, scale_step): n elements of x from `begin`, whose scales are at `scale`, one for all
// (step 0) or one each (step 1).
template <typename Row>
void for_groups(ThreadPool& pool, const Groups& g, Row&& row) {
  if (g.outer == 1 && g.length == 1) {
    pool.parallel_for(g.inner, kCheapGrain,
                      [&](int64_t begin, int64_t end, int) { row(begin, end - begin, int64_t{0}, 0); });
    return;
  }
  if (g.is_blocked && g.inner == 1) {
    const int64_t grain = std::max<int64_t>(1, kCheapGrain / g.block);
    pool.parallel_for(g.outer * g.num_scales, grain, [&](int64_t begin, int64_t end, int) {
      for (int64_t s = begin; s < end; ++s) {
        const int64_t first = s % g.num_scales * g.block;
        row(s / g.num_scales * g.length + first, std::min(g.block, g.length - first), s, 0);
      }
    });
    return;
  }
  const int64_t grain = std::max<int64_t>(1, kCheapGrain / std::max<int64_t>(1, g.inner));
  pool.parallel_for(g.outer * g.length, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t k = r % g.length;
      if (g.is_blocked) row(r * g.inner, g.inner, (r / g.length * g.num_scales + k / g.block) * g.inner, 1);
      else row(r * g.inner, g.inner, k, 0);
    }
  });
}

// Rounds the quotient to the precision of the division.
template <ElementType precision>
float at_precision(float v) {
  if constexpr (precision == ElementType::kF16) return f16_to_float(float_to_f16(v));
  else if constexpr (precision == ElementType::kBF16) return bf16_to_float(float_to_bf16(v));
  else return v;
}

// zeros is null where all are 0.
template <ElementType precision>
void quantize(RunContext& ctx, const Groups& groups, const float* x, const float* scales, const float* zeros, Tensor& z,
              bool saturates) {
  const ElementType type = z.type();
  if (is_narrow_float(type)) {
    uint8_t* to = z.data<uint8_t>();
    return for_groups(ctx.pool(), groups, [&](int64_t begin, int64_t n, int64_t scale, int64_t step) {
      for (int64_t i = 0; i < n; ++i) {
        const float zero = zeros == nullptr ? 0.0f : zeros[scale + i * step];
        to[begin + i] =
            float_to_narrow(type, at_precision<precision>(x[begin + i] / scales[scale + i * step]) + zero, saturates);
      }
    });
  }
  const int bits = get_info(type).packed_bits;
  const bool is_signed = !is_unsigned(type) && type != ElementType::kU4 && type != ElementType::kU2;
  const float low = is_signed ? static_cast<float>(-(1 << (bits - 1))) : 0.0f;
  const float high = static_cast<float>((1 << (is_signed ? bits - 1 : bits)) - 1);
  auto write = [&](auto zero_of_type) {
    using T = decltype(zero_of_type);
    T* to = z.data<T>();
    auto convert = [low, high](float v, float scale, float zero) {
      const float q = round_even(at_precision<precision>(v / scale)) + zero;
      const float raised = q > low ? q : low;
      return static_cast<T>(static_cast<int32_t>(raised < high ? raised : high));
    };
    for_groups(ctx.pool(), groups, [&](int64_t begin, int64_t n, int64_t scale, int64_t step) {
      const float* s = scales + scale;
      const float* zero = zeros == nullptr ? nullptr : zeros + scale;
      if (step == 0) {
        const float scale_of_all = *s, zero_of_all = zero == nullptr ? 0.0f : *zero;
        map_row(x + begin, to + begin, n, [=](float v) { return convert(v, scale_of_all, zero_of_all); });
      } else {
        for (int64_t i = 0; i < n; ++i) to[begin + i] = convert(x[begin + i], s[i], zero == nullptr ? 0.0f : zero[i]);
      }
    });
  };
  const ElementType holder = bits >= 8 ? type : is_signed ? ElementType::kI8 : ElementType::kU8;
  if (!dispatch<int8_t, uint8_t, int16_t, uint16_t>(holder, write)) ctx.fail("cannot quantize to {}", name(type));
}

Groups run_groups(RunContext& ctx) {
  return groups_of(ctx.node(), ctx.input(0).shape(), ctx.input(1).shape(),
                   [&](const char* what) { ctx.fail("{}", what); });
}

void run_quantize(RunContext& ctx) {
  const Groups groups = run_groups(ctx);
  const Tensor x = as_floats(ctx, ctx.input(0)), scales = as_floats(ctx, ctx.input(1));
  const Tensor zeros = ctx.has_input(2) ? as_floats(ctx, ctx.input(2)) : Tensor();
  const int64_t precision = ctx.node().get_int("precision", static_cast<int64_t>(ctx.input(1).type()));
  const bool saturates = ctx.node().get_int("saturate", 1) != 0;
  const float* zero = zeros.is_null() ? nullptr : zeros.data<float>();
  const float *from = x.data<float>(), *scale = scales.data<float>();
  Tensor& z = ctx.output(0);
  switch (static_cast<ElementType>(precision)) {
    case ElementType::kF16: return quantize<ElementType::kF16>(ctx, groups, from, scale, zero, z, saturates);
    case ElementType::kBF16: return quantize<ElementType::kBF16>(ctx, groups, from, scale, zero, z, saturates);
    default: return quantize<ElementType::kF32>(ctx, groups, from, scale, zero, z, saturates);
  }
}

void run_dequantize(RunContext& ctx) {
  const Groups groups = run_groups(ctx);
  const Tensor& x = ctx.input(0);
  const Tensor scales = as_floats(ctx, ctx.input(1)),
               zeros = ctx.has_input(2) ? as_floats(ctx, ctx.input(2)) : Tensor();
  const float *scale = scales.data<float>(), *zero = zeros.is_null() ? nullptr : zeros.data<float>();
  Tensor& output = ctx.output(0);
  Tensor z = output.type() == ElementType::kF32 ? output : ctx.make(ElementType::kF32, output.shape());
  float* to = z.data<float>();
  auto read = [&](auto zero_of_type, auto value_of) {
    using T = decltype(zero_of_type);
    const T* from = x.data<T>();
    for_groups(ctx.pool(), groups, [&](int64_t begin, int64_t n, int64_t at, int64_t step) {
      if (step == 0) {
        const float s = scale[at], c = zero == nullptr ? 0.0f : zero[at];
        map_row(from + begin, to + begin, n, [=](T v) { return (value_of(v) - c) * s; });
      } else {
        for (int64_t i = 0; i < n; ++i)
          to[begin + i] = (value_of(from[begin + i]) - (zero == nullptr ? 0.0f : zero[at + i])) * scale[at + i];
      }
    });
  };
  if (is_narrow_float(x.type())) {
    read(uint8_t{}, [values = narrow_float_values(x.type())](uint8_t code) { return values[code]; });
  } else {
    const bool is_small = get_info(x.type()).packed_bits < 8;
    const bool is_signed = x.type() == ElementType::kI4 || x.type() == ElementType::kI2;
    const ElementType holder = !is_small ? x.type() : is_signed ? ElementType::kI8 : ElementType::kU8;
    const bool known = dispatch<int8_t, uint8_t, int16_t, uint16_t, int32_t>(
        holder, [&](auto v) { read(v, [](auto number) { return static_cast<float>(number); }); });
    if (!known) ctx.fail_type(0);
  }
  if (output.type() != ElementType::kF32) convert_elements(z, output, {}, ctx.pool());
}

void infer_dynamic(InferContext& ctx) {
  check_element(ctx, 0, [](ElementType t) { return t == ElementType::kF32; }, "float32");
  set_shape(ctx, 0, ElementType::kU8);
  ctx.set_output(1, ElementType::kF32, {});
  ctx.set_output(2, ElementType::kU8, {});
}

void run_dynamic(RunContext& ctx) {
  const Tensor& x = ctx.input(0);
  const float* from = x.data<float>();
  float lows[16] = {}, highs[16] = {};  // 0 belongs to the range
  int64_t i = 0;
  for (; i + 16 <= x.count(); i += 16) {
    for (int j = 0; j < 16; ++j) {
      lows[j] = from[i + j] < lows[j] ? from[i + j] : lows[j];
      highs[j] = from[i + j] > highs[j] ? from[i + j] : highs[j];
    }
  }
  float low = 0, high = 0;
  for (int j = 0; j < 16; ++j) low = std::min(low, lows[j]), high = std::max(high, highs[j]);
  for (; i < x.count(); ++i) low = std::min(low, from[i]), high = std::max(high, from[i]);
  const float scale = (high - low) / 255.0f;
  const float exact = scale == 0 ? 0.0f : -low / scale;
  const float zero = round_even(exact > 0 ? (exact < 255.0f ? exact : 255.0f) : 0.0f);
  if (ctx.has_output(1)) ctx.output_data<float>(1)[0] = scale;
  if (ctx.has_output(2)) ctx.output_data<uint8_t>(2)[0] = static_cast<uint8_t>(zero);
  Groups groups;
  groups.inner = x.count();
  const float divisor = scale == 0 ? 1.0f : scale;  // everything is 0 then
  quantize<ElementType::kF32>(ctx, groups, from, &divisor, &zero, ctx.output(0), true);
}

constexpr OpInfo kOps[] = {
    {"", "QuantizeLinear", 10, 0, infer_quantize, run_quantize},
    {"", "DequantizeLinear", 10, 0, infer_dequantize, run_dequantize},
    {"", "DynamicQuantizeLinear", 11, 0, infer_dynamic, run_dynamic},
    {kMicrosoft, "QuantizeLinear", 1, 0, infer_quantize, run_quantize},
    {kMicrosoft, "DequantizeLinear", 1, 0, infer_dequantize, run_dequantize},
};

}  // namespace

std::span<const OpInfo> quantize_ops() { return kOps; }

}  // namespace sluice::graph::ops
