// MaxUnpool of the ONNX operator specification: puts values where a MaxPool took them from, zeros elsewhere.
//
// Indices count through a whole tensor, but the specification leaves open which: the one of the shape that the
// attributes lead to, as in its own example, or the one of the third input, output_shape, which is what a MaxPool's
// indices count through. A maximum comes from its window, which tells the two apart: indices count through output_shape
// unless that takes some out of their windows and the other shape does not.
#include <array>

#include "graph/ops/ops.h"
#include "graph/ops/shape_math.h"
#include "graph/ops/windows.h"

namespace sluice::graph::ops {
namespace {

// [N, C, spatial...] from kernel, strides and pads alone.
Dims unpooled_dims(const Windows& windows, const Dims& x) {
  Dims dims{x[0], x[1]};
  for (size_t i = 0; i + 2 < x.size(); ++i) {
    dims.push_back((x[i + 2] - 1) * Dim(windows.strides[i]) + windows.kernel[i] - Dim(windows.pads_begin[i]) -
                   Dim(windows.pads_end[i]));
  }
  return dims;
}

void infer_max_unpool(InferContext& context) {
  if (context.has_rank(0) && context.rank(0) < 3) {
    context.fail("an input of shape {} has no spatial dimensions", to_string(context.dims(0)));
  }
  if (context.has_rank(0) && context.has_rank(1)) {
    const Dims &x = context.dims(0), &indices = context.dims(1);
    bool fits = x.size() == indices.size();
    for (size_t i = 0; fits && i < x.size(); ++i)
      fits = !x[i].is_known() || !indices[i].is_known() || x[i] == indices[i];
    if (!fits) context.fail("values of shape {} have indices of shape {}", to_string(x), to_string(indices));
  }
  if (context.has_input(2)) {
    const std::optional<std::vector<Dim>> shape = context.ints(2);
    if (!shape) {
      if (context.has_rank(0)) context.set_output(0, context.element(0), unknown_dims(context.rank(0)));
      else context.set_output(0, context.element(0));
      return;
    }
    if (context.has_rank(0) && shape->size() != context.dims(0).size()) {
      context.fail("output_shape has {} dimensions and the input {}", shape->size(), context.rank(0));
    }
    for (const Dim& dim : *shape) {
      if (dim.is_known() && dim.value() < 0) context.fail("output_shape holds {}", dim.value());
    }
    return context.set_output(0, context.element(0), *shape);
  }
  if (!context.has_rank(0)) return context.set_output(0, context.element(0));
  const Dims& x = context.dims(0);
  Dims dims = unpooled_dims(read_windows(context.node(), static_cast<int>(x.size()) - 2, std::nullopt, true), x);
  for (const Dim& dim : dims) {
    if (dim.is_known() && dim.value() < 0) context.fail("pads leave nothing of an input of shape {}", to_string(x));
  }
  context.set_output(0, context.element(0), std::move(dims));
}

// Where index `index` is in a tensor of this shape; false if outside.
bool find_place(const Shape& shape, int64_t index, std::array<int64_t, kMaxRank>& place) {
  if (index < 0) return false;
  for (int d = shape.rank() - 1; d >= 0; --d) {
    if (shape[d] == 0) return false;
    place[static_cast<size_t>(d)] = index % shape[d];
    index /= shape[d];
  }
  return index == 0;
}

// Whether all indices lie in the windows of their values.
bool fits_windows(const Windows& windows, const Shape& x, const int64_t* indices, const Shape& frame) {
  std::array<int64_t, kMaxRank> at{}, place{};
  const int64_t count = x.count();
  for (int64_t i = 0; i < count; ++i) {
    if (!find_place(frame, indices[i], place)) return false;
    find_place(x, i, at);
    if (place[0] != at[0] || place[1] != at[1]) return false;
    for (int d = 2; d < x.rank(); ++d) {
      const auto axis = static_cast<size_t>(d) - 2;
      const int64_t begin = at[axis + 2] * windows.strides[axis] - windows.pads_begin[axis];
      if (place[axis + 2] < begin || place[axis + 2] >= begin + windows.kernel[axis].value()) return false;
    }
  }
  return true;
}

void run_max_unpool(RunContext& context) {
  const Tensor& x = context.input(0);
  if (context.input(1).type() != ElementType::kI64) context.fail_type(1);
  const int64_t* indices = context.data<int64_t>(1);
  Tensor& y = make_output(context, 0);
  Shape frame = y.shape();
  if (context.has_input(2)) {
    const Windows windows = read_windows(context.node(), x.rank() - 2, std::nullopt, true);
    const std::optional<Shape> other = known_shape(unpooled_dims(windows, to_dims(x.shape())));
    if (other && !(*other == frame) && checked_count(*other) && !fits_windows(windows, x.shape(), indices, frame) &&
        fits_windows(windows, x.shape(), indices, *other)) {
      frame = *other;
    }
  }
  const Shape strides = strides_of(y.shape());
  dispatch_width(x.type(), [&](auto zero) {
    using T = decltype(zero);
    if constexpr (std::is_same_v<T, std::string>) {
      context.fail_type(0);
    } else {
      T* to = y.data<T>();
      const T* from = x.data<T>();
      std::fill_n(to, y.count(), T{});
      std::array<int64_t, kMaxRank> place{};
      for (int64_t i = 0; i < x.count(); ++i) {
        bool is_inside = find_place(frame, indices[i], place);
        int64_t offset = 0;
        for (int d = 0; d < y.rank() && is_inside; ++d) {
          const int64_t at = place[static_cast<size_t>(d)];
          is_inside = at < y.dim(d);
          offset += at * strides[d];
        }
        if (!is_inside) context.fail("index {} is outside a tensor of shape {}", indices[i], to_string(frame));
        to[offset] = from[i];
      }
    }
  });
}

constexpr OpInfo kOps[] = {
    {"", "MaxUnpool", 9, 0, infer_max_unpool, run_max_unpool},
};

}  // namespace

std::span<const OpInfo> unpool_ops() { return kOps; }

}  // namespace sluice::graph::ops
