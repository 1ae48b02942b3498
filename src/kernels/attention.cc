#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "kernels/quant_blocks.h"

namespace sluice::kernels {
namespace {

constexpr int64_t kChunk = 256;  // elements of a key converted at a time, a multiple of every block

// A Q8_0 page of keys: int8[head_dim, kPageSize], then the scales, half[head_dim / 32, kPageSize].
uint8_t* scale_of(uint8_t* page, int64_t head_dim, int64_t block, int64_t row) {
  return page + head_dim * kPageSize + (block * kPageSize + row) * 2;
}

template <size_t kBytes>
void scatter(const uint8_t* from, int64_t count, uint8_t* to) {
  for (int64_t d = 0; d < count; ++d, from += kBytes, to += kPageSize * kBytes) std::memcpy(to, from, kBytes);
}

template <size_t kBytes>
void gather(const uint8_t* from, int64_t count, uint8_t* to) {
  for (int64_t d = 0; d < count; ++d, from += kPageSize * kBytes, to += kBytes) std::memcpy(to, from, kBytes);
}

}  // namespace

void store_key(const Kernels& table, DType type, const float* x, int64_t head_dim, void* page, int64_t row) {
  DCHECK(row >= 0 && row < kPageSize && head_dim % get_info(type).block_size == 0, row, head_dim);
  auto* to = static_cast<uint8_t*>(page);
  uint8_t stored[kChunk * 4];
  for (int64_t begin = 0; begin < head_dim; begin += kChunk) {
    const int64_t count = std::min(kChunk, head_dim - begin);
    table.store_row[static_cast<int>(type)](x + begin, stored, count);
    if (type == DType::kF32) {
      scatter<4>(stored, count, to + (begin * kPageSize + row) * 4);
    } else if (type != DType::kQ8_0) {
      scatter<2>(stored, count, to + (begin * kPageSize + row) * 2);
    } else {
      for (int64_t d = 0; d < count; d += 32) {
        const auto* block = reinterpret_cast<const BlockQ8_0*>(stored) + d / 32;
        std::memcpy(scale_of(to, head_dim, (begin + d) / 32, row), &block->d, 2);
        scatter<1>(reinterpret_cast<const uint8_t*>(block->qs), 32, to + (begin + d) * kPageSize + row);
      }
    }
  }
}

void store_value(const Kernels& table, DType type, const float* x, int64_t head_dim, void* page, int64_t row) {
  table.store_row[static_cast<int>(type)](x, static_cast<uint8_t*>(page) + row * row_bytes(type, head_dim), head_dim);
}

void gather_key(DType type, const void* page, int64_t row, int64_t head_dim, void* out) {
  const auto* from = static_cast<const uint8_t*>(page);
  auto* to = static_cast<uint8_t*>(out);
  if (type == DType::kF32) {
    gather<4>(from + row * 4, head_dim, to);
  } else if (type != DType::kQ8_0) {
    gather<2>(from + row * 2, head_dim, to);
  } else {
    for (int64_t d = 0; d < head_dim; d += 32) {
      uint8_t* block = to + d / 32 * static_cast<int64_t>(sizeof(BlockQ8_0));
      std::memcpy(block, scale_of(const_cast<uint8_t*>(from), head_dim, d / 32, row), 2);
      gather<1>(from + d * kPageSize + row, 32, block + offsetof(BlockQ8_0, qs));
    }
  }
}

SpanRange find_visible_spans(int64_t first_position, int64_t num_queries, int64_t window) {
  const int64_t first = window > 0 ? std::max<int64_t>(0, first_position - window + 1) : 0;
  return {first / kAttentionSpan, (first_position + num_queries - 1) / kAttentionSpan + 1};
}

void attend_span(const Kernels& table, DType type, AttentionArgs args, int64_t span) {
  args.begin = span * kAttentionSpan;
  args.end = std::min(args.begin + kAttentionSpan, args.first_position + args.num_queries);
  const int t = static_cast<int>(type);
  const bool is_few = args.num_queries * args.group_size < kManyAttentionRows && table.few_rows_attention[t] != nullptr;
  (is_few ? table.few_rows_attention[t] : table.attention[t])(args);
}

void merge_partial(const float* from, float* into, int64_t head_dim) {
  const int64_t at = attention_values_floats(head_dim);
  const float from_highest = from[at], highest = std::max(into[at], from_highest);
  // A span without a visible key has a sum of 0; one whose scores are NaN has not, and must not be lost.
  if (from_highest == -INFINITY && from[at + 1] == 0) return;
  // Not even a zero may change its sign: the span might as well have come first.
  if (into[at] == -INFINITY && into[at + 1] == 0) {
    std::copy(from, from + at + 2, into);
    return;
  }
  const float keep = std::exp2(into[at] - highest), factor = std::exp2(from_highest - highest);
  for (int64_t d = 0; d < head_dim; ++d) into[d] = into[d] * keep + from[d] * factor;
  into[at] = highest;
  into[at + 1] = into[at + 1] * keep + from[at + 1] * factor;
}

void finish_partial(const float* partial, float* out, int64_t head_dim) {
  const float inverse = 1.0f / partial[attention_values_floats(head_dim) + 1];
  for (int64_t d = 0; d < head_dim; ++d) out[d] = partial[d] * inverse;
}

void attend(const Kernels& table, DType type, const AttentionArgs& args, float* output, int64_t output_stride) {
  const SpanRange spans = find_visible_spans(args.first_position, args.num_queries, args.window);
  const int64_t rows = args.num_queries * args.group_size, floats = attention_partial_floats(args.head_dim);
  AttentionArgs next = args;
  next.partials = args.partials + rows * floats;
  attend_span(table, type, args, spans.begin);
  for (int64_t span = spans.begin + 1; span < spans.end; ++span) {
    attend_span(table, type, next, span);
    for (int64_t r = 0; r < rows; ++r) {
      merge_partial(next.partials + r * floats, args.partials + r * floats, args.head_dim);
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    float* out = output + r / args.group_size * output_stride + r % args.group_size * args.head_dim;
    finish_partial(args.partials + r * floats, out, args.head_dim);
  }
}

}  // namespace sluice::kernels
