#include "graph/ops/pieces.h"

#include <algorithm>

#include "graph/ops/move.h"

namespace sluice::graph::ops {

Tensor take_slice(const RunContext& context, const Tensor& whole, int axis, int64_t begin, int64_t length) {
  Shape shape = whole.shape();
  shape[axis] = length;
  const int64_t num_outer = whole.shape().count(0, axis), inner = whole.shape().count(axis + 1, whole.rank());
  if (num_outer == 1) return whole.slice(begin * inner, shape);
  Tensor slice = context.make(whole.type(), shape);
  if (slice.count() > 0) {
    move_elements(whole.type(), element_at(whole, begin * inner), slice.raw(),
                  {{num_outer, whole.dim(axis) * inner, length * inner}, {length * inner, 1, 1}}, context.pool());
  }
  return slice;
}

Tensor take_piece(const RunContext& context, const Tensor& whole, int axis, int64_t index) {
  const Tensor slice = take_slice(context, whole, axis, index, 1);
  Shape shape = slice.shape();
  shape.erase(axis);
  return slice.reshaped(shape);
}

Shape Stack::shape_of_whole(const RunContext& context, int64_t num_pieces) const {
  Shape shape = piece_;
  shape.insert(context.axis(axis_, piece_.rank() + 1), num_pieces);
  return shape;
}

void Stack::reserve(const RunContext& context, int64_t num_pieces) {
  if (num_pieces <= capacity_) return;
  constexpr int64_t kFirstPieces = 4;
  if (is_exact_) {
    capacity_ = num_pieces_;
  } else {
    capacity_ =
        std::min(num_pieces_, std::max(kFirstPieces, capacity_ > num_pieces_ / 2 ? num_pieces_ : 2 * capacity_));
  }
  Tensor larger = context.make(type_, shape_of_whole(context, capacity_));
  if (whole_.is_null()) {
    whole_ = std::move(larger);
    return;
  }
  if (whole_.count() > 0) move_elements(type_, whole_.raw(), larger.raw(), {{whole_.count(), 1, 1}}, context.pool());
  whole_ = std::move(larger);
}

void Stack::put(const RunContext& context, int output, int64_t index, const Value& piece) {
  if (piece.kind != Value::Kind::kTensor) context.fail("the body gives no tensor for output {}", output + 1);
  const Tensor& tensor = piece.tensor;
  if (whole_.is_null()) {
    type_ = tensor.type();
    piece_ = tensor.shape();
  } else if (tensor.type() != type_ || !(tensor.shape() == piece_)) {
    context.fail("the body gives {} for output {} after {} {}; all have to be alike", to_string(tensor), output + 1,
                 name(type_), to_string(piece_));
  }
  reserve(context, index + 1);
  if (tensor.count() == 0) return;
  const int axis = context.axis(axis_, piece_.rank() + 1);
  const int64_t num_outer = piece_.count(0, axis), inner = piece_.count(axis, piece_.rank());
  move_elements(type_, tensor.raw(), element_at(whole_, index * inner),
                {{num_outer, inner, capacity_ * inner}, {inner, 1, 1}}, context.pool());
}

Tensor Stack::take(const RunContext& context, int output, int64_t num_pieces, const ValueType& declared) {
  if (!whole_.is_null()) return num_pieces == capacity_ ? whole_ : whole_.slice(0, shape_of_whole(context, num_pieces));
  if (declared.element == ElementType::kUndefined) {
    context.fail("runs no time, so the type of output {} is not known; its body has to declare it", output + 1);
  }
  type_ = declared.element;
  if (declared.has_rank()) {
    for (const Dim& dim : *declared.dims) piece_.push_back(dim.known().value_or(0));
  }
  return context.make(type_, shape_of_whole(context, num_pieces));
}

}  // namespace sluice::graph::ops
