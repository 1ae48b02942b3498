// Operators of TFLite that give tensors another shape, put them together or make them from nothing. Numbers are moved
// as they are stored where input and output have the same scale.
#include <algorithm>

#include "graph/import_tflite_ops.h"

namespace sluice::graph {
namespace {

using enum TfliteLayout;
using tflite::Activation;
using tflite::BuiltinOperator;

void run_reshape(TfliteOp& op) {
  const auto* options = op.find_options<tflite::ReshapeOptions>();
  std::optional<std::vector<int64_t>> shape;
  if (op.has_input(1)) {
    shape = op.graph.find_ints(op.input(1));
  } else if (options != nullptr && options->new_shape() != nullptr) {
    shape.emplace(options->new_shape()->begin(), options->new_shape()->end());
  } else {
    fail(Code::kInvalidArgument, "has no shape");
  }
  const ValueId x = op.moved(0);
  const ValueId sizes = shape ? op.graph.ints_constant(*shape) : op.graph.ints(op.input(1));
  const bool has_zero = shape && std::count(shape->begin(), shape->end(), 0) > 0;
  Attributes attributes;
  if (has_zero) attributes["allowzero"] = int_attribute(1);
  op.finish_moved(op.graph.node("Reshape", {x, sizes}, std::move(attributes)));
}

void run_squeeze(TfliteOp& op) {
  const auto* options = op.find_options<tflite::SqueezeOptions>();
  std::vector<int64_t> axes;
  if (options != nullptr && options->squeeze_dims() != nullptr && options->squeeze_dims()->size() > 0) {
    for (const int64_t axis : *options->squeeze_dims()) axes.push_back(TfliteOp::axis(axis, op.rank(0)));
  } else {
    const int rank = op.rank(0);
    for (int d = 0; d < rank; ++d) {
      if (op.in(0).dims[static_cast<size_t>(d)] == Dim(1)) axes.push_back(d);
    }
  }
  std::vector<ValueId> inputs = {op.moved(0)};
  if (axes.empty()) return op.finish_moved(op.graph.node("Identity", inputs));
  inputs.push_back(op.graph.ints_constant(axes));
  op.finish_moved(op.graph.node("Squeeze", std::move(inputs)));
}

void run_expand_dims(TfliteOp& op) {
  const std::vector<int64_t> axis = op.constant_ints(1, "the axis");
  if (axis.size() != 1) fail(Code::kInvalidArgument, "has {} axes", axis.size());
  op.finish_moved(op.graph.node("Unsqueeze", {op.moved(0), op.graph.ints_constant(axis)}));
}

void run_transpose(TfliteOp& op) {
  const std::vector<int64_t> perm = op.constant_ints(1, "the permutation");
  op.finish_moved(op.graph.transpose(op.moved(0), perm));
}

void run_pack(TfliteOp& op) {
  const auto* options = op.find_options<tflite::PackOptions>();
  const int64_t axis = options == nullptr ? 0 : options->axis();
  bool keeps = true;
  for (int i = 0; i < op.num_inputs(); ++i) keeps &= op.keeps_numbers(i);
  std::vector<ValueId> parts;
  for (int i = 0; i < op.num_inputs(); ++i) {
    const ValueId part = keeps ? op.graph.raw(op.input(i)) : op.graph.real(op.input(i));
    parts.push_back(op.graph.node("Unsqueeze", {part, op.graph.ints_constant({axis})}));
  }
  const ValueId joined = op.graph.node("Concat", std::move(parts), {{"axis", int_attribute(axis)}});
  if (keeps)
    op.graph.set_raw(op.output(0), joined);
  else
    op.graph.set_real(op.output(0), joined);
}

void run_unpack(TfliteOp& op) {
  const auto* options = op.find_options<tflite::UnpackOptions>();
  const int64_t axis = TfliteOp::axis(options == nullptr ? 0 : options->axis(), op.rank(0));
  const ValueId x = op.moved(0);
  std::vector<ValueId> parts =
      op.graph.nodes("Split", {x}, op.num_outputs(),
                     {{"axis", int_attribute(axis)}, {"num_outputs", int_attribute(op.num_outputs())}});
  for (ValueId& part : parts) part = op.graph.node("Squeeze", {part, op.graph.ints_constant({axis})});
  op.finish_parts(parts, kLast, 0);
}

void run_concatenation(TfliteOp& op) {
  const auto& options = op.options<tflite::ConcatenationOptions>();
  bool has_second = false, all_images = true, keeps = options.fused_activation_function() == Activation::NONE;
  for (int i = 0; i < op.num_inputs(); ++i) {
    has_second |= op.layout(i) == kSecond && !op.in(i).is_constant;
    all_images &= op.in(i).is_image();
    keeps &= op.keeps_numbers(i);
  }
  const TfliteLayout layout = has_second && all_images ? kSecond : kLast;
  int64_t axis = options.axis();
  if (layout == kSecond) axis = TfliteGraph::axis_in(TfliteOp::axis(axis, 4), kSecond);
  std::vector<ValueId> parts;
  for (int i = 0; i < op.num_inputs(); ++i) {
    parts.push_back(keeps ? op.graph.raw(op.input(i), layout) : op.graph.real(op.input(i), layout));
  }
  const ValueId joined = op.graph.node("Concat", std::move(parts), {{"axis", int_attribute(axis)}});
  if (keeps)
    op.graph.set_raw(op.output(0), joined, layout);
  else
    op.finish(joined, options.fused_activation_function(), layout);
}

// What stands for 0, or for the number that PADV2 gives, among the numbers that are padded.
ValueId pad_value(TfliteOp& op, bool keeps) {
  if (op.has_input(2)) {
    const ValueId value = keeps ? op.graph.raw(op.input(2)) : op.graph.real(op.input(2));
    return op.graph.node("Reshape", {value, op.graph.ints_constant({1})});
  }
  if (!keeps || !op.in(0).is_quantised()) return kNoValue;
  Tensor zero(op.in(0).element, Shape());
  dispatch<int8_t, uint8_t, int16_t>(
      op.in(0).element, [&](auto t) { zero.data<decltype(t)>()[0] = static_cast<decltype(t)>(op.in(0).zeros[0]); });
  return op.graph.constant(std::move(zero), "zero");
}

// [rank, 2] before and after each axis.
std::vector<int64_t> read_pads(const TfliteOp& op, int i, int64_t num_axes) {
  std::vector<int64_t> pads = op.constant_ints(i, "the padding");
  if (static_cast<int64_t>(pads.size()) != 2 * num_axes) {
    fail(Code::kInvalidArgument, "has {} numbers of padding for {} dimensions", pads.size(), num_axes);
  }
  for (const int64_t pad : pads) {
    if (pad < 0 || pad > INT32_MAX) fail(Code::kInvalidArgument, "a padding is {}", pad);
  }
  return pads;
}

void run_pad(TfliteOp& op) {
  const int rank = op.rank(0);
  const bool keeps = op.keeps_numbers(0);
  TfliteLayout layout = kLast;
  ValueId pads = kNoValue;
  if (op.in(1).is_constant) {
    layout = op.layout();
    const std::vector<int64_t> given = read_pads(op, 1, rank);
    std::vector<int64_t> ordered(given.size());
    for (size_t d = 0; d < given.size() / 2; ++d) {
      const auto to = rank == 4 ? static_cast<size_t>(TfliteGraph::axis_in(static_cast<int64_t>(d), layout)) : d;
      ordered[to] = given[2 * d];
      ordered[to + given.size() / 2] = given[2 * d + 1];
    }
    pads = op.graph.ints_constant(ordered);
  } else {
    const ValueId columns = op.graph.transpose(op.graph.ints(op.input(1)), {1, 0});
    pads = op.graph.node("Reshape", {columns, op.graph.ints_constant({-1})});
  }
  const ValueId value = pad_value(op, keeps);
  std::vector<ValueId> inputs = {keeps ? op.graph.raw(op.input(0), layout) : op.graph.real(op.input(0), layout), pads};
  if (value != kNoValue) inputs.push_back(value);
  op.finish_moved(op.graph.node("Pad", std::move(inputs)), layout);
}

// Part of x along one axis, backwards if step is -1.
ValueId cut(TfliteOp& op, ValueId x, int64_t axis, int64_t start, int64_t end, int64_t step) {
  return op.graph.node("Slice", {x, op.graph.ints_constant({start}), op.graph.ints_constant({end}),
                                 op.graph.ints_constant({axis}), op.graph.ints_constant({step})});
}

// SYMMETRIC repeats the border too, which ONNX's Pad has no mode for: pieces of x in reverse, axis by axis.
void run_mirror_pad(TfliteOp& op) {
  const int rank = op.rank(0);
  const bool is_symmetric = op.options<tflite::MirrorPadOptions>().mode() == tflite::MirrorMode::SYMMETRIC;
  const std::vector<int64_t> given = read_pads(op, 1, rank);
  ValueId x = op.moved(0);
  for (size_t d = 0; d < given.size() / 2; ++d) {
    const int64_t before = given[2 * d], after = given[2 * d + 1], skip = is_symmetric ? 0 : 1;
    const auto axis = static_cast<int64_t>(d);
    const std::optional<int64_t> size = op.in(0).dims[d].known();
    if (size && std::max(before, after) > *size - skip)
      fail(Code::kInvalidArgument, "mirrors {} of {} places", std::max(before, after), *size);
    if (before + after == 0) continue;
    std::vector<ValueId> parts;
    if (before > 0) {
      // From place before - 1 + skip down to `skip`.
      parts.push_back(cut(op, x, axis, before - 1 + skip, skip == 0 ? INT64_MIN : skip - 1, -1));
    }
    parts.push_back(x);
    if (after > 0) parts.push_back(cut(op, x, axis, -1 - skip, -1 - skip - after, -1));
    x = op.graph.node("Concat", std::move(parts), {{"axis", int_attribute(axis)}});
  }
  op.finish_moved(op.graph.node("Identity", {x}));
}

void run_shape(TfliteOp& op) {
  const TfliteTensor& x = op.in(0);
  ValueId shape = kNoValue;
  if (x.is_image() && x.raw[0] == kNoValue && x.raw[1] != kNoValue) {
    shape = op.graph.node("Shape", {x.raw[1]});
    shape = op.graph.node("Gather", {shape, op.graph.ints_constant({0, 2, 3, 1})});
  } else {
    shape = op.graph.node("Shape", {op.graph.raw(op.input(0))});
  }
  op.graph.set_raw(op.output(0),
                   op.out(0).element == ElementType::kI64 ? shape : op.graph.cast(shape, op.out(0).element));
}

void run_rank(TfliteOp& op) {
  const auto rank = static_cast<int32_t>(op.rank(0));
  op.graph.raw(op.input(0));
  op.graph.set_raw(op.output(0), op.graph.node("Identity", {op.graph.constant(Tensor::scalar(rank))}));
}

void run_tile(TfliteOp& op) { op.finish_moved(op.graph.node("Tile", {op.moved(0), op.graph.ints(op.input(1))})); }

void run_fill(TfliteOp& op) {
  const ValueId value = op.graph.real(op.input(1));
  op.graph.set_real(op.output(0), op.graph.node("Expand", {value, op.graph.ints(op.input(0))}));
}

void run_broadcast_to(TfliteOp& op) {
  op.finish_moved(op.graph.node("Expand", {op.moved(0), op.graph.ints(op.input(1))}));
}

void run_zeros_like(TfliteOp& op) {
  const ValueId shape = op.graph.node("Shape", {op.graph.raw(op.input(0))});
  const ElementType type = op.in(0).is_quantised() ? ElementType::kF32 : op.in(0).element;
  const ValueId zero = op.graph.cast(op.graph.float_constant(0), type);
  op.graph.set_real(op.output(0), op.graph.node("Expand", {zero, shape}));
}

void run_range(TfliteOp& op) {
  std::vector<ValueId> ends;
  for (int i = 0; i < 3; ++i) ends.push_back(op.graph.real(op.input(i)));
  op.graph.set_real(op.output(0), op.graph.node("Range", std::move(ends)));
}

void run_one_hot(TfliteOp& op) {
  const auto* options = op.find_options<tflite::OneHotOptions>();
  const ValueId one = op.graph.ints_constant({1});
  const ValueId on = op.graph.node("Reshape", {op.graph.real(op.input(2)), one});
  const ValueId off = op.graph.node("Reshape", {op.graph.real(op.input(3)), one});
  const ValueId values = op.graph.node("Concat", {off, on}, {{"axis", int_attribute(0)}});
  const ValueId indices = op.graph.raw(op.input(0));
  op.graph.set_real(op.output(0), op.graph.node("OneHot", {indices, op.graph.ints(op.input(1)), values},
                                                {{"axis", int_attribute(options == nullptr ? -1 : options->axis())}}));
}

// What both directions of moving blocks between the batch and places need: [batch, places..., rest...].
struct Blocks {
  std::vector<int64_t> sizes;   // of blocks, one for each place
  std::vector<int64_t> places;  // how large x is there
  std::vector<int64_t> rest;
};

Blocks read_blocks(const TfliteOp& op) {
  Blocks blocks;
  blocks.sizes = op.constant_ints(1, "the block");
  const int rank = op.rank(0);
  const auto num_places = static_cast<int>(blocks.sizes.size());
  if (num_places < 1 || num_places > 2 || rank < num_places + 1) {
    fail(Code::kUnimplemented, "has blocks of {} dimensions of {}; 1 or 2 are supported", num_places, rank);
  }
  for (int d = 1; d < rank; ++d) {
    const Dim& dim = op.in(0).dims[static_cast<size_t>(d)];
    if (!dim.is_known()) fail(Code::kUnimplemented, "the size of dimension {} is not in the file", d);
    (d <= num_places ? blocks.places : blocks.rest).push_back(dim.value());
  }
  for (const int64_t size : blocks.sizes) {
    if (size < 1 || size > INT32_MAX) fail(Code::kInvalidArgument, "a block is {}", size);
  }
  return blocks;
}

void run_space_to_batch(TfliteOp& op) {
  Blocks blocks = read_blocks(op);
  const size_t m = blocks.sizes.size(), rank = 1 + m + blocks.rest.size();
  const std::vector<int64_t> given = read_pads(op, 2, static_cast<int64_t>(m));
  const bool keeps = op.keeps_numbers(0);
  std::vector<int64_t> pads(2 * rank, 0), split = {0}, last = {-1};
  for (size_t d = 0; d < m; ++d) {
    pads[1 + d] = given[2 * d];
    pads[1 + d + rank] = given[2 * d + 1];
    const int64_t size = blocks.places[d] + given[2 * d] + given[2 * d + 1];
    if (size % blocks.sizes[d] != 0) fail(Code::kInvalidArgument, "{} places in blocks of {}", size, blocks.sizes[d]);
    split.insert(split.end(), {size / blocks.sizes[d], blocks.sizes[d]});
    last.push_back(size / blocks.sizes[d]);
  }
  split.insert(split.end(), blocks.rest.begin(), blocks.rest.end());
  last.insert(last.end(), blocks.rest.begin(), blocks.rest.end());
  std::vector<ValueId> inputs = {op.moved(0), op.graph.ints_constant(pads)};
  if (keeps && op.in(0).is_quantised()) {
    Tensor zero(op.in(0).element, Shape());
    dispatch<int8_t, uint8_t, int16_t>(
        op.in(0).element, [&](auto t) { zero.data<decltype(t)>()[0] = static_cast<decltype(t)>(op.in(0).zeros[0]); });
    inputs.push_back(op.graph.constant(std::move(zero), "zero"));
  }
  ValueId x = op.graph.node("Pad", std::move(inputs));
  x = op.graph.node("Reshape", {x, op.graph.ints_constant(split)});
  std::vector<int64_t> perm;
  for (size_t d = 0; d < m; ++d) perm.push_back(static_cast<int64_t>(2 + 2 * d));
  perm.push_back(0);
  for (size_t d = 0; d < m; ++d) perm.push_back(static_cast<int64_t>(1 + 2 * d));
  for (size_t d = 0; d < blocks.rest.size(); ++d) perm.push_back(static_cast<int64_t>(1 + 2 * m + d));
  x = op.graph.transpose(x, std::move(perm));
  op.finish_moved(op.graph.node("Reshape", {x, op.graph.ints_constant(last)}));
}

void run_batch_to_space(TfliteOp& op) {
  Blocks blocks = read_blocks(op);
  const size_t m = blocks.sizes.size();
  const std::vector<int64_t> crops = read_pads(op, 2, static_cast<int64_t>(m));
  std::vector<int64_t> split = blocks.sizes, last = {-1}, perm = {static_cast<int64_t>(m)};
  split.push_back(-1);
  for (size_t d = 0; d < m; ++d) {
    split.push_back(blocks.places[d]);
    last.push_back(blocks.places[d] * blocks.sizes[d]);
    perm.insert(perm.end(), {static_cast<int64_t>(m + 1 + d), static_cast<int64_t>(d)});
  }
  for (size_t d = 0; d < blocks.rest.size(); ++d) {
    split.push_back(blocks.rest[d]);
    last.push_back(blocks.rest[d]);
    perm.push_back(static_cast<int64_t>(1 + 2 * m + d));
  }
  ValueId x = op.graph.node("Reshape", {op.moved(0), op.graph.ints_constant(split)});
  x = op.graph.transpose(x, std::move(perm));
  x = op.graph.node("Reshape", {x, op.graph.ints_constant(last)});
  for (size_t d = 0; d < m; ++d) {
    const int64_t size = last[1 + d], begin = crops[2 * d], end = crops[2 * d + 1];
    if (begin + end > size) fail(Code::kInvalidArgument, "crops {} and {} of {} places", begin, end, size);
    if (begin + end > 0) x = cut(op, x, static_cast<int64_t>(1 + d), begin, size - end, 1);
  }
  op.finish_moved(x);
}

constexpr TfliteHandler kHandlers[] = {
    {BuiltinOperator::RESHAPE, run_reshape},
    {BuiltinOperator::SQUEEZE, run_squeeze},
    {BuiltinOperator::EXPAND_DIMS, run_expand_dims},
    {BuiltinOperator::TRANSPOSE, run_transpose},
    {BuiltinOperator::PACK, run_pack},
    {BuiltinOperator::UNPACK, run_unpack},
    {BuiltinOperator::CONCATENATION, run_concatenation},
    {BuiltinOperator::PAD, run_pad},
    {BuiltinOperator::PADV2, run_pad},
    {BuiltinOperator::MIRROR_PAD, run_mirror_pad},
    {BuiltinOperator::SHAPE, run_shape},
    {BuiltinOperator::RANK, run_rank},
    {BuiltinOperator::TILE, run_tile},
    {BuiltinOperator::FILL, run_fill},
    {BuiltinOperator::BROADCAST_TO, run_broadcast_to},
    {BuiltinOperator::ZEROS_LIKE, run_zeros_like},
    {BuiltinOperator::RANGE, run_range},
    {BuiltinOperator::ONE_HOT, run_one_hot},
    {BuiltinOperator::SPACE_TO_BATCH_ND, run_space_to_batch},
    {BuiltinOperator::BATCH_TO_SPACE_ND, run_batch_to_space},
};

}  // namespace

std::span<const TfliteHandler> tflite_shape_handlers() { return kHandlers; }

}  // namespace sluice::graph
