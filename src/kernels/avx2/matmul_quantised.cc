// Quantised weights times activations of 8 bits.
//
// The idea: take a strip of 16 weight rows and a stretch of inputs and decode it once, transposed, into a panel of
// bytes in which one register holds 4 consecutive inputs of 8 weight rows. Multiplied by 4 activation bytes
// broadcast, maddubs then adds up 8 outputs side by side: no sum over lanes, and one float scale and conversion for
// 8 outputs and 32 inputs. The panel stays in the first-level cache while every activation row passes, so decoding
// is paid once for all rows; for a single row it still keeps up with memory.
//
// Invariant (batch invariance): integer sums of a sub-block are exact in any order, and the float operations for one
// (row, output) are the same sequence, sub-block by sub-block in the order of inputs, on every path through this file.
#include "kernels/avx2/decode.h"
#include "kernels/avx2/fills.h"

namespace sluice::kernels::avx2 {
namespace {

constexpr int kStrip = 16;        // weight rows decoded together
constexpr int kStretch = 512;     // inputs decoded together: a panel of 8 KB
constexpr int64_t kRowTile = 128;            // activation rows multiplied by a panel before the next one is decoded
constexpr int64_t kTileBytes = 512 << 10;    // of them, which should stay in the second-level cache
constexpr int kMaxRows = 4;       // activation rows multiplied together: 8 sums of 16 bits fill half the registers

struct Panel {
  // Rows of the output lie pages apart, so sums of a strip are kept here until they are complete.
  alignas(64) float sums[kRowTile * kStrip];
  alignas(64) uint8_t q[kStretch / 4][kStrip][4];  // 4 inputs of each row of the strip
  alignas(64) float scales[kStretch / 16][kStrip];
  alignas(64) float offsets[kStretch / 16][kStrip];
};

// Decodes inputs [begin, begin + count) of rows [output, output + valid).
template <typename Block>
void make_panel(const MatmulArgs& args, int64_t output, int valid, int64_t begin, int64_t count, Panel& panel) {
  using Decode = Decoder<Block>;
  constexpr int kSubs = Decode::kElements / Decode::kSub;
  const int64_t blocks = count / Decode::kElements;
  const uint8_t* stretch = static_cast<const uint8_t*>(args.weights) + output * args.weight_row_bytes +
                           begin / Decode::kElements * static_cast<int64_t>(sizeof(Block));
  for (int group = 0; group < kStrip; group += 8) {
    const uint8_t* rows[8];
    for (int i = 0; i < 8; ++i) {
      // Rows past the end repeat the last one: their lanes are computed and dropped.
      int row = group + i < valid ? group + i : valid - 1;
      rows[i] = stretch + row * args.weight_row_bytes;
    }
    // The same stretch of the next strip is prefetched a block of each row at a time, between the work: all of it
    // at once fills the processor's queues and stalls (with Q8_0: 16 instead of 23 GB/s).
    const int64_t ahead = output + 2 * kStrip <= args.output_end ? kStrip * args.weight_row_bytes : 0;
    for (int64_t b = 0; b < blocks; ++b) {
      auto store = [&](int word, __m256i v) { store_32(panel.q[b * (Decode::kElements / 4) + word][group], v); };
      decode_8_rows<Block>(rows, &panel.scales[b * kSubs][group], &panel.offsets[b * kSubs][group], kStrip, store);
      for (const uint8_t*& row : rows) {
        for (size_t at = 0; at < sizeof(Block); at += 64) {
          _mm_prefetch(reinterpret_cast<const char*>(row + ahead + at), _MM_HINT_T1);
        }
        row += sizeof(Block);
      }
    }
  }
}

// Two vectors of 8 neighbouring outputs.
struct Sums {
  __m256 v[2];
};

inline __m256i broadcast_4_bytes(const int8_t* p) {
  int32_t word;
  memcpy(&word, p, 4);
  return _mm256_set1_epi32(word);
}

// kRows activation rows times the panel, added to `output` [kRows, kStrip] (or to 0 for the first stretch).
template <typename Block, int kRows>
void multiply_rows(const Panel& panel, int64_t count, const uint8_t* activations, int64_t activation_row_bytes,
                   float* output, bool first) {
  using Decode = Decoder<Block>;
  constexpr int kSub = Decode::kSub;
  // How many products of pairs may be added in 16 bits: kMax * 127 * 2 * kGroup < 32768.
  constexpr int kFit = Decode::kSigned ? 1 : 32767 / (Decode::kMax * 127 * 2);
  constexpr int kGroup = kFit >= kSub / 4 ? kSub / 4 : kFit >= 4 ? 4 : kFit >= 2 ? 2 : 1;
  const __m256i ones = _mm256_set1_epi16(1);

  Sums sums[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    float* from = output + r * kStrip;
    sums[r] = first ? Sums{{_mm256_setzero_ps(), _mm256_setzero_ps()}}
                    : Sums{{_mm256_load_ps(from), _mm256_load_ps(from + 8)}};
  }
  for (int64_t b = 0; b < count / 32; ++b) {
    const BlockQ8_32* x[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      x[r] = reinterpret_cast<const BlockQ8_32*>(activations + r * activation_row_bytes) + b;
    }
#pragma GCC unroll 2
    for (int sub = 0; sub < 32 / kSub; ++sub) {
      // The loops over inputs stay loops: unrolled, the compiler keeps more in flight than there are registers.
      __m256i dots[kRows][2];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) dots[r][0] = dots[r][1] = _mm256_setzero_si256();
      if constexpr (kGroup >= 4) {
#pragma GCC unroll 2
        for (int group = 0; group < kSub / 4; group += kGroup) {
          __m256i pairs[kRows][2];
#pragma GCC unroll 8
          for (int r = 0; r < kRows; ++r) pairs[r][0] = pairs[r][1] = _mm256_setzero_si256();
#pragma GCC unroll 1
          for (int k = 0; k < kGroup; ++k) {
            const int at = sub * (kSub / 4) + group + k;
            const uint8_t* from = panel.q[b * 8 + at][0];
            const __m256i w[2] = {load_32(from), load_32(from + 32)};
#pragma GCC unroll 8
            for (int r = 0; r < kRows; ++r) {
              const __m256i a = broadcast_4_bytes(x[r]->qs + at * 4);
              pairs[r][0] = _mm256_add_epi16(pairs[r][0], _mm256_maddubs_epi16(w[0], a));
              pairs[r][1] = _mm256_add_epi16(pairs[r][1], _mm256_maddubs_epi16(w[1], a));
            }
          }
#pragma GCC unroll 8
          for (int r = 0; r < kRows; ++r) {
            dots[r][0] = _mm256_add_epi32(dots[r][0], _mm256_madd_epi16(pairs[r][0], ones));
            dots[r][1] = _mm256_add_epi32(dots[r][1], _mm256_madd_epi16(pairs[r][1], ones));
          }
        }
      } else {
#pragma GCC unroll 1
        for (int group = 0; group < kSub / 4; group += kGroup) {
          const int at = sub * (kSub / 4) + group;
          const uint8_t* from = panel.q[b * 8 + at][0];
          __m256i w[kGroup][2], magnitude[kGroup][2];
#pragma GCC unroll 2
          for (int k = 0; k < kGroup; ++k) {
            for (int h = 0; h < 2; ++h) {
              w[k][h] = load_32(from + k * 64 + h * 32);
              magnitude[k][h] = Decode::kSigned ? _mm256_abs_epi8(w[k][h]) : w[k][h];
            }
          }
#pragma GCC unroll 8
          for (int r = 0; r < kRows; ++r) {
            __m256i pairs[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
#pragma GCC unroll 2
            for (int k = 0; k < kGroup; ++k) {
              const __m256i a = broadcast_4_bytes(x[r]->qs + (at + k) * 4);
#pragma GCC unroll 2
              for (int h = 0; h < 2; ++h) {
                __m256i p = _mm256_maddubs_epi16(magnitude[k][h], Decode::kSigned ? _mm256_sign_epi8(a, w[k][h]) : a);
                pairs[h] = k == 0 ? p : _mm256_add_epi16(pairs[h], p);
              }
            }
            dots[r][0] = _mm256_add_epi32(dots[r][0], _mm256_madd_epi16(pairs[0], ones));
            dots[r][1] = _mm256_add_epi32(dots[r][1], _mm256_madd_epi16(pairs[1], ones));
          }
        }
      }
      const int64_t s = b * (32 / kSub) + sub;
      const __m256 scale[2] = {_mm256_load_ps(panel.scales[s]), _mm256_load_ps(panel.scales[s] + 8)};
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const __m256 x_scale = _mm256_broadcast_ss(&x[r]->scale);
        __m256 sum;
        if (!Decode::kSigned) {
          sum = _mm256_broadcast_ss(kSub == 32 ? &x[r]->sum : &x[r]->low_sum);
          if (kSub == 16 && sub == 1) sum = _mm256_sub_ps(_mm256_broadcast_ss(&x[r]->sum), sum);
        }
#pragma GCC unroll 2
        for (int h = 0; h < 2; ++h) {
          __m256 dot = _mm256_cvtepi32_ps(dots[r][h]);
          sums[r].v[h] = _mm256_fmadd_ps(_mm256_mul_ps(dot, scale[h]), x_scale, sums[r].v[h]);
          if (!Decode::kSigned) {
            sums[r].v[h] = _mm256_fmadd_ps(sum, _mm256_load_ps(panel.offsets[s] + h * 8), sums[r].v[h]);
          }
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    _mm256_store_ps(output + r * kStrip, sums[r].v[0]);
    _mm256_store_ps(output + r * kStrip + 8, sums[r].v[1]);
  }
}

// Rows [row_begin, row_begin + num_rows) times one strip.
template <typename Block>
void multiply_strip(const MatmulArgs& args, int64_t row_begin, int64_t num_rows, int64_t output, Panel& panel) {
  const int valid = args.output_end - output < kStrip ? static_cast<int>(args.output_end - output) : kStrip;
  for (int64_t begin = 0; begin < args.num_inputs; begin += kStretch) {
    const int64_t count = args.num_inputs - begin < kStretch ? args.num_inputs - begin : kStretch;
    make_panel<Block>(args, output, valid, begin, count, panel);
    const auto* x = static_cast<const uint8_t*>(args.activations) + row_begin * args.activation_row_bytes +
                    begin / 32 * static_cast<int64_t>(sizeof(BlockQ8_32));
    int64_t row = 0;
    auto run = [&](auto multiply, int rows) {
      multiply(panel, count, x + row * args.activation_row_bytes, args.activation_row_bytes, panel.sums + row * kStrip,
               begin == 0);
      row += rows;
    };
    while (num_rows - row >= kMaxRows) run(multiply_rows<Block, kMaxRows>, kMaxRows);
    if (num_rows - row == 3) run(multiply_rows<Block, 3>, 3);
    if (num_rows - row == 2) run(multiply_rows<Block, 2>, 2);
    if (num_rows - row == 1) run(multiply_rows<Block, 1>, 1);
  }
  const __m256i low = lane_mask(valid), high = lane_mask(valid - 8);
  for (int64_t r = 0; r < num_rows; ++r) {
    float* y = args.output + (row_begin + r) * args.output_stride + output;
    _mm256_maskstore_ps(y, low, _mm256_load_ps(panel.sums + r * kStrip));
    _mm256_maskstore_ps(y + 8, high, _mm256_load_ps(panel.sums + r * kStrip + 8));
  }
}

template <typename Block>
void multiply(const MatmulArgs& args) {
  Panel panel;
  int64_t tile = kTileBytes / args.activation_row_bytes / kMaxRows * kMaxRows;
  tile = tile < 4 * kMaxRows ? 4 * kMaxRows : tile > kRowTile ? kRowTile : tile;
  for (int64_t row = 0; row < args.num_rows; row += tile) {
    const int64_t num_rows = args.num_rows - row < tile ? args.num_rows - row : tile;
    for (int64_t output = args.output_begin; output < args.output_end; output += kStrip) {
      multiply_strip<Block>(args, row, num_rows, output, panel);
    }
  }
}

}  // namespace

void fill_matmul_quantised(Kernels& table) {
  auto set = [&](DType type, void (*entry)(const MatmulArgs&)) {
    table.matmul[static_cast<int>(type)] = {ActivationFormat::kQ8_32, entry};
  };
  set(DType::kQ4_0, multiply<BlockQ4_0>);
  set(DType::kQ4_1, multiply<BlockQ4_1>);
  set(DType::kQ5_0, multiply<BlockQ5_0>);
  set(DType::kQ5_1, multiply<BlockQ5_1>);
  set(DType::kQ8_0, multiply<BlockQ8_0>);
  set(DType::kQ2_K, multiply<BlockQ2_K>);
  set(DType::kQ3_K, multiply<BlockQ3_K>);
  set(DType::kQ4_K, multiply<BlockQ4_K>);
  set(DType::kQ5_K, multiply<BlockQ5_K>);
  set(DType::kQ6_K, multiply<BlockQ6_K>);
  set(DType::kIQ4_NL, multiply<BlockIQ4_NL>);
  set(DType::kIQ4_XS, multiply<BlockIQ4_XS>);
}

}  // namespace sluice::kernels::avx2
