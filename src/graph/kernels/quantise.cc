// QuantizeLinear of float32 with one scale, and DynamicQuantizeLinear, for AVX2 and AVX-512: the operators' own
// arithmetic in vectors (divide, round to even, add the zero point, saturate; what is no number becomes the lowest).
#include <algorithm>
#include <cmath>

#include "graph/kernels/isa.h"
#include "graph/kernels/list.h"
#include "graph/ops/vector_math.h"

namespace sluice::graph::kernels {
namespace {

struct Range {
  float low = 0, high = 0;
};

// Of the numbers and 0.
[[gnu::always_inline]] inline Range find_range(const float* x, int64_t count) {
  constexpr int64_t kLanes = 64;
  float low[kLanes] = {}, high[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t l = 0; l < kLanes; ++l) low[l] = x[i + l] < low[l] ? x[i + l] : low[l];
    for (int64_t l = 0; l < kLanes; ++l) high[l] = x[i + l] > high[l] ? x[i + l] : high[l];
  }
  for (; i < count; ++i) {
    low[0] = x[i] < low[0] ? x[i] : low[0];
    high[0] = x[i] > high[0] ? x[i] : high[0];
  }
  Range range;
  for (int64_t l = 0; l < kLanes; ++l) {
    range.low = std::min(range.low, low[l]);
    range.high = std::max(range.high, high[l]);
  }
  return range;
}

// `low` is the lowest of 256 integers; y gets their low bytes, whether they are signed or not.
[[gnu::always_inline]] inline void quantise(const float* x, int64_t count, float scale, float zero, float low,
                                            uint8_t* y) {
  const float high = low + 255;
  for (int64_t i = 0; i < count; ++i) {
    float v = ops::round_even(x[i] / scale) + zero;
    v = v > low ? v : low;
    v = v < high ? v : high;
    y[i] = static_cast<uint8_t>(static_cast<int32_t>(v));
  }
}

struct Functions {
  Range (*find_range)(const float* x, int64_t count) = nullptr;
  void (*quantise)(const float* x, int64_t count, float scale, float zero, float low, uint8_t* y) = nullptr;
};

#ifdef __x86_64__
#define SLUICE_AVX2 __attribute__((target("avx2,fma")))
#define SLUICE_AVX512 __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma,prefer-vector-width=512")))
SLUICE_AVX2 Range find_range_256(const float* x, int64_t count) { return find_range(x, count); }
SLUICE_AVX2 void quantise_256(const float* x, int64_t count, float scale, float zero, float low, uint8_t* y) {
  quantise(x, count, scale, zero, low, y);
}
SLUICE_AVX512 Range find_range_512(const float* x, int64_t count) { return find_range(x, count); }
SLUICE_AVX512 void quantise_512(const float* x, int64_t count, float scale, float zero, float low, uint8_t* y) {
  quantise(x, count, scale, zero, low, y);
}
#undef SLUICE_AVX2
#undef SLUICE_AVX512
#endif

Functions find_functions() {
#ifdef __x86_64__
  if (vector_isa() == VectorIsa::kAvx512) return {find_range_512, quantise_512};
  if (vector_isa() >= VectorIsa::kAvx2) return {find_range_256, quantise_256};
#endif
  return {};
}

constexpr int64_t kGrain = 1 << 15;

class QuantiseKernel final : public Kernel {
 public:
  QuantiseKernel(Functions functions, int64_t count, bool is_signed)
      : functions_(functions), count_(count), is_signed_(is_signed) {}
  void run(std::span<const void* const> inputs, std::span<void* const> outputs, void*, ThreadPool& pool) override {
    const auto* x = static_cast<const float*>(inputs[0]);
    auto* y = static_cast<uint8_t*>(outputs[0]);
    const float scale = *static_cast<const float*>(inputs[1]);
    float zero = 0;
    if (inputs.size() > 2 && inputs[2] != nullptr) {
      zero = is_signed_ ? *static_cast<const int8_t*>(inputs[2]) : *static_cast<const uint8_t*>(inputs[2]);
    }
    pool.parallel_for(count_, kGrain, [&](int64_t begin, int64_t end, int) {
      functions_.quantise(x + begin, end - begin, scale, zero, is_signed_ ? -128.0f : 0.0f, y + begin);
    });
  }

 private:
  const Functions functions_;
  const int64_t count_;
  const bool is_signed_;
};

class DynamicQuantiseKernel final : public Kernel {
 public:
  DynamicQuantiseKernel(Functions functions, int64_t count, int num_threads)
      : functions_(functions), count_(count), ranges_(static_cast<size_t>(num_threads)) {}
  void run(std::span<const void* const> inputs, std::span<void* const> outputs, void*, ThreadPool& pool) override {
    const auto* x = static_cast<const float*>(inputs[0]);
    std::fill(ranges_.begin(), ranges_.end(), Range());
    pool.parallel_for(count_, kGrain, [&](int64_t begin, int64_t end, int worker) {
      Range& mine = ranges_[static_cast<size_t>(worker)];
      const Range found = functions_.find_range(x + begin, end - begin);
      mine = {std::min(mine.low, found.low), std::max(mine.high, found.high)};
    });
    Range all;
    for (const Range& range : ranges_) all = {std::min(all.low, range.low), std::max(all.high, range.high)};
    // The operator's definition: 255 steps from least to largest, and the zero point rounded to even and saturated.
    const float scale = (all.high - all.low) / 255.0f;
    const float exact = scale == 0 ? 0 : -all.low / scale;
    const float zero = ops::round_even(exact > 0 ? std::min(exact, 255.0f) : 0.0f);  // also of what is no number
    *static_cast<float*>(outputs[1]) = scale;
    *static_cast<uint8_t*>(outputs[2]) = static_cast<uint8_t>(zero);
    auto* y = static_cast<uint8_t*>(outputs[0]);
    if (scale == 0) {
      std::fill_n(y, count_, uint8_t{0});
      return;
    }
    pool.parallel_for(count_, kGrain, [&](int64_t begin, int64_t end, int) {
      functions_.quantise(x + begin, end - begin, scale, zero, 0, y + begin);
    });
  }

 private:
  const Functions functions_;
  const int64_t count_;
  std::vector<Range> ranges_;
};

}  // namespace

std::vector<KernelChoice> list_quantise(const KernelRequest& request) {
  const Functions functions = find_functions();
  auto type_of = [&](size_t i) {
    return i < request.inputs.size() ? request.inputs[i].type : ElementType::kUndefined;
  };
  const TensorInfo& y = request.outputs[0];
  const bool is_signed = y.type == ElementType::kI8;
  const bool fits = functions.quantise != nullptr && request.node.get_int("precision", 0) == 0 &&
                    request.outputs.size() == 1 && y.shape.count() > 0 &&
                    type_of(0) == ElementType::kF32 && type_of(1) == ElementType::kF32 &&
                    request.inputs[1].shape.count() == 1 && (is_signed || y.type == ElementType::kU8) &&
                    (type_of(2) == ElementType::kUndefined ||
                     (type_of(2) == y.type && request.inputs[2].shape.count() == 1));
  if (!fits) return list_permuted(request);
  std::vector<KernelChoice> choices;
  for (const Layout layout : {Layout::kPlain, Layout::kChannelsLast}) {
    if (layout != Layout::kPlain && (y.shape.rank() < 3 || y.shape.rank() > 5)) break;
    KernelChoice choice{.name = std::string("quantise ") + name(layout)};
    choice.inputs.assign(request.inputs.size(), Layout::kPlain);
    choice.inputs[0] = layout;
    choice.outputs = {layout};
    choice.make = [functions, count = y.shape.count(), is_signed] {
      return std::make_unique<QuantiseKernel>(functions, count, is_signed);
    };
    choices.push_back(std::move(choice));
  }
  return choices;
}

std::vector<KernelChoice> list_dynamic_quantise(const KernelRequest& request) {
  const Functions functions = find_functions();
  const int64_t count = request.inputs[0].shape.count();
  bool fits = functions.quantise != nullptr && request.inputs[0].type == ElementType::kF32 && count > 0 &&
              request.outputs.size() == 3;
  for (const TensorInfo& output : request.outputs) fits &= output.type != ElementType::kUndefined;
  if (!fits) return {};
  KernelChoice choice{.name = "quantise"};
  choice.inputs = {Layout::kPlain};
  choice.outputs.assign(3, Layout::kPlain);
  choice.make = [functions, count, num_threads = request.num_threads] {
    return std::make_unique<DynamicQuantiseKernel>(functions, count, num_threads);
  };
  return {choice};
}

}  // namespace sluice::graph::kernels
