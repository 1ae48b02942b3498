// The reference attention: for each query and head, the scores of the span, then their weights, then the sum of values
// by weight.
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/tensor.h"
#include "kernels/attention.h"
#include "kernels/scalar/fills.h"

namespace sluice::kernels::scalar {
namespace {

using Dequantize = void (*)(const void* row, float* out, int64_t n);

Dequantize decoders[kNumDTypes];

void attend(const AttentionArgs& args, DType type) {
  Dequantize dequantize = decoders[static_cast<int>(type)];
  DCHECK(args.head_dim % get_info(type).block_size == 0, args.head_dim);
  DCHECK(args.begin % kAttentionSpan == 0 && args.end <= args.begin + kAttentionSpan, args.begin, args.end);
  const int64_t bytes = row_bytes(type, args.head_dim);
  float* weights = args.scratch;                      // [kAttentionSpan] scores, then weights
  float* row = weights + kAttentionSpan;              // [head_dim], a key or a value
  float* stored_key = row + args.head_dim;            // the bytes of a key, at most a float an element
  auto load_key = [&](int64_t position) {
    gather_key(type, args.key_pages[position / kPageSize], position % kPageSize, args.head_dim, stored_key);
    dequantize(stored_key, row, args.head_dim);
  };
  auto load_value = [&](int64_t position) {
    const auto* page = static_cast<const uint8_t*>(args.value_pages[position / kPageSize]);
    dequantize(page + position % kPageSize * bytes, row, args.head_dim);
  };

  for (int64_t i = 0; i < args.num_queries; ++i) {
    const int64_t position = args.first_position + i;
    const int64_t first = std::max(args.begin, args.window > 0 ? position - args.window + 1 : 0);
    const int64_t end = std::min(args.end, position + 1);
    for (int64_t h = 0; h < args.group_size; ++h) {
      const float* query = args.queries + i * args.query_stride + h * args.head_dim;
      float* values = args.partials + (i * args.group_size + h) * attention_partial_floats(args.head_dim);

      float highest = -INFINITY;
      for (int64_t p = first; p < end; ++p) {
        load_key(p);
        double dot = 0;
        for (int64_t d = 0; d < args.head_dim; ++d) dot += static_cast<double>(query[d]) * static_cast<double>(row[d]);
        double score = dot * static_cast<double>(args.scale);
        if (args.softcap > 0) {
          const auto cap = static_cast<double>(args.softcap);
          score = cap * std::tanh(score / cap);
        }
        float& weight = weights[p - args.begin];
        weight = static_cast<float>(score * 1.4426950408889634);  // log2(e)
        highest = std::max(highest, weight);
      }

      double sum = 0;
      std::fill(values, values + args.head_dim, 0.0f);
      for (int64_t p = first; p < end; ++p) {
        const float weight = std::exp2(weights[p - args.begin] - highest);
        sum += static_cast<double>(weight);
        load_value(p);
        for (int64_t d = 0; d < args.head_dim; ++d) values[d] += weight * row[d];
      }
      values[attention_values_floats(args.head_dim)] = highest;
      values[attention_values_floats(args.head_dim) + 1] = static_cast<float>(sum);
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
