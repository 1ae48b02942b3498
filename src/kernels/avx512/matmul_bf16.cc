// Packed BF16 weights times bf16 activations by dot products of pairs (AVX512_BF16): a word of a strip is a pair of
// inputs of 16 outputs and needs no decoding.
//
// vdpbf16ps adds the two products of a pair to a sum, which is rounded once or twice on the way (processors differ in
// that, and flush denormals); the order is that of the inputs for every number of rows.
#include "kernels/avx512/fills.h"
#include "kernels/avx512/strips.h"

namespace sluice::kernels::avx512 {
namespace {

struct Pairs {
  static constexpr DType kType = DType::kBF16;
  static constexpr int kStretch = 512;  // 16 KB of a strip
  static constexpr int kMaxRows = 12;

  struct Panel {
    const uint8_t* words;
  };

  static void decode(const MatmulArgs& args, int64_t output, int64_t begin, int64_t, Panel& panel) {
    panel.words = find_strip(args, kType, output) + begin / 2 * 64;
  }

  static int64_t activation_offset(int64_t begin) { return begin * 2; }

  template <int kRows, int kStrips>
  static void multiply(const Panel* panels, int64_t count, const uint8_t* activations, int64_t activation_row_bytes,
                       float* output, bool first, Ahead ahead) {
    __m512 sums[kRows][kStrips];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (int s = 0; s < kStrips; ++s) {
        sums[r][s] = first ? _mm512_setzero_ps() : _mm512_load_ps(output + (r * kStrips + s) * kStripRows);
      }
    }
    for (int64_t i = 0; i < count / 2; ++i) {
      if (i % 16 == 0) ahead.fetch<kStrips>();
      __m512bh w[kStrips];
#pragma GCC unroll 2
      for (int s = 0; s < kStrips; ++s) w[s] = reinterpret_cast<__m512bh>(load_512(panels[s].words + i * 64));
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const auto x = reinterpret_cast<__m512bh>(broadcast_4_bytes(activations + r * activation_row_bytes + i * 4));
#pragma GCC unroll 2
        for (int s = 0; s < kStrips; ++s) sums[r][s] = _mm512_dpbf16_ps(sums[r][s], w[s], x);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (int s = 0; s < kStrips; ++s) _mm512_store_ps(output + (r * kStrips + s) * kStripRows, sums[r][s]);
    }
  }
};

}  // namespace

void fill_matmul_bf16(Kernels& table) {
  table.packed_matmul[static_cast<int>(Pairs::kType)] = {ActivationFormat::kBF16Pairs, multiply_strips<Pairs>};
}

}  // namespace sluice::kernels::avx512
