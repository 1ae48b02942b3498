// Cast, CastLike and BitCast between all element types but complex ones (ONNX operator specification, opsets 6 to 28).
//
// A chunk of the source is widened to a C++ number (f16, bf16 and narrower floats to float, which is exact), converted,
// and narrowed: what goes to a narrow float from anything wider than float is rounded to odd on the way, so that it is
// rounded once. Floats become integers by cutting off the fraction; what the specification leaves undefined is NaN to
// 0, 32 and 64 bits saturating, and fewer bits keeping the low ones, as NumPy does. Floats become strings with as many
// digits as tell them apart, "1.0" and not "1"; infinities and NaN as "INF", "-INF" and "NaN".
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>

#include "graph/ops/convert.h"
#include "graph/ops/elementwise.h"
#include "graph/ops/ops.h"

namespace sluice::graph::ops {
namespace {

constexpr int64_t kChunk = 1024;  // elements that are in intermediate form at once

template <typename U, typename T>
U float_to_integer(T v) {
  if constexpr (std::is_same_v<U, uint64_t>) {
    if (v >= T(9223372036854775808.0))
      return v >= T(18446744073709551616.0) ? std::numeric_limits<U>::max() : static_cast<U>(v);
    return static_cast<U>(float_to_integer<int64_t>(v));
  } else if constexpr (std::is_same_v<U, int64_t>) {
    if (!(v == v)) return 0;
    if (v >= T(9223372036854775808.0)) return std::numeric_limits<U>::max();
    return v <= T(-9223372036854775808.0) ? std::numeric_limits<U>::min() : static_cast<U>(v);
  } else if constexpr (std::is_same_v<U, uint32_t>) {
    return static_cast<U>(float_to_integer<int64_t>(v));
  } else if constexpr (std::is_same_v<U, int32_t>) {
    const T bounded = v > T(-2147483648.0) ? v : T(-2147483648.0);
    const int32_t cut = static_cast<int32_t>(bounded < T(2147483648.0) ? bounded : T(0));
    return v != v ? 0 : v >= T(2147483648.0) ? std::numeric_limits<U>::max() : cut;
  } else {
    return static_cast<U>(float_to_integer<int32_t>(v));
  }
}

template <typename T, typename U>
U convert_number(T v) {
  if constexpr (std::is_same_v<U, bool>) return v != T(0);
  else if constexpr (std::is_floating_point_v<T> && std::is_integral_v<U>) return float_to_integer<U>(v);
  else return static_cast<U>(v);
}

template <typename Body>
bool dispatch_plain(ElementType type, Body&& body) {
  return dispatch_numbers(type, body) || dispatch<bool>(type, body);
}

// The type that holds elements of `type` as a number of C++: float for narrower floats, a byte for narrower integers.
ElementType plain_type(ElementType type) {
  if (is_half(type) || is_narrow_float(type)) return ElementType::kF32;
  if (type == ElementType::kI4 || type == ElementType::kI2) return ElementType::kI8;
  if (type == ElementType::kU4 || type == ElementType::kU2) return ElementType::kU8;
  return type;
}

void widen(ElementType type, const void* from, float* to, int64_t n) {
  const auto* words = static_cast<const uint16_t*>(from);
  if (type == ElementType::kF16) {
    for (int64_t i = 0; i < n; ++i) to[i] = f16_to_float(words[i]);
  } else if (type == ElementType::kBF16) {
    map_row(words, to, n, [](uint16_t v) { return bf16_to_float(v); });
  } else {
    const float* values = narrow_float_values(type);
    const auto* codes = static_cast<const uint8_t*>(from);
    for (int64_t i = 0; i < n; ++i) to[i] = values[codes[i]];
  }
}

void narrow(ElementType type, const float* from, void* to, int64_t n, const ConvertOptions& options) {
  if (type == ElementType::kF16) {
    for (int64_t i = 0; i < n; ++i) static_cast<uint16_t*>(to)[i] = float_to_f16(from[i]);
  } else if (type == ElementType::kBF16) {
    map_row(from, static_cast<uint16_t*>(to), n, [](float v) { return float_to_bf16(v); });
  } else {
    auto* codes = static_cast<uint8_t*>(to);
    for (int64_t i = 0; i < n; ++i) codes[i] = float_to_narrow(type, from[i], options.saturates, options.round_mode);
  }
}

// Keeps the low bits, in place, signed types sign-extended.
void cut_bits(ElementType type, uint8_t* bytes, int64_t n) {
  const int unused = 8 - get_info(type).packed_bits;
  const bool is_signed = type == ElementType::kI4 || type == ElementType::kI2;
  for (int64_t i = 0; i < n; ++i) {
    const auto shifted = static_cast<uint8_t>(bytes[i] << unused);
    bytes[i] = is_signed ? static_cast<uint8_t>(static_cast<int8_t>(shifted) >> unused)
                         : static_cast<uint8_t>(shifted >> unused);
  }
}

// One chunk of plain numbers T, as `type`.
template <typename T>
void convert_chunk(const T* from, ElementType type, uint8_t* to, int64_t n, const ConvertOptions& options) {
  if (is_half(type) || is_narrow_float(type)) {
    if constexpr (std::is_same_v<T, float>) {
      narrow(type, from, to, n, options);
    } else {
      float floats[kChunk];
      for (int64_t i = 0; i < n; ++i) floats[i] = round_to_odd(static_cast<double>(from[i]));
      narrow(type, floats, to, n, options);
    }
    return;
  }
  dispatch_plain(plain_type(type), [&](auto zero) {
    using U = decltype(zero);
    map_row(from, reinterpret_cast<U*>(to), n, [](T v) { return convert_number<T, U>(v); });
  });
  if (get_info(type).packed_bits < 8) cut_bits(type, to, n);
}

template <typename T>
std::string to_text(T v) {
  if constexpr (std::is_same_v<T, bool>) {
    return v ? "True" : "False";
  } else if constexpr (std::is_floating_point_v<T>) {
    if (std::isnan(v)) return "NaN";
    if (std::isinf(v)) return v < 0 ? "-INF" : "INF";
    std::string text = fmt::format("{}", v);
    if (text.find_first_of(".e") == std::string::npos) text += ".0";
    return text;
  } else {
    return fmt::format("{}", v);
  }
}

template <typename T>
bool parse_number(std::string_view text, T& value) {
  const char* end = text.data() + text.size();
  const std::from_chars_result result = std::from_chars(text.data(), end, value);
  if constexpr (std::is_floating_point_v<T>) {
    if (result.ec == std::errc::result_out_of_range)
      value = static_cast<T>(std::strtod(std::string(text).c_str(), nullptr));
    else if (result.ec != std::errc()) return false;
  } else if (result.ec != std::errc()) {
    return false;
  }
  return result.ptr == end;
}

std::string_view trim(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  text = text.substr(begin, text.find_last_not_of(kSpace) + 1 - begin);
  if (text.size() > 1 && text[0] == '+' && text[1] != '-') text.remove_prefix(1);
  return text;
}

template <typename U>
U parse_text(const std::string& whole) {
  const std::string_view text = trim(whole);
  U value{};
  if constexpr (std::is_same_v<U, bool>) {
    if (text == "True" || text == "true") return true;
    if (text == "False" || text == "false") return false;
  } else if (parse_number(text, value)) {
    return value;
  }
  double number = 0;
  if (!parse_number(text, number))
    fail(Code::kInvalidArgument, "a Cast of text that is no number: '{}'", whole.substr(0, 40));
  return convert_number<double, U>(number);
}

void convert_text(const Tensor& from, Tensor& to, const ConvertOptions& options) {
  const std::string* text = from.data<std::string>();
  if (is_half(to.type()) || is_narrow_float(to.type())) {
    const int bytes = get_info(to.type()).bytes;
    for (int64_t i = 0; i < from.count(); ++i) {
      const float number = round_to_odd(parse_text<double>(text[i]));
      narrow(to.type(), &number, static_cast<uint8_t*>(to.raw()) + i * bytes, 1, options);
    }
    return;
  }
  const bool known = dispatch_plain(plain_type(to.type()), [&](auto zero) {
    using U = decltype(zero);
    U* z = static_cast<U*>(to.raw());
    for (int64_t i = 0; i < from.count(); ++i) z[i] = parse_text<U>(text[i]);
  });
  if (!known) fail(Code::kInvalidArgument, "a Cast from string to {}", name(to.type()));
  if (get_info(to.type()).packed_bits < 8) cut_bits(to.type(), static_cast<uint8_t*>(to.raw()), to.count());
}

// Calls body(numbers, offset, n) for chunks of [begin, end) of a tensor, widened to T if need be.
template <typename T, typename Body>
void for_chunks(const Tensor& from, int64_t begin, int64_t end, Body&& body) {
  const int bytes = get_info(from.type()).bytes;
  for (int64_t i = begin; i < end; i += kChunk) {
    const int64_t n = std::min(kChunk, end - i);
    const uint8_t* at = static_cast<const uint8_t*>(from.raw()) + i * bytes;
    if constexpr (std::is_same_v<T, float>) {
      if (from.type() != ElementType::kF32) {
        float floats[kChunk];
        widen(from.type(), at, floats, n);
        body(floats, i, n);
        continue;
      }
    }
    body(reinterpret_cast<const T*>(at), i, n);
  }
}

ElementType element_of(const InferContext& ctx, int64_t code) {
  if (code <= 0 || code >= kNumElementTypes) ctx.fail("there is no element type {}", code);
  return static_cast<ElementType>(code);
}

void infer_cast_to(InferContext& ctx, ElementType to) {
  auto check = [&](ElementType t) {
    if (t == ElementType::kC64 || t == ElementType::kC128)
      ctx.fail("{} cannot be cast to {}", name(ctx.element(0)), name(to));
  };
  check(to);
  check(ctx.element(0));
  const std::string round_mode = ctx.node().get_string("round_mode", "up");
  if (round_mode != "up" && round_mode != "down" && round_mode != "nearest") {
    ctx.fail("round_mode is '{}'; up, down and nearest are allowed", round_mode);
  }
  if (ctx.has_rank(0)) ctx.set_output(0, to, ctx.dims(0));
  else ctx.set_output(0, to);
  if ((!is_wide_integer(ctx.element(0)) && ctx.element(0) != ElementType::kBool) || !may_carry_ints(ctx, 0)) return;
  const std::optional<std::vector<Dim>> ints = ctx.ints(0);
  if (!ints) return;
  if (to == ElementType::kI64 || to == ElementType::kU64) return ctx.set_ints(0, *ints);
  if (to != ElementType::kI32 && to != ElementType::kBool) return;
  std::vector<Dim> converted;
  for (const Dim& dim : *ints) {
    if (dim.is_known()) {
      converted.emplace_back(to == ElementType::kBool ? int64_t{dim.value() != 0}
                                                      : int64_t{static_cast<int32_t>(dim.value())});
    } else if (to == ElementType::kI32) {
      converted.push_back(dim);
    } else {
      return;
    }
  }
  ctx.set_ints(0, std::move(converted));
}

void infer_cast(InferContext& ctx) {
  if (!ctx.node().has("to")) ctx.fail("the attribute 'to' is missing");
  infer_cast_to(ctx, element_of(ctx, ctx.node().get_int("to", 0)));
}

void infer_cast_like(InferContext& ctx) { infer_cast_to(ctx, ctx.element(1)); }

void run_cast(RunContext& ctx) {
  const Tensor& x = ctx.input(0);
  if (x.type() == ctx.output(0).type()) return ctx.set(0, ctx.input_value(0));
  const std::string mode = ctx.node().get_string("round_mode", "up");
  const ConvertOptions options = {
      .saturates = ctx.node().get_int("saturate", 1) != 0,
      .round_mode = mode == "up" ? RoundMode::kUp : mode == "down" ? RoundMode::kDown : RoundMode::kNearest};
  convert_elements(x, ctx.output(0), options, ctx.pool());
}

void infer_bit_cast(InferContext& ctx) {
  const ElementType to = element_of(ctx, ctx.node().get_int("to", 0)), from = ctx.element(0);
  if (to == ElementType::kString || from == ElementType::kString)
    ctx.fail("strings have no bits to be seen as another type");
  if (from != ElementType::kUndefined && get_info(from).packed_bits != get_info(to).packed_bits) {
    ctx.fail("the bits of {} cannot be seen as {}, which is of another width", name(from), name(to));
  }
  if (ctx.has_rank(0)) ctx.set_output(0, to, ctx.dims(0));
  else ctx.set_output(0, to);
}

void run_bit_cast(RunContext& ctx) {
  const Tensor& x = ctx.input(0);
  const ElementType to = static_cast<ElementType>(ctx.node().get_int("to", 0));
  if (get_info(to).packed_bits >= 8) return ctx.set(0, x.with_type(to));
  Tensor z = x.copy().with_type(to);  // the unused bits of a byte depend on whether the type has a sign
  cut_bits(to, static_cast<uint8_t*>(z.raw()), z.count());
  ctx.set(0, std::move(z));
}

constexpr OpInfo kOps[] = {
    {"", "Cast", 6, 0, infer_cast, run_cast},
    {"", "CastLike", 15, 0, infer_cast_like, run_cast},
    {"", "BitCast", 26, 0, infer_bit_cast, run_bit_cast, OpInfo::kMakesOutputs},
};

}  // namespace

void convert_elements(const Tensor& from, Tensor& to, const ConvertOptions& options, ThreadPool& pool) {
  if (from.type() == ElementType::kString && to.type() != ElementType::kString) return convert_text(from, to, options);
  const bool known = dispatch_plain(plain_type(from.type()), [&](auto zero) {
    using T = decltype(zero);
    if (to.type() == ElementType::kString) {
      std::string* text = to.data<std::string>();
      for_chunks<T>(from, 0, from.count(), [&](const T* numbers, int64_t at, int64_t n) {
        for (int64_t i = 0; i < n; ++i) text[at + i] = to_text(numbers[i]);
      });
      return;
    }
    const int bytes = get_info(to.type()).bytes;
    auto* target = static_cast<uint8_t*>(to.raw());
    pool.parallel_for(from.count(), kCheapGrain, [&](int64_t begin, int64_t end, int) {
      for_chunks<T>(from, begin, end, [&](const T* numbers, int64_t at, int64_t n) {
        convert_chunk(numbers, to.type(), target + at * bytes, n, options);
      });
    });
  });
  if (!known) fail(Code::kInvalidArgument, "a conversion from {} to {}", name(from.type()), name(to.type()));
}

std::span<const OpInfo> cast_ops() { return kOps; }

}  // namespace sluice::graph::ops
