// Weights of every type to f32: the meaning of the layouts in quant_blocks.h, in the order the fields lie there.
#include <cstring>

#include "base/float16.h"
#include "kernels/quant_blocks.h"
#include "kernels/scalar/fills.h"

namespace sluice::kernels::scalar {
namespace {

void dequantize_f32(const void* row, float* out, int64_t n) { std::memcpy(out, row, static_cast<size_t>(n) * 4); }

template <typename Stored, float (*kConvert)(Stored)>
void dequantize_plain(const void* row, float* out, int64_t n) {
  const auto* bytes = static_cast<const uint8_t*>(row);
  for (int64_t i = 0; i < n; ++i) {
    Stored value;
    std::memcpy(&value, bytes + i * static_cast<int64_t>(sizeof value), sizeof value);
    out[i] = kConvert(value);
  }
}

void decode(const BlockQ4_0& block, float* out) {
  float d = f16_to_float(block.d);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>((block.qs[i] & 15) - 8);
    out[i + 16] = d * static_cast<float>((block.qs[i] >> 4) - 8);
  }
}

void decode(const BlockQ4_1& block, float* out) {
  float d = f16_to_float(block.d), m = f16_to_float(block.m);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(block.qs[i] & 15) + m;
    out[i + 16] = d * static_cast<float>(block.qs[i] >> 4) + m;
  }
}

// Bit i of the 32 in qh, as the fifth bit of a value.
int fifth_bit(const uint8_t* qh, int i) { return (qh[i / 8] >> (i % 8) & 1) << 4; }

void decode(const BlockQ5_0& block, float* out) {
  float d = f16_to_float(block.d);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(((block.qs[i] & 15) | fifth_bit(block.qh, i)) - 16);
    out[i + 16] = d * static_cast<float>(((block.qs[i] >> 4) | fifth_bit(block.qh, i + 16)) - 16);
  }
}

void decode(const BlockQ5_1& block, float* out) {
  float d = f16_to_float(block.d), m = f16_to_float(block.m);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>((block.qs[i] & 15) | fifth_bit(block.qh, i)) + m;
    out[i + 16] = d * static_cast<float>((block.qs[i] >> 4) | fifth_bit(block.qh, i + 16)) + m;
  }
}

void decode(const BlockQ8_0& block, float* out) {
  float d = f16_to_float(block.d);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(block.qs[i]);
}

void decode(const BlockQ2_K& block, float* out) {
  float d = f16_to_float(block.d), dmin = f16_to_float(block.dmin);
  for (int e = 0; e < 256; ++e) {
    int half = e / 128, j = e % 128 / 32, l = e % 32;
    int q = block.qs[half * 32 + l] >> (2 * j) & 3;
    uint8_t scale = block.scales[e / 16];
    out[e] = d * static_cast<float>(scale & 15) * static_cast<float>(q) - dmin * static_cast<float>(scale >> 4);
  }
}

void decode(const BlockQ3_K& block, float* out) {
  float d = f16_to_float(block.d);
  for (int e = 0; e < 256; ++e) {
    int half = e / 128, j = e % 128 / 32, l = e % 32, sub = e / 16;
    int q = block.qs[half * 32 + l] >> (2 * j) & 3;
    q |= (block.hmask[l] >> (half * 4 + j) & 1) << 2;
    int low = sub < 8 ? block.scales[sub] & 15 : block.scales[sub - 8] >> 4;
    int high = block.scales[8 + sub % 4] >> (2 * (sub / 4)) & 3;
    out[e] = d * static_cast<float>((low | high << 4) - 32) * static_cast<float>(q - 4);
  }
}

// The 6-bit scale and minimum of sub-block j < 8 in the 12 bytes that Q4_K and Q5_K share: the first four of each lie
// whole in bytes 0-3 and 4-7, whose top two bits complete the nibbles of the last four in bytes 8-11.
void unpack(const uint8_t* s, int j, int* scale, int* min) {
  if (j < 4) {
    *scale = s[j] & 63;
    *min = s[j + 4] & 63;
  } else {
    *scale = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
    *min = (s[j + 4] >> 4) | (s[j] >> 6) << 4;
  }
}

void decode(const BlockQ4_K& block, float* out) {
  float d = f16_to_float(block.d), dmin = f16_to_float(block.dmin);
  for (int j = 0; j < 8; ++j) {
    int scale, min;
    unpack(block.scales, j, &scale, &min);
    for (int l = 0; l < 32; ++l) {
      int q = block.qs[j / 2 * 32 + l] >> (4 * (j % 2)) & 15;
      out[j * 32 + l] = d * static_cast<float>(scale) * static_cast<float>(q) - dmin * static_cast<float>(min);
    }
  }
}

void decode(const BlockQ5_K& block, float* out) {
  float d = f16_to_float(block.d), dmin = f16_to_float(block.dmin);
  for (int j = 0; j < 8; ++j) {
    int scale, min;
    unpack(block.scales, j, &scale, &min);
    for (int l = 0; l < 32; ++l) {
      int q = (block.qs[j / 2 * 32 + l] >> (4 * (j % 2)) & 15) | (block.qh[l] >> j & 1) << 4;
      out[j * 32 + l] = d * static_cast<float>(scale) * static_cast<float>(q) - dmin * static_cast<float>(min);
    }
  }
}

void decode(const BlockQ6_K& block, float* out) {
  float d = f16_to_float(block.d);
  for (int e = 0; e < 256; ++e) {
    int half = e / 128, j = e % 128 / 32, l = e % 32;
    int low = block.ql[half * 64 + (j % 2) * 32 + l] >> (4 * (j / 2)) & 15;
    int high = block.qh[half * 32 + l] >> (2 * j) & 3;
    out[e] = d * static_cast<float>(block.scales[e / 16]) * static_cast<float>((low | high << 4) - 32);
  }
}

void decode(const BlockIQ4_NL& block, float* out) {
  float d = f16_to_float(block.d);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(kIq4Values[block.qs[i] & 15]);
    out[i + 16] = d * static_cast<float>(kIq4Values[block.qs[i] >> 4]);
  }
}

void decode(const BlockIQ4_XS& block, float* out) {
  float d = f16_to_float(block.d);
  for (int j = 0; j < 8; ++j) {
    int low = block.scales_l[j / 2] >> (4 * (j % 2)) & 15;
    int high = block.scales_h >> (2 * j) & 3;
    float scale = d * static_cast<float>((low | high << 4) - 32);
    for (int i = 0; i < 16; ++i) {
      out[j * 32 + i] = scale * static_cast<float>(kIq4Values[block.qs[j * 16 + i] & 15]);
      out[j * 32 + i + 16] = scale * static_cast<float>(kIq4Values[block.qs[j * 16 + i] >> 4]);
    }
  }
}

template <typename Block, int kBlockSize>
void dequantize_blocks(const void* row, float* out, int64_t n) {
  const auto* bytes = static_cast<const uint8_t*>(row);
  for (int64_t i = 0; i < n; i += kBlockSize, bytes += sizeof(Block)) {
    Block block;
    std::memcpy(&block, bytes, sizeof block);
    decode(block, out + i);
  }
}

}  // namespace

void fill_quant(Kernels& table) {
  auto set = [&](DType type, void (*entry)(const void*, float*, int64_t)) {
    table.dequantize[static_cast<int>(type)] = entry;
  };
  set(DType::kF32, dequantize_f32);
  set(DType::kF16, dequantize_plain<uint16_t, f16_to_float>);
  set(DType::kBF16, dequantize_plain<uint16_t, bf16_to_float>);
  set(DType::kF8E4M3, dequantize_plain<uint8_t, f8_e4m3_to_float>);
  set(DType::kQ4_0, dequantize_blocks<BlockQ4_0, 32>);
  set(DType::kQ4_1, dequantize_blocks<BlockQ4_1, 32>);
  set(DType::kQ5_0, dequantize_blocks<BlockQ5_0, 32>);
  set(DType::kQ5_1, dequantize_blocks<BlockQ5_1, 32>);
  set(DType::kQ8_0, dequantize_blocks<BlockQ8_0, 32>);
  set(DType::kQ2_K, dequantize_blocks<BlockQ2_K, 256>);
  set(DType::kQ3_K, dequantize_blocks<BlockQ3_K, 256>);
  set(DType::kQ4_K, dequantize_blocks<BlockQ4_K, 256>);
  set(DType::kQ5_K, dequantize_blocks<BlockQ5_K, 256>);
  set(DType::kQ6_K, dequantize_blocks<BlockQ6_K, 256>);
  set(DType::kIQ4_NL, dequantize_blocks<BlockIQ4_NL, 32>);
  set(DType::kIQ4_XS, dequantize_blocks<BlockIQ4_XS, 256>);
}

}  // namespace sluice::kernels::scalar
