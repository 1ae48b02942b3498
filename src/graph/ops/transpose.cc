// The operators that are one move of elements (move.h) and nothing else: Transpose, DepthToSpace, SpaceToDepth, Expand,
// Tile (ONNX operator specification, opsets 1 to 28). Each describes its output as axes with the steps that lead
// through the input; a step of 0 repeats. What turns out to move nothing (a permutation that only moves dimensions of
// 1, an Expand to the same shape) shares the input's memory.
#include <numeric>

#include "graph/ops/move.h"
#include "graph/ops/ops.h"
#include "graph/ops/shape_math.h"

namespace sluice::graph::ops {
namespace {

// Output dimension i is input dimension result[i].
template <typename Context>
std::vector<int> get_permutation(const Context& context, int rank) {
  std::vector<int> permutation(static_cast<size_t>(rank));
  if (!context.node().has("perm")) {
    std::iota(permutation.rbegin(), permutation.rend(), 0);
    return permutation;
  }
  const std::vector<int64_t> given = context.node().get_ints("perm");
  if (given.size() != permutation.size()) {
    context.fail("perm has {} entries for a tensor of {} dimensions", given.size(), rank);
  }
  std::vector<bool> seen(permutation.size());
  for (size_t i = 0; i < given.size(); ++i) {
    const int axis = context.axis(given[i], rank);
    if (seen[static_cast<size_t>(axis)]) context.fail("perm names dimension {} twice", axis);
    seen[static_cast<size_t>(axis)] = true;
    permutation[i] = axis;
  }
  return permutation;
}

void infer_transpose(InferContext& context) {
  if (!context.has_rank(0)) {
    if (!context.node().has("perm")) return context.set_output(0, context.element(0));
    return context.set_output(0, context.element(0),
                              unknown_dims(static_cast<int>(context.node().get_ints("perm").size())));
  }
  Dims dims;
  for (const int axis : get_permutation(context, context.rank(0))) {
    dims.push_back(context.dims(0)[static_cast<size_t>(axis)]);
  }
  context.set_output(0, context.element(0), std::move(dims));
}

void run_transpose(RunContext& context) {
  const Tensor& input = context.input(0);
  const Shape strides = strides_of(input.shape());
  const std::vector<int> permutation = get_permutation(context, input.rank());
  int last = -1;
  bool keeps_order = true;  // of the dimensions that are not 1
  for (const int axis : permutation) {
    if (input.dim(axis) == 1) continue;
    keeps_order &= axis > last;
    last = axis;
  }
  if (keeps_order || input.count() == 0) return context.set(0, input.reshaped(get_output_shape(context, 0)));
  std::vector<MoveAxis> axes;
  int64_t step = input.count();
  for (const int axis : permutation) {
    step /= input.dim(axis);
    axes.push_back({input.dim(axis), strides[axis], step});
  }
  move_elements(input.type(), input.raw(), make_output(context, 0).raw(), std::move(axes), context.pool());
}

int64_t get_block_size(const InferContext& context) {
  const int64_t block = context.node().get_int("blocksize", 0);
  if (block < 1 || block > (1 << 20)) context.fail("blocksize is {}; it has to be 1 or more", block);
  if (context.has_rank(0) && context.rank(0) != 4) {
    context.fail("takes a tensor of 4 dimensions, not of {}", context.rank(0));
  }
  return block;
}

Dim divide_exactly(const InferContext& context, const Dim& dim, int64_t by) {
  if (dim.is_known() && dim.value() % by != 0) context.fail("a dimension of {} is no multiple of {}", dim.value(), by);
  return floor_divide(dim, by);
}

void infer_depth_to_space(InferContext& context) {
  const int64_t block = get_block_size(context);
  const std::string mode = context.node().get_string("mode", "DCR");
  if (mode != "DCR" && mode != "CRD") context.fail("mode is '{}'; DCR and CRD are known", mode);
  if (!context.has_rank(0)) return context.set_output(0, context.element(0), unknown_dims(4));
  const Dims& dims = context.dims(0);
  context.set_output(0, context.element(0),
                     {dims[0], divide_exactly(context, dims[1], block * block), dims[2] * block, dims[3] * block});
}

void infer_space_to_depth(InferContext& context) {
  const int64_t block = get_block_size(context);
  if (!context.has_rank(0)) return context.set_output(0, context.element(0), unknown_dims(4));
  const Dims& dims = context.dims(0);
  context.set_output(0, context.element(0),
                     {dims[0], dims[1] * (block * block), divide_exactly(context, dims[2], block),
                      divide_exactly(context, dims[3], block)});
}

// Axes of the output, outermost first, with steps through the input; the output is contiguous.
void move_to_output(RunContext& context, std::vector<MoveAxis> axes) {
  const Tensor& input = context.input(0);
  Tensor& output = make_output(context, 0);
  if (output.count() == 0) return;
  int64_t step = output.count();
  for (MoveAxis& axis : axes) {
    step /= axis.count;  // no axis is empty where the output is not
    axis.to = step;
  }
  move_elements(input.type(), input.raw(), output.raw(), std::move(axes), context.pool());
}

void run_depth_to_space(RunContext& context) {
  const Tensor& input = context.input(0);
  const bool is_depth_first = context.node().get_string("mode", "DCR") == "DCR";
  const int64_t block = context.node().get_int("blocksize", 1);
  const int64_t depth = input.dim(1) / (block * block), plane = input.dim(2) * input.dim(3);
  // A channel is (row in block, column in block, depth), or (depth, row, column).
  const int64_t column_step = is_depth_first ? depth * plane : plane, row_step = column_step * block;
  const int64_t depth_step = is_depth_first ? plane : block * block * plane;
  move_to_output(context, {{input.dim(0), input.dim(1) * plane}, {depth, depth_step}, {input.dim(2), input.dim(3)},
                           {block, row_step}, {input.dim(3), 1}, {block, column_step}});
}

void run_space_to_depth(RunContext& context) {
  const Tensor& input = context.input(0);
  const int64_t block = context.node().get_int("blocksize", 1), width = input.dim(3), plane = input.dim(2) * width;
  move_to_output(context, {{input.dim(0), input.dim(1) * plane}, {block, width}, {block, 1}, {input.dim(1), plane},
                           {input.dim(2) / block, width * block}, {width / block, block}});
}

void infer_expand(InferContext& context) {
  const auto target = find_shape_ints(context, 1);
  if (!target) {
    if (context.has_rank(0) && context.has_rank(1) && context.rank(1) == 1 && context.dims(1)[0].is_known() &&
        context.dims(1)[0].value() >= 0 && context.dims(1)[0].value() <= kMaxRank) {
      const int rank = std::max(context.rank(0), static_cast<int>(context.dims(1)[0].value()));
      return context.set_output(0, context.element(0), unknown_dims(rank));
    }
    return context.set_output(0, context.element(0));
  }
  if (!context.has_rank(0)) return context.set_output(0, context.element(0));
  for (const Dim& dim : *target) {
    if (dim.is_known() && dim.value() < 0) {
      context.fail("the new shape has a dimension of {}; it may be 0 or more", dim.value());
    }
  }
  Dims dims = broadcast(context, context.dims(0), *target);
  if (const auto from = find_shape_ints(context, 0); from && from->size() == 1 && are_known(dims)) {
    const Dim count = product(dims);
    if (count.is_known() && count.value() <= kMaxShapeInts) {
      context.set_ints(0, std::vector<Dim>(static_cast<size_t>(count.value()), from->front()));
    }
  } else if (from && are_known(dims) && product(dims) == Dim(static_cast<int64_t>(from->size()))) {
    context.set_ints(0, *from);
  }
  context.set_output(0, context.element(0), std::move(dims));
}

void run_expand(RunContext& context) {
  const Tensor& input = context.input(0);
  const Shape shape = get_output_shape(context, 0), strides = strides_of(input.shape());
  if (checked_count(shape) == input.count()) return context.set(0, input.reshaped(shape));
  const int shift = shape.rank() - input.rank();
  std::vector<MoveAxis> axes;
  for (int i = 0; i < shape.rank(); ++i) {
    const bool repeats = i < shift || input.dim(i - shift) == 1;
    axes.push_back({shape[i], repeats ? 0 : strides[i - shift]});
  }
  move_to_output(context, std::move(axes));
}

void check_repeats(const InferContext& context, const Dim& repeats) {
  if (repeats.is_known() && repeats.value() < 0) context.fail("cannot repeat {} times", repeats.value());
}

// How often each dimension is repeated; nullopt if that is not known.
std::optional<std::vector<Dim>> find_repeats(InferContext& context) {
  if (!context.has_rank(0)) return std::nullopt;
  auto repeats = find_shape_ints(context, 1);
  if (context.opset() < 6) {  // one dimension, whose number is another input
    const auto axis = context.known_ints(2);
    if (!repeats || repeats->size() != 1 || !axis || axis->size() != 1) return std::nullopt;
    std::vector<Dim> all(static_cast<size_t>(context.rank(0)), 1);
    all[static_cast<size_t>(context.axis(axis->front(), context.rank(0)))] = repeats->front();
    return all;
  }
  if (repeats && repeats->size() != static_cast<size_t>(context.rank(0))) {
    context.fail("repeats has {} entries for a tensor of {} dimensions", repeats->size(), context.rank(0));
  }
  return repeats;
}

void infer_tile(InferContext& context) {
  const auto repeats = find_repeats(context);
  if (!context.has_rank(0)) return context.set_output(0, context.element(0));
  if (!repeats) return context.set_output(0, context.element(0), unknown_dims(context.rank(0)));
  Dims dims;
  for (size_t i = 0; i < repeats->size(); ++i) {
    check_repeats(context, (*repeats)[i]);
    dims.push_back(context.dims(0)[i] * (*repeats)[i]);
  }
  if (const auto from = find_shape_ints(context, 0); from && dims.size() == 1 && dims[0].is_known() &&
                                                     dims[0].value() <= kMaxShapeInts && !from->empty()) {
    std::vector<Dim> ints;
    for (size_t i = 0; i < static_cast<size_t>(dims[0].value()); ++i) ints.push_back((*from)[i % from->size()]);
    context.set_ints(0, std::move(ints));
  }
  context.set_output(0, context.element(0), std::move(dims));
}

void run_tile(RunContext& context) {
  const Tensor& input = context.input(0);
  const Shape shape = get_output_shape(context, 0), strides = strides_of(input.shape());
  if (shape == input.shape()) return context.set(0, input);
  if (input.count() == 0) {  // whose dimensions nothing can be divided by
    make_output(context, 0);
    return;
  }
  std::vector<MoveAxis> axes;
  for (int i = 0; i < shape.rank(); ++i) {
    axes.push_back({shape[i] / input.dim(i), 0});
    axes.push_back({input.dim(i), strides[i]});
  }
  move_to_output(context, std::move(axes));
}

constexpr OpInfo kOps[] = {
    {"", "Transpose", 1, 0, infer_transpose, run_transpose, OpInfo::kMakesOutputs},
    {"", "DepthToSpace", 1, 0, infer_depth_to_space, run_depth_to_space},
    {"", "SpaceToDepth", 1, 0, infer_space_to_depth, run_space_to_depth},
    {"", "Expand", 8, 0, infer_expand, run_expand, OpInfo::kMakesOutputs},
    {"", "Tile", 1, 0, infer_tile, run_tile, OpInfo::kMakesOutputs},
};

}  // namespace

std::span<const OpInfo> transpose_ops() { return kOps; }

}  // namespace sluice::graph::ops
