#include "graph/ops/indices.h"

#include <algorithm>

namespace sluice::graph::ops {
namespace {

// Calls body(i, index) with index i, made positive. `length_of(i)` is the dimension that it is in.
template <typename LengthOf, typename Body>
void for_each_index(const RunContext& context, const Tensor& indices, LengthOf&& length_of, Body&& body) {
  auto run = [&](auto zero) {
    const auto* from = indices.data<decltype(zero)>();
    for (int64_t i = 0; i < indices.count(); ++i) {
      int64_t index = from[i];
      const int64_t length = length_of(i);
      if (index < 0) index += length;
      if (index < 0 || index >= length) {
        context.fail("index {} is outside a dimension of {}", static_cast<int64_t>(from[i]), length);
      }
      body(i, index);
    }
  };
  if (!dispatch<int64_t, int32_t>(indices.type(), run)) {
    context.fail("indices have to be int32 or int64, not {}", name(indices.type()));
  }
}

}  // namespace

std::vector<int64_t> read_indices(const RunContext& context, const Tensor& indices, int64_t length, int64_t step) {
  std::vector<int64_t> offsets(static_cast<size_t>(indices.count()));
  for_each_index(context, indices, [&](int64_t) { return length; },
                 [&](int64_t i, int64_t index) { offsets[static_cast<size_t>(i)] = index * step; });
  return offsets;
}

std::vector<int64_t> element_offsets(const RunContext& context, const Shape& data, const Tensor& indices, int axis) {
  const Shape steps = strides_of(data), &shape = indices.shape();
  std::vector<int64_t> offsets(static_cast<size_t>(indices.count()));
  Shape place(shape.rank(), 0);
  int64_t base = 0;  // of the place, without the axis
  for_each_index(context, indices, [&](int64_t) { return data[axis]; }, [&](int64_t i, int64_t index) {
    offsets[static_cast<size_t>(i)] = base + index * steps[axis];
    for (int d = shape.rank() - 1; d >= 0; --d) {
      if (d != axis) base += steps[d];
      if (++place[d] < shape[d]) break;
      if (d != axis) base -= steps[d] * shape[d];
      place[d] = 0;
    }
  });
  return offsets;
}

void check_elements_shape(const InferContext& context, int axis, const Dims& data, const Dims& indices) {
  if (data.size() != indices.size()) {
    context.fail("the data has {} dimensions, the indices have {}", data.size(), indices.size());
  }
  for (size_t i = 0; i < data.size(); ++i) {
    if (static_cast<int>(i) == axis || !data[i].is_known() || !indices[i].is_known()) continue;
    if (indices[i].value() > data[i].value()) {
      context.fail("dimension {} of the indices is {}, larger than the {} of the data", i, indices[i].value(),
                   data[i].value());
    }
  }
}

std::vector<int64_t> tuple_offsets(const RunContext& context, const Shape& data, const Tensor& indices,
                                   int batch_dims) {
  const Shape steps = strides_of(data);
  const int64_t tuple = indices.shape().back(), batches = data.count(0, batch_dims);
  const int64_t num = indices.shape().count(0, indices.rank() - 1);
  if (num == 0 || (tuple == 0 && data.count() == 0)) return {};  // however many places they are, nothing is there
  std::vector<int64_t> offsets(static_cast<size_t>(num));
  const int64_t per_batch = num / std::max<int64_t>(1, batches), batch_step = data.count(batch_dims, data.rank());
  for (int64_t i = 0; i < num; ++i) offsets[static_cast<size_t>(i)] = i / per_batch * batch_step;
  for_each_index(context, indices, [&](int64_t i) { return data[batch_dims + static_cast<int>(i % tuple)]; },
                 [&](int64_t i, int64_t index) {
                   offsets[static_cast<size_t>(i / tuple)] += index * steps[batch_dims + static_cast<int>(i % tuple)];
                 });
  return offsets;
}

void copy_runs(const Tensor& input, Tensor& output, std::span<const int64_t> offsets, int64_t run, int64_t outer,
               int64_t outer_step, ThreadPool& pool) {
  const auto num = static_cast<int64_t>(offsets.size());
  if (num == 0 || run == 0 || outer == 0) return;
  dispatch_width(input.type(), [&](auto zero) {
    using T = decltype(zero);
    const T* from = input.data<T>();
    T* to = output.data<T>();
    const int64_t grain = std::max<int64_t>(1, (int64_t{1} << 15) / run);
    pool.parallel_for(outer * num, grain, [&](int64_t begin, int64_t end, int) {
      int64_t o = begin / num, i = begin % num;
      while (begin < end) {
        const int64_t stop = std::min(num, i + end - begin);
        const T* source = from + o * outer_step;
        T* target = to + begin * run;
        begin += stop - i;
        if (run == 1) {
          for (; i < stop; ++i) *target++ = source[offsets[static_cast<size_t>(i)]];
        } else {
          for (; i < stop; ++i, target += run) std::copy_n(source + offsets[static_cast<size_t>(i)], run, target);
        }
        i = 0;
        ++o;
      }
    });
  });
}

}  // namespace sluice::graph::ops
