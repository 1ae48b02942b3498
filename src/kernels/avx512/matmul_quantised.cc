// Packed quantised weights times activations of 8 bits, by VNNI dot products.
//
// A strip of 16 weight rows is decoded, a stretch of inputs at a time, into a panel of bytes in the first-level cache:
// a register of it holds 4 inputs of each of the 16 rows, and vpdpbusd multiplies it by 4 activation bytes broadcast
// from memory and adds them up for 16 outputs at once. All activation rows of a tile pass over the panel before the
// next stretch is decoded.
//
// Invariant (batch invariance): integer sums of a sub-block are exact in any order, and the float operations for one
// (row, output) are the same sequence, block by block in the order of inputs, for every number of rows.
#include "kernels/avx512/decode.h"
#include "kernels/avx512/fills.h"
#include "kernels/avx512/strips.h"

namespace sluice::kernels::avx512 {
namespace {

template <typename Block>
struct Quantised {
  static constexpr DType kType = Decoder<Block>::kType;
  static constexpr PackedLayout kLayout = get_packed_layout(kType);
  static constexpr int kElements = kLayout.block_elements, kSub = Decoder<Block>::kSub;
  static constexpr int64_t kWordBytes = kLayout.num_words * 64, kHalfBytes = kLayout.num_halves * 32;
  static constexpr int kStretch = 256;                 // a panel of 4 KB
  static constexpr int kMaxRows = kSub == 32 ? 6 : 4;  // sums and dot products fill the 32 registers

  struct Panel {
    alignas(64) uint8_t q[kStretch / 4 * 64];
    alignas(64) float scales[kStretch / kSub * 16];
    alignas(64) float offsets[kStretch / kSub * 16];
  };

  static void decode(const MatmulArgs& args, int64_t output, int64_t begin, int64_t count, Panel& panel) {
    const int64_t block = begin / kElements;
    const uint8_t* strip = find_strip(args, kType, output);
    const uint8_t* words = strip + packed_half_bytes(kType, args.num_inputs) + block * kWordBytes;
    const uint8_t* halves = strip + block * kHalfBytes;
    Decoded to = {panel.q, panel.scales, panel.offsets};
    for (int64_t b = 0; b < count / kElements; ++b) {
      Decoder<Block>::decode(words, halves, to);
      words += kWordBytes;
      halves += kHalfBytes;
      to.q += kElements * 16;
      to.scales += kElements / kSub * 16;
      to.offsets += kElements / kSub * 16;
    }
  }

  static int64_t activation_offset(int64_t begin) { return begin / 32 * static_cast<int64_t>(sizeof(BlockQ8_32)); }

  template <int kRows, int kStrips>
  static void multiply(const Panel* panels, int64_t count, const uint8_t* activations, int64_t activation_row_bytes,
                       float* output, bool first, Ahead ahead) {
    constexpr int kSubs = 32 / kSub;
    __m512 sums[kRows][kStrips];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (int s = 0; s < kStrips; ++s) {
        sums[r][s] = first ? _mm512_setzero_ps() : _mm512_load_ps(output + (r * kStrips + s) * kStripRows);
      }
    }
    for (int64_t block = 0; block < count / 32; ++block, activations += sizeof(BlockQ8_32)) {
      ahead.fetch<kStrips>();
      auto x = [&](int r) { return reinterpret_cast<const BlockQ8_32*>(activations + r * activation_row_bytes); };
      // Group by group over all rows: each row's chain of dot products then has the others' between its links.
      __m512i dots[kRows][kStrips][kSubs];
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
        for (int s = 0; s < kStrips; ++s) {
#pragma GCC unroll 2
          for (int sub = 0; sub < kSubs; ++sub) dots[r][s][sub] = _mm512_setzero_si512();
        }
      }
#pragma GCC unroll 8
      for (int g = 0; g < 8; ++g) {
        __m512i w[kStrips];
#pragma GCC unroll 2
        for (int s = 0; s < kStrips; ++s) w[s] = _mm512_load_si512(panels[s].q + (block * 8 + g) * 64);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          const __m512i values = broadcast_4_bytes(x(r)->qs + 4 * g);
#pragma GCC unroll 2
          for (int s = 0; s < kStrips; ++s) {
            __m512i& dot = dots[r][s][g / (kSub / 4)];
            dot = _mm512_dpbusd_epi32(dot, w[s], values);
          }
        }
      }
#pragma GCC unroll 2
      for (int s = 0; s < kStrips; ++s) {
        const float* scales = panels[s].scales + block * kSubs * 16;
        const float* offsets = panels[s].offsets + block * kSubs * 16;
        const __m512 scale = _mm512_load_ps(scales), offset = _mm512_load_ps(offsets);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(dots[r][s][0]), scale);
          if constexpr (kSubs == 2) {
            product = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[r][s][1]), _mm512_load_ps(scales + 16), product);
          }
          __m512& sum = sums[r][s];
          sum = _mm512_fmadd_ps(product, _mm512_set1_ps(x(r)->scale), sum);
          if constexpr (kSubs == 2) {
            sum = _mm512_fmadd_ps(offset, _mm512_set1_ps(x(r)->low_sum), sum);
            sum = _mm512_fmadd_ps(_mm512_load_ps(offsets + 16), _mm512_set1_ps(x(r)->sum), sum);
          } else {
            sum = _mm512_fmadd_ps(offset, _mm512_set1_ps(x(r)->sum), sum);
          }
        }
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (int s = 0; s < kStrips; ++s) _mm512_store_ps(output + (r * kStrips + s) * kStripRows, sums[r][s]);
    }
  }
};

template <typename Block>
void set(Kernels& table) {
  using Product = Quantised<Block>;
  table.packed_matmul[static_cast<int>(Product::kType)] = {ActivationFormat::kQ8_32, multiply_strips<Product>};
}

}  // namespace

void fill_matmul_quantised(Kernels& table) {
  set<BlockQ4_0>(table);
  set<BlockQ4_1>(table);
  set<BlockQ5_0>(table);
  set<BlockQ5_1>(table);
  set<BlockQ8_0>(table);
  set<BlockQ2_K>(table);
  set<BlockQ3_K>(table);
  set<BlockQ4_K>(table);
  set<BlockQ5_K>(table);
  set<BlockQ6_K>(table);
  set<BlockIQ4_NL>(table);
  set<BlockIQ4_XS>(table);
}

}  // namespace sluice::kernels::avx512
