// Byte layouts of the quantised types, as they lie in GGUF files (little endian), and of quantised activations. Plain
// data: formats/ checks sizes with it, optimize/ writes it, every kernel reads it. Blocks are packed and may lie at any
// address, so read multi-byte fields as values and never through a pointer. d, dmin and m are IEEE half floats.
//
// "Elements" below are the positions in the block's run of 32 or 256 consecutive weights of a row. A nibble pair holds
// element i in the low half of its byte and a later element in the high half, as each comment says.
#pragma once

#include <stdint.h>

namespace sluice::kernels {

struct __attribute__((packed)) BlockQ4_0 {  // x = d * (q - 8)
  uint16_t d;
  uint8_t qs[16];  // low: element i, high: element i + 16
};

struct __attribute__((packed)) BlockQ4_1 {  // x = d * q + m
  uint16_t d, m;
  uint8_t qs[16];  // as Q4_0
};

struct __attribute__((packed)) BlockQ5_0 {  // x = d * (q - 16)
  uint16_t d;
  uint8_t qh[4];   // bit i: fifth bit of element i
  uint8_t qs[16];  // as Q4_0
};

struct __attribute__((packed)) BlockQ5_1 {  // x = d * q + m
  uint16_t d, m;
  uint8_t qh[4];
  uint8_t qs[16];
};

struct __attribute__((packed)) BlockQ8_0 {  // x = d * q
  uint16_t d;
  int8_t qs[32];
};

// K-quants: 256 elements in sub-blocks of 16 (Q2_K, Q3_K, Q6_K) or 32 (Q4_K, Q5_K), each with its own small scale.

struct __attribute__((packed)) BlockQ2_K {  // x = d * (scales & 15) * q - dmin * (scales >> 4)
  uint8_t scales[16];  // one a sub-block of 16
  uint8_t qs[64];      // byte h * 32 + l holds elements h * 128 + j * 32 + l in bits 2j, 2j + 1, for j < 4
  uint16_t d, dmin;
};

struct __attribute__((packed)) BlockQ3_K {  // x = d * (scale - 32) * (q - 4)
  uint8_t hmask[32];   // bit h * 4 + j of byte l: third bit of element h * 128 + j * 32 + l
  uint8_t qs[64];      // low two bits, as Q2_K
  uint8_t scales[12];  // 16 scales of 6 bits: low nibbles in bytes 0-7, then two high bits each in bytes 8-11
  uint16_t d;
};

struct __attribute__((packed)) BlockQ4_K {  // x = d * scale * q - dmin * min
  uint16_t d, dmin;
  uint8_t scales[12];  // 8 scales and 8 minima of 6 bits, see unpack in scalar/quant.cc
  uint8_t qs[128];     // byte j * 32 + l: low: element j * 64 + l, high: element j * 64 + 32 + l
};

struct __attribute__((packed)) BlockQ5_K {  // x = d * scale * q - dmin * min
  uint16_t d, dmin;
  uint8_t scales[12];  // as Q4_K
  uint8_t qh[32];      // bit j of byte l: fifth bit of element j * 32 + l
  uint8_t qs[128];     // as Q4_K
};

struct __attribute__((packed)) BlockQ6_K {  // x = d * scale * (q - 32)
  uint8_t ql[128];     // byte h * 64 + l: low: element h * 128 + l, high: element h * 128 + 64 + l, for l < 64
  uint8_t qh[64];      // byte h * 32 + l: bits 2j, 2j + 1 are the top bits of element h * 128 + j * 32 + l
  int8_t scales[16];   // one a sub-block of 16
  uint16_t d;
};

struct __attribute__((packed)) BlockIQ4_NL {  // x = d * kIq4Values[q]
  uint16_t d;
  uint8_t qs[16];  // as Q4_0
};

struct __attribute__((packed)) BlockIQ4_XS {  // x = d * (scale - 32) * kIq4Values[q]
  uint16_t d;
  uint16_t scales_h;    // two high bits of each of 8 scales, sub-block 0 in the lowest
  uint8_t scales_l[4];  // low nibbles, sub-block 2i in the low half of byte i
  uint8_t qs[128];      // 16 bytes a sub-block of 32, each as Q4_0
};

static_assert(sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_1) == 20 && sizeof(BlockQ5_0) == 22);
static_assert(sizeof(BlockQ5_1) == 24 && sizeof(BlockQ8_0) == 34 && sizeof(BlockIQ4_NL) == 18);
static_assert(sizeof(BlockQ2_K) == 84 && sizeof(BlockQ3_K) == 110 && sizeof(BlockQ4_K) == 144);
static_assert(sizeof(BlockQ5_K) == 176 && sizeof(BlockQ6_K) == 210 && sizeof(BlockIQ4_XS) == 136);

// The levels of IQ4_NL and IQ4_XS. Static, not inline: an inline variable would be a weak symbol in ISA objects.
static constexpr int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                          1,    13,   25,  38,  53,  69,  89,  113};

// Quantised activations, made by Kernels::quantize_activations and never stored in files: x = scale * q, |q| <= 127.
struct BlockQ8_32 {
  float scale;
  float sum;      // scale * (the sum of all qs): products need it for types with an offset
  float low_sum;  // the same of qs[0..15]
  int8_t qs[32];
};
static_assert(sizeof(BlockQ8_32) == 44 && alignof(BlockQ8_32) == 4);

}  // namespace sluice::kernels
