// The operators that look at a shape or change it without moving an element: Shape, Size, Reshape, Flatten, Squeeze,
// Unsqueeze, Identity (ONNX operator specification, opsets 1 to 28). Outputs of the latter five share the memory of
// their input. Their shape functions carry symbols: a Reshape finds its -1 by cancelling what input and target have in
// common before it divides, so that "batch x length x 768" into (0, 0, 12, -1) gives 64. A -1 beside a dimension of 0
// is an error unless that 0 was copied from the input, where what is left still says what it has to be.
#include "graph/ops/move.h"
#include "graph/ops/ops.h"
#include "graph/ops/shape_math.h"

namespace sluice::graph::ops {
namespace {

// start and end of Shape, within [0, rank].
std::pair<int, int> shape_range(const Node& node, int rank) {
  auto clamp = [&](int64_t at) {
    at = std::clamp<int64_t>(at, -rank - 1, rank);  // before the sum, which it keeps small
    return static_cast<int>(std::clamp<int64_t>(at < 0 ? at + rank : at, 0, rank));
  };
  const int start = node.opset < 15 ? 0 : clamp(node.get_int("start", 0));
  const int end = node.opset < 15 || !node.has("end") ? rank : clamp(node.get_int("end", 0));
  return {start, std::max(start, end)};
}

void infer_shape(InferContext& context) {
  if (!context.has_rank(0)) return context.set_output(0, ElementType::kI64, {Dim::unknown()});
  const auto [start, end] = shape_range(context.node(), context.rank(0));
  context.set_output(0, ElementType::kI64, {end - start});
  context.set_ints(0, std::vector<Dim>(context.dims(0).begin() + start, context.dims(0).begin() + end));
}

void run_shape(RunContext& context) {
  const Shape& shape = context.input(0).shape();
  const auto [start, end] = shape_range(context.node(), shape.rank());
  Tensor& output = context.is_allocated(0) ? context.output(0) : context.allocate(0, ElementType::kI64, {end - start});
  std::copy(shape.begin() + start, shape.begin() + end, output.data<int64_t>());
}

void infer_size(InferContext& context) {
  context.set_output(0, ElementType::kI64, Dims{});
  if (context.has_rank(0)) context.set_ints(0, {product(context.dims(0))});
}

void run_size(RunContext& context) { *context.output_data<int64_t>(0) = context.input(0).count(); }

// What a -1 stands for: the product of `all` over the product of `others`.
Dim infer_rest(InferContext& context, Dims all, Dims others) {
  for (size_t i = 0; i < others.size();) {
    const auto found = std::find(all.begin(), all.end(), others[i]);
    if (found == all.end()) {
      ++i;
      continue;
    }
    all.erase(found);
    others.erase(others.begin() + static_cast<std::ptrdiff_t>(i));
  }
  const Dim total = product(all), divisor = product(others);
  if (divisor == Dim(0)) context.fail("a dimension of -1 beside one of 0: nothing says what it is");
  if (total.is_known() && divisor.is_known() && total.value() % divisor.value() != 0) {
    context.fail("the dimension of -1 is no whole number: {} elements over {}", total.value(), divisor.value());
  }
  return floor_divide(total, divisor);
}

void infer_reshape_to(InferContext& context, const std::vector<Dim>& target, bool zero_is_zero) {
  const bool has_dims = context.has_rank(0);
  Dims dims, all, others;
  if (has_dims) all = context.dims(0);
  std::vector<bool> is_copied(all.size());
  int rest = -1;
  for (size_t i = 0; i < target.size(); ++i) {
    Dim dim = target[i];
    if (dim == Dim(-1)) {
      if (rest >= 0) context.fail("more than one dimension of the new shape is -1");
      rest = static_cast<int>(i);
    } else if (dim.is_known() && dim.value() < 0) {
      context.fail("the new shape has a dimension of {}; it may be -1 (once), 0 or more", dim.value());
    } else if (dim == Dim(0) && !zero_is_zero) {
      if (has_dims && i >= all.size()) {
        context.fail("dimension {} of the new shape is 0, to be copied, but the input has {} dimensions", i,
                     all.size());
      }
      dim = has_dims ? all[i] : Dim::unknown();
      if (has_dims) is_copied[i] = true;
      else others.push_back(dim);
    } else {
      others.push_back(dim);
    }
    dims.push_back(dim);
  }
  if (has_dims) {
    // Copied dimensions are on both sides.
    Dims left;
    for (size_t i = 0; i < all.size(); ++i) {
      if (!is_copied[i]) left.push_back(all[i]);
    }
    if (rest >= 0) {
      dims[static_cast<size_t>(rest)] = infer_rest(context, left, others);
    } else if (are_known(context.dims(0)) && are_known(dims) && product(context.dims(0)) != product(dims)) {
      context.fail("{} cannot take the shape {}: the numbers of elements differ", to_string(context.dims(0)),
                   to_string(dims));
    }
  } else if (rest >= 0) {
    dims[static_cast<size_t>(rest)] = Dim::unknown();
  }
  context.set_output(0, context.element(0), std::move(dims));
  copy_ints(context, 0, 0);
}

void infer_reshape_attribute(InferContext& context) {
  if (!context.node().has("shape")) context.fail("attribute 'shape' is missing");
  const std::vector<int64_t> shape = context.node().get_ints("shape");
  infer_reshape_to(context, std::vector<Dim>(shape.begin(), shape.end()), false);
}

// The length of a list of dimensions or axes, if it is known and no longer than a shape can be.
std::optional<int> find_length(InferContext& context, int i) {
  if (!context.has_rank(i) || context.rank(i) != 1 || !context.dims(i)[0].is_known()) return std::nullopt;
  const int64_t length = context.dims(i)[0].value();
  return length >= 0 && length <= kMaxRank ? std::optional(static_cast<int>(length)) : std::nullopt;
}

void infer_reshape(InferContext& context) {
  const auto target = find_shape_ints(context, 1);
  if (target) {
    return infer_reshape_to(context, *target, context.opset() >= 14 && context.node().get_int("allowzero", 0) != 0);
  }
  if (const auto rank = find_length(context, 1)) {
    context.set_output(0, context.element(0), unknown_dims(*rank));
  } else {
    context.set_output(0, context.element(0));
  }
  copy_ints(context, 0, 0);
}

void infer_flatten(InferContext& context) {
  if (!context.has_rank(0)) {
    context.set_output(0, context.element(0), unknown_dims(2));
  } else {
    const int rank = context.rank(0);
    int64_t axis = context.node().get_int("axis", 1);
    if (axis < -rank || axis > rank) context.fail("axis {} is outside a tensor of {} dimensions", axis, rank);
    if (axis < 0) axis += rank;
    const auto at = static_cast<size_t>(axis);
    context.set_output(0, context.element(0), {product(context.dims(0), 0, at), product(context.dims(0), at)});
  }
  copy_ints(context, 0, 0);
}

// The axes of Squeeze and Unsqueeze: an attribute before opset 13, an input since. nullopt: not given, or not known
// yet.
std::optional<std::vector<int64_t>> find_axes(InferContext& context) {
  if (context.opset() < 13) {
    if (!context.node().has("axes")) return std::nullopt;
    return context.node().get_ints("axes");
  }
  if (!context.has_input(1)) return std::nullopt;
  if (const Tensor* axes = context.constant(1); axes != nullptr && axes->count() > kMaxRank) {
    context.fail("{} axes are given; no more than {} are supported", axes->count(), kMaxRank);
  }
  return context.known_ints(1);
}

std::vector<bool> mark_axes(InferContext& context, const std::vector<int64_t>& axes, int rank) {
  std::vector<bool> marks(static_cast<size_t>(rank));
  for (const int64_t given : axes) {
    const auto axis = static_cast<size_t>(context.axis(given, rank));
    if (marks[axis]) context.fail("axis {} is given twice", given);
    marks[axis] = true;
  }
  return marks;
}

void infer_squeeze(InferContext& context) {
  const bool has_axes = context.opset() < 13 ? context.node().has("axes") : context.has_input(1);
  const auto axes = find_axes(context);
  const bool knows_dims = context.has_rank(0) && (has_axes ? axes.has_value() : are_known(context.dims(0)));
  if (!knows_dims) {
    // The number of axes says the number of dimensions.
    const std::optional<int> count = has_axes && context.opset() >= 13 ? find_length(context, 1) : std::nullopt;
    if (count && context.has_rank(0) && *count <= context.rank(0)) {
      context.set_output(0, context.element(0), unknown_dims(context.rank(0) - *count));
    } else {
      context.set_output(0, context.element(0));
    }
    return copy_ints(context, 0, 0);
  }
  const Dims& dims = context.dims(0);
  Dims kept;
  const std::vector<bool> marks = axes ? mark_axes(context, *axes, context.rank(0)) : std::vector<bool>(dims.size());
  for (size_t i = 0; i < dims.size(); ++i) {
    if (axes ? !marks[i] : !(dims[i] == Dim(1))) {
      kept.push_back(dims[i]);
    } else if (dims[i].is_known() && dims[i].value() != 1) {
      context.fail("dimension {} of {} is not 1 and cannot be squeezed", i, to_string(dims));
    }
  }
  context.set_output(0, context.element(0), std::move(kept));
  copy_ints(context, 0, 0);
}

void infer_unsqueeze(InferContext& context) {
  if (context.opset() < 13 ? !context.node().has("axes") : !context.has_input(1)) context.fail("axes are missing");
  const auto axes = find_axes(context);
  if (!axes || !context.has_rank(0)) {
    const std::optional<int> count = axes ? std::optional(static_cast<int>(axes->size())) : find_length(context, 1);
    if (count && context.has_rank(0)) {
      context.set_output(0, context.element(0), unknown_dims(context.rank(0) + *count));
    } else {
      context.set_output(0, context.element(0));
    }
    return copy_ints(context, 0, 0);
  }
  const int rank = context.rank(0) + static_cast<int>(axes->size());
  if (rank > kMaxRank) context.fail("the result has {} dimensions; no more than {} are supported", rank, kMaxRank);
  const std::vector<bool> marks = mark_axes(context, *axes, rank);
  Dims dims;
  auto next = context.dims(0).begin();
  for (const bool is_new : marks) dims.push_back(is_new ? Dim(1) : *next++);
  context.set_output(0, context.element(0), std::move(dims));
  copy_ints(context, 0, 0);
}

// com.microsoft.ExpandDims: Unsqueeze with one axis, a scalar.
void infer_expand_dims(InferContext& context) {
  const auto axis = find_shape_ints(context, 1);
  if (!context.has_rank(0)) return context.set_output(0, context.element(0));
  if (axis && axis->size() != 1) context.fail("axis has to be one number, not {}", axis->size());
  if (!axis || !axis->front().is_known()) {
    return context.set_output(0, context.element(0), unknown_dims(context.rank(0) + 1));
  }
  Dims dims = context.dims(0);
  dims.insert(dims.begin() + context.axis(axis->front().value(), context.rank(0) + 1), 1);
  context.set_output(0, context.element(0), std::move(dims));
  copy_ints(context, 0, 0);
}

void infer_identity(InferContext& context) {
  context.set_type(0, context.type(0));
  copy_ints(context, 0, 0);
}

void run_identity(RunContext& context) { context.set(0, context.input_value(0)); }

constexpr OpInfo kOps[] = {
    {"", "Shape", 1, 0, infer_shape, run_shape},
    {"", "Size", 1, 0, infer_size, run_size},
    {"", "Reshape", 1, 4, infer_reshape_attribute, run_view, OpInfo::kMakesOutputs},
    {"", "Reshape", 5, 0, infer_reshape, run_view, OpInfo::kMakesOutputs},
    {"", "Flatten", 1, 0, infer_flatten, run_view, OpInfo::kMakesOutputs},
    {"", "Squeeze", 1, 0, infer_squeeze, run_view, OpInfo::kMakesOutputs},
    {"", "Unsqueeze", 1, 0, infer_unsqueeze, run_view, OpInfo::kMakesOutputs},
    {"", "Identity", 1, 0, infer_identity, run_identity, OpInfo::kMakesOutputs},
    {kMicrosoft, "ExpandDims", 1, 0, infer_expand_dims, run_view, OpInfo::kMakesOutputs},
};

}  // namespace

std::span<const OpInfo> shape_ops() { return kOps; }

}  // namespace sluice::graph::ops
