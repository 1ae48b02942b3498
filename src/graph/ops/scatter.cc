// The operators that write at places which other tensors name: ScatterElements (Scatter before opset 11), ScatterND,
// TensorScatter (ONNX operator specification, opsets 9 to 28). The output is a copy of the data in which runs of
// elements are replaced, or joined with what is there by a reduction. Updates are applied in order, so that of two to
// one place the later one stays; f16 and bf16 are rounded after each one. A NaN stays a NaN in min and max.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/float16.h"
#include "graph/ops/indices.h"
#include "graph/ops/move.h"
#include "graph/ops/ops.h"
#include "graph/ops/shape_math.h"

namespace sluice::graph::ops {
namespace {

enum class Reduction { kNone, kAdd, kMul, kMin, kMax };

template <typename Context>
Reduction get_reduction(const Context& context) {
  const std::string reduction = context.node().get_string("reduction", "none");
  if (reduction == "none") return Reduction::kNone;
  if (reduction == "add") return Reduction::kAdd;
  if (reduction == "mul") return Reduction::kMul;
  if (reduction == "min") return Reduction::kMin;
  if (reduction == "max") return Reduction::kMax;
  context.fail("reduction is '{}'; none, add, mul, min and max are known", reduction);
}

// What is computed with: itself, or float.
template <typename T>
auto load(T value) {
  if constexpr (std::is_same_v<T, Half>) return f16_to_float(value.bits);
  else if constexpr (std::is_same_v<T, BFloat16>) return bf16_to_float(value.bits);
  else return value;
}
template <typename T, typename V>
T store(V value) {
  if constexpr (std::is_same_v<T, Half>) return {float_to_f16(value)};
  else if constexpr (std::is_same_v<T, BFloat16>) return {float_to_bf16(value)};
  else return value;
}

template <typename T>
bool is_nan(T value) {
  if constexpr (std::is_floating_point_v<T>) return std::isnan(value);
  else return false;
}

// Integers wrap around.
template <typename V>
V join(Reduction reduction, V a, V b) {
  switch (reduction) {
    case Reduction::kNone: return b;
    case Reduction::kMin: return is_nan(a) || a < b ? a : b;
    case Reduction::kMax: return is_nan(a) || a > b ? a : b;
    default: break;
  }
  if constexpr (std::is_integral_v<V>) {
    const auto x = static_cast<uint64_t>(a), y = static_cast<uint64_t>(b);
    return static_cast<V>(reduction == Reduction::kAdd ? x + y : x * y);
  } else {
    return reduction == Reduction::kAdd ? a + b : a * b;
  }
}

void apply_updates(RunContext& context, Tensor& output, const Tensor& updates, std::span<const int64_t> offsets,
                   int64_t run) {
  const Reduction reduction = get_reduction(context);
  if (reduction == Reduction::kNone) {
    dispatch_width(output.type(), [&](auto zero) {
      using T = decltype(zero);
      const T* from = updates.data<T>();
      T* to = output.data<T>();
      for (const int64_t offset : offsets) {
        std::copy_n(from, run, to + offset);
        from += run;
      }
    });
    return;
  }
  auto reduce = [&](auto zero) {
    using T = decltype(zero);
    const T* from = updates.data<T>();
    for (const int64_t offset : offsets) {
      T* to = output.data<T>() + offset;
      for (int64_t i = 0; i < run; ++i) to[i] = store<T>(join(reduction, load(to[i]), load(from[i])));
      from += run;
    }
  };
  if (!dispatch_numbers(output.type(), reduce) && !dispatch<Half, BFloat16>(output.type(), reduce)) {
    context.fail("cannot reduce {}", name(output.type()));
  }
}

Tensor& copy_data(RunContext& context) {
  const Tensor& data = context.input(0);
  Tensor& output = make_output(context, 0);
  move_elements(data.type(), data.raw(), output.raw(), {{data.count(), 1, 1}}, context.pool());
  return output;
}

void check_element_types(const InferContext& context, int a, int b) {
  const ElementType left = context.element(a), right = context.element(b);
  if (left != right && left != ElementType::kUndefined && right != ElementType::kUndefined) {
    context.fail("the data is {}, the updates are {}", name(left), name(right));
  }
}

void check_same_dims(const InferContext& context, const Dims& is, const Dims& should_be) {
  bool is_same = is.size() == should_be.size();
  for (size_t i = 0; is_same && i < is.size(); ++i) {
    is_same = !is[i].is_known() || !should_be[i].is_known() || is[i] == should_be[i];
  }
  if (!is_same) context.fail("the updates have shape {}; {} is needed", to_string(is), to_string(should_be));
}

void infer_scatter_elements(InferContext& context) {
  get_reduction(context);
  check_element_types(context, 0, 2);
  if (context.has_rank(0)) {
    const int axis = context.axis(context.node().get_int("axis", 0), context.rank(0));
    if (context.has_rank(1)) check_elements_shape(context, axis, context.dims(0), context.dims(1));
  }
  if (context.has_rank(1) && context.has_rank(2)) check_same_dims(context, context.dims(2), context.dims(1));
  infer_same(context);
}

void run_scatter_elements(RunContext& context) {
  const Tensor& data = context.input(0);
  const int axis = context.axis(context.node().get_int("axis", 0), data.rank());
  const std::vector<int64_t> offsets = element_offsets(context, data.shape(), context.input(1), axis);
  apply_updates(context, copy_data(context), context.input(2), offsets, 1);
}

void infer_scatter_nd(InferContext& context) {
  get_reduction(context);
  check_element_types(context, 0, 2);
  infer_same(context);
  if (!context.has_rank(0) || !context.has_rank(1)) return;
  if (context.rank(1) == 0) context.fail("the indices have to have at least one dimension");
  const Dims &data = context.dims(0), &indices = context.dims(1);
  if (!indices.back().is_known()) return;
  const int64_t tuple = indices.back().value();
  if (tuple < 0 || tuple > context.rank(0)) {
    context.fail("the indices name {} dimensions, the tensor has {}", tuple, context.rank(0));
  }
  if (!context.has_rank(2)) return;
  Dims needed(indices.begin(), indices.end() - 1);
  needed.insert(needed.end(), data.begin() + static_cast<std::ptrdiff_t>(tuple), data.end());
  check_same_dims(context, context.dims(2), needed);
}

void run_scatter_nd(RunContext& context) {
  const Tensor &data = context.input(0), &indices = context.input(1);
  const std::vector<int64_t> offsets = tuple_offsets(context, data.shape(), indices, 0);
  const int64_t run = data.shape().count(static_cast<int>(indices.shape().back()), data.rank());
  apply_updates(context, copy_data(context), context.input(2), offsets, run);
}

template <typename Context>
bool is_circular(const Context& context) {
  const std::string mode = context.node().get_string("mode", "linear");
  if (mode != "linear" && mode != "circular") context.fail("mode is '{}'; linear and circular are known", mode);
  return mode == "circular";
}

void infer_tensor_scatter(InferContext& context) {
  is_circular(context);
  check_element_types(context, 0, 1);
  infer_same(context);
  if (!context.has_rank(0)) return;
  const auto axis = static_cast<size_t>(context.axis(context.node().get_int("axis", -2), context.rank(0)));
  if (axis == 0) context.fail("the axis cannot be 0, which is the batch");
  if (!context.has_rank(1)) return;
  Dims needed = context.dims(0);
  if (context.dims(1).size() == needed.size()) {
    const Dim& length = context.dims(1)[axis];
    if (length.is_known() && needed[axis].is_known() && length.value() > needed[axis].value()) {
      context.fail("an update of length {} does not fit into {}", length.value(), needed[axis].value());
    }
    needed[axis] = length;
  }
  check_same_dims(context, context.dims(1), needed);
}

void run_tensor_scatter(RunContext& context) {
  const Tensor &cache = context.input(0), &update = context.input(1);
  const int axis = context.axis(context.node().get_int("axis", -2), cache.rank());
  const int64_t batch = cache.dim(0), outer = cache.shape().count(1, axis);
  const int64_t run = cache.shape().count(axis + 1, cache.rank()), room = cache.dim(axis), length = update.dim(axis);
  std::vector<int64_t> starts(static_cast<size_t>(batch), 0);
  if (context.has_input(2)) {
    starts = to_ints(context.input(2));
    if (static_cast<int64_t>(starts.size()) != batch) {
      context.fail("there are {} write indices for a batch of {}", starts.size(), batch);
    }
  }
  for (int64_t& start : starts) {
    if (start < 0 || (!is_circular(context) && start > room - length)) {
      context.fail("an update of length {} cannot be written at {} of {}", length, start, room);
    }
    if (room > 0) start %= room;
  }
  Tensor& output = copy_data(context);
  if (update.count() == 0) return;
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t start = starts[static_cast<size_t>(b)], first = std::min(length, room - start);
    auto write = [&](int64_t from, int64_t to, int64_t count) {
      move_elements(cache.type(), element_at(update, (b * outer * length + from) * run),
                    element_at(output, (b * outer * room + to) * run),
                    {{outer, length * run, room * run}, {count * run, 1, 1}}, context.pool());
    };
    write(0, start, first);
    write(first, 0, length - first);
  }
}

constexpr OpInfo kOps[] = {
    {"", "Scatter", 9, 10, infer_scatter_elements, run_scatter_elements},
    {"", "ScatterElements", 11, 0, infer_scatter_elements, run_scatter_elements},
    {"", "ScatterND", 11, 0, infer_scatter_nd, run_scatter_nd},
    {"", "TensorScatter", 24, 0, infer_tensor_scatter, run_tensor_scatter},
};

}  // namespace

std::span<const OpInfo> scatter_ops() { return kOps; }

}  // namespace sluice::graph::ops
