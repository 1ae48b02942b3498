// Operators of TFLite that take parts of tensors: slices, splits, gathers and scatters.
#include <algorithm>

#include "graph/import_tflite_ops.h"

namespace sluice::graph {
namespace {

using enum TfliteLayout;
using tflite::BuiltinOperator;

// Slice over all axes that are named, in x's layout.
ValueId slice(TfliteOp& op, ValueId x, const std::vector<int64_t>& starts, const std::vector<int64_t>& ends,
              const std::vector<int64_t>& axes, const std::vector<int64_t>& steps) {
  if (axes.empty()) return op.graph.node("Identity", {x});
  return op.graph.node("Slice", {x, op.graph.ints_constant(starts), op.graph.ints_constant(ends),
                                 op.graph.ints_constant(axes), op.graph.ints_constant(steps)});
}

void run_slice(TfliteOp& op) {
  const std::optional<std::vector<int64_t>> begin = op.graph.find_ints(op.input(1)),
                                            size = op.graph.find_ints(op.input(2));
  if (begin && size) {
    if (begin->size() != size->size() || (op.in(0).has_rank && static_cast<int>(begin->size()) != op.in(0).rank()))
      fail(Code::kInvalidArgument, "has {} beginnings and {} sizes", begin->size(), size->size());
    const TfliteLayout layout = op.layout();
    std::vector<int64_t> starts, ends, axes;
    for (size_t d = 0; d < begin->size(); ++d) {
      const int64_t start = (*begin)[d], count = (*size)[d];
      if (start < 0 || count < -1) fail(Code::kInvalidArgument, "takes {} from {}", count, start);
      if (start == 0 && count == -1) continue;
      axes.push_back(TfliteGraph::axis_in(static_cast<int64_t>(d), layout));
      starts.push_back(start);
      ends.push_back(count == -1 || start > INT64_MAX - count ? INT64_MAX : start + count);
    }
    const std::vector<int64_t> steps(axes.size(), 1);
    return op.finish_moved(slice(op, op.moved(0, layout), starts, ends, axes, steps), layout);
  }
  const ValueId starts = op.graph.ints(op.input(1)), sizes = op.graph.ints(op.input(2));
  const ValueId is_rest = op.graph.node("Less", {sizes, op.graph.ints_constant({0})});
  const ValueId ends =
      op.graph.node("Where", {is_rest, op.graph.ints_constant({INT64_MAX}), op.graph.node("Add", {starts, sizes})});
  op.finish_moved(op.graph.node("Slice", {op.moved(0), starts, ends}));
}

// The bits of the masks count through `begin`, where an ellipsis stands for any number of dimensions and a new axis
// for none.
void run_strided_slice(TfliteOp& op) {
  const auto& options = op.options<tflite::StridedSliceOptions>();
  const std::vector<int64_t> strides = op.constant_ints(3, "the strides");
  const std::optional<std::vector<int64_t>> begin = op.graph.find_ints(op.input(1)),
                                            end = op.graph.find_ints(op.input(2));
  const int rank = op.rank(0);
  const size_t count = strides.size();
  if (count > 32 || (begin && begin->size() != count) || (end && end->size() != count))
    fail(Code::kInvalidArgument, "begin, end and strides are not of one size up to 32");
  auto has = [](int32_t mask, size_t bit) { return ((static_cast<uint32_t>(mask) >> bit) & 1) != 0; };
  int64_t num_new = 0, num_ellipses = 0;
  for (size_t i = 0; i < count; ++i) {
    if (has(options.ellipsis_mask(), i))
      ++num_ellipses;
    else if (has(options.new_axis_mask(), i))
      ++num_new;
  }
  if (num_ellipses > 1) fail(Code::kInvalidArgument, "has {} ellipses", num_ellipses);
  const int64_t num_spelled = static_cast<int64_t>(count) - num_new - num_ellipses;
  if (num_spelled > rank) fail(Code::kInvalidArgument, "slices {} of {} dimensions", num_spelled, rank);

  std::vector<int64_t> starts, ends, axes, steps, dropped, added, which;
  int64_t axis = 0, out_axis = 0;
  bool is_constant = true;
  for (size_t i = 0; i < count; ++i) {
    if (has(options.ellipsis_mask(), i)) {
      axis += rank - num_spelled;
      out_axis += rank - num_spelled;
      continue;
    }
    if (has(options.new_axis_mask(), i)) {
      added.push_back(out_axis++);
      continue;
    }
    const int64_t step = strides[i];
    if (step == 0) fail(Code::kInvalidArgument, "a stride is 0");
    const bool is_dropped = has(options.shrink_axis_mask(), i);
    const bool from_start = has(options.begin_mask(), i) && !is_dropped, to_end = has(options.end_mask(), i);
    if (!from_start || !to_end || step != 1 || is_dropped) {
      const bool is_known = (from_start || begin) && (to_end || is_dropped || end);
      is_constant &= is_known;
      int64_t start = from_start ? (step > 0 ? 0 : INT64_MAX) : begin ? (*begin)[i] : 0;
      int64_t stop = to_end ? (step > 0 ? INT64_MAX : INT64_MIN) : end ? (*end)[i] : 0;
      if (options.offset() && !to_end && begin && end && __builtin_add_overflow(stop, start, &stop)) {
        fail(Code::kInvalidArgument, "its beginning {} and length are too large", start);
      }
      if (is_dropped) stop = start == -1 || start == INT64_MAX ? INT64_MAX : start + 1;
      starts.push_back(start);
      ends.push_back(stop);
      steps.push_back(is_dropped ? 1 : step);
      axes.push_back(axis);
      which.push_back(static_cast<int64_t>(i));
      if (!is_known && (is_dropped || from_start || to_end || options.offset())) {
        fail(Code::kUnimplemented, "its beginning or end is computed at run time and masked");
      }
    }
    if (is_dropped)
      dropped.push_back(axis);
    else
      ++out_axis;
    ++axis;
  }
  const bool keeps_axes = dropped.empty() && added.empty();
  const TfliteLayout layout = keeps_axes && is_constant ? op.layout() : kLast;
  ValueId x = op.moved(0, layout);
  if (is_constant) {
    if (layout == kSecond) {
      for (int64_t& a : axes) a = TfliteGraph::axis_in(a, layout);
    }
    x = slice(op, x, starts, ends, axes, steps);
  } else {
    if (which.size() != axes.size() || std::any_of(axes.begin(), axes.end(), [&](int64_t a) { return a >= rank; }))
      fail(Code::kInvalidArgument, "slices more dimensions than there are");
    const ValueId picked = op.graph.ints_constant(which);
    const ValueId from = op.graph.node("Gather", {op.graph.ints(op.input(1)), picked});
    const ValueId to = op.graph.node("Gather", {op.graph.ints(op.input(2)), picked});
    x = op.graph.node("Slice", {x, from, to, op.graph.ints_constant(axes), op.graph.ints_constant(steps)});
  }
  if (!dropped.empty()) x = op.graph.node("Squeeze", {x, op.graph.ints_constant(dropped)});
  if (!added.empty()) x = op.graph.node("Unsqueeze", {x, op.graph.ints_constant(added)});
  op.finish_moved(x, layout);
}

// x is input `i`.
void split(TfliteOp& op, int i, int64_t axis, const std::vector<int64_t>& sizes) {
  axis = TfliteOp::axis(axis, op.rank(i));
  const TfliteLayout layout = op.layout(i);
  if (layout == kSecond) axis = TfliteGraph::axis_in(axis, layout);
  const int count = op.num_outputs();
  std::vector<ValueId> inputs = {op.moved(i, layout)};
  Attributes attributes = {{"axis", int_attribute(axis)}};
  if (sizes.empty())
    attributes["num_outputs"] = int_attribute(count);
  else
    inputs.push_back(op.graph.ints_constant(sizes));
  const std::vector<ValueId> parts = op.graph.nodes("Split", std::move(inputs), count, std::move(attributes));
  op.finish_parts(parts, layout, i);
}

void run_split(TfliteOp& op) {
  const std::vector<int64_t> axis = op.constant_ints(0, "the axis");
  if (axis.size() != 1) fail(Code::kInvalidArgument, "has {} axes", axis.size());
  split(op, 1, axis[0], {});
}

void run_split_v(TfliteOp& op) {
  const std::vector<int64_t> axis = op.constant_ints(2, "the axis");
  if (axis.size() != 1) fail(Code::kInvalidArgument, "has {} axes", axis.size());
  std::optional<std::vector<int64_t>> sizes = op.graph.find_ints(op.input(1), 1 << 16);
  if (!sizes || sizes->size() != op.outputs.size())
    fail(Code::kUnimplemented, "its sizes are computed, or not as many as its outputs");
  if (const auto rest = std::find(sizes->begin(), sizes->end(), -1); rest != sizes->end()) {
    const int64_t at = TfliteOp::axis(axis[0], op.rank(0));
    const Dim& whole = op.in(0).dims[static_cast<size_t>(at)];
    if (!whole.is_known()) fail(Code::kUnimplemented, "the size of the dimension it splits is not in the file");
    int64_t sum = 1;  // without the -1
    for (const int64_t size : *sizes) {
      if (size < -1 || size > whole.value()) fail(Code::kInvalidArgument, "splits {} into {}", whole.value(), size);
      sum += size;
    }
    *rest = whole.value() - sum;
  }
  split(op, 0, axis[0], *sizes);
}

void run_gather(TfliteOp& op) {
  const auto* options = op.find_options<tflite::GatherOptions>();
  if (options != nullptr && options->batch_dims() != 0)
    fail(Code::kUnimplemented, "batch_dims is {}; only 0 is supported", options->batch_dims());
  ValueId indices = op.graph.raw(op.input(1));
  const ElementType type = op.in(1).element;
  if (type != ElementType::kI32 && type != ElementType::kI64) indices = op.graph.cast(indices, ElementType::kI64);
  const int64_t axis = options == nullptr ? 0 : options->axis();
  op.finish_moved(op.graph.node("Gather", {op.moved(0), indices}, {{"axis", int_attribute(axis)}}));
}

void run_embedding_lookup(TfliteOp& op) {
  const ValueId table = op.graph.real(op.input(1));
  op.graph.set_real(op.output(0), op.graph.node("Gather", {table, op.graph.raw(op.input(0))}));
}

void run_gather_nd(TfliteOp& op) {
  op.finish_moved(op.graph.node("GatherND", {op.moved(0), op.graph.ints(op.input(1))}));
}

// Inputs: indices, updates, shape. Updates of one place are added up.
void run_scatter_nd(TfliteOp& op) {
  const ValueId updates = op.graph.real(op.input(1));
  const ElementType type = op.in(1).is_quantised() ? ElementType::kF32 : op.in(1).element;
  const ValueId zero = op.graph.cast(op.graph.float_constant(0), type);
  const ValueId empty = op.graph.node("Expand", {zero, op.graph.ints(op.input(2))});
  op.graph.set_real(op.output(0), op.graph.node("ScatterND", {empty, op.graph.ints(op.input(0)), updates},
                                                {{"reduction", string_attribute("add")}}));
}

void run_reverse(TfliteOp& op) {
  const int rank = op.rank(0);
  const std::vector<int64_t> given = op.constant_ints(1, "the axis");
  const TfliteLayout layout = op.layout();
  std::vector<int64_t> axes;
  for (const int64_t axis : given) axes.push_back(TfliteGraph::axis_in(TfliteOp::axis(axis, rank), layout));
  const std::vector<int64_t> starts(axes.size(), -1), ends(axes.size(), INT64_MIN), steps(axes.size(), -1);
  op.finish_moved(slice(op, op.moved(0, layout), starts, ends, axes, steps), layout);
}

// Places of what is not 0, [n, rank].
void run_where(TfliteOp& op) {
  const ValueId found = op.graph.node("NonZero", {op.graph.raw(op.input(0))});
  const ValueId rows = op.graph.transpose(found, {1, 0});
  op.graph.set_raw(op.output(0),
                   op.out(0).element == ElementType::kI64 ? rows : op.graph.cast(rows, op.out(0).element));
}

constexpr TfliteHandler kHandlers[] = {
    {BuiltinOperator::SLICE, run_slice},
    {BuiltinOperator::STRIDED_SLICE, run_strided_slice},
    {BuiltinOperator::SPLIT, run_split},
    {BuiltinOperator::SPLIT_V, run_split_v},
    {BuiltinOperator::GATHER, run_gather},
    {BuiltinOperator::GATHER_ND, run_gather_nd},
    {BuiltinOperator::EMBEDDING_LOOKUP, run_embedding_lookup},
    {BuiltinOperator::SCATTER_ND, run_scatter_nd},
    {BuiltinOperator::REVERSE_V2, run_reverse},
    {BuiltinOperator::WHERE, run_where},
};

}  // namespace

std::span<const TfliteHandler> tflite_slice_handlers() { return kHandlers; }

}  // namespace sluice::graph
