// Slice (ONNX operator specification, opsets 1 to 28): attributes before opset 10, inputs since. Bounds are those of
// NumPy: negative ones count from the end, ones beyond the tensor are clamped, a negative step walks backwards. What is
// one run of the input shares its memory, everything else is one strided move. The shape function is exact for symbols:
// rows 1 to the end of n are max(n - 1, 0).
#include <cstdlib>

#include "graph/ops/move.h"
#include "graph/ops/ops.h"
#include "graph/ops/shape_math.h"

namespace sluice::graph::ops {
namespace {

// Exporters write "to the end" as any large number; no dimension is as large.
constexpr int64_t kHuge = (int64_t{1} << 31) - 1;

// What to take along one axis. REQUIRES: 0 <= start < n unless count is 0.
struct Range {
  int64_t start = 0, step = 1, count = 0;
};

Range resolve_range(int64_t n, int64_t start, int64_t end, int64_t step) {
  step = std::clamp(step, -n - 1, n + 1);  // beyond that there is one element anyway, and no sum below overflows
  start = std::clamp(start, -n - 1, n + 1);
  end = std::clamp(end, -n - 1, n + 1);
  if (start < 0) start += n;
  if (end < 0) end += n;
  if (step > 0) {
    start = std::clamp<int64_t>(start, 0, n);
    end = std::clamp<int64_t>(end, 0, n);
    return {start, step, start >= end ? 0 : (end - start + step - 1) / step};
  }
  start = std::clamp<int64_t>(start, -1, n - 1);
  end = std::clamp<int64_t>(end, -1, n - 1);
  return {start, step, start <= end ? 0 : (start - end - step - 1) / -step};
}

// The number of elements that a slice takes along a dimension of n.
Dim infer_count(const Dim& n, const Dim& start, const Dim& end, const Dim& step) {
  if (!step.is_known()) return Dim::unknown();
  if (n.is_known() && start.is_known() && end.is_known()) {
    return resolve_range(n.value(), start.value(), end.value(), step.value()).count;
  }
  auto bound = [&](const Dim& at) -> std::optional<Dim> {
    if (at.is_known() && at.value() >= kHuge) return n;
    if (at.is_known() && at.value() <= -kHuge) return Dim(0);
    if (at.is_known() && at.value() < 0) return max_of(n + at, 0);
    if (!is_at_least_zero(at)) return std::nullopt;
    return at == Dim(0) ? at : min_of(at, n);
  };
  if (step.value() > 0) {
    // A start beyond the end leaves nothing anyway, so it need not be clamped.
    const std::optional<Dim> first =
        start.is_known() && start.value() >= 0 && start.value() < kHuge ? start : bound(start);
    const std::optional<Dim> last = bound(end);
    if (!first || !last) return Dim::unknown();
    return ceil_divide(at_least_zero(*last - *first), step);
  }
  const bool is_whole =
      start.is_known() && (start.value() >= kHuge || start.value() == -1) && end.is_known() && end.value() <= -kHuge;
  return is_whole && step.value() > -kHuge ? ceil_divide(n, -step.value()) : Dim::unknown();
}

// The four lists, as far as they are known.
struct Bounds {
  std::vector<Dim> starts, ends, axes, steps;
};

std::optional<Bounds> find_bounds(InferContext& context) {
  Bounds bounds;
  if (context.opset() < 10) {
    if (!context.node().has("starts") || !context.node().has("ends")) {
      context.fail("attributes 'starts' and 'ends' are needed");
    }
    auto get = [&](const char* name) {
      const std::vector<int64_t> values = context.node().get_ints(name);
      return std::vector<Dim>(values.begin(), values.end());
    };
    bounds = {get("starts"), get("ends"), get("axes"), {}};
  } else {
    auto read = [&](int i, std::vector<Dim>& to) {
      if (!context.has_input(i)) return true;
      if (auto ints = find_shape_ints(context, i)) {
        to = std::move(*ints);
        return true;
      }
      // Of what is not known, the length may be.
      if (i == 3 || !context.has_rank(i) || context.rank(i) != 1 || !context.dims(i)[0].is_known()) return false;
      const int64_t length = context.dims(i)[0].value();
      if (i == 2 || length < 0 || length > kMaxRank) return false;
      for (int64_t k = 0; k < length; ++k) to.push_back(Dim::unknown() - Dim(1));  // may be negative
      return true;
    };
    if (!read(1, bounds.starts) || !read(2, bounds.ends) || !read(3, bounds.axes) || !read(4, bounds.steps)) {
      return std::nullopt;
    }
  }
  const size_t num = bounds.starts.size();
  if (bounds.axes.empty() && (context.opset() < 10 ? !context.node().has("axes") : !context.has_input(3))) {
    for (size_t i = 0; i < num; ++i) bounds.axes.push_back(static_cast<int64_t>(i));
  }
  if (bounds.steps.empty() && !context.has_input(4)) bounds.steps.assign(num, 1);
  if (bounds.ends.size() != num || bounds.axes.size() != num || bounds.steps.size() != num) {
    context.fail("has {} starts, {} ends, {} axes and {} steps; they have to be as many", num, bounds.ends.size(),
                 bounds.axes.size(), bounds.steps.size());
  }
  for (const Dim& step : bounds.steps) {
    if (step == Dim(0)) context.fail("a step is 0");
  }
  for (const Dim& axis : bounds.axes) {
    if (!axis.is_known()) return std::nullopt;
  }
  return bounds;
}

void infer_slice(InferContext& context) {
  const auto bounds = find_bounds(context);
  if (!context.has_rank(0)) return context.set_output(0, context.element(0));
  const int rank = context.rank(0);
  if (!bounds) return context.set_output(0, context.element(0), unknown_dims(rank));
  Dims dims = context.dims(0);
  std::vector<bool> is_sliced(dims.size());
  for (size_t i = 0; i < bounds->axes.size(); ++i) {
    const auto axis = static_cast<size_t>(context.axis(bounds->axes[i].value(), rank));
    if (is_sliced[axis]) context.fail("axis {} is sliced twice", axis);
    is_sliced[axis] = true;
    dims[axis] = infer_count(dims[axis], bounds->starts[i], bounds->ends[i], bounds->steps[i]);
  }
  if (const auto ints = find_shape_ints(context, 0); ints && rank == 1) {
    const auto length = static_cast<int64_t>(ints->size());
    if (bounds->axes.empty()) {
      context.set_ints(0, *ints);
    } else if (bounds->starts[0].is_known() && bounds->ends[0].is_known() && bounds->steps[0].is_known()) {
      const Range range =
          resolve_range(length, bounds->starts[0].value(), bounds->ends[0].value(), bounds->steps[0].value());
      std::vector<Dim> taken;
      for (int64_t k = 0; k < range.count; ++k) {
        taken.push_back((*ints)[static_cast<size_t>(range.start + k * range.step)]);
      }
      context.set_ints(0, std::move(taken));
    }
  }
  context.set_output(0, context.element(0), std::move(dims));
}

std::vector<int64_t> get_bound(const RunContext& context, const char* attribute, int input) {
  if (context.opset() < 10) return context.node().get_ints(attribute);
  return context.has_input(input) ? to_ints(context.input(input)) : std::vector<int64_t>();
}

void run_slice(RunContext& context) {
  const Tensor& input = context.input(0);
  const Shape shape = get_output_shape(context, 0), strides = strides_of(input.shape());
  const std::vector<int64_t> starts = get_bound(context, "starts", 1), ends = get_bound(context, "ends", 2);
  const std::vector<int64_t> axes = get_bound(context, "axes", 3), steps = get_bound(context, "steps", 4);
  std::vector<Range> ranges;
  for (int i = 0; i < input.rank(); ++i) ranges.push_back({0, 1, input.dim(i)});
  for (size_t i = 0; i < starts.size(); ++i) {
    const int axis = axes.empty() ? static_cast<int>(i) : context.axis(axes[i], input.rank());
    ranges[static_cast<size_t>(axis)] =
        resolve_range(input.dim(axis), starts[i], ends[i], steps.empty() ? 1 : steps[i]);
  }
  if (checked_count(shape) == 0) {
    make_output(context, 0);
    return;
  }
  int64_t begin = 0;
  bool is_run = true, is_single = true;  // so far: one run of the input; one element a dimension
  std::vector<MoveAxis> moves;
  int64_t step = shape.count();
  for (int i = 0; i < shape.rank(); ++i) {
    const Range& range = ranges[static_cast<size_t>(i)];
    begin += range.start * strides[i];
    is_run &= range.count == 1 || ((range.count == input.dim(i) || is_single) && range.step == 1);
    is_run &= is_single || range.count == input.dim(i);
    is_single &= range.count == 1;
    step /= range.count;
    moves.push_back({range.count, strides[i] * range.step, step});
  }
  if (is_run) return context.set(0, input.slice(begin, shape));
  move_elements(input.type(), element_at(input, begin), make_output(context, 0).raw(), std::move(moves),
                context.pool());
}

constexpr OpInfo kOps[] = {
    {"", "Slice", 1, 0, infer_slice, run_slice, OpInfo::kMakesOutputs},
};

}  // namespace

std::span<const OpInfo> slice_ops() { return kOps; }

}  // namespace sluice::graph::ops
