// For tests and benchmarks: rows of random weights of any type, as they would lie in a file. Quantised blocks are
// random bytes with scales set so that weights stay around 0.05; every bit pattern of the quants occurs.
#pragma once

#include <cstdint>
#include <cstring>
#include <new>
#include <random>
#include <vector>

#include "base/check.h"
#include "base/float16.h"
#include "base/tensor.h"
#include "kernels/kernels.h"
#include "kernels/quant_blocks.h"

namespace sluice::kernels {

inline constexpr DType kWeightTypes[] = {
    DType::kF32,  DType::kF16,  DType::kBF16, DType::kF8E4M3, DType::kQ4_0,   DType::kQ4_1,
    DType::kQ5_0, DType::kQ5_1, DType::kQ8_0, DType::kQ2_K,   DType::kQ3_K,   DType::kQ4_K,
    DType::kQ5_K, DType::kQ6_K, DType::kIQ4_NL, DType::kIQ4_XS};

using Random = std::mt19937;

inline std::vector<float> random_floats(int64_t n, Random& random, float deviation = 1.0f) {
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> values(static_cast<size_t>(n));
  for (float& value : values) value = normal(random);
  return values;
}

template <typename Block>
void fix_scales(uint8_t* bytes, size_t num_bytes, Random& random, float d, float m) {
  std::uniform_real_distribution<float> spread(0.5f, 1.5f);
  for (size_t at = 0; at + sizeof(Block) <= num_bytes; at += sizeof(Block)) {
    Block block;
    std::memcpy(&block, bytes + at, sizeof block);
    block.d = float_to_f16(d * spread(random) * (random() % 2 ? 1.0f : -1.0f));
    if constexpr (requires { block.m; }) block.m = float_to_f16(m * spread(random));
    if constexpr (requires { block.dmin; }) block.dmin = float_to_f16(m * spread(random));
    std::memcpy(bytes + at, &block, sizeof block);
  }
}

// num_rows * row_bytes(type, num_inputs) bytes.
inline std::vector<uint8_t> random_weights(DType type, int64_t num_rows, int64_t num_inputs, Random& random) {
  std::vector<uint8_t> bytes(static_cast<size_t>(num_rows * row_bytes(type, num_inputs)));
  const size_t size = bytes.size();
  uint8_t* data = bytes.data();
  if (type == DType::kF32 || type == DType::kF16 || type == DType::kBF16) {
    std::vector<float> values = random_floats(num_rows * num_inputs, random, 0.05f);
    for (size_t i = 0; i < values.size(); ++i) {
      uint16_t half = type == DType::kF16 ? float_to_f16(values[i]) : float_to_bf16(values[i]);
      if (type == DType::kF32) std::memcpy(data + i * 4, &values[i], 4);
      else std::memcpy(data + i * 2, &half, 2);
    }
    return bytes;
  }
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  switch (type) {
    case DType::kF8E4M3:
      for (uint8_t& byte : bytes) byte = static_cast<uint8_t>((byte & 0x80) | byte % 0x50);
      break;
    case DType::kQ4_0: fix_scales<BlockQ4_0>(data, size, random, 0.01f, 0); break;
    case DType::kQ4_1: fix_scales<BlockQ4_1>(data, size, random, 0.01f, -0.08f); break;
    case DType::kQ5_0: fix_scales<BlockQ5_0>(data, size, random, 0.005f, 0); break;
    case DType::kQ5_1: fix_scales<BlockQ5_1>(data, size, random, 0.005f, -0.08f); break;
    case DType::kQ8_0: fix_scales<BlockQ8_0>(data, size, random, 0.0006f, 0); break;
    case DType::kQ2_K: fix_scales<BlockQ2_K>(data, size, random, 0.003f, 0.005f); break;
    case DType::kQ3_K: fix_scales<BlockQ3_K>(data, size, random, 0.001f, 0); break;
    case DType::kQ4_K: fix_scales<BlockQ4_K>(data, size, random, 0.0003f, 0.002f); break;
    case DType::kQ5_K: fix_scales<BlockQ5_K>(data, size, random, 0.0002f, 0.002f); break;
    case DType::kQ6_K: fix_scales<BlockQ6_K>(data, size, random, 0.00003f, 0); break;
    case DType::kIQ4_NL: fix_scales<BlockIQ4_NL>(data, size, random, 0.0008f, 0); break;
    case DType::kIQ4_XS: fix_scales<BlockIQ4_XS>(data, size, random, 0.00005f, 0); break;
    default: CHECK(false, name(type));
  }
  return bytes;
}

// Bytes aligned as sets of activation rows are.
template <typename T>
struct ActivationAllocator {
  using value_type = T;
  static constexpr std::align_val_t kAlignment{kActivationAlignment};
  T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), kAlignment)); }
  void deallocate(T* p, size_t) { ::operator delete(p, kAlignment); }
  bool operator==(const ActivationAllocator&) const = default;
};
using ActivationBytes = std::vector<uint8_t, ActivationAllocator<uint8_t>>;

// `num_rows` rows of x in an entry's activation format. What no row fills is 0xff, so NaN.
inline ActivationBytes convert_activations(const Kernels& table, ActivationFormat format, const std::vector<float>& x,
                                           int64_t num_rows, int64_t num_inputs) {
  ActivationBytes rows(static_cast<size_t>(activation_bytes(format, num_rows, num_inputs)), 0xff);
  for (int64_t r = 0; r < num_rows; ++r) {
    table.quantize_activations[static_cast<int>(format)](
        x.data() + r * num_inputs, rows.data() + activation_offset(format, num_inputs, r), num_inputs);
  }
  return rows;
}

}  // namespace sluice::kernels
