// The operators that make tensors out of little: Constant, ConstantOfShape, EyeLike, Range, Trilu (ONNX operator
// specification, opsets 1 to 28). The size of a Range of floats is found in double from a difference in its own type,
// and its elements are start + i * delta, each rounded once; f16 and bf16 come as f32, which is their stash_type.
#include <algorithm>
#include <cmath>
#include <limits>

#include "base/float16.h"
#include "graph/ops/move.h"
#include "graph/ops/ops.h"
#include "graph/ops/shape_math.h"

namespace sluice::graph::ops {
namespace {

// The one attribute that a Constant has, as a tensor. The importer has made sparse values dense.
template <typename Context>
Tensor get_constant(const Context& context) {
  const Node& node = context.node();
  for (const char* name : {"value", "sparse_value"}) {
    if (const Tensor* tensor = node.find_tensor(name); tensor != nullptr) return *tensor;
  }
  if (node.has("value_float")) return Tensor::scalar(node.get_float("value_float", 0));
  if (node.has("value_floats")) return Tensor::vector(node.get_floats("value_floats"));
  if (node.has("value_int")) return Tensor::scalar(node.get_int("value_int", 0));
  if (node.has("value_ints")) return Tensor::vector(node.get_ints("value_ints"));
  if (node.has("value_string")) return Tensor::scalar(node.get_string("value_string", ""));
  if (node.has("value_strings")) return Tensor::vector(node.get_strings("value_strings"));
  context.fail("has no value");
}

void set_small_ints(InferContext& context, const Tensor& tensor) {
  if (!is_integer(tensor.type()) || tensor.count() > kMaxShapeInts) return;
  const std::vector<int64_t> values = to_ints(tensor);
  context.set_ints(0, std::vector<Dim>(values.begin(), values.end()));
}

void infer_constant(InferContext& context) {
  const Tensor tensor = get_constant(context);
  context.set_output(0, tensor.type(), to_dims(tensor.shape()));
  set_small_ints(context, tensor);
}

void run_constant(RunContext& context) { context.set(0, get_constant(context)); }

template <typename Context>
Tensor get_fill_value(const Context& context) {
  const Tensor* value = context.node().find_tensor("value");
  if (value == nullptr) return Tensor::scalar(0.0f);
  if (value->count() != 1) context.fail("attribute 'value' has {} elements; it has to have one", value->count());
  return *value;
}

void infer_constant_of_shape(InferContext& context) {
  const Tensor value = get_fill_value(context);
  const auto shape = find_shape_ints(context, 0);
  if (!shape) {
    const bool knows_rank = context.has_rank(0) && context.rank(0) == 1 && context.dims(0)[0].is_known() &&
                            context.dims(0)[0].value() >= 0 && context.dims(0)[0].value() <= kMaxRank;
    if (!knows_rank) return context.set_output(0, value.type());
    return context.set_output(0, value.type(), unknown_dims(static_cast<int>(context.dims(0)[0].value())));
  }
  for (const Dim& dim : *shape) {
    if (dim.is_known() && dim.value() < 0) {
      context.fail("the shape has a dimension of {}; it may be 0 or more", dim.value());
    }
  }
  context.set_output(0, value.type(), *shape);
  const Dim count = product(*shape);
  if (is_integer(value.type()) && count.is_known() && count.value() <= kMaxShapeInts) {
    context.set_ints(0, std::vector<Dim>(static_cast<size_t>(count.value()), to_ints(value).front()));
  }
}

void run_constant_of_shape(RunContext& context) {
  fill_with(make_output(context, 0), get_fill_value(context), context.pool());
}

void infer_eye_like(InferContext& context) {
  if (context.has_rank(0) && context.rank(0) != 2) {
    context.fail("takes a matrix, not a tensor of {} dimensions", context.rank(0));
  }
  const int64_t dtype = context.node().get_int("dtype", static_cast<int64_t>(context.element(0)));
  const bool is_number = dtype > 0 && dtype < kNumElementTypes &&
                         (is_integer(static_cast<ElementType>(dtype)) || is_float(static_cast<ElementType>(dtype)) ||
                          static_cast<ElementType>(dtype) == ElementType::kBool);
  if (!is_number && !(dtype == 0 && !context.node().has("dtype"))) {
    context.fail("cannot make element type number {}", dtype);
  }
  context.set_output(0, static_cast<ElementType>(dtype), context.has_rank(0) ? context.dims(0) : unknown_dims(2));
}

// 1 as each type has it; the 8-bit and 4-bit floats are no types of EyeLike.
uint64_t bits_of_one(RunContext& context, ElementType type) {
  switch (type) {
    case ElementType::kF32: return float_to_bits(1.0f);
    case ElementType::kF64: return 0x3ff0000000000000u;
    case ElementType::kF16: return float_to_f16(1.0f);
    case ElementType::kBF16: return float_to_bf16(1.0f);
    default:
      if (!is_integer(type) && type != ElementType::kBool) context.fail("cannot make {}", name(type));
      return 1;
  }
}

void run_eye_like(RunContext& context) {
  Tensor& output = make_output(context, 0);
  const int64_t rows = output.dim(0), columns = output.dim(1);
  const int64_t k = std::clamp<int64_t>(context.node().get_int("k", 0), -rows, columns);
  fill_with_zeros(output);
  const uint64_t one = bits_of_one(context, output.type());
  dispatch_width(output.type(), [&](auto zero) {
    using T = decltype(zero);
    if constexpr (std::is_integral_v<T>) {
      T* to = output.data<T>();
      for (int64_t r = std::max<int64_t>(0, -k); r < rows && r + k < columns; ++r) {
        to[r * columns + r + k] = static_cast<T>(one);
      }
    }
  });
}

// The number of elements of a range, at least 0; negative: it has none that could be told.
template <typename T>
int64_t count_range(T start, T limit, T delta) {
  if constexpr (std::is_floating_point_v<T>) {
    const double count = std::ceil(static_cast<double>(limit - start) / static_cast<double>(delta));
    if (!(count < 1e15)) return -1;  // nor NaN
    return std::max<int64_t>(0, static_cast<int64_t>(std::max(count, 0.0)));
  } else {
    if (delta == 0) return -1;
    const __int128 length = static_cast<__int128>(limit) - start, step = delta;
    if (length == 0 || (length < 0) != (step < 0)) return 0;
    const __int128 count = (length + step + (step > 0 ? -1 : 1)) / step;
    return count > std::numeric_limits<int64_t>::max() ? -1 : static_cast<int64_t>(count);
  }
}

template <typename T>
int64_t checked_range(const RunContext& context, T start, T limit, T delta) {
  const int64_t count = count_range(start, limit, delta);
  if (count < 0) context.fail("no range leads from {} to {} in steps of {}", start, limit, delta);
  return count;
}

void infer_range(InferContext& context) {
  for (int i = 0; i < std::min(3, context.num_inputs()); ++i) {
    const bool is_one = !context.has_rank(i) || !are_known(context.dims(i)) || product(context.dims(i)) == Dim(1);
    if (!is_one) context.fail("input {} has to be one number, not of shape {}", i + 1, to_string(context.dims(i)));
  }
  const Tensor *start = context.constant(0), *limit = context.constant(1);
  const Tensor* delta = context.has_input(2) ? context.constant(2) : nullptr;
  const bool has_delta = context.has_input(2);  // com.microsoft has one without
  Dim count = Dim::unknown();
  if (is_integer(context.element(0))) {
    const auto first = find_shape_ints(context, 0), end = find_shape_ints(context, 1);
    const auto step = has_delta ? find_shape_ints(context, 2) : std::vector<Dim>{1};
    const bool is_told = first && end && step && first->size() == 1 && end->size() == 1 && step->size() == 1;
    if (is_told && step->front().is_known() && first->front().is_known() && end->front().is_known()) {
      const int64_t n = count_range(first->front().value(), end->front().value(), step->front().value());
      if (n < 0) context.fail("no range leads from {} in steps of {}", first->front().value(), step->front().value());
      count = n;
    } else if (is_told && step->front().is_known() && step->front().value() > 0) {
      count = at_least_zero(ceil_divide(end->front() - first->front(), step->front()));
    }
    if (count.is_known() && count.value() <= kMaxShapeInts && is_told && step->front().is_known()) {
      std::vector<Dim> ints;
      for (int64_t i = 0; i < count.value(); ++i) ints.push_back(first->front() + step->front() * i);
      context.set_ints(0, std::move(ints));
    }
  } else if (start != nullptr && limit != nullptr && (delta != nullptr || !has_delta) && start->count() == 1 &&
             limit->count() == 1 && start->type() == limit->type() &&
             (delta == nullptr || (delta->count() == 1 && delta->type() == start->type()))) {
    auto infer = [&](auto zero) {
      using T = decltype(zero);
      const int64_t n =
          count_range(start->data<T>()[0], limit->data<T>()[0], delta == nullptr ? T{1} : delta->data<T>()[0]);
      if (n >= 0) count = n;
    };
    dispatch<float, double>(start->type(), infer);
  }
  context.set_output(0, context.element(0), {count});
}

void run_range(RunContext& context) {
  const ElementType type = context.input(0).type();
  for (int i = 0; i < 3; ++i) {
    if (!context.has_input(i)) continue;
    if (context.input(i).count() != 1) context.fail("input {} has to be one number", i + 1);
    if (context.input(i).type() != type) {
      context.fail("its inputs are of types {} and {}", name(type), name(context.input(i).type()));
    }
  }
  auto run = [&](auto zero) {
    using T = decltype(zero);
    const T start = context.data<T>(0)[0], limit = context.data<T>(1)[0], delta = context.get_scalar<T>(2, T{1});
    const int64_t count = checked_range(context, start, limit, delta);
    Tensor& output = context.is_allocated(0) ? context.output(0) : context.allocate(0, type, {count});
    T* to = output.data<T>();
    context.pool().parallel_for(count, int64_t{1} << 16, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        if constexpr (std::is_floating_point_v<T>) {
          to[i] = start + static_cast<T>(i) * delta;
        } else {
          to[i] =
              static_cast<T>(static_cast<uint64_t>(start) + static_cast<uint64_t>(i) * static_cast<uint64_t>(delta));
        }
      }
    });
  };
  if (!dispatch_numbers(type, run)) context.fail_type(0);
}

void infer_trilu(InferContext& context) {
  if (context.has_rank(0) && context.rank(0) < 2) {
    context.fail("takes matrices, not a tensor of {} dimensions", context.rank(0));
  }
  context.set_type(0, context.type(0));
}

void run_trilu(RunContext& context) {
  const Tensor& input = context.input(0);
  if (context.has_input(1) && (context.input(1).count() != 1 || context.input(1).type() != ElementType::kI64)) {
    context.fail("k has to be one int64");
  }
  const int64_t rows = input.dim(input.rank() - 2), columns = input.shape().back();
  const int64_t k = std::clamp<int64_t>(context.get_scalar<int64_t>(1, 0), -rows - 1, columns + 1);
  const bool is_upper = context.node().get_int("upper", 1) != 0;
  Tensor& output = make_output(context, 0);
  if (output.count() == 0) return;
  dispatch_width(input.type(), [&](auto zero) {
    using T = decltype(zero);
    const T* from = input.data<T>();
    T* to = output.data<T>();
    const int64_t grain = std::max<int64_t>(1, (int64_t{1} << 15) / columns);
    context.pool().parallel_for(input.count() / columns, grain, [&](int64_t begin, int64_t end, int) {
      for (int64_t r = begin; r < end; ++r) {
        const T* source = from + r * columns;
        T* target = to + r * columns;
        // Columns from here on are above the diagonal, or on it.
        const int64_t edge = std::clamp<int64_t>(r % rows + k + (is_upper ? 0 : 1), 0, columns);
        if (is_upper) {
          std::fill_n(target, edge, T{});
          std::copy(source + edge, source + columns, target + edge);
        } else {
          std::copy_n(source, edge, target);
          std::fill(target + edge, target + columns, T{});
        }
      }
    });
  });
}

constexpr OpInfo kOps[] = {
    {"", "Constant", 1, 0, infer_constant, run_constant, OpInfo::kMakesOutputs},
    {"", "ConstantOfShape", 9, 0, infer_constant_of_shape, run_constant_of_shape},
    {"", "EyeLike", 9, 0, infer_eye_like, run_eye_like},
    {"", "Range", 11, 0, infer_range, run_range, OpInfo::kViaFloat},
    {"", "Trilu", 14, 0, infer_trilu, run_trilu},
    {kMicrosoft, "Range", 1, 0, infer_range, run_range, OpInfo::kViaFloat},
    {kMicrosoft, "Trilu", 1, 0, infer_trilu, run_trilu},
};

}  // namespace

std::span<const OpInfo> fill_ops() { return kOps; }

}  // namespace sluice::graph::ops
