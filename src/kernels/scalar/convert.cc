// f32 rows to what products and KV memory hold. Rounding is to nearest even everywhere, so that every fill can give the
// same bytes.
#include <cmath>
#include <cstring>

#include "base/float16.h"
#include "kernels/quant_blocks.h"
#include "kernels/scalar/fills.h"

namespace sluice::kernels::scalar {
namespace {

float largest_magnitude(const float* x, int64_t n) {
  float largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (std::fabs(x[i]) > largest) largest = std::fabs(x[i]);
  }
  return largest;
}

// NaN becomes 0 (the scale of its block is what the other elements make it), infinities saturate.
int8_t round_to_int8(float x) {
  if (std::isnan(x)) return 0;
  if (x >= 127) return 127;
  if (x <= -127) return -127;
  return static_cast<int8_t>(std::nearbyint(x));
}

void copy_f32(const float* x, void* row, int64_t n) { std::memcpy(row, x, static_cast<size_t>(n) * sizeof(float)); }

void quantize_q8_32(const float* x, void* row, int64_t n) {
  auto* blocks = static_cast<BlockQ8_32*>(row);
  for (int64_t b = 0; b < n / 32; ++b, x += 32) {
    float largest = largest_magnitude(x, 32);
    float inverse = largest > 0 ? 127.0f / largest : 0.0f;
    blocks[b].scale = largest / 127.0f;
    int sum = 0, low_sum = 0;
    for (int i = 0; i < 32; ++i) {
      blocks[b].qs[i] = round_to_int8(x[i] * inverse);
      sum += blocks[b].qs[i];
      if (i == 15) low_sum = sum;
    }
    blocks[b].sum = blocks[b].scale * static_cast<float>(sum);
    blocks[b].low_sum = blocks[b].scale * static_cast<float>(low_sum);
  }
}

void round_to_bf16(const float* x, void* row, int64_t n) {
  auto* to = static_cast<float*>(row);
  for (int64_t i = 0; i < n; ++i) to[i] = bf16_to_float(float_to_bf16(x[i]));
}

void pair_bf16(const float* x, void* row, int64_t n) {
  auto* to = static_cast<uint16_t*>(row);
  for (int64_t i = 0; i < n; ++i) to[i] = float_to_bf16(x[i]);
  if (n % 2 != 0) to[n] = 0;
}

void tile_bf16(const float* x, void* row, int64_t n) {
  auto* to = static_cast<uint16_t*>(row);
  for (int64_t i = 0; i < (n + 31) / 32 * 32; ++i) {
    to[i / 32 * 512 + i % 32] = i < n ? float_to_bf16(x[i]) : uint16_t{0};
  }
}

// Finite numbers stay finite: an infinite value in KV memory would make NaNs of rows that must not see it.
uint16_t to_finite_f16(float x) { return float_to_f16(x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x); }

template <uint16_t (*kConvert)(float)>
void store_halves(const float* x, void* row, int64_t n) {
  auto* bytes = static_cast<uint8_t*>(row);
  for (int64_t i = 0; i < n; ++i) {
    uint16_t half = kConvert(x[i]);
    std::memcpy(bytes + i * 2, &half, 2);
  }
}

// The scale is a half float, so the elements are rounded against the scale before it is rounded: as GGUF writers do.
void store_q8_0(const float* x, void* row, int64_t n) {
  auto* bytes = static_cast<uint8_t*>(row);
  for (int64_t b = 0; b < n / 32; ++b, x += 32, bytes += sizeof(BlockQ8_0)) {
    float largest = largest_magnitude(x, 32);
    float inverse = largest > 0 ? 127.0f / largest : 0.0f;
    BlockQ8_0 block;
    block.d = float_to_f16(largest / 127.0f);
    for (int i = 0; i < 32; ++i) block.qs[i] = round_to_int8(x[i] * inverse);
    std::memcpy(bytes, &block, sizeof block);
  }
}

}  // namespace

void fill_convert(Kernels& table) {
  table.quantize_activations[static_cast<int>(ActivationFormat::kF32)] = copy_f32;
  table.quantize_activations[static_cast<int>(ActivationFormat::kQ8_32)] = quantize_q8_32;
  table.quantize_activations[static_cast<int>(ActivationFormat::kBF16Pairs)] = pair_bf16;
  table.quantize_activations[static_cast<int>(ActivationFormat::kBF16Tiles)] = tile_bf16;
  table.quantize_activations[static_cast<int>(ActivationFormat::kBF16)] = round_to_bf16;
  table.store_row[static_cast<int>(DType::kF32)] = copy_f32;
  table.store_row[static_cast<int>(DType::kF16)] = store_halves<to_finite_f16>;
  table.store_row[static_cast<int>(DType::kBF16)] = store_halves<float_to_bf16>;
  table.store_row[static_cast<int>(DType::kQ8_0)] = store_q8_0;
}

}  // namespace sluice::kernels::scalar
