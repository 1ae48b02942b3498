// Tables that signal processing starts from: HannWindow, HammingWindow, BlackmanWindow and MelWeightMatrix of ONNX
// (opset 17). Computed in double precision and rounded, or for integer types truncated, once. A symmetric window of one
// element is 1. Mel bands that reach beyond the spectrum are cut off there.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>

#include "graph/ops/ops.h"
#include "graph/ops/shape_math.h"

namespace sluice::graph::ops {
namespace {

ElementType get_output_type(const InferContext& ctx) {
  const int64_t code = ctx.node().get_int("output_datatype", static_cast<int64_t>(ElementType::kF32));
  const ElementType type =
      code > 0 && code < kNumElementTypes ? static_cast<ElementType>(code) : ElementType::kUndefined;
  const bool is_wide_float = is_float(type) && get_info(type).bytes >= 2;
  const bool is_wide_integer = is_integer(type) && get_info(type).packed_bits >= 8;
  if (!is_wide_float && !is_wide_integer) ctx.fail("output_datatype {} is not allowed: integers and floats are", code);
  return type;
}

std::optional<int64_t> find_count(const InferContext& ctx, int i, const char* what) {
  const std::optional<std::vector<int64_t>> ints = ctx.known_ints(i);
  if (!ints) return std::nullopt;
  if (ints->size() != 1) ctx.fail("{} has {} elements; it has to be a scalar", what, ints->size());
  if (ints->front() < 0) ctx.fail("{} is {}; it has to be at least 0", what, ints->front());
  return ints->front();
}

void infer_window(InferContext& ctx) {
  const std::optional<int64_t> size = find_count(ctx, 0, "the size");
  ctx.set_output(0, get_output_type(ctx), {size ? Dim(*size) : Dim::unknown()});
}

// a0 - a1 cos(x) + a2 cos(2x) over one period.
struct Cosines {
  double a0, a1, a2;
};
constexpr Cosines kHann = {0.5, 0.5, 0}, kHamming = {25.0 / 46, 21.0 / 46, 0}, kBlackman = {0.42, 0.5, 0.08};

void store(RunContext& ctx, Tensor& to, int64_t i, double value) {
  if (!dispatch_numbers(to.type(), [&](auto zero) {
        using T = decltype(zero);
        if constexpr (std::is_unsigned_v<T>) to.data<T>()[i] = static_cast<T>(std::max(value, 0.0));
        else to.data<T>()[i] = static_cast<T>(value);
      })) {
    ctx.fail("{} is not supported as the output's type", name(to.type()));
  }
}

template <const Cosines& kShape>
void run_window(RunContext& ctx) {
  Tensor& y = make_output(ctx, 0);
  const int64_t size = y.count(), period = ctx.node().get_int("periodic", 1) != 0 ? size : size - 1;
  for (int64_t i = 0; i < size; ++i) {
    const double x = 2 * std::numbers::pi * static_cast<double>(i) / static_cast<double>(period);
    store(ctx, y, i, period == 0 ? 1.0 : kShape.a0 - kShape.a1 * std::cos(x) + kShape.a2 * std::cos(2 * x));
  }
}

void infer_mel(InferContext& ctx) {
  const std::optional<int64_t> bands = find_count(ctx, 0, "num_mel_bins"), length = find_count(ctx, 1, "dft_length");
  ctx.set_output(0, get_output_type(ctx),
                 {length ? Dim(*length / 2 + 1) : Dim::unknown(), bands ? Dim(*bands) : Dim::unknown()});
}

double get_number(const RunContext& ctx, int i) {
  const Tensor& x = ctx.input(i);
  if (x.count() != 1) ctx.fail("input {} has {} elements; it has to be a scalar", i + 1, x.count());
  double value = 0;
  if (!dispatch_numbers(x.type(), [&](auto zero) { value = static_cast<double>(x.data<decltype(zero)>()[0]); })) {
    ctx.fail_type(i);
  }
  return value;
}

void run_mel(RunContext& ctx) {
  const double bands = get_number(ctx, 0), length = get_number(ctx, 1), rate = get_number(ctx, 2);
  if (!(rate > 0)) ctx.fail("sample_rate is {}; it has to be above 0", rate);
  auto to_mel = [](double hertz) { return 2595 * std::log10(1 + hertz / 700); };
  const double lowest = to_mel(get_number(ctx, 3)), step = (to_mel(get_number(ctx, 4)) - lowest) / (bands + 2);
  Tensor& y = make_output(ctx, 0);
  const int64_t num_bins = y.dim(0), num_bands = y.dim(1);
  // The bin of the spectrum where a band begins.
  auto find_bin = [&](int64_t band) {
    const double hertz = 700 * (std::pow(10.0, (static_cast<double>(band) * step + lowest) / 2595) - 1);
    const double bin = std::floor((length + 1) * hertz / rate);
    return std::isnan(bin) ? 0.0 : std::clamp(bin, -1e9, 1e9);
  };
  std::memset(y.raw(), 0, static_cast<size_t>(y.bytes()));
  for (int64_t band = 0; band < num_bands; ++band) {
    const double low = find_bin(band), center = find_bin(band + 1), high = find_bin(band + 2);
    auto put = [&](double bin, double weight) {
      if (bin >= 0 && bin < static_cast<double>(num_bins))
        store(ctx, y, static_cast<int64_t>(bin) * num_bands + band, weight);
    };
    if (center == low) put(center, 1);
    const double last = std::min(high, static_cast<double>(num_bins));
    for (double bin = std::max(low, 0.0); bin <= center && bin < last + 1 && center != low; ++bin) {
      put(bin, (bin - low) / (center - low));
    }
    for (double bin = std::max(center, 0.0); bin < last; ++bin) put(bin, (high - bin) / (high - center));
  }
}

constexpr OpInfo kOps[] = {
    {"", "HannWindow", 17, 0, infer_window, run_window<kHann>, OpInfo::kViaFloat},
    {"", "HammingWindow", 17, 0, infer_window, run_window<kHamming>, OpInfo::kViaFloat},
    {"", "BlackmanWindow", 17, 0, infer_window, run_window<kBlackman>, OpInfo::kViaFloat},
    {"", "MelWeightMatrix", 17, 0, infer_mel, run_mel, OpInfo::kViaFloat},
};

}  // namespace

std::span<const OpInfo> window_ops() { return kOps; }

}  // namespace sluice::graph::ops
