// F32, F16, BF16 and F8 weights times f32 activations (rounded to what bf16 holds for BF16): the same strips and
// stretches as matmul_quantised.cc, with a panel of floats [inputs][16 outputs] and one chain of fused multiply-adds an
// output, in the order of inputs, on every path (batch invariance).
#include "kernels/avx2/fills.h"
#include "kernels/avx2/vector.h"

namespace sluice::kernels::avx2 {
namespace {

constexpr int kStrip = 32;         // weight rows decoded together
constexpr int kStretch = 128;      // inputs decoded together: a panel of 16 KB
constexpr int64_t kRowTile = 48;   // activation rows that stay in the second-level cache while all weights pass
constexpr int kMaxRows = 6;        // by 16 outputs: 12 sums, two weights and one activation fill the 16 registers

struct Panel {
  alignas(64) float weights[kStretch][kStrip];
};

// What a type makes of one 32-bit word of each of 8 rows: store(i, v) gets element i of the word of all rows.
struct F32 {
  static constexpr int kBytes = 4;
  template <typename Store>
  static inline void expand(__m256i words, Store store) {
    store(0, _mm256_castsi256_ps(words));
  }
};
struct F16 {
  static constexpr int kBytes = 2;
  template <typename Store>
  static inline void expand(__m256i words, Store store) {
    // The low halves of each four words together, then the high ones; then of all eight.
    const __m256i order = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15,  //
                                           0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    __m256i halves = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(words, order), 0xd8);
    store(0, _mm256_cvtph_ps(_mm256_castsi256_si128(halves)));
    store(1, _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1)));
  }
};
struct BF16 {
  static constexpr int kBytes = 2;
  template <typename Store>
  static inline void expand(__m256i words, Store store) {
    store(0, _mm256_castsi256_ps(_mm256_slli_epi32(words, 16)));
    store(1, _mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32(static_cast<int>(0xffff0000u)))));
  }
};
struct F8 {
  static constexpr int kBytes = 1;
  template <typename Store>
  static inline void expand(__m256i words, Store store) {
    for (int i = 0; i < 4; ++i, words = _mm256_srli_epi32(words, 8)) {
      store(i, f8_to_floats(_mm256_and_si256(words, _mm256_set1_epi32(0xff))));
    }
  }
};

template <typename Type>
void make_panel(const MatmulArgs& args, int64_t output, int valid, int64_t begin, int64_t count, Panel& panel) {
  constexpr int kPiece = 16 / Type::kBytes;  // elements transposed at once
  const uint8_t* stretch =
      static_cast<const uint8_t*>(args.weights) + output * args.weight_row_bytes + begin * Type::kBytes;
  for (int group = 0; group < kStrip && group < valid; group += 8) {
    const uint8_t* rows[8];
    for (int i = 0; i < 8; ++i) {
      // Rows past the end repeat the last one: their lanes are computed and dropped.
      int row = group + i < valid ? group + i : valid - 1;
      rows[i] = stretch + row * args.weight_row_bytes;
    }
    // Prefetched between the work, as in matmul_quantised.cc.
    const int64_t ahead = output + 2 * kStrip <= args.output_end ? kStrip * args.weight_row_bytes : 0;
    for (int64_t k = 0; k < count; k += kPiece) {
      __m256i words[4];
      if (count - k >= kPiece) {
        transpose_8x4(rows, static_cast<size_t>(k * Type::kBytes), words);
        if (k * Type::kBytes % 64 == 0) {
          for (const uint8_t* row : rows) {
            _mm_prefetch(reinterpret_cast<const char*>(row + ahead + k * Type::kBytes), _MM_HINT_T1);
          }
        }
      } else {  // no byte behind a row may be read
        uint8_t padded[8][16] = {};
        const uint8_t* tails[8];
        for (int i = 0; i < 8; ++i) {
          memcpy(padded[i], rows[i] + k * Type::kBytes, static_cast<size_t>(count - k) * Type::kBytes);
          tails[i] = padded[i];
        }
        transpose_8x4(tails, 0, words);
      }
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) {
        float* to = &panel.weights[k + c * (kPiece / 4)][group];
        Type::expand(words[c], [&](int i, __m256 v) { _mm256_store_ps(to + i * kStrip, v); });
      }
    }
  }
}

// kRows activation rows times kVectors * 8 columns of the panel, of which the first `valid` exist.
template <int kRows, int kVectors>
void multiply_rows(const float* panel, int64_t count, const uint8_t* activations, int64_t activation_row_bytes,
                   float* output, int64_t output_stride, int valid, bool first) {
  __m256 sums[kRows][kVectors];
  const float* x[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    x[r] = reinterpret_cast<const float*>(activations + r * activation_row_bytes);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      sums[r][v] = first ? _mm256_setzero_ps()
                         : _mm256_maskload_ps(output + r * output_stride + v * 8, lane_mask(valid - v * 8));
    }
  }
  for (int64_t k = 0; k < count; ++k) {
    __m256 w[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) w[v] = _mm256_load_ps(panel + k * kStrip + v * 8);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      __m256 a = _mm256_broadcast_ss(x[r] + k);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sums[r][v] = _mm256_fmadd_ps(w[v], a, sums[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      _mm256_maskstore_ps(output + r * output_stride + v * 8, lane_mask(valid - v * 8), sums[r][v]);
    }
  }
}

template <typename Type>
void multiply_strip(const MatmulArgs& args, int64_t row_begin, int64_t row_end, int64_t output, int64_t begin,
                    Panel& panel) {
  const int valid = args.output_end - output < kStrip ? static_cast<int>(args.output_end - output) : kStrip;
  const int64_t count = args.num_inputs - begin < kStretch ? args.num_inputs - begin : kStretch;
  make_panel<Type>(args, output, valid, begin, count, panel);
  auto run = [&](auto multiply, int64_t row, int column) {
    const uint8_t* x = static_cast<const uint8_t*>(args.activations) + row * args.activation_row_bytes + begin * 4;
    float* y = args.output + row * args.output_stride + output + column;
    multiply(panel.weights[0] + column, count, x, args.activation_row_bytes, y, args.output_stride, valid - column,
             begin == 0);
  };
  // One row or two: four chains of additions each, or their latency would be the limit.
  if (row_end - row_begin == 1) return run(multiply_rows<1, 4>, row_begin, 0);
  if (row_end - row_begin == 2) return run(multiply_rows<2, 4>, row_begin, 0);
  for (int column = 0; column < valid; column += 16) {
    int64_t row = row_begin;
    for (; row_end - row >= kMaxRows; row += kMaxRows) run(multiply_rows<kMaxRows, 2>, row, column);
    switch (row_end - row) {
      case 5: run(multiply_rows<5, 2>, row, column); break;
      case 4: run(multiply_rows<4, 2>, row, column); break;
      case 3: run(multiply_rows<3, 2>, row, column); break;
      case 2: run(multiply_rows<2, 2>, row, column); break;
      case 1: run(multiply_rows<1, 2>, row, column); break;
      default: break;
    }
  }
}

template <typename Type>
void multiply(const MatmulArgs& args) {
  Panel panel;
  for (int64_t row = 0; row < args.num_rows; row += kRowTile) {
    const int64_t row_end = row + kRowTile < args.num_rows ? row + kRowTile : args.num_rows;
    for (int64_t output = args.output_begin; output < args.output_end; output += kStrip) {
      for (int64_t begin = 0; begin < args.num_inputs; begin += kStretch) {
        multiply_strip<Type>(args, row, row_end, output, begin, panel);
      }
    }
  }
}

}  // namespace

void fill_matmul_float(Kernels& table) {
  auto set = [&](DType type, void (*entry)(const MatmulArgs&),
                 ActivationFormat format = ActivationFormat::kF32) {
    table.matmul[static_cast<int>(type)] = {format, entry};
  };
  set(DType::kF32, multiply<F32>);
  set(DType::kF16, multiply<F16>);
  set(DType::kBF16, multiply<BF16>, ActivationFormat::kBF16);
  set(DType::kF8E4M3, multiply<F8>);
}

}  // namespace sluice::kernels::avx2
