// Tensors taken apart along an axis and put together again: what loops do with what goes in and comes out of their
// bodies each time round, and what sequences of equal slices are. Pieces of axis 0 share the memory of the whole.
#pragma once

#include <cstdint>

#include "graph/op.h"

namespace sluice::graph::ops {

// Elements [begin, begin + length) along `axis`. REQUIRES: they are inside the tensor.
Tensor take_slice(const RunContext& context, const Tensor& whole, int axis, int64_t begin, int64_t length);
// The same of one element, without the axis.
Tensor take_piece(const RunContext& context, const Tensor& whole, int axis, int64_t index);

// Tensors of one type and shape, stacked along a new axis. The whole is as large as they are: where their number is not
// known before, memory grows with it by doubling.
class Stack {
 public:
  // `axis` is one of the whole, negative from the back. `num_pieces` is how many there will be, or at most, if they
  // come in order from 0 along axis 0 and `is_exact` is false.
  Stack(int64_t num_pieces, bool is_exact, int64_t axis = 0)
      : num_pieces_(num_pieces), is_exact_(is_exact), axis_(axis) {}

  // Throws Error, naming output `output`, if it is no tensor or unlike the first.
  void put(const RunContext& context, int output, int64_t index, const Value& piece);
  // All of them. If there was none: an empty tensor as `declared` says a piece is.
  Tensor take(const RunContext& context, int output, int64_t num_pieces, const ValueType& declared);

 private:
  Shape shape_of_whole(const RunContext& context, int64_t num_pieces) const;
  void reserve(const RunContext& context, int64_t num_pieces);

  int64_t num_pieces_;
  bool is_exact_;
  int64_t axis_;
  ElementType type_ = ElementType::kUndefined;
  Shape piece_;
  Tensor whole_;
  int64_t capacity_ = 0;
};

}  // namespace sluice::graph::ops
