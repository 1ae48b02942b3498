// The reference product: weights made f32 a piece at a time, multiplied with f32 activations, summed in double in
// order.
#include <algorithm>

#include "base/check.h"
#include "base/tensor.h"
#include "kernels/scalar/fills.h"

namespace sluice::kernels::scalar {
namespace {

using Dequantize = void (*)(const void* row, float* out, int64_t n);

// The pieces are a multiple of every block size. Rows are taken a few at a time so that each weight is decoded once for
// all of them; every row keeps its own sum, so the grouping changes no result.
constexpr int64_t kPiece = 256;
constexpr int64_t kRowTile = 16;

void multiply(const MatmulArgs& args, Dequantize dequantize, const DTypeInfo& info) {
  DCHECK(args.num_inputs % info.block_size == 0, args.num_inputs);
  float piece[kPiece];
  for (int64_t row_begin = 0; row_begin < args.num_rows; row_begin += kRowTile) {
    int64_t rows = std::min(kRowTile, args.num_rows - row_begin);
    for (int64_t o = args.output_begin; o < args.output_end; ++o) {
      const auto* weights = static_cast<const uint8_t*>(args.weights) + o * args.weight_row_bytes;
      double sums[kRowTile] = {};
      for (int64_t i = 0; i < args.num_inputs; i += kPiece) {
        int64_t n = std::min(kPiece, args.num_inputs - i);
        dequantize(weights + i / info.block_size * info.block_bytes, piece, n);
        for (int64_t r = 0; r < rows; ++r) {
          const auto* row = static_cast<const uint8_t*>(args.activations) + (row_begin + r) * args.activation_row_bytes;
          const float* x = reinterpret_cast<const float*>(row) + i;
          for (int64_t k = 0; k < n; ++k) sums[r] += static_cast<double>(piece[k]) * static_cast<double>(x[k]);
        }
      }
      for (int64_t r = 0; r < rows; ++r) {
        args.output[(row_begin + r) * args.output_stride + o] = static_cast<float>(sums[r]);
      }
    }
  }
}

// A table entry carries no type, so each type gets its own function, which looks its decoder up in this table.
Dequantize decoders[kNumDTypes];

template <DType kType>
void multiply_type(const MatmulArgs& args) {
  multiply(args, decoders[static_cast<int>(kType)], get_info(kType));
}

template <DType... kTypes>
void set_all(Kernels& table) {
  ((table.matmul[static_cast<int>(kTypes)] = {ActivationFormat::kF32, multiply_type<kTypes>}), ...);
}

}  // namespace

void fill_matmul(Kernels& table) {
  // Once a process: later tables would write the same values while another thread multiplies.
  static const bool once = [&] {
    std::copy(std::begin(table.dequantize), std::end(table.dequantize), std::begin(decoders));
    return true;
  }();
  static_cast<void>(once);
  set_all<DType::kF32, DType::kF16, DType::kBF16, DType::kF8E4M3, DType::kQ4_0, DType::kQ4_1, DType::kQ5_0,
          DType::kQ5_1, DType::kQ8_0, DType::kQ2_K, DType::kQ3_K, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K,
          DType::kIQ4_NL, DType::kIQ4_XS>(table);
  table.matmul[static_cast<int>(DType::kBF16)].activation_format = ActivationFormat::kBF16;
}

}  // namespace sluice::kernels::scalar
