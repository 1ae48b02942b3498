// What surrounds the attention entries of the table: how a key or a value gets into its page, and how the partial
// results of spans become the attention over a whole context. Plain C++, the same for every fill, and cheap beside the
// entries: a few operations an element for every kAttentionSpan positions.
//
// A context is cut at multiples of kAttentionSpan and the spans are merged from the first to the last, whether one
// worker attended to all of them or each was somebody else's. So the bits of a result depend on positions only.
// Any thread; nothing here owns memory or keeps state.
#pragma once

#include "base/tensor.h"
#include "kernels/kernels.h"

namespace sluice::kernels {

// x[head_dim] into row `row` of a page of `type`, rounded as table.store_row does.
void store_key(const Kernels& table, DType type, const float* x, int64_t head_dim, void* page, int64_t row);
void store_value(const Kernels& table, DType type, const float* x, int64_t head_dim, void* page, int64_t row);
// The bytes that store_row made of the key, row_bytes(type, head_dim) of them.
void gather_key(DType type, const void* page, int64_t row, int64_t head_dim, void* out);

// Spans [begin, end), counted in kAttentionSpan positions, of which some query sees something.
struct SpanRange {
  int64_t begin, end;
};
SpanRange find_visible_spans(int64_t first_position, int64_t num_queries, int64_t window);

// Attends to span `span` into args.partials; args.begin and args.end are set here.
void attend_span(const Kernels& table, DType type, AttentionArgs args, int64_t span);
// into = into and then from, one row of each.
void merge_partial(const float* from, float* into, int64_t head_dim);
// The weighted mean of values: out[head_dim].
void finish_partial(const float* partial, float* out, int64_t head_dim);

// All visible spans in order: element (i, h, d) of the result at output[i * output_stride + h * head_dim + d].
// args.partials has room for twice as many rows as it says there.
void attend(const Kernels& table, DType type, const AttentionArgs& args, float* output, int64_t output_stride);

}  // namespace sluice::kernels
