// Moving elements from one strided place to another, which is all that Transpose, Slice, Expand, Tile, Concat, Split,
// Pad and a dozen other operators do. They say which steps lead through both sides, dimension by dimension; how to do
// that quickly is decided here: dimensions that are one step on both sides become one, runs of neighbours are copied
// whole, and where the two sides run along different dimensions the elements go by square tiles. Steps are in elements,
// may be negative, and 0 in `from` repeats. The two sides must not overlap.
#pragma once

#include <cstdint>
#include <vector>

#include "base/thread_pool.h"
#include "graph/tensor.h"

namespace sluice::graph::ops {

struct MoveAxis {
  int64_t count = 0;
  int64_t from = 0, to = 0;  // elements to step over
};

// Axes outermost first, as `to` lies in memory; none moves one element. REQUIRES: every element named is inside its
// tensor; both sides hold elements of `type`.
void move_elements(ElementType type, const void* from, void* to, std::vector<MoveAxis> axes, ThreadPool& pool);

// What one axis of an output shows of the input.
struct PlaceAxis {
  std::vector<int64_t> source;         // for each place the offset in the input, in elements; -1: a constant
  int64_t run_begin = 0, run_end = 0;  // the offsets of these places are one run of `inner` elements each
};

// Each place of the output, over all axes, is `inner` elements of the input at the sum of the axes' offsets, or `inner`
// times `value` if one of them has none. REQUIRES: T is as wide as the elements; at least one axis.
template <typename T>
void move_places(const Tensor& input, Tensor& output, const std::vector<PlaceAxis>& axes, int64_t inner, const T& value,
                 ThreadPool& pool);

// The address of an element.
const void* element_at(const Tensor& tensor, int64_t index);
void* element_at(Tensor& tensor, int64_t index);

// Makes all elements zero, false or "".
void fill_with_zeros(Tensor& tensor);
// Makes all elements what the only element of `value` is. REQUIRES: equal types, value.count() >= 1.
void fill_with(Tensor& tensor, const Tensor& value, ThreadPool& pool);

}  // namespace sluice::graph::ops
