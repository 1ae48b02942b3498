// Attention (ONNX opset 23 and later) of float32 or bf16 without a cache, for AVX2 and AVX-512.
//
// A task is a head of a batch, or a part of its queries. Keys are transposed once into panels of a few vectors of
// columns, so that scores and sums over the values are the same small product: a few rows of numbers to spread, times
// rows to load. The scores of a block of queries stay in the first caches between the two, which is the idea of
// FlashAttention (Dao et al., 2022) without its running softmax: keys are few enough here to hold a block's scores.
// Numbers are float32 inside whatever comes in. What the operator can do beyond this (caches, lengths, softcap, scores
// as an output) is left to its own code.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "graph/kernels/bf16_lines.h"
#include "graph/kernels/isa.h"
#include "graph/kernels/list.h"
#include "graph/ops/vector_math.h"

namespace sluice::graph::kernels {
namespace {

template <int kBytes>
struct Lanes {
  typedef float type __attribute__((vector_size(kBytes), aligned(4), may_alias));
};

// c [kRows, kColumns vectors] = a [kRows, depth] * b [depth, columns]
template <int kBytes, int kRows, int kColumns>
[[gnu::always_inline]] inline void multiply_tile(int64_t depth, const float* a, int64_t a_stride, const float* b,
                                                 int64_t b_stride, float* c, int64_t c_stride) {
  using Vector = typename Lanes<kBytes>::type;
  constexpr int kLanes = kBytes / 4;
  Vector sums[kRows][kColumns];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kColumns; ++j) sums[i][j] = Vector{};
  }
  for (int64_t p = 0; p < depth; ++p, b += b_stride) {
    Vector row[kColumns];
#pragma GCC unroll 4
    for (int j = 0; j < kColumns; ++j) row[j] = *reinterpret_cast<const Vector*>(b + j * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const float factor = a[i * a_stride + p];
#pragma GCC unroll 4
      for (int j = 0; j < kColumns; ++j) sums[i][j] += factor * row[j];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kColumns; ++j) *reinterpret_cast<Vector*>(c + i * c_stride + j * kLanes) = sums[i][j];
  }
}

template <int kBytes, int kRows, int kColumns>
[[gnu::always_inline]] inline void multiply_rows(int64_t rows, int64_t depth, const float* a, int64_t a_stride,
                                                 const float* b, int64_t b_stride, float* c, int64_t c_stride) {
  int64_t i = 0;
  for (; i + kRows <= rows; i += kRows) {
    multiply_tile<kBytes, kRows, kColumns>(depth, a + i * a_stride, a_stride, b, b_stride, c + i * c_stride, c_stride);
  }
  for (; i < rows; ++i) {
    multiply_tile<kBytes, 1, kColumns>(depth, a + i * a_stride, a_stride, b, b_stride, c + i * c_stride, c_stride);
  }
}

// c [rows, columns] = a [rows, depth] * b [depth, columns]; columns are a multiple of the lanes.
template <int kBytes, int kRows, int kColumns>
[[gnu::always_inline]] inline void multiply(int64_t rows, int64_t columns, int64_t depth, const float* a,
                                            int64_t a_stride, const float* b, int64_t b_stride, float* c,
                                            int64_t c_stride) {
  constexpr int64_t kLanes = kBytes / 4, kWide = kLanes * kColumns;
  int64_t j = 0;
  for (; j + kWide <= columns; j += kWide) {
    multiply_rows<kBytes, kRows, kColumns>(rows, depth, a, a_stride, b + j, b_stride, c + j, c_stride);
  }
  for (; j + 2 * kLanes <= columns; j += 2 * kLanes) {
    multiply_rows<kBytes, kRows, 2>(rows, depth, a, a_stride, b + j, b_stride, c + j, c_stride);
  }
  for (; j < columns; j += kLanes) {
    multiply_rows<kBytes, kRows, 1>(rows, depth, a, a_stride, b + j, b_stride, c + j, c_stride);
  }
}

// One row of scores to weights that sum up to 1; zeros if nothing is in sight. `bias` is null, or added. Elements from
// `count` to `padded` become 0.
template <int kBytes>
[[gnu::always_inline]] inline void soften(float* x, int64_t count, int64_t padded, float scale, const float* bias) {
  using Vector = typename Lanes<kBytes>::type;
  constexpr int64_t kLanes = kBytes / 4;
  constexpr float kLowest = -std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < count; ++i) x[i] = x[i] * scale + (bias != nullptr ? bias[i] : 0.0f);
  for (int64_t i = count; i < padded; ++i) x[i] = kLowest;
  Vector most = *reinterpret_cast<Vector*>(x);
  for (int64_t i = kLanes; i < padded; i += kLanes) {
    const Vector v = *reinterpret_cast<Vector*>(x + i);
    most = v > most ? v : most;
  }
  float max = most[0];
  for (int64_t l = 1; l < kLanes; ++l) max = most[l] > max ? most[l] : max;
  if (max == kLowest) {
    for (int64_t i = 0; i < padded; ++i) x[i] = 0;
    return;
  }
  for (int64_t i = 0; i < padded; ++i) x[i] = x[i] == kLowest ? 0.0f : ops::fast_exp(x[i] - max);
  Vector sums = {};
  for (int64_t i = 0; i < padded; i += kLanes) sums += *reinterpret_cast<Vector*>(x + i);
  float sum = 0;
  for (int64_t l = 0; l < kLanes; ++l) sum += sums[l];
  const float factor = 1 / sum;
  for (int64_t i = 0; i < padded; ++i) x[i] *= factor;
}

struct Kernels {
  int64_t lanes = 0;
  void (*multiply)(int64_t rows, int64_t columns, int64_t depth, const float* a, int64_t a_stride, const float* b,
                   int64_t b_stride, float* c, int64_t c_stride) = nullptr;
  void (*soften)(float* x, int64_t count, int64_t padded, float scale, const float* bias) = nullptr;
};

#ifdef __x86_64__
#define SLUICE_AVX2 __attribute__((target("avx2,fma")))
#define SLUICE_AVX512 __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma,prefer-vector-width=512")))
SLUICE_AVX2 void multiply_256(int64_t rows, int64_t columns, int64_t depth, const float* a, int64_t a_stride,
                              const float* b, int64_t b_stride, float* c, int64_t c_stride) {
  multiply<32, 4, 3>(rows, columns, depth, a, a_stride, b, b_stride, c, c_stride);
}
SLUICE_AVX2 void soften_256(float* x, int64_t count, int64_t padded, float scale, const float* bias) {
  soften<32>(x, count, padded, scale, bias);
}
SLUICE_AVX512 void multiply_512(int64_t rows, int64_t columns, int64_t depth, const float* a, int64_t a_stride,
                                const float* b, int64_t b_stride, float* c, int64_t c_stride) {
  multiply<64, 6, 4>(rows, columns, depth, a, a_stride, b, b_stride, c, c_stride);
}
SLUICE_AVX512 void soften_512(float* x, int64_t count, int64_t padded, float scale, const float* bias) {
  soften<64>(x, count, padded, scale, bias);
}
#undef SLUICE_AVX2
#undef SLUICE_AVX512
#endif

Kernels find_kernels() {
#ifdef __x86_64__
  if (vector_isa() == VectorIsa::kAvx512) return {16, multiply_512, soften_512};
  if (vector_isa() >= VectorIsa::kAvx2) return {8, multiply_256, soften_256};
#endif
  return {};
}

// [batch, heads, rows, size] in memory, by strides in elements.
struct Heads {
  int64_t heads = 0, rows = 0, size = 0;
  int64_t batch_stride = 0, head_stride = 0, row_stride = 0;

  int64_t at(int64_t batch, int64_t head, int64_t row) const {
    return batch * batch_stride + head * head_stride + row * row_stride;
  }
};

std::optional<Heads> view_heads(const Shape& shape, int64_t heads) {
  if (shape.rank() == 4) {
    return Heads{shape[1], shape[2], shape[3], shape[1] * shape[2] * shape[3], shape[2] * shape[3], shape[3]};
  }
  if (shape.rank() != 3 || heads <= 0 || shape[2] % heads != 0) return std::nullopt;
  const int64_t size = shape[2] / heads;
  return Heads{heads, shape[1], size, shape[1] * shape[2], size, shape[2]};
}

struct Attention {
  Kernels kernels;
  ElementType type = ElementType::kF32;
  int64_t batch = 0;
  Heads q, k, v, y;
  float scale = 1;
  bool is_causal = false;
  ElementType mask_type = ElementType::kUndefined;  // none
  int64_t mask_strides[4] = {};                     // batch, head, query, key
  int64_t block = 0;                                // queries of a task
  int64_t num_threads = 1;

  int64_t pad(int64_t n) const { return (n + kernels.lanes - 1) / kernels.lanes * kernels.lanes; }
  int64_t num_keys() const { return pad(k.rows); }
  // Floats of scratch for one thread: keys, values (if they have to be copied), queries, scores, results, a mask row.
  int64_t scratch_floats() const {
    return k.size * num_keys() + k.rows * pad(v.size) + block * q.size + block * num_keys() + block * pad(v.size) +
           num_keys() + 64;
  }
};

inline float load(const void* data, ElementType type, int64_t i) {
  return type == ElementType::kF32 ? static_cast<const float*>(data)[i]
                                   : bf16_to_float(static_cast<const uint16_t*>(data)[i]);
}

void load_row(const void* data, ElementType type, int64_t at, int64_t count, float* to) {
  if (type == ElementType::kF32) {
    std::memcpy(to, static_cast<const float*>(data) + at, sizeof(float) * static_cast<size_t>(count));
    return;
  }
  widen_bf16(static_cast<const uint16_t*>(data) + at, count, to);
}

void store_row(const float* from, int64_t count, void* data, ElementType type, int64_t at) {
  if (type == ElementType::kF32) {
    std::memcpy(static_cast<float*>(data) + at, from, sizeof(float) * static_cast<size_t>(count));
    return;
  }
  round_to_bf16(from, count, static_cast<uint16_t*>(data) + at);
}

class AttentionKernel final : public Kernel {
 public:
  explicit AttentionKernel(const Attention& attention) : a_(attention) {}

  size_t scratch_bytes() const override {
    return sizeof(float) * static_cast<size_t>(a_.scratch_floats() * a_.num_threads);
  }

  void run(std::span<const void* const> inputs, std::span<void* const> outputs, void* scratch,
           ThreadPool& pool) override {
    const int64_t blocks = (a_.q.rows + a_.block - 1) / a_.block;
    const int64_t heads = a_.batch * a_.q.heads;
    // Blocks of one head follow each other, so that a thread that takes several transposes the keys once.
    const int64_t grain = heads >= 4 * a_.num_threads ? blocks : 1;
    pool.parallel_for(heads * blocks, grain, [&](int64_t begin, int64_t end, int worker) {
      float* memory = static_cast<float*>(scratch) + worker * a_.scratch_floats();
      int64_t prepared = -1;
      for (int64_t task = begin; task < end; ++task) {
        const int64_t head = task / blocks;
        if (head != prepared) prepare(inputs, head, memory);
        prepared = head;
        attend(inputs, outputs, head, task % blocks, memory);
      }
    });
  }

 private:
  static constexpr int64_t kKeyBlock = 16;

  bool copies_values() const { return a_.type != ElementType::kF32 || a_.v.size % a_.kernels.lanes != 0; }
  int64_t kv_head(int64_t head) const { return head % a_.q.heads / (a_.q.heads / a_.k.heads); }

  void prepare(std::span<const void* const> inputs, int64_t head, float* memory) const {
    const int64_t batch = head / a_.q.heads, keys = a_.num_keys();
    float* transposed = memory;  // [head size, keys]
    // Sixteen keys at a time: a line of each is read, a line of the result is written.
    for (int64_t j = 0; j < keys; j += kKeyBlock) {
      const int64_t num_keys = std::min(kKeyBlock, keys - j);
      const int64_t num_real = std::clamp<int64_t>(a_.k.rows - j, 0, num_keys);
      const int64_t at = a_.k.at(batch, kv_head(head), j);
      for (int64_t d = 0; d < a_.k.size; ++d) {
        float* to = transposed + d * keys + j;
        for (int64_t i = 0; i < num_real; ++i) to[i] = load(inputs[1], a_.type, at + i * a_.k.row_stride + d);
        std::fill(to + num_real, to + num_keys, 0.0f);
      }
    }
    if (!copies_values()) return;
    float* values = memory + a_.k.size * keys;
    const int64_t size = a_.pad(a_.v.size);
    for (int64_t j = 0; j < a_.k.rows; ++j) {
      load_row(inputs[2], a_.type, a_.v.at(batch, kv_head(head), j), a_.v.size, values + j * size);
      std::fill_n(values + j * size + a_.v.size, size - a_.v.size, 0.0f);
    }
  }

  void attend(std::span<const void* const> inputs, std::span<void* const> outputs, int64_t head, int64_t block,
              float* memory) const {
    const int64_t batch = head / a_.q.heads, q_head = head % a_.q.heads, keys = a_.num_keys();
    const int64_t first = block * a_.block, rows = std::min(a_.block, a_.q.rows - first);
    const float* transposed = memory;
    float* values = memory + a_.k.size * keys;
    float* queries = values + a_.k.rows * a_.pad(a_.v.size);
    float* scores = queries + a_.block * a_.q.size;
    float* results = scores + a_.block * keys;
    float* bias = results + a_.block * a_.pad(a_.v.size);
    const float* q = queries;
    int64_t q_stride = a_.q.size;
    if (a_.type == ElementType::kF32) {
      q = static_cast<const float*>(inputs[0]) + a_.q.at(batch, q_head, first);
      q_stride = a_.q.row_stride;
    } else {
      for (int64_t i = 0; i < rows; ++i) {
        load_row(inputs[0], a_.type, a_.q.at(batch, q_head, first + i), a_.q.size, queries + i * a_.q.size);
      }
    }
    a_.kernels.multiply(rows, keys, a_.q.size, q, q_stride, transposed, keys, scores, keys);
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t row = first + i;
      const int64_t seen = a_.is_causal ? std::min(a_.k.rows, row + 1) : a_.k.rows;
      const float* mask = load_mask(inputs, batch, q_head, row, seen, bias);
      a_.kernels.soften(scores + i * keys, seen, keys, a_.scale, mask);
    }
    const float* from = values;
    int64_t stride = a_.pad(a_.v.size);
    if (!copies_values()) {
      from = static_cast<const float*>(inputs[2]) + a_.v.at(batch, kv_head(head), 0);
      stride = a_.v.row_stride;
    }
    a_.kernels.multiply(rows, a_.pad(a_.v.size), a_.k.rows, scores, keys, from, stride, results, a_.pad(a_.v.size));
    for (int64_t i = 0; i < rows; ++i) {
      store_row(results + i * a_.pad(a_.v.size), a_.v.size, outputs[0], a_.type, a_.y.at(batch, q_head, first + i));
    }
  }

  // What is added to a row of scores: null, a row of the mask itself, or one made of it.
  const float* load_mask(std::span<const void* const> inputs, int64_t batch, int64_t head, int64_t row, int64_t count,
                         float* bias) const {
    if (a_.mask_type == ElementType::kUndefined) return nullptr;
    const int64_t at = batch * a_.mask_strides[0] + head * a_.mask_strides[1] + row * a_.mask_strides[2];
    const int64_t step = a_.mask_strides[3];
    if (a_.mask_type == ElementType::kF32 && step == 1) return static_cast<const float*>(inputs[3]) + at;
    for (int64_t j = 0; j < count; ++j) {
      if (a_.mask_type == ElementType::kBool) {
        const bool is_seen = static_cast<const bool*>(inputs[3])[at + j * step];
        bias[j] = is_seen ? 0.0f : -std::numeric_limits<float>::infinity();
      } else {
        bias[j] = load(inputs[3], a_.mask_type, at + j * step);
      }
    }
    return bias;
  }

  const Attention a_;
};

}  // namespace

std::vector<KernelChoice> list_attention(const KernelRequest& request) {
  const Node& node = request.node;
  Attention a{.kernels = find_kernels(), .num_threads = request.num_threads};
  auto has = [&](size_t i) { return i < request.inputs.size() && request.inputs[i].type != ElementType::kUndefined; };
  if (a.kernels.multiply == nullptr || request.outputs.size() != 1 || has(4) || has(5) || has(6)) return {};
  a.type = request.inputs[0].type;
  const bool is_known = (a.type == ElementType::kF32 || a.type == ElementType::kBF16) &&
                        request.inputs[1].type == a.type && request.inputs[2].type == a.type &&
                        request.outputs[0].type == a.type;
  const int64_t precision = node.get_int("softmax_precision", 0);
  if (!is_known || node.get_float("softcap", 0) != 0 || node.get_int("local_window_size", -1) > 0 ||
      precision == static_cast<int64_t>(ElementType::kF64) || node.get_int("qk_matmul_output_mode", 0) != 0) {
    return {};
  }
  const int64_t q_heads = node.get_int("q_num_heads", 0), kv_heads = node.get_int("kv_num_heads", 0);
  const auto q = view_heads(request.inputs[0].shape, q_heads), k = view_heads(request.inputs[1].shape, kv_heads),
             v = view_heads(request.inputs[2].shape, kv_heads), y = view_heads(request.outputs[0].shape, q_heads);
  if (!q || !k || !v || !y || request.outputs[0].shape.count() == 0 || k->heads == 0 || q->heads % k->heads != 0 ||
      k->rows == 0 || q->size == 0) {
    return {};
  }
  a.q = *q, a.k = *k, a.v = *v, a.y = *y;
  a.batch = request.inputs[0].shape[0];
  a.scale = node.get_float("scale", static_cast<float>(1 / std::sqrt(static_cast<double>(q->size))));
  a.is_causal = node.get_int("is_causal", 0) != 0;
  if (a.is_causal && q->rows != k->rows) return {};
  if (has(3)) {
    const TensorInfo& mask = request.inputs[3];
    a.mask_type = mask.type;
    if (mask.type != ElementType::kBool && mask.type != ElementType::kF32 && mask.type != ElementType::kBF16) return {};
    const int64_t wanted[4] = {a.batch, q->heads, q->rows, k->rows};
    int64_t stride = 1;
    if (mask.shape.rank() > 4) return {};
    for (int i = mask.shape.rank() - 1, axis = 3; i >= 0; --i, --axis) {
      if (mask.shape[i] != wanted[axis] && mask.shape[i] != 1) return {};
      // Since opset 24 a mask may be shorter than the keys, also one of a single key.
      if (axis == 3 && mask.shape[i] != wanted[axis]) return {};
      a.mask_strides[axis] = mask.shape[i] == 1 ? 0 : stride;
      stride *= mask.shape[i];
    }
  }
  // A block's scores shall stay in the second cache, and every thread shall have work.
  constexpr int64_t kScoreFloats = 96 * 1024;
  a.block = std::clamp<int64_t>(kScoreFloats / a.num_keys() / 6 * 6, 6, std::max<int64_t>(6, q->rows));
  const int64_t heads = a.batch * q->heads;
  while (heads * ((q->rows + a.block - 1) / a.block) < 2 * a.num_threads && a.block > 24) a.block = a.block / 12 * 6;
  // Keys of one head have to fit too.
  if (a.scratch_floats() > (int64_t{64} << 20)) return {};
  KernelChoice choice{.name = "attention"};
  choice.inputs.assign(request.inputs.size(), Layout::kPlain);
  choice.outputs = {Layout::kPlain};
  choice.make = [a] { return std::make_unique<AttentionKernel>(a); };
  return {choice};
}

}  // namespace sluice::graph::kernels
