// LayerNormalization over the last axes, of float32 or bf16, for AVX2 and AVX-512: a row at a time, its sums in
// vectors, everything but what is stored in float32. The variance is of differences from the mean, in a second pass
// over the row, which is in the first cache then.
#include <cmath>
#include <cstring>

#include "graph/kernels/bf16_lines.h"
#include "graph/kernels/isa.h"
#include "graph/kernels/list.h"
#include "graph/kernels/quantised.h"

namespace sluice::graph::kernels {
namespace {

template <int kBytes>
struct Lanes {
  typedef float type __attribute__((vector_size(kBytes), aligned(4), may_alias));
};

// y = (x - mean) / deviation * scale + shift; `shift` may be null. `x` may be `y`.
template <int kBytes>
[[gnu::always_inline]] inline void normalise(const float* x, int64_t count, float epsilon, const float* scale,
                                             const float* shift, float* y) {
  using Vector = typename Lanes<kBytes>::type;
  constexpr int64_t kLanes = kBytes / 4;
  Vector sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
    for (int k = 0; k < 4; ++k) sums[k] += *reinterpret_cast<const Vector*>(x + i + k * kLanes);
  }
  float sum = 0;
  for (; i < count; ++i) sum += x[i];
  const Vector all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  for (int64_t l = 0; l < kLanes; ++l) sum += all[l];
  const float mean = sum / static_cast<float>(count);
  Vector squares[4] = {};
  for (i = 0; i + 4 * kLanes <= count; i += 4 * kLanes) {
    for (int k = 0; k < 4; ++k) {
      const Vector d = *reinterpret_cast<const Vector*>(x + i + k * kLanes) - mean;
      squares[k] += d * d;
    }
  }
  float square = 0;
  for (; i < count; ++i) square += (x[i] - mean) * (x[i] - mean);
  const Vector all_squares = (squares[0] + squares[1]) + (squares[2] + squares[3]);
  for (int64_t l = 0; l < kLanes; ++l) square += all_squares[l];
  const float factor = 1 / std::sqrt(square / static_cast<float>(count) + epsilon);
  if (shift != nullptr) {
    for (i = 0; i < count; ++i) y[i] = (x[i] - mean) * factor * scale[i] + shift[i];
  } else {
    for (i = 0; i < count; ++i) y[i] = (x[i] - mean) * factor * scale[i];
  }
}

using Normalise = void (*)(const float* x, int64_t count, float epsilon, const float* scale, const float* shift,
                           float* y);
#ifdef __x86_64__
#define SLUICE_AVX2 __attribute__((target("avx2,fma")))
#define SLUICE_AVX512 __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma,prefer-vector-width=512")))
SLUICE_AVX2 void normalise_256(const float* x, int64_t count, float epsilon, const float* scale, const float* shift,
                               float* y) {
  normalise<32>(x, count, epsilon, scale, shift, y);
}
SLUICE_AVX512 void normalise_512(const float* x, int64_t count, float epsilon, const float* scale, const float* shift,
                                 float* y) {
  normalise<64>(x, count, epsilon, scale, shift, y);
}
#undef SLUICE_AVX2
#undef SLUICE_AVX512
#endif

Normalise find_function() {
#ifdef __x86_64__
  if (vector_isa() == VectorIsa::kAvx512) return normalise_512;
  if (vector_isa() >= VectorIsa::kAvx2) return normalise_256;
#endif
  return nullptr;
}

class LayerNormKernel final : public Kernel {
 public:
  LayerNormKernel(Normalise normalise, ElementType type, int64_t rows, int64_t size, float epsilon, Tensor scale,
                  Tensor shift, int num_threads)
      : normalise_(normalise), type_(type), rows_(rows), size_(size), epsilon_(epsilon), scale_(std::move(scale)),
        shift_(std::move(shift)), num_threads_(num_threads) {}

  void run(std::span<const void* const> inputs, std::span<void* const> outputs, void* scratch,
           ThreadPool& pool) override {
    const float* scale = scale_.data<float>();
    const float* shift = shift_.is_null() ? nullptr : shift_.data<float>();
    pool.parallel_for(rows_, std::max<int64_t>(1, (1 << 14) / size_), [&](int64_t begin, int64_t end, int worker) {
      float* row = static_cast<float*>(scratch) + worker * padded_size();
      for (int64_t r = begin; r < end; ++r) {
        if (type_ == ElementType::kF32) {
          normalise_(static_cast<const float*>(inputs[0]) + r * size_, size_, epsilon_, scale, shift,
                               static_cast<float*>(outputs[0]) + r * size_);
          continue;
        }
        widen_bf16(static_cast<const uint16_t*>(inputs[0]) + r * size_, size_, row);
        normalise_(row, size_, epsilon_, scale, shift, row);
        round_to_bf16(row, size_, static_cast<uint16_t*>(outputs[0]) + r * size_);
      }
    });
  }
  size_t scratch_bytes() const override {
    return type_ == ElementType::kF32 ? 0 : sizeof(float) * static_cast<size_t>(padded_size() * num_threads_);
  }

 private:
  int64_t padded_size() const { return (size_ + 15) / 16 * 16; }
  const Normalise normalise_;
  const ElementType type_;
  const int64_t rows_, size_;
  const float epsilon_;
  const Tensor scale_, shift_;
  const int num_threads_;
};

}  // namespace

std::vector<KernelChoice> list_layer_norm(const KernelRequest& request) {
  const Normalise normalise = find_function();
  const TensorInfo& x = request.inputs[0];
  const auto num_outputs = static_cast<int>(request.outputs.size());
  auto has = [&](size_t i) { return i < request.inputs.size() && request.inputs[i].type != ElementType::kUndefined; };
  if (normalise == nullptr || num_outputs != 1 || request.inputs.size() < 2) return {};
  if ((x.type != ElementType::kF32 && x.type != ElementType::kBF16) || request.outputs[0].type != x.type) return {};
  const int rank = x.shape.rank();
  int64_t axis = request.node.get_int("axis", -1);
  if (axis < 0) axis += rank;
  if (axis < 0 || axis >= rank) return {};
  const int64_t size = x.shape.count(static_cast<int>(axis), rank), rows = x.shape.count(0, static_cast<int>(axis));
  const Tensor* scale = request.constants[1];
  const Tensor* shift = has(2) ? request.constants[2] : nullptr;
  const bool fits =
      scale != nullptr && scale->count() == size && (!has(2) || (shift != nullptr && shift->count() == size));
  if (!fits || size == 0 || rows == 0) return {};
  KernelChoice choice{.name = "layer norm"};
  choice.inputs.assign(request.inputs.size(), Layout::kPlain);
  choice.outputs = {Layout::kPlain};
  choice.in_place = 0;
  const float epsilon = request.node.get_float("epsilon", 1e-5f);
  choice.make = [=, type = x.type, num_threads = request.num_threads] {
    return std::make_unique<LayerNormKernel>(normalise, type, rows, size, epsilon, to_float(*scale),
                                             shift == nullptr ? Tensor() : to_float(*shift), num_threads);
  };
  return {choice};
}

}  // namespace sluice::graph::kernels
