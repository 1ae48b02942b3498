// The reference attention: for each query and head, all scores, then their softmax, then the weighted sum of values.
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/tensor.h"
#include "kernels/scalar/fills.h"

namespace sluice::kernels::scalar {
namespace {

using Dequantize = void (*)(const void* row, float* out, int64_t n);

Dequantize decoders[kNumDTypes];

void attend(const AttentionArgs& args, DType type) {
  Dequantize dequantize = decoders[static_cast<int>(type)];
  DCHECK(args.head_dim % get_info(type).block_size == 0, args.head_dim);
  const int64_t bytes = row_bytes(type, args.head_dim);
  const int64_t context = args.first_position + args.num_queries;
  float* scores = args.scratch;               // [context]
  float* row = args.scratch + context;        // [head_dim], a key or a value
  auto load_row = [&](const void* const* pages, int64_t position) {
    const auto* page = static_cast<const uint8_t*>(pages[position / kPageSize]);
    dequantize(page + position % kPageSize * bytes, row, args.head_dim);
  };

  for (int64_t i = 0; i < args.num_queries; ++i) {
    const int64_t last = args.first_position + i;
    const int64_t first = args.window > 0 ? std::max<int64_t>(0, last - args.window + 1) : 0;
    for (int64_t h = 0; h < args.group_size; ++h) {
      const float* query = args.queries + i * args.query_stride + h * args.head_dim;
      float* output = args.output + i * args.output_stride + h * args.head_dim;

      float highest = -INFINITY;
      for (int64_t p = first; p <= last; ++p) {
        load_row(args.key_pages, p);
        double dot = 0;
        for (int64_t d = 0; d < args.head_dim; ++d) dot += static_cast<double>(query[d]) * static_cast<double>(row[d]);
        float score = static_cast<float>(dot) * args.scale;
        if (args.softcap > 0) score = args.softcap * std::tanh(score / args.softcap);
        scores[p] = score;
        highest = std::max(highest, score);
      }

      double sum = 0;
      for (int64_t p = first; p <= last; ++p) {
        scores[p] = std::exp(scores[p] - highest);
        sum += static_cast<double>(scores[p]);
      }
      std::fill(output, output + args.head_dim, 0.0f);
      for (int64_t p = first; p <= last; ++p) {
        load_row(args.value_pages, p);
        float weight = static_cast<float>(static_cast<double>(scores[p]) / sum);
        for (int64_t d = 0; d < args.head_dim; ++d) output[d] += weight * row[d];
      }
    }
  }
}

template <DType kType>
void attend_type(const AttentionArgs& args) {
  attend(args, kType);
}

}  // namespace

void fill_attention(Kernels& table) {
  static const bool once = [&] {
    std::copy(std::begin(table.dequantize), std::end(table.dequantize), std::begin(decoders));
    return true;
  }();
  static_cast<void>(once);
  table.attention[static_cast<int>(DType::kF32)] = attend_type<DType::kF32>;
  table.attention[static_cast<int>(DType::kF16)] = attend_type<DType::kF16>;
  table.attention[static_cast<int>(DType::kBF16)] = attend_type<DType::kBF16>;
  table.attention[static_cast<int>(DType::kQ8_0)] = attend_type<DType::kQ8_0>;
}

}  // namespace sluice::kernels::scalar
