// Shape arithmetic that several groups of operators share: small integer tensors as Dims, products that may overflow,
// and what their run functions do with a shape that infer() told.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "graph/op.h"

namespace sluice::graph::ops {

// Longer integer tensors are data, not shapes; nobody follows their elements.
inline constexpr int64_t kMaxShapeInts = 64;

// The elements of an integer input, as far as they are known, if there are no more than kMaxShapeInts.
inline std::optional<std::vector<Dim>> find_shape_ints(const InferContext& context, int i) {
  if (!context.has_input(i)) return std::nullopt;
  if (const Tensor* tensor = context.constant(i); tensor != nullptr && tensor->count() > kMaxShapeInts)
    return std::nullopt;
  std::optional<std::vector<Dim>> ints = context.ints(i);
  if (ints && ints->size() > static_cast<size_t>(kMaxShapeInts)) return std::nullopt;
  return ints;
}

// Passes the elements on to an output that has the same ones.
inline void copy_ints(InferContext& context, int from, int to) {
  if (auto ints = find_shape_ints(context, from)) context.set_ints(to, std::move(*ints));
}

// True if it cannot be negative, whatever its symbols are (they are dimensions).
inline bool is_at_least_zero(const Dim& dim) {
  return dim.is_known() ? dim.value() >= 0 : dim.to_string().find('-') == std::string::npos;
}
inline Dim at_least_zero(const Dim& dim) { return is_at_least_zero(dim) ? dim : max_of(dim, 0); }

inline bool are_known(const Dims& dims) {
  return std::all_of(dims.begin(), dims.end(), [](const Dim& dim) { return dim.is_known(); });
}

// Dimensions of which only the number is known.
inline Dims unknown_dims(int rank) {
  Dims dims;
  for (int i = 0; i < rank; ++i) dims.push_back(Dim::unknown());
  return dims;
}

// The elements of a shape; nullopt if they are more than an int64 counts or a dimension is negative.
inline std::optional<int64_t> checked_count(const Shape& shape) {
  int64_t count = 1;
  bool is_too_large = false, has_zero = false;
  for (const int64_t dim : shape) {
    if (dim < 0) return std::nullopt;
    has_zero |= dim == 0;
    is_too_large |= __builtin_mul_overflow(count, std::max<int64_t>(dim, 1), &count);
  }
  if (has_zero) return 0;
  return is_too_large ? std::nullopt : std::optional(count);
}

// The shape that infer() told for an output. Throws Error if it could not (a product too large for an int64).
inline Shape get_output_shape(const RunContext& context, int i) {
  const ValueType& type = context.output_type(i);
  if (type.has_rank()) {
    if (const std::optional<Shape> shape = known_shape(*type.dims)) return *shape;
  }
  context.fail("the shape of output {} cannot be computed from these inputs", i + 1);
}

// The output, of the shape that infer() told. Writable.
inline Tensor& make_output(RunContext& context, int i) {
  if (context.is_allocated(i)) return context.output(i);
  return context.allocate(i, context.output_type(i).element, get_output_shape(context, i));
}

// Makes output 0 the elements of input 0 in the shape that infer() told, in the same memory.
inline void run_view(RunContext& context) {
  const Tensor& input = context.input(0);
  const Shape shape = get_output_shape(context, 0);
  if (checked_count(shape) != input.count()) {
    context.fail("{} has {} elements and cannot take the shape {}", to_string(input.shape()), input.count(),
                 to_string(shape));
  }
  context.set(0, input.reshaped(shape));
}

}  // namespace sluice::graph::ops
